"""CKA between heads of a block, sorted by mean attention distance, and a CNN's lower layers (R, figure 5).

Letters: H heads, S subsets of k heads, C CNN layers, B images, N tokens (P of them prefix tokens), n images in a
minibatch, M pairs of images.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.attention_tap import AttentionCall, AttentionTap
from vitctl.inspecting.cka import check_same_images, layer_vectors, plan_minibatches
from vitctl.inspecting.distance import patch_distances
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.hsic import gram_matrix, pair_vectors, ratio, unbiased_hsic
from vitctl.inspecting.representations import Layers, find_layers
from vitctl.inspecting.subject import ImageStream, Subject

_NUM_STAGES = 2  # of the CNN: R has block1unit1 to block2unit2
_LEAST_FOR_CORRELATION = 3


def heads_vs_cnn(
    vit: Subject,
    cnn: Subject,
    streams: Sequence[ImageStream],
    *,
    layer: int = 1,
    subset: int | None = None,
    minibatch: int = 64,
    conversation: Conversation,
) -> Findings:
    """Return CKA between sliding subsets of a block's heads, from local to global, and a CNN's first two stages.

    What a head gives is attention times values, before the projection, of all tokens. The paper says only "subset of
    the representation". The Gram matrix of heads side by side is the sum of theirs, so one pass serves all subsets.

    Args:
        vit: A model with one grid of attention.
        cnn: A model with stages of feature maps.
        streams: The same images in the same order, as the ViT and the CNN are shown them.
        layer: Which block, from 0 (R: encoder block 1).
        subset: k, 1-H; None is a quarter of the heads.
        minibatch: n, >= 4.
        conversation: Shows progress.

    Raises:
        SettingError: There is no such block, or there are not as many heads.
        DataError: Fewer than four images, or different images for the two models.
        ModelError: The first is not a ViT, or the second has no stages of feature maps.
    """
    check_same_images(streams)
    plan = plan_minibatches(len(streams[0]), minibatch)
    tap = AttentionTap(vit)
    if not 0 <= layer < tap.num_layers:
        raise SettingError(
            f"--layer {layer} is no block of {vit.name}; expected 0 to {tap.num_layers - 1}.", field="layer"
        )
    num_heads = _count_heads(tap, vit)
    size = max(num_heads // 4, 1) if subset is None else subset
    if not 1 <= size <= num_heads:
        raise SettingError(
            f"--subset {size} is no number of heads of {vit.name}; expected 1 to {num_heads}.", field="subset"
        )
    layers = lower_layers(cnn)
    heads = _Heads(tap, layer)
    hsic: Any = 0.0
    for vit_images, cnn_images in plan.batches(streams, conversation):
        tap(vit_images, heads.look)
        vectors = torch.cat([heads.vectors, layer_vectors(cnn, layers, cnn_images, "all")])
        hsic = hsic + unbiased_hsic(vectors, vectors, num_images=plan.size).numpy()
    distances = heads.distance_px
    order = np.argsort(distances, kind="stable")
    subsets = np.lib.stride_tricks.sliding_window_view(order, size).copy()
    similarity = subset_cka(hsic, subsets, num_heads=num_heads)
    arrays = {
        "cka": similarity,
        "subset_distance_px": distances[subsets].mean(axis=1),
        "head_distance_px": distances,
        "head_order": order,
        "subsets": subsets,
        "cnn_layers": np.array(layers.names, dtype=str),
    }
    return _findings(arrays, {**plan.facts, "layer": layer, "subset": size}, plan.notes)


def _count_heads(tap: AttentionTap, vit: Subject) -> int:
    """Return H, seen on one black image."""
    counts: list[int] = []
    tap(torch.zeros(1, 3, *vit.geometry.image_size), lambda call: counts.append(call.num_heads))
    return counts[0]


def lower_layers(cnn: Subject) -> Layers:
    """Return the residual units (or blocks) of a CNN's first two stages.

    Raises:
        ModelError: It has no stages, or they give no feature maps.
    """
    found = find_layers(cnn, "block")
    sites = tuple(site for site in found.sites if site.stage is not None and site.stage < _NUM_STAGES)
    if not sites or any(len(site.shape) != 3 for site in sites):
        raise ModelError(
            f"{cnn.name} has no stages of feature maps; expected a CNN with stages, such as resnet50. Any two models "
            "can be compared by vitctl inspect cka."
        )
    return replace(found, sites=sites)


def subset_cka(hsic: np.ndarray, subsets: np.ndarray, *, num_heads: int) -> np.ndarray:
    """Return CKA between heads side by side and each CNN layer; HSIC is linear in either Gram matrix.

    Args:
        hsic: (H + C, H + C) float64, of every two heads and layers, heads first.
        subsets: (S, k) heads in each subset.
        num_heads: H.

    Returns:
        (S, C) float64; NaN where either does not vary.
    """
    is_in = np.zeros((len(subsets), num_heads))
    np.put_along_axis(is_in, subsets, 1.0, axis=1)
    cross = is_in @ hsic[:num_heads, num_heads:]
    own = np.einsum("sh,hg,sg->s", is_in, hsic[:num_heads, :num_heads], is_in)
    return ratio(cross, own[:, None], hsic.diagonal()[num_heads:])


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Spearman's correlation, without ties; None for fewer than three values, or where one is NaN.

    Args:
        first: (S,).
        second: (S,).
    """
    if len(first) < _LEAST_FOR_CORRELATION or np.isnan(first).any() or np.isnan(second).any():
        return None
    ranks = [np.argsort(np.argsort(values, kind="stable"), kind="stable") for values in (first, second)]
    table = np.asarray(np.corrcoef(np.stack(ranks)))
    return finite(table[0, 1])


