"""Look at every image once before training, so that a bad file is found in the first minute.

The scan tells which files cannot be decoded and why, how large the images are, and which are exact
duplicates. It reads, and never writes to the user's files: a bad file is not repaired, replaced or moved.

Large JPEGs are decoded at 1/8 of their size: the whole bit stream is read, so what is truncated or broken
fails as in a full decode, in a fourth of the time. What was seen is remembered (``vitctl.data.scan_memory``).
"""

import hashlib
import json
from base64 import b64decode, b64encode
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import astuple, dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, TypeVar, get_type_hints

import numpy as np
from PIL import ExifTags, Image
from PIL.JpegImagePlugin import JpegImageFile

from vitctl.conversation import Conversation
from vitctl.data.images import MOST_OF_16_BITS, decoding, pixel_hash, reason_of, to_rgb, value_hash, values_of_16_bits
from vitctl.data.look_alikes import near_any
from vitctl.data.near_copies import SIDE
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Split, lost_image
from vitctl.errors import DataError
from vitctl.primitives.cpus import num_cpus, num_own_cpus
from vitctl.primitives.documents import UnusableDocument, parse_document
from vitctl.primitives.processes import ALONE, Arrays, Processes

T = TypeVar("T")

SCALE = 8  # JPEG's largest scaled decode
LEAST_SCALED_SIDE = 32  # px that a scaled decode must leave; smaller images are decoded in full
COARSE_SIDE = 4  # of thumbnails made smaller once more, to compare all of them
COARSE_TOLERANCE = 24  # levels by which those of equal images, one from a scaled JPEG, may differ; 16 measured
_BLOCK = 256  # images handed to the threads at a time; keeps memory flat and Ctrl-C quick
_SIDEWAYS = (5, 6, 7, 8)  # EXIF orientations that exchange height and width


@dataclass(frozen=True)
class Look:
    """What an image shows.

    Attributes:
        height: px, as shown (EXIF orientation applied).
        width: px.
        mode: Pillow's, as stored: RGB, L, CMYK, P, ...
        format: Pillow's: JPEG, PNG, ...; "" for an array.
        is_scaled: Decoded at 1/8 of its size.
        fingerprint: Hash of the decoded pixels, at 1/8 where ``is_scaled``; of 16 bits of their values.
        thumb: Greyscale thumbnail, ``near_copies.SIDE`` px high and wide, row by row in base64; of 16 bits the
            brightest value is white.
        brightest: The greatest value of an image of 16 bits, 0-65,535; -1 of others.
    """

    height: int
    width: int
    mode: str
    format: str
    is_scaled: bool
    fingerprint: str
    thumb: str
    brightest: int = -1


_LOOK_TYPES = tuple(get_type_hints(Look).values())


@dataclass(frozen=True)
class Scan:
    """What looking at every image of a split showed.

    Attributes:
        looks: One per image; None for a bad one.
        bad: Reason by position, for the images that cannot be decoded.
        stamps: Of each image before it was looked at; "" where it has none. Empty where nobody noted them.
    """

    looks: list[Look | None]
    bad: dict[int, str]
    stamps: Sequence[str] = field(default=(), compare=False)

    @property
    def sizes(self) -> np.ndarray:
        """(N, 2) int64, (H, W) px of each image as it is shown; zeros for a bad one."""
        pairs = [(0, 0) if look is None else (look.height, look.width) for look in self.looks]
        return np.array(pairs, dtype=np.int64).reshape(-1, 2)

    @property
    def fingerprints(self) -> list[str]:
        """The hash of the pixels of each image; "" for a bad one."""
        return ["" if look is None else look.fingerprint for look in self.looks]

    @property
    def good(self) -> np.ndarray:
        """Positions of the images that decode, (N_good,) int64."""
        return np.array([index for index, look in enumerate(self.looks) if look is not None], dtype=np.int64)


def num_scan_threads() -> int:
    """Return how many threads decode: this process's share of the processors."""
    return num_own_cpus()


