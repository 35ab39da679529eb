"""Similarity of a model's position embeddings (arXiv 2010.11929, figures 7 centre and 10).

Letters: h w patches (grid height and width), N = h w, T rows of the table, D width.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import Subject
from vitctl.models.anatomy import num_embedded_prefix_tokens
from vitctl.models.block_anatomy import TOKEN_MLPS
from vitctl.primitives.image_sizes import check_divisible, format_size
from vitctl.primitives.position_embeddings import resample_position_embeddings
from vitctl.settings.words import DEFAULT_INTERPOLATION

# parts of names of modules, parameters and buffers -> what tells a model without a table where its patches are
_OTHER_POSITIONS = (
    (("rope", "rotary"), "rotary position embeddings (RoPE)"),
    (("rel_pos", "relative_position", "attention_bias", "cpb_mlp", "pos_bias", "meta_mlp"), "relative position bias"),
    (("pos_embeder", "token_projection", "posconv", "pos_block", "pos_conv"), "position features that it computes"),
    ((*TOKEN_MLPS, "mlp_channels.gate"), "weights of their own for every place"),
)


@dataclass(frozen=True)
class PositionGrid:
    """Absolute position embeddings laid out as the patches are.

    Attributes:
        rows: (h, w, D) float32 on the CPU.
        kind: What holds them: "table", "table over 2-D", "factorised table".
        num_prefix_rows: Rows of the table that belong to prefix tokens, not in ``rows``.
        notes: What to know about them.
    """

    rows: Tensor
    kind: str
    num_prefix_rows: int
    notes: tuple[str, ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.rows.shape[0], self.rows.shape[1]


@torch.no_grad()
def pos_embed(
    subject: Subject, *, image_size: tuple[int, int] | None = None, method: str = DEFAULT_INTERPOLATION
) -> Findings:
    """Return the cosine between the position embeddings of every two patches.

    Args:
        subject: A model with absolute position embeddings: learnt or fixed, (1, T, D), over a 2-D grid, or factorised.
        image_size: (H, W) px to resample them for as well; None for the model's own size only.
        method: Interpolation: ``paper``, ``bicubic``, ``bicubic-aa``.

    Raises:
        ModelError: The model has no such embeddings; the sentence says what it has instead.
        SettingError: ``image_size`` is not a multiple of the patch, or the method is unknown.
    """
    found = position_grid(subject)
    if not found.rows.any():
        raise ModelError(
            f"The position embeddings of {subject.name} are all zero, as before training; expected trained ones. "
            "Name weights with --weights, or try filters."
        )
    other = _other_positions(subject.model)
    similarity, facts = _described(found.rows)
    arrays = {"similarity": similarity}
    meanings = {"similarity": "(h, w, h, w) cosine between the position embeddings of two patches, -1 to 1."}
    resampled_facts: dict[str, Any] = dict.fromkeys(f"{name}_resampled" for name in ("grid", *facts))
    if image_size is not None:
        resampled = _resampled(subject, found, image_size, method)
        arrays["similarity_resampled"], described = _described(resampled)
        meanings["similarity_resampled"] = "(h, w, h, w) the same after resampling to the image size wanted."
        resampled_facts = {f"{name}_resampled": value for name, value in described.items()}
        resampled_facts["grid_resampled"] = list(resampled.shape[:2])
    return Findings(
        arrays=arrays,
        meanings=meanings,
        facts={
            "grid": list(found.grid),
            "kind": found.kind,
            "num_prefix_rows": found.num_prefix_rows,
            "image_size": list(image_size) if image_size else None,
            "method": method if image_size else None,
            **facts,
            **resampled_facts,
        },
        header=("grid", "peak at itself", "correlation with nearness", "row and column excess", "mean norm"),
        rows=_table(found.grid, facts, resampled_facts),
        notes=(*found.notes, *([f"{subject.name} also uses {other}, which no table shows."] if other else [])),
    )


def position_grid(subject: Subject) -> PositionGrid:
    """Return the absolute position embeddings of a model's patches, prefix tokens left out.

    A table whose grid the model does not tell comes as one row of T places.

    Raises:
        ModelError: There are none.
    """
    model: Any = subject.model
    for holder in (model, getattr(model, "embeds", None)):  # timm's NaFlexViT keeps them in embeds
        table = getattr(holder, "pos_embed", getattr(holder, "patch_pos", None))  # TNT's name for it
        if isinstance(table, Tensor) and table.ndim == 4:
            return _over_grid(subject, table)  # also NaFlexViT's, which it resamples to each image
        if isinstance(table, Tensor) and table.ndim == 3:
            return _over_sequence(subject, table)
        parts = [getattr(holder, f"pos_embed_{axis}", None) for axis in "yx"]
        if all(isinstance(part, Tensor) for part in parts):
            by_row, by_column = (part.detach().cpu().float()[0] for part in parts)  # type: ignore[union-attr]
            return PositionGrid(by_row[:, None] + by_column[None], "factorised table", 0)
    raise ModelError(f"{subject.name} has no single table of position embeddings: {_instead(subject)}")


def similarity_statistics(similarity: np.ndarray) -> dict[str, float | None]:
    """Return what figure 7 of the paper shows, as numbers; each is None where it is not defined.

    Distances are Euclidean, in patches.

    Args:
        similarity: (h, w, h, w) float, of (N, N) pairs.

    Returns:
        ``peak_is_self``: share of patches most similar to themselves. ``correlation_with_distance``: Pearson's, of
        similarity with minus the distance, over pairs of two patches. ``row_column_excess``: mean similarity of pairs
        in one row or column minus that of other pairs whose distance rounds to the same, over pairs in one row or
        column.
    """
    height, width = similarity.shape[:2]
    num_bins = math.ceil(math.hypot(height, width)) + 1
    moments = np.zeros(5)  # sums of s, d, s s, d d, s d over pairs
    sums, counts = np.zeros((2, num_bins)), np.zeros((2, num_bins))  # other pairs, pairs in one row or column
    peaks = 0
    columns = np.arange(width)
    for row in range(height):  # one row of queries at a time: the pairs of a large grid do not fit twice
        values = similarity[row].reshape(width, -1).astype(np.float64)
        down = np.broadcast_to(np.abs(np.arange(height) - row)[None, :, None], (width, height, width))
        across = np.broadcast_to(np.abs(columns[:, None] - columns)[:, None, :], (width, height, width))
        distances = np.sqrt(down**2.0 + across**2.0).reshape(width, -1)
        is_aligned = ((down == 0) | (across == 0)).reshape(width, -1)
        peaks += int((values.argmax(axis=1) == row * width + columns).sum())
        is_pair = distances > 0
        near, similar, aligned = distances[is_pair], values[is_pair], is_aligned[is_pair].astype(int)
        moments += [similar.sum(), near.sum(), (similar**2).sum(), (near**2).sum(), (similar * near).sum()]
        flat = aligned * num_bins + np.rint(near).astype(int)
        sums += np.bincount(flat, similar, 2 * num_bins).reshape(2, num_bins)
        counts += np.bincount(flat, minlength=2 * num_bins).reshape(2, num_bins)
    return {
        "peak_is_self": peaks / (height * width),
        "correlation_with_distance": _pearson(moments * [1, -1, 1, 1, -1], counts.sum()),
        "row_column_excess": _excess(sums, counts),
    }


def _pearson(moments: np.ndarray, count: float) -> float | None:
    """Return Pearson's correlation from sums of x, y, xx, yy, xy over ``count`` pairs."""
    if count == 0:
        return None
    x, y, xx, yy, xy = moments / count
    variances = (xx - x * x, yy - y * y)
    return finite((xy - x * y) / math.sqrt(math.prod(variances))) if min(variances) > 1e-12 else None


