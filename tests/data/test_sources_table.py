"""Tables of images: every text stays what it is, paths stay below their root, wrong tables say why."""

import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import Image

from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source, table
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError, SettingError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of vitctl's cache, which is not there yet."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets cache")
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with 0.png..3.png; image n is of grey 10 n."""
    folder = tmp_path / "pets"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.png").write_bytes(_png(10 * number))
    return folder


def _png(grey: int, *, size: tuple[int, int] = (3, 2)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, grey).save(file, "PNG")
    return file.getvalue()


def _text(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def _parquet(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def _open(path: Path, **options: str) -> Source:
    return open_source(str(path), SourceOptions(**options))


def _labels(split: Split) -> list[str]:
    return [split.class_names[label] for label in split.labels]


def _greys(split: Split) -> list[int]:
    """Return the grey of each image, which must be of one grey."""
    values = [np.unique(np.asarray(split.read(position))) for position in range(len(split))]
    assert all(len(value) == 1 for value in values)
    return [int(value[0]) for value in values]


def _write_csv(path: Path) -> Path:
    return _text(path.with_suffix(".csv"), "image,label", "2.png,cat", "0.png,dog", "1.png,cat")


def _write_tsv(path: Path) -> Path:
    return _text(path.with_suffix(".tsv"), "image\tlabel", "2.png\tcat", "0.png\tdog", "1.png\tcat")


def _write_semicolons(path: Path) -> Path:
    return _text(path.with_suffix(".csv"), "image;label", "2.png;cat", "0.png;dog", "1.png;cat")


def _write_jsonl(path: Path) -> Path:
    rows = [{"image": f"{n}.png", "label": label} for n, label in ((2, "cat"), (0, "dog"), (1, "cat"))]
    return _text(path.with_suffix(".jsonl"), *map(json.dumps, rows))


def _write_paths_parquet(path: Path) -> Path:
    return _parquet(path.with_suffix(".parquet"), image=["2.png", "0.png", "1.png"], label=["cat", "dog", "cat"])


def _write_bytes_parquet(path: Path) -> Path:
    return _parquet(path.with_suffix(".parquet"), image=[_png(20), _png(0), _png(10)], label=["cat", "dog", "cat"])


def _write_large_types_parquet(path: Path) -> Path:
    images = pa.array([_png(20), _png(0), _png(10)], pa.large_binary())
    return _parquet(
        path.with_suffix(".parquet"), image=images, label=pa.array(["cat", "dog", "cat"], pa.large_string())
    )


def _write_categories_parquet(path: Path) -> Path:
    labels = pa.array(["cat", "dog", "cat"]).dictionary_encode()
    return _parquet(path.with_suffix(".parquet"), image=["2.png", "0.png", "1.png"], label=labels)


def _write_struct_parquet(path: Path) -> Path:
    images = [{"bytes": _png(grey), "path": f"{grey}.png"} for grey in (20, 0, 10)]
    return _parquet(path.with_suffix(".parquet"), image=images, label=["cat", "dog", "cat"])


def _write_datasets_parquet(path: Path) -> Path:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["dog", "cat"])})
    images = [{"bytes": _png(grey), "path": None} for grey in (20, 0, 10)]
    dataset = Dataset.from_dict({"image": images, "label": [1, 0, 1]}, features=features)
    dataset.to_parquet(str(path.with_suffix(".parquet")))
    return path.with_suffix(".parquet")


WITH_PATHS = [_write_csv, _write_tsv, _write_semicolons, _write_jsonl, _write_paths_parquet, _write_categories_parquet]
WITH_BYTES = [_write_bytes_parquet, _write_large_types_parquet, _write_struct_parquet, _write_datasets_parquet]


@pytest.mark.parametrize("write", [*WITH_PATHS, *WITH_BYTES], ids=lambda write: write.__name__)
def test_rows_are_images_with_labels_in_the_order_of_the_table(folder: Path, write: Callable[[Path], Path]) -> None:
    path = write(folder / "table")
    source = _open(path)
    split = source.splits["all"]
    assert list(source.splits) == ["all"]
    assert split.class_names == ("cat", "dog")
    assert split.labels.tolist() == [0, 1, 0]
    assert _greys(split) == [20, 0, 10]
    assert source.spec == str(path)
    assert source.options == SourceOptions(None, "image", "label")
    assert source.description.endswith("table: images in column 'image', classes in 'label'")
    expected = [f"{folder}/{n}.png" for n in (2, 0, 1)] if write in WITH_PATHS else [f"{path}/{n}" for n in range(3)]
    assert split.image_names() == expected
    assert source.notes == ()


@pytest.mark.parametrize("write", [_write_csv, _write_jsonl, *WITH_BYTES], ids=lambda write: write.__name__)
def test_splits_pickle_for_worker_processes(folder: Path, write: Callable[[Path], Path]) -> None:
    split = pickle.loads(pickle.dumps(_open(write(folder / "table")).splits["all"]))
    assert _greys(split) == [20, 0, 10]
    assert _labels(split) == ["cat", "dog", "cat"]


def test_a_pickled_split_does_not_carry_its_images(folder: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (8, 100, 100, 3), dtype=np.uint8)
    files = [io.BytesIO() for _ in noise]
    for pixels, file in zip(noise, files, strict=True):
        Image.fromarray(pixels).save(file, "PNG")
    split = _open(_parquet(folder / "t.parquet", image=[file.getvalue() for file in files], label=["a"] * 8)).split(
        "all"
    )
    assert len(pickle.dumps(split)) < 20_000 < 240_000 < sum(len(file.getvalue()) for file in files)
    np.testing.assert_array_equal(np.asarray(split.read(5)), noise[5])


@pytest.mark.parametrize("write", [*WITH_PATHS, *WITH_BYTES], ids=lambda write: write.__name__)
def test_nothing_is_written_beside_the_table(folder: Path, write: Callable[[Path], Path]) -> None:
    path = write(folder / "table")
    before = {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()}
    assert len(_open(path).splits["all"]) == 3
    assert {one: (one.read_bytes(), one.stat().st_mtime_ns) for one in folder.iterdir()} == before


def test_tables_are_recognised_by_their_ending(folder: Path) -> None:
    for name in ("a.csv", "a.CSV", "a.tsv", "a.jsonl", "a.ndjson", "a.Parquet"):
        (folder / name).write_text("")
        assert table.recognises(str(folder / name))
    (folder / "b.csv").mkdir()
    assert not table.recognises(str(folder / "b.csv"))
    assert not table.recognises(str(folder / "missing.csv"))
    assert not table.recognises(str(folder / "0.png"))


# --- text and labels


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_texts_stay_what_they_are(folder: Path, kind: str) -> None:
    labels = ["01", "NA", "nan", "None", "null", "1e5", "True", "1.0", "-", "#N/A", "a b"]
    for label in labels:
        (folder / f"{label.replace('/', '')}.png").write_bytes(_png(1))
    names = [f"{label.replace('/', '')}.png" for label in labels]
    if kind == "jsonl":
        rows = [json.dumps({"image": name, "label": label}) for name, label in zip(names, labels, strict=True)]
    else:
        mark = "\t" if kind == "tsv" else ","
        rows = [f"image{mark}label", *(f"{name}{mark}{label}" for name, label in zip(names, labels, strict=True))]
    split = _open(_text(folder / f"t.{kind}", *rows)).splits["all"]
    assert _labels(split) == labels
    assert [Path(name).name for name in split.image_names()] == names


def test_a_quoted_label_may_hold_the_separator_and_a_line_break(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label", '0.png,"cat, ""tabby"""', '1.png,"two', 'lines"')
    assert _labels(_open(path).splits["all"]) == ['cat, "tabby"', "two\nlines"]


