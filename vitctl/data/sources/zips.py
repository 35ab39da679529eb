"""A ``.zip`` of class folders, or of splits that hold class folders: read without unpacking it.

It is read as the folder that it unpacks to (``vitctl.data.layouts``), its images at random. Nothing is written, so that
a member's name can lead nowhere: ``../`` and a first slash mean nothing in it, as for Info-ZIP's unzip.
"""

import io
import os
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from vitctl.data.class_folders import source_of_tree
from vitctl.data.endings import is_hidden_name, part_images
from vitctl.data.images import open_image
from vitctl.data.source import Source, SourceOptions
from vitctl.errors import DataError
from vitctl.primitives.cache import file_stamp
from vitctl.primitives.documents import foreign
from vitctl.primitives.files import user_path
from vitctl.primitives.memory import check_declared
from vitctl.primitives.natural_order import natural_key

OPTIONS: tuple[str, ...] = ("class_depth",)
# https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
_UTF8, _ENCRYPTED = 0x800, 0x1  # flags, 4.4.4
_HEADER_BYTES = 30  # of a local header, 4.3.7
_LINK = -1
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_METHODS += (zipfile.ZIP_ZSTANDARD,) if hasattr(zipfile, "ZIP_ZSTANDARD") else ()  # from Python 3.14 on
_OTHER_METHODS = {9: "Deflate64, as Windows does large files", 93: "Zstandard", 95: "XZ", 98: "PPMd"}  # 4.4.5
_EXPECTED = "a whole zip archive; it may be truncated: copy it again"


