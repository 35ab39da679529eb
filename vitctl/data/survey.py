"""What a data set looks like: sizes, kinds, duplicates, imbalance. Plain figures from what the scan saw.

Nothing here depends on the order of the images.
"""

import bisect
import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import TypedDict

import numpy as np
from PIL import Image

from vitctl.data.copies import copy_groups
from vitctl.data.depth import depth_of
from vitctl.data.imbalance import NOTABLE_RATIO, imbalance_ratio
from vitctl.data.scan import Look, Scan
from vitctl.data.source import Split, lost_image
from vitctl.results.data import (
    BadImage,
    ClassSize,
    DuplicateImage,
    DuplicatesReport,
    ImagesReport,
    ImbalanceReport,
    NearCopiesReport,
    ShapesReport,
    SplitReport,
    Spread,
    StrangeShape,
)

SUSPICIOUS_RATIO = 4.0  # longer side over shorter one from which an image is worth a look: guess
_WORST = 20


def describe_split(split: Split, scan: Scan) -> SplitReport:
    """Return how many images, bad ones, groups and images of each class one split has."""
    return SplitReport(
        num_images=len(split),
        num_bad=len(scan.bad),
        num_groups=None if split.groups is None else len(set(split.groups)),
        classes=dict(zip(split.class_names, split.counts().tolist(), strict=True)),
    )


def describe_images(scans: Sequence[Scan]) -> ImagesReport:
    """Return sizes in px (least, median, greatest), modes and formats of the images that decode.

    Raises:
        ValueError: There is none.
    """
    looks = [look for scan in scans for look in scan.looks if look]
    if not looks:
        raise ValueError("no image decodes")
    depth = depth_of(scans)
    height, width = (np.array([getattr(look, side) for look in looks]) for side in ("height", "width"))
    return ImagesReport(
        height_px=_spread(height),
        width_px=_spread(width),
        short_side_px=_spread(np.minimum(height, width)),
        num_sizes=len(set(zip(height.tolist(), width.tolist(), strict=True))),
        modes=_frequencies(look.mode for look in looks),
        formats=_frequencies(look.format or "array" for look in looks),
        num_16_bit=depth.num_images,
        brightest_16_bit=depth.most,
    )


def _spread(values: np.ndarray) -> Spread:
    return Spread(least=int(values.min()), median=float(np.median(values)), greatest=int(values.max()))


