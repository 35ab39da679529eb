"""A folder of IDX files, gzipped or not: the format of MNIST, Fashion-MNIST, KMNIST, QMNIST, EMNIST.

Format: http://yann.lecun.com/exdb/mnist/ (big-endian header: two zero bytes, type code, number of
dimensions, then one 32-bit size per dimension). Files pair up by name: ``X-images-idx3-ubyte`` with
``X-labels-idx1-ubyte``; ``t10k`` or ``test`` in the name makes the test split. Debian's package
``dataset-fashion-mnist`` installs such a folder.
"""

import gzip
import math
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from vitctl.data.source import LazySplits, Source, SourceOptions, Split, split_from_names
from vitctl.data.sources.digits import ArrayImages
from vitctl.errors import DataError
from vitctl.primitives.documents import check_regular, foreign
from vitctl.primitives.files import user_path
from vitctl.primitives.memory import check_declared

OPTIONS: tuple[str, ...] = ()
_NAME = re.compile(r"(?P<set>.*?)[-._]?(?P<kind>images|labels)[-._]idx\d[-._](ubyte|int)(\.gz)?$", re.IGNORECASE)
MAX_DIMS = 4  # images in colour; numpy takes no more than 64
_PIECE = 1 << 22  # bytes
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4"}


def recognises(spec: str) -> bool:
    """Return whether ``spec`` is a folder that holds a file named like IDX images."""
    folder = user_path(spec)
    return folder.is_dir() and any(_kind(path) == "images" for path in folder.iterdir())


def open_source(spec: str, options: SourceOptions) -> Source:
    """Return the splits ``train`` and ``test`` (whichever are there) of the folder ``spec``.

    Class names are the label numbers.

    Raises:
        DataError: There are two sets of one split. A file that is missing, truncated or not IDX, or images
            and labels that differ in number, raise it when the split is asked for.
    """
    folder = user_path(spec).absolute()
    readers: dict[str, Callable[[], Split]] = {}
    for path in sorted(folder.iterdir()):
        if _kind(path) != "images" or (path.suffix == ".gz" and path.with_suffix("").is_file()):
            continue  # torchvision keeps X beside X.gz
        set_name = _set(path)
        split_name = "test" if re.search(r"t10k|test", set_name, re.IGNORECASE) else "train"
        if split_name in readers:
            raise DataError(
                f"{folder} holds more than one {split_name} set in IDX format ({path.name} is the second); "
                "expected one. Move each data set into a folder of its own."
            )
        readers[split_name] = partial(_read_split, split_name, path)
    is_fashion = "fashion" in folder.name.lower()
    return Source(
        spec=str(folder),
        description="a folder of IDX files",
        splits=LazySplits(readers),
        is_flippable=is_fashion,  # the other members of the family show digits or letters
        is_in_memory=True,
    )


def _kind(path: Path) -> str | None:
    match = _NAME.match(path.name)
    return match["kind"].lower() if match and path.is_file() else None


def _set(path: Path) -> str:
    match = _NAME.match(path.name)
    return match["set"] if match else ""


def _labels_beside(images: Path) -> Path:
    for path in sorted(images.parent.iterdir()):
        if _kind(path) == "labels" and _set(path) == _set(images):
            return path
    raise DataError(f"{images} has no labels beside it; expected a file like {_set(images)}-labels-idx1-ubyte.gz.")


def _read_split(name: str, images_path: Path) -> Split:
    labels_path = _labels_beside(images_path)
    pixels = read_idx(images_path)
    labels = read_idx(labels_path)
    if pixels.ndim != 3 or pixels.dtype != np.uint8:
        raise DataError(
            f"{images_path} holds {pixels.ndim}-dimensional {pixels.dtype} values; expected 8-bit greyscale "
            "images (3 dimensions)."
        )
    if 0 in pixels.shape[1:]:
        raise DataError(f"{images_path} holds images of {pixels.shape[1]}x{pixels.shape[2]} px; expected 1 or more.")
    if labels.ndim == 2 and labels.shape[1]:  # QMNIST: the first column is the class
        labels = labels[:, 0]
    if labels.ndim != 1 or len(labels) != len(pixels):
        raise DataError(
            f"{images_path} holds {len(pixels)} images but {labels_path.name} holds {len(labels)} labels; "
            "expected as many of each."
        )
    if not len(pixels):
        raise DataError(f"{images_path} holds no images.")
    split = split_from_names(name, ArrayImages(images_path.name, pixels), [str(label) for label in labels.tolist()])
    return split


def read_idx(path: Path) -> np.ndarray:
    """Return the array in an IDX file, gzipped or not.

    Returns:
        An array with the shape of the header, (N, H, W) for images and (N,) for labels; the dtype is the
        file's, in native byte order.

    Raises:
        DataError: The file cannot be read, or is shorter or longer than its header says.
    """
    with foreign(path, DataError, expected="an IDX file; it may be truncated: copy it again"):
        check_regular(path)
        with path.open("rb") as raw:
            is_gzip = raw.read(2) == b"\x1f\x8b"
        with cast(BinaryIO, gzip.open(path) if is_gzip else path.open("rb")) as file:
            head = file.read(4)
            if len(head) < 4 or head[:2] != b"\0\0" or head[2] not in _DTYPES or not 1 <= head[3] <= MAX_DIMS:
                raise DataError(f"{path} is not an IDX file: its header is {head.hex(' ') or 'empty'}.")
            dtype, sizes = np.dtype(_DTYPES[head[2]]), file.read(4 * head[3])
            shape = [int.from_bytes(sizes[start : start + 4], "big") for start in range(0, len(sizes), 4)]
            expected = math.prod(shape) * dtype.itemsize
            file_bytes = path.stat().st_size
            # what is not packed cannot hold more than its size; of a wrong length, it says so itself below
            holds = expected if is_gzip else min(expected, file_bytes)
            check_declared(holds, file_bytes, where=path, error=DataError)
            values = np.empty(holds // dtype.itemsize, dtype)
            num_read = _fill(file, values)
            is_longer = bool(file.read(1))
    if len(sizes) < 4 * head[3] or num_read != expected or is_longer:
        found = f"more than {expected:,}" if is_longer else f"{num_read:,}"
        raise DataError(
            f"{path} says it holds {'x'.join(map(str, shape))} values ({expected:,} bytes), but {found} bytes follow "
            "its header; it may be truncated: copy it again."
        )
    return values.reshape(shape).astype(dtype.newbyteorder("="), copy=False)


def _fill(file: BinaryIO, values: np.ndarray) -> int:
    """Read into an array, in pieces: memory is taken as it is filled, not as a header says; return the bytes read."""
    place, num_read = values.view(np.uint8), 0
    while piece := file.read(min(_PIECE, len(place) - num_read)):
        place[num_read : num_read + len(piece)] = np.frombuffer(piece, np.uint8)
        num_read += len(piece)
    return num_read
