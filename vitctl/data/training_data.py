"""From data specs to checked training and validation images with one class map."""

from dataclasses import dataclass

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.scan import check_bad_images, scan_images
from vitctl.data.source import Source, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.data.splits import default_num_validation, draw_validation
from vitctl.errors import DataError


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
    """

    source: Source
    train: Split
    val: Split | None
    sizes: np.ndarray
    val_spec: str
    val_reason: str
    skipped: tuple[str, ...]


def prepare_training_data(
    data: str,
    *,
    val: str | None,
    val_fraction: float | None,
    seed: int,
    skip_bad: bool,
    num_threads: int,
    conversation: Conversation,
) -> TrainingData:
    """Open, check and split the images of a run. The source's test split is not touched.

    Args:
        data: Spec of the training images.
        val: Spec of the validation images; its split val, else test is *not* taken, else all.
        val_fraction: Share of the training images to hold out, 0-1; 0 holds out none.
        seed: Of the drawn split.
        skip_bad: Leave out training images that do not decode, instead of failing.
        num_threads: Threads that decode.
        conversation: Shows progress.

    Raises:
        DataError: A spec stands for nothing, images do not decode, class names differ.
    """
    source = open_source(data)
    everything = source.training_split()
    everything = everything.select(range(len(everything)), name="train")
    given, val_spec, val_reason = _given_validation(source, val, val_fraction)
    if given is not None:
        given = align_classes(given, everything.class_names, where=f"the validation split of {val_spec}")
    scan = scan_images(everything, num_threads=num_threads, conversation=conversation)
    skipped = check_bad_images(everything, scan, allow=skip_bad)
    good = scan.good
    usable, sizes = everything.select(good), scan.sizes[good]
    if given is not None:
        seen = scan_images(given, num_threads=num_threads, conversation=conversation)
        check_bad_images(given, seen, allow=False, can_skip=False)  # a figure on other images would be another figure
        return TrainingData(source, usable, given, sizes, val_spec, val_reason, tuple(skipped))
    hashes = [scan.pixel_hashes[position] for position in good]
    wanted = default_num_validation(len(usable)) if val_fraction is None else round(val_fraction * len(usable))
    train, held_out = draw_validation(usable.labels, hashes, num_validation=wanted, seed=seed)
    if not len(held_out):
        reason = (
            "none: --val-fraction 0" if val_fraction == 0 else f"none: {len(usable)} images are too few to spare any"
        )
        return TrainingData(source, usable, None, sizes, val_spec, reason, tuple(skipped))
    num_duplicates = len(usable) - len(set(hashes))
    kept = f"; {num_duplicates} exact duplicates kept on one side" if num_duplicates else ""
    reason = f"{len(held_out)} of {len(usable)} training images held out, stratified, seed {seed}{kept}"
    return TrainingData(
        source,
        usable.select(train),
        usable.select(held_out, name="val"),
        sizes[train],
        val_spec,
        reason,
        tuple(skipped),
    )


def _given_validation(source: Source, val: str | None, val_fraction: float | None) -> tuple[Split | None, str, str]:
    """Return the validation split that was given, if any, its source's spec, and where it comes from."""
    if val is not None:
        other = open_source(val)
        if "val" in other.splits:
            return other.splits["val"], other.spec, f"split val of {other.spec}"
        if "all" in other.splits:
            return (
                other.splits["all"].select(range(len(other.splits["all"])), name="val"),
                other.spec,
                other.spec,
            )
        raise DataError(
            f"--val {val} has the splits {', '.join(other.splits)}; expected a split val, or a source without splits. "
            "For a folder of splits, give the path of the one to validate on."
        )
    if val_fraction is None and "val" in source.splits:
        return source.splits["val"], source.spec, "the source's own split"
    return None, source.spec, ""


def find_images(split: Split, names: list[str], *, where: str) -> Split:
    """Return the part of ``split`` with these image names, in that order.

    Raises:
        DataError: One is no longer there.
    """
    position = {name: index for index, name in enumerate(split.image_names())}
    gone = [name for name in names if name not in position]
    if gone:
        raise DataError(
            f"{len(gone)} of the {len(names)} images listed in {where} are no longer in the data, {gone[0]} first; "
            "expected the images the run was made with. Name others with --data."
        )
    return split.select([position[name] for name in names], name="val")
