"""What a run says of images: as it kept it, else computed from its weights."""

from dataclasses import dataclass
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images, images_of_run
from vitctl.data.seen_images import doubts_about_seen, seen_in_training
from vitctl.data.source import align_classes
from vitctl.errors import SettingError
from vitctl.evaluation.evaluating import Checked, Computing, check_images
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.run_folders.kept_logits import KeptLogits, read_logits
from vitctl.settings.words import WHICH

BEST = "best"
"""The weights whose logits a run keeps."""
_ADVICE = "Name images with --on SPEC."


@dataclass(frozen=True)
class Saying:
    """How to find out what runs say of images.

    Attributes:
        which: Weights: best, last or average.
        computing: How models are shown images.
        may_skip: Whether images that cannot be read are left out.
        looks: Looks at images, each once.
        conversation: Says what is done.
    """

    which: str
    computing: Computing
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
        return check_images(images, self.looks, self.conversation, may_skip=self.may_skip)

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
        workers, description = self.computing.workers(images, opened), f"evaluating {run.name}"
        logits = self.computing.logits(opened, split, workers, description=description, conversation=self.conversation)
        return KeptLogits(logits, split.labels, checked.hashes, tuple(opened.class_names))

    def _doubts(self, run: Path, checked: Checked, opened: PreparedModel, *, are_own: bool) -> list[str]:
        of_range = checked.doubts_about_range(opened)
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