def test_classes_are_in_natural_order(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label", "0.png,10", "1.png,2", "2.png,1")
    split = _open(path).splits["all"]
    assert split.class_names == ("1", "2", "10")
    assert split.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("labels", [[10, 2, 1], pa.array([10, 2, 1], pa.uint8())], ids=["int64", "uint8"])
def test_integers_are_classes_called_by_their_digits(folder: Path, labels: Any) -> None:
    split = _open(_parquet(folder / "t.parquet", image=[_png(1)] * 3, label=labels)).splits["all"]
    assert split.class_names == ("1", "2", "10")
    assert split.labels.tolist() == [2, 1, 0]


def test_jsonl_integers_are_classes(folder: Path) -> None:
    rows = [json.dumps({"image": f"{n}.png", "label": label}) for n, label in enumerate((10, 2, 1))]
    assert _open(_text(folder / "t.jsonl", *rows)).splits["all"].class_names == ("1", "2", "10")


def test_texts_and_integers_in_one_jsonl_column_are_not_quoted(folder: Path) -> None:
    path = _text(folder / "t.jsonl", '{"image": "0.png", "label": 3}', '{"image": "1.png", "label": "cat"}')
    assert _labels(_open(path).splits["all"]) == ["3", "cat"]


def test_dates_in_jsonl_are_classes_like_other_texts(folder: Path) -> None:
    days = ["2020-01-31", "2020-02-01"]
    rows = [json.dumps({"image": f"{number}.png", "label": day}) for number, day in enumerate(days)]
    assert _labels(_open(_text(folder / "t.jsonl", *rows)).splits["all"]) == days


def test_class_label_names_come_from_the_type_not_from_the_order_of_rows(folder: Path) -> None:
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["zebra", "10", "2"])})
    images = [{"bytes": _png(n), "path": None} for n in range(3)]
    dataset = Dataset.from_dict({"image": images, "label": [0, 1, 2]}, features=features)
    dataset.to_parquet(str(folder / "t.parquet"))
    split = _open(folder / "t.parquet").splits["all"]
    assert split.class_names == ("2", "10", "zebra")
    assert _labels(split) == ["zebra", "10", "2"]


