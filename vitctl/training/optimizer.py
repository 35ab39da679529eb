"""The optimiser and its parameter groups: which tensors decay, and at which rate each layer learns."""

from typing import Any

import torch
from torch import nn

from vitctl.primitives.compiler_later import compiler_later
from vitctl.results.finetune import GroupReport

with compiler_later():
    from timm.optim import param_groups_layer_decay

CPU = torch.device("cpu")


def parameter_groups(model: nn.Module, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Return timm's layer-wise groups: vectors, tokens and position embeddings do not decay.

    The rate of layer i of L is ``layer_decay ** (L - i)``; the embeddings are layer 0, the head layer L.
    As in timm, the final norm learns like the last block (MAE's code gives it the head's rate).

    Args:
        model: A timm model.
        weight_decay: On the tensors that decay, >= 0.
        layer_decay: 0-1; 1 gives every layer the same rate.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=exempt, layer_decay=layer_decay
    )
    return groups


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    name: str,
    lr: float,
    betas: tuple[float, float],
    momentum: float,
    device: torch.device = CPU,
) -> torch.optim.Optimizer:
    """Return torch's AdamW or SGD over ``groups``; the loop sets the rate before every step.

    On CUDA it is the fused one: a kernel for many tensors, which also skips a step of fp16 without asking Python. Its
    bits are others than those of torch's plain loop, so that a CPU keeps the loop.

    Args:
        groups: As ``parameter_groups`` gives them; the parameters may still be elsewhere than on ``device``.
        name: ``adamw`` or ``sgd``.
        lr: Peak rate, > 0.
        betas: Of adamw.
        momentum: Of sgd.
        device: Where steps will be taken.
    """
    is_fused = True if device.type == "cuda" else None  # None leaves the choice to torch
    if name == "adamw":
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=is_fused)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, fused=is_fused)


def implementation_of(optimizer: torch.optim.Optimizer) -> str:
    """Return which of torch's implementations takes the steps: ``fused``, or ``loop``, tensor by tensor.

    Without an answer of ours torch's own is ``foreach`` on some devices; that is one operation for many tensors, with
    the bits of the loop.
    """
    return "fused" if optimizer.defaults.get("fused") else "loop"


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every group ``lr`` times its ``lr_scale``."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_scale", 1.0)


def describe_groups(groups: list[dict[str, Any]]) -> list[GroupReport]:
    """Return what learns at which rate and decay, lowest rate first; groups alike in both are one row."""
    tensors: dict[tuple[float, float], list[int]] = {}
    for group in groups:
        tensors.setdefault((group["lr_scale"], group["weight_decay"]), []).extend(p.numel() for p in group["params"])
    return [GroupReport(*key, len(sizes), sum(sizes)) for key, sizes in sorted(tensors.items())]
