"""A model's image size and patch grid and how to change them: patch, grid, tokens, position embeddings.

A model without a fixed grid of patches, such as a CNN, has an image size only: the one in its configuration.

Letters: H W px, h w patches. Everything is read from the model, never guessed from a token count.
"""

import math
import warnings
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from vitctl.errors import ModelError, SettingError
from vitctl.models.anatomy import num_embedded_prefix_tokens, num_prefix_tokens
from vitctl.models.describe import on_meta
from vitctl.primitives.image_sizes import check_divisible, format_size
from vitctl.primitives.memory import check_fits
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.position_embeddings import mean_norm, resample_position_embeddings

MOST_PLACES = 128  # guess: a side of a grid; 64 is the most published (896 px of 14); an image of 300x300 takes minutes
COPIES = 3  # of a position table, in memory together while it is resampled; measured (2026-11, timm 1.0)


@dataclass(frozen=True)
class Geometry:
    """How a model cuts an image into tokens.

    Attributes:
        image_size: (H, W) px.
        patch_size: (H, W) px that one token covers; for a hybrid, the total stride. None without a fixed
            grid of patches (a CNN), like the grid and the number of tokens.
        grid: (h, w) patches.
        num_prefix_tokens: Tokens before the patches (class, distillation, registers).
        has_position_embeddings: Whether there is an absolute, learnt table of position embeddings.
    """

    image_size: tuple[int, int]
    patch_size: tuple[int, int] | None
    grid: tuple[int, int] | None
    num_prefix_tokens: int
    has_position_embeddings: bool

    @property
    def num_tokens(self) -> int | None:
        """Length of the sequence, prefix tokens included."""
        return None if self.grid is None else self.num_prefix_tokens + self.grid[0] * self.grid[1]


def geometry_of(model: nn.Module) -> Geometry:
    """Return the geometry of a timm model."""
    embed: Any = getattr(model, "patch_embed", None)
    has_position_embeddings = position_table(model) is not None
    num_prefix = num_prefix_tokens(model)
    if embed is None or not hasattr(embed, "feat_ratio") or getattr(embed, "grid_size", None) is None:
        height, width = (_configuration(model).get("input_size") or (3, 224, 224))[1:]  # timm's default
        return Geometry((int(height), int(width)), None, None, num_prefix, has_position_embeddings)
    height, width = embed.img_size
    patch_height, patch_width = embed.feat_ratio(as_scalar=False)
    return Geometry(
        image_size=(int(height), int(width)),
        patch_size=(int(patch_height), int(patch_width)),
        grid=(int(embed.grid_size[0]), int(embed.grid_size[1])),
        num_prefix_tokens=num_prefix,
        has_position_embeddings=has_position_embeddings,
    )


def _configuration(model: nn.Module) -> dict[str, Any]:
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    return config


def position_table(model: nn.Module) -> nn.Parameter | None:
    """Return the absolute position embeddings (1, T, D), or None where a model has none."""
    table = getattr(model, "pos_embed", None)
    return table if isinstance(table, nn.Parameter) and table.ndim == 3 else None


def slow_note(geometry: Geometry, *, name: str) -> str | None:
    """Return a sentence about a grid so fine that one image takes minutes, before anybody waits for it; or None."""
    grid = geometry.grid
    if grid is None or not geometry.has_position_embeddings or grid[0] * grid[1] <= MOST_PLACES**2:
        return None
    return (
        f"{name} cuts an image into {grid[0]}x{grid[1]} patches and compares every one with every other: expect "
        "minutes an image without a GPU."
    )


