"""``vitctl inspect probe``: linear few-shot probes of every layer, pooling and patch token, with fewshot-eval's code.

R is arXiv 2108.08810 (figures 11, 13 and D.4). Letters: A layers, K poolings, S seeds, M test images, T tokens,
h w grid.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
import torch

from vitctl.conversation import Conversation, Progress
from vitctl.errors import SettingError
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.probing import solve_probes
from vitctl.inspecting.findings import Findings, finite
from vitctl.models.build import LoadedModel
from vitctl.models.geometry import geometry_of
from vitctl.models.layers import Layer, LayerTap, Tokens, choose_layers, has_class_token, layer_names
from vitctl.primitives.devices import resolve_device
from vitctl.primitives.seeds import random_generator
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.parsing import listed
from vitctl.settings.words import ALL, EMBED, PRETRAINED
from vitctl.workflows import fewshot_eval

PROBE_POOLS = ("native", "cls", "mean", "mean-all", "first", "tokens")
MOST_TOKENS = 256  # guess: a classifier for each, in every layer and for every seed
BYTES_OF_A_LAYER = 2**31  # guess: tokens that would take more are probed in part
BYTES_AT_ONCE = 2**30  # guess: features of as many layers as fit are kept in one pass over the images


@dataclass(frozen=True)
class _Layers:
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
    def choice(self) -> fewshot_eval.FeatureChoice:
        """What to keep of the model."""
        return fewshot_eval.FeatureChoice(self.keys, self.positions)

    @property
    def grid(self) -> tuple[int, int]:
        """The last layer's grid that is known; (0, 0) where none is."""
        return next((grid for layer in reversed(self.names) if (grid := self.grids[layer]) is not None), (0, 0))


@dataclass
class _Tables:
    """What the classifiers got right.

    Attributes:
        correct: (S, M) by layer and pooling, 1 where the class is right; of ``tokens`` the share of them.
        of_tokens: (T,) accuracies by layer, mean over seeds.
    """

    correct: dict[FeatureKey, np.ndarray] = field(default_factory=dict)
    of_tokens: dict[Layer, np.ndarray] = field(default_factory=dict)


def probe(
    config: FewshotEvalConfig,
    *,
    num_test_images: int | None = None,
    seed: int = 0,
    method: str | None = None,
    names: Sequence[str] | None = None,
    conversation: Conversation,
) -> list[Findings]:
    """Return what linear few-shot classifiers reach on every layer: for each model, on each data set.

    Supports, features and classifiers are those of ``vitctl fewshot-eval``; so is every accuracy.

    Args:
        config: Models, data, shots (one number, 10 in R), seeds, penalty, image size, batches and device; ``layers``
            ``all`` is every layer, ``embed`` among them. Its ``pool`` is not looked at.
        num_test_images: How many test images, the first of a seeded order, are scored; None is all.
        seed: Of that order, of random weights, and of which tokens are probed where there are many.
        method: Interpolation of position embeddings; None as the weights' authors did.
        names: What to call the models; None is as fewshot-eval does.
        conversation: Shows progress.

    Raises:
        VitctlError: A setting, the data or a model cannot be used.
    """
    _check(config)
    device, _ = resolve_device(config.device)
    models = fewshot_eval.models_of(config, device)
    tasks = fewshot_eval.open_tasks(
        config,
        conversation,
        choose_test=lambda count: np.sort(random_generator(seed, "inspection").permutation(count)[:num_test_images]),
    )
    num_images = max(len(task.used.support) + len(task.used.test) for task in tasks if task.used is not None)
    look = partial(_layers, asked=config.layers, seed=seed, num_images=num_images)
    found = []
    for index, (name, chosen, weights) in enumerate(models):
        prepared = fewshot_eval.prepare_model(
            config,
            chosen.value,
            weights,
            conversation,
            choose=lambda loaded, image_size: look(loaded, image_size).choice,
            method=method,
            seed=seed,
        )
        layers = look(prepared.loaded, prepared.image_size)
        prepared.extractor.to(device)
        for task in tasks:
            if weights == PRETRAINED:
                fewshot_eval.warn_of_known_classes(prepared.loaded, task, conversation)
            tables = _solve(config, prepared, task, layers, conversation)
            found.append(_findings(config, task, layers, tables, name=names[index] if names else name))
        prepared.extractor.to(torch.device("cpu"))  # room for the next one
    return found


def _check(config: FewshotEvalConfig) -> None:
    classifier = fewshot_eval.probe_of(config)
    settings = {"ridge": classifier.l2 or (0,), "knn": classifier.neighbours}.get(classifier.classifier, (0,))
    for option, values in (("--shots", config.shot_counts), ("--l2 or --neighbours", settings)):
        if len(values) > 1:
            raise SettingError(f"{option} holds {len(values)} numbers; probe shows one, e.g. --shots 10 --l2 1024.")
    if config.protocol != "linear":
        raise SettingError(
            f"--protocol is {config.protocol}; probe knows linear only, so leave it out.", field="protocol"
        )


# --- layers, poolings and tokens ---------------------------------------------------------------------------


def _layers(
    loaded: LoadedModel, image_size: tuple[int, int], *, asked: Sequence[str], seed: int, num_images: int
) -> _Layers:
    """Return what a model has at an image size (H, W) px, found by showing it an empty image."""
    model = loaded.model.eval()
    names = layer_names(model) if tuple(asked) == (ALL,) else choose_layers(asked, model, name=loaded.name)
    with torch.no_grad():
        tokens, _ = LayerTap(model, names, name=loaded.name)(torch.zeros(1, 3, *image_size))
    own = geometry_of(model).grid
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
    return _Layers(names, grids, counts, positions, keys)


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


