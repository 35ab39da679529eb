"""The order of the training images: which of them make up each batch, as a function of (seed, step).

Training images form one endless stream: the order of epoch 0, of epoch 1, and so on. Batch k is the k-th slice of the
stream, so a batch may reach into the next epoch, and fewer images than a batch is no special case. A short last batch
happens only where a run is asked for in epochs.

Letters: N images, C classes.
"""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from vitctl.data.mixing import PairMixing
from vitctl.primitives.seeds import epoch_permutation, random_generator


@dataclass(frozen=True)
class BalancedOrder:
    """An endless order of images in which every class comes equally often.

    An epoch has as many places as there are images; each class gets an equal number of them (what does not
    divide goes to the classes in turn), in random order. Within a class every image is shown once before any
    is shown again. No state: an epoch's order is a function of (labels, seed, epoch).

    Attributes:
        labels: (N,) int64; a class that does not occur is not shown.
        seed: The run's seed.
    """

    labels: np.ndarray
    seed: int

    def epoch(self, epoch: int) -> tuple[np.ndarray, np.ndarray]:
        """Return (views, positions), each (N,) int64: how often an image was shown before, and which it is."""
        classes = np.unique(self.labels).tolist()
        num_images, num_classes = len(self.labels), len(classes)
        each, left_over = divmod(num_images, num_classes)
        views, positions = [], []
        for place, label in enumerate(classes):
            first, last = (index * each + _turns(index * left_over, place, num_classes) for index in (epoch, epoch + 1))
            class_views, class_positions = self._stretch(label, first, last)
            views.append(class_views)
            positions.append(class_positions)
        order = epoch_permutation(num_images, seed=self.seed, epoch=epoch)
        return np.concatenate(views)[order], np.concatenate(positions)[order]

    def _stretch(self, label: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Return views and positions of places ``first`` to ``last`` (exclusive) in the order of one class."""
        members = np.flatnonzero(self.labels == label)
        rounds = range(first // len(members), -(-last // len(members)))
        stream = [
            members[random_generator(self.seed, "balance", label, one).permutation(len(members))] for one in rounds
        ]
        start = first - rounds.start * len(members)
        places = np.concatenate([*stream, members[:0]])[start : start + last - first]
        return np.arange(first, last) // len(members), places


def _turns(num_places: int, place: int, num_classes: int) -> int:
    """Return how many of places 0..num_places-1 fall to class number ``place`` when the classes take them in turn."""
    return (num_places - place + num_classes - 1) // num_classes


@dataclass(frozen=True)
class BatchPlan:
    """Which images make up each batch of a run.

    Attributes:
        num_images: Training images, N >= 1.
        batch_size: Global batch, >= 1.
        num_images_seen: Length of the stream; the last batch is what is left.
        seed: The run's seed.
        balanced: Shows every class equally often; None shows every image once per epoch.
        micro_batch: Images that a process computes with at a time, >= 1; None is its whole share of a batch.
        mixing: What is done to pairs of neighbours; None leaves every image alone.
        sizes: px of square images, rising, each for an equal share of the steps; () where all are of one size.
    """

    num_images: int
    batch_size: int
    num_images_seen: int
    seed: int
    balanced: BalancedOrder | None = None
    micro_batch: int | None = None
    mixing: PairMixing | None = None
    sizes: tuple[int, ...] = ()

    @property
    def num_steps(self) -> int:
        """Number of batches."""
        return math.ceil(self.num_images_seen / self.batch_size)

    def stage(self, step: int) -> int:
        """Return which of the ``sizes`` batch ``step`` (0..num_steps-1) is of: 0 to their number - 1; 0 without any.

        The shares are even, to one step.
        """
        return step * len(self.sizes) // self.num_steps

    def steps_of(self, stage: int) -> int:
        """Return how many steps are of one of the ``sizes``."""
        first, last = (-(-index * self.num_steps // len(self.sizes)) for index in (stage, stage + 1))
        return last - first

    def share(self, num_images: int, process_index: int, num_processes: int) -> range:
        """Return which slots (places in a global batch of ``num_images``, from 0) one process takes; it may be none.

        Shares are contiguous and even, to one image or, where neighbours are mixed, to one pair; the first is never
        smaller than another.
        """
        together = 1 if self.mixing is None else 2
        num_units = -(-num_images // together)
        first, last = (-(-num_units * index // num_processes) for index in (process_index, process_index + 1))
        return range(first * together, min(last * together, num_images))

    def largest_micro_batch(self, num_processes: int) -> int:
        """Return how many images a process computes with at a time, at most."""
        share = len(self.share(self.batch_size, 0, num_processes))
        return share if self.micro_batch is None else min(share, self.micro_batch)

    def smallest_micro_batch(self, num_images: int, num_processes: int) -> int:
        """Return how many images a process computes with at a time, at least, of a global batch of ``num_images``."""
        most = self.largest_micro_batch(num_processes)
        shares = [len(self.share(num_images, index, num_processes)) for index in range(num_processes)]
        return min(share % most or min(share, most) for share in shares)

    def batch(self, step: int) -> list[tuple[int, int]]:
        """Return batch ``step`` (0..num_steps-1) as (view, position) pairs; see ``epoch``."""
        return next(self.batches(step))

    def batches(self, first_step: int = 0) -> Iterator[list[tuple[int, int]]]:
        """Yield every batch from ``first_step`` on, drawing each epoch's order only once."""
        first = first_step * self.batch_size
        stream = self._stream(first)
        for start in range(first, self.num_images_seen, self.batch_size):
            yield list(itertools.islice(stream, min(self.batch_size, self.num_images_seen - start)))

    def epoch(self, epoch: int) -> list[tuple[int, int]]:
        """Return the order of one epoch as N (view, position) pairs: the view-th showing of that image, from 0."""
        if self.balanced is not None:
            views, positions = self.balanced.epoch(epoch)
            return list(zip(views.tolist(), positions.tolist(), strict=True))
        return [
            (epoch, position) for position in epoch_permutation(self.num_images, seed=self.seed, epoch=epoch).tolist()
        ]

    def _stream(self, first: int) -> Iterator[tuple[int, int]]:
        """Yield the pairs of the endless stream from place ``first`` on."""
        epoch, place = divmod(first, self.num_images)
        while True:
            yield from self.epoch(epoch)[place:]
            epoch, place = epoch + 1, 0
