"""Linear few-shot probes of every layer, pooling and patch token of a model (arXiv 2108.08810, figures 11, 13 and D.4).

Supports, features and classifiers are those of ``vitctl fewshot-eval``; so is every accuracy.

Letters: A layers, K poolings, S seeds, M test images, T tokens, N support images, D width, h w grid.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from vitctl.conversation import Conversation, Progress
from vitctl.evaluation.embedding import Embedder, FeatureChoice
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.probing import solve_probes
from vitctl.evaluation.tasks import ImageTask
from vitctl.models.anatomy import has_class_token
from vitctl.models.layers import Layer, LayerTap, Tokens, layer_names
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.seeds import random_generator
from vitctl.settings.words import EMBED

PROBE_POOLS = ("native", "cls", "mean", "mean-all", "first", "tokens")
MOST_TOKENS = 256  # guess: a classifier for each, in every layer and for every seed
BYTES_OF_A_LAYER = 2**31  # guess: tokens that would take more are probed in part
BYTES_AT_ONCE = 2**30  # guess: features of as many layers as fit are kept in one pass over the images


@dataclass(frozen=True)
class ProbedLayers:
    """The layers of a model that are probed.

    Attributes:
        names: A names.
        grids: (h, w) by layer; None where it is not known.
        counts: Patch tokens or places by layer.
        positions: Which of them are probed one by one, by layer, where not all are.
        keys: Layers and poolings there are.
    """

    names: tuple[Layer, ...]
    grids: Mapping[Layer, tuple[int, int] | None]
    counts: Mapping[Layer, int]
    positions: Mapping[Layer, np.ndarray]
    keys: tuple[FeatureKey, ...]

    @property
    def choice(self) -> FeatureChoice:
        """What to keep of the model."""
        return FeatureChoice(self.keys, self.positions)

    @property
    def grid(self) -> tuple[int, int]:
        """The last layer's grid that is known; (0, 0) where none is."""
        return next((grid for layer in reversed(self.names) if (grid := self.grids[layer]) is not None), (0, 0))

    def notes(self) -> tuple[str, ...]:
        """Return a sentence about each layer that is probed in part."""
        return tuple(
            f"Layer {layer} has {self.counts[layer]:,} tokens; {len(positions)} of them, evenly spread, were probed."
            for layer, positions in self.positions.items()
        )