def test_a_byte_order_mark_is_no_part_of_the_first_column(folder: Path) -> None:
    for name, first in (("plain.csv", "image,label"), ("quoted.csv", '"image","label"')):
        path = folder / name
        path.write_text(f"{first}\n0.png,cat\n", encoding="utf-8-sig")
        assert _open(path).options.image_column == "image"
        assert _labels(_open(path).splits["all"]) == ["cat"]


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
def test_line_ends_of_every_system(folder: Path, end: str) -> None:
    path = folder / "t.csv"
    path.write_bytes(end.join(["image,label", "0.png,cat", "1.png,dog", ""]).encode())
    split = _open(path).splits["all"]
    assert _labels(split) == ["cat", "dog"]
    assert _greys(split) == [0, 10]


def test_an_index_column_without_a_name_is_no_obstacle(folder: Path) -> None:
    path = _text(folder / "t.csv", ",image,label", "0,1.png,cat", "1,0.png,dog")  # as DataFrame.to_csv writes
    split = _open(path).splits["all"]
    assert _labels(split) == ["cat", "dog"]
    assert _greys(split) == [10, 0]


def test_glob_characters_in_the_name_of_the_table_mean_themselves(folder: Path) -> None:
    _text(folder / "my1.csv", "image,label", "0.png,wrong")
    for name in ("my[1].csv", "my*.csv", "my?.csv"):
        path = _text(folder / name, "image,label", "1.png,right")
        assert _labels(_open(path).splits["all"]) == ["right"]