# --- embedding and solving ---------------------------------------------------------------------------------


def _solve(
    config: FewshotEvalConfig,
    prepared: fewshot_eval.PreparedModel,
    task: fewshot_eval.Task,
    layers: _Layers,
    conversation: Conversation,
) -> _Tables:
    if task.used is None:
        raise AssertionError("a task without images")
    used, tables, cost = task.used, _Tables(), fewshot_eval.Findings()
    for keys in _passes(layers.keys, prepared.shapes, num_images=len(used.support) + len(used.test)):
        part = replace(prepared, extractor=prepared.extractor.only(keys))
        with fewshot_eval.enough_memory(config):
            test = fewshot_eval.embed(config, part, task, used.test, used.test_hashes, cost, conversation)
            support = fewshot_eval.embed(config, part, task, used.support, used.support_hashes, cost, conversation)
        num_tokens = sum(len(values) if values.ndim == 3 else 1 for values in support.values())
        with conversation.progress("solving", num_tokens, "probes") as bar:
            for key in keys:
                _add(tables, key, [_table(config, task, *rows, bar) for rows in _by_token(support[key], test[key])])
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


def _table(
    config: FewshotEvalConfig, task: fewshot_eval.Task, support: np.ndarray, test: np.ndarray, bar: Progress
) -> np.ndarray:
    """Return (S, M) float64, 1 where the class is right."""
    (solved,) = solve_probes(
        support,
        task.labels,
        test,
        task.test_labels,
        task.draws,
        shots=config.shot_counts,
        probe=fewshot_eval.probe_of(config),
        num_classes=len(task.class_names),
    )
    bar.advance()
    return solved.table


def _add(tables: _Tables, key: FeatureKey, found: Sequence[np.ndarray]) -> None:
    tables.correct[key] = np.mean(found, axis=0)
    if key.pool == "tokens":
        tables.of_tokens[key.layer] = np.array([table.mean() for table in found])


# --- what it amounts to ------------------------------------------------------------------------------------


def _findings(
    config: FewshotEvalConfig, task: fewshot_eval.Task, layers: _Layers, tables: _Tables, *, name: str
) -> Findings:
    accuracy, std, half_width = (np.full((len(layers.names), len(PROBE_POOLS)), np.nan) for _ in range(3))
    for key, table in tables.correct.items():
        place = layers.names.index(key.layer), PROBE_POOLS.index(key.pool)
        per_seed = table.mean(axis=1)
        low, high = task.bootstrap.interval(table)
        accuracy[place], half_width[place] = per_seed.mean(), (high - low) / 2
        std[place] = per_seed.std(ddof=1) if len(per_seed) > 1 else np.nan
    chance = 1 / len(task.class_names)
    names = [str(layer) for layer in layers.names]
    of_last = tables.of_tokens[layers.names[-1]]
    return Findings(
        arrays={
            "accuracy": accuracy,
            "accuracy_std": std,
            "half_width": half_width,
            "layers": np.array(names),
            "pools": np.array(PROBE_POOLS),
            "token_accuracy": _token_maps(layers, tables),
            "chance": np.array(chance),
        },
        meanings={
            "accuracy": "(A, K) top-1 of the test images, 0-1, mean over support draws; NaN where a layer has no class "
            "token that saw the image",
            "accuracy_std": "(A, K) standard deviation over support draws (S - 1); NaN for one draw",
            "half_width": "(A, K) half of the 95 % interval over supports and test images",
            "layers": "(A,) names",
            "pools": "(K,) names; tokens is the mean over a classifier per patch token",
            "token_accuracy": "(A, h, w) top-1 of a classifier on each patch token, mean over support draws; NaN where "
            "a layer has another grid, or the token was not probed",
            "chance": "() top-1 of guessing, 0-1",
        },
        facts={
            "model": name,
            "data": task.name,
            "chance": chance,
            "shots": config.shot_counts[0] or "all",
            "seeds": len(tables.correct[layers.keys[0]]),
            "classifier": config.classifier,
            "l2": listed(config.l2) if config.classifier == "ridge" else None,
            "num_classes": len(task.class_names),
            "num_support": len(task.draws[0].rows(config.shot_counts[0])),
            "num_test": len(task.test_labels),
            "best_layer": {pool: _best(names, accuracy[:, index]) for index, pool in enumerate(PROBE_POOLS)},
            "interval_half_width": finite(np.nanmax(half_width)),
            "last_layer_token_mean": finite(of_last.mean()),
        },
        header=("layer", *PROBE_POOLS),
        rows=[
            (layer, *("none" if math.isnan(value) else f"{value:.2%}" for value in values))
            for layer, values in zip(names, accuracy, strict=True)
        ],
        notes=_notes(layers),
    )


def _best(names: Sequence[str], accuracies: np.ndarray) -> str | None:
    return None if np.isnan(accuracies).all() else names[int(np.nanargmax(accuracies))]


def _token_maps(layers: _Layers, tables: _Tables) -> np.ndarray:
    """Return (A, h, w) float64 accuracies of tokens on the last layer's grid."""
    maps = np.full((len(layers.names), *layers.grid), np.nan)
    for index, layer in enumerate(layers.names):
        if layers.grids[layer] == layers.grid:
            maps[index].flat[layers.positions.get(layer, np.arange(layers.counts[layer]))] = tables.of_tokens[layer]
    return maps


def _notes(layers: _Layers) -> tuple[str, ...]:
    return tuple(
        f"Layer {layer} has {layers.counts[layer]:,} tokens; {len(positions)} of them, evenly spread, were probed."
        for layer, positions in layers.positions.items()
    )
