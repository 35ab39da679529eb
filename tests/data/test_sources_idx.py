"""IDX folders: read exactly, or refused with a sentence that says which file is wrong."""

import gzip
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vitctl.data.sources import idx, open_source
from vitctl.errors import DataError

TYPE_CODES = {"uint8": 0x08, "int8": 0x09, "int16": 0x0B, "int32": 0x0C}


def _idx_bytes(values: np.ndarray, *, shape: tuple[int, ...] | None = None) -> bytes:
    """Return ``values`` in IDX format; ``shape`` lets the header lie."""
    sizes = values.shape if shape is None else shape
    header = bytes([0, 0, TYPE_CODES[str(values.dtype)], len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes)
    return header + values.astype(values.dtype.newbyteorder(">")).tobytes()


def _images(count: int, *, first: int = 0) -> np.ndarray:
    return (np.arange(count * 12).reshape(count, 3, 4) + first).astype(np.uint8)


def _labels(*labels: int) -> np.ndarray:
    return np.array(labels, dtype=np.uint8)


def _write(path: Path, values: np.ndarray, *, shape: tuple[int, ...] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = _idx_bytes(values, shape=shape)
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def _mnist_like(folder: Path, *, ending: str = ".gz") -> Path:
    _write(folder / f"train-images-idx3-ubyte{ending}", _images(4))
    _write(folder / f"train-labels-idx1-ubyte{ending}", _labels(1, 0, 7, 1))
    _write(folder / f"t10k-images-idx3-ubyte{ending}", _images(2, first=100))
    _write(folder / f"t10k-labels-idx1-ubyte{ending}", _labels(7, 0))
    return folder


@pytest.mark.parametrize("dtype", TYPE_CODES)
@pytest.mark.parametrize("name", ["a-images-idx3-ubyte", "a-images-idx3-ubyte.gz"])
def test_read_idx_gives_values_shape_and_native_dtype(tmp_path: Path, dtype: str, name: str) -> None:
    values = np.array([[1, 2, 100], [-4, 5, 6]]).astype(dtype)
    read = idx.read_idx(_write(tmp_path / name, values))
    np.testing.assert_array_equal(read, values)
    assert read.dtype == np.dtype(dtype)
    assert read.dtype.isnative


@pytest.mark.parametrize("ending", [".gz", ""], ids=["gzipped", "plain"])
def test_train_and_t10k_become_train_and_test(tmp_path: Path, ending: str) -> None:
    source = open_source(str(_mnist_like(tmp_path / "mnist", ending=ending)))
    train, test = source.splits["train"], source.splits["test"]
    assert set(source.splits) == {"train", "test"}
    assert train.class_names == ("0", "1", "7")
    assert [train.class_names[label] for label in train.labels] == ["1", "0", "7", "1"]
    assert [test.class_names[label] for label in test.labels] == ["7", "0"]
    np.testing.assert_array_equal(np.asarray(train.read(2))[..., 0], _images(4)[2])
    np.testing.assert_array_equal(np.asarray(test.read(1))[..., 2], _images(2, first=100)[1])
    assert train.image_name(2) == f"train-images-idx3-ubyte{ending}/2"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        ("train-images.idx3-ubyte", "train-labels.idx1-ubyte"),
        ("emnist-letters-train-images-idx3-ubyte.gz", "emnist-letters-train-labels-idx1-ubyte.gz"),
        ("Train-Images-IDX3-ubyte", "Train-Labels-IDX1-ubyte"),
        ("images-idx3-ubyte", "labels-idx1-ubyte"),
    ],
)
def test_other_spellings_pair_up(tmp_path: Path, images: str, labels: str) -> None:
    _write(tmp_path / images, _images(2))
    _write(tmp_path / labels, _labels(5, 3))
    split = open_source(str(tmp_path)).training_split()
    assert [split.class_names[label] for label in split.labels] == ["5", "3"]


def test_qmnist_labels__the_first_column_is_the_class(tmp_path: Path) -> None:
    _write(tmp_path / "qmnist-train-images-idx3-ubyte", _images(2))
    _write(tmp_path / "qmnist-train-labels-idx2-int", np.array([[5, 0, 9], [3, 1, 9]], dtype=np.int32))
    split = open_source(str(tmp_path)).training_split()
    assert [split.class_names[label] for label in split.labels] == ["5", "3"]


def test_class_numbers_sort_as_numbers(tmp_path: Path) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", _images(3))
    _write(tmp_path / "train-labels-idx1-ubyte", _labels(10, 9, 1))
    assert open_source(str(tmp_path)).training_split().class_names == ("1", "9", "10")


def test_only_fashion_is_to_be_mirrored(tmp_path: Path) -> None:
    assert open_source(str(_mnist_like(tmp_path / "Fashion-MNIST"))).is_flippable
    assert not open_source(str(_mnist_like(tmp_path / "kmnist"))).is_flippable


