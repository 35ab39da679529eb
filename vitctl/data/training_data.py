"""From data specs to checked training and validation images with one class map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.class_names import classes_without_images, doubtful_names
from vitctl.data.copies import copy_groups, near_leaks
from vitctl.data.depth import Depth, decide_max_value, depth_of, doubts_about_range
from vitctl.data.endings import image_endings, left_out_sentence, together
from vitctl.data.groups import with_pattern_groups
from vitctl.data.scan import Scan, check_bad_images, exact_duplicates, scan_images
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.data.splits import default_num_validation, draw_validation, merge_groups
from vitctl.errors import DataError
from vitctl.primitives.decision import Decision
from vitctl.primitives.processes import ALONE, Processes


@dataclass(frozen=True)
class TrainingData:
    """Images to train and validate on, all of which decode.

    Attributes:
        source: The training images' source.
        train: Training images; its class map is the run's.
        val: Validation images, None where none are held out.
        sizes: (N, 2) int64, (H, W) px of the training images.
        val_spec: Spec of the validation images' source.
        val_reason: Where the validation images come from.
        skipped: One line per training image left out: name and reason.
        left_out: Files of other kinds that lie among the images and are not read, by ending.
        depth: Of the training images, those held out included.
        max_value: How images of 16 bits become RGB, and why so.
        hashes: Of the content of each training image; see ``vitctl.data.run_lists``.
        val_hashes: Of each validation image.
    """

    source: Source
    train: Split
    val: Split | None
    sizes: np.ndarray
    val_spec: str
    val_reason: str
    skipped: tuple[str, ...]
    left_out: Mapping[str, int]
    depth: Depth
    max_value: Decision[int | None]
    hashes: Sequence[str]
    val_hashes: Sequence[str]

    @property
    def unvalidated(self) -> tuple[str, ...]:
        """Classes of which no image is for validation; none where nothing is."""
        return () if self.val is None else classes_without_images(self.val, self.train.class_names)


@dataclass(frozen=True)
class TrainingSources:
    """Images to train and validate on, listed but not looked at.

    Attributes:
        source: The training images' source.
        train: All its training images; the class map is the run's.
        val: Validation images that were given, or None where some are to be held out.
        val_spec: Spec of the validation images' source.
        val_reason: Where given validation images come from.
    """

    source: Source
    train: Split
    val: Split | None
    val_spec: str
    val_reason: str


def open_training_sources(
    data: str,
    *,
    val: str | None,
    val_fraction: float | None,
    options: SourceOptions | None = None,
    group_pattern: str | None = None,
) -> TrainingSources:
    """List the images of a run and match their classes; decodes nothing. The test split is not touched.

    Args:
        data: Spec of the training images.
        val: Spec of the validation images: a source with a split ``val``, or one without splits.
        val_fraction: Share of the training images to hold out, 0-1; None takes the source's own split.
        options: How to read both specs; of ``val`` those that mean something to it.
        group_pattern: Names the group of every image; see ``vitctl.data.groups``.

    Raises:
        DataError: A spec stands for nothing, a class folder is empty, class names differ.
    """
    source = open_source(data, options)
    everything = with_pattern_groups(source.training_split(), group_pattern)
    if everything.empty_classes:
        raise DataError(
            f"{source.spec} has class folders without an image: {', '.join(everything.empty_classes[:10])}; expected "
            f"image files ({' '.join(image_endings())}). Fill or remove them."
            + f" {left_out_sentence(everything.left_out)}"
            * bool(everything.left_out)
        )
    given, val_spec, val_reason = _given_validation(source, val, val_fraction, options)
    if given is not None:
        given = with_pattern_groups(given, group_pattern)
        given = align_classes(given, everything.class_names, where=f"the validation split of {val_spec}")
    train = everything.select(range(len(everything)), name="train")
    return TrainingSources(source, train, given, val_spec, val_reason)


def check_classes(sources: TrainingSources) -> None:
    """Check that there is something to tell apart.

    Raises:
        DataError: There is one class only.
    """
    names = sources.train.class_names
    if len(names) < 2:
        raise DataError(
            f"{sources.source.spec} has one class, {names[0]!r}; a classifier needs two or more. Put the images of "
            "each class into a folder of its own."
        )


def check_training_data(
    sources: TrainingSources,
    *,
    val_fraction: float | None,
    seed: int,
    skip_bad: bool,
    num_threads: int,
    conversation: Conversation,
    max_value: int | str | None = None,
    own_max_value: int | None = None,
    processes: Processes = ALONE,
) -> TrainingData:
    """Look at every image, leave out bad ones if that is wanted, and hold out validation images.

    Several processes share the images out and return the same.

    Args:
        sources: What ``open_training_sources`` found.
        val_fraction: Share of the training images to hold out, 0-1; 0 holds out none.
        seed: Of the drawn split.
        skip_bad: Leave out training images that do not decode, instead of failing.
        num_threads: Threads that decode.
        conversation: Shows progress.
        max_value: Of images of 16 bits, what is white; see ``decide_max_value``.
        own_max_value: What the model was trained with.
        processes: Who looks.

    Raises:
        DataError: Images do not decode.
        SettingError: ``max_value`` is ``auto``, and no image has 16 bits.
    """
    everything = sources.train
    for sentence in doubtful_names(everything):
        conversation.warn(sentence)
    scanned, skipped, digests = _look(
        sources, skip_bad=skip_bad, num_threads=num_threads, conversation=conversation, processes=processes
    )
    scan = scanned[0][1]
    all_hashes, val_hashes = digests[: len(everything)], digests[len(everything) :]
    given = good_images(*scanned[1]) if scanned[1:] else None
    depth = depth_of([scan])
    white = decide_max_value(max_value, depth, own=own_max_value)
    for sentence in doubts_about_range(
        depth_of([seen for _, seen in scanned]), white.value, is_given=max_value is not None
    ):
        conversation.warn(sentence)
    # for warnings alone, which the first process gives
    looks = [look for _, seen in scanned for look in seen.looks] if processes.is_first else []
    copies = copy_groups(looks, digests[: len(looks)])
    usable, sizes = good_images(everything, scan), scan.sizes[scan.good]
    hashes = [all_hashes[position] for position in scan.good]

    left_out = together(everything.left_out, {} if given is None else given.left_out)

    contents = [look.fingerprint for look in scan.looks if look is not None]

    def _result(train: np.ndarray, val: Split | None, reason: str, val_contents: Sequence[str] = ()) -> TrainingData:
        return TrainingData(
            sources.source,
            usable if len(train) == len(usable) else usable.select(train),
            val,
            sizes[train],
            sources.val_spec,
            reason,
            skipped,
            left_out,
            depth,
            white,
            [contents[position] for position in train],
            val_contents,
        )

    if given is not None:
        for sentence in leaks(usable, given, hashes=hashes, other_hashes=val_hashes):
            conversation.warn(sentence)
        is_given = np.arange(len(digests)) >= len(everything)
        names = _names(scanned) if sources.val_spec != sources.source.spec else None
        for sentence in near_leaks(copies, digests, is_given, name_of=names):
            conversation.warn(sentence)
        return _result(np.arange(len(usable)), given, sources.val_reason, scanned[1][1].fingerprints)
    train, held_out = hold_out(usable, hashes, val_fraction=val_fraction, seed=seed)
    if not len(held_out):
        why = "--val-fraction 0" if val_fraction == 0 else _why_none(usable)
        return _result(np.arange(len(usable)), None, f"none: {why}")
    for sentence in near_leaks(copies, digests, np.isin(np.arange(len(digests)), scan.good[held_out])):
        conversation.warn(sentence)
    num_duplicates = len(usable) - len(set(hashes))
    kept = f"; {num_duplicates} exact duplicates kept on one side" if num_duplicates else ""
    if usable.groups is not None:
        kept += f"; {len(set(usable.groups))} groups kept whole"
    reason = f"{len(held_out)} of {len(usable)} training images held out, stratified, seed {seed}{kept}"
    return _result(train, usable.select(held_out, name="val"), reason, [contents[position] for position in held_out])


def _look(
    sources: TrainingSources, *, skip_bad: bool, num_threads: int, conversation: Conversation, processes: Processes
) -> tuple[list[tuple[Split, Scan]], tuple[str, ...], list[str]]:
    """Look at every image; return the splits as they were seen, training first, who is left out, and all fingerprints.

    Raises:
        DataError: Images do not decode.
    """
    how: dict[str, Any] = {"num_threads": num_threads, "conversation": conversation, "processes": processes}
    with ScanMemory(conversation) as memory:
        scan = scan_images(sources.train, **how, memory=memory)
        skipped = tuple(check_bad_images(sources.train, scan, allow=skip_bad))
        scanned = [(sources.train, scan)]
        if sources.val is not None:
            seen = scan_images(sources.val, **how, memory=memory)
            check_bad_images(sources.val, seen, allow=False, can_skip=False)  # on others it would be another figure
            scanned.append((sources.val, seen))
        hashes = exact_duplicates(scanned, **how, memory=memory)
    return scanned, skipped, [digest for one in hashes for digest in one]


def _names(scanned: Sequence[tuple[Split, Scan]]) -> Callable[[int], str]:
    """Return what an image of several splits, one after the other, is called."""
    (first, _), (second, _) = scanned
    return lambda position: (
        first.image_name(position) if position < len(first) else second.image_name(position - len(first))
    )


def hold_out(
    split: Split, hashes: Sequence[str], *, val_fraction: float | None, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions to train on and those to validate on, (N_train,) and (N_val,) int64, sorted.

    Args:
        split: Images that all decode.
        hashes: (N,) equal for exact duplicates.
        val_fraction: Share to hold out, 0-1; None is ``default_num_validation``.
        seed: Of the draw.
    """
    wanted = default_num_validation(len(split)) if val_fraction is None else round(val_fraction * len(split))
    groups = list(hashes) if split.groups is None else merge_groups([str(group) for group in split.groups], hashes)
    return draw_validation(split.labels, groups, num_validation=wanted, seed=seed)


