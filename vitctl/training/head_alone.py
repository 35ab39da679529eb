"""What a run does with kept features: computing them, its batches, its validation.

Letters: N images, B in a batch, D width, C classes.
"""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.feature_batches import feature_batches
from vitctl.data.loader import TrainingBatch, evaluation_batches
from vitctl.data.pixels import PixelTransform
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform, UnvaryingTransform
from vitctl.evaluation.lone_image import never_alone
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.training.job import Job
from vitctl.training.kept_features import KeptFeatures, seen_by_head
from vitctl.training.plan import MIN_EVALUATION_BATCH, evaluation_batch_size
from vitctl.training.precision import forward_in

IsStopping = Callable[[], bool] | None


def is_shown_alike(job: Job) -> bool:
    """Return whether training without a crop shows images as validation does, in the same numbers."""
    shown = job.preprocessing
    return shown.crop_mode == "squash" and shown.crop_pct == 1 and job.precision == "fp32"


def training_features(
    job: Job, kept: KeptFeatures, conversation: Conversation, *, is_stopping: IsStopping = None
) -> Tensor:
    """Return the (N, D) float32 features of the training images, in every process; computed at the first call.

    The images are shown as training shows them, in its precision.

    Args:
        job: What is trained; all of its processes call this.
        kept: Gets them.
        conversation: Shows progress.
        is_stopping: Asked before every batch.

    Raises:
        DataError: An image cannot be read any more.
        StopNow: ``is_stopping`` says so, in any process; in all of them.
    """
    if kept.of_training is None:
        transform = UnvaryingTransform(job.training_transform())
        kept.of_training = _embedded(
            job,
            kept,
            job.train,
            transform,
            batch_size=MIN_EVALUATION_BATCH,
            least_side=transform.least_side,
            precision=job.precision,
            description="embedding training images",
            conversation=conversation,
            is_stopping=is_stopping,
        )
    return kept.of_training


def in_parts(features: Tensor, size: int) -> Iterator[Tensor]:
    """Yield (N, D) features ``size`` images at a time, the last of what is left: views."""
    return (features[first : first + size] for first in range(0, len(features), size))


def head_batches(job: Job, features: Tensor, *, first_step: int) -> Iterator[TrainingBatch]:
    """Yield this process's batches of (B, D) ``features``, on its device, from ``first_step`` on."""
    return feature_batches(
        features,
        job.train.labels,
        job.batches,
        class_weights=job.class_weights,
        first_step=first_step,
        process_index=job.processes.index,
        num_processes=job.processes.count,
        device=job.accelerator.device,
    )


def validation_logits(
    job: Job, kept: KeptFeatures, val: Split, conversation: Conversation, *, is_stopping: IsStopping
) -> np.ndarray:
    """Return the (N, C) float32 logits of the validation images, the same in every process.

    They are those of ``split_logits``, bit for bit: of the same batches, in float32.

    Args:
        job: What is trained; all of its processes call this.
        kept: Its features, computed at the first call.
        val: The validation images.
        conversation: Shows progress.
        is_stopping: Asked before every batch.

    Raises:
        DataError: An image cannot be read any more.
        StopNow: ``is_stopping`` says so, in any process; in all of them.
    """
    size = evaluation_batch_size(job.batches.batch_size)
    if kept.of_validation is None:
        kept.of_validation = _embedded(
            job,
            kept,
            val,
            EvaluationTransform(job.preprocessing),
            batch_size=size,
            least_side=None,
            precision="fp32",
            description="embedding validation images",
            conversation=conversation,
            is_stopping=is_stopping,
        )
    features, device = kept.of_validation, job.accelerator.device
    kept.head.to(device).eval()

    @torch.inference_mode()
    def logits() -> dict[str, np.ndarray]:
        """Return the (N, C) logits of the N validation images."""
        parts = [kept.head(never_alone(part.to(device)))[: len(part)].cpu() for part in in_parts(features, size)]
        return {"logits": torch.cat(parts).numpy()}

    return job.processes.arrays(logits)["logits"]


def _embedded(
    job: Job,
    kept: KeptFeatures,
    split: Split,
    transform: PixelTransform,
    *,
    batch_size: int,
    least_side: int | None,
    precision: str,
    description: str,
    conversation: Conversation,
    is_stopping: IsStopping,
) -> Tensor:
    """Return what the head sees of each image of ``split``, (N, D) float32 on the CPU; processes share them out.

    Their number and that of workers change nothing but the speed.
    """
    processes, num_images = job.processes, len(split)
    batches = evaluation_batches(
        split.select(processes.positions(num_images, batch_size)) if processes.count > 1 else split,
        transform,
        batch_size=batch_size,
        num_workers=job.num_workers,
        device=job.accelerator.device,
        least_side=least_side,
    )
    found = torch.empty(num_images, *kept.shape)
    done = 0
    with conversation.progress(description, num_images, "images") as bar:
        made = _made(job, kept, batches, precision)
        for part in processes.in_turns(made, -(-num_images // batch_size), is_stopping=is_stopping):
            features = torch.from_numpy(part["features"])
            found[done : done + len(features)] = features
            done += len(features)
            bar.advance(len(features))
    return found


def _made(job: Job, kept: KeptFeatures, batches: Iterable[Tensor], precision: str) -> Iterator[dict[str, np.ndarray]]:
    """Yield the features of each batch, (B, D) float32: of bf16 and fp16 too, which round them no further."""
    device = job.accelerator.device
    model = job.model.to(device).eval()
    for images in batches:
        with torch.inference_mode(), forward_in(precision, device), batch_bytes_told(model, images):
            seen, _ = seen_by_head(model, kept.head, images)
        yield {"features": seen.float().cpu().numpy()}