def scan_images(
    split: Split,
    *,
    num_threads: int,
    conversation: Conversation,
    memory: ScanMemory | None = None,
    processes: Processes = ALONE,
) -> Scan:
    """Look at every image of ``split``, in parallel, with progress; those in ``memory`` are not decoded again.

    Several processes share the images out, and all return the same but for the thumbnails, which the first alone has;
    ``memory`` is the first one's.
    """
    _check_same(split, processes)
    with _memory(memory, conversation) as known:
        stamps: list[str] = []
        looks: list[Look | None] = []

        def unknown_positions() -> list[int]:
            stamps[:] = known.note(split, range(len(split)))
            recalled = known.recall("look", split, range(len(split)))
            looks[:] = [_recalled_look(recalled.get(position)) for position in range(len(split))]
            return [position for position, look in enumerate(looks) if look is None]

        unknown = processes.document(unknown_positions)
        found = _looks(split, unknown, num_threads=num_threads, processes=processes)
        shown = conversation.track(found, f"checking {split.name} images", len(unknown), "images")
        bad: dict[int, str] = {}
        for look, position in zip(shown, unknown, strict=False):  # there are none but in the first process
            if isinstance(look, str):
                bad[position] = look
            else:
                looks[position] = look
                known.keep("look", split, position, json.dumps(astuple(look)))
    return _told(Scan(looks, bad, stamps), processes)


def _check_same(split: Split, processes: Processes) -> None:
    """Check that all processes see the same images, whose names may differ from machine to machine.

    Raises:
        DataError: They do not.
    """
    if processes.count > 1:
        mine = [len(split), hashlib.blake2b(split.labels.tobytes() + repr(split.class_names).encode()).hexdigest()]
        first = processes.document(lambda: mine)
        if processes.any(first != mine):
            raise DataError(
                f"The processes of this run do not all see the same {split.name} images, or the same classes; expected "
                "the same files on every machine. Put them where all see them, or copy them whole."
            )