def layers_to_probe(opened: PreparedModel, *, seed: int, num_images: int) -> ProbedLayers:
    """Return every layer that a model has at its size, found by showing it an empty image where it is.

    Args:
        opened: The model.
        seed: Of which tokens are probed where there are many.
        num_images: Of support and test set together, whose features are to fit into memory.
    """
    model = opened.model
    names = layer_names(model)
    empty = torch.zeros(1, 3, *opened.image_size, device=next(model.parameters()).device)
    with torch.no_grad():
        tokens, _ = LayerTap(model, names, name=opened.name)(empty)
    own = opened.geometry.grid
    counts = {layer: one.patches.shape[1] for layer, one in tokens.items()}
    grids = {
        layer: own if one.grid is None and own is not None and math.prod(own) == counts[layer] else one.grid
        for layer, one in tokens.items()
    }
    most = {
        layer: min(MOST_TOKENS, max(1, BYTES_OF_A_LAYER // (4 * num_images * one.patches.shape[2])))
        for layer, one in tokens.items()
    }
    positions = {
        layer: even_positions(grids[layer] or (1, counts[layer]), most=most[layer], seed=seed)
        for layer in names
        if counts[layer] > most[layer]
    }
    has_class = has_class_token(model)
    keys = tuple(
        FeatureKey(layer, pool)
        for layer in names
        for pool in PROBE_POOLS
        if pool != "cls" or (has_class and _has_seen_images(layer, tokens[layer]))
    )
    return ProbedLayers(names, grids, counts, positions, keys)


def _has_seen_images(layer: Layer, tokens: Tokens) -> bool:
    """Return whether the prefix tokens of a layer tell images apart."""
    return layer != EMBED and tokens.prefix.shape[1] > 0


def even_positions(grid: tuple[int, int], *, most: int, seed: int) -> np.ndarray:
    """Return places evenly spread over a grid, row by row, (T,) int64: every n-th row and column from a seeded one.

    Args:
        grid: (h, w).
        most: The largest T.
        seed: Of the first row and column.
    """
    step = 1
    while math.prod(-(-size // step) for size in grid) > most:
        step += 1
    offsets = random_generator(seed, "inspection", 2).random(2)
    rows, columns = (
        np.arange(int(offset * min(step, size)), size, step) for offset, size in zip(offsets, grid, strict=True)
    )
    places: np.ndarray = (rows[:, None] * grid[1] + columns).ravel()
    return places


@dataclass
class ProbedTables:
    """What the classifiers got right.

    Attributes:
        correct: (S, M) by layer and pooling, 1 where the class is right; of ``tokens`` the share of them.
        of_tokens: (T,) accuracies by layer, mean over seeds.
    """

    correct: dict[FeatureKey, np.ndarray] = field(default_factory=dict)
    of_tokens: dict[Layer, np.ndarray] = field(default_factory=dict)

    def add(self, key: FeatureKey, found: Sequence[np.ndarray]) -> None:
        """Add the (S, M) tables of a layer and pooling: one, or one for each token."""
        self.correct[key] = np.mean(found, axis=0)
        if key.pool == "tokens":
            self.of_tokens[key.layer] = np.array([table.mean() for table in found])


def probe_layers(
    embedder: Embedder,
    task: ImageTask,
    layers: ProbedLayers,
    *,
    shots: int | None,
    probe: Probe,
    conversation: Conversation,
) -> ProbedTables:
    """Fit classifiers on every layer, pooling and token, and return what they got right.

    Args:
        embedder: Gives the features of ``layers.keys``.
        task: Images and draws.
        layers: What is probed.
        shots: Support images per class; None is all.
        probe: The classifier, of one penalty or number of neighbours.
        conversation: Shows progress.
    """
    used, is_in_memory, tables = task.used, task.images.is_in_memory, ProbedTables()

    def table(support: np.ndarray, test: np.ndarray, bar: Progress) -> np.ndarray:
        """Return (S, M) float64, 1 where the class is right."""
        (solved,) = solve_probes(
            support,
            task.labels,
            test,
            task.test_labels,
            task.draws,
            shots=(shots,),
            probe=probe,
            num_classes=len(task.class_names),
        )
        bar.advance()
        return solved.table

    for keys in _passes(layers.keys, embedder.shapes, num_images=len(used.support) + len(used.test)):
        test = embedder.embed(used.test, used.test_hashes, is_in_memory=is_in_memory, keys=keys)
        support = embedder.embed(used.support, used.support_hashes, is_in_memory=is_in_memory, keys=keys)
        num_tokens = sum(len(values) if values.ndim == 3 else 1 for values in support.values())
        with conversation.progress("solving", num_tokens, "probes") as bar:
            for key in keys:
                tables.add(key, [table(*rows, bar) for rows in _by_token(support[key], test[key])])
    return tables


def _passes(
    keys: Sequence[FeatureKey], shapes: Mapping[FeatureKey, tuple[int, ...]], *, num_images: int
) -> list[list[FeatureKey]]:
    """Return the keys in as few groups as keep within ``BYTES_AT_ONCE``, a layer's together."""
    groups: list[list[FeatureKey]] = []
    held = 0
    for layer in dict.fromkeys(key.layer for key in keys):
        of_layer = [key for key in keys if key.layer == layer]
        size = 4 * num_images * sum(math.prod(shapes[key]) for key in of_layer)
        if not groups or held + size > BYTES_AT_ONCE:
            groups.append([])
            held = 0
        groups[-1] += of_layer
        held += size
    return groups


def _by_token(support: np.ndarray, test: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield rows (N, D) and (M, D): those given, or of (T, N, D) and (T, M, D) each token's."""
    if support.ndim == 2:
        yield support, test
    else:
        yield from zip(support, test, strict=True)


def accuracies(
    task: ImageTask, layers: ProbedLayers, tables: ProbedTables
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return accuracy, its standard deviation over support draws and half of its 95 % interval, (A, K) float64 each.

    Accuracies are means over support draws, 0-1; NaN where there is no such pooling, the deviation also for one draw.
    """
    accuracy, std, half_width = (np.full((len(layers.names), len(PROBE_POOLS)), np.nan) for _ in range(3))
    for key, table in tables.correct.items():
        place = layers.names.index(key.layer), PROBE_POOLS.index(key.pool)
        per_seed = table.mean(axis=1)
        low, high = task.bootstrap.interval(table)
        accuracy[place], half_width[place] = per_seed.mean(), (high - low) / 2
        std[place] = per_seed.std(ddof=1) if len(per_seed) > 1 else np.nan
    return accuracy, std, half_width


def token_maps(layers: ProbedLayers, tables: ProbedTables) -> np.ndarray:
    """Return (A, h, w) float64 accuracies of tokens on the last layer's grid; NaN where a token was not probed."""
    maps = np.full((len(layers.names), *layers.grid), np.nan)
    for index, layer in enumerate(layers.names):
        if layers.grids[layer] == layers.grid:
            maps[index].flat[layers.positions.get(layer, np.arange(layers.counts[layer]))] = tables.of_tokens[layer]
    return maps
