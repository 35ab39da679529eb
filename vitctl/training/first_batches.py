"""What the model is shown: pictures of the first batches of a run, after all augmentation and mixing.

Whoever calls ``train`` draws them; nothing of a run depends on them.

Letters: B images in a batch, H W px, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from vitctl.data.loader import TrainingBatch
from vitctl.data.pixels import levels_shown
from vitctl.training.job import Job

FIRST_BATCHES = "first-batches.png"
NUM_BATCHES, MOST_IMAGES = 3, 16  # of each; enough to see what is done to them, on one screen
LONGEST_SIDE = 128  # px of a picture
LEAST_SHARE = 0.005  # less of another image is 0 % in a caption


class Sheet(NamedTuple):
    """One batch.

    Attributes:
        title: Which it is.
        pictures: (H, W, 3) uint8 each.
        captions: One per picture: its class, or the two that are mixed, a line each.
    """

    title: str
    pictures: list[np.ndarray]
    captions: list[str]


Draw = Callable[[Sequence[Sheet], Path], None]
"""Writes sheets as one PNG."""


class FirstBatches:
    """Keeps pictures of the first batches until all of them are there, and has them drawn, once in a run.

    Args:
        job: What is trained.
        path: PNG to write if it is not there yet; None draws nothing.
        draw: Who draws; None is nobody.
    """

    def __init__(self, job: Job, path: Path | None, draw: Draw | None) -> None:
        self._job, self._path, self._draw, self._sheets = job, path, draw, list[Sheet]()
        self.num_missing = 0
        """Batches from the first step on that are still to be seen."""
        if path is not None and draw is not None and not path.exists():
            self.num_missing = min(NUM_BATCHES, job.batches.num_steps)

    @property
    def num_seen(self) -> int:
        """Batches from the first step on whose pictures are kept, to be drawn with those that are missing."""
        return len(self._sheets)

    def watched(self, batches: Iterable[TrainingBatch]) -> Iterator[TrainingBatch]:
        """Yield the batches, of (B, 3, H, W) images, as they are; pictures of those that are missing are kept."""
        for batch in batches:
            if self.num_missing and batch.step == len(self._sheets):
                self._sheets.append(sheet_of(batch, self._job))
                self.num_missing -= 1
            yield batch

    def draw_when_complete(self) -> None:
        """Draw what was kept, if nothing is missing any more."""
        if self._sheets and not self.num_missing and self._draw is not None and self._path is not None:
            self._draw(self._sheets, self._path)
            self._sheets = []


def sheet_of(batch: TrainingBatch, job: Job) -> Sheet:
    """Return pictures of a process's first images of ``batch``, (B, 3, H, W), before their step."""
    images, preprocessing = batch.images[:MOST_IMAGES], job.preprocessing
    levels = levels_shown(images, preprocessing.mean, preprocessing.std)
    height, width = images.shape[2:]
    title = (
        f"step {batch.step + 1}: {len(images)} of {batch.num_global} images as the model sees them, {height}x{width} px"
    )
    return Sheet(title, _pictures(levels.cpu()), _captions(batch, job))


def _pictures(levels: Tensor) -> list[np.ndarray]:
    """Return (B, 3, H, W) uint8 levels as pictures of a size that can be looked at; small ones show their pixels."""
    height, width = levels.shape[2:]
    longest = max(height, width)
    if longest > LONGEST_SIDE:
        size = [max(1, round(side * LONGEST_SIDE / longest)) for side in (height, width)]
        smaller = F.interpolate(levels.float(), size, mode="bilinear", antialias=True)
        levels = smaller.round_().clamp_(0, 255).byte()
    factor = max(1, LONGEST_SIDE // longest)
    levels = levels.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    return list(levels.permute(0, 2, 3, 1).numpy())


def _captions(batch: TrainingBatch, job: Job) -> list[str]:
    names, of_class = job.train.class_names, job.class_weights
    labels = batch.labels[:MOST_IMAGES].tolist()
    if batch.others is None:
        return [names[label] for label in labels]
    others, weights = batch.others.labels.tolist(), batch.weights.tolist()
    captions = []
    for label, other, weight in zip(labels, others, weights, strict=False):
        own = weight if of_class is None else weight / float(of_class[label])
        captions.append(_caption([(own, names[label]), (1 - own, names[other])]))
    return captions


def _caption(parts: list[tuple[float, str]]) -> str:
    """Return the names of classes behind their shares, the larger first; a long name may be cut, its share is not."""
    (most, name), (rest, other) = sorted(parts, key=lambda part: -part[0])
    return name if rest < LEAST_SHARE or name == other else f"{most:.0%}: {name}\n{rest:.0%}: {other}"