@dataclass(frozen=True)
class ZipImages:
    """Images in a zip archive, by where their bytes lie: every image opens the file anew, and no list of it is kept.

    Attributes:
        archive: Path of the archive.
        places: (N,) where they are in it.
        members: (N, 5) int64: first byte of the local header, number of bytes packed and unpacked, CRC-32, method of
            packing (-1 for a link).
    """

    archive: str
    places: tuple[str, ...]
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.places)

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` from its bytes, which are unpacked into memory.

        Raises:
            ValueError: It is packed too well to be an image, is a link, or the archive has changed.
            Exception: What zipfile and Pillow raise for damaged data.
        """
        start, packed, size, crc, method = (int(number) for number in self.members[row])
        member = zipfile.ZipInfo(self.places[row])
        member.header_offset, member.compress_size, member.file_size = start, packed, size
        member.CRC, member.compress_type = crc, method
        return open_image(io.BytesIO(_unpacked(self.archive, member)))

    def name(self, row: int) -> str:
        """Return the archive's path, a slash, and the place in it."""
        return f"{self.archive}/{self.places[row]}"

    def stamp(self, row: int) -> str:
        """Return a text that changes with the archive."""
        return file_stamp(self.archive)


def _unpacked(archive: str, member: zipfile.ZipInfo) -> bytes:
    if member.compress_type == _LINK:
        raise ValueError("a link, which leads nowhere in an archive")
    _check_size(member)
    with open(archive, "rb") as file:
        file.seek(member.header_offset)
        header = file.read(_HEADER_BYTES)
        if len(header) < _HEADER_BYTES or header[:4] != b"PK\x03\x04":
            raise ValueError("not where the archive has it; the archive is damaged or has changed")
        file.seek(sum(struct.unpack("<HH", header[26:])), os.SEEK_CUR)  # the name and what more there is
        # without ZipFile, which lists the whole archive first, in every process, and shares a place in the file
        return zipfile.ZipExtFile(file, "r", member).read()


def _check_size(member: zipfile.ZipInfo) -> None:
    """Check the size that a member declares before it is unpacked; zipfile unpacks no more of it.

    Raises:
        ValueError: It is too large, or packed too well.
    """
    try:
        check_declared(member.file_size, member.compress_size, where="it", error=DataError)
    except DataError as error:
        raise ValueError(str(error)) from error


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a file that ends in ``.zip``."""
    path = user_path(spec)
    return path.suffix.lower() == ".zip" and path.is_file()


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the splits of the archive ``spec``: train, val, test as they are there, or ``all``.

    Raises:
        DataError: It is no whole zip archive, is encrypted or packed in a way that Python cannot read, or nobody can
            tell its splits. A split that holds no image raises it when it is asked for.
    """
    path = user_path(spec).absolute()
    with foreign(path, DataError, expected=_EXPECTED, kind="a zip archive"), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    source = source_of_tree(ZipTree(path, members), options, spec=str(path), kind="a zip archive")
    return replace(source, notes=(*source.notes, *_on_unknown_letters(path, members)))


class ZipTree:
    """A zip archive as ``vitctl.data.layouts.Tree``.

    Args:
        path: The archive, absolute.
        members: What it holds.

    Raises:
        DataError: An image in it is encrypted, or packed in a way that Python cannot read.
    """

    def __init__(self, path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
        self._path = path
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folders: dict[str, dict[str, None]] = {"": {}}
        self._files: dict[str, dict[str, None]] = {"": {}}
        for member in members:
            parts = _parts(member)
            if not parts or any(is_hidden_name(part) for part in parts):
                continue
            self._add_folders(parts if member.is_dir() else parts[:-1])
            if not member.is_dir():
                self._files["/".join(parts[:-1])][parts[-1]] = None
                self._members["/".join(parts)] = member
        _check_readable(path, members)

    def _add_folders(self, parts: Sequence[str]) -> None:
        for depth, name in enumerate(parts):
            above, place = "/".join(parts[:depth]), "/".join(parts[: depth + 1])
            self._folders[above][name] = None
            self._folders.setdefault(place, {})
            self._files.setdefault(place, {})

    def folders(self, place: str) -> list[str]:
        """Return the names of the folders in one."""
        return sorted(self._folders[place], key=natural_key)

    def files(self, place: str) -> list[str]:
        """Return the names of the files in a folder."""
        return list(self._files[place])

    def walk(self, place: str) -> Iterator[str]:
        """Yield the paths, from a folder on, of the files in and below it."""
        start = f"{place}/" if place else ""
        return (one[len(start) :] for one in self._members if one.startswith(start))

    def where(self, place: str) -> str:
        """Return the archive's path and the place in it."""
        return f"{self._path}/{place}" if place else str(self._path)

    def images(self, places: Sequence[str]) -> ZipImages:
        """Return files as images."""
        members = [_numbers(self._members[place]) for place in places]
        return ZipImages(str(self._path), tuple(places), np.array(members, dtype=np.int64).reshape(-1, 5))


def _numbers(member: zipfile.ZipInfo) -> tuple[int, ...]:
    is_link = stat.S_ISLNK(member.external_attr >> 16)
    method = _LINK if is_link else member.compress_type
    return member.header_offset, member.compress_size, member.file_size, member.CRC, method


def _parts(member: zipfile.ZipInfo) -> list[str]:
    """Return the folders and the name of a member, ``[]`` where nothing is left of them."""
    name = _in_utf8(member) or member.filename
    if "/" not in name:  # some programs of Windows write theirs
        name = name.replace("\\", "/")
    return [part for part in name.split("/") if part not in ("", ".", "..")]


def _in_utf8(member: zipfile.ZipInfo) -> str | None:
    """Return the name of a member; None where its bytes are no UTF-8, and ``filename`` holds IBM's letters for them.

    Without a flag they are of no known encoding by the book; macOS writes UTF-8 all the same.
    """
    if member.flag_bits & _UTF8:
        return member.filename
    try:
        written = member.filename.encode("cp437")
    except UnicodeError:  # told by an extra field, which Python from 3.12 on reads
        return member.filename
    try:
        return written.decode()
    except UnicodeError:
        return None


def _on_unknown_letters(path: Path, members: Sequence[zipfile.ZipInfo]) -> list[str]:
    """Return a sentence where names are in the letters of some country's Windows, and nobody knows which."""
    unknown = [parts for member in members if _in_utf8(member) is None and (parts := _parts(member))]
    if not unknown:
        return []
    number = "1 name" if len(unknown) == 1 else f"{len(unknown):,} names"
    return [
        f"{number} in {path} {'is' if len(unknown) == 1 else 'are'} neither ASCII nor UTF-8, as Windows packs in other "
        f"languages; {'/'.join(unknown[0])} is the first as it is read here (code page 437). If classes are spelt "
        "wrongly, unpack it on a system of that language and give the folder."
    ]


def _check_readable(path: Path, members: Sequence[zipfile.ZipInfo]) -> None:
    images = frozenset(part_images(member.filename for member in members)[0])
    of_images = [member for member in members if member.filename in images]
    closed = [member for member in of_images if member.flag_bits & _ENCRYPTED]
    if closed:
        raise DataError(
            f"{path} is encrypted ({len(closed):,} images, {closed[0].filename} first); expected an archive without a "
            "password. Unpack it and give the folder."
        )
    packed = next((member for member in of_images if member.compress_type not in _METHODS), None)
    if packed is not None:
        how = _OTHER_METHODS.get(packed.compress_type, f"method {packed.compress_type}")
        raise DataError(
            f"{path} packs {packed.filename} by {how}, which Python does not read; "
            "expected deflate, bzip2, lzma or none. Unpack it and give the folder."
        )