@pytest.mark.parametrize(("change", "found"), [(-1, "more than 36"), (1, "48")])
def test_a_header_that_lies_is_an_error(tmp_path: Path, change: int, found: str) -> None:
    path = _write(tmp_path / "a-images-idx3-ubyte", _images(4), shape=(4 + change, 3, 4))
    with pytest.raises(DataError) as caught:
        idx.read_idx(path)
    assert str(path) in str(caught.value)
    assert f"{4 + change}x3x4 values ({12 * (4 + change)} bytes), but {found} bytes follow" in str(caught.value)


def test_a_header_that_lies_hugely_is_an_error_not_an_allocation(tmp_path: Path) -> None:
    path = _write(tmp_path / "a", _images(1), shape=(2**32 - 1,) * 3)
    with pytest.raises(DataError, match="4294967295x4294967295x4294967295 values"):
        idx.read_idx(path)


def test_a_truncated_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gz", np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read .*it may be truncated: copy it again"):
        idx.read_idx(path)


def test_a_damaged_gzip_file_is_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.gz", np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot be read"):
        idx.read_idx(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0\0", b"\0\0\x08", b"hello world", b"\0\0\x07\x01\0\0\0\0", b"\0\0\x08\0", b"\0\0\x08\x03\0\0\0\x01"],
    ids=["empty", "2 bytes", "3 bytes", "text", "type code", "no dimensions", "half a header"],
)
def test_what_is_not_idx_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(DataError, match="is not an IDX file|bytes follow its header"):
        idx.read_idx(tmp_path / "a")


def test_images_without_labels_are_an_error_that_names_the_file_expected(tmp_path: Path) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", _images(2))
    _write(tmp_path / "t10k-labels-idx1-ubyte", _labels(1, 2))  # of another set
    with pytest.raises(DataError, match="train-images-idx3-ubyte has no labels beside it.*train-labels-idx1-ubyte"):
        open_source(str(tmp_path)).training_split()


def test_more_images_than_labels_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", _images(3))
    _write(tmp_path / "train-labels-idx1-ubyte", _labels(1, 2))
    with pytest.raises(DataError, match="holds 3 images but train-labels-idx1-ubyte holds 2 labels"):
        open_source(str(tmp_path)).training_split()


