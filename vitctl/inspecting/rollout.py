"""Attention rollout: the maps of all blocks multiplied, each with its skip connection.

Quantifying Attention Flow in Transformers, arXiv 2005.00928, section 3; V (arXiv 2010.11929), D.8. The options follow
https://github.com/jacobgil/vit-explain; unlike there, rows are normalised over their own sum, and discarding spares
all prefix tokens.

Letters: B images, I pictures, L blocks, H heads, R rows, N tokens (P prefix tokens, then h w patches).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import SettingError, check_choice
from vitctl.inspecting.attention_tap import AttentionCall, AttentionTap, Query
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import Subject
from vitctl.settings.words import FUSIONS

_BATCH_BYTES = 64 * 2**20  # guess: of one (B, N, N) matrix; three are held at a time
_MOST_PICTURES = 32  # guess: a batch's activations stay small


def fuse_heads(maps: Tensor, fusion: str) -> Tensor:
    """Return one map for all heads, (B, R, N).

    Args:
        maps: (B, H, R, N).
        fusion: ``mean``, ``max`` or ``min`` over heads; rows of the last two no longer sum to 1.
    """
    if fusion == "mean":
        return maps.mean(dim=1)
    return maps.amax(dim=1) if fusion == "max" else maps.amin(dim=1)


def discard_lowest(fused: Tensor, share: float, *, num_prefix: int) -> Tensor:
    """Return fused maps, (B, N, N), whose lowest entries are 0, except those of the prefix tokens' columns.

    Args:
        fused: (B, N, N).
        share: Of all N x N entries of an image that count as lowest, 0 to 1, rounded down.
        num_prefix: P columns to spare; what they hold among the lowest stays, nothing is discarded in its stead.
    """
    count = int(share * fused.shape[-1] ** 2)
    if not count:
        return fused
    flat = fused.flatten(1)
    lowest = flat.topk(count, dim=1, largest=False, sorted=False).indices
    kept = flat.scatter(1, lowest, 0.0).view_as(fused)
    kept[:, :, :num_prefix] = fused[:, :, :num_prefix]
    return kept


def add_skip(fused: Tensor, residual: float) -> Tensor:
    """Return ``(1 - residual) M + residual I`` with rows divided by their sums, (B, N, N).

    Args:
        fused: M, (B, N, N).
        residual: Weight of the identity, 0 to 1; 0.5 is the papers' (M + I) / 2.

    Raises:
        SettingError: A row is all 0.
    """
    mixed = fused * (1 - residual)
    mixed.diagonal(dim1=1, dim2=2).add_(residual)
    sums = mixed.sum(dim=-1, keepdim=True)
    if not bool((sums > 0).all()):
        raise SettingError(
            "--discard leaves tokens that attend to nothing, and --residual 0 not even to themselves; expected rows "
            "above 0. Try a --residual above 0, or a lower --discard.",
            field="discard",
        )
    return mixed.div_(sums)


@dataclass(frozen=True)
class _Options:
    fusion: str
    discard: float
    residual: float


class _Product:
    """The product of the blocks so far, and what the target's row of it gave after each block.

    The product runs forward, J_l = A_l J_(l-1): two N x N matrices per image, whatever L is. The target's row alone,
    carried backward, would save the matrix products but needs the maps of all blocks first, L N x N matrices, and one
    pass per block as the row is wanted after each.
    """

    def __init__(self, options: _Options, num_prefix: int, token: int | None) -> None:
        self._options, self._num_prefix, self._token = options, num_prefix, token
        self._joint: Tensor | None = None
        self.rows: list[Tensor] = []
        self.row_sum_error = 0.0

    def add(self, call: AttentionCall) -> None:
        num_images, _, num_tokens, _ = call.query.shape
        fused = torch.empty(num_images, num_tokens, num_tokens, device=call.query.device)
        for rows, maps in call.chunks():
            fused[:, rows] = fuse_heads(maps, self._options.fusion)
        fused = discard_lowest(fused, self._options.discard, num_prefix=self._num_prefix)
        mixed = add_skip(fused, self._options.residual)
        self._joint = mixed if self._joint is None else mixed @ self._joint
        self.row_sum_error = max(self.row_sum_error, float((self._joint.sum(dim=-1) - 1).abs().max()))
        patches = self._joint[:, :, self._num_prefix :]
        row = patches[:, self._num_prefix :].mean(dim=1) if self._token is None else patches[:, self._token]
        self.rows.append(row.cpu())


def rollout(
    subject: Subject,
    pictures: Tensor,
    *,
    fusion: str = "mean",
    discard: float = 0.0,
    residual: float = 0.5,
    query: Query | None = None,
    conversation: Conversation,
) -> Findings:
    """Return how much of each patch reaches one token through the first block, the first two, and so on to all.

    Args:
        subject: A model with one grid of tokens in every block.
        pictures: (I, 3, H, W) px, preprocessed.
        fusion: Of a block's heads: ``mean``, ``max`` or ``min``.
        discard: Share of a fused map's entries, the lowest, that are set to 0, from 0 to below 1; never those to prefix
            tokens.
        residual: Weight of the skip connection, from 0 to below 1.
        query: The token that looks: ``"cls"`` or (row, column); None is the class token, else the mean over patches.
        conversation: Shows progress.

    Raises:
        SettingError: An option is out of its range, or the model has no such query.
        ModelError: The model has no such attention.
    """
    check_choice(fusion, FUSIONS, what="--fusion", field="fusion")
    for name, value in (("discard", discard), ("residual", residual)):
        if not 0 <= value < 1:
            raise SettingError(f"--{name} is {value}; expected a share from 0 to below 1. Try 0.5.", field=name)
    tap = AttentionTap(subject)
    if query is None and tap.has_class_token:
        query = "cls"
    token = None if query is None else tap.position(query)
    options = _Options(fusion, discard, residual)
    per_layer: list[Tensor] = []
    row_sum_error = 0.0
    with conversation.progress("rollout", len(pictures), "images") as bar:
        for batch in torch.split(pictures, _batch_size(tap)):
            product = _Product(options, tap.num_prefix, token)
            tap(batch, product.add)
            per_layer.append(torch.stack(product.rows, dim=1))
            row_sum_error = max(row_sum_error, product.row_sum_error)
            bar.advance(len(batch))
    rows = torch.cat(per_layer).numpy()  # (I, L, h w)
    facts = {
        "fusion": fusion,
        "discard": discard,
        "residual": residual,
        "target": "mean over patches" if query is None else query if isinstance(query, str) else list(query),
        "row_sum_error": row_sum_error,
    }
    return _findings(rows.reshape(*rows.shape[:2], *tap.grid), facts)


def _batch_size(tap: AttentionTap) -> int:
    num_tokens = tap.num_prefix + tap.grid[0] * tap.grid[1]
    return min(_MOST_PICTURES, max(1, _BATCH_BYTES // (4 * num_tokens**2)))


def _findings(per_layer: np.ndarray, facts: dict[str, Any]) -> Findings:
    """Return the findings from (I, L, h, w)."""
    last = per_layer[:, -1]
    highest = last.max(axis=(1, 2), keepdims=True)
    to_patches = per_layer.sum(axis=(2, 3))
    peak_over_mean = per_layer.max(axis=(2, 3)) / np.maximum(per_layer.mean(axis=(2, 3)), np.finfo(np.float32).tiny)
    facts = facts | {"to_patches_per_layer": to_patches.mean(axis=0, dtype=np.float64).tolist()}
    return Findings(
        arrays={"per_layer": per_layer, "rollout": last / np.maximum(highest, np.finfo(np.float32).tiny)},
        meanings={
            "per_layer": "(I, L, h, w) the target's row of the product of the first 1 to L blocks, patches only, not "
            "normalised, per picture.",
            "rollout": "(I, h, w) the same after all blocks, divided by its maximum.",
        },
        facts=facts,
        header=("blocks", "share that comes from patches", "highest over mean patch"),
        rows=[
            (f"0 to {layer}", f"{to_patches[:, layer].mean():.3f}", f"{peak_over_mean[:, layer].mean():.2f}")
            for layer in range(per_layer.shape[1])
        ],
    )
