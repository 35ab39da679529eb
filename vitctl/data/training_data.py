"""From data specs to checked training and validation images with one class map."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.class_names import classes_without_images, doubtful_names
from vitctl.data.copies import copy_groups, leaks
from vitctl.data.depth import Depth, decide_max_value, depth_of, doubts_about_range
from vitctl.data.division import VAL, Division, HowDivided, called, divide
from vitctl.data.division_doubts import near_leaks_of, untrained
from vitctl.data.endings import image_endings, left_out_sentence, together
from vitctl.data.groups import with_pattern_groups
from vitctl.data.listed_images import LeftOut, ListedImages, leave_out
from vitctl.data.scan import Scan, check_bad_images, exact_duplicates, scan_images
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Source, SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.errors import DataError
from vitctl.primitives.decision import Decision
from vitctl.primitives.processes import ALONE, Processes


@dataclass(frozen=True)
class KnownImages:
    """Images known by their content.

    Attributes:
        spec: Spec of their source.
        split: The images.
        hashes: Of the content of each.
    """

    spec: str
    split: Split
    hashes: Sequence[str]


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
        validated_on: What ``val`` is: ``val``, ``dev`` or ``fold``; see ``vitctl.data.division``.
        untouched: Validation images that are left alone; None where ``val`` is all there is.
        dev_fraction: The share of the training images that was cut off to choose settings by; None where none was.
        listed: What became of a file that lists images to leave out; None where none was given.
        cleaned: The training images that were left out because of it; None where there are none.
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
    validated_on: str = VAL
    untouched: KnownImages | None = None
    dev_fraction: float | None = None
    listed: LeftOut | None = None
    cleaned: KnownImages | None = None

    @property
    def num_untouched(self) -> int:
        """Validation images that are left alone."""
        return 0 if self.untouched is None else len(self.untouched.split)

    @property
    def val_called(self) -> str:
        """What the images that are validated on are called: development images, or validation images."""
        return f"{called(self.validated_on)} images"

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
    dev_fraction: float | str | None = None,
    fold: tuple[int, int] | None = None,
    listed: ListedImages | None = None,
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
        dev_fraction: Share of the training images to validate on instead; see ``HowDivided``.
        fold: (part, parts) of the training images to validate on instead, the part from 1.
        listed: Images to leave out of training, and of nothing else: the division is what it is without the list.
        max_value: Of images of 16 bits, what is white; see ``decide_max_value``.
        own_max_value: What the model was trained with.
        processes: Who looks.

    Raises:
        DataError: Images do not decode, or cannot be divided as asked.
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
    usable = good_images(everything, scan)
    hashes = [all_hashes[position] for position in scan.good]
    how = HowDivided(seed=seed, val_fraction=val_fraction, dev_fraction=dev_fraction, fold=fold)
    division = divide(usable, hashes, how, num_given=None if given is None else len(given), spec=sources.source.spec)
    cleaned = None
    if listed is not None:
        kept, cleaned = leave_out(listed, division.train, usable, everything, sources.source)
        division = replace(division, train=kept)
    names = _names(scanned) if sources.val_spec != sources.source.spec and given is not None else None
    for sentence in (
        *([] if cleaned is None else cleaned.notes),
        *([] if given is None else leaks(usable, given, hashes=hashes, other_hashes=val_hashes)),
        *near_leaks_of(division, copies, digests, good=scan.good, num_train=len(everything), name_of=names),
        *untrained(usable.select(division.train), fold, is_cleaned=listed is not None),
    ):
        conversation.warn(sentence)
    left_out = together(everything.left_out, {} if given is None else given.left_out)
    return _divided(
        sources,
        usable,
        division,
        scanned,
        given,
        cleaned,
        skipped=skipped,
        left_out=left_out,
        depth=depth,
        max_value=white,
    )


def _divided(
    sources: TrainingSources,
    usable: Split,
    division: Division,
    scanned: Sequence[tuple[Split, Scan]],
    given: Split | None,
    listed: LeftOut | None,
    **seen: Any,
) -> TrainingData:
    """Return the images as they were divided, with what was ``seen`` of them."""
    scan, source = scanned[0][1], sources.source
    contents = [look.fingerprint for look in scan.looks if look is not None]

    def known_at(part: np.ndarray, name: str) -> KnownImages | None:
        """Return the images at positions ``part``, (P,) int64; None where there are none."""
        if not len(part):
            return None
        return KnownImages(source.spec, usable.select(part, name=name), [contents[position] for position in part])

    val, held_out = known_at(division.val, "val"), known_at(division.untouched, "val")
    if given is not None:
        known = KnownImages(sources.val_spec, given, scanned[1][1].fingerprints)
        val, held_out = (known, None) if division.validated_on == VAL else (val, known)
    train = division.train
    return TrainingData(
        source=source,
        train=usable if len(train) == len(usable) else usable.select(train),
        val=None if val is None else val.split,
        sizes=scan.sizes[scan.good][train],
        val_spec=sources.val_spec if val is None else val.spec,
        val_reason=division.reason or sources.val_reason,
        hashes=[contents[position] for position in train],
        val_hashes=() if val is None else val.hashes,
        validated_on=division.validated_on,
        untouched=held_out,
        listed=listed,
        cleaned=None if listed is None else known_at(listed.positions, "train"),
        dev_fraction=division.dev_fraction,
        **seen,
    )


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
