"""Linear few-shot probes of every layer, pooling and patch token, with fewshot-eval's blocks.

R is arXiv 2108.08810 (figures 11, 13 and D.4). Letters: A layers, K poolings, h w grid.
"""

import math
from collections.abc import Sequence

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
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
from vitctl.inspecting.subject import Subject
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.devices import enough_memory
from vitctl.primitives.seeds import random_generator
from vitctl.settings.parsing import listed
from vitctl.settings.words import PRETRAINED

CLASSIFIER = "ridge"


def draw_task(
    data: str,
    options: SourceOptions,
    *,
    shots: int,
    seeds: int,
    num_test_images: int,
    seed: int,
    skip_bad: bool,
    conversation: Conversation,
) -> ImageTask:
    """Return supports and test images of a data set, looked at.

    Args:
        data: Its spec.
        options: How to read it.
        shots: Support images per class; 10 in R.
        seeds: Supports that are drawn.
        num_test_images: How many test images, the first of a seeded order, are scored at most.
        seed: Of that order.
        skip_bad: Leave out images that cannot be read, instead of failing.
        conversation: Hears of what is odd about the images.

    Raises:
        VitctlError: The data cannot be used.
    """
    (task,) = open_image_tasks(
        [data],
        [None],
        LinearPlan((shots,), seeds),
        options=options,
        group_pattern=None,
        skip_bad=skip_bad,
        conversation=conversation,
        choose_test=lambda count: np.sort(random_generator(seed, "inspection").permutation(count)[:num_test_images]),
    )
    return task


def probe(
    subject: Subject,
    opened: PreparedModel,
    task: ImageTask,
    *,
    shots: int,
    l2: float,
    seed: int,
    batch_size: int,
    num_workers: int | None,
    conversation: Conversation,
) -> Findings:
    """Return what linear few-shot classifiers reach on every layer.

    Args:
        subject: The model.
        opened: The same model with what its files say of it.
        task: Supports and test images.
        shots: Support images per class.
        l2: Penalty of the classifiers.
        seed: Of which tokens are probed where there are many.
        batch_size: Images at a time.
        num_workers: Processes that read images; None is as many as suit the device.
        conversation: Shows progress.

    Raises:
        VitctlError: The model cannot be used, or does not fit into memory with the features of its layers.
    """
    known = known_classes(opened.loaded, task) if opened.weights == PRETRAINED else None
    if known is not None:
        conversation.warn(known)
    layers = layers_to_probe(opened, seed=seed, num_images=len(task.used.support) + len(task.used.test))
    embedder = Embedder(
        opened, layers.choice, batch_size=batch_size, num_workers=num_workers, conversation=conversation
    )
    ridge = Probe(CLASSIFIER, (l2,))
    with enough_memory(subject.device, batch_size):  # here too: of ``all``, this one is left out, the others go on
        tables = probe_layers(embedder, task, layers, shots=shots, probe=ridge, conversation=conversation)
    return _findings(task, layers, tables, name=subject.name, shots=shots, l2=l2)


# --- what it amounts to ------------------------------------------------------------------------------------


def _findings(
    task: ImageTask, layers: ProbedLayers, tables: ProbedTables, *, name: str, shots: int, l2: float
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
            "shots": shots,
            "seeds": len(tables.correct[layers.keys[0]]),
            "classifier": CLASSIFIER,
            "l2": listed((l2,)),
            "num_classes": len(task.class_names),
            "num_support": len(task.draws[0].rows(shots)),
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
