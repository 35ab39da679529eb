"""Which of the images that decode are trained on, which the run validates on, and which it leaves untouched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.data.folds import draw_folds
from vitctl.data.source import Split
from vitctl.data.splits import (
    default_dev_fraction,
    default_num_validation,
    draw_validation,
    merge_groups,
    num_development,
)
from vitctl.errors import DataError

VAL, DEV, FOLD = "val", "dev", "fold"
"""What a run validates on: validation images, development images cut from the training images, a part of these."""


@dataclass(frozen=True, kw_only=True)
class HowDivided:
    """How training images are divided.

    Attributes:
        seed: Of what is drawn.
        val_fraction: Share to hold out, 0-1; None is ``default_num_validation``, where no images were given.
        dev_fraction: Share of what then is left to validate on instead, above 0 to below 1; any text is
            ``default_dev_fraction``. None validates on the validation images.
        fold: (part, parts), the part from 1: validate on this one of so many; None does not.
    """

    seed: int
    val_fraction: float | None = None
    dev_fraction: float | str | None = None
    fold: tuple[int, int] | None = None


@dataclass(frozen=True)
class Division:
    """Positions of images, sorted (N,) int64; each is in one of the three.

    Attributes:
        train: To train on.
        val: That the run validates on; none where it validates on given ones, or none at all.
        untouched: Held out and looked at by nobody.
        reason: How they were divided; "" where images were given to validate on.
        validated_on: What ``val`` is: ``val``, ``dev`` or ``fold``.
        dev_fraction: The share that was cut off; None where none was.
    """

    train: np.ndarray
    val: np.ndarray
    untouched: np.ndarray
    reason: str
    validated_on: str = VAL
    dev_fraction: float | None = None


def called(validated_on: str) -> str:
    """Return what images that a run validates on are called: ``development`` or ``validation``."""
    return "development" if validated_on == DEV else "validation"


def divide(split: Split, hashes: Sequence[str], how: HowDivided, *, num_given: int | None, spec: str) -> Division:
    """Divide images into those to train on, to validate on and to leave untouched.

    What is drawn depends on the images, their groups, their order and the seed alone.

    Args:
        split: Training images that all decode.
        hashes: (N,) equal for exact duplicates.
        how: How to divide them.
        num_given: Validation images that were given beside them; None where some are to be held out.
        spec: Where they come from, for messages.

    Raises:
        DataError: They cannot be divided so.
    """
    everything, none = np.arange(len(split)), np.zeros(0, dtype=np.int64)
    kept = _kept_together(split, hashes)
    if how.fold is not None:
        part, parts = how.fold
        is_in = _folds(split, hashes, how, spec=spec) == part - 1
        reason = f"part {part} of {parts} of the {len(split):,} training images, stratified, seed {how.seed}{kept}"
        reason += _left_untouched(num_given or 0)
        return Division(everything[~is_in], everything[is_in], none, reason, FOLD)
    rest, held_out = everything, none
    if num_given is None:
        rest, held_out = hold_out(split, hashes, val_fraction=how.val_fraction, seed=how.seed)
    if how.dev_fraction is not None:
        share = default_dev_fraction(len(rest)) if isinstance(how.dev_fraction, str) else how.dev_fraction
        train, dev = _development(split, hashes, rest, share, seed=how.seed, spec=spec)
        reason = f"cut from the training images, to choose settings by; {share:g} of {len(rest):,}, stratified, "
        reason += f"seed {how.seed}{kept}{_left_untouched(len(held_out) if num_given is None else num_given)}"
        return Division(train, dev, held_out, reason, DEV, share)
    if num_given is not None:
        return Division(everything, none, none, "")
    if not len(held_out):
        why = "--val-fraction 0" if how.val_fraction == 0 else _why_none(split)
        return Division(everything, none, none, f"none: {why}")
    reason = f"{len(held_out)} of {len(split)} training images held out, stratified, seed {how.seed}{kept}"
    return Division(rest, held_out, none, reason)


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
    return draw_validation(split.labels, _groups(split, hashes), num_validation=wanted, seed=seed)


def _development(
    split: Split, hashes: Sequence[str], rest: np.ndarray, share: float, *, seed: int, spec: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return those of the positions ``rest`` to train on, and those to choose settings by."""
    groups = _groups(split, hashes)
    train, dev = draw_validation(
        split.labels[rest],
        [groups[position] for position in rest],
        num_validation=num_development(len(rest), share),
        seed=seed,
        purpose="development",
    )
    if not len(dev):
        raise DataError(
            f"--dev-fraction {share:g} cuts off none of the {len(rest):,} images of {spec} that are left to train on: "
            "what belongs together stays together, and each class keeps an image; expected more images, or groups. "
            "Try a larger share."
        )
    return rest[train], rest[dev]


def _folds(split: Split, hashes: Sequence[str], how: HowDivided, *, spec: str) -> np.ndarray:
    """Return which part each image is in, (N,) int64 from 0."""
    part, parts = how.fold or (1, 1)
    groups = _groups(split, hashes)
    num_groups = len(set(groups))
    if num_groups < parts:
        advice = "Divide into fewer." if num_groups > 1 else "Give more images, or groups."
        raise DataError(
            f"--fold {part}/{parts}: the {len(split):,} training images of {spec} are {num_groups:,} "
            f"group{'s' * (num_groups != 1)} of what stays together (groups, exact duplicates); expected {parts:,} "
            f"or more, one for each part. {advice}"
        )
    return draw_folds(split.labels, groups, num_folds=parts, seed=how.seed)


def _groups(split: Split, hashes: Sequence[str]) -> list[str]:
    """Return one name per image, equal for those that stay on one side: of one group, or equal."""
    return list(hashes) if split.groups is None else merge_groups([str(group) for group in split.groups], hashes)


def _kept_together(split: Split, hashes: Sequence[str]) -> str:
    num_duplicates = len(split) - len(set(hashes))
    kept = f"; {num_duplicates} exact duplicates kept on one side" if num_duplicates else ""
    return kept + ("" if split.groups is None else f"; {len(set(split.groups))} groups kept whole")


def _left_untouched(count: int) -> str:
    plural = "s are" if count > 1 else " is"
    return f"; {count:,} validation image{plural} left untouched" if count else ""


def _why_none(split: Split) -> str:
    if split.groups is not None and len(set(split.groups)) < len(split):
        return f"{len(set(split.groups))} groups cannot be divided so that each class is in training"
    return f"{len(split)} images are too few to spare any"
