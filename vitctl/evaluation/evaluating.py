"""To evaluate a model on images: those that can be read, what is odd about them, and what the model says of each."""

from dataclasses import dataclass, replace

import numpy as np
import torch

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.depth import depth_of, doubts_about_range
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images
from vitctl.data.scan import Scan, check_bad_images
from vitctl.data.source import Split
from vitctl.data.workers import Workers, batch_bytes, resolve_num_workers
from vitctl.evaluation.classify import split_logits
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.devices import enough_memory
from vitctl.primitives.processes import ALONE, Processes


@dataclass(frozen=True)
class Checked:
    """Images that can be read.

    Attributes:
        images: Which.
        scan: What looking at them showed, at those too that cannot be read.
    """

    images: Images
    scan: Scan

    @property
    def hashes(self) -> tuple[str, ...]:
        """Of the content of each."""
        return tuple(look.fingerprint for look in self.scan.looks if look is not None)

    def doubts_about_range(self, opened: PreparedModel) -> list[str]:
        """Return a sentence where some are brighter than what the model takes as white."""
        white = opened.preprocessing.max_value
        # without one there is nothing to try: it is trained with
        return [] if white is None else doubts_about_range(depth_of([self.scan]), white)


def check_images(images: Images, looks: Looks, conversation: Conversation, *, may_skip: bool) -> Checked:
    """Return those of ``images`` that can be read; the others are said.

    Args:
        images: Any.
        looks: Looks at them.
        conversation: Hears which are left out.
        may_skip: Whether images that cannot be read are left out.

    Raises:
        DataError: Some cannot be read and may not be skipped, or none can.
    """
    scan = looks.scan(images.split)
    for line in check_bad_images(images.split, scan, allow=may_skip, needs_every_class=False):
        conversation.warn(f"left out: {line}")
    return Checked(replace(images, split=good_images(images.split, scan)), scan)


@dataclass(frozen=True)
class Computing:
    """How a model is shown images.

    Attributes:
        device: Where to compute.
        batch_size: Images at a time; changes nothing but the speed.
        num_workers: Processes that read images; None leaves it to us.
        processes: Who shares the images out.
    """

    device: torch.device
    batch_size: int
    num_workers: int | None
    processes: Processes = ALONE

    def workers(self, images: Images, opened: PreparedModel) -> Workers:
        """Return how many processes read images, and why."""
        return resolve_num_workers(
            self.num_workers,
            is_in_memory=images.source.is_in_memory,
            device_type=self.device.type,
            batch_bytes=batch_bytes(self.batch_size, opened.image_size),
        )

    def logits(
        self, opened: PreparedModel, split: Split, workers: Workers, *, description: str, conversation: Conversation
    ) -> np.ndarray:
        """Return what a model says of every image of ``split``, in order: (N, C) float32.

        Raises:
            DataError: An image cannot be read any more.
            SettingError: The memory is full.
        """
        with enough_memory(self.device, self.batch_size):
            return split_logits(
                opened.model.to(self.device),
                split,
                opened.preprocessing,
                batch_size=self.batch_size,
                num_workers=workers.number,
                device=self.device,
                description=description,
                conversation=conversation,
                processes=self.processes,
            )