def test_a_semicolon_in_the_first_line_separates_only_where_there_is_no_comma(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label,a;b", "0.png,cat;dog,1;2")
    assert _labels(_open(path).splits["all"]) == ["cat;dog"]


def test_blank_lines_are_no_rows(folder: Path) -> None:
    for path in (
        _text(folder / "t.csv", "image,label", "", "0.png,cat", "", "1.png,dog", "", ""),
        _text(folder / "t.jsonl", '{"image":"0.png","label":"cat"}', "", '{"image":"1.png","label":"dog"}', ""),
    ):
        assert _labels(_open(path).splits["all"]) == ["cat", "dog"]


def test_a_byte_order_mark_in_jsonl(folder: Path) -> None:
    (folder / "t.jsonl").write_text('{"image":"0.png","label":"cat"}\n', encoding="utf-8-sig")
    assert _labels(_open(folder / "t.jsonl").splits["all"]) == ["cat"]


def test_fields_of_jsonl_that_are_not_asked_for_may_hold_anything(folder: Path) -> None:
    lines = [
        '{"image": "0.png", "label": "cat", "boxes": [[1, 2]], "score": NaN, "by": {"who": 3}, "id": 1}',
        '{"image": "1.png", "label": "dog", "boxes": "none", "score": 1, "id": 123456789012345678901234567890}',
        '{"image": "2.png", "label": "dog", "note": "\\ud800"}',
    ]
    assert _labels(_open(_text(folder / "t.jsonl", *lines)).splits["all"]) == ["cat", "dog", "dog"]


def test_further_columns_are_left_alone(folder: Path) -> None:
    path = _text(folder / "t.csv", "id,image,width,label,note", "7,0.png,3,cat,NA", "8,1.png,,dog,")
    assert _labels(_open(path).splits["all"]) == ["cat", "dog"]


# --- tables that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("t.csv", "", r"t\.csv is empty; expected a first line with the names of the columns"),
        ("t.csv", "image,label\n", r"t\.csv has no rows; expected one per image"),
        ("t.jsonl", "", r"t\.jsonl (is empty|has no rows)"),
        ("t.csv", "image,image,label\n0.png,1.png,a\n", "two columns of one name in its first line: image, image, lab"),
        ("t.csv", "image,label\n0.png,a\n1.png,b,x\n", r"Line 3 of .* has 3 values; expected 2"),
        ("t.csv", 'image,label\n0.png,"a\n1.png,b\n', "cannot be read as CSV: unexpected end of data"),
        ("t.csv", "image,label\n0.png,a\n1.png\n", r"Line 3 of .* has 1 values; expected 2"),
        ("t.csv", "image,label\n0.png,\n1.png,b\n", "1 of 2 rows without a label in column 'label', row 1 first"),
        ("t.csv", "picture,label\n0.png,a\n", "no column known to hold images; its columns are 'picture', 'label'"),
        ("t.csv", "image,animal\n0.png,a\n", "no column known to hold labels; its columns are 'image', 'animal'"),
        ("t.csv", "image,path,label\n0.png,0.png,a\n", "more than one image column: 'image', 'path'"),
        ("t.jsonl", "{", r"Line 1 of .* cannot be read: it is not JSON: .*; expected an object, \{\.\.\.\}, per line"),
        ("t.jsonl", '{"image":"0.png","label":1.5}\n', "float values in column 'label', 1.5 first; expected class"),
        ("t.jsonl", '{"image":"0.png","label":true}\n', "bool values in column 'label', True first"),
        ("t.jsonl", '{"image":"0.png","label":["a","b"]}\n', r"multi-label: column 'label' of row 1 holds \['a', 'b'"),
        ("t.jsonl", '{"image":"0.png","label":1}\n{"image":"1.png"}\n', "1 of 2 rows without a label .* row 2 first"),
        ("t.jsonl", '{"image":3,"label":"a"}\n', "in column 'image'; expected images"),
        ("t.parquet", "PAR1 not really", r"cannot be read as Parquet \("),
        ("t.parquet", "", r"cannot be read as Parquet \("),
    ],
)  # fmt: skip
def test_a_table_that_cannot_be_used_says_why(folder: Path, name: str, content: str, sentence: str) -> None:
    path = folder / name
    path.write_text(content)
    with pytest.raises(DataError, match=sentence) as caught:
        _open(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["image,label\n0.png,a,x\n1.png,b,y\n", "image,label\n0.png,a,\n1.png,b,\n"])
def test_rows_longer_than_the_first_line_do_not_shift_the_columns(folder: Path, text: str) -> None:
    path = folder / "t.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=f"^Line 2 of {path} has 3 values; expected 2") as caught:
        _open(path)
    assert "without a label" not in str(caught.value)  # every row has one


