"""Features that somebody else computed: what is read of a file, what is refused, what is warned of."""

import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.conversation import Conversation
from vitctl.errors import DataError
from vitctl.evaluation.feature_file import read_features


class Listener(Conversation):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def arrays() -> dict[str, Any]:
    """12 and 6 rows of width 4 in three classes, all numbers different."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(size=(12, 4)).astype(np.float32),
        "y_train": np.tile([0, 1, 2], 4).astype(np.uint8),
        "x_test": rng.normal(size=(6, 4)).astype(np.float32),
        "y_test": np.tile([0, 1, 2], 2).astype(np.int16),
    }


@pytest.fixture
def read(tmp_path: Path, arrays: dict[str, Any]) -> Callable[..., tuple[dict[str, np.ndarray], list[str]]]:
    """Return ``read(name=array)``: what is read of a file with those arrays replaced, and the warnings."""

    def write_and_read(**changed: Any) -> tuple[dict[str, np.ndarray], list[str]]:
        np.savez(tmp_path / "f.npz", allow_pickle=True, **(arrays | changed))
        listener = Listener()
        return read_features(tmp_path / "f.npz", listener), listener.warnings

    return write_and_read


def test_features__come_as_they_are_and_labels_as_int64(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    found, warnings = read(more=np.zeros(3))
    assert list(found) == ["x_train", "y_train", "x_test", "y_test"]
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["x_train"].dtype == np.float32
    assert found["y_train"].dtype == found["y_test"].dtype == np.int64
    assert warnings == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8])
def test_features__of_any_real_kind(read: Callable[..., Any], dtype: type) -> None:
    x = np.arange(48).reshape(12, 4).astype(dtype)
    found, _ = read(x_train=x)
    np.testing.assert_array_equal(found["x_train"], x)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x_train": np.zeros((11, 4))}, r"x_train is \(11, 4\) and y_train \(12,\)"),
        ({"x_train": np.zeros((12, 4, 1))}, r"x_train is \(12, 4, 1\)"),
        ({"x_train": np.zeros((12, 0))}, r"x_train is \(12, 0\)"),
        ({"y_test": np.int64(3)}, r"y_test \(\)"),
        ({"y_train": np.zeros((12, 1), int)}, r"y_train \(12, 1\)"),
        ({"x_test": np.zeros((6, 5))}, "x_train is 4 wide and x_test 5"),
        ({"x_train": np.zeros((12, 4), bool)}, "x_train holds bool; expected real numbers"),
        ({"x_train": np.zeros((12, 4), "datetime64[s]")}, "x_train holds datetime64"),
        ({"y_train": np.zeros(12)}, "y_train holds float64; expected whole numbers from 0"),
        ({"y_train": np.zeros(12, bool)}, "y_train holds bool"),
        ({"y_test": np.array([0, 1, 2, 0, 1, -5])}, "y_test holds the label -5"),
        ({"y_test": np.array([0, 1, 2, 0, 1, 3])}, "y_test holds class 3, y_train only 0 to 2"),
        ({"y_train": np.full(12, 2**63 + 1, np.uint64)}, "y_train holds"),
        # a label is a position in a list of classes: a list this long fits into no memory
        ({"y_train": np.array([0] * 11 + [10**12])}, "y_train holds"),
    ],
)
def test_features__that_do_not_fit_are_refused(
    read: Callable[..., Any], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read(**changed)


def test_features__numbers_that_are_not_finite_are_counted_and_the_first_is_named(
    read: Callable[..., Any], arrays: dict[str, Any]
) -> None:
    x = arrays["x_test"].copy()
    x[4, 1], x[2, 3], x[5] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match="x_test holds 6 numbers that are not finite, the first at row 2, column 3"):
        read(x_test=x)


def test_features__nothing_is_unpickled(read: Callable[..., Any], tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harm",)

    with pytest.raises(DataError, match="cannot be read"):
        read(x_train=np.array([[Harm()] * 4] * 12, dtype=object))
    assert not (tmp_path / "harm").exists()


def test_features__missing_arrays_and_those_there_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.zeros(3), y_test=np.zeros(3))
    with pytest.raises(DataError, match=r"lacks x_train, y_train, x_test; expected .* It holds features, y_test\."):
        read_features(tmp_path / "f.npz", Conversation())


def test_features__that_never_vary_are_counted(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    x = arrays["x_train"].copy()
    x[:, 1] = x[:, 3] = 0.1
    (warning,) = read(x_train=x)[1]
    assert "2 of the 4 features of" in warning
    assert warning.endswith("never vary; they get no weight.")
    (warning,) = read(x_train=np.ones((12, 4), np.float32))[1]
    assert "4 of the 4 features of" in warning
    assert "Every prediction is a guess" in warning


def test_features__rows_of_both_halves_are_counted(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    x = arrays["x_test"].copy()
    x[1], x[4] = arrays["x_train"][7], arrays["x_train"][0]
    (warning,) = read(x_test=x)[1]
    assert "2 of the 6 rows of x_test are also rows of x_train" in warning
    (warning,) = read(x_test=x.astype(np.float64))[1]  # the same numbers
    assert "2 of the 6 rows" in warning


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("content", [b"no array", b""])
def test_a_member_that_is_no_array__is_named(
    tmp_path: Path, arrays: dict[str, Any], method: int, content: bytes
) -> None:
    np.savez(tmp_path / "whole.npz", allow_pickle=False, **arrays)
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "f.npz", "w", method) as changed:
        for name in whole.namelist():
            changed.writestr(name, content if name == "y_test.npy" else whole.read(name))
    with pytest.raises(DataError, match=r"y_test is no array; expected an \.npz file as np\.savez writes it"):
        read_features(tmp_path / "f.npz", Listener())


def test_a_pipe__is_refused_unopened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "f.npz")
    with pytest.raises(DataError, match="it is no regular file"):
        read_features(tmp_path / "f.npz", Listener())
