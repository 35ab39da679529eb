"""What a run writes while it goes on: metrics, speeds, weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.order import BatchPlan
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.finetune import Score
from vitctl.training.loop import StepReport
from vitctl.training.run_folder import RunFolder, new_run_folder


@dataclass(frozen=True)
class WeightsIdentity:
    """What a saved model says about itself, besides its weights.

    Attributes:
        class_names: One per output.
        preprocessing: What it expects of an image.
        base_model: What it was made from.
        base_licence: Licence of those weights, where known.
    """

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    base_model: str
    base_licence: str | None


class Recorder:
    """Writes the metrics and weights of a run into its folder.

    Args:
        folder: The run folder; None in every process but the first, where nothing is written.
        identity: Goes beside the weights.
        batches: Turns steps into epochs.
    """

    def __init__(self, folder: RunFolder | None, identity: WeightsIdentity, batches: BatchPlan) -> None:
        self._folder, self._identity, self._batches = folder, identity, batches

    def step(self, report: StepReport) -> None:
        """Add an optimiser step to ``metrics.jsonl``, and its timing to ``speed.jsonl``."""
        if self._folder is None:
            return
        seen = min(report.step * self._batches.batch_size, self._batches.num_images_seen)
        epoch = round(seen / self._batches.num_images, 6)
        self._folder.append(
            "metrics.jsonl", {"step": report.step, "epoch": epoch, "loss": report.loss.read(), "lr": report.lr}
        )
        speed = {
            "step": report.step,
            "step_s": round(report.step_s, 6),
            "data_wait_s": round(report.data_s, 6),
            "images_per_s": round(report.num_images / report.step_s, 3),
        }
        self._folder.append("speed.jsonl", speed)

    def validation(self, score: Score) -> None:
        """Add a validation to ``metrics.jsonl``, if there were images to validate on."""
        if self._folder is not None and score.loss is not None:
            self._folder.append("metrics.jsonl", {"step": score.step, "val_loss": score.loss, "val_top1": score.top1})

    def save(self, model: nn.Module, name: str) -> None:
        """Write ``model`` as the timm folder ``name`` (``last`` or ``best``), in the place of an older one."""
        if self._folder is None:
            return
        save_timm_folder(
            model,
            self._folder.path / name,
            class_names=self._identity.class_names,
            preprocessing=self._identity.preprocessing,
            base_model=self._identity.base_model,
            base_licence=self._identity.base_licence,
        )


@contextmanager
def run_folder_of(
    accelerator: Accelerator, path: Path, *, overwrite: bool, conversation: Conversation
) -> Iterator[RunFolder | None]:
    """Make the run folder ``path`` in the first process; yield None in the others.

    A run that ends early beside the one that it was to replace says where both are.

    Raises:
        SettingError: See ``check_out``.
    """
    accelerator.wait_for_everyone()  # no process may find the run folder made by another
    if not accelerator.is_main_process:
        yield None
        return
    with new_run_folder(path, overwrite=overwrite) as folder:
        try:
            yield folder
        except BaseException:
            if folder.replaces is not None and folder.has_weights:
                conversation.warn(f"{path} is the run that was there before; what was trained now is in {folder.path}.")
            raise
