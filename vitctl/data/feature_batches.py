"""Batches of features in the place of images: the same images, in the same order, as a frozen model sees them.

Letters: N images, B in a batch, D width, C classes.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from vitctl.data.loader import CPU, PlanSampler, TrainingBatch
from vitctl.data.order import BatchPlan


def feature_batches(
    features: Tensor,
    labels: np.ndarray,
    plan: BatchPlan,
    *,
    class_weights: np.ndarray | None = None,
    first_step: int = 0,
    process_index: int = 0,
    num_processes: int = 1,
    device: torch.device = CPU,
) -> Iterator[TrainingBatch]:
    """Yield this process's ``TrainingBatch`` for each step of ``plan`` from ``first_step`` on.

    It is that of ``training_batches`` with (B, D) features for its images.

    Args:
        features: (N, D) float32.
        labels: (N,) int64.
        plan: Which images make up each batch; nothing is mixed.
        class_weights: (C,) float64; None is 1 each.
        first_step: 0..num_steps-1.
        process_index: This process.
        num_processes: Those that share each batch.
        device: Where the batches go.
    """
    weights = np.ones(len(labels)) if class_weights is None else class_weights[labels]
    of_plan = PlanSampler(
        plan, weights, first_step=first_step, process_index=process_index, num_processes=num_processes
    )
    targets = torch.from_numpy(labels)
    for step, keys in enumerate(of_plan, first_step):
        chosen = torch.tensor([key.position for key in keys])
        share = plan.share(keys[0].num_global, process_index, num_processes)
        yield TrainingBatch(
            features[chosen],
            targets[chosen],
            torch.tensor([key.weight for key in keys]),
            keys[0].num_global,
            keys[0].weight_global,
            seed=plan.seed,
            step=step,
            first_slot=share.start if share else 0,  # of what fills an empty share
            micro_batch=plan.largest_micro_batch(num_processes),
        ).to(device)
