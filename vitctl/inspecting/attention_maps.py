"""Attention as such: where one token looks in every block and head, how even that is, how alike the heads are.

V is arXiv 2010.11929, appendix A and D.8.

Letters: B images, I pictures, L blocks, H heads, N tokens (P prefix tokens, then h w patches).
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.inspecting.attention_tap import AttentionCall, AttentionTap, Query
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import ImageStream, Subject


def attention(
    subject: Subject,
    stream: ImageStream,
    pictures: Tensor,
    *,
    query: Query | None,
    layer: int | None,
    head: int | None,
    conversation: Conversation,
) -> Findings:
    """Return where one token of each picture looks, and how even and how alike the heads are over a stream.

    Args:
        subject: A model with one grid of tokens in every block.
        stream: Images for the statistics.
        pictures: (I, 3, H, W) px, preprocessed, for the maps.
        query: The token that looks: ``"cls"`` or (row, column); None is the class token, else the patch in the middle.
        layer: Index of the block to show; None leaves it to the figure.
        head: Index of the head to show; None leaves it to the figure.
        conversation: Shows progress.

    Raises:
        SettingError: The model has no such query, block or head.
        ModelError: The model has no such attention.
    """
    tap = AttentionTap(subject)
    if query is None:
        query = "cls" if tap.has_class_token else (tap.grid[0] // 2, tap.grid[1] // 2)
    token = tap.position(query)
    _check_index("layer", layer, tap.num_layers, f"blocks of {subject.name}")
    statistics = _Statistics(tap.num_layers, tap.num_prefix)
    maps: list[Tensor] = []
    with conversation.progress("attention", len(pictures) + len(stream), "images") as bar:
        for batch in torch.split(pictures, stream.batch_size):
            maps.append(_maps_of(tap, batch, token))
            _check_index("head", head, maps[0].shape[2], f"heads of {subject.name}")
            bar.advance(len(batch))
        for batch in stream.batches(min(stream.batch_size, tap.images_at_once)):
            tap(batch, statistics.add)
            bar.advance(len(batch))
    shown = torch.cat(maps).numpy()  # (I, L, H, N)
    arrays = statistics.arrays(len(stream)) | {
        "maps": shown[..., tap.num_prefix :].reshape(*shown.shape[:3], *tap.grid),
        "prefix_attention": shown[..., : tap.num_prefix].sum(axis=-1),
    }
    return _findings(arrays, query=query, layer=layer, head=head, num_tokens=shown.shape[-1], num_images=len(stream))


class _Statistics:
    """Sums over images, in float64 on the CPU, of what each block's maps come to."""

    def __init__(self, num_layers: int, num_prefix: int) -> None:
        self._num_prefix = num_prefix
        self._entropy: list[Tensor | float] = [0.0] * num_layers
        self._similarity: list[Tensor | float] = [0.0] * num_layers
        self._row_sum_error = np.zeros(num_layers)

    def add(self, call: AttentionCall) -> None:
        num_images, num_heads, num_tokens, _ = call.query.shape
        entropy = torch.zeros(num_images, num_heads, dtype=torch.float64)
        products = torch.zeros(num_images, num_heads, num_heads, dtype=torch.float64)
        for rows, maps in call.chunks():
            entropy -= torch.xlogy(maps, maps).sum(dim=-1).cpu().double().sum(dim=-1)
            of_patches = maps[:, :, max(self._num_prefix - rows.start, 0) :].flatten(2)
            products += (of_patches @ of_patches.mT).cpu().double()
            error = float((maps.sum(dim=-1) - 1).abs().max())
            self._row_sum_error[call.layer] = max(self._row_sum_error[call.layer], error)
        norms = products.diagonal(dim1=1, dim2=2).sqrt()
        self._entropy[call.layer] += (entropy / num_tokens).sum(dim=0)
        self._similarity[call.layer] += (products / (norms[:, :, None] * norms[:, None])).sum(dim=0)

    def arrays(self, num_images: int) -> dict[str, np.ndarray]:
        """Return the means over images: entropy (L, H), head_similarity (L, H, H), and row_sum_error (L,)."""
        return {
            "entropy": np.stack([np.asarray(total) for total in self._entropy]) / num_images,
            "row_sum_error": self._row_sum_error,
            "head_similarity": np.stack([np.asarray(total) for total in self._similarity]) / num_images,
        }


def _maps_of(tap: AttentionTap, pictures: Tensor, token: int) -> Tensor:
    """Return the attention of one token of each picture to all tokens, (I, L, H, N) float32."""
    kept: list[Tensor] = []
    tap(pictures, lambda call: kept.append(call.maps(slice(token, token + 1))[:, :, 0].cpu()))
    return torch.stack(kept, dim=1)


def _check_index(name: str, index: int | None, count: int, what: str) -> None:
    if index is not None and not 0 <= index < count:
        raise SettingError(
            f"--{name} is {index}; expected one of the {count} {what}. Try 0 to {count - 1}.", field=name
        )


def _findings(
    arrays: dict[str, np.ndarray],
    *,
    query: Query,
    layer: int | None,
    head: int | None,
    num_tokens: int,
    num_images: int,
) -> Findings:
    entropy = arrays["entropy"].mean(axis=1)
    similarity = [_mean_off_diagonal(block) for block in arrays["head_similarity"]]
    facts: dict[str, Any] = {
        "query": query if isinstance(query, str) else list(query),
        "layer": layer,
        "head": head,
        "max_entropy": math.log(num_tokens),
        "mean_entropy": [finite(value) for value in entropy],
        "mean_head_similarity": similarity,
        "row_sum_error": finite(arrays["row_sum_error"].max()),
        "num_images": num_images,
    }
    rows = [
        (str(index), f"{entropy[index]:.3f}", "-" if alike is None else f"{alike:.3f}")
        for index, alike in enumerate(similarity)
    ]
    return Findings(
        arrays=arrays,
        meanings={
            "maps": "(I, L, H, h, w) share of attention the query gives to each patch, per picture, block and head; "
            "not renormalised without the prefix tokens.",
            "prefix_attention": "(I, L, H) share of attention the query gives to prefix tokens.",
            "entropy": "(L, H) entropy over the keys in nats, mean over images and all queries.",
            "row_sum_error": "(L,) largest difference of a row's sum from 1.",
            "head_similarity": "(L, H, H) cosine between two heads' maps (patch queries x all keys), mean over images.",
        },
        facts=facts,
        header=("block", f"entropy (nats, at most {math.log(num_tokens):.3f})", "similarity of heads"),
        rows=rows,
    )


def _mean_off_diagonal(similarity: np.ndarray) -> float | None:
    """Return the mean of a (H, H) matrix without its diagonal; None where there is one head."""
    return finite(similarity[~np.eye(len(similarity), dtype=bool)].mean()) if len(similarity) > 1 else None
