"""CKA between every token and every patch of the input: does a token still stand for its place (R, figures 9 and 10)?

Letters: h w grid, T = h w tokens, B images, D width, H W px, n images in a minibatch, M pairs of images.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.cka import plan_minibatches
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.hsic import CkaSums, gram_matrix, pair_vectors
from vitctl.inspecting.subject import ImageStream, Subject, find_layer
from vitctl.models.layers import Layer, LayerTap, Tokens
from vitctl.settings.words import FINAL

_MOST_TOKENS = 4096  # their table with every patch is then 128 MiB
_TOKENS_AT_A_TIME = 256  # guess: 256 Gram matrices of 64 images are 8 MiB


def localisation(
    subject: Subject,
    stream: ImageStream,
    *,
    layer: Layer | None = None,
    minibatch: int = 64,
    conversation: Conversation,
) -> Findings:
    """Return unbiased linear CKA, over images, between each token of a layer and each patch of the input's pixels.

    Tokens are patch tokens, or the places of a feature map with all their channels (R, section 5); the patches are the
    blocks of pixels, as the model sees them, that the layer's grid cuts the image into: its stride.

    Args:
        subject: A model whose layer has a grid.
        stream: Images, four or more.
        layer: ``embed``, a number or ``final`` (None); see ``vitctl.models.layers``.
        minibatch: n, >= 4; the model is shown as many at a time.
        conversation: Shows progress.

    Raises:
        SettingError: There is no such layer, or it has more tokens than can be compared.
        DataError: Fewer than four images.
        ModelError: The layer has no grid.
    """
    plan = plan_minibatches(len(stream), minibatch)
    chosen = find_layer(FINAL if layer is None else layer, subject)
    tap = LayerTap(subject.model, (chosen,), name=subject.name)
    grid = _grid_of(_tokens(tap, chosen, torch.zeros(1, 3, *subject.geometry.image_size), subject), chosen, subject)
    sums = CkaSums()
    for (images,) in plan.batches([stream], conversation):
        found = _tokens(tap, chosen, images, subject).patches.transpose(0, 1)
        pixels = cut_into_cells(images.to(subject.device), grid).transpose(0, 1)
        sums.add(_vectors_of_tokens(found), _vectors_of_tokens(pixels), num_images=plan.size)
    table = sums.cka
    return _findings(table, grid, {**plan.facts, "layer": str(chosen)}, plan.notes)


def cut_into_cells(images: Tensor, grid: tuple[int, int]) -> Tensor:
    """Return the pixels of every cell of a grid over the images.

    Where the grid does not divide the image, cells differ by a pixel and the smaller ones are filled with zeros, which
    no inner product of centred features sees.

    Args:
        images: (B, 3, H, W).
        grid: (h, w), at most (H, W).

    Returns:
        (B, T, pixels of the largest cell times 3), row by row.
    """
    rows, is_row = _cuts(images.shape[2], grid[0], images.device)
    columns, is_column = _cuts(images.shape[3], grid[1], images.device)
    cells = images[:, :, rows][..., columns]  # (B, 3, h, rows, w, columns)
    cells = cells * is_row[:, :, None, None] * is_column
    return cells.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def _cuts(length: int, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return for each of ``count`` parts of a side the positions in it, and which of these are inside of the part."""
    edges = torch.arange(count + 1, device=device) * length // count
    positions = edges[:-1, None] + torch.arange(int(edges.diff().max()), device=device)
    return positions.clamp(max=length - 1), positions < edges[1:, None]


def _vectors_of_tokens(tokens: Tensor) -> Tensor:
    """Return the pair vectors of (T, n, D) tokens, (T, M) float64."""
    return torch.cat([pair_vectors(gram_matrix(part)) for part in torch.split(tokens, _TOKENS_AT_A_TIME)])


@torch.no_grad()
def _tokens(tap: LayerTap, layer: Layer, images: Tensor, subject: Subject) -> Tokens:
    return tap(images.to(subject.device))[0][layer]


def _grid_of(tokens: Tokens, layer: Layer, subject: Subject) -> tuple[int, int]:
    if tokens.grid is None or any(
        cells > pixels for cells, pixels in zip(tokens.grid, subject.geometry.image_size, strict=True)
    ):
        raise ModelError(
            f"Layer {layer} of {subject.name} has no grid of tokens that is known; expected patch tokens or a feature "
            "map. Try another --layer, or vitctl inspect cka."
        )
    height, width = tokens.grid
    if height * width > _MOST_TOKENS:
        raise SettingError(
            f"Layer {layer} of {subject.name} has {height}x{width} places; expected {_MOST_TOKENS} at most, as each is "
            "compared with each patch. Try a later --layer or a smaller --image-size."
        )
    return height, width


def _findings(table: np.ndarray, grid: tuple[int, int], facts: dict[str, Any], notes: tuple[str, ...]) -> Findings:
    height, width = grid
    own = table.diagonal().copy()
    is_known = ~np.isnan(own)
    is_found = np.where(np.isnan(table), -np.inf, table).argmax(axis=1) == np.arange(len(table))
    is_inside = np.zeros(grid, dtype=bool)
    is_inside[1:-1, 1:-1] = True
    scores = {
        "argmax_accuracy": _share(is_found[is_known]),
        "argmax_accuracy_interior": _share(is_found[is_known & is_inside.ravel()]),
        "mean_own": finite(own[is_known].mean()) if is_known.any() else None,
        "mean_all": finite(np.nanmean(table)) if not np.isnan(table).all() else None,
        "own_over_mean": None,
        "chance": 1 / len(table),
    }
    if scores["mean_own"] is not None and scores["mean_all"]:
        scores["own_over_mean"] = finite(scores["mean_own"] / scores["mean_all"])
    num_undefined = int((~is_known).sum())
    undefined = (
        f"{num_undefined} of {len(table)} tokens, or the patches at their places, are the same for every image: "
    )
    return Findings(
        arrays={"cka": table.reshape(-1, height, width), "own": own.reshape(grid)},
        meanings={
            "cka": "(h w, h, w) unbiased linear CKA of each token, row by row, with each patch of the input's pixels; "
            "NaN where either is the same for every image.",
            "own": "(h, w) CKA of each token with the patch at its own place.",
        },
        facts={**facts, **scores, "grid": list(grid), "num_undefined": num_undefined},
        header=("layer", "finds its own patch", "by chance", "CKA with own patch", "with all"),
        rows=[[str(facts["layer"]), *(_shown(scores[name]) for name in _SHOWN)]],
        notes=[*notes, *[undefined + "they have no CKA and do not count."] * bool(num_undefined)],
    )


_SHOWN = ("argmax_accuracy", "chance", "mean_own", "mean_all")


def _share(is_true: np.ndarray) -> float | None:
    return float(is_true.mean()) if is_true.size else None


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
