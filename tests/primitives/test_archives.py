"""Archives of arrays that say more than is true: nothing of them is unpacked."""

import io
import tracemalloc
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.errors import DataError, ModelError
from vitctl.primitives import memory
from vitctl.primitives.archives import check_archive, open_arrays


def _npy(shape: tuple[int, ...], content: bytes = b"") -> bytes:
    """Return a ``.npy`` file of float32 whose header says ``shape``, whatever follows."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + content


def _zip(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def _read(path: Path, names: Collection[str] | None = None) -> dict[str, Any]:
    with path.open("rb") as file, open_arrays(file, where=path, error=DataError, names=names) as archive:
        return {name: archive[name] for name in names or archive.files}


def test_open_arrays__gives_what_numpy_saved(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6.0).reshape(2, 3), "b": np.array(3, np.int8), "c": np.zeros((0, 4)), "d": np.array(["x"])}
    for number, save in enumerate((np.savez, np.savez_compressed)):
        save(tmp_path / f"{number}.npz", **arrays)
        for name, array in _read(tmp_path / f"{number}.npz").items():
            np.testing.assert_array_equal(array, arrays[name], strict=True)


def test_open_arrays__a_member_that_is_no_array_is_its_bytes(tmp_path: Path) -> None:
    assert _read(_zip(tmp_path / "a.npz", {"note": b"hello", "empty": b""})) == {"note": b"hello", "empty": b""}


@pytest.mark.parametrize("shape", [(10**12,), (2**31, 2**31, 2**31), (101,)])
def test_open_arrays__a_header_that_lies(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = _zip(tmp_path / "a.npz", {"good.npy": _npy((1,), bytes(4)), "bad.npy": _npy(shape, bytes(200))})
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=r"a\.npz says that bad\.npy holds [\d,]+ bytes, and it has 328; expected"):
            _read(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert _read(path, ["good"])["good"] == 0  # what is not read does no harm


def test_open_arrays__a_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "SMALL_BYTES", 2**20)
    content = _npy((2**19,), bytes(2**21))
    with pytest.raises(DataError, match=r"a\.npz says that 2 MiB are packed into its 2\.\d+ KiB"):
        _read(_zip(tmp_path / "a.npz", {"a.npy": content}))
    np.savez(tmp_path / "b.npz", a=np.zeros(2**19))  # as large, not packed
    assert len(_read(tmp_path / "b.npz")["a"]) == 2**19


def test_open_arrays__more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 1000)
    np.savez(tmp_path / "a.npz", a=np.zeros(100), b=np.zeros(1))
    with pytest.raises(DataError, match=r"a\.npz holds would take 1\.04 KiB of memory, and 0\.977 KiB are free"):
        _read(tmp_path / "a.npz")
    assert _read(tmp_path / "a.npz", ["b"])["b"] == 0


@pytest.mark.parametrize(
    "content", [b"", b"PK", _npy((10**12,)), b"\x93NUMPY\x03\x00" + bytes(10)], ids=["empty", "PK", "npy", "3.0"]
)
def test_open_arrays__no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(zipfile.BadZipFile):
        _read(tmp_path / "a.npz")


@pytest.mark.parametrize("content", [_npy((-1,)), _npy((1,))[:6], b"\x93NUMPY\x03\x00" + bytes(10)])
def test_open_arrays__a_header_that_is_none(tmp_path: Path, content: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        _read(_zip(tmp_path / "a.npz", {"a.npy": content}))


def test_check_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _zip(tmp_path / "a.pth", {"archive/data/0": bytes(2**21)})
    check_archive(path, error=ModelError)
    monkeypatch.setattr(memory, "SMALL_BYTES", 2**20)
    with pytest.raises(ModelError, match="packed into its"):
        check_archive(path, error=ModelError)
    (tmp_path / "b").write_bytes(b"no archive")
    check_archive(tmp_path / "b", error=ModelError)
