"""A model that takes images of any size its patches divide, its position embeddings resampled inside the graph.

``torch.nn.functional.interpolate`` becomes a Resize operator in ONNX; here it is two matrix products with weights that
are computed from the sizes.

Letters: B images; H W px; h w patches; P prefix tokens, D width.
"""

import copy
import math
import types
from typing import Any

import torch
from timm.layers.pool2d_same import MaxPool2dSame
from timm.layers.std_conv import StdConv2dSame
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.anatomy import num_embedded_prefix_tokens
from vitctl.models.geometry import geometry_of, position_table
from vitctl.models.other_sizes import open_patches
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.position_embeddings import resampling_matrix


class PositionInterpolation(nn.Module):
    """Position embeddings on another grid: ``resample_position_embeddings`` as matrix products.

    Args:
        grid: (h, w) patches of the table.
        num_prefix_tokens: P, the leading rows that have no location.
        method: ``paper``, ``bicubic`` or ``bicubic-aa``.
    """

    def __init__(self, grid: tuple[int, int], *, num_prefix_tokens: int, method: str) -> None:
        super().__init__()
        self.grid = grid
        self.method = method
        self.num_prefix_tokens = num_prefix_tokens

    def forward(self, table: Tensor, height: int, width: int) -> Tensor:
        """Return the (1, P + height*width, D) embeddings of a grid of any size, from the (1, P + h*w, D) ``table``.

        The table's own grid gives the table, bit for bit. ``height`` and ``width`` may be symbolic.
        """
        prefix, patches = table[:, : self.num_prefix_tokens], table[:, self.num_prefix_tokens :]
        rows = resampling_matrix(self.grid[0], height, method=self.method, device=table.device)
        columns = resampling_matrix(self.grid[1], width, method=self.method, device=table.device)
        taller = torch.matmul(rows, patches.float().reshape(self.grid[0], -1))
        resampled = torch.matmul(columns, taller.reshape(height, self.grid[1], -1))
        return torch.cat([prefix, resampled.reshape(1, height * width, -1).to(table.dtype)], dim=1)


def make_size_dynamic(model: nn.Module, *, name: str, method: str) -> nn.Module:
    """Return a copy of ``model``, in evaluation mode, that takes (B, 3, H, W) of any multiples of its patch.

    A size that is no multiple is an AssertionError. A CNN that takes any size is copied as it is. The guards of
    ``torch.export`` want two patches or more a side; ONNX has no such limit.

    Args:
        model: A timm model; not changed.
        name: Its name, for messages.
        method: How its position embeddings are resampled: ``paper``, ``bicubic`` or ``bicubic-aa``.

    Raises:
        ModelError: Something in it is made for one size: windows, relative positions, or rotary ones, which timm
            computes for the size of the example when it exports (DINOv3's ``float(side)``).
    """
    copied: Any = copy.deepcopy(model).eval()
    geometry = geometry_of(copied)
    table = position_table(copied)
    is_fixed = geometry.grid is not None or bool(getattr(copied, "pretrained_cfg", {}).get("fixed_input_size"))
    if not is_fixed:
        return copied  # type: ignore[no-any-return]
    if (
        geometry.grid is None
        or geometry.patch_size is None
        or table is None
        or not isinstance(copied, (VisionTransformer, Eva))
        or getattr(copied, "rope", None) is not None
    ):
        raise ModelError(
            f"{name} is made for images of {format_size(geometry.image_size)} px (windows, relative or rotary "
            "positions of one size); expected a model with a table of absolute positions. Leave out --dynamic-size."
        )
    copied.position_interpolation = PositionInterpolation(
        geometry.grid, num_prefix_tokens=num_embedded_prefix_tokens(copied), method=method
    )
    copied._pos_embed = types.MethodType(_embed_positions, copied)
    open_patches(copied)
    embed: Any = copied.patch_embed
    embed.register_forward_pre_hook(_check_whole_patches)
    for parent in list(embed.modules()):
        _fix_same_padding(parent)
    return copied  # type: ignore[no-any-return]


def _check_whole_patches(embed: Any, arguments: tuple[Tensor, ...]) -> None:
    height, width = arguments[0].shape[-2:]
    patch = embed.feat_ratio(as_scalar=False)
    torch._assert(  # type: ignore[no-untyped-call]
        height % patch[0] == 0 and width % patch[1] == 0,
        f"images of {height}x{width} px; expected multiples of the patch of {format_size(patch)} px",
    )


def _fix_same_padding(parent: nn.Module) -> None:
    """Pad by constants before the strided layers of a hybrid's CNN, which every side they meet is a multiple of.

    timm computes TensorFlow's SAME padding from the size, an expression that keeps ``torch.export`` busy for minutes.
    """
    for name, child in parent.named_children():
        if isinstance(child, MaxPool2dSame):
            pool = nn.MaxPool2d(child.kernel_size, child.stride)
            setattr(parent, name, nn.Sequential(_same_padding(child, -math.inf), pool))
        elif isinstance(child, StdConv2dSame) and child.same_pad:
            child.same_pad = False
            setattr(parent, name, nn.Sequential(_same_padding(child, 0.0), child))


def _same_padding(layer: Any, value: float) -> nn.Module:
    height, width = (max(kernel - stride, 0) for kernel, stride in zip(layer.kernel_size, layer.stride, strict=True))
    return nn.ConstantPad2d((width // 2, width - width // 2, height // 2, height - height // 2), value)


def _embed_positions(model: Any, tokens: Tensor) -> Tensor:
    """Stand in for ``_pos_embed``: (B, h, w, D) patches to the (B, P + h*w, D) that enter the first block."""
    height, width = tokens.shape[1:3]
    table = model.position_interpolation(model.pos_embed, height, width)
    embedded: Tensor = type(model)._pos_embed(_WithTable(model, table), tokens.flatten(1, 2))
    return embedded


class _WithTable:
    """A model as timm's own ``_pos_embed`` sees it: of a fixed size, with a table that fits the tokens."""

    dynamic_img_size = False

    def __init__(self, model: nn.Module, table: Tensor) -> None:
        self._model = model
        self.pos_embed = table

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
