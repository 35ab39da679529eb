"""Tar shards: images read in place, classes from ``.cls``, ``.json`` or folders, an index kept outside the data."""

import gzip
import io
import json
import os
import pickle
import tarfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source, shards
from vitctl.errors import DataError, SettingError
from vitctl.primitives.cache import CacheWarning, keep, recall

BLOCK = 512  # bytes; headers and contents of a tar file start at multiples of it


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of vitctl's cache, which is not there yet."""
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SETTLED_S = 0.03  # after that a file counts as unchanged by its times


def _png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "PNG")
    return file.getvalue()


def _tar(
    path: Path, members: dict[str, bytes | str] | list[tuple[str, bytes]], *, form: int = tarfile.GNU_FORMAT
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content in members.items() if isinstance(members, dict) else members:
            content = content.encode() if isinstance(content, str) else content
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def _sample(number: int, label: str, *, grey: int | None = None) -> dict[str, bytes | str]:
    return {f"{number:04}.png": _png(number if grey is None else grey), f"{number:04}.cls": label}


def _open(path: Path | str, **options: str) -> Source:
    return open_source(str(path), SourceOptions(**options))


def _all(path: Path | str, **options: str) -> Split:
    return _open(path, **options).split("all")


def _labels(split: Split) -> list[str]:
    return [split.class_names[label] for label in split.labels]


def _greys(split: Split) -> list[int]:
    return [int(np.asarray(split.read(position))[0, 0, 0]) for position in range(len(split))]


def _snapshot(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


# --- which shards


def test_a_single_shard(tmp_path: Path) -> None:
    path = _tar(tmp_path / "pets.tar", {**_sample(0, "dog"), **_sample(1, "cat"), **_sample(2, "dog")})
    source = _open(path)
    split = source.split("all")
    assert (source.spec, source.description, list(source.splits)) == (str(path), "1 tar shard", ["all"])
    assert split.class_names == ("cat", "dog")
    assert split.labels.tolist() == [1, 0, 1]
    assert split.image_names() == [f"{path}/{number:04}.png" for number in range(3)]
    assert _greys(split) == [0, 1, 2]


@pytest.fixture
def four_shards(tmp_path: Path) -> Path:
    """A folder with train-8.tar to train-11.tar, one image each, of the grey in the name."""
    for number in (11, 8, 10, 9):
        _tar(tmp_path / "shards" / f"train-{number}.tar", _sample(number, f"class {number}"))
    (tmp_path / "shards" / "README.md").write_text("not a shard")
    return tmp_path / "shards"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("", [8, 9, 10, 11]),
        ("train-*.tar", [8, 9, 10, 11]),
        ("train-?.tar", [8, 9]),
        ("train-1[01].tar", [10, 11]),
        ("train-{9..11}.tar", [9, 10, 11]),
        ("train-{10..10}.tar", [10]),
    ],
)
def test_several_shards_in_natural_order(four_shards: Path, spec: str, expected: list[int]) -> None:
    source = _open(four_shards / spec)
    assert _greys(source.split("all")) == expected
    assert source.split("all").class_names == tuple(f"class {number}" for number in expected)
    assert source.description == f"{len(expected)} tar shard{'s' * (len(expected) > 1)}"
    assert _greys(_open(source.spec).split("all")) == expected  # as a run folder would open it again


def test_a_range_counts_with_leading_zeros(tmp_path: Path) -> None:
    for number in range(3):
        _tar(tmp_path / f"pets-{number:03}.tar", _sample(number, "a"))
    assert _greys(_all(tmp_path / "pets-{000..002}.tar")) == [0, 1, 2]
    with pytest.raises(DataError, match=r"pets-003\.tar is not there; .*\{000\.\.004\}\.tar names 5 shards"):
        _open(tmp_path / "pets-{000..004}.tar")


@pytest.mark.parametrize("last", ["1000001", "99999999999", "9" * 100])
def test_a_range_of_more_shards_than_anyone_has(tmp_path: Path, last: str) -> None:
    with pytest.raises(DataError, match=r"\{1\.\.\d+\}\.tar names more than 1,000,000 shards; .*Correct the range\.$"):
        _open(tmp_path / f"pets-{{1..{last}}}.tar")


