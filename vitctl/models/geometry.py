"""A model's patch grid and how to change it: image size, patch, grid, tokens, position embeddings.

Letters: H W px, h w patches. Everything is read from the model, never guessed from a token count.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from vitctl.errors import ModelError, SettingError
from vitctl.primitives.image_sizes import check_divisible, format_size
from vitctl.primitives.position_embeddings import mean_norm, resample_position_embeddings


@dataclass(frozen=True)
class Geometry:
    """How a model cuts an image into tokens.

    Attributes:
        image_size: (H, W) px.
        patch_size: (H, W) px that one token covers; for a hybrid, the total stride.
        grid: (h, w) patches.
        num_prefix_tokens: Tokens before the patches (class, distillation, registers).
        has_position_embeddings: Whether there is an absolute, learnt table of position embeddings.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int]
    grid: tuple[int, int]
    num_prefix_tokens: int
    has_position_embeddings: bool

    @property
    def num_tokens(self) -> int:
        """Length of the sequence, prefix tokens included."""
        return self.num_prefix_tokens + self.grid[0] * self.grid[1]


def geometry_of(model: nn.Module, *, name: str) -> Geometry:
    """Return the geometry of a timm ViT.

    Raises:
        ModelError: The model does not cut its input into a grid of patches (a CNN, say).
    """
    embed: Any = getattr(model, "patch_embed", None)
    if embed is None or not hasattr(embed, "feat_ratio") or getattr(embed, "grid_size", None) is None:
        raise ModelError(
            f"{name} does not cut images into a fixed grid of patches; expected a Vision Transformer. "
            "'vitctl models vit' lists some."
        )
    height, width = embed.img_size
    patch_height, patch_width = embed.feat_ratio(as_scalar=False)
    return Geometry(
        image_size=(int(height), int(width)),
        patch_size=(int(patch_height), int(patch_width)),
        grid=(int(embed.grid_size[0]), int(embed.grid_size[1])),
        num_prefix_tokens=int(getattr(model, "num_prefix_tokens", 0)),
        has_position_embeddings=position_table(model) is not None,
    )


def position_table(model: nn.Module) -> nn.Parameter | None:
    """Return the absolute position embeddings (1, T, D), or None where a model has none."""
    table = getattr(model, "pos_embed", None)
    return table if isinstance(table, nn.Parameter) and table.ndim == 3 else None


def num_embedded_prefix_tokens(model: nn.Module) -> int:
    """Return how many prefix tokens have a row in the position table (0 with ``no_embed_class``)."""
    return 0 if getattr(model, "no_embed_class", False) else int(getattr(model, "num_prefix_tokens", 0))


@dataclass(frozen=True)
class Resolution:
    """What changing the resolution did.

    Attributes:
        before: Geometry of the pretrained model.
        after: Geometry now.
        norm_ratio: Mean norm of the patches' position embeddings, after over before; None where the
            model has no such table.
    """

    before: Geometry
    after: Geometry
    norm_ratio: float | None

    @property
    def attention_cost_factor(self) -> float:
        """How many times more an attention map costs: tokens after over before, squared."""
        return (self.after.num_tokens / self.before.num_tokens) ** 2


def change_resolution(model: nn.Module, image_size: tuple[int, int], *, method: str, name: str) -> Resolution:
    """Make ``model`` take images of ``image_size``, in place; afterwards it is a plain timm model again.

    The patch size stays, so the grid and the sequence grow. Position embeddings are resampled by
    location; other tables (relative bias, rotary) are left to timm's ``set_input_size``.

    Args:
        model: A timm ViT with its weights loaded.
        image_size: (H, W) px wanted.
        method: Interpolation of the position embeddings: ``paper``, ``bicubic``, ``bicubic-aa``.
        name: The model's name, for messages.

    Raises:
        SettingError: The patch does not divide the size, or the model cannot take it.
        ModelError: The model has no way to change its input size.
    """
    before = geometry_of(model, name=name)
    check_divisible(image_size, before.patch_size, model=name)
    if image_size == before.image_size:
        return Resolution(before, before, 1.0 if before.has_position_embeddings else None)
    if not hasattr(model, "set_input_size"):
        raise ModelError(
            f"{name} has a fixed input size of {format_size(before.image_size)} px; expected a model whose size can "
            f"change. Use --image-size {format_size(before.image_size)}."
        )
    table = position_table(model)
    try:
        with warnings.catch_warnings():  # torch's remarks on how timm resamples relative position tables
            warnings.simplefilter("ignore", UserWarning)
            model.set_input_size(img_size=image_size)  # type: ignore[operator]  # timm's method
    except (AssertionError, ValueError, RuntimeError) as error:
        raise SettingError(f"{name} cannot take --image-size {format_size(image_size)}: {error}") from error
    after = geometry_of(model, name=name)
    if table is None:
        return Resolution(before, after, None)
    num_prefix = num_embedded_prefix_tokens(model)
    with torch.no_grad():
        resampled = resample_position_embeddings(
            table.detach(),
            old_grid=before.grid,
            new_grid=after.grid,
            num_prefix_tokens=num_prefix,
            method=method,
        )
    model.pos_embed = nn.Parameter(resampled.clone(), requires_grad=table.requires_grad)
    ratio = mean_norm(resampled, num_prefix_tokens=num_prefix) / max(
        mean_norm(table.detach(), num_prefix_tokens=num_prefix), 1e-12
    )
    return Resolution(before, after, ratio)
