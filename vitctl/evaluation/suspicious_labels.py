"""Images whose labels look wrong: from images and a model to a ranking, as ``vitctl data --model`` tells it."""

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.scan import Scan
from vitctl.data.seen_images import seen_in_training
from vitctl.data.source import Split
from vitctl.data.splits import merge_groups
from vitctl.evaluation.embedding import Embedder, FeatureChoice
from vitctl.evaluation.evaluating import Computing
from vitctl.evaluation.features import FeatureKey
from vitctl.models.prepared import PreparedModel
from vitctl.models.run_folders import run_of
from vitctl.primitives.devices import enough_memory
from vitctl.results.data import DuplicateImage, SuspiciousLabel
from vitctl.settings.words import FINAL

TOP_SHARE = 0.01  # of all images, that are listed beside those that are flagged: guess

WEAK_TOP1 = 0.7  # a probe that finds fewer labels is more often wrong than they are; of digits, a fifth wrong: 0.76


@dataclass(frozen=True)
class SuspiciousLabels:
    """What was found.

    Attributes:
        listed: The images with the least probable labels, least probable first: all that are flagged among them.
        positions: (L,) int64, where each of these is among the images that can be read.
        probe_top1: Share of the images, 0-1, whose label the probe finds; None where it can judge none.
        notes: Sentences that a person should read.
    """

    listed: tuple[SuspiciousLabel, ...]
    positions: np.ndarray
    probe_top1: float | None
    notes: tuple[str, ...]

    @property
    def num_flagged(self) -> int:
        """Images whose label is probably wrong."""
        return sum(one.is_flagged for one in self.listed)


def suspicious_labels(
    split: Split,
    copies: Sequence[str],
    opened: PreparedModel,
    computing: Computing,
    *,
    is_in_memory: bool,
    max_value: int | None,
    seed: int,
    conversation: Conversation,
) -> SuspiciousLabels:
    """Embed images and say which labels look wrong; see ``vitctl.evaluation.label_doubts``.

    Args:
        split: N images that can be read, N >= 1.
        copies: N names, equal for copies of one image; see ``names_of_copies``. They are left out together, and so
            are the images of a group.
        opened: The model at the size it is to see them.
        computing: How it is shown them.
        is_in_memory: Whether reading an image costs next to nothing.
        max_value: Of images of 16 bits, what is white; None is the model's.
        seed: Of the sample of very many images.
        conversation: Shows progress.

    Raises:
        SettingError: The images of a batch, or the features of all, do not fit into the memory.
        ModelError: The model gives numbers that are not finite.
    """
    from vitctl.evaluation.label_doubts import doubt_labels  # needs scipy's solvers

    key = FeatureKey(FINAL, "native")
    if max_value is not None:
        opened = replace(opened, loaded=replace(opened.loaded, max_value=max_value))
    embedder = Embedder(
        opened,
        FeatureChoice((key,)),
        batch_size=computing.batch_size,
        num_workers=computing.num_workers,
        conversation=conversation,
    )
    with enough_memory(computing.device, computing.batch_size):
        embedder.to(computing.device)
        features = embedder.embed(split, copies, is_in_memory=is_in_memory)[key]
    groups = split.groups
    together = copies if groups is None else merge_groups(copies, [str(group) for group in groups])
    conversation.line(f"judging {len(split):,} labels, each by the other images")
    doubts = doubt_labels(features, split.labels, together, num_classes=len(split.class_names), seed=seed)
    ranked = doubts.ranked()
    num_top = math.ceil(TOP_SHARE * len(ranked))
    chosen = ranked[(np.arange(len(ranked)) < num_top) | doubts.is_flagged[ranked]]
    names, sizes = split.class_names, _sizes(copies)
    listed = tuple(
        SuspiciousLabel(
            image=split.image_name(position),
            class_name=names[split.labels[position]],
            probability=round(float(doubts.probability[position]), 6),
            suggested=names[doubts.suggested[position]],
            suggested_probability=round(float(doubts.suggested_probability[position]), 6),
            is_flagged=bool(doubts.is_flagged[position]),
            copies=sizes[position] - 1,
        )
        for position in chosen.tolist()
    )
    top1 = doubts.top1(split.labels)
    notes = [*_not_judged(split, doubts.is_judged), *_weak(top1, opened.name, int(doubts.is_flagged.sum()))]
    return SuspiciousLabels(listed, chosen, top1, tuple(notes))


def names_of_copies(split: Split, digests: Sequence[str], near: Iterable[Sequence[DuplicateImage]]) -> list[str]:
    """Return N names, equal for images of ``split`` that are exact duplicates or near copies.

    Args:
        split: N images.
        digests: N, equal for exact duplicates.
        near: Groups of near copies, of any splits.
    """
    of_group = {one.image: str(number) for number, group in enumerate(near) for one in group if one.split == split.name}
    names = [of_group.get(name, f"alone {position}") for position, name in enumerate(split.image_names())]
    return merge_groups(names, digests)


def doubts_about_model(spec: str, scan: Scan) -> list[str]:
    """Return a sentence where the model has learnt the labels that it is to judge; else nothing.

    Args:
        spec: The model: of a run folder its training is known.
        scan: Of the images.

    Raises:
        DataError: The run's list of images cannot be read.
    """
    seen = seen_in_training(scan, run_of(spec))
    num_seen = int(seen.listed.sum())
    if not num_seen and not seen.unknown:
        return []
    some = "Some of these images may have been"
    many = f"{num_seen:,} of these {len(seen.listed):,} images were" if num_seen else some
    return [
        f"{many} in the training of {spec}: it has learnt their labels, wrong ones too, so that few of these look "
        "wrong to it. Judge them by a model that has not seen them, such as the one that it started from."
    ]


def _sizes(names: Sequence[str]) -> list[int]:
    """Return how many images have the name of each."""
    counts = Counter(names)
    return [counts[name] for name in names]


def _weak(top1: float | None, name: str, num_flagged: int) -> list[str]:
    """Return a sentence where the probe is too weak to be trusted."""
    if top1 is None or top1 >= WEAK_TOP1 or not num_flagged:
        return []
    return [
        f"By {name}'s features only {top1:.1%} of the labels are found, so that what looks wrong is mostly the model's "
        "mistake: take a better --model or --image-size before you leave these images out."
    ]


def _not_judged(split: Split, is_judged: np.ndarray) -> list[str]:
    """Return a sentence where the labels of some images cannot be judged."""
    if is_judged.all():
        return []
    left = np.flatnonzero(~is_judged)
    plural = "s" * (len(left) > 1)
    return [
        f"The labels of {len(left):,} image{plural} cannot be judged, {split.image_name(left[0])} first: but for "
        "copies and groups their classes have no other image."
    ]
