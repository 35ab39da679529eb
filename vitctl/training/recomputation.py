"""Gradient checkpointing: what lies within blocks is computed again in the backward pass instead of kept.

Source: arXiv 1604.06174.
"""

from torch import nn

from vitctl.errors import SettingError
from vitctl.training.micro_batches import has_batch_norm


def recompute_blocks(model: nn.Module, *, name: str) -> None:
    """Let timm compute the blocks of ``model`` again in the backward pass; gradients and weights stay the same.

    Args:
        model: A timm model; changed in place.
        name: Its name, for messages.

    Raises:
        SettingError: timm cannot do it for this model, or its running statistics would follow every batch twice.
    """
    if has_batch_norm(model):
        raise SettingError(
            f"--checkpointing is given, but {name} has BatchNorm layers, whose running statistics would follow every "
            "batch twice; expected a model with other norms. Try a smaller --batch-size.",
            field="checkpointing",
        )
    try:
        model.set_grad_checkpointing(True)  # type: ignore[operator]
    except (AttributeError, AssertionError) as error:  # without the method, or with one that asserts there is none
        raise SettingError(
            f"--checkpointing is given, but timm cannot do it for {name}; leave it out. Try a smaller --micro-batch.",
            field="checkpointing",
        ) from error