def _excess(sums: np.ndarray, counts: np.ndarray) -> float | None:
    has_both = (counts > 0).all(axis=0)
    if not has_both.any():
        return None
    other, aligned = sums[:, has_both] / counts[:, has_both]
    return finite(np.average(aligned - other, weights=counts[1, has_both]))


def _described(rows: Tensor) -> tuple[np.ndarray, dict[str, float | None]]:
    """Return the similarity of (h, w, D) rows, (h, w, h, w) float32, and what describes it."""
    height, width, _ = rows.shape
    flat = rows.flatten(0, 1).double()
    directions = torch.nn.functional.normalize(flat, dim=1)
    similarity = (directions @ directions.T).reshape(height, width, height, width).numpy()
    facts = similarity_statistics(similarity)
    return similarity.astype(np.float32), {**facts, "mean_norm": finite(flat.norm(dim=1).mean().item())}


def _over_sequence(subject: Subject, table: Tensor) -> PositionGrid:
    """Return a table (1, T, D) on the patch grid, or as one row of T places where it does not fit one."""
    rows = table.detach().cpu().float()[0]
    grid = subject.geometry.grid or _own_grid(subject.model)
    num_prefix = num_embedded_prefix_tokens(subject.model)
    for prefix in (num_prefix, 0):  # CaiT's class token comes late and has no row
        if grid is not None and len(rows) == prefix + grid[0] * grid[1]:
            return PositionGrid(rows[prefix:].reshape(*grid, -1), "table", prefix)
    note = (
        f"The {len(rows)} rows of the table are shown in their order, not as a grid: "
        f"{'the model does not tell its grid' if grid is None else f'they are not its {grid[0]}x{grid[1]} patches'}."
    )
    return PositionGrid(rows[None], "table, one row", 0, (note,))


