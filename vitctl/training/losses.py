"""What training makes small.

Letters: B images, C classes.
"""

import torch.nn.functional as F
from torch import Tensor

from vitctl.data.mixing import Others


def share_of_loss(
    logits: Tensor, labels: Tensor, weights: Tensor, *, weight_global: float, others: Others | None = None
) -> Tensor:
    """Return what these images add to the mean cross-entropy over the global batch: (), float32.

    The parts of all processes add up to the mean, however the batch is divided.

    Args:
        logits: (B, C), of any float type.
        labels: (B,) int64.
        weights: (B,) float32; 0 for images that do not count.
        weight_global: Sum of the weights over the global batch, those of ``others`` included.
        others: Second labels (B,) and their weights (B,); with them it is the cross-entropy against mixed labels.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none")  # (B,)
    losses = losses * weights
    if others is not None:
        losses = losses + F.cross_entropy(logits.float(), others.labels, reduction="none") * others.weights
    return losses.sum() / weight_global
