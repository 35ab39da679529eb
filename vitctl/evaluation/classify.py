"""Run a classifier over images and keep its logits.

Letters: N images, B in a batch, C classes.
"""

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    device: torch.device,
    num_images: int,
    description: str,
    conversation: Conversation,
) -> np.ndarray:
    """Return the logits of every image, in order, computed in float32.

    Args:
        model: A classifier; put into evaluation mode, and back as it was afterwards.
        batches: Tensors (B, 3, H, W), B may vary.
        device: Where ``model`` is.
        num_images: N, for the progress bar.
        description: For the progress bar.
        conversation: Shows it.

    Returns:
        (N, C) float32.
    """
    was_training = model.training
    model.eval()
    logits: list[np.ndarray] = []
    try:
        with conversation.progress(description, num_images, "images") as bar:
            for batch in batches:
                logits.append(model(batch.to(device)).float().cpu().numpy())
                bar.advance(len(batch))
    finally:
        model.train(was_training)
    return np.concatenate(logits)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return softmax(logits): (N, C) float64, rows sum to 1."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    exponentials = np.exp(shifted)
    result: np.ndarray = exponentials / exponentials.sum(axis=1, keepdims=True)
    return result
