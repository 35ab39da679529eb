"""What a run says of images: as it kept it, else computed from its weights."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.depth import depth_of, doubts_about_range
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images, images_of_run
from vitctl.data.scan import Scan, check_bad_images
from vitctl.data.seen_images import doubts_about_seen, seen_in_training
from vitctl.data.source import align_classes
from vitctl.data.workers import batch_bytes, resolve_num_workers
from vitctl.errors import SettingError
from vitctl.evaluation.classify import split_logits
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.primitives.devices import enough_memory
from vitctl.run_folders.kept_logits import KeptLogits, read_logits
from vitctl.settings.words import WHICH

BEST = "best"
"""The weights whose logits a run keeps."""
_ADVICE = "Name images with --on SPEC."


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


@dataclass(frozen=True)
class Saying:
    """How to find out what runs say of images.

    Attributes:
        which: Weights: best, last or average.
        device: Where to compute.
        batch_size: Images at a time; changes nothing.
        num_workers: Processes that read images; None leaves it to us.
        may_skip: Whether images that cannot be read are left out.
        looks: Looks at images, each once.
        conversation: Says what is done.
    """

    which: str
    device: torch.device
    batch_size: int
    num_workers: int | None
    may_skip: bool
    looks: Looks
    conversation: Conversation

    def of_own_images(self, run: Path) -> KeptLogits:
        """Return what a run says of its validation images: what it kept, or computed where it kept nothing.

        Raises:
            DataError: It has no validation images, or they are gone.
            ModelError: Its weights cannot be loaded.
            SettingError: It has no such weights.
        """
        kept = read_logits(run) if self.which == BEST else None
        if kept is not None:
            return kept
        own = images_of_run(run, None, advice=_ADVICE, look=self.looks.scan)
        return self.of_images(run, self.checked(own), are_own=True)

    def checked(self, images: Images) -> Checked:
        """Return those of ``images`` that can be read; the others are said.

        Raises:
            DataError: Some cannot be read and may not be skipped, or none can.
        """
        scan = self.looks.scan(images.split)
        for line in check_bad_images(images.split, scan, allow=self.may_skip, needs_every_class=False):
            self.conversation.warn(f"left out: {line}")
        return Checked(replace(images, split=good_images(images.split, scan)), scan)

    def of_images(self, run: Path, checked: Checked, *, are_own: bool = False) -> KeptLogits:
        """Return what a run says of images, computed from its weights; what is odd is said.

        Args:
            run: A run folder.
            checked: Any images.
            are_own: Whether they are its validation images, which it was not trained on.

        Raises:
            DataError: There are images of classes that it does not know, or one cannot be read any more.
            ModelError: Its weights cannot be loaded.
            SettingError: It has no such weights.
        """
        self.conversation.line(f"loading {run / self.which}")
        opened, images = open_model(str(_weights(run, self.which))), checked.images
        where, advice = f"split {images.split_name} of {images.spec}", f"Leave {run} out, or compare on other images."
        split = align_classes(images.split, opened.class_names, where=where, advice=advice)
        for sentence in (*opened.notes, *self._doubts(run, checked, opened, are_own=are_own)):
            self.conversation.warn(f"{run}: {sentence}")
        workers = resolve_num_workers(
            self.num_workers,
            is_in_memory=images.source.is_in_memory,
            device_type=self.device.type,
            batch_bytes=batch_bytes(self.batch_size, opened.image_size),
        )
        with enough_memory(self.device, self.batch_size):
            logits = split_logits(
                opened.model.to(self.device),
                split,
                opened.preprocessing,
                batch_size=self.batch_size,
                num_workers=workers.number,
                device=self.device,
                description=f"evaluating {run.name}",
                conversation=self.conversation,
            )
        return KeptLogits(logits, split.labels, checked.hashes, tuple(opened.class_names))

    def _doubts(self, run: Path, checked: Checked, opened: PreparedModel, *, are_own: bool) -> list[str]:
        white = opened.preprocessing.max_value
        of_range = [] if white is None else doubts_about_range(depth_of([checked.scan]), white)
        return of_range if are_own else [*of_range, *doubts_about_seen(seen_in_training(checked.scan, run))]


def _weights(run: Path, which: str) -> Path:
    """Return the folder of a run's weights.

    Raises:
        SettingError: It has no such weights.
    """
    if (run / which).is_dir():
        return run / which
    there = [name for name in WHICH if (run / name).is_dir()]
    expected = f"it has {' and '.join(there)}" if there else "it has no weights"
    raise SettingError(f"{run} has no {which}/: {expected}. Say which with --which.", field="which")
