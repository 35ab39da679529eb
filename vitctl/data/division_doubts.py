"""What is to be said of how training images were divided: copies on two sides, classes on one side only."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from vitctl.data.class_names import classes_without_images
from vitctl.data.copies import near_leaks
from vitctl.data.division import VAL, Division, called
from vitctl.data.source import Split


def near_leaks_of(
    division: Division,
    copies: Sequence[Sequence[int]],
    digests: Sequence[str],
    *,
    good: np.ndarray,
    num_train: int,
    name_of: Callable[[int], str] | None,
) -> Iterator[str]:
    """Yield a sentence for each side of a division that has near copies of images to train on.

    Development images count as training images against those left untouched: they are, once settings are chosen.

    Args:
        division: Of the training images that decode.
        copies: Groups of near copies, as ``copy_groups`` returned them.
        digests: N, of all training images, then of those that were given to validate on.
        good: (N_good,) int64, which training images decode.
        num_train: Training images, all of them.
        name_of: What an image of two sources is called.
    """
    position = np.arange(len(digests))
    is_given, is_val = position >= num_train, np.isin(position, good[division.val])
    if division.validated_on == VAL:
        yield from near_leaks(copies, digests, is_val | is_given, name_of=name_of)
        return
    is_untouched = is_given | np.isin(position, good[division.untouched])
    yield from near_leaks(copies, digests, is_untouched, name_of=name_of, called="untouched validation")
    others = [[one for one in group if not is_untouched[one]] for group in copies]
    yield from near_leaks(others, digests, is_val, called=called(division.validated_on))


def untrained(train: Split, fold: tuple[int, int] | None, *, is_cleaned: bool = False) -> list[str]:
    """Return a sentence where no image of a class is left to train on.

    Args:
        train: The images left to train on.
        fold: (part, parts), the part from 1; None where no part of them is validated on.
        is_cleaned: Whether images were left out that a file lists.
    """
    names = () if fold is None and not is_cleaned else classes_without_images(train, train.class_names)
    if not names:
        return []
    which = f"Class {names[0]!r} has" if len(names) == 1 else f"{len(names)} classes, {names[0]!r} first, have"
    if fold is None:
        return [f"{which} no image to train on, as --clean lists all of them: what is said of it cannot be right."]
    why = "or are listed by --clean" if is_cleaned else ""
    return [
        f"{which} no image to train on where part {fold[0]} of {fold[1]} is validated on, as all of its images stay "
        f"together{why and ' ' + why}: what is said of it there cannot be right."
    ]
