"""What an optimiser remembers, by the names of its parameters: tensors for safetensors, the rest for JSON.

Any optimiser of torch or timm: they keep tensors, numbers and flags of each parameter, nested or not, and some count
steps in their groups (lamb, adan). ``torch.distributed.checkpoint``'s own flattening does not bring lookahead back.

A tensor's key is ``PARAMETER|NAME``, deeper ones ``PARAMETER|NAME|0``; of group 0 ``|0|NAME``.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.results.result import JsonObject

_NUMBERS, _LISTS, _GROUPS = "numbers", "lists", "groups"
# of the machine that computes, or set anew before each step: what a file says of them must not count
_LIVE = ("params", "lr", "foreach", "fused", "capturable", "differentiable")


def optimizer_state(model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[dict[str, Tensor], JsonObject]:
    """Return what is remembered: tensors by key, not copies, each of its own shape, e.g. (C, D); and the rest."""
    document = optimizer.state_dict()
    names = _names(model, optimizer)
    flat = [name for group in names for name in group]
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    lists: dict[str, int] = {}

    def keep(key: str, value: Any) -> None:
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                keep(f"{key}|{name}", inner)
        elif isinstance(value, list | tuple):
            lists[key] = len(value)
            for index, inner in enumerate(value):
                keep(f"{key}|{index}", inner)
        elif value is None or isinstance(value, bool | int | float | str):
            numbers[key] = value  # anything else (a dtype) is an option, which a new optimiser has from its settings

    for index, state in document["state"].items():
        keep(flat[index], state)
    for index, group in enumerate(document["param_groups"]):
        keep(f"|{index}", {name: value for name, value in group.items() if name not in _LIVE})
    return tensors, {_NUMBERS: numbers, _LISTS: lists, _GROUPS: names}


def restore_optimizer(
    model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
) -> None:
    """Make ``optimizer``, new and of equal settings, remember what another did.

    Args:
        model: Its parameters stand where they will be trained; what is remembered follows them there.
        optimizer: Over parameters of ``model``.
        tensors: As ``optimizer_state`` returned them, each of its own shape, e.g. (C, D); they are not copied.
        facts: As ``optimizer_state`` returned them, or as JSON gives them back.

    Raises:
        ModelError: They are of other parameters, or of others' shapes.
    """
    names = _names(model, optimizer)
    group_of = {name: index for index, group in enumerate(facts[_GROUPS]) for name in group}
    odd = sorted({name for group in names for name in group} ^ set(group_of))
    if odd:
        raise ModelError(f"The optimizer's state is of other parameters than the model's: {odd[0]!r} is in one only.")
    nested: dict[str, Any] = {}
    for key, value in (*facts[_NUMBERS].items(), *tensors.items()):
        *path, last = _path(key)
        inside = nested
        for part in path:
            inside = inside.setdefault(part, {})
        inside[last] = value
    for key in sorted(facts[_LISTS], key=lambda key: -key.count("|")):  # the innermost first
        *path, last = _path(key)
        inside = nested
        for part in path:
            inside = inside.setdefault(part, {})
        entries = inside.get(last, {})
        inside[last] = [entries[str(index)] for index in range(facts[_LISTS][key])]
    own = optimizer.state_dict()
    groups = nested.pop("", {})
    for group, members in zip(own["param_groups"], names, strict=True):
        known_as_tuple = {name for name, value in group.items() if isinstance(value, tuple)}
        for name, value in groups.get(str(group_of[members[0]]), {}).items():
            group[name] = tuple(value) if name in known_as_tuple else value
    flat = [name for group in names for name in group]
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, state in nested.items():
        for key in ("exp_avg", "momentum_buffer"):
            if isinstance(state.get(key), Tensor) and state[key].shape != shapes[name]:
                raise ModelError(
                    f"The optimizer's state of {name!r} is of shape {tuple(state[key].shape)}; expected "
                    f"{tuple(shapes[name])}, the parameter's."
                )
    own["state"] = {index: nested[name] for index, name in enumerate(flat) if name in nested}
    # torch casts what is remembered to the parameters' type: they are float32, as is what they remember
    optimizer.load_state_dict(own)


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[list[str]]:
    """Return the names of the parameters of each group, in order."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [[names[parameter] for parameter in group["params"]] for group in optimizer.param_groups]


def _path(key: str) -> Iterator[str]:
    yield from key.split("|")