def _looks(split: Split, positions: Sequence[int], *, num_threads: int, processes: Processes) -> Iterator[Look | str]:
    """Yield what each image shows, or why it cannot be decoded; of several processes in the first."""
    if processes.count == 1:
        yield from in_parallel(lambda position: _look(split, position), positions, num_threads=num_threads)
        return
    mine = [positions[index] for index in processes.positions(len(positions), _BLOCK)]
    looks = in_parallel(lambda position: _look(split, position), mine, num_threads=num_threads)
    blocks = (list(islice(looks, _BLOCK)) for _ in range(0, len(mine), _BLOCK))
    for block in processes.in_turns(map(_packed, blocks), -(-len(positions) // _BLOCK), is_for_all=False):
        for row in parse_document(block["looks"].tobytes(), list[Any], is_strict=False):
            yield row if isinstance(row, str) else Look(*row)


def _packed(looks: Sequence[Look | str]) -> Arrays:
    text = json.dumps([look if isinstance(look, str) else astuple(look) for look in looks])
    return {"looks": np.frombuffer(bytearray(text.encode()), dtype=np.uint8)}


def _told(scan: Scan, processes: Processes) -> Scan:
    """Return the first process's ``scan``, in the others without thumbnails, which are most of it."""
    if processes.count == 1:
        return scan

    def document() -> dict[str, Any]:
        looks = [None if look is None else astuple(replace(look, thumb="")) for look in scan.looks]
        return {"looks": looks, "bad": list(scan.bad.items()), "stamps": list(scan.stamps)}

    told = processes.document(document)
    if processes.is_first:
        return scan
    looks = [None if row is None else Look(*row) for row in told["looks"]]
    return Scan(looks, dict(told["bad"]), told["stamps"])


def _recalled_look(text: str | None) -> Look | None:
    try:
        row = [] if text is None else parse_document(text, list[Any])
    except UnusableDocument:
        return None
    return Look(*row) if tuple(map(type, row)) == _LOOK_TYPES else None  # else not what we wrote


def _memory(memory: ScanMemory | None, conversation: Conversation) -> AbstractContextManager[ScanMemory]:
    """Return ``memory``, left open at the end, or one of its own."""
    return ScanMemory(conversation) if memory is None else nullcontext(memory)


def in_parallel(function: Callable[[int], T], positions: Sequence[int], *, num_threads: int) -> Iterator[T]:
    """Yield ``function(position)`` for each position, in order, computed by threads."""
    with ThreadPoolExecutor(max_workers=max(1, num_threads)) as pool:
        for start in range(0, len(positions), _BLOCK):
            yield from pool.map(function, positions[start : start + _BLOCK])


def _look(split: Split, position: int) -> Look | str:
    """Return what the image shows, or why it cannot be decoded."""
    try:
        with split.open(position) as image:
            return look_at(image)
    except Exception as error:  # Pillow's decoders raise anything; the reason goes to the user
        return reason_of(error)


def look_at(image: Image.Image) -> Look:
    """Return size, mode, format, fingerprint and thumbnail of an opened image; raises what decoding raises."""
    width, height = image.size
    mode, kind = image.mode, image.format or ""
    is_scaled = isinstance(image, JpegImageFile) and min(width, height) >= SCALE * LEAST_SCALED_SIDE
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if is_scaled and orientation in _SIDEWAYS:
        width, height = height, width
    with decoding(image, least_side=min(image.size) // SCALE if is_scaled else None) as pixels:
        if not is_scaled:
            width, height = pixels.size
        box = _shown_part(pixels.size, (width / SCALE, height / SCALE), orientation) if is_scaled else None
        values = values_of_16_bits(image)
        fingerprint = pixel_hash(pixels) if values is None else value_hash(values)
        brightest = -1 if values is None else int(values.max(initial=0))
        # of 16 bits its own brightest value is white, or 12 bits would be 17 levels, and all thumbnails nearly alike
        shown = to_rgb(image, max_value=brightest) if 0 < brightest < MOST_OF_16_BITS else pixels
        # the gap: what is much larger is first made smaller by a whole number, for a fraction of the time
        thumb = shown.convert("L").resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box, reducing_gap=2.0)
        return Look(height, width, mode, kind, is_scaled, fingerprint, b64encode(thumb.tobytes()).decode(), brightest)


def _shown_part(
    size: tuple[int, int], part: tuple[float, float], orientation: int
) -> tuple[float, float, float, float]:
    """Return the box (left, top, right, bottom) of a scaled image, ``size`` (w, h), that shows something.

    A scaled decode rounds both sides up, so that beyond ``part`` (w, h) it repeats the last stored pixels.
    """
    left = size[0] - part[0] if orientation in (2, 3, 6, 7) else 0.0  # stored right or bottom edge shown at the left
    top = size[1] - part[1] if orientation in (3, 4, 7, 8) else 0.0
    return left, top, left + part[0], top + part[1]


class Place(NamedTuple):
    """An image among several splits: which split, which position in it."""

    split: int
    position: int


def exact_duplicates(
    scanned: Sequence[tuple[Split, Scan]],
    *,
    num_threads: int,
    conversation: Conversation,
    memory: ScanMemory | None = None,
    processes: Processes = ALONE,
) -> list[list[str]]:
    """Return a text per image of each split, equal for images whose decoded pixels are equal; "" for bad ones.

    The first of several processes finds them out and tells the others.

    Images whose scaled decodes could be of equal images are decoded in full, so the answer is exact but for
    two JPEGs with equal pixels and different scaled ones, which needs different compressed data.
    """
    return processes.document(
        lambda: _digests(
            scanned,
            num_threads=num_threads if processes.count == 1 else num_cpus(),  # the others wait
            conversation=conversation,
            memory=memory,
        )
    )


def _digests(
    scanned: Sequence[tuple[Split, Scan]],
    *,
    num_threads: int,
    conversation: Conversation,
    memory: ScanMemory | None,
) -> list[list[str]]:
    places = [Place(s, p) for s, (_, scan) in enumerate(scanned) for p, look in enumerate(scan.looks) if look]
    known = {place: look for place in places if (look := scanned[place.split][1].looks[place.position])}
    exact = {place: look.fingerprint for place, look in known.items() if not look.is_scaled}
    doubtful = _candidates(known)
    for number, (split, _) in enumerate(scanned):
        positions = sorted(place.position for place in doubtful if place.split == number)
        hashes = _pixel_hashes(split, positions, memory, num_threads=num_threads, conversation=conversation)
        exact |= {Place(number, position): digest for position, digest in hashes.items()}
    return [
        [
            exact.get(Place(number, position), f"scaled {look.height}x{look.width} {look.fingerprint}") if look else ""
            for position, look in enumerate(scan.looks)
        ]
        for number, (_, scan) in enumerate(scanned)
    ]


def _pixel_hashes(
    split: Split, positions: list[int], memory: ScanMemory | None, *, num_threads: int, conversation: Conversation
) -> dict[int, str]:
    """Return the hashes of fully decoded images by position; those known before are remembered."""

    def hash_of(position: int) -> str:
        try:
            with split.reading(position) as image:
                return pixel_hash(image)
        except Exception as error:  # it could be decoded at 1/8, a moment ago
            raise lost_image(split, position, error) from error

    with _memory(memory, conversation) as known:
        hashes = known.recall("pixels", split, positions)
        unknown = [position for position in positions if position not in hashes]
        found = in_parallel(hash_of, unknown, num_threads=num_threads)
        shown = conversation.track(found, f"comparing {split.name} look-alikes", len(unknown), "images")
        for position, digest in zip(unknown, shown, strict=True):
            hashes[position] = digest
            known.keep("pixels", split, position, digest)
    return hashes


def _candidates(known: dict[Place, Look]) -> set[Place]:
    """Return the scaled images that may have an equal: the same fingerprint, or nearly the thumbnail of a full one."""
    same: dict[tuple[int, int, str], list[Place]] = defaultdict(list)
    by_size: dict[tuple[int, int], tuple[list[Place], list[Place]]] = defaultdict(lambda: ([], []))
    for place, look in known.items():
        by_size[look.height, look.width][look.is_scaled].append(place)
        if look.is_scaled:
            same[look.height, look.width, look.fingerprint].append(place)
    found = {place for group in same.values() if len(group) > 1 for place in group}
    for full, scaled in by_size.values():
        if full and scaled:
            near = near_any(_coarse(scaled, known), _coarse(full, known), tolerance=COARSE_TOLERANCE)
            found |= {scaled[index] for index in np.flatnonzero(near)}
    return found


def _coarse(places: list[Place], known: dict[Place, Look]) -> np.ndarray:
    """Return the thumbnails made smaller, (N, COARSE_SIDE squared) uint8."""
    levels = thumbnails([known[place] for place in places])
    parts = levels.reshape(len(places), COARSE_SIDE, SIDE // COARSE_SIDE, COARSE_SIDE, SIDE // COARSE_SIDE)
    means: np.ndarray = np.rint(parts.mean(axis=(2, 4), dtype=np.float32)).astype(np.uint8)
    return means.reshape(len(places), COARSE_SIDE**2)


def thumbnails(looks: Sequence[Look]) -> np.ndarray:
    """Return the thumbnails of N images, (N, S, S) uint8, S being ``near_copies.SIDE``."""
    levels = b64decode("".join(look.thumb for look in looks))  # S * S is a multiple of 3: nothing is padded
    return np.frombuffer(levels, dtype=np.uint8).reshape(len(looks), SIDE, SIDE)


def check_bad_images(
    split: Split,
    scan: Scan,
    *,
    allow: bool,
    can_skip: bool = True,
    needs_every_class: bool = True,
    may_be_elsewhere: bool = True,
) -> list[str]:
    """Return one line per bad image, path and reason.

    Args:
        split: The images.
        scan: What decoding them showed.
        allow: Whether bad images may be left out.
        can_skip: Whether the user could ask for that; if so the message says how.
        needs_every_class: Whether a class must keep at least one image.
        may_be_elsewhere: Whether ``--image-root`` could move where paths start.

    Raises:
        DataError: There are some and ``allow`` is False, or none is left, or a class has lost all its images.
    """
    hint = _where_to_look(scan) if may_be_elsewhere else ""
    lines = [f"{split.image_name(position)}: {reason}" for position, reason in scan.bad.items()]
    if not lines:
        return lines
    listed = [f"  {line}" for line in lines[:20]]
    if len(lines) > 20:
        listed.append(f"  ... and {len(lines) - 20} more")
    if not allow:
        ways = "repair or remove them" + (", or leave them out with --on-bad-image skip" if can_skip else "")
        raise DataError(f"{len(lines)} of {len(split)} {split.name} images cannot be read; {ways}{hint}:", *listed)
    if len(lines) == len(split):
        raise DataError(f"None of the {len(split)} {split.name} images can be read{hint}:", *listed)
    left = np.bincount(split.labels[scan.good], minlength=len(split.class_names))
    lost = [split.class_names[label] for label in np.unique(split.labels) if not left[label]]
    if lost and needs_every_class:
        raise DataError(
            f"Without the images that cannot be read, {split.name} has no image of class "
            f"{', '.join(lost)}; repair them:",
            *listed,
        )
    return lines


def _where_to_look(scan: Scan) -> str:
    """Return a hint where all bad images are files that are not there, as when a table's paths start elsewhere."""
    are_missing = all(reason == "no such file" for reason in scan.bad.values())
    return "; --image-root moves where a table's paths start" if are_missing else ""