def test_a_range_may_stand_below_a_folder_with_glob_characters(tmp_path: Path) -> None:
    _tar(tmp_path / "pets [v1]" / "a-0.tar", _sample(3, "a"))
    assert _greys(_all(tmp_path / "pets [v1]" / "a-{0..0}.tar")) == [3]
    assert _greys(_all(tmp_path / "pets [v1]" / "a-0.tar")) == [3]
    assert _greys(_all(tmp_path / "pets [v1]")) == [3]


@pytest.mark.parametrize("spec", ["test-*.tar", "train-{9..8}.tar"])
def test_no_shard_of_that_name_is_an_error(four_shards: Path, spec: str) -> None:
    with pytest.raises(DataError, match=r"There is no file like .*; expected tar shards"):
        _open(four_shards / spec)


@pytest.mark.parametrize("spec", ["", "train-*.tar"])
def test_a_folder_called_like_a_shard_is_none(four_shards: Path, spec: str) -> None:
    (four_shards / "train-12.tar").mkdir()
    assert _greys(_all(four_shards / spec)) == [8, 9, 10, 11]


def test_relative_specs(four_shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(four_shards.parent)
    for spec in ("shards", "shards/train-*.tar", "shards/train-{8..11}.tar"):
        source = _open(spec)
        assert source.spec == str(four_shards.parent / spec)
        assert _greys(source.split("all")) == [8, 9, 10, 11]


def test_class_folders_beside_a_tar_file_are_class_folders(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "pets" / name).mkdir(parents=True)
        (tmp_path / "pets" / name / "0.png").write_bytes(_png(1))
    _tar(tmp_path / "pets" / "backup.tar", {"0.png": _png(1)})
    assert not shards.recognises(str(tmp_path / "pets"))
    assert _all(tmp_path / "pets").class_names == ("cat", "dog")


def test_a_hidden_tar_file_makes_no_folder_of_shards(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(_png(1))
    (tmp_path / "._pets.tar").write_bytes(b"resource fork")
    assert _all(tmp_path).class_names == ("cat",)


def test_a_folder_called_tar_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "pets.tar" / "cat").mkdir(parents=True)
    (tmp_path / "pets.tar" / "cat" / "0.png").write_bytes(_png(1))
    assert _all(tmp_path / "pets.tar").class_names == ("cat",)


# --- splits


def test_names_of_shards_make_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("test", "train-0", "pets_validation", "train-1", "PETS-Dev-0")):
        _tar(tmp_path / f"{name}.tar", _sample(number, "a"))
    source = _open(tmp_path)
    assert list(source.splits) == ["train", "val", "test"]
    assert {name: _greys(split) for name, split in source.splits.items()} == {
        "train": [1, 3],
        "val": [4, 2],
        "test": [0],
    }
    assert [split.name for split in source.splits.values()] == ["train", "val", "test"]


def test_words_that_only_begin_like_a_split_are_none(tmp_path: Path) -> None:
    for number, name in enumerate(("contest", "trainers", "value", "device")):
        _tar(tmp_path / f"{name}.tar", _sample(number, "a"))
    assert list(_open(tmp_path).splits) == ["all"]


def test_a_shard_of_no_split_among_shards_of_splits_is_an_error(tmp_path: Path) -> None:
    for name in ("train", "test", "extra"):
        _tar(tmp_path / f"{name}.tar", _sample(0, "a"))
    with pytest.raises(
        DataError, match=r"mixes shards of splits with extra\.tar, whose name has neither train, val nor"
    ):
        _open(tmp_path)


def test_training_never_opens_the_test_shards(tmp_path: Path) -> None:
    _tar(tmp_path / "train.tar", _sample(0, "a"))
    (tmp_path / "test.tar").write_bytes(b"broken")
    source = _open(tmp_path)
    assert _greys(source.training_split()) == [0]
    with pytest.raises(DataError, match=r"test\.tar cannot be read as a tar file"):
        source.split("test")


# --- classes


def test_cls_members_hold_texts_or_integers(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {**_sample(0, "10"), **_sample(1, "2\n"), **_sample(2, " golden retriever \r\n")})
    split = _all(path)
    assert _labels(split) == ["10", "2", "golden retriever"]
    assert split.class_names == ("2", "10", "golden retriever")


def test_a_byte_order_mark_is_no_part_of_a_class(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {**_sample(0, "cat"), "1.png": _png(1), "1.cls": b"\xef\xbb\xbfcat"})
    assert _all(path).class_names == ("cat",)


