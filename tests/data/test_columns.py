"""Which column holds the images and which the classes, what a label may be, and where a path may lead."""

import io
import pickle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
from datasets import ClassLabel, Dataset, Features, Sequence, Value
from PIL import Image

from vitctl.data.columns import (
    ColumnImages,
    column_split,
    column_values,
    find_columns,
    is_address,
    label_names,
    quiet_datasets,
    resolve_image_path,
    root_cause,
    with_groups,
)
from vitctl.data.source import SourceOptions, Split
from vitctl.errors import DataError

TEXT = Value("string")
IMAGE = datasets.Image()


def _png(grey: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (3, 2), grey).save(file, "PNG")
    return file.getvalue()


def _empty(**features: Any) -> Dataset:
    return Dataset.from_dict({name: [] for name in features}, features=Features(features))


def _found(dataset: Dataset, **options: str) -> tuple[str | None, str | None]:
    found = find_columns(dataset, SourceOptions(**options), where="pets")
    return found.image_column, found.label_column


@pytest.mark.parametrize("image", ["image", "img", "file_name", "filename", "path", "Image", "IMG_PATH"])
@pytest.mark.parametrize("label", ["label", "labels", "class", "category", "target", "Label"])
def test_columns_are_known_by_their_names_in_any_case(image: str, label: str) -> None:
    assert _found(_empty(**{"id": TEXT, image: TEXT, label: TEXT})) == (image, label)


def test_types_tell_more_than_names() -> None:
    dataset = _empty(image=TEXT, scan=IMAGE, label=TEXT, breed=ClassLabel(names=["a"]))
    assert _found(dataset) == ("scan", "breed")


def test_given_columns_win() -> None:
    dataset = _empty(image=IMAGE, second=IMAGE, label=TEXT, animal=TEXT)
    assert _found(dataset, image_column="second", label_column="animal") == ("second", "animal")


def test_the_image_column_is_not_also_the_label_column() -> None:
    dataset = _empty(label=TEXT, target=TEXT)
    assert _found(dataset, image_column="label") == ("label", "target")


def test_options_that_are_no_columns_are_kept() -> None:
    options = SourceOptions(image_root="/photos", group_column="patient")
    found = find_columns(_empty(img=TEXT, y=TEXT, patient=TEXT), options, where="pets")
    assert found == SourceOptions("/photos", "img", "y", "patient")


@pytest.mark.parametrize(
    ("option", "flag"),
    [("image_column", "--image-column"), ("label_column", "--label-column"), ("group_column", "--group-column")],
)
def test_a_given_column_that_is_not_there_is_an_error_with_the_nearest(option: str, flag: str) -> None:
    dataset = _empty(image=TEXT, label=TEXT, patient=TEXT)
    near = {"image_column": "imag", "label_column": "lable", "group_column": "patients"}[option]
    with pytest.raises(DataError, match=f"pets has no column '{near}' .{flag}.; it has 'image', 'label', 'patient'"):
        _found(dataset, **{option: near})
    with pytest.raises(DataError, match=r"Did you mean '\w+'\?"):
        _found(dataset, **{option: near})


@pytest.mark.parametrize(
    ("features", "sentence"),
    [
        ({"image": TEXT, "file_name": TEXT, "label": TEXT}, "more than one image column: 'image', 'file_name'.*Choose"),
        ({"a": IMAGE, "b": IMAGE, "label": TEXT}, "more than one image column: 'a', 'b'. Choose with --image-column"),
        (
            {"image": TEXT, "label": TEXT, "class": TEXT},
            "more than one label column: 'label', 'class'. Choose with --l",
        ),
        ({"photo": TEXT, "label": TEXT}, "no column known to hold images; its columns are 'photo', 'label'. Name it"),
        ({"image": TEXT, "animal": TEXT}, "no column known to hold labels.*Name it with --label-column"),
    ],
)
def test_columns_that_are_missing_or_ambiguous_are_an_error(features: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        _found(_empty(**features))


def test_many_columns_are_not_all_listed() -> None:
    with pytest.raises(DataError, match=r"'c0', .*'c11' and 18 more\. Name it"):
        _found(_empty(**{f"c{number}": TEXT for number in range(30)}))


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (TEXT, ["01", "NA", "nan", "None"], ["01", "NA", "nan", "None"]),
        (Value("int8"), [10, -2, 3], ["10", "-2", "3"]),
        (Value("uint64"), [2**62, 0], ["4611686018427387904", "0"]),
        (Value("large_string"), ["a", "b"], ["a", "b"]),
        (ClassLabel(names=["dog", "cat"]), [1, 0, 1], ["cat", "dog", "cat"]),
        (Value("float64"), [1.0, -2.0, 1e3], ["1", "-2", "1000"]),
        (Sequence(TEXT), [["01"], ["b"]], ["01", "b"]),
        (Sequence(Value("float32")), [[3.0], [4.0]], ["3", "4"]),
    ],
    ids=["text", "int8", "uint64", "large_string", "ClassLabel", "whole floats", "lists of one", "lists of one float"],
)
def test_labels_keep_what_they_are_called(kind: Any, values: list[Any], expected: list[str]) -> None:
    dataset = Dataset.from_dict({"label": values}, features=Features({"label": kind}))
    assert label_names(dataset, "label", where="pets") == expected


