"""Mean attention distance: how far, in pixels, each head looks.

V is arXiv 2010.11929, section 4.5, figure 7 right and D.7; R is arXiv 2108.08810, figure 3. The authors' code
(https://github.com/google-research/vision_transformer/issues/162) drops the class token's row and column without
renormalising, and so does this unless told otherwise.

Letters: B images, L blocks, H heads, N tokens (P prefix tokens, then h w patches).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.inspecting.attention_tap import AttentionCall, AttentionTap
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, Subject

_TINY = float(np.finfo(np.float32).tiny)


def patch_distances(grid: tuple[int, int], patch_size: tuple[int, int]) -> Tensor:
    """Return the Euclidean distance between every two patches, (h w, h w) float64 px.

    Args:
        grid: (h, w) patches.
        patch_size: (H, W) px from one to the next.
    """
    rows, columns = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    places = torch.stack((rows.flatten() * patch_size[0], columns.flatten() * patch_size[1]), dim=1)
    return torch.cdist(places, places, compute_mode="donot_use_mm_for_euclid_dist")


def uniform_distance(grid: tuple[int, int], patch_size: tuple[int, int], *, num_prefix: int = 0) -> float:
    """Return the mean distance, in px, of a head that attends evenly to all tokens.

    Sum over offsets (a, b) of (h - |a|)(w - |b|) sqrt((H a)^2 + (W b)^2), over (h w)^2; times h w / (P + h w), as what
    goes to prefix tokens counts as distance 0.

    Args:
        grid: (h, w) patches.
        patch_size: (H, W) px from one to the next.
        num_prefix: P; 0 for renormalised attention.
    """
    down, right = (np.arange(1 - side, side) for side in grid)
    pairs = (grid[0] - np.abs(down))[:, None] * (grid[1] - np.abs(right))
    lengths = np.hypot(down[:, None] * float(patch_size[0]), right * float(patch_size[1]))
    num_patches = grid[0] * grid[1]
    return float((pairs * lengths).sum() / num_patches**2 * num_patches / (num_prefix + num_patches))


class _Distances:
    """What each image's heads come to, block by block: (B, H) each."""

    def __init__(self, tap: AttentionTap, device: torch.device, *, renormalise: bool) -> None:
        self._num_prefix, self._renormalise = tap.num_prefix, renormalise
        self._distances = patch_distances(tap.grid, tap.patch_size).float().to(device)
        self.distance_px: list[Tensor] = []
        self.prefix_mass: list[Tensor] = []

    def add(self, call: AttentionCall) -> None:
        num_images, num_heads, num_tokens, _ = call.query.shape
        distance = torch.zeros(num_images, num_heads, dtype=torch.float64)
        prefix_mass = torch.zeros_like(distance)
        for rows, maps in call.chunks(first=self._num_prefix):
            from_patches = slice(rows.start - self._num_prefix, rows.stop - self._num_prefix)
            to_patches = maps[..., self._num_prefix :]
            lost = maps[..., : self._num_prefix].sum(dim=-1).cpu().double()
            kept = to_patches.sum(dim=-1).clamp_min(_TINY).cpu().double() if self._renormalise else 1.0
            reached = to_patches.mul_(self._distances[from_patches]).sum(dim=-1).cpu().double()
            distance += (reached / kept).sum(dim=-1)
            prefix_mass += lost.sum(dim=-1)
        num_patches = num_tokens - self._num_prefix
        self.distance_px.append(distance / num_patches)
        self.prefix_mass.append(prefix_mass / num_patches)


def distance(
    subject: Subject, stream: ImageStream, *, renormalise: bool = False, conversation: Conversation
) -> Findings:
    """Return the mean attention distance of every head: between a patch and those it attends to, weighted by attention.

    Args:
        subject: A model with one grid of tokens in every block.
        stream: Images.
        renormalise: Divide by what goes to patches, so that attention to prefix tokens does not count as distance 0.
        conversation: Shows progress.

    Raises:
        ModelError: The model has no such attention.
    """
    tap = AttentionTap(subject)
    distances, masses = [], []
    with conversation.progress("attention distance", len(stream), "images") as bar:
        for batch in stream.batches(min(stream.batch_size, tap.images_at_once)):
            found = _Distances(tap, subject.device, renormalise=renormalise)
            tap(batch, found.add)
            distances.append(torch.stack(found.distance_px, dim=1))
            masses.append(torch.stack(found.prefix_mass, dim=1))
            bar.advance(len(batch))
    per_image = torch.cat(distances).numpy()  # (B, L, H)
    arrays = {
        "distance_px": per_image.mean(axis=0),
        "prefix_mass": torch.cat(masses).mean(dim=0).numpy(),
        "per_image_px": per_image.astype(np.float32),
    }
    num_prefix = 0 if renormalise else tap.num_prefix
    facts = {
        "uniform_px": uniform_distance(tap.grid, tap.patch_size, num_prefix=num_prefix),
        "image_size": list(subject.geometry.image_size),
        "patch_size": list(tap.patch_size),
        "grid": list(tap.grid),
        "is_renormalised": renormalise,
        "num_images": len(per_image),
    }
    return _findings(arrays, facts)


def _findings(arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> Findings:
    distance_px, prefix_mass = arrays["distance_px"], arrays["prefix_mass"]
    means = distance_px.mean(axis=1)
    rows = [
        (str(layer), f"{heads.min():.1f}", f"{means[layer]:.1f}", f"{heads.max():.1f}", f"{mass.mean():.3f}")
        for layer, (heads, mass) in enumerate(zip(distance_px, prefix_mass, strict=True))
    ]
    return Findings(
        arrays=arrays,
        meanings={
            "distance_px": "(L, H) px, mean attention distance over images and patch queries.",
            "prefix_mass": "(L, H) share of attention that patches give to prefix tokens, mean over images.",
            "per_image_px": "(B, L, H) px, the distance of each image.",
        },
        facts=facts
        | {
            "mean_per_layer": means.tolist(),
            "head_spread_per_layer": (distance_px.max(axis=1) - distance_px.min(axis=1)).tolist(),
        },
        header=("block", "nearest head (px)", "mean (px)", "farthest head (px)", "share to prefix tokens"),
        rows=[*rows, ("even attention", "", f"{facts['uniform_px']:.1f}", "", "")],
    )
