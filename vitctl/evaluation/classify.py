"""Run a classifier over images and keep its logits.

Letters: N images, B in a batch, C classes.
"""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.loader import evaluation_batches
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform
from vitctl.evaluation.lone_image import never_alone
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.processes import ALONE, Processes


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    batches: Iterable[Tensor],
    *,
    device: torch.device,
    num_images: int,
    description: str,
    conversation: Conversation,
    num_batches: int | None = None,
    processes: Processes = ALONE,
    is_stopping: Callable[[], bool] | None = None,
) -> np.ndarray:
    """Return the logits of every image, in order, computed in float32.

    Of several processes each shows the model its share, and all return the same: the bits that one process returns
    with as many threads, as all batches are those of one.

    Args:
        model: A classifier; put into evaluation mode, and back as it was afterwards.
        batches: Tensors (B, 3, H, W), B may vary; of several processes this one's, ``Processes.positions``.
        device: Where ``model`` is.
        num_images: N, for the progress bar.
        description: For the progress bar.
        conversation: Shows it.
        num_batches: Of all processes; None of one that is alone: as many as there are.
        processes: Who shares the images out.
        is_stopping: Asked before every batch.

    Returns:
        (N, C) float32.

    Raises:
        StopNow: ``is_stopping`` says so, in any process.
    """
    was_training = model.training
    model.eval()
    logits: list[np.ndarray] = []
    made = ({"logits": _logits(model, batch.to(device)).float().cpu().numpy()} for batch in batches)
    try:
        with conversation.progress(description, num_images, "images") as bar:
            for batch in processes.in_turns(made, num_batches, is_stopping=is_stopping):
                logits.append(batch["logits"])
                bar.advance(len(batch["logits"]))
    finally:
        model.train(was_training)
    return np.concatenate(logits)


def _logits(model: nn.Module, batch: Tensor) -> Tensor:
    """Return what ``model`` says of each image of ``batch`` (B, 3, H, W), whatever others are in it: (B, C)."""
    with batch_bytes_told(model, batch):
        logits: Tensor = model(never_alone(batch))
    return logits[: len(batch)]


def split_logits(
    model: nn.Module,
    split: Split,
    preprocessing: Preprocessing,
    *,
    batch_size: int,
    num_workers: int,
    device: torch.device,
    description: str,
    conversation: Conversation,
    processes: Processes = ALONE,
    is_stopping: Callable[[], bool] | None = None,
) -> np.ndarray:
    """Return the logits of every image of ``split``, in order: (N, C) float32.

    What validation during training and ``vitctl evaluate`` both do. ``batch_size``, ``num_workers`` and the number of
    ``processes``, which share the images out, change nothing but the speed.

    Raises:
        DataError: An image cannot be read any more.
        StopNow: ``is_stopping``, asked before every batch, says so in any process.
    """
    return predict_logits(
        model,
        evaluation_batches(
            split.select(processes.positions(len(split), batch_size)) if processes.count > 1 else split,
            EvaluationTransform(preprocessing),
            batch_size=batch_size,
            num_workers=num_workers,
            device=device,
        ),
        device=device,
        num_images=len(split),
        description=description,
        conversation=conversation,
        num_batches=-(-len(split) // batch_size),
        processes=processes,
        is_stopping=is_stopping,
    )


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Return softmax(logits): (N, C) float64, rows sum to 1."""
    from scipy.special import softmax

    result: np.ndarray = softmax(logits.astype(np.float64), axis=1)
    return result