@pytest.mark.parametrize(
    ("kind", "values", "sentence"),
    [
        (TEXT, ["a", None, "b", None], "pets has 2 of 4 rows without a label in column 'label', row 2 first"),
        (TEXT, ["a", "b", ""], "1 of 3 rows without a label in column 'label', row 3 first"),
        (ClassLabel(names=["a"]), [0, -1, -1, -1], "3 of 4 rows without a label in column 'label', row 2 first"),
        (Value("float32"), [1.0, 2.5], "holds float values in column 'label', 2.5 first; expected class names or int"),
        (Value("float64"), [1.0, float("nan")], "1 of 2 rows without a label in column 'label', row 2 first"),
        (Value("float64"), [1.0, float("inf")], "holds float values in column 'label', inf first"),
        (Value("bool"), [True, False], "holds bool values in column 'label', True first"),
        (Sequence(TEXT), [["a"], ["a", "b"]], r"is multi-label: column 'label' of row 2 holds \['a', 'b'\]"),
        (Sequence(TEXT), [["a"], []], "1 of 2 rows without a label in column 'label', row 2 first"),
        ({"name": TEXT}, [{"name": "a"}], "is multi-label"),
    ],
    ids=["null", "empty", "ClassLabel -1", "float", "NaN", "infinity", "bool", "list", "empty list", "struct"],
)
def test_labels_that_name_no_single_class_are_an_error(kind: Any, values: list[Any], sentence: str) -> None:
    dataset = Dataset.from_dict({"label": values}, features=Features({"label": kind}))
    with pytest.raises(DataError, match=sentence):
        label_names(dataset, "label", where="pets")


def test_labels_beyond_their_names_are_an_error() -> None:
    """A file may hold them, though ``datasets`` makes none."""
    table = datasets.table.InMemoryTable(pa.table({"label": [0, 2, 1]}))
    features = Features({"label": ClassLabel(names=["a", "b"])})
    dataset = Dataset(table, datasets.DatasetInfo(features=features))
    with pytest.raises(DataError, match="pets holds class 2 in column 'label' of row 2, and names for 2 classes"):
        label_names(dataset, "label", where="pets")


def test_minus_one_is_a_class_like_any_integer_where_no_type_says_otherwise() -> None:
    assert label_names(Dataset.from_dict({"label": [-1, 1]}), "label", where="pets") == ["-1", "1"]


def test_column_values_leaves_images_undecoded() -> None:
    dataset = Dataset.from_dict({"image": [b"no image"], "label": ["a"]})
    dataset = dataset.cast_column("image", IMAGE)
    assert column_values(dataset, "label", where="it") == ["a"]


def test_column_split_has_classes_pixels_names_and_groups() -> None:
    dataset = Dataset.from_dict({"img": [_png(5), _png(6), _png(7)], "y": [10, 2, 2], "who": ["p", "q", "p"]})
    options = SourceOptions(image_column="img", label_column="y", group_column="who")
    split = column_split("val", dataset, options, where="pets", prefix="here")
    assert (split.name, split.class_names, split.labels.tolist()) == ("val", ("2", "10"), [1, 0, 0])
    assert split.image_names() == ["here/0", "here/1", "here/2"]
    assert [np.asarray(split.read(row))[0, 0, 0] for row in range(3)] == [5, 6, 7]
    assert split.groups is not None
    assert split.groups.tolist() == ["p", "q", "p"]
    assert split.select([2, 1]).image_names() == ["here/2", "here/1"]


def test_groups_are_compared_as_text() -> None:
    dataset = Dataset.from_dict({"image": [_png(0)] * 3, "label": ["a"] * 3, "patient": [7, 12, 7]})
    split = column_split("all", dataset, SourceOptions(None, "image", "label"), where="pets", prefix="pets")
    assert split.groups is None
    grouped = with_groups(split, dataset, SourceOptions(group_column="patient"), where="pets")
    assert grouped.groups is not None
    assert grouped.groups.tolist() == ["7", "12", "7"]


def test_no_rows_are_an_error() -> None:
    with pytest.raises(DataError, match="pets has no rows; expected one per image"):
        column_split(
            "all", _empty(image=IMAGE, label=TEXT), SourceOptions(None, "image", "label"), where="pets", prefix=""
        )


@pytest.mark.parametrize(
    "values", [[3, 4], [0.5, 1.5], [True, False], [["a.png"], ["b.png"]]], ids=["int", "float", "bool", "list"]
)
def test_a_column_that_cannot_be_images_is_an_error(values: list[Any]) -> None:
    dataset = Dataset.from_dict({"image": values, "label": ["a", "b"]})
    with pytest.raises(DataError, match=r"pets holds .* in column 'image'; expected images .*--image-column"):
        column_split("all", dataset, SourceOptions(None, "image", "label"), where="pets", prefix="pets")


