"""``vitctl inspect probe``: linear few-shot probes of every layer, pooling and patch token, with fewshot-eval's blocks.

R is arXiv 2108.08810 (figures 11, 13 and D.4). Letters: A layers, K poolings, h w grid.
"""

import math
from collections.abc import Sequence

import numpy as np
import torch

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.errors import SettingError
from vitctl.evaluation.embedding import Embedder
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.probe_layers import (
    PROBE_POOLS,
    ProbedLayers,
    ProbedTables,
    accuracies,
    layers_to_probe,
    probe_layers,
    token_maps,
)
from vitctl.evaluation.tasks import ImageTask, LinearPlan, known_classes, open_image_tasks
from vitctl.inspecting.findings import Findings, finite
from vitctl.models.choices import name_models
from vitctl.models.prepared import open_model
from vitctl.primitives.devices import enough_memory, resolve_device
from vitctl.primitives.seeds import random_generator
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.parsing import listed
from vitctl.settings.words import DIGITS, PRETRAINED


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
    has_data, (shots,) = config.data is not None, config.shot_counts
    models = name_models(config.model, config.weights, has_data=has_data, device_type=device.type)
    tasks = _open_tasks(config, num_test_images, seed, conversation)
    num_images = max(len(task.used.support) + len(task.used.test) for task in tasks)
    found = []
    for index, model in enumerate(models):
        spec, weights = model.spec.value, model.weights
        conversation.line(f"loading {spec}" + ("" if weights == PRETRAINED else f", weights {weights}"))
        opened = open_model(spec, weights=weights, image_size=config.image_size, interpolation=method, seed=seed)
        for note in opened.notes:
            conversation.warn(note)
        layers = layers_to_probe(opened, config.layers, seed=seed, num_images=num_images)
        embedder = Embedder(
            opened,
            layers.choice,
            batch_size=config.batch_size,
            num_workers=config.num_workers,
            conversation=conversation,
        )
        for task in tasks:
            known = known_classes(opened.loaded, task) if weights == PRETRAINED else None
            if known is not None:
                conversation.warn(known)
            with enough_memory(device, config.batch_size):
                embedder.to(device)
                tables = probe_layers(
                    embedder, task, layers, shots=shots, probe=_probe(config), conversation=conversation
                )
            found.append(_findings(config, task, layers, tables, name=names[index] if names else model.name))
        embedder.to(torch.device("cpu"))  # room for the next one
    return found


def _check(config: FewshotEvalConfig) -> None:
    classifier = _probe(config)
    settings = {"ridge": classifier.l2 or (0,), "knn": classifier.neighbours}.get(classifier.classifier, (0,))
    for option, values in (("--shots", config.shot_counts), ("--l2 or --neighbours", settings)):
        if len(values) > 1:
            raise SettingError(f"{option} holds {len(values)} numbers; probe shows one, e.g. --shots 10 --l2 1024.")
    if config.protocol != "linear":
        raise SettingError(
            f"--protocol is {config.protocol}; probe knows linear only, so leave it out.", field="protocol"
        )


def _probe(config: FewshotEvalConfig) -> Probe:
    return Probe(config.classifier, config.penalties, config.balance, config.neighbours)


def _open_tasks(
    config: FewshotEvalConfig, num_test_images: int | None, seed: int, conversation: Conversation
) -> list[ImageTask]:
    data = config.data or (DIGITS,)
    return open_image_tasks(
        data,
        config.test or (None,) * len(data),
        LinearPlan(config.shot_counts, config.seeds),
        options=SourceOptions(config.image_root, config.image_column, config.label_column, config.group_column),
        group_pattern=config.group_pattern,
        skip_bad=config.on_bad_image == "skip",
        conversation=conversation,
        choose_test=lambda count: np.sort(random_generator(seed, "inspection").permutation(count)[:num_test_images]),
    )


# --- what it amounts to ------------------------------------------------------------------------------------


def _findings(
    config: FewshotEvalConfig, task: ImageTask, layers: ProbedLayers, tables: ProbedTables, *, name: str
) -> Findings:
    accuracy, std, half_width = accuracies(task, layers, tables)
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
            "token_accuracy": token_maps(layers, tables),
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
        notes=layers.notes(),
    )


def _best(names: Sequence[str], accuracies: np.ndarray) -> str | None:
    return None if np.isnan(accuracies).all() else names[int(np.nanargmax(accuracies))]
