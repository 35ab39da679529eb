"""Which images a run was trained and validated on, as its folder lists them: by name, and by content.

``validation.json`` has the images that the run validates on (``kind``: ``val``, ``dev`` or ``fold``), and beside them
the validation images that it leaves untouched, if it validates on others (``untouched``), and the training images that
it leaves out because a file lists them (``left_out``). ``training-images.txt`` has
the training images, one line each: the content hash and the name, as JSON writes it. Names start at the root of the
data, so that they hold where the data move.

The content hash is that of the scan (``Look.fingerprint``): 128 bits of the decoded pixels and their size, whatever
file or archive they come from. Of a JPEG whose sides are both 256 px or more they are those of the decode at 1/8, of
other images those of the image; of 16 bits the values count. Another version of Pillow may decode other pixels.
"""

import json
import os
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vitctl.data.division import VAL, called
from vitctl.data.image_names import names_below_root
from vitctl.data.source import Split
from vitctl.data.training_data import TrainingData
from vitctl.errors import DataError
from vitctl.primitives.documents import UnusableDocument, check_regular, read_document
from vitctl.primitives.files import whole_file
from vitctl.primitives.memory import most_listing_bytes
from vitctl.primitives.schemas import Name, Names, Schema

VALIDATION, TRAINING = "validation.json", "training-images.txt"
_HASH = re.compile(rb"[0-9a-f]{32} ")
_LONGEST_LINE = 2**16  # bytes; guess: names have at most 4,096, and each may be six in JSON


class Listed(Schema):
    """Images by name and content.

    Attributes:
        data: Spec of their source.
        images: Their names, from the root of the data; whole paths in runs of vitctl 0.1.0.
        hashes: Their content hashes; None in runs of vitctl 0.1.0.
    """

    data: Name
    images: Annotated[Names, Field(min_length=1)]
    hashes: Names | None = None


class Listing(Listed):
    """A run's ``validation.json``: the images that it validates on.

    Attributes:
        kind: What they are; see ``vitctl.data.division``.
        untouched: Validation images that the run neither trains nor validates on; None where there are no others.
        left_out: Training images that it does not train on, as ``--clean`` lists them; None where there are none.
    """

    kind: Literal["val", "dev", "fold"] = "val"
    untouched: Listed | None = None
    left_out: Listed | None = None

    @property
    def called(self) -> str:
        """What the images are called: ``development`` or ``validation``."""
        return called(self.kind)


def validation_document(data: TrainingData, *, image_root: str | None) -> dict[str, Any] | None:
    """Return the ``validation.json`` of a run on ``data``; None where nothing is for validation."""
    if data.val is None:
        return None
    document = _listed(data.val, data.val_spec, data.val_hashes, image_root=image_root)
    if data.validated_on != VAL:
        document["kind"] = data.validated_on
    if (others := data.untouched) is not None:
        document["untouched"] = _listed(others.split, others.spec, others.hashes, image_root=image_root)
    if (others := data.cleaned) is not None:
        document["left_out"] = _listed(others.split, others.spec, others.hashes, image_root=image_root)
    return document


def _listed(split: Split, spec: str, hashes: Sequence[str], *, image_root: str | None) -> dict[str, Any]:
    names = names_below_root(split.image_names(), spec, image_root=image_root)
    return {"data": spec, "images": names, "hashes": list(hashes)}


def write_training_list(folder: Path, data: TrainingData, *, image_root: str | None) -> None:
    """Write the ``training-images.txt`` of a run on ``data`` into its folder, whole or not at all."""
    names = names_below_root(data.train.image_names(), data.source.spec, image_root=image_root)
    with whole_file(folder / TRAINING) as partial, partial.open("w", encoding="utf-8") as file:
        for digest, name in zip(data.hashes, names, strict=True):
            file.write(f"{digest} {json.dumps(name)}\n")


def read_listing(run: Path, advice: str) -> Listing | None:
    """Return a run's ``validation.json``; None where it was made without validation images.

    Raises:
        DataError: The file cannot be used.
    """
    path = run / VALIDATION
    if not path.is_file():
        return None
    listing = read_document(
        path,
        Listing,
        error=DataError,
        advice=f"expected the validation images of a run. {advice.rstrip('.')}",
        most_bytes=most_listing_bytes(),
    )
    for one in (listing, listing.untouched, listing.left_out):
        if one is not None and one.hashes is not None and len(one.hashes) != len(one.images):
            raise DataError(
                f"{path} has {len(one.images):,} images and {len(one.hashes):,} hashes; expected one for each. {advice}"
            )
    return listing


def trained_on(run: Path, hashes: Collection[str]) -> set[str] | None:
    """Return those of ``hashes`` that ``run`` was trained on, by its list; None where it has none (vitctl 0.1.0).

    The list is read line by line, as it may be longer than what is asked about.

    Raises:
        DataError: The list cannot be read.
    """
    path, wanted = run / TRAINING, {digest.encode() for digest in hashes}
    if not os.path.lexists(path):
        return None
    try:
        check_regular(path)
        return {line[:32].decode() for line in _lines(path) if line[:32] in wanted}
    except (OSError, UnusableDocument) as error:
        found = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {found}; expected the training images of a run.") from error


def _lines(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
            if _HASH.match(line) is None or not line.endswith(b"\n"):
                raise UnusableDocument(f"line {number:,} is no content hash and a name")
            yield line
