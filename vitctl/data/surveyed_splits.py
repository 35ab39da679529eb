"""All splits of a source as ``vitctl data`` looks at them, and what is to be said of them together."""

from collections.abc import Collection

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.class_names import classes_without_images, doubtful_names
from vitctl.data.copies import leaks
from vitctl.data.division import hold_out
from vitctl.data.groups import with_pattern_groups
from vitctl.data.scan import Scan, exact_duplicates, num_scan_threads, scan_images
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, Split, align_classes
from vitctl.errors import DataError
from vitctl.results.data import ValidationReport

SPLIT_ORDER = ("all", "train", "val", "test")

Scanned = dict[str, tuple[Split, Scan]]
"""Splits by name, and what was seen of their images."""


def scan_splits(
    source: Source, *, group_pattern: str | None, memory: ScanMemory, conversation: Conversation
) -> tuple[Scanned, list[str]]:
    """Return every split and what its images show; and a sentence for each split but the main one that has none.

    Args:
        source: What was opened.
        group_pattern: Names the group of every image; see ``vitctl.data.groups``.
        memory: What was seen before.
        conversation: Shows progress.

    Raises:
        DataError: The main split has no images, or none that can be read.
    """
    scanned: Scanned = {}
    closed = []
    for name in sorted(source.splits, key=lambda name: (*SPLIT_ORDER, name).index(name)):
        try:
            split = with_pattern_groups(source.split(name), group_pattern)
        except DataError as error:
            if name == main_split(source.splits):
                raise
            closed.append(f"Split {name} is left out: {error}")
            continue
        scan = scan_images(split, num_threads=num_scan_threads(), conversation=conversation, memory=memory)
        scanned[name] = (split, scan)
    split, scan = scanned[main_split(scanned)]
    if not len(scan.good):
        hint = " --image-root moves where a table's paths start." if scan.bad[0] == "no such file" else ""
        raise DataError(
            f"None of the {len(split)} images of {source.spec} can be read, {split.image_name(0)} first: "
            f"{scan.bad[0]}. Expected image files.{hint}"
        )
    return scanned, closed


def main_split(splits: Collection[str]) -> str:
    """Return the split that training would use, else the first."""
    return next(name for name in ("train", "all", *splits) if name in splits)


def hashes_of(scanned: Scanned, memory: ScanMemory, conversation: Conversation) -> dict[str, list[str]]:
    """Return of each split a text for every image, equal for exact duplicates; "" for images that cannot be read."""
    found = exact_duplicates(
        list(scanned.values()), num_threads=num_scan_threads(), conversation=conversation, memory=memory
    )
    return dict(zip(scanned, found, strict=True))


def where_kept(
    scanned: Scanned, hashes: dict[str, list[str]], *, val_fraction: float | None, seed: int
) -> tuple[np.ndarray | None, ValidationReport]:
    """Return where each training image goes when ``finetune`` divides them, and the split it validates on.

    Args:
        scanned: With a split ``train`` or ``all``.
        hashes: Of each split.
        val_fraction: Share to hold out, 0-1; None takes the source's own split, or the default.
        seed: Of the draw.

    Returns:
        (N,) str of ``train`` and ``val``, None where the source has its own split; and which images those are.
    """
    if "val" in scanned and val_fraction is None:
        own, trained = scanned["val"][0], scanned[main_split(scanned)][0].class_names
        return None, ValidationReport(len(own), "the source's own split", classes_without_images(own, trained))
    name = "train" if "train" in scanned else "all"
    split, scan = scanned[name]
    good = [hashes[name][position] for position in scan.good]
    _, held_out = hold_out(split.select(scan.good), good, val_fraction=val_fraction, seed=seed)
    kept_in = np.full(len(split), "train", dtype=object)
    kept_in[scan.good[held_out]] = "val"
    reason = f"held out of {len(scan.good):,} by finetune, stratified, seed {seed}"
    absent = classes_without_images(split.select(scan.good[held_out]), split.class_names) if len(held_out) else ()
    return kept_in, ValidationReport(len(held_out), reason, absent)


def doubts_of(scanned: Scanned, hashes: dict[str, list[str]], main: str) -> list[str]:
    """Return sentences that a person should read: of names, of classes, of what splits share."""
    split = scanned[main][0]
    found = doubtful_names(split)
    if len(split.class_names) < 2:
        found.append(f"There is one class, {split.class_names[0]!r}; a classifier needs two or more.")
    for name, (other, _) in scanned.items():
        if other.empty_classes:
            found.append(f"Class folders of split {name} without an image: {', '.join(other.empty_classes[:10])}.")
        if name != main:
            found += leaks(split, other, hashes=hashes[main], other_hashes=hashes[name])
            try:
                align_classes(other, split.class_names, where=f"split {name}")
            except DataError as error:
                found.append(str(error))
    return found