def _row(value: Any) -> ColumnImages:
    kind = datasets.Image(decode=False)
    dataset = Dataset.from_dict({"image": [value]}, features=Features({"image": kind}))
    return ColumnImages(dataset, "image", "pets", "version 1")


def _split_of_one(value: Any, **given: Any) -> Split:
    dataset = Dataset.from_dict({"image": [value], "label": ["a"]})
    return column_split("all", dataset, SourceOptions(None, "image", "label"), where="pets", prefix="pets", **given)


def test_an_image_is_opened_from_its_path_when_it_has_no_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(_png(9))
    split = _split_of_one(str(tmp_path / "a.png"))
    assert np.asarray(split.open(0)).tolist() == [[9, 9, 9], [9, 9, 9]]
    assert split.image_names() == [str(tmp_path / "a.png")]
    before = split.images.stamp(0)
    (tmp_path / "a.png").write_bytes(_png(10) + b"and more")
    assert split.images.stamp(0) != before


def test_a_path_may_have_to_lie_in_certain_folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.png", "b.png"):
        (tmp_path / name).write_bytes(_png(9))
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "b.png")
    assert len(_split_of_one(str(tmp_path / "in" / "a.png"), inside=[tmp_path / "in"])) == 1
    for name in ("b.png", "in/../b.png", "in/link.png"):
        with pytest.raises(DataError, match="lies elsewhere on this machine"):
            _split_of_one(f"{tmp_path}/{name}", inside=[tmp_path / "in"])


def test_bytes_come_before_a_path_that_leads_nowhere() -> None:
    assert np.asarray(_row({"bytes": _png(9), "path": "/nowhere/a.png"}).open(0))[0, 0] == 9


@pytest.mark.parametrize("path", ["a.png", "../a.png", "http://example.org/a.png", "file:///a.png"])
def test_a_row_with_a_path_that_is_not_absolute_is_an_error_where_there_is_no_folder_to_start_from(path: str) -> None:
    with pytest.raises(DataError, match="Row 1 of pets names the image .*(relative|an address)"):
        _split_of_one(path)


def test_a_row_without_an_image_is_a_bad_image() -> None:
    with pytest.raises(ValueError, match="the row holds no image"):
        _row(None).open(0)


def test_column_images_pickle() -> None:
    images = pickle.loads(pickle.dumps(_row({"bytes": _png(9), "path": None})))
    assert np.asarray(images.open(0))[0, 0] == 9


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://a/b.png", True),
        ("s3://bucket/key", True),
        ("FILE:///a.png", True),
        ("a.png", False),
        ("/a/b.png", False),
        ("a b://c", False),
        ("://a", False),
        ("", False),
    ],
)
def test_is_address(text: str, expected: bool) -> None:
    assert is_address(text) is expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.png", "/root/a.png"),
        ("./cat//a.png", "/root/cat/a.png"),
        ("cat/../a.png", "/root/a.png"),
        ("..a/b.png", "/root/..a/b.png"),
        ("~/a.png", "/root/~/a.png"),
        ("/else/where/../a.png", "/else/a.png"),
    ],
)
def test_resolve_image_path(text: str, expected: str) -> None:
    assert resolve_image_path(text, Path("/root")) == expected


def test_backslashes_are_folders_where_no_file_has_them_in_its_name(tmp_path: Path) -> None:
    (tmp_path / r"odd\name.png").write_bytes(_png(1))
    assert resolve_image_path(r"odd\name.png", tmp_path) == str(tmp_path / r"odd\name.png")
    assert resolve_image_path(r"cat\1.png", tmp_path) == str(tmp_path / "cat" / "1.png")
    with pytest.raises(ValueError, match="climbs out"):
        resolve_image_path(r"..\1.png", tmp_path)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "is empty"),
        ("..", "climbs out of /root"),
        ("../a.png", "climbs out of /root"),
        ("a/../../b.png", "climbs out of /root"),
        ("./../root/a.png", "climbs out of /root"),
        ("https://example.org/a.png", "is an address"),
        ("a\0.png", "null character"),
    ],
)
def test_paths_that_may_not_be_followed(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        resolve_image_path(text, Path("/root"))


def test_root_cause_is_the_last_of_the_chain_in_one_line() -> None:
    error = RuntimeError("outer")
    error.__cause__ = KeyError("middle")
    error.__cause__.__cause__ = ValueError("line one\n  line two.")
    assert root_cause(error) == "line one line two"
    assert root_cause(StopIteration()) == "StopIteration"


def _fail_quietly() -> None:
    with quiet_datasets():
        assert not datasets.is_progress_bar_enabled()
        raise RuntimeError


def test_quiet_datasets_restores_what_it_found() -> None:
    before = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    with pytest.raises(RuntimeError):
        _fail_quietly()
    assert (datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()) == before
