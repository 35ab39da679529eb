"""Validation during a run: when, how good the model is, which weights are the best.

Letters: N images, C classes.
"""

import math
from collections.abc import Callable

import numpy as np

from vitctl.conversation import Conversation
from vitctl.evaluation.classify import split_logits
from vitctl.evaluation.metrics import mean_nll, top_k_accuracy, wilson_interval
from vitctl.results.finetune import Score
from vitctl.training.divergence import diverged
from vitctl.training.head_alone import validation_logits
from vitctl.training.job import Job
from vitctl.training.plan import evaluation_batch_size
from vitctl.training.state import Best


def validation_steps(num_steps: int, num_validations: int) -> list[int]:
    """Return the steps after which to validate: evenly spaced, the last step among them.

    Example:
        >>> validation_steps(10, 3)
        [3, 7, 10]
    """
    return sorted({max(1, round(index * num_steps / num_validations)) for index in range(1, num_validations + 1)})


def validate(
    job: Job,
    step: int,
    conversation: Conversation,
    *,
    is_stopping: Callable[[], bool] | None = None,
    whose: str = "",
) -> tuple[Score, np.ndarray | None]:
    """Score the model as it is after ``step``, the way ``vitctl evaluate`` would; several processes share it out.

    Args:
        job: What is trained; all of its processes call this.
        step: For the score.
        conversation: Shows progress.
        is_stopping: Asked before every batch.
        whose: Whose weights these are, where not the trained ones, for the sentence.

    Returns:
        The score, and the logits of the validation images, (N, C) float32, or None where there are none; in every
        process.

    Raises:
        StopNow: ``is_stopping`` says so, in any process; in all of them.
    """
    if job.val is None:
        return Score(step, None, None), None
    job.processes.same_buffers(job.model)
    if job.kept is not None:
        logits = validation_logits(job, job.kept, job.val, conversation, is_stopping=is_stopping)
    else:
        logits = split_logits(
            job.model,
            job.val,
            job.preprocessing,
            batch_size=evaluation_batch_size(job.batches.batch_size),
            num_workers=job.num_workers,
            device=job.accelerator.device,
            description="validating",
            conversation=conversation,
            processes=job.processes,
            is_stopping=is_stopping,
        )
    labels = job.val.labels
    top1, loss = top_k_accuracy(logits, labels, 1), mean_nll(logits, labels)
    low, high = wilson_interval(round(top1 * len(labels)), len(labels))
    interval = f"(95 % interval {low:.1%} to {high:.1%}"
    counts = job.val.counts()
    always = f"always {job.val.class_names[counts.argmax()]!r}: {counts.max() / len(labels):.1%}"
    told = f"validation loss {loss:.4f}, top-1 {top1:.2%} {interval}"
    # what is said of the images once is enough for all weights that are looked at after a step
    conversation.line(f"step {step}: {told}, {len(labels)} images; {always})" if not whose else f"  {whose}: {told})")
    return Score(step, top1, loss), logits


def check_finite(job: Job, score: Score, *, step: int | None = None) -> None:
    """Refuse weights that a last, too long step has spoilt; the loss of a step is from before it.

    Args:
        job: What is trained.
        score: How the weights did when they were last looked at.
        step: That made them as they are now, where that is a later one.

    Raises:
        Diverged: The validation loss, or a weight, is no longer a finite number.
    """
    if score.loss is not None and not math.isfinite(score.loss):
        raise diverged("validation loss", score.loss, step=score.step, peak_lr=job.lr)
    if not all(bool(parameter.isfinite().all()) for parameter in job.model.parameters()):
        raise diverged("weights", math.nan, step=step or score.step, peak_lr=job.lr)


def is_best(job: Job, score: Score, best: Best) -> bool:
    """Return whether ``score`` is of the best weights so far: the lowest loss, or the last where too few choose."""
    is_first = best.score.step == 0
    return not job.selects_best or is_first or _loss(score) < _loss(best.score)


def _loss(score: Score) -> float:
    return math.inf if score.loss is None else score.loss
