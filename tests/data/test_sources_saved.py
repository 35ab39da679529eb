"""Folders written by ``datasets.save_to_disk``: splits, classes and pixels as they were saved."""

import json
import os
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value
from PIL import Image

from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source, saved
from vitctl.errors import DataError, SettingError

CLASS_LABEL = ClassLabel(names=["zebra", "10", "2"])


def _pixels(count: int, *, first: int = 0) -> np.ndarray:
    """Return (count, 9, 7, 3) noise."""
    return np.random.default_rng(first).integers(0, 256, (count, 9, 7, 3), dtype=np.uint8)


def _dataset(pixels: np.ndarray, labels: list[Any], *, kind: Any = CLASS_LABEL, **columns: list[Any]) -> Dataset:
    features = Features({"image": datasets.Image(), "label": kind, **dict.fromkeys(columns, Value("string"))})
    images = [Image.fromarray(one) for one in pixels]
    return Dataset.from_dict({"image": images, "label": labels, **columns}, features=features)


def _open(path: Path, **options: str) -> Source:
    return open_source(str(path), SourceOptions(**options))


def _labels(split: Split) -> list[str]:
    return [split.class_names[label] for label in split.labels]


def _assert_shows(split: Split, pixels: np.ndarray) -> None:
    assert len(split) == len(pixels)
    for position, expected in enumerate(pixels):
        np.testing.assert_array_equal(np.asarray(split.read(position)), expected)


def test_a_dataset_is_one_split_with_the_images_it_was_made_of(tmp_path: Path) -> None:
    pixels = _pixels(4)
    _dataset(pixels, [0, 1, 2, 0]).save_to_disk(tmp_path / "set")
    source = _open(tmp_path / "set")
    assert list(source.splits) == ["all"]
    assert source.spec == str(tmp_path / "set")
    assert source.options == SourceOptions(None, "image", "label")
    assert "save_to_disk: images in column 'image', classes in 'label'" in source.description
    split = source.splits["all"]
    assert split.class_names == ("2", "10", "zebra")
    assert _labels(split) == ["zebra", "10", "2", "zebra"]
    assert split.image_names() == [f"{tmp_path}/set/{row}" for row in range(4)]
    _assert_shows(split, pixels)


def test_a_dataset_dict_has_its_splits_and_validation_is_val(tmp_path: Path) -> None:
    train, validation, test = _pixels(3, first=1), _pixels(2, first=2), _pixels(1, first=3)
    parts = {
        "train": _dataset(train, [0, 1, 2]),
        "validation": _dataset(validation, [1, 1]),
        "test": _dataset(test, [2]),
    }
    DatasetDict(parts).save_to_disk(tmp_path / "set")
    splits = _open(tmp_path / "set").splits
    assert list(splits) == ["train", "val", "test"]
    assert [split.name for split in splits.values()] == ["train", "val", "test"]
    for name, pixels in (("train", train), ("val", validation), ("test", test)):
        _assert_shows(splits[name], pixels)
    assert _labels(splits["val"]) == ["10", "10"]
    assert splits["val"].image_name(1) == f"{tmp_path}/set/validation/1"


def test_splits_are_spelt_freely(tmp_path: Path) -> None:
    part = _dataset(_pixels(1), [0])
    DatasetDict(Training=part, VAL=part, test_set=part).save_to_disk(tmp_path)
    assert list(_open(tmp_path).splits) == ["train", "val", "test"]


def test_other_splits_keep_their_names(tmp_path: Path) -> None:
    DatasetDict(train=_dataset(_pixels(1), [0]), extra=_dataset(_pixels(1), [0])).save_to_disk(tmp_path)
    assert list(_open(tmp_path).splits) == ["train", "extra"]


def test_two_validation_splits_are_an_error(tmp_path: Path) -> None:
    part = _dataset(_pixels(1), [0])
    DatasetDict(train=part, validation=part, val=part).save_to_disk(tmp_path)
    with pytest.raises(DataError, match="holds two splits for val: train, validation, val. Keep one of them"):
        _open(tmp_path)


