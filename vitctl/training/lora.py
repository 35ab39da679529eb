"""Low-rank factors beside linear layers: ``W + scale * B @ A``, of which A and B are trained and W stays as it is.

A starts as torch starts a linear layer, B as zeros, so that nothing changes before the first step. What a run saves for
others to use are plain weights, the product added to W; the factors lie beside them.

Which layers: the four of each block (``linear_layers_of``), or all of a block that has others: separate layers for q, k
and v, SwiGLU, an MLP in the place of attention. Not those that only compute position biases beside the four (Swin v2).

Letters: R rank, D inputs and E outputs of a layer.
Source: arXiv 2106.09685, section 4.1; alpha / R of the paper is ``scale``. All layers and not attention alone: Schulman
et al., LoRA Without Regret (2025), https://thinkingmachines.ai/blog/lora. Same sums in the same order as peft 0.21's
``Linear``, without dropout; its file layout is another.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitctl.errors import SettingError
from vitctl.models.anatomy import blocks_of, units_of
from vitctl.models.block_anatomy import linear_layers_of
from vitctl.models.checkpoints import write_tensors
from vitctl.primitives.seeds import torch_randomness

ADAPTER = "adapter.safetensors"
"""The factors, beside the weights that have them in."""
_A, _B, _BASE = "lora_a", "lora_b", "base"


class LoraLinear(nn.Module):
    """A linear layer, as it is, and two factors.

    Args:
        base: The layer, which becomes a part of this.
        rank: R, >= 1.
        scale: Factor on the product, > 0.
    """

    def __init__(self, base: nn.Linear, *, rank: int, scale: float) -> None:
        super().__init__()
        self.base, self.scale = base, scale
        self.in_features, self.out_features = base.in_features, base.out_features
        self.lora_a = nn.Parameter(base.weight.new_empty(rank, base.in_features))  # (R, D)
        self.lora_b = nn.Parameter(base.weight.new_zeros(base.out_features, rank))  # (E, R)
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def weight(self) -> Tensor:
        """(E, D) with the factors in, for who multiplies by himself (attention with a bias for q and v alone)."""
        return self.base.weight + (self.lora_b @ self.lora_a) * self.scale

    @property
    def bias(self) -> Tensor | None:
        """(E,), the layer's own."""
        return self.base.bias

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., E) of ``inputs``, (..., D)."""
        outputs: Tensor = self.base(inputs)
        return outputs + F.linear(F.linear(inputs, self.lora_a), self.lora_b) * self.scale

    def extra_repr(self) -> str:
        """Return the rank and the scale."""
        return f"rank={len(self.lora_a)}, scale={self.scale:g}"


def is_factor(name: str) -> bool:
    """Return whether a parameter's name is that of a factor."""
    return name.rpartition(".")[2] in (_A, _B)


FACTOR_PATTERNS = (f"*.{_A}", f"*.{_B}")
"""Their names, as ``fnmatch`` takes them."""


def add_factors(model: nn.Module, *, rank: int, scale: float, seed: int, name: str) -> None:
    """Put factors beside the linear layers of every block of ``model``, in place.

    Args:
        model: A timm model.
        rank: R, 1 to below the sides of the smallest layer.
        scale: Factor on the product, > 0.
        seed: Of the first factors.
        name: The model's, for messages.

    Raises:
        SettingError: Its blocks have no linear layers, or the rank is too high.
    """
    layers = dict(_layers(model))
    if not layers:
        raise SettingError(
            f"--tune is 'lora:{rank}', but {name} has no blocks with linear layers that vitctl knows; expected full, "
            "head, norm or bias for this model.",
            field="tune",
        )
    full = min(min(layer.in_features, layer.out_features) for layer in layers.values())
    if rank >= full:
        raise SettingError(
            f"--tune is 'lora:{rank}', but the smallest linear layer of {name} is {full} wide; expected a rank below "
            f"that, of lora at most lora:{full - 1}. Usual ranks are 4 to 64.",
            field="tune",
        )
    for index, (path, layer) in enumerate(layers.items()):
        with torch_randomness(seed, "lora", index):
            made = LoraLinear(layer, rank=rank, scale=scale)
        parent, _, attribute = path.rpartition(".")
        setattr(model.get_submodule(parent), attribute, made.train(layer.training))


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Linear]]:
    """Yield the path and module of each linear layer that gets factors, in the order of the model."""
    for unit in units_of(model) if blocks_of(model) else ():
        four = linear_layers_of(unit.module)
        for path, module in unit.module.named_modules():
            if isinstance(module, nn.Linear) and (four is None or module in four):
                yield f"{unit.path}.{path}", module


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """Return the layers with factors by their paths; {} where there are none."""
    return {path: module for path, module in model.named_modules() if isinstance(module, LoraLinear)}


def merged(weights: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Return weights by the names of the plain model, the factors in them; computed in float32.

    Args:
        weights: Of ``model``, by name, each of its own shape, e.g. (E, D).
        model: With factors or without; its own values are not looked at.
    """
    plain = dict(weights)
    for path, layer in adapted(model).items():
        a, b = plain.pop(f"{path}.{_A}"), plain.pop(f"{path}.{_B}")
        weight = plain.pop(f"{path}.{_BASE}.weight")
        plain[f"{path}.weight"] = torch.add(weight.float(), b.float() @ a.float(), alpha=layer.scale).to(weight.dtype)
        if layer.bias is not None:
            plain[f"{path}.bias"] = plain.pop(f"{path}.{_BASE}.bias")
    return plain


def write_adapter(folder: Path, weights: Mapping[str, Tensor], model: nn.Module) -> None:
    """Write the factors of ``weights`` as ``adapter.safetensors``; nothing where ``model`` has none.

    Its metadata have one entry, ``lora``: rank, scale and formula, as JSON.

    Args:
        folder: Where to.
        weights: Of ``model``, by name; A is (R, D), B is (E, R).
        model: With factors or without.
    """
    layers = adapted(model)
    if not layers:
        return
    factors = {name: tensor.contiguous() for name, tensor in weights.items() if is_factor(name)}
    first = next(iter(layers.values()))
    facts = {"rank": len(first.lora_a), "scale": first.scale, "formula": f"weight + scale * {_B} @ {_A}"}
    write_tensors(folder / ADAPTER, factors, metadata={"lora": json.dumps(facts)})