def test_json_members_hold_the_label_in_a_field(tmp_path: Path) -> None:
    fields = [{"label": "cat", "animal": 10, "id": 1}, {"label": "dog", "animal": 2, "id": 2}]
    members = {f"{n}.jpg": _png(n) for n in range(2)} | {f"{n}.json": json.dumps(one) for n, one in enumerate(fields)}
    path = _tar(tmp_path / "a.tar", members)
    assert _labels(_all(path)) == ["cat", "dog"]
    assert _labels(_all(path, label_column="animal")) == ["10", "2"]
    assert _all(path, label_column="animal").class_names == ("2", "10")
    with pytest.raises(
        DataError, match=r"0\.jpg in .*a\.tar has no field 'breed' \(--label-column\); it has: label, an"
    ):
        _all(path, label_column="breed")


def test_json_that_is_the_label_itself(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": "7", "1.png": _png(1), "1.json": '"cat"'})
    assert _labels(_all(path)) == ["7", "cat"]


def test_cls_comes_before_json(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": '{"label": "x", "id": 3}', "0.cls": "cat"})
    assert _labels(_all(path)) == ["cat"]
    assert _labels(_all(path, label_column="label")) == ["x"]


def test_two_label_fields_are_an_error_until_one_is_chosen(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": '{"label": "x", "category": "y"}'})
    with pytest.raises(DataError, match="more than one label field: category, label. Choose with --label-column"):
        _all(path)
    assert _labels(_all(path, label_column="category")) == ["y"]


@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_class_folders_in_a_shard(tmp_path: Path, form: int) -> None:
    long = "é" * 120  # longer than a header holds
    members = {"10/0.png": _png(0), "./2/1.png": _png(1), f"{long}/2.png": _png(2), "pets/2/3.png": _png(3)}
    split = _all(_tar(tmp_path / "a.tar", members, form=form))
    assert split.class_names == ("2", "10", "pets", long)
    assert _labels(split) == ["10", "2", long, "pets"]
    assert _greys(split) == [0, 1, 2, 3]


@pytest.mark.parametrize("prefix", ["", "./", "pets/", "all/pets/"])
def test_the_class_is_the_topmost_folder_that_tells_images_apart(tmp_path: Path, prefix: str) -> None:
    names = ("cat/2023/1.png", "cat/2024/2.png", "dog/2023/3.png", "dog/4.png")
    split = _all(_tar(tmp_path / "a.tar", {prefix + name: _png(row) for row, name in enumerate(names)}))
    assert _labels(split) == ["cat", "cat", "dog", "dog"]


@pytest.mark.parametrize("names", [("train", "test"), ("Training", "Testing")])
def test_splits_as_folders_in_a_shard_are_an_error(tmp_path: Path, names: tuple[str, ...]) -> None:
    members = {f"pets/{name}/cat/1.png": _png(row) for row, name in enumerate(names)}
    listed = ", ".join(sorted(names))
    with pytest.raises(DataError, match=rf"holds the splits {listed} as folders; expected one split per shard"):
        _all(_tar(tmp_path / "a.tar", members))


def test_folders_of_shards_named_by_split(tmp_path: Path) -> None:
    for name in ("train", "val"):
        (tmp_path / name).mkdir()
        _tar(tmp_path / name / "000.tar", {"cat/1.png": _png(1)})
    assert list(_open(tmp_path / "*" / "*.tar").splits) == ["train", "val"]


def test_a_pattern_in_a_folder_whose_name_looks_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "d[x]").mkdir()
    _tar(tmp_path / "d[x]" / "n-1.tar", {"cat/1.png": _png(7)})
    monkeypatch.chdir(tmp_path / "d[x]")
    source = _open("n-*.tar")
    monkeypatch.chdir(tmp_path)
    assert _greys(_all(source.spec)) == [7]  # the spec in config.json means the same from everywhere


def test_folder_entries_are_no_images(tmp_path: Path) -> None:
    (tmp_path / "data" / "cat.png").mkdir(parents=True)  # a class of that name
    (tmp_path / "data" / "cat.png" / "0.png").write_bytes(_png(1))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        archive.add(tmp_path / "data", arcname=".")
    assert _labels(_all(tmp_path / "a.tar")) == ["cat.png"]


def test_a_hard_link_in_a_shard_is_an_image_too(tmp_path: Path) -> None:
    for name in ("cat/0.png", "dog/1.png"):
        (tmp_path / "data" / name).parent.mkdir(parents=True)
    (tmp_path / "data/cat/0.png").write_bytes(_png(5))
    os.link(tmp_path / "data/cat/0.png", tmp_path / "data/dog/1.png")
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in ("cat/0.png", "dog/1.png"):
            archive.add(tmp_path / "data" / name, arcname=name)
        assert archive.getmember("dog/1.png").islnk()
    split = _all(tmp_path / "a.tar")
    assert _labels(split) == ["cat", "dog"]
    assert _greys(split) == [5, 5]


def test_an_image_without_a_class_is_an_error(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {**_sample(0, "cat"), "0001.png": _png(1)})
    with pytest.raises(DataError, match=r"0001\.png in .*a\.tar has no field 'cls'; it has: none"):
        _all(path)
    path = _tar(tmp_path / "b.tar", {"0.png": _png(0)})
    with pytest.raises(
        DataError, match=r"b\.tar holds no class for 0\.png; expected a member 0\.cls, a field 'label' in"
    ):
        _all(path)


def test_two_images_of_one_sample_are_an_error(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"0.jpg": _png(0), "0.seg.png": _png(1), "0.cls": "cat"})
    with pytest.raises(DataError, match=r"two images of one sample, 0\.jpg and 0\.seg\.png; expected one"):
        _all(path)


def test_images_of_one_stem_in_class_folders_are_two(tmp_path: Path) -> None:
    assert _greys(_all(_tar(tmp_path / "a.tar", {"cat/0.jpg": _png(0), "cat/0.png": _png(1)}))) == [0, 1]


def test_of_members_with_one_name_the_last_counts(tmp_path: Path) -> None:
    members = [("0.png", _png(1)), ("0.cls", b"old"), ("0.png", _png(2)), ("0.cls", b"new")]  # as tar --append makes
    split = _all(_tar(tmp_path / "a.tar", members))
    assert _labels(split) == ["new"]
    assert _greys(split) == [2]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        (
            '{"label": ["cat", "dog"]}',
            r"is multi-label: column 'label' of 0\.png holds \['cat', 'dog'\]\. vitctl needs exactly one",
        ),
        ('["cat", "dog"]', "is multi-label"),
        ('{"label": null}', r"a\.tar has 1 of 1 rows without a label in column 'label', 0\.png first"),
        ('{"label": ""}', r"1 of 1 rows without a label in column 'label', 0\.png first"),
        ('{"label": true}', "holds bool values in column 'label', True first; expected class names or integers"),
        ('{"label": 1.5}', r"holds float values in column 'label', 1\.5 first; expected class names or integers"),
        ("{", r"0\.json in .*a\.tar cannot be read \(.*\)"),
        ("[" * 100_000, r"0\.json in .*a\.tar cannot be read"),
    ],
    ids=["two", "list", "null", "empty", "bool", "float", "no JSON", "deep"],
)
def test_json_without_a_single_class_is_an_error(tmp_path: Path, fields: str, sentence: str) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": fields})
    with pytest.raises(DataError, match=sentence):
        _all(path)


