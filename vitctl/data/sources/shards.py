"""WebDataset ``.tar`` shards: a path, a glob (``train-*.tar``), a range (``train-{000..009}.tar``) or a folder.

Members that share a name up to the first dot belong together: ``0001.jpg`` with its class in ``0001.cls`` (text
or an integer) or in a field of ``0001.json``. Shards without such members may hold class folders
(``cat/1.jpg``). A shard is indexed once (where each member begins; the index is kept in vitctl's cache), then
images are read at random, in any order, without unpacking. Format: https://github.com/webdataset/webdataset.
"""

import contextlib
import glob
import io
import json
import os
import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import Field

from vitctl.data.columns import LABEL_COLUMNS, SPLIT_NAMES, split_named
from vitctl.data.endings import ending_of, image_endings, is_hidden, left_out_sentence, part_images, together
from vitctl.data.groups import group_names
from vitctl.data.images import open_image
from vitctl.data.labels import class_names
from vitctl.data.source import LazySplits, Source, SourceOptions, Split, split_from_names
from vitctl.errors import DataError
from vitctl.primitives.cache import cache_folder, clear_old, file_stamp, keep, recall
from vitctl.primitives.documents import UnusableDocument, foreign, parse_document
from vitctl.primitives.files import short_hash, user_path
from vitctl.primitives.natural_order import natural_key
from vitctl.primitives.schemas import Name, Schema

OPTIONS: tuple[str, ...] = ("label_column", "group_column")
INDEX_VERSION = 3
OLD_INDEX = r"(?s:.+)-[0-9a-f]{16}\.json"  # the names of earlier versions: a shard's, and the hash of its path
MAX_TEXT = 1_000  # a longer field of a .json is a caption, no class or group
MAX_LABEL_BYTES = 1 << 20  # a .cls or .json member above this is no label
Start = Annotated[int, Field(ge=0, lt=2**63)]
MAX_SHARDS, MAX_DIGITS = 1_000_000, 18  # guess: LAION-5B has 231,000 shards
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")


