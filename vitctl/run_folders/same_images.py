"""What several classifiers say of the same images, put in one order: by content, whatever order each saw them in.

Letters: R classifiers, N images, C classes.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.data.source import composed_name
from vitctl.errors import DataError, ModelError
from vitctl.run_folders.kept_logits import KeptLogits

_Key = tuple[str, str]  # content and class: equal images stand for each other where their classes agree too


@dataclass(frozen=True, eq=False)
class SameImages:
    """What R classifiers say of the same images, in the order of the first.

    Attributes:
        logits: R of (N, C) float32.
        labels: (N,) int64, the true classes.
        hashes: N, of the images' content.
        class_names: C.
    """

    logits: list[np.ndarray]
    labels: np.ndarray
    hashes: tuple[str, ...]
    class_names: tuple[str, ...]


def on_same_images(said: Sequence[KeptLogits], names: Sequence[str], *, advice: str) -> SameImages:
    """Return what classifiers say, images and classes of all in the order of the first.

    Of images that are equal and of one class each stands for the other: they are taken in the order they come in.

    Args:
        said: Of R >= 1 classifiers.
        names: R, how to call each in a message.
        advice: What to try where the images are not the same.

    Raises:
        DataError: They have not seen the same images, or know other classes.
        ModelError: A classifier says numbers that are not finite.
    """
    first = said[0]
    class_names = tuple(map(composed_name, first.class_names))
    keys = [_keys(one) for one in said]
    for one, name, own in zip(said, names, keys, strict=True):
        _check_finite(one, name)
        _check_classes(first, one, names[0], name)
        _check_images(keys[0], own, names[0], name, advice)
    order = _stable_order(keys[0])
    back = np.argsort(order, kind="stable")
    logits = []
    for one, own in zip(said, keys, strict=True):
        column = {name: index for index, name in enumerate(map(composed_name, one.class_names))}
        columns = [column[name] for name in class_names]
        logits.append(one.logits[_stable_order(own)[back]][:, columns])
    return SameImages(logits, first.labels, first.hashes, first.class_names)


def _keys(one: KeptLogits) -> list[_Key]:
    classes = list(map(composed_name, one.class_names))
    return [(digest, classes[label]) for digest, label in zip(one.hashes, one.labels.tolist(), strict=True)]


def _stable_order(keys: Sequence[_Key]) -> np.ndarray:
    return np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)


def _check_finite(one: KeptLogits, name: str) -> None:
    is_bad = ~np.isfinite(one.logits).all(axis=1)
    if is_bad.any():
        raise ModelError(
            f"{name} says numbers that are not finite of {int(is_bad.sum()):,} of {len(is_bad):,} images: its training "
            "diverged. Leave it out."
        )


def _check_classes(first: KeptLogits, other: KeptLogits, name: str, other_name: str) -> None:
    own, others = set(map(composed_name, first.class_names)), set(map(composed_name, other.class_names))
    if own != others:
        odd = min(own ^ others)
        has, lacks = (name, other_name) if odd in own else (other_name, name)
        raise DataError(
            f"{has} knows the class {odd!r}, which {lacks} does not; expected runs with the same classes "
            f"({len(own):,} and {len(others):,} found). Leave one of the two out."
        )


def _check_images(first: Sequence[_Key], other: Sequence[_Key], name: str, other_name: str, advice: str) -> None:
    counts, other_counts = Counter(first), Counter(other)
    if counts == other_counts:
        return
    shared = (counts & other_counts).total()
    by_content = (Counter(digest for digest, _ in first) & Counter(digest for digest, _ in other)).total()
    relabelled = by_content - shared
    labels = f" ({relabelled:,} more, of which the classes differ)" if relabelled else ""
    raise DataError(
        f"{name} and {other_name} have not seen the same images: {len(first):,} and {len(other):,}, of which "
        f"{shared:,} are in both{labels}. {advice}"
    )