@pytest.mark.parametrize("content", [b" \n", b"caf\xe9"], ids=["blank", "latin-1"])
def test_cls_without_a_class_is_an_error(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(
        DataError, match=r"without a label in column 'cls', 0\.png|0\.cls in .* cannot be read .*expected UTF-8 text"
    ):
        _all(_tar(tmp_path / "a.tar", {"0.png": _png(0), "0.cls": content}))


def test_json_fields_that_are_not_asked_for_may_hold_anything(tmp_path: Path) -> None:
    fields = '{"label": "cat", "score": NaN, "boxes": [[1, 2]], "by": null, "odd": "\\ud800"}'
    assert _labels(_all(_tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": fields}))) == ["cat"]


def test_the_group_column_groups(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{n}.png": _png(n) for n in range(3)}
    members |= {f"{n}.json": json.dumps({"label": "a", "patient": who}) for n, who in enumerate(("p", 7, "p"))}
    path = _tar(tmp_path / "a.tar", members)
    groups = _all(path, group_column="patient").groups
    assert groups is not None
    assert groups.tolist() == ["p", "7", "p"]
    assert _all(path).groups is None
    with pytest.raises(
        DataError, match=r"0\.png in .* has no field 'doctor' \(--group-column\); it has: label, patient"
    ):
        _all(path, group_column="doctor")


def test_a_sample_without_a_group_is_an_error_that_speaks_of_groups(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {f"{n}.png": _png(n) for n in range(3)}
    members |= {f"{n}.json": json.dumps({"label": "a", "age": age}) for n, age in enumerate((0.5, None, ""))}
    path = _tar(tmp_path / "a.tar", members)
    with pytest.raises(DataError, match=r"2 of 3 rows without a group in column 'age', 1\.png first.*group of its own"):
        _all(path, group_column="age")
    members |= {f"{n}.json": json.dumps({"label": "a", "age": age}) for n, age in enumerate((0.5, 1.5, 0.5))}
    groups = _all(_tar(tmp_path / "b.tar", members), group_column="age").groups
    assert groups is not None
    assert groups.tolist() == ["0.5", "1.5", "0.5"]  # a fraction is no class, but a group


def test_image_column_means_nothing_to_shards(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "a"))
    with pytest.raises(SettingError, match="--image-column is given, but .* has no use for it"):
        _open(path, image_column="png")


def test_hidden_members_and_litter_are_left_alone(tmp_path: Path) -> None:
    members: dict[str, bytes | str] = {
        "cat/._0.png": b"resource fork", "__MACOSX/cat/0.png": b"x", ".thumbs/cat/0.png": b"x", "cat/0.png": _png(9),
        "cat/._0.cls": b"\xff\xff", "cat/._0.json": b"\xff", "notes.txt": "hello", "cat/LICENCE": "",
    }  # fmt: skip
    split = _all(_tar(tmp_path / "a.tar", members))
    assert split.image_names() == [f"{tmp_path}/a.tar/cat/0.png"]
    assert _labels(split) == ["cat"]


# --- files that are not right


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz", "a.tar.bz2", "a.tar.xz", "a.tar.zst", "A.TAR.GZ"])
def test_a_compressed_shard_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(
        DataError, match=f"{name} is compressed, so its images cannot be read at random; decompress it to"
    ):
        _open(tmp_path / name)


def test_a_compressed_shard_under_a_plain_name_is_an_error(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "a"))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar file .*expected an uncompressed one"):
        _all(path)


@pytest.mark.parametrize("content", [b"", b"hello" * 999, _png(0)], ids=["empty", "text", "png"])
def test_what_is_no_tar_file_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar cannot be read as a tar file"):
        _all(tmp_path / "a.tar")


def test_a_shard_without_images_is_an_error(tmp_path: Path) -> None:
    for members in ({}, {"0.cls": "cat"}):
        with pytest.raises(DataError, match=r"a\.tar holds no image; expected members that end in \.apng "):
            _all(_tar(tmp_path / "a.tar", members))


def test_a_shard_that_went_away_is_an_error(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "a"))
    source = _open(path)
    path.unlink()
    with pytest.raises(DataError, match=r"a\.tar"):
        source.split("all")


def _whole(tmp_path: Path) -> tuple[Path, bytes, list[tarfile.TarInfo]]:
    """Return a shard of three class folders with an image each, its bytes and its members."""
    path = _tar(tmp_path / "a.tar", {f"{name}/0.png": _png(number) for number, name in enumerate("abc")})
    with tarfile.open(path) as archive:
        return path, path.read_bytes(), archive.getmembers()


def test_a_shard_cut_within_an_image_is_an_error(tmp_path: Path) -> None:
    path, content, members = _whole(tmp_path)
    for info in members:
        path.write_bytes(content[: info.offset_data + 10])
        with pytest.raises(DataError, match=rf"a\.tar (is truncated: it ends within {info.name}|cannot be read)"):
            _all(path)


def test_a_shard_cut_within_a_header_is_an_error(tmp_path: Path) -> None:
    path, content, members = _whole(tmp_path)
    for info in members:
        path.write_bytes(content[: info.offset + 100])
        with pytest.raises(DataError, match=r"a\.tar (is damaged or truncated|cannot be read as a tar file)"):
            _all(path)


def test_a_shard_with_a_damaged_header_is_an_error(tmp_path: Path) -> None:
    path, content, members = _whole(tmp_path)
    for info in members:
        damaged = bytearray(content)
        damaged[info.offset + 2] ^= 0xFF  # a letter of the name; the header's checksum tells
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"a\.tar (is damaged|cannot be read)"):
            _all(path)


def test_an_image_that_is_none_is_found_when_it_is_opened(tmp_path: Path) -> None:
    split = _all(_tar(tmp_path / "a.tar", {"cat/0.png": _png(1), "cat/1.png": "junk", "cat/2.png": b""}))
    assert len(split) == 3
    for position in (1, 2):
        with pytest.raises(OSError, match="cannot identify image file"):
            split.read(position)


# --- reading


@pytest.fixture
def noise(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    """Two shards with images of many sizes, and the pixels of each by ``class/number``."""
    rng = np.random.default_rng(3)
    pixels = {
        f"{label}/{number}": rng.integers(0, 256, (*rng.integers(1, 40, 2), 3), dtype=np.uint8)
        for number in range(12)
        for label in "abc"
    }
    for shard in range(2):
        members: dict[str, bytes | str] = {}
        for name, one in list(pixels.items())[shard::2]:
            file = io.BytesIO()
            Image.fromarray(one).save(file, "PNG")
            members[f"{name}.png"] = file.getvalue()
        _tar(tmp_path / "shards" / f"{shard}.tar", members)
    return tmp_path / "shards", pixels


def test_images_read_in_any_order_are_the_originals(noise: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, pixels = noise
    split = _all(folder)
    assert len(split) == 36
    keys = ["/".join(Path(name).with_suffix("").parts[-2:]) for name in split.image_names()]
    assert sorted(keys) == sorted(pixels)
    assert _labels(split) == [key[0] for key in keys]
    for position in np.random.default_rng(0).permutation(36):
        np.testing.assert_array_equal(np.asarray(split.read(position)), pixels[keys[position]])


def test_splits_pickle_without_their_images(noise: tuple[Path, dict[str, np.ndarray]]) -> None:
    folder, pixels = noise
    split = _all(folder)
    pickled = pickle.dumps(split)
    assert len(pickled) < 10_000 < sum(path.stat().st_size for path in folder.iterdir())
    again = pickle.loads(pickled)
    assert again.image_names() == split.image_names()
    for position in (35, 0, 17):
        np.testing.assert_array_equal(np.asarray(again.read(position)), np.asarray(split.read(position)))


def test_stamps_follow_their_shard(tmp_path: Path) -> None:
    for number in range(2):
        _tar(tmp_path / "shards" / f"{number}.tar", {**_sample(0, "a"), **_sample(1, "a")})
        os.utime(tmp_path / "shards" / f"{number}.tar", (1_000_000_000, 1_000_000_000 + number))
    time.sleep(SETTLED_S)
    stamps = [_all(tmp_path / "shards").images.stamp(row) for row in range(4)]
    assert stamps[0] == stamps[1] != stamps[2] == stamps[3]
    os.utime(tmp_path / "shards" / "1.tar", (1_000_000_000, 1_500_000_000))
    after = [_all(tmp_path / "shards").images.stamp(row) for row in range(4)]
    assert after[:2] == stamps[:2]
    assert after[3] != stamps[3]


# --- the index


def _forbid_tarfile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tarfile, "open", lambda *args, **kwargs: pytest.fail("a tar file was read"))


def test_a_shard_is_indexed_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _tar(tmp_path / "data" / "a.tar", {**_sample(0, "dog"), **_sample(1, "cat")})
    before = _snapshot(tmp_path / "data")
    time.sleep(SETTLED_S)
    first = _all(path)
    assert len(list((cache / "tar").iterdir())) == 1
    _forbid_tarfile(monkeypatch)
    second = _all(path)
    assert second.image_names() == first.image_names()
    assert _labels(second) == ["dog", "cat"]
    assert _greys(second) == [0, 1]
    assert _snapshot(tmp_path / "data") == before
    other = path.rename(path.with_name("b.tar"))
    with pytest.raises(pytest.fail.Exception, match="a tar file was read"):  # the test can fail
        _all(other)


def test_the_index_is_kept_in_the_home_folder_where_nothing_else_is_said(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITCTL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    _all(_tar(tmp_path / "a.tar", _sample(0, "a")))
    assert [path.name[:6] for path in (Path.home() / ".cache" / "vitctl" / "tar").iterdir()] == ["a.tar-"]
    assert not cache.exists()


def test_indices_of_earlier_versions_are_cleared(tmp_path: Path, cache: Path) -> None:
    old, link = "gone.tar-0123456789abcdef.json", "b.tar-0123456789abcdef.json"
    stay = {"0123456789abcdef.json", "a.tar-0123456789ABCDEF.json", "notes.json", link}
    (cache / "tar").mkdir(parents=True)
    for name in (old, *(stay - {link})):
        (cache / "tar" / name).write_text("{}")
    (cache / "tar" / link).symlink_to(tmp_path)
    _all(_tar(tmp_path / "a.tar", _sample(0, "a")))
    left = {path.name for path in (cache / "tar").iterdir()}
    assert left >= stay
    assert old not in left
    assert len(left - stay) == 1


def test_the_index_keeps_the_fields(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0), "0.json": '{"label": "é", "animal": 10, "patient": "p"}'})
    time.sleep(SETTLED_S)
    _all(path)
    _forbid_tarfile(monkeypatch)
    split = _all(path, label_column="animal", group_column="patient")
    assert _labels(split) == ["10"]
    assert split.groups is not None
    assert split.groups.tolist() == ["p"]
    assert _labels(_all(path, label_column="label")) == ["é"]


def test_a_changed_shard_is_indexed_again(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "cat"))
    assert _labels(_all(path)) == ["cat"]
    _tar(path, {**_sample(0, "dog"), **_sample(1, "dog")})
    assert _labels(_all(path)) == ["dog", "dog"]
    _tar(path, {**_sample(0, "cow", grey=9), **_sample(1, "cat")})  # of the same size
    os.utime(path, (1_500_000_000, 1_500_000_000))
    assert _labels(_all(path)) == ["cow", "cat"]
    assert _greys(_all(path)) == [9, 1]


