"""What a model computes on the way: its blocks or stages, and the tokens after each in one forward pass.

A layer is ``embed`` (what enters the first block), 0 to L-1 (after that block; of a hierarchical model or a CNN,
stage) or ``final`` (after the last norm: timm's ``forward_features``).

Letters: B images, P prefix tokens, N patch tokens or places of a feature map, D width.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.models.anatomy import blocks_of, has_late_class_token, num_expected_prefix_tokens
from vitctl.settings.words import ALL, EMBED, FINAL

Layer = str | int


@dataclass(frozen=True)
class Tokens:
    """What a layer makes of images.

    Attributes:
        prefix: (B, P, D), class token first where the model has one; P may be 0.
        patches: (B, N, D) patch tokens, or the places of a feature map row by row.
        grid: (h, w) of the patches or places, h w = N; None where it is not known.
    """

    prefix: Tensor
    patches: Tensor
    grid: tuple[int, int] | None = None


def layer_names(model: nn.Module) -> tuple[Layer, ...]:
    """Return every layer's name, in order."""
    num_blocks = len(blocks_of(model))
    return (EMBED, *range(num_blocks), FINAL) if num_blocks else (FINAL,)


def choose_layers(asked: Sequence[str], model: nn.Module, *, name: str) -> tuple[Layer, ...]:
    """Return the layers that are ``asked`` for, in the model's order.

    Args:
        asked: ``last`` (final) alone, ``all`` (the blocks and final) alone, or names: embed, 0 to L-1, final.
        model: A timm model.
        name: Its name, for messages.

    Raises:
        SettingError: A layer is unknown; the sentence lists those there are.
    """
    known = layer_names(model)
    if tuple(asked) == ("last",):
        return (FINAL,)
    if tuple(asked) == (ALL,):
        return tuple(layer for layer in known if layer != EMBED)
    unknown = set(asked) - {str(layer) for layer in known}
    if unknown:
        listed = f"embed, 0 to {len(known) - 3}, final" if len(known) > 1 else "final only (its blocks are not known)"
        raise SettingError(f"--layers {sorted(unknown)[0]!r} is no layer of {name}; it has {listed}.", field="layers")
    return tuple(layer for layer in known if str(layer) in asked)


class LayerTap:
    """Runs a model and keeps what chosen layers give, in one forward pass.

    Args:
        model: A timm model, in evaluation mode.
        layers: Names; see ``layer_names``.
        name: The model's name, for messages.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer], *, name: str) -> None:
        self._model, self._layers, self._name = model, tuple(layers), name

    def __call__(self, images: Tensor) -> tuple[dict[Layer, Tokens], Tensor]:
        """Return the tokens of every chosen layer, and what ``forward_features`` gives.

        Args:
            images: (B, 3, H, W).

        Raises:
            ModelError: A layer gives something that is neither tokens nor a feature map.
        """
        model: Any = self._model
        with self._hooked() as kept:
            features = model.forward_features(images)
        if FINAL in self._layers:
            kept[FINAL] = features
        return {layer: self._tokens(kept.get(layer), layer, images) for layer in self._layers}, features

    @contextmanager
    def _hooked(self) -> Iterator[dict[Layer, Any]]:
        kept: dict[Layer, Any] = {}
        blocks = blocks_of(self._model)
        handles = []
        for layer in self._layers:
            if layer == EMBED:
                handles.append(blocks[0].register_forward_pre_hook(lambda _module, args: kept.update({EMBED: args[0]})))
            elif isinstance(layer, int):
                handles.append(blocks[layer].register_forward_hook(_keeper(kept, layer)))
        try:
            yield kept
        finally:
            for handle in handles:
                handle.remove()

    def _tokens(self, output: Any, layer: Layer, images: Tensor) -> Tokens:
        if isinstance(output, (tuple, list)) and [isinstance(one, Tensor) for one in output].count(True) == 1:
            output = output[0]  # tokens first, then what the block passes on beside them
        if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4) or len(output) != len(images):
            raise ModelError(
                f"Layer {layer} of {self._name} gives neither tokens nor a feature map; try the last layer "
                "(--layers last; of inspect, --layer final)."
            )
        if output.ndim == 2:
            return Tokens(output[:, :0, None].expand(-1, -1, output.shape[1]), output[:, None])
        if output.ndim == 4:
            places = output if self._is_channels_last(output, images) else output.movedim(1, -1)
            patches = places.flatten(1, 2)
            return Tokens(patches[:, :0], patches, (places.shape[1], places.shape[2]))
        num_prefix = self._num_prefix(output.shape[1], layer)
        patches = output[:, num_prefix:]
        return Tokens(output[:, :num_prefix], patches, self._grid_of(patches.shape[1], images))

    def _grid_of(self, num_patches: int, images: Tensor) -> tuple[int, int] | None:
        """Return (h, w) of N tokens, read from what embeds patches; None where it does not tell."""
        for name in ("patch_embed", "stem", "embeds"):  # MLP-Mixer calls it stem, NaFlexViT embeds
            embed: Any = getattr(self._model, name, None)
            grid = getattr(embed, "grid_size", None)
            if grid is None and hasattr(embed, "dynamic_feat_size"):
                grid = embed.dynamic_feat_size(tuple(images.shape[2:]))
            if grid is not None and grid[0] * grid[1] == num_patches:
                return int(grid[0]), int(grid[1])
        return None

    def _is_channels_last(self, feature_map: Tensor, images: Tensor) -> bool:
        """Return whether a map is (B, h, w, D): as timm notes on the model, else as the images' aspect tells."""
        note = getattr(self._model, "output_fmt", None)
        if note is not None:
            return str(note).upper().endswith("NHWC")
        first, second, third = feature_map.shape[1:]
        aspect = math.log(images.shape[2] / images.shape[3])
        return abs(math.log(first / second) - aspect) < abs(math.log(second / third) - aspect)

    def _num_prefix(self, num_tokens: int, layer: Layer) -> int:
        """Return how many of a layer's tokens are prefix tokens."""
        if layer != FINAL and has_late_class_token(self._model):
            return 0
        num_prefix = num_expected_prefix_tokens(self._model)
        grid = getattr(getattr(self._model, "patch_embed", None), "grid_size", None)
        if num_prefix and grid is not None and num_tokens != num_prefix + grid[0] * grid[1]:
            raise ModelError(
                f"Layer {layer} of {self._name} has {num_tokens} tokens; expected {num_prefix} before a grid of "
                f"{grid[0]}x{grid[1]} patches. Try the last layer with the model's own pooling (--layers last "
                "--pool native), or in inspect --layer final."
            )
        return num_prefix


def _keeper(kept: dict[Layer, Any], layer: Layer) -> Any:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        kept[layer] = output

    return keep


@torch.no_grad()
def pooled_by_model(model: nn.Module, features: Tensor) -> Tensor:
    """Return what the model's classifier sees, (B, D'): its own pooling of ``forward_features``' result.

    Args:
        model: A timm model.
        features: As ``forward_features`` gave them, e.g. (B, P + N, D).
    """
    head: Any = model
    pooled: Tensor = head.forward_head(features, pre_logits=True)
    return pooled.flatten(1)
