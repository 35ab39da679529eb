"""Patch features of one layer: their principal components as colours, similarity to one patch, and norms.

Letters: I pictures, B images, P prefix tokens, h w patches (grid height and width), D width, Y X px.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import ImageStream, Subject, find_layer
from vitctl.models.layers import Layer, LayerTap, Tokens, layer_names
from vitctl.settings.words import FINAL

# guess: beyond chance (6.7 standard deviations of a normal distribution), and near the norm of 150 above which
# arXiv 2309.16588, section 2.1, calls tokens of DINOv2 outliers
OUTLIER_RANGES = 5.0
_LEAST_RANGE = 1e-3  # guess: of the median; norms that a LayerNorm made equal differ by rounding only
_QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@torch.no_grad()
def features(
    subject: Subject,
    stream: ImageStream,
    pictures: Tensor,
    *,
    layer: Layer | None = None,
    query: tuple[int, int] | None = None,
    conversation: Conversation,
) -> Findings:
    """Return what the patch tokens of a layer, or the places of a CNN's feature map, are like.

    Args:
        subject: Any timm model whose layer is a grid.
        stream: Images for the norms.
        pictures: (I, 3, Y, X) to look at: colours, similarity and norms of each.
        layer: As ``vitctl.models.layers`` names it; None for ``final``, after the last norm.
        query: (row, column) of the patch that others are compared with, from 0; None for the middle.
        conversation: Hears of progress.

    Raises:
        SettingError: The layer is unknown, or the query is outside the grid.
        ModelError: The layer's tokens are on no known grid.
    """
    layer = find_layer(FINAL if layer is None else layer, subject)
    tap = LayerTap(subject.model, [layer], name=subject.name)
    shown = _shown(subject, tap, layer, torch.split(pictures, stream.batch_size))
    row, column = _query(query, shown, subject)
    norms = _norms(subject, stream, tap, layer, conversation)
    quartiles = np.quantile(norms, _QUANTILES)
    spread = max(quartiles[3] - quartiles[1], _LEAST_RANGE * quartiles[2])
    threshold = quartiles[2] + OUTLIER_RANGES * spread
    num_outliers = int((norms > threshold).sum())
    rgb, explained = principal_colours(shown.patches)
    return Findings(
        arrays={
            "rgb": rgb,
            "similarity": similarity_to(shown.patches, row, column),
            "token_norm": shown.patches.norm(dim=-1).float().numpy(),
            "norm_quantiles": quartiles,
            "prefix_norm": shown.prefix.norm(dim=-1).float().numpy(),
        },
        meanings={
            "rgb": "(I, h, w, 3) first three principal components of the pictures' patch tokens, together, each "
            "stretched from its 1st to its 99th percentile to 0-1.",
            "similarity": "(I, h, w) cosine of every patch token with the query's in the same picture, -1 to 1.",
            "token_norm": "(I, h, w) Euclidean norm of every patch token.",
            "norm_quantiles": "(5,) norms of all images' patch tokens: smallest, quartiles, largest.",
            "prefix_norm": "(I, P) Euclidean norm of the prefix tokens.",
        },
        facts={
            "layer": str(layer),
            "query": [row, column],
            "grid": list(shown.patches.shape[1:3]),
            "explained_by_three": explained,
            "num_images": len(stream),
            "num_tokens": len(norms),
            "num_outliers": num_outliers,
            "share_outliers": num_outliers / len(norms),
            "outlier_threshold": finite(threshold),
            "outlier_rule": f"norm above median + {OUTLIER_RANGES:g} interquartile ranges of all patch tokens",
        },
        header=("tokens", "median norm", "largest norm", "outliers"),
        rows=[(f"{len(norms):,}", f"{quartiles[2]:.2f}", f"{quartiles[4]:.2f}", f"{num_outliers:,}")],
        notes=_notes(subject, layer),
    )


def principal_colours(tokens: Tensor) -> tuple[np.ndarray, float | None]:
    """Return the first three principal components of tokens as colours, and the share of variance they explain.

    A component without variance is mid-grey (0.5). The loading of largest magnitude is positive.

    Args:
        tokens: (I, h, w, D) float64, centred over all of them together.

    Returns:
        (I, h, w, 3) float32 in 0-1, and the share; None where all tokens are equal.
    """
    rows = tokens.flatten(0, 2)
    rows = rows - rows.mean(dim=0)
    values, vectors = torch.linalg.eigh(rows.T @ rows)  # ascending
    order = torch.arange(len(values) - 1, max(len(values) - 4, -1), -1)
    total = float(values.clamp(min=0).sum())
    has_variance = values[order] > 1e-12 * total
    directions = vectors[:, order]
    largest = directions.gather(0, directions.abs().argmax(dim=0, keepdim=True))
    scores = (rows @ (directions * torch.where(largest < 0, -1.0, 1.0))).numpy()
    colours = np.full((len(rows), 3), 0.5, dtype=np.float32)
    for index in np.flatnonzero(has_variance.numpy()):
        low, high = np.quantile(scores[:, index], (0.01, 0.99))
        if high > low:
            colours[:, index] = ((scores[:, index] - low) / (high - low)).clip(0, 1)
    explained = float(values[order][has_variance].sum()) / total if total > 0 else None
    return colours.reshape(*tokens.shape[:3], 3), explained


def similarity_to(tokens: Tensor, row: int, column: int) -> np.ndarray:
    """Return the cosine of every token with the one at (row, column) of the same picture, (I, h, w) float32.

    Args:
        tokens: (I, h, w, D) float64.
        row: 0 to h - 1.
        column: 0 to w - 1.
    """
    directions = torch.nn.functional.normalize(tokens, dim=-1)
    cosines = (directions * directions[:, row, column][:, None, None]).sum(dim=-1)
    result: np.ndarray = cosines.float().numpy()
    return result


@dataclass(frozen=True)
class _Shown:
    """Tokens of the pictures, float64 on the CPU: patches (I, h, w, D), prefix (I, P, D)."""

    patches: Tensor
    prefix: Tensor


def _shown(subject: Subject, tap: LayerTap, layer: Layer, batches: Sequence[Tensor]) -> _Shown:
    kept = [_tokens(subject, tap, layer, images) for images in batches]
    patches = torch.cat([tokens.patches.cpu().double() for tokens in kept])
    prefix = torch.cat([tokens.prefix.cpu().double() for tokens in kept])
    grid = kept[0].grid
    if grid is None:
        raise ModelError(
            f"Layer {layer} of {subject.name} gives {patches.shape[1]} tokens on no known grid; expected rows and "
            "columns. Try another --layer, or cka, which needs none."
        )
    return _Shown(patches.reshape(len(patches), *grid, -1), prefix)


def _tokens(subject: Subject, tap: LayerTap, layer: Layer, images: Tensor) -> Tokens:
    kept, _ = tap(images.to(subject.device))
    return kept[layer]


def _norms(
    subject: Subject, stream: ImageStream, tap: LayerTap, layer: Layer, conversation: Conversation
) -> np.ndarray:
    """Return the norms of all images' patch tokens, (B h w,) float32."""
    found: list[Any] = []
    with conversation.progress("features", len(stream), "images") as bar:
        for images in stream.batches():
            patches = _tokens(subject, tap, layer, images).patches
            found.append(patches.norm(dim=-1).flatten().cpu().numpy())
            bar.advance(len(images))
    return np.concatenate(found)


def _query(query: tuple[int, int] | None, shown: _Shown, subject: Subject) -> tuple[int, int]:
    _, height, width, _ = shown.patches.shape
    if query is None:
        return height // 2, width // 2
    row, column = query
    if not (0 <= row < height and 0 <= column < width):
        raise SettingError(
            f"--query {row},{column} is outside the grid of {subject.name}; its rows are 0 to {height - 1}, its "
            f"columns 0 to {width - 1}.",
            field="query",
        )
    return row, column


def _notes(subject: Subject, layer: Layer) -> tuple[str, ...]:
    last = layer_names(subject.model)[-2:-1]
    if layer != FINAL or not last or subject.geometry.grid is None:
        return ()
    return (f"The last norm makes the norms of tokens alike; --layer {last[0]} shows them as they are before it.",)