@dataclass(frozen=True)
class Resolution:
    """What changing the resolution did.

    Attributes:
        before: Geometry of the pretrained model.
        after: Geometry now.
        norm_ratio: Mean norm of the patches' position embeddings, after over before; None where the
            model has no such table, or no fixed grid to resample it on.
    """

    before: Geometry
    after: Geometry
    norm_ratio: float | None

    @property
    def cost_factor(self) -> float:
        """How many times more an image costs outside of attention maps: tokens, or else pixels, after over before."""
        before, after = self.before.num_tokens, self.after.num_tokens
        if before is None or after is None:
            return math.prod(self.after.image_size) / math.prod(self.before.image_size)
        return after / before

    @property
    def attention_cost_factor(self) -> float:
        """How many times more an attention map costs: the square of ``cost_factor``."""
        return self.cost_factor**2


def change_resolution(model: nn.Module, image_size: tuple[int, int], *, method: str, name: str) -> Resolution:
    """Make ``model`` take images of ``image_size``, in place; afterwards it is a plain timm model again.

    The patch size stays, so the grid and the sequence grow. Position embeddings are resampled by
    location; other tables (relative bias, rotary) are left to timm's ``set_input_size``. A model without a
    fixed grid of patches keeps its tensors and takes the size if a forward pass does.

    Args:
        model: A timm model with its weights loaded.
        image_size: (H, W) px wanted.
        method: Interpolation of the position embeddings: ``paper``, ``bicubic``, ``bicubic-aa``.
        name: The model's name, for messages.

    Raises:
        SettingError: The patch does not divide the size, or the model cannot take it.
        ModelError: The model has no way to change its input size.
    """
    before = geometry_of(model)
    has_table = before.grid is not None and before.has_position_embeddings
    if image_size == before.image_size:  # which the patch need not divide: SigLIP's 14 px at 384
        return Resolution(before, before, 1.0 if has_table else None)
    if before.patch_size is not None:
        check_divisible(image_size, before.patch_size, model=name)
    is_fixed = before.grid is not None or bool(_configuration(model).get("fixed_input_size"))
    if is_fixed and not hasattr(model, "set_input_size"):
        raise ModelError(
            f"{name} has a fixed input size of {format_size(before.image_size)} px; expected a model whose size can "
            f"change. Use --image-size {format_size(before.image_size)}."
        )
    table = position_table(model)
    if table is not None and before.patch_size is not None:
        places = image_size[0] // before.patch_size[0] * (image_size[1] // before.patch_size[1])
        check_fits(
            COPIES * 4 * places * table.shape[-1],
            what=f"The position embeddings of {name} at --image-size {format_size(image_size)}",
            error=partial(SettingError, field="image_size"),
            advice=f"Use a smaller one; its own is {format_size(before.image_size)}",
        )
    try:
        _set_input_size(model, image_size)
    except Exception as error:  # the architecture's own code objects to the size
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise SettingError(
            f"{name} cannot take --image-size {format_size(image_size)} ({reason}); expected one that "
            f"its layers can divide and downsample. Its own is {format_size(before.image_size)}.",
            field="image_size",
        ) from error
    after = geometry_of(model)
    if table is None or before.grid is None or after.grid is None:
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


def _set_input_size(model: nn.Module, image_size: tuple[int, int]) -> None:
    if hasattr(model, "set_input_size"):
        with warnings.catch_warnings():  # torch's remarks on how timm resamples relative position tables
            warnings.simplefilter("ignore", UserWarning)
            model.set_input_size(img_size=image_size)  # type: ignore[operator]  # timm's method
    if geometry_of(model).grid is None:
        with torch.no_grad():
            on_meta(model).eval()(torch.empty(1, 3, *image_size, device="meta"))
        _remember_size(model, image_size)


def _remember_size(model: nn.Module, image_size: tuple[int, int]) -> None:
    """Write the size into the model's configuration, where timm looks for it; what holds for the old one goes."""
    changes: dict[str, Any] = {"input_size": (3, *image_size), "pool_size": None}
    stale = ("test_input_size", "test_crop_pct")
    config = {key: value for key, value in _configuration(model).items() if key not in stale} | changes
    holder: Any = model
    holder.pretrained_cfg = holder.default_cfg = config