@dataclass(frozen=True)
class Member:
    """An image in a shard.

    Attributes:
        name: As the archive has it.
        start: Where its bytes begin in the shard.
        size: Number of bytes.
        fields: What belongs to it: ``cls`` as text, the fields of its ``.json``.
    """

    name: str
    start: int
    size: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class ShardImages:
    """Images in tar shards, by where their bytes lie.

    Attributes:
        shards: Paths of the shards.
        names: (N,) member names.
        places: (N, 3) int64: shard, first byte, number of bytes.
    """

    shards: tuple[str, ...]
    names: tuple[str, ...]
    places: np.ndarray

    def __len__(self) -> int:
        return len(self.names)

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` from its bytes."""
        shard, start, size = (int(number) for number in self.places[row])
        with open(self.shards[shard], "rb") as file:
            file.seek(start)
            return open_image(io.BytesIO(file.read(size)))

    def name(self, row: int) -> str:
        """Return the shard's path, a slash, and the member's name."""
        return f"{self.shards[self.places[row, 0]]}/{self.names[row]}"

    def stamp(self, row: int) -> str:
        """Return a text that changes with the shard."""
        return file_stamp(self.shards[self.places[row, 0]])


def recognises(spec: str) -> bool:
    """Return whether ``spec`` names tar files, or is a folder that holds some and no class folders."""
    path = user_path(spec)
    if path.is_dir():
        inside = [one for one in path.iterdir() if not is_hidden(one, below=path)]
        has_folders = any(one.is_dir() and one.suffix.lower() != ".tar" for one in inside)
        return any(_is_shard(one) for one in inside) and not has_folders
    is_pattern = bool(_RANGE.search(spec)) or glob.has_magic(spec)
    return spec.lower().endswith((".tar", *_COMPRESSED)) and (is_pattern or path.is_file())


def _is_shard(path: Path) -> bool:
    return path.suffix.lower() == ".tar" and path.is_file()


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the images of the shards ``spec``; shards with train, val or test in their names are those splits.

    Raises:
        DataError: There is no such shard, or one is compressed, truncated or no tar file. A shard without
            labels raises it when its split is asked for.
    """
    if spec.lower().endswith(_COMPRESSED):
        raise DataError(f"{spec} is compressed, so its images cannot be read at random; decompress it to a .tar first.")
    paths = _expand(spec)
    if not paths:
        raise DataError(f"There is no file like {spec}; expected tar shards.")
    by_split: dict[str, list[Path]] = {}
    for path in paths:
        by_split.setdefault(_split_of(path), []).append(path)
    if len(by_split) > 1 and "all" in by_split:
        raise DataError(
            f"{spec} mixes shards of splits with {by_split['all'][0].name}, whose name has neither train, val nor test "
            "in it. Rename it, or name the shards to use."
        )
    if len(by_split) == 1 and "train" in by_split:  # nothing but train: as if there were no splits
        by_split = {"all": by_split["train"]}
    order = [name for name in ("all", "train", "val", "test") if name in by_split]
    readers: dict[str, Callable[[], Split]] = {
        name: partial(_read_split, name, by_split[name], options) for name in order
    }
    number = f"{len(paths)} tar shard{'s' * (len(paths) > 1)}"
    return Source(_absolute(spec), number, LazySplits(readers), options=options)


def _expand(spec: str) -> list[Path]:
    """Return the shards that ``spec`` names, in natural order."""
    path = user_path(spec).absolute()
    if path.is_dir():
        found = [one for one in path.iterdir() if _is_shard(one) and not is_hidden(one, below=path)]
    elif path.is_file():
        found = [path]
    elif match := _RANGE.search(str(path)):
        first, last = match[1], match[2]
        if max(len(first), len(last)) > MAX_DIGITS or int(last) - int(first) >= MAX_SHARDS:
            raise DataError(
                f"{spec} names more than {MAX_SHARDS:,} shards; expected shards that are there. Correct the range."
            )
        numbers = [str(number).zfill(len(first)) for number in range(int(first), int(last) + 1)]
        before, after = str(path)[: match.start()], str(path)[match.end() :]
        missing = next((one for number in numbers if not (one := Path(before + number + after)).is_file()), None)
        if missing is not None:
            raise DataError(f"{missing} is not there; {spec} names {len(numbers)} shards. Correct the range.")
        found = [Path(before + number + after) for number in numbers]
    else:
        found = [Path(one).absolute() for one in glob.glob(os.path.expanduser(spec)) if _is_shard(Path(one))]
    return sorted(found, key=lambda one: natural_key(str(one)))


def _split_of(path: Path) -> str:
    """Return the split that a shard's name, else its folder's, tells; ``all`` where neither does."""
    words = re.split(r"[^a-z]+", path.name.lower())
    return next((SPLIT_NAMES[word] for word in [*words, path.parent.name.lower()] if word in SPLIT_NAMES), "all")


def _absolute(spec: str) -> str:
    """Return ``spec`` so that it means the same from every folder."""
    path = user_path(spec)
    if path.is_absolute() or path.exists() or not glob.has_magic(spec):
        return str(path.absolute())
    return os.path.join(glob.escape(os.getcwd()), spec)


def _read_split(name: str, paths: list[Path], options: SourceOptions) -> Split:
    indexes = [_indexed(path) for path in paths]
    members = [(shard, member) for shard, index in enumerate(indexes) for member in index.members]
    left_out = together(*(index.left_out for index in indexes))
    where = str(paths[0]) + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
    if not members:
        unread = f" {left_out_sentence(left_out)}" * bool(left_out)
        raise DataError(f"{where} holds no image; expected members that end in {' '.join(image_endings())}.{unread}")
    labels = _labels([member for _, member in members], options.label_column, where=where)
    images = ShardImages(
        tuple(map(str, paths)),
        tuple(member.name for _, member in members),
        np.array([(shard, member.start, member.size) for shard, member in members], dtype=np.int64),
    )
    split = replace(split_from_names(name, images, labels), left_out=left_out)
    if options.group_column is None:
        return split
    samples, column = [member for _, member in members], options.group_column
    values = _fields_of(samples, column, "--group-column", where)
    return replace(split, groups=group_names(values, column, where=where, rows=[one.name for one in samples]))


def _labels(members: list[Member], column: str | None, *, where: str) -> list[str]:
    if column is not None:
        return _label_fields(members, column, "--label-column", where)
    names = sorted({key for member in members for key in member.fields if key.lower() in LABEL_COLUMNS})
    column = "cls" if "cls" in names else names[0] if len(names) == 1 else None
    if column is not None:
        return _label_fields(members, column, "", where)
    if names:
        raise DataError(f"{where} has more than one label field: {', '.join(names)}. Choose with --label-column.")
    ways = [[part for part in member.name.split("/")[:-1] if part not in ("", ".")] for member in members]
    without = next((member for member, way in zip(members, ways, strict=True) if not way), None)
    if without is not None:
        raise DataError(
            f"{where} holds no class for {without.name}; expected a member {_stem(without.name)}.cls, a field 'label' "
            f"in {_stem(without.name)}.json, or images in one folder per class."
        )
    shared = 0  # leading folders that all have in common, with a folder below them
    while all(len(way) > shared + 1 and way[shared] == ways[0][shared] for way in ways):
        shared += 1
    classes = [way[shared] for way in ways]
    if "train" in {split_named(name) for name in classes} and all(map(split_named, classes)):
        raise DataError(
            f"{where} holds the splits {', '.join(sorted(set(classes)))} as folders; expected one split per shard. "
            "Pack each into a shard with its name in it, train.tar and so on."
        )
    return classes


def _label_fields(members: list[Member], column: str, option: str, where: str) -> list[str]:
    values = _fields_of(members, column, option, where)
    return class_names(values, column, where=where, rows=[member.name for member in members])


def _fields_of(members: list[Member], column: str, option: str, where: str) -> list[Any]:
    without = next((member for member in members if column not in member.fields), None)
    if without is not None:
        has = ", ".join(without.fields) or "none"
        raise DataError(
            f"{without.name} in {where} has no field {column!r}{f' ({option})' * bool(option)}; it has: {has}."
        )
    return [member.fields[column] for member in members]


# --- the index ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Index:
    """What a shard holds: images in the order they lie there, and how many files of other kinds by ending."""

    members: list[Member]
    left_out: dict[str, int]


class _KeptIndex(Schema):
    """What the cache holds of a shard: its stamp, the fields of each ``Member``, what is left out."""

    stamp: str
    left_out: dict[Name, Start]
    # JSON has no tuples; one entry that is not ours is enough
    members: Annotated[
        list[Annotated[tuple[Name, Start, Start, dict[Name, Any]], Field(strict=False)]], Field(fail_fast=True)
    ]


def _stem(name: str) -> str:
    """Return the name up to the first dot of its last part, which all members of a sample share."""
    folder, _, last = name.rpartition("/")
    return f"{folder}/{last.partition('.')[0]}" if folder else last.partition(".")[0]


def _indexed(path: Path) -> _Index:
    """Return what a shard holds, from the cache where it is known."""
    folder = cache_folder()
    if folder is None:
        return _index(path)
    clear_old(folder / "tar", OLD_INDEX)
    store = folder / "tar" / f"{path.name}-{short_hash(str(path))}.index"
    stamp = f"{INDEX_VERSION}-{short_hash(' '.join(image_endings()))}-{file_stamp(path)}"
    known = recall(store)
    with contextlib.suppress(UnusableDocument):  # unknown, or not what we wrote
        kept = parse_document(known or "", _KeptIndex, is_strict=False)
        if kept.stamp == stamp:
            return _Index([Member(*row) for row in kept.members], kept.left_out)
    index = _index(path)
    rows = [[member.name, member.start, member.size, member.fields] for member in index.members]
    keep(store, json.dumps({"path": str(path), "stamp": stamp, "members": rows, "left_out": index.left_out}))
    return index


def _index(path: Path) -> _Index:
    """Return what a shard holds.

    Raises:
        DataError: It is truncated or no tar file, or a ``.json`` member is not JSON.
    """
    images: dict[str, tuple[int, int]] = {}  # a name that occurs twice means its last member
    places: dict[str, tuple[int, int]] = {}
    fields: dict[str, dict[str, Any]] = {}
    others: dict[str, None] = {}
    size, endings = path.stat().st_size, image_endings()
    with path.open("rb") as file:
        for info in _members(path):
            if info.size < 0 or info.offset_data + info.size > size:
                raise DataError(f"{path} is truncated: it ends within {info.name}. Copy it again.")
            extension = ending_of(info.name)
            inside = Path(info.name)
            if info.isreg() and not info.issparse():
                places[info.name] = (info.offset_data, info.size)
            elif info.islnk() and info.linkname in places:
                places[info.name] = places[info.linkname]
            else:
                continue
            if is_hidden(inside, below=Path("/" if inside.is_absolute() else ".")):
                continue
            start, length = places[info.name]
            if extension in endings:
                images[info.name] = (start, length)
            elif extension in (".cls", ".json") and length <= MAX_LABEL_BYTES:
                file.seek(start)
                known = fields.setdefault(_stem(info.name), {})
                known.update(_fields(file.read(length), extension, f"{info.name} in {path}"))
            else:
                others[info.name] = None
    seen: dict[str, str] = {}
    for name in images:
        other = seen.setdefault(_stem(name), name)
        if other != name and _stem(name) in fields:
            raise DataError(
                f"{path} holds two images of one sample, {other} and {name}; expected one. Keep one of them."
            )
    members = [Member(name, *place, fields.get(_stem(name), {})) for name, place in images.items()]
    return _Index(members, part_images(others)[1])


def _members(path: Path) -> Iterator[tarfile.TarInfo]:
    with foreign(path, DataError, expected="an uncompressed one", kind="a tar file"):
        with tarfile.open(path, "r:") as archive:
            yield from archive
            end = archive.offset
        with path.open("rb") as file:  # tarfile takes a header it cannot read for the end
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE).strip(b"\0"):
                raise DataError(f"{path} is damaged or truncated: there is no member at byte {end:,}. Copy it again.")


def _fields(content: bytes, extension: str, where: str) -> dict[str, Any]:
    try:
        text = content.decode("utf-8-sig")
        if extension == ".cls":
            return {"cls": text.strip()}
        document = parse_document(text, object, is_strict=False)
    except ValueError as error:
        raise DataError(f"{where} cannot be read ({error}); expected UTF-8 text.") from error
    if not isinstance(document, dict):
        return {"label": document}
    return {name: value for name, value in document.items() if not isinstance(value, str) or len(value) <= MAX_TEXT}
