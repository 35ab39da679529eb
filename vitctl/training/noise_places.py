"""Where keyed noise goes in a model: in the place of timm's own layers, and of what stands for them at rate 0."""

from dataclasses import dataclass

import torch
from torch import nn

from vitctl.errors import SettingError
from vitctl.models.anatomy import num_prefix_tokens
from vitctl.models.block_anatomy import drop_paths_by_block
from vitctl.models.geometry import geometry_of
from vitctl.primitives.compiler_later import compiler_later
from vitctl.training.frozen import is_frozen
from vitctl.training.noise import KeyedDropPath, KeyedNoise, KeyedPatchDrop, KeyedPatchDropWithIndices

with compiler_later():
    from timm.layers import DropPath
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer


@dataclass(frozen=True)
class InstalledNoise:
    """What noise a model has.

    Attributes:
        branch_rate: Highest rate of drop path in blocks that are trained, 0 to below 1.
        num_blocks: Those in which it is above 0.
        patch_rate: Share of the patches that is dropped, 0 to below 1.
    """

    branch_rate: float = 0.0
    num_blocks: int = 0
    patch_rate: float = 0.0


def check_noise(model: nn.Module, *, drop_path: float | None, patch_drop: float | None, name: str) -> None:
    """Check that a model has the places for the noise that is asked for.

    Args:
        model: A timm model.
        drop_path: Highest rate, 0 to below 1; None is the model's own.
        patch_drop: Share of the patches, 0 to below 1; None is the model's own.
        name: The model's, for messages.

    Raises:
        SettingError: It has not; the sentence says why.
    """
    if drop_path and len(set(drop_paths_by_block(model).values())) < 2:
        raise SettingError(
            f"noise.drop_path is {drop_path:g}, but timm's {name} has no residual blocks with a place for it; expected "
            "0 for this model.",
            field="set",
        )
    if patch_drop and not _can_drop_patches(model):
        raise SettingError(
            f"noise.patch_drop is {patch_drop:g}, but {name} needs every patch in its place (for windows, relative "
            "positions or convolutions); expected 0 for this model.",
            field="set",
        )


def install_noise(model: nn.Module, *, drop_path: float | None, patch_drop: float | None, name: str) -> InstalledNoise:
    """Put keyed layers where timm has, or could have, its own; return what noise the model has now.

    A model without noise is left as it is. Names and values of the weights stay, and what it does in evaluation mode.

    Args:
        model: A timm model at the size it is trained at; changed in place.
        drop_path: Rate of the last block, 0 to below 1; the blocks before have less, in a line down to 0 in the first,
            as in timm. None keeps the rates that the model was built with.
        patch_drop: Share of the patches, 0 to below 1; None keeps the model's own.
        name: The model's, for messages.

    Raises:
        SettingError: It has no place for one.
    """
    check_noise(model, drop_path=drop_path, patch_drop=patch_drop, name=name)
    noise, blocks = KeyedNoise(), drop_paths_by_block(model)
    rates = _own_rates(model, blocks) if drop_path is None else _rising_rates(blocks, drop_path)
    made: dict[nn.Module, nn.Module] = {}  # a layer may stand in several places
    for place, rate in rates.items():
        layer = model.get_submodule(place)
        if rate:
            if layer not in made:
                made[layer] = KeyedDropPath(noise, rate, is_scaled=getattr(layer, "scale_by_keep", True))
            _replace(model, place, made[layer])
        elif isinstance(layer, DropPath):
            _replace(model, place, nn.Identity())
    noisy = {place: rate for place, rate in rates.items() if rate and not is_frozen(model.get_submodule(blocks[place]))}
    num_blocks, patch_rate = len({blocks[place] for place in noisy}), _install_patch_drop(model, noise, patch_drop)
    return InstalledNoise(max(noisy.values(), default=0.0), num_blocks, patch_rate)


def _install_patch_drop(model: nn.Module, noise: KeyedNoise, rate: float | None) -> float:
    """Put the layer in if a rate above 0 is asked for, or is the model's own; return the rate."""
    if not _can_drop_patches(model):
        return 0.0
    rate = getattr(model.patch_drop, "prob", 0.0) if rate is None else rate
    grid = geometry_of(model).grid
    if grid is None or not rate:
        return 0.0
    layer = KeyedPatchDropWithIndices if isinstance(model, Eva) else KeyedPatchDrop
    made = layer(noise, rate, num_patches=grid[0] * grid[1], num_prefix=num_prefix_tokens(model))
    model.patch_drop = made.train(model.training)
    return rate


def _can_drop_patches(model: nn.Module) -> bool:
    """Return whether the model's tokens are a list, in which none needs to know where the others are.

    Eva's attention turns queries and keys by their places; it is told which are left.
    """
    return isinstance(model, (VisionTransformer, Eva)) and hasattr(model, "patch_drop")


def _own_rates(model: nn.Module, blocks: dict[str, str]) -> dict[str, float]:
    return {place: float(getattr(model.get_submodule(place), "drop_prob", 0.0)) for place in blocks}


def _rising_rates(blocks: dict[str, str], highest: float) -> dict[str, float]:
    names = list(dict.fromkeys(blocks.values()))
    rates = dict(zip(names, torch.linspace(0, highest, len(names)).tolist(), strict=True))
    return {place: rates[block] for place, block in blocks.items()}


def _replace(model: nn.Module, place: str, layer: nn.Module) -> None:
    parent, _, attribute = place.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer.train(model.training))