def test_two_training_sets_in_a_folder_are_an_error(tmp_path: Path) -> None:
    for name in ("emnist-digits-train", "emnist-letters-train"):
        _write(tmp_path / f"{name}-images-idx3-ubyte", _images(1))
        _write(tmp_path / f"{name}-labels-idx1-ubyte", _labels(1))
    with pytest.raises(DataError, match="more than one train set.*emnist-letters-train-images-idx3-ubyte is the"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("images", [_images(2).astype(np.int16), _images(2).reshape(2, 12)], ids=["int16", "flat"])
def test_images_that_are_not_8_bit_pictures_are_an_error(tmp_path: Path, images: np.ndarray) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", images)
    _write(tmp_path / "train-labels-idx1-ubyte", _labels(1, 2))
    with pytest.raises(DataError, match="expected 8-bit greyscale"):
        open_source(str(tmp_path)).training_split()


def test_no_images_at_all_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", _images(0))
    _write(tmp_path / "train-labels-idx1-ubyte", _labels())
    with pytest.raises(DataError, match="holds no images"):
        open_source(str(tmp_path)).training_split()


def test_a_folder_is_recognised_by_its_images_file(tmp_path: Path) -> None:
    (tmp_path / "train-images-idx3-ubyte").mkdir()  # a folder of that name is not a file
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(b"")
    assert not idx.recognises(str(tmp_path))
    assert not idx.recognises(str(tmp_path / "missing"))
    (tmp_path / "x-images-idx3-ubyte").write_bytes(b"")
    assert idx.recognises(str(tmp_path))


def test_a_file_beside_its_gzipped_self_is_read_once(tmp_path: Path) -> None:
    folder = _mnist_like(tmp_path / "raw", ending="")
    for path in list(folder.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert set(open_source(str(folder)).splits) == {"train", "test"}


def test_test_files_alone_are_no_training_images(tmp_path: Path) -> None:
    folder = _mnist_like(tmp_path / "raw")
    for path in folder.glob("train*"):
        path.unlink()
    with pytest.raises(DataError, match="no training images, only the split test"):
        open_source(str(folder)).training_split()


def test_training_never_opens_the_test_files(tmp_path: Path) -> None:
    folder = _mnist_like(tmp_path / "raw")
    for path in folder.glob("t10k-images*"):
        path.write_bytes(path.read_bytes()[:20])
    assert len(open_source(str(folder)).training_split())
    with pytest.raises(DataError, match="cannot be read"):
        open_source(str(folder)).split("test")


def _refusal(read: Callable[[], object]) -> tuple[str, float]:
    """Return the sentence with which ``read`` refuses, and the most MiB it held meanwhile."""
    tracemalloc.start()
    try:
        with pytest.raises(DataError) as caught:
            read()
        return str(caught.value), tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


FALSE_HEADERS = {
    "train-images-idx3-ubyte": "holds 4000000000x28x28 values (3,136,000,000,000 bytes), but 24 bytes follow",
    "train-images-idx3-ubyte.gz": "that 2.85 TiB are packed into its 55 bytes; expected at most 100 times its size",
}


@pytest.mark.parametrize("name", FALSE_HEADERS)
def test_a_header_that_claims_four_billion_images_costs_no_memory(tmp_path: Path, name: str) -> None:
    path = _write(tmp_path / name, _images(2), shape=(4_000_000_000, 28, 28))
    sentence, peak = _refusal(lambda: idx.read_idx(path))
    assert f"{path} says " in sentence
    assert FALSE_HEADERS[name] in sentence
    assert peak < 1


def test_images_are_held_once_while_they_are_read(tmp_path: Path) -> None:
    values = np.zeros((40, 1024, 1024), np.uint8)
    path = _write(tmp_path / "train-images-idx3-ubyte.gz", values)
    del values
    tracemalloc.start()
    try:
        assert idx.read_idx(path).nbytes == 40 << 20
        assert tracemalloc.get_traced_memory()[1] < 60 << 20  # and pieces of 4
    finally:
        tracemalloc.stop()


def test_a_gzip_file_that_holds_more_than_its_header_says_is_not_unpacked(tmp_path: Path) -> None:
    content = _idx_bytes(_images(2)) + bytes(64 << 20)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(content, compresslevel=1))
    assert path.stat().st_size < 1 << 20 < len(content)
    sentence, peak = _refusal(lambda: idx.read_idx(path))
    assert f"{path} says it holds 2x3x4 values (24 bytes), but more than 24 bytes follow its header" in sentence
    assert peak < 8


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_a_byte_too_many_is_an_error(tmp_path: Path, name: str) -> None:
    content = _idx_bytes(_images(2)) + b"x"
    (tmp_path / name).write_bytes(gzip.compress(content) if name == "a.gz" else content)
    with pytest.raises(DataError, match="but more than 24 bytes follow its header"):
        idx.read_idx(tmp_path / name)


@pytest.mark.parametrize("name", ["a", "a.gz"])
def test_files_longer_than_a_piece_are_read_whole(tmp_path: Path, name: str) -> None:
    values = np.resize(np.arange(251, dtype=np.uint8), (3, 2600, 2200))  # 17,160,000 bytes; a piece is 2**22
    content = _idx_bytes(values)
    (tmp_path / name).write_bytes(gzip.compress(content, compresslevel=1) if name == "a.gz" else content)
    np.testing.assert_array_equal(idx.read_idx(tmp_path / name), values)


def test_a_gzip_file_cut_anywhere_is_an_error(tmp_path: Path) -> None:
    whole = gzip.compress(_idx_bytes(np.random.default_rng(0).integers(0, 256, (9, 9, 9), dtype=np.uint8)))
    for length in (2, 10, 15, 30, len(whole) // 2, len(whole) - 9):
        (tmp_path / "a.gz").write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a\.gz cannot be read .*it may be truncated: copy it again"):
            idx.read_idx(tmp_path / "a.gz")


def test_a_gzip_file_in_two_parts_is_one(tmp_path: Path) -> None:
    content = _idx_bytes(_images(4))
    (tmp_path / "a.gz").write_bytes(gzip.compress(content[:30]) + gzip.compress(content[30:]))
    np.testing.assert_array_equal(idx.read_idx(tmp_path / "a.gz"), _images(4))


def test_more_dimensions_than_numpy_has_is_an_error(tmp_path: Path) -> None:
    _write(tmp_path / "a", np.zeros(1, dtype=np.uint8), shape=(1,) * 100)
    with pytest.raises(DataError, match=f"^{tmp_path}/a "):
        idx.read_idx(tmp_path / "a")


def test_a_folder_in_the_place_of_labels_is_no_file(tmp_path: Path) -> None:
    _write(tmp_path / "train-images-idx3-ubyte", _images(2))
    (tmp_path / "train-labels-idx1-ubyte").mkdir()
    with pytest.raises(DataError, match="has no labels beside it"):
        open_source(str(tmp_path)).training_split()


@pytest.mark.parametrize("shape", [(4, 0, 5), (4, 5, 0), (4, 0, 0)])
def test_images_without_a_side_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = _mnist_like(tmp_path / "raw", ending="")
    _write(folder / "train-images-idx3-ubyte", np.zeros(shape, np.uint8))
    with pytest.raises(DataError, match=f"holds images of {shape[1]}x{shape[2]} px; expected 1 or more"):
        open_source(str(folder)).split("train")


def test_labels_without_a_column_are_refused(tmp_path: Path) -> None:
    folder = _mnist_like(tmp_path / "raw", ending="")
    _write(folder / "train-labels-idx1-ubyte", np.zeros((4, 0), np.uint8))
    with pytest.raises(DataError, match="expected as many of each"):
        open_source(str(folder)).split("train")


def test_a_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-images-idx3-ubyte")
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte cannot be read \(it is no regular file\); expected an"
    ):
        idx.read_idx(tmp_path / "train-images-idx3-ubyte")