@pytest.mark.parametrize(
    "labels",
    [['["a", "b"]', '"c"'], ['"c"', '["a", "b"]'], ['{"name": "a"}', '{"name": "b"}'], ["[1, 2]", "3"], ["[[1]]", "3"]],
)
def test_lists_and_objects_among_jsonl_labels_are_multi_label(folder: Path, labels: list[str]) -> None:
    lines = [f'{{"image": "{number}.png", "label": {label}}}' for number, label in enumerate(labels)]
    with pytest.raises(DataError, match="is multi-label: column 'label'"):
        _open(_text(folder / "t.jsonl", *lines))


@pytest.mark.parametrize("labels", [["1", "2.5"], ["true", '"a"'], ["true", "3"], ["2.5", '"a"']])
def test_floats_and_bools_among_jsonl_labels_are_an_error(folder: Path, labels: list[str]) -> None:
    lines = [f'{{"image": "{number}.png", "label": {label}}}' for number, label in enumerate(labels)]
    with pytest.raises(DataError, match="in column 'label'.*expected class names or integers"):
        _open(_text(folder / "t.jsonl", *lines))


def test_a_label_that_no_file_can_hold_is_an_error(folder: Path) -> None:
    path = _text(folder / "t.jsonl", '{"image": "0.png", "label": "\\ud800"}')
    with pytest.raises(DataError, match=str(path)):
        _open(path)


def test_an_integer_of_any_size_is_a_class(folder: Path) -> None:
    number = "123456789012345678901234567890"
    path = _text(folder / "t.jsonl", f'{{"image": "0.png", "label": {number}}}', '{"image": "1.png", "label": 2}')
    assert _open(path).splits["all"].class_names == ("2", number)


