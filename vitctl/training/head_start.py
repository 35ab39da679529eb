"""How the head of a run starts: kept, as zeros, random, or as the closed-form linear probe.

Letters: B images in a batch, D width, C classes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from vitctl.conversation import Conversation
from vitctl.data.loader import evaluation_batches
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform
from vitctl.evaluation.features import FeatureExtractor, FeatureKey, stream_features
from vitctl.models.build import LoadedModel
from vitctl.models.heads import fit_head, has_linear_head, linear_heads, set_linear_head
from vitctl.primitives.decision import Decision
from vitctl.results.finetune import LinearProbe, Score
from vitctl.settings.words import FINAL
from vitctl.training.head_alone import in_parts, is_shown_alike, training_features
from vitctl.training.job import Job
from vitctl.training.plan import MIN_EVALUATION_BATCH
from vitctl.training.validation import validate

if TYPE_CHECKING:
    from vitctl.evaluation.ridge_head import RidgeHead


def start_head(
    loaded: LoadedModel, class_names: tuple[str, ...], *, given: str | None, by_recipe: str, seed: int
) -> tuple[Decision[str], bool]:
    """Give the model a head for ``class_names`` unless it has one.

    Args:
        loaded: The model at its size; changed in place.
        class_names: Outputs wanted, in order.
        given: zero, random or ridge, where the user said so.
        by_recipe: Likewise, as the recipe has it.
        seed: For a random head.

    Returns:
        What was done, and whether ``fill_in_ridge_head`` is to follow.

    Raises:
        ModelError: The user asked for ridge, and the head is more than a linear layer.
    """
    method, is_given = given or by_recipe, given is not None
    head = Decision(*fit_head(loaded, class_names, method=method, seed=seed, is_given=is_given))
    if method != "ridge" or head.value == "kept":
        return head, False
    if has_linear_head(loaded.model):
        return head, True
    if is_given:
        linear_heads(loaded.model, name=loaded.name)  # says what is wrong
    zeros, _ = fit_head(loaded, class_names, method="zero", seed=seed)
    return Decision(zeros, "its head is more than linear"), False


@dataclass(frozen=True)
class RidgeStart:
    """The closed-form head and how it does before any training.

    Attributes:
        head: Its penalty, temperature and leave-one-out accuracy.
        score: On the validation images, as step 0.
    """

    head: "RidgeHead"
    score: Score

    def result(self) -> LinearProbe:
        """Return what the summary says of it."""
        return LinearProbe(
            top1=self.score.top1,
            loss=self.score.loss,
            l2=self.head.l2,
            loo_top1=self.head.loo_accuracy,
            scale=self.head.scale,
        )


def fill_in_ridge_head(job: Job, conversation: Conversation, *, name: str) -> RidgeStart:
    """Fill in the head from the frozen features of the training images; return it and its score.

    Several processes share the embedding out; the first solves, and all return the same.

    Args:
        job: Its model is changed in place.
        conversation: Shows progress.
        name: The model's, for messages.
    """
    from vitctl.evaluation.ridge_head import fit_ridge_head  # needs scipy's solvers, which other heads do without

    processes = job.processes
    if job.kept is not None and is_shown_alike(job):
        kept = training_features(job, job.kept, conversation)
        batches: Iterator[np.ndarray] = (part.flatten(1).numpy() for part in in_parts(kept, MIN_EVALUATION_BATCH))
    else:
        batches = _embedded(job, conversation, name=name)
    head = fit_ridge_head(
        batches,
        job.train.labels,
        num_classes=len(job.train.class_names),
        has_intercept=_has_even_classes(job.train) or (job.class_weights is None and job.batches.balanced is None),
        seed=job.batches.seed,
        processes=processes,
    )
    weights, bias = (torch.from_numpy(part).float() for part in (head.linear.weights.T, head.linear.bias))
    set_linear_head(job.model, weights, bias, name=name)
    found = "" if head.loo_accuracy is None else f", {head.loo_accuracy:.2%} of the training images when left out"
    conversation.line(f"closed-form head: l2 {head.l2:g}{found}, scores x{head.scale:.3g}")
    return RidgeStart(head, validate(job, 0, conversation)[0])


def _embedded(job: Job, conversation: Conversation, *, name: str) -> Iterator[np.ndarray]:
    """Yield (B, D) float32 features of the training images as validation shows them; of several processes the first."""
    processes, num_images = job.processes, len(job.train)
    key = FeatureKey(FINAL, "native")
    mine = processes.positions(num_images, MIN_EVALUATION_BATCH)
    found = stream_features(
        FeatureExtractor(job.model, [key], device=job.accelerator.device, name=name),
        evaluation_batches(
            job.train.select(mine) if processes.count > 1 else job.train,
            EvaluationTransform(job.preprocessing),
            batch_size=MIN_EVALUATION_BATCH,
            num_workers=job.num_workers,
            device=job.accelerator.device,
        ),
        num_images=num_images,
        num_batches=-(-num_images // MIN_EVALUATION_BATCH),
        description="embedding training images",
        conversation=conversation,
        processes=processes,
    )
    return (batch[key] for batch in found)


def _has_even_classes(split: Split) -> bool:
    counts = split.counts()
    return bool((counts == counts[0]).all())
