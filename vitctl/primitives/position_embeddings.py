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
from vitctl.primitives.interpolation import interpolation_matrix

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


def resample_by_products(
    embeddings: Tensor,
    *,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int,
    method: str,
) -> Tensor:
    """Return what ``resample_position_embeddings`` does, to rounding, as matrix products: for forward passes.

    The gradient of torch's ``interpolate`` is not the same twice on a GPU. In float64 where the device has it, which
    autocast and TF32 leave alone; the products are small.

    Args:
        embeddings: (1, P + h*w, D) float; rows of the grid in reading order.
        old_grid: (h, w) of ``embeddings``.
        new_grid: (h, w) wanted. The same grid gives the same tensor, bit for bit.
        num_prefix_tokens: P, the leading tokens that have no location.
        method: ``paper``, ``bicubic`` or ``bicubic-aa``.

    Returns:
        (1, P + h*w, D) for the new grid, in the dtype of ``embeddings``.
    """
    if old_grid == new_grid:
        return embeddings
    prefix, patches = embeddings[:, :num_prefix_tokens], embeddings[:, num_prefix_tokens:]
    exact = torch.float32 if embeddings.device.type == "mps" else torch.float64
    rows, columns = (
        resampling_matrix(old, new, method=method, device=embeddings.device).to(exact)
        for old, new in zip(old_grid, new_grid, strict=True)
    )
    taller = torch.matmul(rows, patches.to(exact).reshape(old_grid[0], -1))
    resampled = torch.matmul(columns, taller.reshape(new_grid[0], old_grid[1], -1))
    return torch.cat([prefix, resampled.reshape(1, new_grid[0] * new_grid[1], -1).to(embeddings.dtype)], dim=1)


def resampling_matrix(num_in: int, num_out: int, *, method: str, device: torch.device | None = None) -> Tensor:
    """Return what ``resample_position_embeddings`` does along one axis as a matrix (M, N), each row summing to 1.

    Args:
        num_in: N places of the table along the axis.
        num_out: M places wanted; may be symbolic (``torch.export``). As many give the identity.
        method: ``paper``, ``bicubic`` or ``bicubic-aa``.
        device: Where the matrix is made.
    """
    settings = METHODS[method]
    if settings["antialias"]:
        return interpolation_matrix(num_in, num_out, device=device)
    outputs = torch.arange(num_out, device=device).unsqueeze(1)
    if settings["align_corners"]:  # output 0 is input 0, the last output the last input
        steps: int = torch.sym_max(num_out - 1, 1)  # type: ignore[no-untyped-call]
        inputs = torch.arange(num_in, device=device)
        return (1 - (outputs * (num_in - 1) / steps - inputs).abs()).clamp(min=0)
    # torch's bicubic: Keys' kernel with a = -0.75 (antialias has -0.5); places beyond an end are the end
    inputs = torch.arange(-2, num_in + 2, device=device)
    x = ((outputs + 0.5) * num_in / num_out - 0.5 - inputs).abs()
    near = (1.25 * x - 2.25) * x * x + 1
    far = ((-0.75 * x + 3.75) * x - 6) * x + 3
    weights = torch.where(x < 1, near, torch.where(x < 2, far, 0.0))
    return weights @ F.one_hot(inputs.clamp(0, num_in - 1), num_in).to(weights.dtype)


def mean_norm(embeddings: Tensor, *, num_prefix_tokens: int) -> float:
    """Return the mean Euclidean norm of the patches' position embeddings.

    Interpolation averages neighbours, so this shrinks; how much tells how far the tokens have moved
    from what the model was trained on (DeiT, arXiv 2012.12877, section 5: bicubic keeps it best).

    Args:
        embeddings: (1, P + h*w, D) float.
        num_prefix_tokens: P.
    """
    return float(embeddings[0, num_prefix_tokens:].float().norm(dim=-1).mean())