def _own_grid(model: Any) -> tuple[int, int] | None:
    """Return the grid that Hiera tells in its own way."""
    shape = getattr(model, "tokens_spatial_shape", None)
    return (int(shape[0]), int(shape[1])) if isinstance(shape, (tuple, list)) and len(shape) == 2 else None


def _over_grid(subject: Subject, table: Tensor) -> PositionGrid:
    """Return a table (1, h, w, D) or (1, D, h, w): the sides that match the grid, else the image's aspect, are h w."""
    first, second, third = table.shape[1:]
    grid = subject.geometry.grid
    aspect = math.log(subject.geometry.image_size[0] / subject.geometry.image_size[1])
    last, leading = abs(math.log(first / second) - aspect), abs(math.log(second / third) - aspect)
    is_channels_last = (first, second) == grid or ((second, third) != grid and last <= leading)
    rows = table.detach().cpu().float()[0]
    notes: tuple[str, ...] = ()
    if any(hasattr(subject.model, name) for name in ("pos_embed_win", "pos_embed_window")):
        notes = ("The model adds a second, tiled table within windows; it is not part of this similarity.",)
    return PositionGrid(rows if is_channels_last else rows.movedim(0, -1), "table over 2-D", 0, notes)


def _resampled(subject: Subject, found: PositionGrid, image_size: tuple[int, int], method: str) -> Tensor:
    """Return the rows (h, w, D) for another image size."""
    patch = _patch_size(subject, found)
    check_divisible(image_size, patch, model=subject.name)
    new_grid = (image_size[0] // patch[0], image_size[1] // patch[1])
    table = found.rows.flatten(0, 1)[None]
    resampled = resample_position_embeddings(
        table, old_grid=found.grid, new_grid=new_grid, num_prefix_tokens=0, method=method
    )
    return resampled[0].reshape(*new_grid, -1)


def _patch_size(subject: Subject, found: PositionGrid) -> tuple[int, int]:
    """Return the px (H, W) that one row of the table stands for.

    Raises:
        SettingError: That is not a whole number, or the table is no grid.
    """
    embed_patch = getattr(getattr(subject.model, "embeds", None), "patch_size", None)
    if embed_patch is not None:  # NaFlexViT resamples its table to any image
        return int(embed_patch[0]), int(embed_patch[1])
    if subject.geometry.patch_size is not None and found.grid == subject.geometry.grid:
        return subject.geometry.patch_size
    height, width = subject.geometry.image_size
    rows, columns = found.grid
    if found.kind == "table, one row" or height % rows or width % columns:
        raise SettingError(
            f"--image-size cannot be used with {subject.name}: its {rows}x{columns} position embeddings do not divide "
            f"its image of {format_size((height, width))} px. Leave it out.",
            field="image_size",
        )
    return height // rows, width // columns


def _instead(subject: Subject) -> str:
    """Return what tells the model where its patches are, and which analyses can be used."""
    names = (name for name, _ in subject.model.named_parameters())
    tables = [name for name in names if name.rpartition(".")[2].startswith("pos_embed")]
    if tables:
        return f"it has several ({', '.join(tables)}); expected one. Try cka, equivariance or features."
    other = _other_positions(subject.model)
    if other is not None:
        return f"it uses {other}. Expected absolute ones; try cka, equivariance or features."
    if subject.geometry.grid is None:
        return (
            "as in any CNN, convolutions see neighbours and borders. Expected a ViT with absolute ones; try cka, "
            "receptive-field or equivariance."
        )
    return "nothing in its weights tells patches apart. Try cka, equivariance or features."


def _other_positions(model: nn.Module) -> str | None:
    named = [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]
    names = [name.lower() for name, _ in named]
    for parts, what in _OTHER_POSITIONS:
        if any(part in name for part in parts for name in names):
            return what
    return None


def _table(grid: tuple[int, int], facts: dict[str, Any], resampled: dict[str, Any]) -> list[tuple[str, ...]]:
    rows = [(f"{grid[0]}x{grid[1]}", *_texts(facts.values()))]
    if resampled["grid_resampled"] is not None:
        height, width = resampled["grid_resampled"]
        rows.append((f"{height}x{width} resampled", *_texts(resampled[f"{name}_resampled"] for name in facts)))
    return rows


def _texts(values: Any) -> tuple[str, ...]:
    return tuple("-" if value is None else f"{value:.3f}" for value in values)