def _why_none(split: Split) -> str:
    if split.groups is not None and len(set(split.groups)) < len(split):
        return f"{len(set(split.groups))} groups cannot be divided so that each class is in training"
    return f"{len(split)} images are too few to spare any"


def leaks(split: Split, other: Split, *, hashes: Sequence[str], other_hashes: Sequence[str]) -> list[str]:
    """Return one sentence per way in which ``other`` repeats ``split``: equal images, shared groups.

    Args:
        split: Images to train on.
        other: Images to score.
        hashes: Equal for exact duplicates; "" for images that cannot be read.
        other_hashes: Likewise, of ``other``.
    """
    sentences = []
    known = set(hashes) - {""}
    shared = sum(digest in known for digest in other_hashes)
    if shared:
        sentences.append(
            f"{shared} of the {len(other)} {_called(other)} images are also training images, pixel for pixel: scores "
            "on them are too good to be true."
        )
    if split.groups is not None and other.groups is not None:
        both = sorted(set(split.groups) & set(other.groups))
        if both:
            sentences.append(
                f"Training and {_called(other)} share {len(both)} group{'s' * (len(both) > 1)}, {both[0]!r} first: "
                "scores on them are too good to be true."
            )
    return sentences


def _called(split: Split) -> str:
    return "validation" if split.name == "val" else split.name


def _given_validation(
    source: Source, val: str | None, val_fraction: float | None, options: SourceOptions | None
) -> tuple[Split | None, str, str]:
    """Return the validation split that was given, if any, its source's spec, and where it comes from."""
    if val is not None:
        other = open_source(val, options, is_strict=False)
        if "val" in other.splits:
            return other.told_split("val"), other.spec, f"split val of {other.spec}"
        if "all" in other.splits:
            everything = other.told_split("all")
            return everything.select(range(len(everything)), name="val"), other.spec, other.spec
        raise DataError(
            f"--val {val} has the splits {', '.join(other.splits)}; expected a split val, or a source without splits. "
            "For a folder of splits, give the path of the one to validate on."
        )
    if val_fraction is None and "val" in source.splits:
        return source.splits["val"], source.spec, "the source's own split"
    return None, source.spec, ""
