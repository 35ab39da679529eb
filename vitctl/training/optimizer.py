"""The optimiser and its parameter groups: which tensors decay, and at which rate each layer learns."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import nn

from vitctl.models.anatomy import norm_after_blocks
from vitctl.primitives.compiler_later import compiler_later
from vitctl.recipes.sections import Optimizer
from vitctl.results.finetune import GroupReport
from vitctl.settings.words import FinalNorm
from vitctl.training.lora import FACTOR_PATTERNS

with compiler_later():
    from timm.optim import create_optimizer_v2, param_groups_layer_decay

CPU = torch.device("cpu")
TORCHS = ("adamw", "sgd")
"""Those that are torch's own, with all settings as the recipe says; every other is timm's."""
_ADAMW = Optimizer()
_ROWS, _COLUMNS = 160, 192  # large enough that a row is next to nothing beside the matrix


def parameter_groups(
    model: nn.Module,
    *,
    weight_decay: float,
    layer_decay: float,
    final_norm: FinalNorm = "block",
    scales: Iterable[tuple[str, float]] = (),
) -> list[dict[str, Any]]:
    """Return timm's layer-wise groups of what is trained: vectors, tokens, position embeddings, factors do not decay.

    The rate of layer i of L is ``layer_decay ** (L - i)``; the embeddings are layer 0, the head layer L.

    Args:
        model: A timm model; parameters that ask for no gradient are in no group.
        weight_decay: On the tensors that decay, >= 0.
        layer_decay: 0-1; 1 gives every layer the same rate.
        final_norm: Whose rate the norm after the blocks has: ``block``, the last block's (timm); ``head``, the head's
            (MAE's util/lr_decay.py, for which all after the blocks is layer L). That after a pooling has the head's.
        scales: Regular expressions and factors, > 0, on the rates of parameters whose names one finds; of several that
            find it, the last counts.
    """
    exempt = model.no_weight_decay() if hasattr(model, "no_weight_decay") else ()  # type: ignore[operator]
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        model, weight_decay=weight_decay, no_weight_decay_list=(*exempt, *FACTOR_PATTERNS), layer_decay=layer_decay
    )
    norm = norm_after_blocks(model) if final_norm == "head" else None
    at_the_head = set() if norm is None else set(norm.parameters())
    names, scales = {parameter: name for name, parameter in model.named_parameters()}, tuple(scales)
    return [part for group in groups for part in _parts(group, names, at_the_head, scales)]


def _parts(
    group: dict[str, Any],
    names: dict[nn.Parameter, str],
    at_the_head: set[nn.Parameter],
    scales: tuple[tuple[str, float], ...],
) -> Iterator[dict[str, Any]]:
    """Yield a group in parts of one rate each, in the order of their first parameters; whole where it has one."""
    parts: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        factors = [factor for regex, factor in scales if re.search(regex, names[parameter])]
        rate = (1.0 if parameter in at_the_head else group["lr_scale"]) * (factors[-1] if factors else 1.0)
        parts.setdefault(rate, []).append(parameter)
    for rate, parameters in parts.items():
        yield {**group, "params": parameters, "lr_scale": rate}


def build_optimizer(
    groups: list[dict[str, Any]],
    *,
    name: str,
    lr: float,
    betas: tuple[float, float],
    momentum: float,
    eps: float = 0.0,
    nesterov: bool = False,
    device: torch.device = CPU,
) -> torch.optim.Optimizer:
    """Return torch's AdamW or SGD, or another of timm's, over ``groups``; the loop sets the rate before every step.

    On CUDA torch's are the fused ones: a kernel for many tensors, which also skips a step of fp16 without asking
    Python. Their bits are others than those of torch's plain loop, so that a CPU keeps the loop.

    Args:
        groups: As ``parameter_groups`` gives them; the parameters may still be elsewhere than on ``device``.
        name: ``adamw``, ``sgd``, or one of timm's; see ``vitctl.training.optimizer_choice``.
        lr: Peak rate, > 0.
        betas: Of adamw and its like.
        momentum: Of sgd and its like.
        eps: Of adaptive ones; 0 is the optimiser's own.
        nesterov: Of sgd.
        device: Where steps will be taken.
    """
    if name not in TORCHS:
        return _timms_optimizer(groups, name=name, lr=lr, betas=betas, momentum=momentum, eps=eps)
    is_fused = True if device.type == "cuda" else None  # None leaves the choice to torch
    if name == "adamw":
        own: dict[str, Any] = {"eps": eps} if eps else {}
        return torch.optim.AdamW(groups, lr=lr, betas=betas, fused=is_fused, **own)
    return torch.optim.SGD(groups, lr=lr, momentum=momentum, nesterov=nesterov, fused=is_fused)


def _timms_optimizer(
    groups: list[dict[str, Any]], *, name: str, lr: float, betas: tuple[float, float], momentum: float, eps: float
) -> torch.optim.Optimizer:
    """Return timm's optimiser ``name`` over ``groups``, as ``timm.optim.create_optimizer_v2`` builds it.

    A value that is AdamW's default, or 0, leaves it its own: Lion's betas, e.g., are not AdamW's.

    Args:
        groups: As ``parameter_groups`` gives them.
        name: As timm spells it, with or without ``lookahead_`` before it (arXiv 1907.08610).
        lr: Peak rate, > 0.
        betas: AdamW's default leaves the optimiser its own.
        momentum: 0 leaves it timm's, 0.9 where it takes one.
        eps: 0 leaves it its own.
    """
    given: dict[str, Any] = {}
    if betas != _ADAMW.betas:
        given["betas"] = betas
    if momentum != _ADAMW.momentum:
        given["momentum"] = momentum
    if eps != _ADAMW.eps:
        given["eps"] = eps
    optimizer: torch.optim.Optimizer = create_optimizer_v2(groups, opt=name, lr=lr, **given)
    return optimizer


def memory_per_parameter(optimizer: torch.optim.Optimizer) -> float:
    """Return how many times the memory of a large matrix an optimiser takes to remember its gradients, >= 0.

    It takes a step with a matrix that is not the model's (lookahead as many as it waits before it remembers): 2 for
    AdamW, 0 for plain SGD, next to 0 for Adafactor, which keeps a row and a column. Nothing of that is left in it.
    """
    device = optimizer.param_groups[0]["params"][0].device
    matrix = torch.ones(_ROWS, _COLUMNS, device=device, requires_grad=True)
    matrix.grad = torch.ones_like(matrix)
    groups = list(optimizer.param_groups)
    # in place: a wrapper (lookahead) shares the list with what it wraps
    optimizer.param_groups[:] = [{**groups[0], "params": [matrix]}]
    try:
        for _ in range(groups[0].get("lookahead_k", 1)):
            optimizer.step()
        state = getattr(optimizer, "_base_optimizer", optimizer).state.pop(matrix, {})
    finally:
        optimizer.param_groups[:] = groups
    return _num_bytes(state) / (matrix.numel() * matrix.element_size())


def _num_bytes(value: Any) -> int:
    """Return the bytes of the tensors in what is remembered of a parameter; counts of steps are none."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size() if value.ndim else 0
    if isinstance(value, Mapping):
        return sum(map(_num_bytes, value.values()))
    return sum(map(_num_bytes, value)) if isinstance(value, list | tuple) else 0


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