def test_shards_of_one_name_in_two_folders_have_two_indices(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        os.utime(_tar(tmp_path / name / "a.tar", _sample(0, name)), (1_500_000_000, 1_500_000_000))
    for _ in range(2):
        assert [_labels(_all(tmp_path / name / "a.tar")) for name in ("cat", "dog")] == [["cat"], ["dog"]]


def _damages(document: dict[str, Any]) -> list[bytes]:
    (name, start, size, fields), stamp = document["members"][0], document["stamp"]
    rows = [[5, start, size, fields], [name, "0", size, fields], [name, start, -1, fields], [name, start, size, 5]]
    wrong: list[Any] = [
        {**document, "members": [[1]]},
        {**document, "members": 3},
        {"stamp": stamp},
        [],
        None,
        "a",
    ]
    wrong += [{"stamp": stamp, "members": [row]} for row in rows]
    return [b"", b"{", b"\xff\xfe", b"[" * 100_000, *(json.dumps(one).encode() for one in wrong)]


def test_a_damaged_index_is_made_anew(tmp_path: Path, cache: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "cat"))
    time.sleep(SETTLED_S)
    _all(path)
    (store,) = (cache / "tar").iterdir()
    whole = store.read_bytes()
    text = recall(store) or ""
    for content in _damages(json.loads(text)):
        store.write_bytes(content)
        with pytest.warns(CacheWarning, match="tar is damaged"):
            assert _labels(_all(path)) == ["cat"]
        assert store.read_bytes() == whole
        keep(store, content.decode(errors="replace"))  # which verifies, and is something else
        assert _labels(_all(path)) == ["cat"]
        assert store.read_bytes() == whole


def test_an_index_with_one_letter_changed_is_made_anew(tmp_path: Path, cache: Path) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "cat"))
    time.sleep(SETTLED_S)
    _all(path)
    (store,) = (cache / "tar").iterdir()
    store.write_bytes(store.read_bytes().replace(b"cat", b"cow"))
    with pytest.warns(CacheWarning):
        assert _labels(_all(path)) == ["cat"]


def test_a_cache_that_cannot_be_written_costs_only_time(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _tar(tmp_path / "a.tar", _sample(0, "cat"))
    cache.write_text("a file, not a folder")
    for _ in range(2):
        assert _labels(_all(path)) == ["cat"]
    assert cache.read_text() == "a file, not a folder"


def test_an_error_is_told_every_time(tmp_path: Path) -> None:
    path = _tar(tmp_path / "a.tar", {"0.png": _png(0)})
    for _ in range(2):
        with pytest.raises(DataError, match="holds no class for"):
            _all(path)