def test_images_given_by_path_are_saved_within_and_read_without_their_files(tmp_path: Path) -> None:
    pixels = _pixels(2)
    paths = [tmp_path / f"{number}.png" for number in range(2)]
    for path, one in zip(paths, pixels, strict=True):
        Image.fromarray(one).save(path)
    features = Features({"image": datasets.Image(), "label": Value("string")})
    dataset = Dataset.from_dict({"image": list(map(str, paths)), "label": ["b", "a"]}, features=features)
    dataset.save_to_disk(tmp_path / "set")
    for path in paths:
        path.unlink()
    split = _open(tmp_path / "set").splits["all"]
    assert _labels(split) == ["b", "a"]
    _assert_shows(split, pixels)


def test_a_selection_is_saved_as_it_was_selected(tmp_path: Path) -> None:
    pixels = _pixels(5)
    _dataset(pixels, [0, 1, 2, 0, 1]).select([4, 0, 2]).save_to_disk(tmp_path)
    split = _open(tmp_path).splits["all"]
    assert _labels(split) == ["10", "zebra", "2"]
    _assert_shows(split, pixels[[4, 0, 2]])


def test_several_files_are_one_split(tmp_path: Path) -> None:
    pixels = _pixels(5)
    _dataset(pixels, list("abcde"), kind=Value("string")).save_to_disk(tmp_path, num_shards=3)
    assert len(list(tmp_path.glob("*.arrow"))) == 3
    split = _open(tmp_path).splits["all"]
    assert _labels(split) == list("abcde")
    _assert_shows(split, pixels)


def test_unknown_labels_are_an_error_of_their_split_alone(tmp_path: Path) -> None:
    train, test = _dataset(_pixels(2), [0, 1]), _dataset(_pixels(2), [2, -1])
    DatasetDict(train=train, test=test).save_to_disk(tmp_path)
    source = _open(tmp_path)
    assert _labels(source.training_split()) == ["zebra", "10"]
    with pytest.raises(DataError, match=f"split test of {tmp_path} has 1 of 2 rows without a label .* row 2 first"):
        source.split("test")


def test_a_split_without_the_label_column_is_an_error_that_names_both(tmp_path: Path) -> None:
    train = _dataset(_pixels(2), [0, 1])
    DatasetDict(train=train, test=train.remove_columns("label")).save_to_disk(tmp_path)
    source = _open(tmp_path)
    assert len(source.training_split()) == 2
    with pytest.raises(DataError, match="split test of .* no column 'label'"):
        source.split("test")


def test_a_split_without_the_group_column_is_an_error(tmp_path: Path) -> None:
    train = _dataset(_pixels(2), [0, 1], patient=["p", "q"])
    DatasetDict(train=train, test=train.remove_columns("patient")).save_to_disk(tmp_path)
    source = _open(tmp_path, group_column="patient")
    assert source.training_split().groups is not None
    with pytest.raises(DataError, match="split test of .* no column 'patient'"):
        source.split("test")


def test_groups_come_from_their_column(tmp_path: Path) -> None:
    _dataset(_pixels(3), [0, 1, 0], patient=["p", "q", "p"]).save_to_disk(tmp_path)
    groups = _open(tmp_path, group_column="patient").splits["all"].groups
    assert groups is not None
    assert groups.tolist() == ["p", "q", "p"]


def test_a_split_without_rows_is_an_error(tmp_path: Path) -> None:
    train = _dataset(_pixels(1), [0])
    DatasetDict(train=train, test=train.select([])).save_to_disk(tmp_path)
    with pytest.raises(DataError, match="has no rows|cannot be read as a saved data set"):  # datasets 5 fails on it
        _open(tmp_path).split("test")


def test_a_missing_column_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    _dataset(_pixels(1), [0]).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"no column 'lable' \(--label-column\).*Did you mean 'label'\?"):
        _open(tmp_path, label_column="lable")