class _Heads:
    """What the heads of one block give and how far they look.

    Attributes:
        vectors: Pair vectors of the last minibatch, (H, M) float64.
    """

    def __init__(self, tap: AttentionTap, layer: int) -> None:
        self._layer, self._num_prefix = layer, tap.num_prefix
        self._distances = patch_distances(tap.grid, tap.patch_size)
        self._sum: Any = 0.0
        self._num_queries = 0
        self.vectors = torch.empty(0)

    def look(self, call: AttentionCall) -> None:
        """Take in one minibatch's attention, if it is that of the block."""
        if call.layer != self._layer:
            return
        self.vectors = pair_vectors(gram_matrix(call.output.transpose(0, 1).flatten(2)))
        distances = self._distances.to(call.query.device, torch.float32)
        for rows, maps in call.chunks(first=self._num_prefix):
            queries = slice(rows.start - self._num_prefix, rows.stop - self._num_prefix)
            reached = (maps[..., self._num_prefix :] * distances[queries]).sum(dim=-1)
            self._sum = self._sum + reached.cpu().double().sum(dim=(0, 2)).numpy()
        self._num_queries += len(call.query) * len(self._distances)

    @property
    def distance_px(self) -> np.ndarray:
        """Mean attention distance of every head, (H,) float64 px; prefix tokens dropped, not renormalised."""
        distances: np.ndarray = self._sum / self._num_queries
        return distances


def _findings(arrays: dict[str, np.ndarray], facts: dict[str, Any], notes: Sequence[str]) -> Findings:
    similarity, distances = arrays["cka"], arrays["subset_distance_px"]
    correlations = [rank_correlation(distances, column) for column in similarity.T]
    defined = [value for value in correlations if value is not None]
    num_undefined = int(np.isnan(similarity).sum())
    constant = ("Values that are the same for every image have no CKA: NaN.",) * bool(num_undefined)
    names = arrays["cnn_layers"].tolist()
    return Findings(
        arrays=arrays,
        meanings={
            "cka": "(S, C) unbiased linear CKA between a subset of heads and a layer of the CNN, near 0 to 1.",
            "subset_distance_px": "(S,) px, mean attention distance of the subset's heads, ascending.",
            "head_distance_px": "(H,) px, mean attention distance of each head, in the model's order.",
            "head_order": "(H,) heads from the most local to the most global.",
            "subsets": "(S, k) heads in each subset.",
            "cnn_layers": "(C,) names of the CNN's residual units (or blocks), in its first two stages.",
        },
        facts=facts
        | {
            "num_heads": len(arrays["head_order"]),
            "correlation": correlations,
            "mean_correlation": finite(float(np.mean(defined))) if defined else None,
            "num_undefined": num_undefined,
        },
        header=("heads", "distance (px)", *names),
        rows=[
            (" ".join(map(str, heads)), f"{distances[index]:.1f}", *(f"{value:.3f}" for value in similarity[index]))
            for index, heads in enumerate(arrays["subsets"])
        ],
        notes=(*notes, *constant),
    )
