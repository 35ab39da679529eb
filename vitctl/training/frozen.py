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


def _still(module: nn.Module) -> set[bool]:
    """Put what is frozen in ``module`` into evaluation mode; return whether its weights are trained, each answer once.

    One way through the model, as this is done in every step.
    """
    answers = {parameter.requires_grad for parameter in module.parameters(recurse=False)}
    for child in module.children():
        of_child = _still(child)
        if of_child == {False}:
            child.eval()
        answers |= of_child
    return answers


def num_all_parameters(model: nn.Module) -> int:
    """Return how many numbers the parameters of ``model`` hold, trained or not."""
    return sum(parameter.numel() for parameter in model.parameters())
