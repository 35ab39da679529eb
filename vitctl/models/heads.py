"""The head of a model: kept or new for the classes at hand, or a linear one that was computed elsewhere.

Letters: D width, C classes.
"""

import torch
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.anatomy import attention_pooling
from vitctl.models.build import LoadedModel, replace_head
from vitctl.settings.words import DEMO


def fit_head(
    loaded: LoadedModel, class_names: tuple[str, ...], *, method: str, seed: int, is_given: bool = False
) -> tuple[str, str]:
    """Give the model a head for ``class_names`` unless it has one; return what was done, and why.

    A run or timm folder whose classes are these keeps its head, unless its tokens are pooled otherwise now. The demo
    model's is never kept: its classes are numbers that stand for clothes.

    Args:
        loaded: The model; changed in place.
        class_names: Outputs wanted, in order.
        method: ``zero`` or ``random``, see ``replace_head``; ``ridge`` starts as zeros, to be filled in later.
        seed: For ``random``.
        is_given: The user asked for the method, so that no head is kept.
    """
    if loaded.class_names == class_names and loaded.name != DEMO and not is_given and not loaded.is_pooled_anew:
        return "kept", f"its {len(class_names)} classes are these"
    replace_head(loaded.model, len(class_names), method="zero" if method == "ridge" else method, seed=seed)
    why = "random weights" if loaded.report is None else "the pretrained classes are others"
    why = "its own is of another pooling" if loaded.is_pooled_anew else why
    how = "closed form (ridge)" if method == "ridge" else f"{method} initialisation"
    return f"new, {how}, {len(class_names)} outputs", "given" if is_given else why


def has_linear_head(model: nn.Module) -> bool:
    """Return whether the classifier layers are plain linear ones (or 1x1 convolutions)."""
    return all(_is_linear(head) for head in _heads(model))


def _heads(model: nn.Module) -> tuple[nn.Module, ...]:
    """Return what the model calls its classifier: one, or two of a distilled model."""
    found = model.get_classifier()  # type: ignore[operator]  # timm's method
    return tuple(found) if isinstance(found, (tuple, list)) else (found,)


def head_paths(model: nn.Module) -> tuple[str, ...]:
    """Return where the head is, as paths of modules: what pools by attention, and the classifier or classifiers.

    Attention pooling is of the head, as it is new where a model is given one (``--pool map``), and elsewhere was made
    for other classes. A norm before the classifier is not: a linear layer after it can do what its weights can.
    """
    named = getattr(model, "pretrained_cfg", None) or {}
    named = named.get("classifier") or () if hasattr(named, "get") else getattr(named, "classifier", None) or ()
    parts = {id(part) for part in (*_heads(model), attention_pooling(model)) if part is not None}
    found = [path for path, module in model.named_modules() if path and id(module) in parts]
    return tuple(dict.fromkeys((*found, *((named,) if isinstance(named, str) else named))))


def _is_linear(layer: nn.Module) -> bool:
    is_pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)
    return (isinstance(layer, nn.Linear) or is_pointwise) and layer.bias is not None


def linear_heads(model: nn.Module, *, name: str) -> tuple[nn.Linear | nn.Conv2d, ...]:
    """Return the model's classifier layers, all of which are plain linear ones (or 1x1 convolutions).

    Raises:
        ModelError: One is something else.
    """
    if not has_linear_head(model):
        raise ModelError(f"The head of {name} is more than a linear layer, so none can be computed; use --head zero.")
    return _heads(model)  # type: ignore[return-value]  # narrowed above


@torch.no_grad()
def set_linear_head(model: nn.Module, weights: Tensor, bias: Tensor, *, name: str) -> None:
    """Make the model's logits ``features @ weights.T + bias``, in place, features being what its head sees.

    A distilled model's two heads get the same numbers, as it averages their logits.

    Args:
        model: A timm model whose head has C outputs.
        weights: (C, D).
        bias: (C,).
        name: Its name, for messages.

    Raises:
        ModelError: Its head is more than a linear layer, or sees features of another width.
    """
    for head in linear_heads(model, name=name):
        if head.weight.shape[:2] != weights.shape or head.bias is None:
            raise ModelError(
                f"The head of {name} takes {head.weight.shape[1]} features and its pooling gives {weights.shape[1]}; "
                "expected as many, to compute a head. Use --head zero."
            )
        head.weight.copy_(weights.reshape(head.weight.shape))
        head.bias.copy_(bias)
