"""What training makes small.

Letters: B images, C classes.
"""

from functools import partial

import torch.nn.functional as F
from torch import Tensor

from vitctl.data.mixing import Others


def share_of_loss(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    weight_global: float,
    others: Others | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return what these images add to the mean cross-entropy over the global batch: (), float32.

    The parts of all processes add up to the mean, however the batch is divided.

    Label smoothing is torch's (arXiv 1512.00567, section 7): a share s of each label is spread evenly over all C
    classes, the right one included, so that it keeps 1 - s + s / C. An image's weight is that of its own class for the
    whole of its label, as if the image were shown more often. torch's ``weight`` beside ``label_smoothing`` weighs each
    class that some of the label goes to by that class, and divides by the weights of the own ones all the same: weights
    for rare classes would push the scores of these up in every image.

    Args:
        logits: (B, C), of any float type.
        labels: (B,) int64.
        weights: (B,) float32; 0 for images that do not count.
        weight_global: Sum of the weights over the global batch, those of ``others`` included.
        others: Second labels (B,) and their weights (B,); with them it is the cross-entropy against mixed labels, each
            smoothed.
        label_smoothing: The share s, 0 to below 1.
    """
    entropy = partial(F.cross_entropy, reduction="none", label_smoothing=label_smoothing)
    losses = entropy(logits.float(), labels) * weights  # (B,)
    if others is not None:
        losses = losses + entropy(logits.float(), others.labels) * others.weights
    return losses.sum() / weight_global
