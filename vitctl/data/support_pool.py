"""From data specs to a support pool and a test set with one class map, for few-shot evaluation.

Letters: N images of the pool, M test images, C classes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.endings import left_out_sentence, together
from vitctl.data.groups import with_pattern_groups
from vitctl.data.scan import Scan, check_bad_images, exact_duplicates, scan_images
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.data.splits import draw_validation
from vitctl.errors import DataError
from vitctl.primitives.processes import ALONE, Processes

TEST_FRACTION = 0.2  # of a source without a test or validation split
_TEST_SPLITS = ("test", "val", "all")


@dataclass(frozen=True)
class SupportPool:
    """Images to draw supports from, and images to test on; only listed so far.

    Attributes:
        source: Of the pool.
        pool: N images; its class map is that of both.
        test: M images; none of them is in the pool.
        test_spec: Spec of the test images' source.
        test_reason: Where they come from.
        is_in_memory: Whether reading any of them costs next to nothing.
        left_out: Files of other kinds that lie among the images and are not read, by ending.
    """

    source: Source
    pool: Split
    test: Split
    test_spec: str
    test_reason: str
    is_in_memory: bool
    left_out: Mapping[str, int]


def open_support_pool(
    data: str,
    test: str | None,
    *,
    options: SourceOptions | None = None,
    group_pattern: str | None = None,
    is_strict: bool = False,
) -> SupportPool:
    """List the images of a pool and of its test set and match their classes; decodes nothing.

    Args:
        data: Spec of the pool; of a source with splits, ``train`` is taken.
        test: Spec of the test images (their split test, val, or all); None takes the pool's own test or val split,
            or draws a stratified fifth of the pool, seed 0, groups kept whole.
        options: How to read both specs, as far as they mean something to each.
        group_pattern: Names the group of every image; see ``vitctl.data.groups``.
        is_strict: Refuse an option that means nothing to the pool's source.

    Raises:
        SettingError: Such an option is given.
        DataError: A spec stands for nothing, there are fewer than two classes, class names differ.
    """
    source = open_source(data, options, is_strict=is_strict)
    pool = with_pattern_groups(source.training_split(), group_pattern)
    if pool.empty_classes:
        raise DataError(
            f"{source.spec} has class folders without an image: {', '.join(pool.empty_classes[:10])}; expected one or "
            "more in each. Fill or remove them." + f" {left_out_sentence(pool.left_out)}" * bool(pool.left_out)
        )
    if len(pool.class_names) < 2:
        raise DataError(
            f"{source.spec} has one class, {pool.class_names[0]!r}; to classify, two or more are needed. Put the "
            "images of each class into a folder of its own."
        )
    if test is not None:
        other = open_source(test, options, is_strict=False)
        name = next((name for name in _TEST_SPLITS if name in other.splits), None)
        if name is None:
            raise DataError(f"--test {test} has the splits {', '.join(other.splits)}; expected test, val, or none.")
        found, spec, is_in_memory = other.told_split(name), other.spec, source.is_in_memory and other.is_in_memory
        why = "given" if name == "all" else f"given, its split {name}"
    else:
        name = next((name for name in ("test", "val") if name in source.splits), None)
        if name is None:
            return _with_drawn_test(source, pool)
        found, spec, is_in_memory = source.splits[name], source.spec, source.is_in_memory
        why = f"its own split {name}"
    found = align_classes(
        found.select(range(len(found)), name="test"),
        pool.class_names,
        where=f"the test set {spec}",
        advice="Rename or remove them.",
    )
    left_out = together(pool.left_out, found.left_out)
    return SupportPool(source, pool.select(range(len(pool)), name="pool"), found, spec, why, is_in_memory, left_out)


def _with_drawn_test(source: Source, pool: Split) -> SupportPool:
    groups = [str(row) for row in range(len(pool))] if pool.groups is None else [str(group) for group in pool.groups]
    kept, held_out = draw_validation(pool.labels, groups, num_validation=round(TEST_FRACTION * len(pool)), seed=0)
    if not len(held_out):
        raise DataError(f"{source.spec} has too few images to spare a fifth to test on; give test images with --test.")
    whole = "" if pool.groups is None else f", {len(set(groups))} groups kept whole"
    reason = f"a stratified fifth of {len(pool):,}, seed 0, never drawn as support{whole}"
    return SupportPool(
        source,
        pool.select(kept, name="pool"),
        pool.select(held_out, name="test"),
        source.spec,
        reason,
        source.is_in_memory,
        pool.left_out,
    )


def leave_out_bad(
    pool: SupportPool, *, num_threads: int, conversation: Conversation, processes: Processes = ALONE
) -> tuple[SupportPool, tuple[str, ...]]:
    """Look at every image and return the pool without those that cannot be read, and a line for each of them.

    Several processes share the images out and return the same.
    """
    how: dict[str, Any] = {"num_threads": num_threads, "conversation": conversation, "processes": processes}
    with ScanMemory(conversation) as memory:
        kept, lines = [], list[str]()
        for split in (pool.pool, pool.test):
            scan = scan_images(split, **how, memory=memory)
            lines += check_bad_images(split, scan, allow=True, needs_every_class=False)
            kept.append(good_images(split, scan))
    return replace(pool, pool=kept[0], test=kept[1]), tuple(lines)


@dataclass(frozen=True)
class UsedImages:
    """The images that are embedded.

    Attributes:
        support: The part of the pool that any support uses.
        test: Test images, or the part that any episode asks about.
        support_hashes: Equal for images whose decoded pixels are equal.
        test_hashes: Likewise.
    """

    support: Split
    test: Split
    support_hashes: list[str]
    test_hashes: list[str]

    @property
    def num_shared(self) -> int:
        """How many of the test images are also among the support images, pixel for pixel."""
        known = set(self.support_hashes)
        return sum(digest in known for digest in self.test_hashes)


def check_used_images(
    support: Split, test: Split, *, num_threads: int, conversation: Conversation, processes: Processes = ALONE
) -> UsedImages:
    """Look at every image that will be embedded; several processes share them out and return the same.

    Raises:
        DataError: One cannot be read.
    """
    how: dict[str, Any] = {"num_threads": num_threads, "conversation": conversation, "processes": processes}
    with ScanMemory(conversation) as memory:
        scans: list[tuple[Split, Scan]] = []
        for split in (support, test):
            scan = scan_images(split, **how, memory=memory)
            check_bad_images(split, scan, allow=False)
            scans.append((split, scan))
        hashes = exact_duplicates(scans, **how, memory=memory)
    support, test = (good_images(split, scan) for split, scan in scans)
    return UsedImages(support, test, *hashes)


def short_classes(labels: np.ndarray, class_names: Sequence[str], shots: int) -> str | None:
    """Return a sentence where classes of ``labels`` (N,) have fewer than ``shots`` images, else None."""
    counts = np.bincount(labels, minlength=len(class_names))
    short = np.flatnonzero(counts < shots)
    if not len(short):
        return None
    fewest = int(counts[short].min())
    sizes = Counter(int(count) for count in counts[short])
    none = f"; {sizes[0]} of them have none and are never right" if sizes[0] else ""
    if shots == 1:
        return f"{len(short)} of {len(class_names)} classes have no images to draw from; they are never right."
    return (
        f"{len(short)} of {len(class_names)} classes have fewer than {shots} images to draw from (least: {fewest}, "
        f"{class_names[short[np.argmin(counts[short])]]!r}); their support is what there is{none}."
    )
