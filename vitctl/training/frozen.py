"""Parts of a model that are not trained: they compute as in evaluation, and nothing is kept of them for gradients.

A part is frozen if it has weights and none of them asks for a gradient: a block, a norm. Its BatchNorm layers use the
statistics that it has and leave them as they are, its drop path and dropout leave nothing out: noise in what does not
learn only makes its outputs worse. Layers without weights beside it (patch dropout before the blocks) stay noisy.
"""

from torch import nn


def is_frozen(module: nn.Module) -> bool:
    """Return whether ``module`` has weights and none of them is trained."""
    parameters = list(module.parameters())
    return bool(parameters) and not any(parameter.requires_grad for parameter in parameters)


def set_training(model: nn.Module) -> nn.Module:
    """Put ``model`` into training mode, its frozen parts into evaluation mode; return it."""
    model.train()
    if not all(parameter.requires_grad for parameter in model.parameters()):
        _still(model)
    return model


def _still(module: nn.Module) -> None:
    for child in module.children():
        if is_frozen(child):
            child.eval()
        else:
            _still(child)


def num_all_parameters(model: nn.Module) -> int:
    """Return how many numbers the parameters of ``model`` hold, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
