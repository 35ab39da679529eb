"""Resample position embeddings from one patch grid to another, by location.

Letters: P prefix tokens, D width, h w patches (grid height and width).

Sources: ``paper`` is what the authors' code does (google-research/vision_transformer
``vit_jax/checkpoint.py`` ``interpolate_posembed``: ``scipy.ndimage.zoom`` of order 1, which is bilinear
interpolation with the corners aligned; arXiv 2010.11929 section 3.2 says only "2D interpolation").
``bicubic-aa`` is what timm does (``timm/layers/pos_embed.py``), ``bicubic`` what transformers does. Unlike
the first two, both grids are given, never guessed from the number of tokens, so they may be rectangular.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from vitctl.errors import check_choice

# F.interpolate's arguments for each method
METHODS: dict[str, dict[str, str | bool]] = {
    "paper": {"mode": "bilinear", "align_corners": True, "antialias": False},
    "bicubic": {"mode": "bicubic", "align_corners": False, "antialias": False},
    "bicubic-aa": {"mode": "bicubic", "align_corners": False, "antialias": True},
}


def resample_position_embeddings(
    embeddings: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int,
    method: str,
) -> Tensor:
    """Return ``embeddings`` for ``new_grid``; the prefix tokens are not touched.

    Args:
        embeddings: (1, P + h*w, D) float; rows of the grid in reading order.
        old_grid: (h, w) of ``embeddings``.
        new_grid: (h, w) wanted. The same grid gives the same tensor, bit for bit.
        num_prefix_tokens: P, the leading tokens that have no location (class, distillation, registers).
        method: ``paper``, ``bicubic`` or ``bicubic-aa``.

    Returns:
        (1, P + h*w, D) for the new grid, in the dtype of ``embeddings``.

    Raises:
        SettingError: An unknown method.
        ValueError: The number of tokens does not fit ``old_grid`` and ``num_prefix_tokens``.
    """
    check_choice(method, METHODS, what="--pos-embed-interp", field="pos_embed_interp")
    if embeddings.shape[1] != num_prefix_tokens + old_grid[0] * old_grid[1]:
        raise ValueError(
            f"{embeddings.shape[1]} position embeddings are not {num_prefix_tokens} prefix tokens and a grid of "
            f"{old_grid[0]}x{old_grid[1]}"
        )
    if old_grid == new_grid:
        return embeddings
    prefix, patches = embeddings[:, :num_prefix_tokens], embeddings[:, num_prefix_tokens:]
    image = patches.float().reshape(1, *old_grid, -1).permute(0, 3, 1, 2)  # (1, D, h, w)
    settings = METHODS[method]
    resampled = F.interpolate(
        image,
        size=new_grid,
        mode=str(settings["mode"]),
        align_corners=bool(settings["align_corners"]),
        antialias=bool(settings["antialias"]),
    )
    rows = resampled.permute(0, 2, 3, 1).reshape(1, new_grid[0] * new_grid[1], -1).to(embeddings.dtype)
    return torch.cat([prefix, rows], dim=1)


def mean_norm(embeddings: Tensor, *, num_prefix_tokens: int) -> float:
    """Return the mean Euclidean norm of the patches' position embeddings.

    Interpolation averages neighbours, so this shrinks; how much tells how far the tokens have moved
    from what the model was trained on (DeiT, arXiv 2012.12877, section 5: bicubic keeps it best).

    Args:
        embeddings: (1, P + h*w, D) float.
        num_prefix_tokens: P.
    """
    return float(embeddings[0, num_prefix_tokens:].float().norm(dim=-1).mean())