def test_a_parquet_table_without_rows_is_an_error(folder: Path) -> None:
    path = _parquet(folder / "t.parquet", image=pa.array([], pa.binary()), label=pa.array([], pa.string()))
    with pytest.raises(DataError, match="has no rows; expected one per image"):
        _open(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16"])
def test_a_table_in_another_encoding_is_an_error(folder: Path, encoding: str) -> None:
    path = folder / "t.csv"
    path.write_text("image,label\n0.png,café\n", encoding=encoding)
    with pytest.raises(DataError, match="cannot be read as CSV: 'utf-8' codec can't decode byte"):
        _open(path)


@pytest.mark.parametrize(
    "name_and_text", [("t.csv", "image,label\n0.png,a\n1.png,b,x\n"), ("t.jsonl", "{"), ("t.parquet", "PAR1")]
)
def test_a_broken_table_is_told_once_not_logged_as_well(
    folder: Path, name_and_text: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    (folder / name_and_text[0]).write_text(name_and_text[1])
    with pytest.raises(DataError):
        _open(folder / name_and_text[0])
    assert caplog.messages == []


@pytest.mark.parametrize("column", ["lable", "Label", "labels"])
def test_a_label_column_that_is_not_there_is_an_error_with_the_nearest(folder: Path, column: str) -> None:
    with pytest.raises(DataError, match=f"no column '{column}' .--label-column.; .*Did you mean 'label'"):
        _open(_write_csv(folder / "t"), label_column=column)


@pytest.mark.parametrize("second", ["1.png", "./1.png", "cat/../1.png"])
def test_one_path_with_two_labels_is_multi_label(folder: Path, second: str) -> None:
    path = _text(folder / "t.csv", "image,label", "1.png,cat", "0.png,cat", f"{second},dog")
    with pytest.raises(DataError, match=r"t\.csv is multi-label, or .*: row 3 calls .*/1\.png 'dog', row \d 'cat'"):
        _open(path)


def test_one_path_twice_with_one_label_is_two_rows(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label", "1.png,cat", "1.png,cat")
    assert _greys(_open(path).splits["all"]) == [10, 10]


def test_bytes_that_are_no_image_are_found_when_they_are_opened_not_before(folder: Path) -> None:
    path = _parquet(folder / "t.parquet", image=[_png(1), b"junk", None], label=["a", "b", "c"])
    split = _open(path).splits["all"]
    assert np.asarray(split.read(0))[0, 0, 0] == 1
    with pytest.raises(OSError, match="cannot identify image file"):
        split.read(1)
    with pytest.raises(ValueError, match="the row holds no image"):
        split.read(2)


@pytest.mark.parametrize(
    "images",
    [pa.array([1, 2]), pa.array([0.5, 1.5]), pa.array([1, 2], pa.timestamp("s")), pa.array([True, False])],
    ids=lambda array: str(array.type),
)
def test_an_image_column_of_numbers_is_an_error(folder: Path, images: pa.Array) -> None:
    path = _parquet(folder / "t.parquet", image=images, label=["a", "b"])
    with pytest.raises(DataError, match=r"t\.parquet holds .* in column 'image'; expected images"):
        _open(path)


# --- paths


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("../0.png", "climbs out of"),
        ("a/../../0.png", "climbs out of"),
        ("..", "climbs out of"),
        ("http://example.org/0.png", "is an address, and vitctl downloads nothing"),
        ("s3://bucket/0.png", "is an address"),
        ("", "is empty"),
    ],
)
def test_a_path_that_may_not_be_followed_is_an_error_with_its_row(folder: Path, text: str, why: str) -> None:
    for path in (
        _text(folder / "t.csv", "image,label", "0.png,cat", f"{text},dog"),
        _parquet(folder / "t.parquet", image=["0.png", text], label=["cat", "dog"]),
    ):
        with pytest.raises(DataError, match=f"Row 2 of .*{path.name} names the image .*{why}.*--image-root"):
            _open(path)


def test_a_row_without_a_path_is_an_error(folder: Path) -> None:
    path = _text(folder / "t.jsonl", '{"image": "0.png", "label": "a"}', '{"image": null, "label": "a"}')
    with pytest.raises(DataError, match="Row 2 of .* is empty"):
        _open(path)


def test_absolute_paths_are_read_and_the_header_says_so(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.png").write_bytes(_png(77))
    path = _text(folder / "t.csv", "image,label", "1.png,cat", f"{tmp_path}/elsewhere.png,dog", "2.png,dog")
    source = _open(path)
    assert _greys(source.splits["all"]) == [10, 77, 20]
    assert "'image' (1 of 3 paths absolute), classes" in source.description


def test_paths_in_sub_folders_start_from_the_table_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "cat").mkdir()
    (folder / "cat" / "é 1.png").write_bytes(_png(33))
    _text(folder / "t.csv", "image,label", "cat/é 1.png,cat")
    monkeypatch.chdir(folder.parent)
    source = open_source("pets/t.csv")
    assert source.spec == str(folder / "t.csv")
    assert source.splits["all"].image_names() == [str(folder / "cat" / "é 1.png")]
    assert _greys(source.splits["all"]) == [33]


def test_image_root_moves_where_paths_start(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tables").mkdir()
    path = _text(tmp_path / "tables" / "t.csv", "image,label", "1.png,cat", "0.png,dog")
    source = _open(path, image_root=str(folder))
    assert _greys(source.splits["all"]) == [10, 0]
    assert source.options.image_root == str(folder)
    monkeypatch.chdir(tmp_path)
    relative = _open(path, image_root="pets")
    assert relative.options.image_root == str(folder)
    assert relative.splits["all"].image_names() == source.splits["all"].image_names()
    with pytest.raises(DataError, match=f"climbs out of {folder}"):
        _open(_text(path, "image,label", "../1.png,cat"), image_root="pets")


def test_an_image_root_that_is_no_folder_is_an_error(folder: Path) -> None:
    path = _write_csv(folder / "t")
    for root in (folder / "nowhere", folder / "0.png"):
        with pytest.raises(DataError, match=f"--image-root {root} is not a folder; expected the one that the paths in"):
            _open(path, image_root=str(root))


def test_a_missing_file_is_a_bad_image_not_a_bad_table(folder: Path) -> None:
    split = _open(_text(folder / "t.csv", "image,label", "0.png,cat", "9.png,dog")).splits["all"]
    assert isinstance(split.images, FileImages)
    with pytest.raises(FileNotFoundError):
        split.read(1)


# --- splits and groups


def test_a_column_called_split_divides_the_table(folder: Path) -> None:
    path = _text(
        folder / "t.csv", "image,label,split", "3.png,c,test", "0.png,a,train", "1.png,b,Validation", "2.png,b,train "
    )
    source = _open(path)
    assert list(source.splits) == ["train", "val", "test"]
    assert {name: (split.name, _greys(split), _labels(split)) for name, split in source.splits.items()} == {
        "train": ("train", [0, 20], ["a", "b"]),
        "val": ("val", [10], ["b"]),
        "test": ("test", [30], ["c"]),
    }
    assert {split.class_names for split in source.splits.values()} == {("a", "b", "c")}
    assert source.notes == ()


@pytest.mark.parametrize(
    ("value", "name"), [("TRAINING", "train"), ("train_set", "train"), ("Test Set", "test"), (" dev ", "val")]
)
def test_values_of_a_split_column_are_spelt_freely(folder: Path, value: str, name: str) -> None:
    rest = "train" if name != "train" else "test"
    path = _text(folder / "t.csv", "image,label,split", f"0.png,a,{value}", f"1.png,b,{rest}")
    assert _greys(_open(path).splits[name]) == [0]


def test_splits_of_a_table_with_bytes(folder: Path) -> None:
    images = [{"bytes": _png(grey), "path": None} for grey in (1, 2, 3)]
    path = _parquet(folder / "t.parquet", image=images, label=["a", "b", "a"], split=["dev", "train", "train"])
    splits = _open(path).splits
    assert {name: _greys(split) for name, split in splits.items()} == {"train": [2, 3], "val": [1]}


def test_a_split_column_with_other_values_only_is_not_used_and_says_so(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label,split", "0.png,a,fold 1", "1.png,b,fold 2")
    source = _open(path)
    assert list(source.splits) == ["all"]
    assert source.notes == (
        f"Column 'split' of {path} is not used: it holds 'fold 1'; expected train, val and test only.",
    )


@pytest.mark.parametrize("value", ["holdout", "", "fold 1"])
def test_a_split_column_with_one_odd_value_does_not_put_test_rows_into_training(folder: Path, value: str) -> None:
    path = _text(folder / "t.csv", "image,label,split", "0.png,a,train", f"1.png,b,{value}", "2.png,b,test")
    with pytest.raises(DataError, match=f"Row 2 of {path} has {value!r} in column 'split'"):
        _open(path)


def test_rows_without_a_group_are_an_error(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label,patient", "0.png,a,p1", "1.png,b,", "2.png,b,")
    with pytest.raises(DataError, match="2 of 3 rows without a group in column 'patient', row 2 first"):
        open_source(str(path), SourceOptions(group_column="patient"))


def test_paths_in_a_parquet_struct_start_from_the_table_and_change_the_stamp(folder: Path) -> None:
    images = [{"bytes": None, "path": "0.png"}, {"bytes": _png(50), "path": "x.png"}]
    path = _parquet(folder / "t.parquet", image=images, label=["a", "b"])
    split = _open(path).splits["all"]
    assert _greys(split) == [0, 50]
    assert split.image_names() == [str(folder / "0.png"), f"{path}/1"]
    before = split.images.stamp(0)
    (folder / "0.png").write_bytes(_png(70) + b"longer")
    assert split.images.stamp(0) != before
    assert _greys(split) == [70, 50]


@pytest.mark.parametrize("text", ["../0.png", "https://a.org/0.png"])
def test_paths_in_a_parquet_struct_may_not_climb_out(folder: Path, text: str) -> None:
    path = _parquet(folder / "t.parquet", image=[{"bytes": None, "path": text}], label=["a"])
    with pytest.raises(DataError, match="Row 1 of .*t.parquet names the image"):
        _open(path)


@pytest.mark.parametrize("write", ["csv", "parquet"])
def test_the_group_column_groups(folder: Path, write: str) -> None:
    if write == "csv":
        path = _text(folder / "t.csv", "image,label,patient", "0.png,a,07", "1.png,b,7", "2.png,a,07")
    else:
        path = _parquet(folder / "t.parquet", image=[_png(1)] * 3, label=["a", "b", "a"], patient=["07", "7", "07"])
    split = _open(path, group_column="patient").splits["all"]
    assert split.groups is not None
    assert split.groups.tolist() == ["07", "7", "07"]
    assert _open(path).splits["all"].groups is None


def test_groups_follow_their_rows_into_splits(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,label,split,who", "0.png,a,test,x", "1.png,b,train,y", "2.png,a,train,z")
    splits = _open(path, group_column="who").splits
    assert {name: split.groups.tolist() for name, split in splits.items()} == {"train": ["y", "z"], "test": ["x"]}


def test_columns_can_be_named(folder: Path) -> None:
    path = _text(folder / "t.csv", "image,picture,label,animal", "0.png,1.png,x,cat")
    source = _open(path, image_column="picture", label_column="animal")
    assert _greys(source.splits["all"]) == [10]
    assert source.splits["all"].class_names == ("cat",)


# --- the cache of datasets


def test_a_rewritten_table_is_read_anew(folder: Path) -> None:
    for name in ("cat", "dog", "cow", "lion"):  # three of them of one size, at once
        path = _text(folder / "t.csv", "image,label", f"0.png,{name}")
        assert _open(path).splits["all"].class_names == (name,)


@pytest.mark.parametrize("write", ["csv", "parquet"])
def test_a_rewritten_table_that_kept_its_time_is_read_anew(folder: Path, write: str) -> None:
    for name in ("cat", "tiger"):  # cp -p, rsync -t or tar bring such a file
        if write == "csv":
            path = _text(folder / "t.csv", "image,label", f"0.png,{name}")
        else:
            path = _parquet(folder / "t.parquet", image=[_png(len(name))] * len(name), label=[name] * len(name))
        os.utime(path, (1_600_000_000, 1_600_000_000))
        assert _open(path).splits["all"].class_names == (name,)


def test_tables_of_one_name_in_two_folders_are_two(folder: Path, tmp_path: Path) -> None:
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        path = _text(tmp_path / str(number) / "t.csv", "image,label", f"a.png,class {number}")
        os.utime(path, (1_600_000_000, 1_600_000_000))
    found = [_open(tmp_path / str(number) / "t.csv").splits["all"] for number in range(2)]
    assert [split.class_names for split in found] == [("class 0",), ("class 1",)]
    assert [split.image_name(0) for split in found] == [str(tmp_path / str(number) / "a.png") for number in range(2)]


def test_the_stamp_of_images_in_a_table_changes_with_the_table(folder: Path) -> None:
    def stamp(grey: int) -> str:
        path = _parquet(folder / "t.parquet", image=[_png(grey)], label=["a"])
        return _open(path).splits["all"].images.stamp(0)

    first = stamp(1)
    assert first
    assert stamp(2) != first


def test_the_copy_of_a_parquet_table_lies_in_the_cache_one_per_table(folder: Path, cache: Path) -> None:
    for number in range(3):
        path = _parquet(folder / "t.parquet", image=[_png(number)], label=["a"])
        os.utime(path, (1_600_000_000, 1_600_000_000 + number))
        assert _greys(_open(path).splits["all"]) == [number]
    assert len(list((cache / "parquet").iterdir())) == 1
    _open(_parquet(folder / "u.parquet", image=[_png(9)], label=["a"]))
    assert len(list((cache / "parquet").iterdir())) == 2


def test_a_parquet_table_may_have_glob_characters_in_its_name(folder: Path, cache: Path) -> None:
    _parquet(folder / "my1.parquet", image=[_png(99)], label=["wrong"])
    for number, label in enumerate(("right", "better")):
        path = _parquet(folder / "my[1]*.parquet", image=[_png(number)], label=[label])
        os.utime(path, (1_600_000_000, 1_600_000_000 + number))
        assert _labels(_open(path).splits["all"]) == [label]
        assert _greys(_open(path).splits["all"]) == [number]
    assert len(list((cache / "parquet").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_not_blamed_on_the_table(folder: Path, cache: Path) -> None:
    cache.write_text("a file, not a folder")
    path = _parquet(folder / "t.parquet", image=[_png(1)], label=["a"])
    with pytest.raises(SettingError, match=str(cache)) as caught:
        _open(path)
    assert "truncated" not in str(caught.value)
