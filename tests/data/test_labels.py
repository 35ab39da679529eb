"""One rule for labels in every source: the same classes from CSV, JSON lines, Parquet, a saved data set and shards."""

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest
from PIL import Image

from vitctl.data.labels import class_names, typed
from vitctl.data.source import Source, SourceOptions
from vitctl.data.sources import open_source
from vitctl.errors import DataError


def png(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write_csv(folder: Path, labels: Sequence[Any]) -> Path:
    cells = ["" if label is None else label[0] if isinstance(label, list) else label for label in labels]
    (folder / "t.csv").write_text("image,label\n" + "".join(f"{row}.png,{cell}\n" for row, cell in enumerate(cells)))
    return folder / "t.csv"


def write_json_lines(folder: Path, labels: Sequence[Any]) -> Path:
    lines = [json.dumps({"image": f"{row}.png", "label": label}) for row, label in enumerate(labels)]
    (folder / "t.jsonl").write_text("\n".join(lines))
    return folder / "t.jsonl"


def write_parquet(folder: Path, labels: Sequence[Any]) -> Path:
    images = [f"{row}.png" for row in range(len(labels))]
    datasets.Dataset.from_dict({"image": images, "label": list(labels)}).to_parquet(str(folder / "t.parquet"))
    return folder / "t.parquet"


def write_saved(folder: Path, labels: Sequence[Any]) -> Path:
    images = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    rows = datasets.Dataset.from_dict({"image": images, "label": list(labels)})
    rows.cast_column("image", datasets.Image()).save_to_disk(str(folder / "saved"))
    return folder / "saved"


def write_shard(folder: Path, labels: Sequence[Any]) -> Path:
    with tarfile.open(folder / "a.tar", "w") as archive:
        for row, label in enumerate(labels):
            for name, content in ((f"{row}.png", png(row)), (f"{row}.json", json.dumps({"label": label}).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return folder / "a.tar"


WRITERS = [write_csv, write_json_lines, write_parquet, write_saved, write_shard]


def opened(path: Path) -> Source:
    for row in range(3):
        (path.parent / f"{row}.png").write_bytes(png(row))
    return open_source(str(path), SourceOptions())


def found(source: Source) -> list[str]:
    split = source.splits["all" if "all" in source.splits else "train"]
    return [split.class_names[label] for label in split.labels]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([1.0, 10.0, 2.0], ["1", "10", "2"]),
        ([1, 10, 2], ["1", "10", "2"]),
        (["01", "cat", "1.5"], ["01", "cat", "1.5"]),
        ([["a"], ["b"], ["a"]], ["a", "b", "a"]),
    ],
    ids=["whole floats", "integers", "texts", "lists of one"],
)
def test_the_same_classes_in_every_source(
    tmp_path: Path, write: Callable[..., Path], labels: list[Any], expected: list[str]
) -> None:
    assert found(opened(write(tmp_path, labels))) == expected


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        (
            [1.0, 2.0, 0.5],
            "holds float values in column 'label', 0.5 first; expected class names or integers. Name the classes",
        ),
        ([1.0, None, 2.0], "has 1 of 3 rows without a label in column 'label'"),
    ],
    ids=["a fraction", "a gap"],
)
def test_the_same_sentence_in_every_source(
    tmp_path: Path, write: Callable[..., Path], labels: list[Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        found(opened(write(tmp_path, labels)))


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["1.0", " 2.0", "+3", "-4.50"], [1.0, 2.0, 3.0, -4.5]),
        (["12345678901234567890.0", "1"], [12345678901234567890, 1]),
        (["1e2", "1.0"], ["1e2", "1.0"]),
        (["1.", "1.0"], ["1.", "1.0"]),
        ([".5", "1.0"], [".5", "1.0"]),
        (["9" * 5000, "1.0"], ["9" * 5000, "1.0"]),
        (["1.0", ""], [1.0, None]),
        (["01", "1"], ["01", "1"]),
        (["1.0", "x"], ["1.0", "x"]),
        (["nan", "1.0"], ["nan", "1.0"]),
        (["1e999", "1.0"], ["1e999", "1.0"]),
        (["1_0.0", "1.0"], ["1_0.0", "1.0"]),
        (["", ""], ["", ""]),
    ],
)  # fmt: skip
def test_typed__numbers_where_all_are_and_one_is_written_as_a_fraction(texts: list[str], expected: list[Any]) -> None:
    assert typed(texts) == expected


def test_a_header_with_blanks_after_its_commas_speaks_for_every_row(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('image, label\n0.png, cat\n1.png, "cat, or dog"\n2.png,  dog\n')
    assert found(opened(tmp_path / "t.csv")) == ["cat", "cat, or dog", "dog"]


def test_without_such_a_header_a_blank_is_part_of_the_name(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("image,label\n0.png, cat\n1.png,cat\n2.png,cat\n")
    assert found(opened(tmp_path / "t.csv")) == [" cat", "cat", "cat"]


def test_class_names__rows_by_their_names() -> None:
    with pytest.raises(DataError, match=r"column 'y' of b\.png holds \['a', 'b'\]"):
        class_names(["a", ["a", "b"]], "y", where="it", rows=["a.png", "b.png"])
