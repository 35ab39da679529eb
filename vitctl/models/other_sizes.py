"""Images smaller than a model is made for, its parameters as they are: what training at several sizes needs.

The position table keeps the shape of the model's own size, so that weights, moments and checkpoints have one shape all
along; a forward pass of smaller images resamples it, which gradients go through, as timm does with
``dynamic_img_size``: bicubic with antialias, whatever brought the table to its own size, as without it many places
would have no part in a smaller grid. What differs from timm: matrix products in place of torch's ``interpolate``, whose
gradient is not the same twice on a GPU. A model without a grid of patches takes the images as they are.

Letters: B images, H W px, h w patches, P prefix tokens, D width.
"""

import types
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import SettingError
from vitctl.models.anatomy import num_embedded_prefix_tokens
from vitctl.models.describe import on_meta
from vitctl.models.geometry import geometry_of, position_table
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.image_sizes import check_divisible
from vitctl.primitives.position_embeddings import resample_by_products

with compiler_later():
    from timm.layers.format import Format
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

_METHOD = "bicubic-aa"
_NOWHERE = (1, 1)  # a grid that no run has


def check_other_sizes(model: nn.Module, sizes: Sequence[int], *, name: str) -> None:
    """Check that a model takes squares of ``sizes`` px, at which ``take_other_sizes`` can train it.

    Args:
        model: A timm model; not changed.
        sizes: px, each > 0.
        name: The model's, for messages.

    Raises:
        SettingError: It does not; the sentence says why.
    """
    geometry = geometry_of(model)
    if geometry.patch_size is not None and isinstance(model, (VisionTransformer, Eva)):
        for size in sizes:
            check_divisible((size, size), geometry.patch_size, model=name, what="length.sizes:", field="set")
        return
    if geometry.grid is not None or bool(getattr(model, "pretrained_cfg", {}).get("fixed_input_size")):
        raise _refusal(sizes, f"{name} is made for one size (its windows, relative positions or token mixing)")
    for size in sizes:
        try:
            with torch.no_grad():
                on_meta(model).eval()(torch.empty(1, 3, size, size, device="meta"))
        except Exception as error:  # the architecture's own code objects to the size
            raise _refusal(sizes, f"the layers of {name} cannot divide and downsample {size} px") from error


def _refusal(sizes: Sequence[int], why: str) -> SettingError:
    return SettingError(f"length.sizes is {list(sizes)}, but {why}; expected [] for this model.", field="set")


def take_other_sizes(model: nn.Module) -> None:
    """Let ``model``, in place, take (B, 3, H, W) of any multiples of its patch; of its own size it is what it was.

    What timm writes down of a model says nothing of it: a folder that is saved opens at one size.

    Args:
        model: A timm model that ``check_other_sizes`` has let through, at its own size.
    """
    if geometry_of(model).grid is None:
        return
    changed: Any = model
    open_patches(changed)
    changed._pos_embed = types.MethodType(_embed_positions, changed)
    rotary: Any = getattr(changed, "rope", None)
    if hasattr(rotary, "update_feat_shape"):
        # its table of sines was made on the CPU; made anew for the first images, it is the device's own from the
        # start, in a run that goes on as in one that was never stopped
        rotary.update_feat_shape(_NOWHERE)


def open_patches(model: Any) -> None:
    """Let the patches of a ViT or Eva, in place, come as (B, h, w, D) from images of any size."""
    model.dynamic_img_size = True
    embed = model.patch_embed
    embed.strict_img_size, embed.flatten, embed.output_fmt = False, False, Format.NHWC


def _embed_positions(model: Any, tokens: Tensor) -> Tensor | tuple[Tensor, Tensor | None]:
    """Stand in for ``_pos_embed``: (B, h, w, D) patches to what enters the first block, (B, P + h*w, D) at most."""
    height, width = tokens.shape[1:3]
    table: Tensor | None = position_table(model)
    if table is not None:
        table = resample_by_products(
            table,
            old_grid=model.patch_embed.grid_size,
            new_grid=(height, width),
            num_prefix_tokens=num_embedded_prefix_tokens(model),
            method=_METHOD,
        )
    rotary: Any = getattr(model, "rope", None)
    if hasattr(rotary, "update_feat_shape"):
        rotary.update_feat_shape((height, width))
    embedded: Tensor | tuple[Tensor, Tensor | None] = type(model)._pos_embed(
        _AtGrid(model, table, (height, width)), tokens
    )
    return embedded


class _Grid:
    """The one thing that timm's ``_pos_embed`` reads of a patch embedding."""

    def __init__(self, grid_size: tuple[int, int]) -> None:
        self.grid_size = grid_size


class _AtGrid:
    """A model as timm's own ``_pos_embed`` sees it: its table, (1, P + h*w, D) or None, is that of the images' grid."""

    dynamic_img_size = True

    def __init__(self, model: nn.Module, table: Tensor | None, grid: tuple[int, int]) -> None:
        self._model = model
        self.pos_embed = table
        self.patch_embed = _Grid(grid)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
