"""Images that are equal or near copies of each other, and what they mean for a split."""

from collections import defaultdict
from collections.abc import Callable, Sequence

import numpy as np

from vitctl.data.near_copies import near_pairs
from vitctl.data.scan import Look, thumbnails
from vitctl.data.source import Split
from vitctl.data.splits import first_of_each_set


def copy_groups(looks: Sequence[Look | None], digests: Sequence[str]) -> list[list[int]]:
    """Return groups of positions 0..N-1 of images that are near copies of each other, first image first.

    A copy of a copy belongs to the group. Equal images are in it too, but a group has images that differ.

    Args:
        looks: N, what the scan saw; None for images that cannot be read.
        digests: N, equal for exact duplicates, as ``exact_duplicates`` returns them.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for position, (look, digest) in enumerate(zip(looks, digests, strict=True)):
        if look is not None:
            members[digest].append(position)
    same = list(members.values())
    pairs = near_pairs(thumbnails([look for one in same if (look := looks[one[0]]) is not None]))
    first = first_of_each_set(len(same), pairs.tolist())
    groups: dict[int, list[int]] = defaultdict(list)
    for index in np.unique(pairs).tolist():
        groups[first[index]] += same[index]
    return sorted(sorted(group) for group in groups.values())


def near_leaks(
    groups: Sequence[Sequence[int]],
    digests: Sequence[str],
    is_validation: np.ndarray,
    *,
    name_of: Callable[[int], str] | None = None,
    called: str = "validation",
) -> list[str]:
    """Return a sentence where images to validate on are near copies of images to train on, else nothing.

    Those that are equal to one count elsewhere (``leaks``).

    Args:
        groups: As ``copy_groups`` returned them.
        digests: N, equal for exact duplicates.
        is_validation: (N,) bool.
        name_of: What an image is called; for images of two sources, which ``vitctl data`` does not list together.
        called: What images to validate on are called.
    """
    pairs = []
    for group in groups:
        trained = {digests[position]: position for position in group if not is_validation[position]}
        if trained:
            first = min(trained.values())
            pairs += [(one, first) for one in group if is_validation[one] and digests[one] not in trained]
    if not pairs:
        return []
    copy, original = pairs[0]
    which = "'vitctl data' lists them." if name_of is None else f"The first is {name_of(copy)}, of {name_of(original)}."
    return [
        f"{len(pairs)} of the {int(is_validation.sum())} {called} images are near copies of training images, encoded "
        f"anew or resized: scores on them are too good to be true. {which}"
    ]


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
