"""Effective receptive field: which pixels one place of a layer depends on (arXiv 2108.08810, figures 6 and C.1 to C.4).

Letters: B images in a batch, A layers, N places, D width, Y X px of the image, h w grid of a layer.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.anatomy import blocks_of
from vitctl.models.block_anatomy import branches_of
from vitctl.models.layers import Layer, LayerTap, Tokens, layer_names
from vitctl.settings.words import FINAL

MAX_BATCH_SIZE = 4  # the graph of every layer is kept until the last gradient
MAX_TOKENS_TIMES_BLOCKS = 12_000  # of a pass; measured on a small ViT: 60 MiB for 4,100 of them
_CONSTANT = 1e-4  # guess: a gradient this small beside that of the same channels with changing signs is rounding

Cell = tuple[int, int]


class _Map(NamedTuple):
    """Places (B, N, D) of a layer row by row, and their grid (h, w), h w = N."""

    places: Tensor
    grid: tuple[int, int]


def receptive_field(
    subject: Subject,
    stream: ImageStream,
    *,
    where: str = "post",
    layers: Sequence[Layer] | None = None,
    query: Cell | None = None,
    conversation: Conversation,
) -> Findings:
    """Return the effective receptive field of one place in every layer.

    It is |d sum_c F_c(place) / dx|, summed over the colours and averaged over images. (R's text averages over
    channels; the gradient of the channels' sum is what one backward pass gives, and what such figures show.)

    Args:
        subject: A ViT, a hierarchical model or a CNN.
        stream: Images, 32 in R; taken at most four at a time.
        where: ``post``: what a block or stage gives; ``pre``: what its branches give before they are added to the
            skip connection (attention and MLP; of a stage those of its last block).
        layers: Names of ``vitctl.models.layers``; None is ``embed`` and every block or stage.
        query: (row, column) of the place; None is (h // 2, w // 2). Where layers have different grids it counts in
            the last one's, and means the place of the others that covers its middle.
        conversation: Shows progress.

    Raises:
        SettingError: The query lies outside of the grid, or a layer that was named is unknown, or has no grid or no
            branches.
        DataError: There are no images.
        ModelError: No layer has a grid (or branches); gradients are not finite.
    """
    if not len(stream):
        raise DataError("receptive-field was given no images; expected one at least. Try other --data.")
    chosen = _chosen_layers(subject, layers, where=where)
    gradients = _Gradients(subject, chosen, where=where, query=query, is_named=layers is not None)
    with conversation.progress("gradients", len(stream), "images") as bar:
        for images in stream.batches(min(stream.batch_size, _images_at_once(subject))):
            gradients.add(images)
            bar.advance(len(images))
    return _findings(gradients, where=where)


def _chosen_layers(subject: Subject, layers: Sequence[Layer] | None, *, where: str) -> tuple[Layer, ...]:
    known = layer_names(subject.model)
    if where == "pre":
        known = tuple(layer for layer in known if isinstance(layer, int))
        if not known:
            raise ModelError(
                f"The blocks of {subject.name} are not known, so nor are their branches; try --where post, which "
                "shows its last layer."
            )
    if layers is None:
        return tuple(layer for layer in known if layer != FINAL) or known
    for layer in layers:
        if layer not in known:
            listed = ", ".join(map(str, known))
            raise SettingError(f"{layer!r} is no layer of {subject.name} with --where {where}; expected {listed}.")
    return tuple(layers)


class _Gradients:
    """Sums of |gradients| over images: one forward pass and one backward pass per layer for every batch.

    Args:
        subject: The model.
        layers: Where to look.
        where: ``post`` or ``pre``.
        query: See ``receptive_field``.
        is_named: Whether a layer that cannot be shown is an error; else it is left out.

    Attributes:
        cells: (row, column) by layer.
        grids: (h, w) by layer.
        totals: (Y, X) float64 by layer.
        num_images: Images added.
        left_out: Layers without a grid or without branches.
        constant: Layers whose channels always sum to the same.
    """

    def __init__(
        self, subject: Subject, layers: Sequence[Layer], *, where: str, query: Cell | None, is_named: bool
    ) -> None:
        self._subject, self._layers, self._where = subject, tuple(layers), where
        self._query, self._is_named = query, is_named
        self._tap = LayerTap(subject.model, self._layers, name=subject.name)
        self.cells: dict[str, Cell] = {}
        self.grids: dict[str, tuple[int, int]] = {}
        self.totals: dict[str, Tensor] = {}
        self.num_images = 0
        self.left_out: list[str] = []
        self.constant: list[str] = []

    def add(self, images: Tensor) -> None:
        """Add a batch of images, (B, 3, Y, X)."""
        with torch.enable_grad():
            pixels = images.to(self._subject.device).requires_grad_()
            with _branch_outputs(self._subject.model, self._layers if self._where == "pre" else ()) as outputs:
                tokens, _ = self._tap(pixels)
            maps = self._maps(tokens, outputs)
            if not self.totals:
                self._start(maps, pixels)
            for name, total in self.totals.items():
                total += self._gradient(pixels, maps[name].places, name)
        self.num_images += len(images)

    def _maps(self, tokens: dict[Layer, Tokens], outputs: dict[Layer, dict[str, Tensor]]) -> dict[str, _Map]:
        found: dict[str, _Map] = {}
        self.left_out = []
        for layer, one in tokens.items():
            grid = one.grid or _own_grid(self._subject, one)
            parts = {str(layer): one.patches} if self._where == "post" else _named(outputs.get(layer, {}), layer, one)
            if grid is None or not parts:
                self.left_out.append(str(layer))
            else:
                found |= {name: _Map(places, grid) for name, places in parts.items()}
        return found

    def _start(self, maps: dict[str, _Map], pixels: Tensor) -> None:
        lacking = "grid of places" if self._where == "post" else "branch that can be told apart"
        if self.left_out and self._is_named:
            raise SettingError(
                f"Layer {self.left_out[0]} of {self._subject.name} has no {lacking}; expected layers that have one."
            )
        if not maps:
            other = "--where post" if self._where == "pre" else "cka or probe"
            raise ModelError(
                f"No layer of {self._subject.name} has a {lacking}; expected patch tokens or feature maps. Try {other}."
            )
        last = [one.grid for one in maps.values()][-1]
        if self._query is not None and not all(0 <= at < size for at, size in zip(self._query, last, strict=True)):
            raise SettingError(
                f"--query is {self._query[0]},{self._query[1]}; expected a place on the {last[0]}x{last[1]} grid of "
                f"{self._subject.name}, from 0,0 to {last[0] - 1},{last[1] - 1}.",
                field="query",
            )
        for name, (places, grid) in maps.items():
            self.grids[name], self.cells[name] = grid, _cell(self._query, grid, last)
            self.totals[name] = torch.zeros(pixels.shape[2:], dtype=torch.float64)
            self._note_constant(pixels, places, name)

    def _note_constant(self, pixels: Tensor, places: Tensor, name: str) -> None:
        """Note a layer that ends in a norm without weights of its own: the gradient of its channels' sum is noise."""
        signs = torch.ones(places.shape[-1], device=places.device)
        signs[::2] = -1
        plain, signed = self._gradient(pixels, places, name), self._gradient(pixels, places * signs, name)
        if places.shape[-1] > 1 and float(plain.max()) < _CONSTANT * float(signed.max()):
            self.constant.append(name)

    def _gradient(self, pixels: Tensor, places: Tensor, name: str) -> Tensor:
        """Return the sum over images and colours of |d sum_c F_c / dx|, (Y, X) float64 on the CPU."""
        if name in self.constant:
            return torch.zeros(pixels.shape[2:], dtype=torch.float64)
        row, column = self.cells[name]
        target = places[:, row * self.grids[name][1] + column].sum()
        (gradient,) = torch.autograd.grad(target, pixels, retain_graph=True)
        found = gradient.abs().cpu().double().sum(dim=(0, 1))
        if not bool(found.isfinite().all()):
            raise ModelError(
                f"The gradients of layer {name} of {self._subject.name} are not finite; expected weights that work. "
                "Is the file damaged?"
            )
        return found


def _images_at_once(subject: Subject) -> int:
    """Return how many images' graphs are kept at a time."""
    cost = (subject.geometry.num_tokens or 0) * len(blocks_of(subject.model))
    return max(1, min(MAX_BATCH_SIZE, MAX_TOKENS_TIMES_BLOCKS // cost)) if cost else MAX_BATCH_SIZE


def _own_grid(subject: Subject, tokens: Tokens) -> tuple[int, int] | None:
    grid = subject.geometry.grid
    return grid if grid is not None and math.prod(grid) == tokens.patches.shape[1] else None


def _cell(query: Cell | None, grid: tuple[int, int], last: tuple[int, int]) -> Cell:
    """Return the place on ``grid`` that covers the middle of ``query``, which is one of ``last``."""
    if query is None:
        return grid[0] // 2, grid[1] // 2
    row, column = ((2 * at + 1) * size // (2 * of) for at, size, of in zip(query, grid, last, strict=True))
    return row, column


# --- branches ----------------------------------------------------------------------------------------------


@contextmanager
def _branch_outputs(model: nn.Module, layers: Sequence[Layer]) -> Iterator[dict[Layer, dict[str, Tensor]]]:
    """Keep what the branches of (the last block of) each layer give, by layer and branch, while the block runs."""
    kept: dict[Layer, dict[str, Tensor]] = {}
    handles = []
    blocks = blocks_of(model)
    for layer in layers:
        for branch, module in branches_of(blocks[int(layer)]).items():
            handles.append(module.register_forward_hook(_keeper(kept.setdefault(layer, {}), branch)))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def _keeper(kept: dict[str, Tensor], branch: str) -> Any:
    def keep(_module: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            again = f"{branch} {sum(name.startswith(branch) for name in kept) + 1}" if branch in kept else branch
            kept[again] = output.clone()  # the skip connection may be added in place

    return keep


def _named(outputs: dict[str, Tensor], layer: Layer, tokens: Tokens) -> dict[str, Tensor]:
    """Return branches as places (B, N, D), named like ``3 attention``; those of another shape are left out."""
    num_prefix, num_places = tokens.prefix.shape[1], tokens.patches.shape[1]
    found = {}
    for branch, output in outputs.items():
        if output.ndim == 3 and output.shape[1] == num_prefix + num_places:
            found[f"{layer} {branch}"] = output[:, num_prefix:]
        elif output.ndim == 4 and tokens.grid is not None:
            is_last = tuple(output.shape[1:3]) == tokens.grid and output.shape[3] == tokens.patches.shape[2]
            places = (output if is_last else output.movedim(1, -1)).flatten(1, 2)
            if places.shape[1] == num_places:
                found[f"{layer} {branch}"] = places
    return found


# --- what it amounts to ------------------------------------------------------------------------------------


def _findings(gradients: _Gradients, *, where: str) -> Findings:
    names = list(gradients.totals)
    means = {name: total.numpy() / gradients.num_images for name, total in gradients.totals.items()}
    shapes = [_Shape.of(means[name], gradients.cells[name], gradients.grids[name]) for name in names]
    last = names[-1]
    notes = []
    if gradients.left_out:
        notes.append(f"Left out, as they have no grid or no branches: layer {', '.join(gradients.left_out)}.")
    if gradients.constant:
        notes.append(
            f"The channels of layer {', '.join(gradients.constant)} sum to the same for every image (a norm without "
            "weights of its own), so there is no gradient to show."
        )
    silent = [name for name in names if not means[name].any() and name not in gradients.constant]
    if silent:
        notes.append(f"Layer {', '.join(silent)} does not depend on the image at this place.")
    fields = np.stack([mean / (mean.max() or 1.0) for mean in means.values()]).astype(np.float32)
    return Findings(
        arrays={
            "field": fields,
            "layers": np.array(names),
            "extent_px": np.array([shape.extent_px for shape in shapes]),
            "area_half": np.array([shape.area_half for shape in shapes]),
        },
        meanings={
            "field": "(A, Y, X) absolute gradient of the place by every pixel, mean over images, each layer's largest "
            "value 1",
            "layers": "(A,) names",
            "extent_px": "(A,) px, root of the gradient-weighted mean squared distance from the middle of the place",
            "area_half": "(A,) smallest share of the pixels that holds half of the gradient, 0-1",
        },
        facts={
            "where": where,
            "cell": list(gradients.cells[last]),
            "cells": [list(gradients.cells[name]) for name in names],
            "grids": [list(gradients.grids[name]) for name in names],
            "uniform_extent_px": _Shape.of(
                np.ones_like(means[last]), gradients.cells[last], gradients.grids[last]
            ).extent_px,
            "centre_patch_share": [finite(shape.cell_share) for shape in shapes],
            "num_images": gradients.num_images,
        },
        header=("layer", "extent px", "half of it in", "own patch"),
        rows=[
            (name, f"{shape.extent_px:.1f}", f"{shape.area_half:.2%}", f"{shape.cell_share:.2%}")
            if shape.cell_share == shape.cell_share
            else (name, "none", "none", "none")
            for name, shape in zip(names, shapes, strict=True)
        ],
        notes=notes,
    )


class _Shape(NamedTuple):
    """How far a field reaches: px, share of the pixels, share of the gradient; NaN for a field of zeros."""

    extent_px: float
    area_half: float
    cell_share: float

    @classmethod
    def of(cls, field: np.ndarray, cell: Cell, grid: tuple[int, int]) -> "_Shape":
        """Return the shape of the field (Y, X) of a place on a grid (h, w)."""
        total = field.sum()
        if not total > 0:
            return cls(math.nan, math.nan, math.nan)
        pitch = [size / count for size, count in zip(field.shape, grid, strict=True)]
        offsets = [
            np.arange(size) + 0.5 - (at + 0.5) * step for size, at, step in zip(field.shape, cell, pitch, strict=True)
        ]
        squared = offsets[0][:, None] ** 2 + offsets[1] ** 2
        held = np.cumsum(np.sort(field, axis=None)[::-1])
        num_half = int(np.searchsorted(held, 0.5 * total * (1 - 1e-9))) + 1
        inside = field[
            tuple(slice(int(at * step), math.ceil((at + 1) * step)) for at, step in zip(cell, pitch, strict=True))
        ]
        return cls(float(np.sqrt((field * squared).sum() / total)), num_half / field.size, float(inside.sum() / total))
