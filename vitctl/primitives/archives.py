"""Archives of arrays (``.npz``), looked through before they are believed."""

import math
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile

from vitctl.primitives.documents import Refusal
from vitctl.primitives.memory import check_declared

_HEADERS = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}


def open_arrays(file: BinaryIO, *, where: Path | str, error: Refusal, names: Collection[str] | None = None) -> NpzFile:
    """Return an ``.npz`` file whose members are as large as they say, and fit into memory together.

    Args:
        file: The file; stays open as long as what is returned.
        where: What to call it.
        error: What to raise.
        names: The arrays that will be read; None is all of them.

    Raises:
        VitctlError: ``error``; an array is larger than its member, all of them are too large, or packed too well.
        Exception: Whatever numpy and zipfile raise for a damaged archive.
    """
    if not zipfile.is_zipfile(file):  # numpy would take it for a pickle, and say so
        raise zipfile.BadZipFile("it is no zip archive")
    file.seek(0)
    archive: NpzFile = np.load(file, allow_pickle=False)
    members = [
        member
        for member in _members(archive)
        if names is None or member.filename in names or member.filename.removesuffix(".npy") in names
    ]
    check_declared(sum(member.file_size for member in members), _size(file), where=where, error=error)
    for member in members:
        declared = _declared_bytes(archive, member)
        if declared is not None and declared > member.file_size:
            raise error(
                f"{where} says that {member.filename} holds {declared:,} bytes, and it has {member.file_size:,}; "
                "expected an array as np.savez writes it. It may be truncated: copy it again."
            )
    return archive


def check_archive(path: Path, *, error: Refusal) -> None:
    """Check the sizes that the members of a zip archive declare; other files pass.

    Raises:
        VitctlError: ``error``; they are too large, or packed too well.
        Exception: Whatever zipfile raises for a damaged archive.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            total = sum(member.file_size for member in archive.infolist())
        check_declared(total, path.stat().st_size, where=path, error=error)


def _members(archive: NpzFile) -> list[zipfile.ZipInfo]:
    opened = archive.zip
    return [] if opened is None else opened.infolist()


def _size(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, 2)
    file.seek(place)
    return size


def _declared_bytes(archive: NpzFile, member: zipfile.ZipInfo) -> int | None:
    """Return how much the array in a member takes, by its header; None where it is no array of plain numbers."""
    assert archive.zip is not None
    with archive.zip.open(member) as file:
        if file.read(len(npy.MAGIC_PREFIX)) != npy.MAGIC_PREFIX:
            return None
        read_header = _HEADERS.get((file.read(1)[0], file.read(1)[0]))
        if read_header is None:  # 3.0 is of arrays with named fields alone
            raise ValueError(f"{member.filename} holds no plain numbers")
        shape, _, dtype = read_header(file)
    if any(side < 0 for side in shape):
        raise ValueError(f"{member.filename} has a negative side")
    return math.prod(shape) * dtype.itemsize
