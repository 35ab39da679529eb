"""The batches of a job, and the steps it takes with them: what a run does, and what is measured before it."""

from collections.abc import Container, Iterable, Iterator

from torch import nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.training.job import Job
from vitctl.training.loop import StepReport, train_steps
from vitctl.training.state import TrainingState


def image_batches(job: Job, first_step: int = 0, *, num_workers: int | None = None) -> Iterator[TrainingBatch]:
    """Yield this process's batches of (B, 3, H, W) images, on its device, from ``first_step`` on.

    Args:
        job: What is trained.
        first_step: From 0.
        num_workers: Processes that read images; None are the job's.
    """
    return training_batches(
        job.train,
        job.training_transform(),
        job.batches,
        num_workers=job.num_workers if num_workers is None else num_workers,
        class_weights=job.class_weights,
        smaller=[job.training_transform(size) for size in job.batches.sizes[:-1]],
        first_step=first_step,
        process_index=job.processes.index,
        num_processes=job.processes.count,
        device=job.accelerator.device,
    )


def steps_of(
    job: Job,
    state: TrainingState,
    model: nn.Module,
    batches: Iterable[TrainingBatch],
    *,
    conversation: Conversation,
    pauses: Container[int] = (),
) -> Iterator[StepReport]:
    """Take the steps of a job, from that of ``state`` on; yield what each did. See ``train_steps``.

    Args:
        job: What is trained.
        state: Where to go on from; kept up to date.
        model: What a step runs: the job's model, as it is compiled, or its head alone.
        batches: This process's, (B, 3, H, W) images, or (B, D) features for a head alone.
        conversation: Hears of a micro-batch that became smaller.
        pauses: Steps after which somebody looks at the model.
    """
    yield from train_steps(
        state,
        job.accelerator.prepare(model),
        batches,
        job.schedule,
        accelerator=job.accelerator,
        clip_norm=job.recipe.optimizer.clip_norm,
        precision=job.precision,
        is_filled=job.is_filled,
        label_smoothing=job.recipe.loss.label_smoothing,
        largest=job.preprocessing.image_size if job.batches.sizes else None,
        pauses=pauses,
        conversation=conversation,
    )
