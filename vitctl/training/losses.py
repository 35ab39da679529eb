"""What training makes small.

Letters: B images, C classes.
"""

import torch.nn.functional as F
from torch import Tensor


def share_of_loss(logits: Tensor, labels: Tensor, weights: Tensor, *, weight_global: float) -> Tensor:
    """Return what these images add to the mean cross-entropy over the global batch: (), float32.

    The parts of all processes add up to the mean, however the batch is divided.

    Args:
        logits: (B, C), of any float type.
        labels: (B,) int64.
        weights: (B,) float32; 0 for images that do not count.
        weight_global: Sum of the weights over the global batch.
    """
    losses = F.cross_entropy(logits.float(), labels, reduction="none")  # (B,)
    return (losses * weights).sum() / weight_global