def test_a_set_without_images_is_an_error(tmp_path: Path) -> None:
    Dataset.from_dict({"text": ["a"], "label": ["b"]}).save_to_disk(tmp_path)
    with pytest.raises(DataError, match="no column known to hold images; its columns are 'text', 'label'"):
        _open(tmp_path)


def test_image_root_means_nothing_to_a_saved_set(tmp_path: Path) -> None:
    _dataset(_pixels(1), [0]).save_to_disk(tmp_path)
    options = SourceOptions(image_root=str(tmp_path))
    with pytest.raises(SettingError, match="--image-root is given, but .* has no use for it; leave it out"):
        open_source(str(tmp_path), options)
    assert len(open_source(str(tmp_path), options, is_strict=False).splits["all"]) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("state.json", b"{"),
        ("state.json", b"{}"),
        ("dataset_info.json", b"{"),
        ("dataset_info.json", None),
        ("data-00000-of-00001.arrow", b"ARROW"),
        ("data-00000-of-00001.arrow", b""),
        ("data-00000-of-00001.arrow", None),
    ],
)
def test_a_damaged_set_is_an_error(tmp_path: Path, name: str, content: bytes | None) -> None:
    _dataset(_pixels(2), [0, 1]).save_to_disk(tmp_path)
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{tmp_path}.* cannot be read.*; write it again"):
        _open(tmp_path)


def test_a_dictionary_that_names_a_missing_split_is_an_error(tmp_path: Path) -> None:
    DatasetDict(train=_dataset(_pixels(1), [0])).save_to_disk(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(DataError, match="cannot be read as a saved data set"):
        _open(tmp_path)


def test_saved_sets_are_recognised_by_their_marks(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    assert not saved.recognises(str(tmp_path))
    assert not saved.recognises(str(tmp_path / "missing"))
    (tmp_path / "state.json").mkdir()  # a folder of that name is no mark
    assert not saved.recognises(str(tmp_path))
    (tmp_path / "dataset_dict.json").write_text("{}")
    assert saved.recognises(str(tmp_path))


def test_nothing_is_written_to_the_folder(tmp_path: Path) -> None:
    _dataset(_pixels(2), [0, 1]).save_to_disk(tmp_path)
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}
    _assert_shows(_open(tmp_path).splits["all"], _pixels(2))
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in tmp_path.rglob("*")} == before


def test_splits_pickle_without_their_images(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 100, 100, 3), dtype=np.uint8)
    _dataset(pixels, [0, 1, 2, 0]).save_to_disk(tmp_path)
    pickled = pickle.dumps(_open(tmp_path).splits["all"])
    assert len(pickled) < 20_000 < 120_000 < sum(path.stat().st_size for path in tmp_path.glob("*.arrow"))
    _assert_shows(pickle.loads(pickled), pixels)


def test_the_stamp_changes_with_the_files(tmp_path: Path) -> None:
    stamps = []
    for count in (1, 2):
        _dataset(_pixels(count), [0] * count).save_to_disk(tmp_path / "set")
        stamps.append(_open(tmp_path / "set").splits["all"].images.stamp(0))
    assert all(stamps)
    assert stamps[0] != stamps[1]


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("is_divided", [True, False])
def test_a_pipe_or_device_among_the_files_is_named_and_not_opened(tmp_path: Path, kind: str, is_divided: bool) -> None:
    dataset = _dataset(_pixels(4), [0, 1, 0, 1])
    saved = DatasetDict({"train": dataset, "test": dataset}) if is_divided else dataset
    saved.save_to_disk(tmp_path / "set")
    file = sorted((tmp_path / "set").rglob("*.arrow"))[0]
    file.unlink()
    os.mkfifo(file) if kind == "pipe" else file.symlink_to("/dev/zero")
    with pytest.raises(DataError) as refusal:
        _open(tmp_path / "set")
    assert str(refusal.value) == (
        f"{file} cannot be read (it is no regular file); expected what save_to_disk writes; write it again."
    )