def _frequencies(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def describe_bad(scanned: Mapping[str, tuple[Split, Scan]]) -> tuple[BadImage, ...]:
    """Return the images that cannot be read, and why."""
    return tuple(
        BadImage(split.image_name(position), name, reason)
        for name, (split, scan) in scanned.items()
        for position, reason in scan.bad.items()
    )


def strange_shapes(scanned: Mapping[str, tuple[Split, Scan]]) -> ShapesReport:
    """Return how many images are very long or wide, and the worst of them.

    A squash or a centre crop to a square destroys such an image; often it is a banner or a broken scan.
    """
    found = sorted(
        (-ratio, split.image_name(position), (look.height, look.width))
        for split, scan in scanned.values()
        for position, look in enumerate(scan.looks)
        if look and (ratio := _ratio(look)) >= SUSPICIOUS_RATIO
    )
    worst = tuple(StrangeShape(name, size, -ratio) for ratio, name, size in found[:_WORST])
    return ShapesReport(from_ratio=SUSPICIOUS_RATIO, num_images=len(found), worst=worst)


def _ratio(look: Look) -> float:
    return round(max(look.height, look.width) / min(look.height, look.width), 2)


def describe_duplicates(
    scanned: Mapping[str, tuple[Split, Scan]],
    hashes: Mapping[str, Sequence[str]],
    kept_in: np.ndarray | None,
) -> DuplicatesReport:
    """Return the groups of images whose pixels are equal.

    Args:
        scanned: Splits by name.
        hashes: Of each split, as ``exact_duplicates`` returned them.
        kept_in: Where the images of the training split go, (N,) str of ``train`` or ``val``; None where every
            split is given.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, digest in enumerate(_joined(scanned, hashes)):
        if digest:
            members[digest].append(position)
    return DuplicatesReport(**_told(scanned, [group for group in members.values() if len(group) > 1], kept_in))


def describe_near_copies(
    scanned: Mapping[str, tuple[Split, Scan]],
    hashes: Mapping[str, Sequence[str]],
    kept_in: np.ndarray | None,
) -> NearCopiesReport:
    """Return the groups of images that are nearly equal.

    Args:
        scanned: Splits by name.
        hashes: Of each split, as ``exact_duplicates`` returned them.
        kept_in: (N,) str or None, as ``describe_duplicates`` takes it.
    """
    looks = [look for _, scan in scanned.values() for look in scan.looks]
    return NearCopiesReport(**_told(scanned, copy_groups(looks, _joined(scanned, hashes)), kept_in))


def _joined(scanned: Mapping[str, tuple[Split, Scan]], hashes: Mapping[str, Sequence[str]]) -> list[str]:
    return [digest for name in scanned for digest in hashes[name]]


class _Groups(TypedDict):
    num_groups: int
    num_extra: int
    num_across_splits: int
    num_across_classes: int
    groups: tuple[tuple[DuplicateImage, ...], ...]


def _told(
    scanned: Mapping[str, tuple[Split, Scan]], positions: Sequence[Sequence[int]], kept_in: np.ndarray | None
) -> _Groups:
    """Return groups of positions, counted over all splits in their order, with what a person asks of each image."""
    starts = list(itertools.accumulate((len(split) for split, _ in scanned.values()), initial=0))

    def told(position: int) -> DuplicateImage:
        index = bisect.bisect_right(starts, position) - 1
        name, (split, _) = list(scanned.items())[index]
        row = position - starts[index]
        return DuplicateImage(
            image=split.image_name(row),
            split=name,
            class_name=split.class_names[split.labels[row]],
            kept_in=str(kept_in[row]) if kept_in is not None and name in ("train", "all") else name,
        )

    groups = sorted((tuple(map(told, group)) for group in positions), key=lambda group: group[0].image)
    return {
        "num_groups": len(groups),
        "num_extra": sum(len(group) - 1 for group in groups),
        "num_across_splits": sum(len({one.kept_in for one in group}) > 1 for group in groups),
        "num_across_classes": sum(len({one.class_name for one in group}) > 1 for group in groups),
        "groups": tuple(groups),
    }


def describe_imbalance(split: Split) -> ImbalanceReport:
    """Return the ratio of the largest class to the smallest, both, and whether balancing would help."""
    counts = split.counts()
    largest, smallest = int(counts.argmax()), int(np.where(counts > 0, counts, counts.max() + 1).argmin())
    ratio = imbalance_ratio(counts)
    advice = None
    if ratio >= NOTABLE_RATIO:
        advice = (
            f"{split.class_names[largest]!r} has {ratio:.3g} times the images of {split.class_names[smallest]!r}: if "
            "all classes matter alike, try --class-weights balanced or --sampler balanced; compare balanced accuracy."
        )
    return ImbalanceReport(
        ratio=round(ratio, 3),
        largest=ClassSize(split.class_names[largest], int(counts[largest])),
        smallest=ClassSize(split.class_names[smallest], int(counts[smallest])),
        advice=advice,
    )


def fingerprint(scanned: Mapping[str, tuple[Split, Scan]]) -> str:
    """Return a hash of all images and their classes: equal for equal data, whatever their order or container."""
    lines = sorted(
        f"{split.class_names[split.labels[position]]}\0{look.height}x{look.width}\0{look.fingerprint}"
        for split, scan in scanned.values()
        for position, look in enumerate(scan.looks)
        if look
    )
    return hashlib.blake2b("\n".join(lines).encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()


def sample_of_each_class(split: Split, scan: Scan, *, most_classes: int, each: int) -> list[list[int]]:
    """Return up to ``each`` positions of images that decode for each of the first classes, evenly spread."""
    good = set(scan.good.tolist())
    rows = []
    for label in range(min(most_classes, len(split.class_names))):
        positions = [position for position in np.flatnonzero(split.labels == label).tolist() if position in good]
        spread = np.linspace(0, len(positions) - 1, min(each, len(positions))).round().astype(int)
        rows.append([positions[index] for index in spread])
    return rows


def thumbnail(split: Split, position: int, *, side: int, max_value: int | None = None) -> np.ndarray:
    """Return the image at ``position``, fitted into a light grey square: (S, S, 3) uint8, S being ``side``.

    One of 16 bits becomes RGB by ``max_value``; see ``vitctl.data.images.to_rgb``.

    Raises:
        DataError: It cannot be read any more.
    """
    try:
        image = split.read(position, least_side=side, max_value=max_value)
    except Exception as error:  # a file that changed since it was checked
        raise lost_image(split, position, error) from error
    method = Image.Resampling.NEAREST if max(image.size) <= side // 2 else Image.Resampling.BICUBIC
    factor = side / max(image.size)
    width, height = (max(1, round(length * factor)) for length in image.size)
    square = Image.new("RGB", (side, side), (232, 232, 232))
    square.paste(image.resize((width, height), method), ((side - width) // 2, (side - height) // 2))
    return np.asarray(square)
