"""``vitctl fewshot-eval``: how good frozen representations are, by linear few-shot evaluation.

Supports are drawn from the labels first; only the images they use, and the test images, are embedded.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.big_vision import BigVisionTransform
from vitctl.data.loader import evaluation_batches, resolve_num_workers
from vitctl.data.scan import num_scan_threads
from vitctl.data.source import SourceOptions, Split
from vitctl.data.support_pool import (
    SupportPool,
    UsedImages,
    check_used_images,
    leave_out_bad,
    open_support_pool,
    short_classes,
)
from vitctl.data.transforms import EvaluationTransform, ImageTransform
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.episodes import episode_accuracies
from vitctl.evaluation.feature_cache import FeatureCache, hash_of_images, hash_of_weights
from vitctl.evaluation.features import (
    FeatureExtractor,
    FeatureKey,
    check_memory,
    collect_features,
    stream_features,
)
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.fewshot_statistics import (
    PigeonholeBootstrap,
    cosine_similarities,
    episode_interval,
    paired_difference,
    summarise,
)
from vitctl.evaluation.probing import Solved, num_fits, solve_probes, stream_ridge
from vitctl.evaluation.supports import (
    Episodes,
    SupportDraw,
    draw_episodes,
    draw_support,
    eligible_classes,
    rows_used,
)
from vitctl.models.build import LoadedModel
from vitctl.models.choices import decide_model
from vitctl.models.layers import Layer, choose_layers
from vitctl.models.prepared import open_model
from vitctl.primitives.decision import Decision
from vitctl.primitives.devices import resolve_device, resolve_num_threads
from vitctl.primitives.files import lies_inside, user_path
from vitctl.primitives.image_sizes import format_size
from vitctl.results.fewshot_eval import FewshotCost, FewshotResult, FewshotRow, PairedDifference
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.parsing import listed
from vitctl.settings.words import DEMO, DIGITS
from vitctl.training.run_folder import check_writable
from vitctl.workflows.fewshot_files import (
    check_folder,
    check_predictions,
    read_features,
    write_files,
    write_predictions,
)

DEFAULT_OUT = "fewshot-eval"
DEFAULT_SEEDS = 10
BOOTSTRAP_SEED = 0
_NOT_OF_RESULTS = ("cache", "batch_size", "num_workers", "num_threads", "device", "predictions", "out")
_PACKAGES = ("torch", "timm", "torchvision")


@dataclass(frozen=True)
class Task:
    """Images, and which of them supports, tests or episodes use.

    Attributes:
        name: Of the data, in results.
        images: Pool and test set; None for features from a file.
        used: The images to embed; None for features from a file, and before they were looked at.
        labels: (U,) int64 of the support images that are used.
        test_labels: (M,) int64.
        class_names: C names.
        draws: Positions among the U; none for episodes.
        episodes: By ways; positions among the U and the M.
        num_images: Images of pool and test set.
        bootstrap: For the intervals over test images.
    """

    name: str
    images: SupportPool | None
    used: UsedImages | None
    labels: np.ndarray
    test_labels: np.ndarray
    class_names: tuple[str, ...]
    draws: tuple[SupportDraw, ...]
    episodes: dict[int, list[Episodes]]
    num_images: int
    bootstrap: PigeonholeBootstrap


@dataclass(frozen=True)
class _Subject:
    """Whose features they are.

    Attributes:
        data: The data set.
        model: The model; None for features from a file.
    """

    data: str
    model: str | None


@dataclass
class Findings:
    """What has been found so far.

    Attributes:
        rows: The results.
        correct: (S, M) tables of what was right, for paired differences, by model and then by combination.
        predictions: By name, for ``--predictions``.
        cost: Images and seconds.
    """

    rows: list[FewshotRow] = field(default_factory=list)
    correct: dict[str, dict[tuple[Any, ...], tuple[np.ndarray, Task, FewshotRow]]] = field(default_factory=dict)
    predictions: dict[str, np.ndarray] = field(default_factory=dict)
    cost: dict[str, float] = field(
        default_factory=lambda: {"images_embedded": 0, "images_skipped": 0, "embed_s": 0.0, "solve_s": 0.0}
    )


def run(config: FewshotEvalConfig, conversation: Conversation) -> FewshotResult:
    """Evaluate and return the accuracies; writes tables, pictures and support indices.

    Raises:
        VitctlError: A setting, the data or a model cannot be used; no result was written.
    """
    out = user_path(config.out or DEFAULT_OUT).absolute()
    check_writable(out)
    if config.predictions is not None:
        check_predictions(
            user_path(config.predictions), features=None if config.features is None else user_path(config.features)
        )
    if config.cache is not None:
        check_folder(user_path(config.cache), option="--cache")
    device, device_reason = resolve_device(config.device)
    resolve_num_threads(config.num_threads)
    probe = probe_of(config)
    findings = Findings()
    if config.features is not None:
        tasks = [_task_of_file(config, conversation)]
        conversation.header("vitctl fewshot-eval", [*_task_settings(tasks, config), Setting("files", str(out))])
        _solve_file(config, tasks[0], probe, findings, conversation)
    else:
        models = models_of(config, device)
        prepared = [
            prepare_model(config, chosen.value, weights, conversation) for _, chosen, weights in models
        ]  # all of them, before anything slow
        tasks = open_tasks(config, conversation, out=out)
        conversation.header(
            "vitctl fewshot-eval",
            [
                *_model_settings(config, models, prepared),
                *_task_settings(tasks, config),
                Setting("device", str(device), f"{device_reason}; classifiers are solved on the CPU, in float64"),
                Setting("files", str(out), "given" if config.out else "the default"),
            ],
        )
        for (name, _, weights), one in zip(models, prepared, strict=True):
            _evaluate_model(config, name, weights, one, tasks, probe, device, findings, conversation)
            one.extractor.to(torch.device("cpu"))  # room for the next one
    result = FewshotResult(
        results=tuple(findings.rows),
        paired=tuple(_paired(findings)),
        cost=_cost(findings),
        settings={"vitctl": __version__} | config.as_json(without=_NOT_OF_RESULTS),
        out=str(out),
    )
    write_files(out, result, tasks)
    if config.predictions is not None:
        write_predictions(user_path(config.predictions), findings.predictions)
    return result


# --- what to evaluate on -----------------------------------------------------------------------------------


def _num_seeds(config: FewshotEvalConfig) -> int:
    if config.protocol == "linear" and config.shot_counts == (None,):
        return 1  # all images are the same images whatever the seed
    return config.seeds or (DEFAULT_SEEDS if config.protocol == "linear" else 1)


def open_tasks(
    config: FewshotEvalConfig,
    conversation: Conversation,
    *,
    out: Path | None = None,
    choose_test: Callable[[int], np.ndarray] | None = None,
) -> list[Task]:
    """Open every data set, draw supports or episodes from its labels, and look at the images they use.

    Args:
        config: Which data, and what is drawn of them.
        conversation: Hears of what is odd about them.
        out: Where results go, which must lie elsewhere; None writes none.
        choose_test: From the number of test images to the positions (M,) int64 of those to use; None uses all.

    Raises:
        SettingError: Data are given twice, lie where results go, or have too few classes for ``--ways``.
        DataError: They cannot be read, or are too few.
    """
    options = SourceOptions(config.image_root, config.image_column, config.label_column, config.group_column)
    tests: Sequence[str | None] = config.test or [None] * len(config.data or (DIGITS,))
    tasks: list[Task] = []
    for data, test in zip(config.data or (DIGITS,), tests, strict=True):
        images = open_support_pool(
            data, test, options=options, group_pattern=config.group_pattern, is_strict=len(tests) == 1 and test is None
        )
        if out is not None:
            _check_elsewhere(config, out, images)
        if images.source.spec in {task.name for task in tasks}:
            raise SettingError(f"--data {data} is given twice; expected different ones.", field="data")
        for note in images.source.notes:
            conversation.warn(note)
        if config.on_bad_image == "skip":
            images, skipped = leave_out_bad(images, num_threads=num_scan_threads(), conversation=conversation)
            for line in skipped:
                conversation.warn(f"left out: {line}")
        if choose_test is not None:
            images = replace(images, test=images.test.select(choose_test(len(images.test))))
        _check_test_labels(images.test.labels, images.pool.class_names, images.test_spec)
        num_tested = np.count_nonzero(np.bincount(images.test.labels))
        if num_tested < len(images.pool.class_names):
            lacking = len(images.pool.class_names) - num_tested
            conversation.warn(f"{images.test_spec}: {lacking} of the classes have no test image; they are not scored.")
        task = _drawn(config, images.source.spec, images.pool.labels, images.test.labels, images.pool.class_names,
                      conversation)  # fmt: skip
        tasks.append(_looked_at(task, images, conversation))
    return tasks


def _check_elsewhere(config: FewshotEvalConfig, out: Path, images: SupportPool) -> None:
    """Refuse to write into the data, where the next evaluation would take it for images."""
    written = {"--out": out}
    written |= {"--cache": user_path(config.cache).absolute()} if config.cache is not None else {}
    written |= {"--predictions": user_path(config.predictions).absolute()} if config.predictions is not None else {}
    for option, path in written.items():
        for spec in {images.source.spec, images.test_spec}:
            if lies_inside(path, spec):
                raise SettingError(f"{option} {path} lies inside the data {spec}; give a place elsewhere.")


def _check_test_labels(labels: np.ndarray, class_names: Sequence[str], spec: str) -> None:
    if not len(labels):
        raise DataError(f"The test set {spec} holds no images; give others with --test.")


def _drawn(
    config: FewshotEvalConfig,
    name: str,
    labels: np.ndarray,
    test_labels: np.ndarray,
    class_names: tuple[str, ...],
    conversation: Conversation,
) -> Task:
    """Return the task with its draws; their positions are still those of the whole pool and test set."""
    num_classes = len(class_names)
    if np.count_nonzero(np.bincount(labels, minlength=num_classes)) < 2:
        raise DataError(f"{name} has images of fewer than two classes to draw from; to classify, two are needed.")
    bootstrap = PigeonholeBootstrap(len(test_labels), seed=BOOTSTRAP_SEED)
    task = Task(name, None, None, labels, test_labels, class_names, (), {}, len(labels) + len(test_labels), bootstrap)
    seeds = range(_num_seeds(config))
    if config.protocol == "linear":
        counts = [count for count in config.shot_counts if count is not None]
        sentences = [short_classes(labels, class_names, count) for count in counts] or [
            short_classes(labels, class_names, 1)
        ]
        for sentence in dict.fromkeys(sentences):
            if sentence is not None:
                conversation.warn(f"{name}: {sentence}")
        most = None if None in config.shot_counts else max(counts)
        draws = tuple(draw_support(labels, num_classes=num_classes, seed=seed, most=most) for seed in seeds)
        return replace(task, draws=draws)
    shots = max(count for count in config.shot_counts if count is not None)
    eligible = eligible_classes(labels, test_labels, num_classes=num_classes, shots=shots, queries=config.queries)
    ways = max(config.ways)
    needed = f"{shots} images to draw from and {config.queries} test images"
    if ways > num_classes:
        raise SettingError(
            f"--ways is {ways}, but {name} has {num_classes} classes; expected at most that many.", field="ways"
        )
    if ways > len(eligible):
        raise DataError(
            f"{len(eligible)} of the {num_classes} classes of {name} have {needed}; --ways {ways} needs that many. Try "
            "fewer --shots, --queries or --ways."
        )
    if len(eligible) < num_classes:
        conversation.warn(
            f"{name}: episodes are drawn from {len(eligible)} of {num_classes} classes, those with {needed}."
        )
    drawn = [
        draw_episodes(
            labels,
            test_labels,
            eligible,
            ways=ways,
            shots=shots,
            queries=config.queries,
            num_episodes=config.episodes,
            seed=seed,
        )
        for seed in seeds
    ]
    return replace(task, episodes={ways: drawn})


def _looked_at(task: Task, images: SupportPool, conversation: Conversation) -> Task:
    """Return the task with the images it uses, which all decode, and its positions among those."""
    if task.episodes:
        drawn = next(iter(task.episodes.values()))
        rows = np.unique(np.concatenate([one.support.ravel() for one in drawn]))
        test_rows = np.unique(np.concatenate([one.queries.ravel() for one in drawn]))
        episodes = {
            ways: [
                Episodes(one.classes, np.searchsorted(rows, one.support), np.searchsorted(test_rows, one.queries))
                for one in group
            ]
            for ways, group in task.episodes.items()
        }
        task = replace(task, episodes=episodes)
    else:
        rows = rows_used(task.draws, None)
        test_rows = np.arange(len(images.test))
        task = replace(task, draws=tuple(draw.moved(rows) for draw in task.draws))
    used = check_used_images(
        images.pool.select(rows),
        images.test.select(test_rows),
        num_threads=num_scan_threads(),
        conversation=conversation,
    )
    if used.num_shared:
        conversation.warn(
            f"{used.num_shared} of the {len(used.test):,} test images of {task.name} are also support images, pixel "
            "for pixel: scores on them are too good to be true."
        )
    return replace(task, images=images, used=used, labels=used.support.labels, test_labels=used.test.labels)


def _task_of_file(config: FewshotEvalConfig, conversation: Conversation) -> Task:
    path = user_path(str(config.features))
    arrays = read_features(path, conversation)
    names = tuple(str(label) for label in range(int(arrays["y_train"].max()) + 1))
    task = _drawn(config, str(path.absolute()), arrays["y_train"], arrays["y_test"], names, conversation)
    return task


# --- embedding and solving ---------------------------------------------------------------------------------


def probe_of(config: FewshotEvalConfig) -> Probe:
    """Return the classifier that is asked for."""
    return Probe(config.classifier, config.penalties, config.balance, config.neighbours)


def _solve_file(
    config: FewshotEvalConfig, task: Task, probe: Probe, findings: Findings, conversation: Conversation
) -> None:
    arrays = read_features(user_path(str(config.features)), Conversation())
    key = FeatureKey("final", "native")
    _solve(
        config,
        task,
        {key: arrays["x_train"]},
        {key: arrays["x_test"]},
        _Subject(task.name, None),
        probe,
        findings,
        conversation,
    )


def models_of(config: FewshotEvalConfig, device: torch.device) -> list[tuple[str, Decision[str], str]]:
    """Return (name in results, model, weights) of every model."""
    if config.model is None:
        model = decide_model(None, has_data=config.data is not None, device_type=device.type)
        return [(model.value, model, (config.weights or ("pretrained",))[0])]
    weights = config.weights or ("pretrained",)
    pairs = list(zip(config.model, weights * (len(config.model) // len(weights)), strict=True))
    return [
        (f"{model} ({spec})" if config.model.count(model) > 1 else model, Decision(model, "given"), spec)
        for model, spec in pairs
    ]


@dataclass(frozen=True)
class FeatureChoice:
    """Which features of a model are kept.

    Attributes:
        keys: Layers and poolings.
        positions: By layer, which of its patch tokens, (T,) int64; all of a layer that is not named.
    """

    keys: tuple[FeatureKey, ...]
    positions: Mapping[Layer, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class PreparedModel:
    """A model at its size, with its transform and all that its features depend on.

    Attributes:
        loaded: The model.
        extractor: Gives its features.
        transform: From an RGB image to what it sees.
        image_size: (H, W) px.
        identity: What its features depend on, for the cache.
        shapes: Of every feature of one image.
    """

    loaded: LoadedModel
    extractor: FeatureExtractor
    transform: ImageTransform
    image_size: tuple[int, int]
    identity: dict[str, Any]
    shapes: dict[FeatureKey, tuple[int, ...]]


def prepare_model(
    config: FewshotEvalConfig,
    model: str,
    weights: str,
    conversation: Conversation,
    *,
    choose: Callable[[LoadedModel, tuple[int, int]], FeatureChoice] | None = None,
    method: str | None = None,
    seed: int = 0,
) -> PreparedModel:
    """Load a model, bring it to its size and say what to keep of it.

    Args:
        config: Its size, preprocessing, and the layers and poolings to keep.
        model: For ``load_model``.
        weights: pretrained, none, or a file.
        conversation: Says what is loaded.
        choose: From the model and its image size (H, W) px to what to keep; None is as ``config`` says.
        method: Interpolation of position embeddings; None is timm's, and the authors' for ``.npz`` weights.
        seed: For random weights.

    Raises:
        ModelError: It cannot be loaded.
        SettingError: It cannot take the size, or has no such layer or pooling.
    """
    conversation.line(f"loading {model}" + ("" if weights == "pretrained" else f", weights {weights}"))
    opened = open_model(model, weights=weights, image_size=config.image_size, interpolation=method, seed=seed)
    loaded, wanted = opened.loaded, opened.image_size
    for note in opened.notes:
        conversation.warn(note)
    if choose is None:
        layers = choose_layers(config.layers, loaded.model, name=loaded.name)
        chosen = FeatureChoice(tuple(FeatureKey(layer, pool) for layer in layers for pool in config.pool))
    else:
        chosen = choose(loaded, wanted)
    preprocessing = opened.preprocessing
    transform: ImageTransform = EvaluationTransform(preprocessing)
    described: dict[str, Any] = dict(preprocessing.data_config())
    if config.preprocess == "big_vision":
        if wanted[0] != wanted[1]:
            raise SettingError(
                f"--preprocess big_vision makes squares, and {loaded.name} takes {format_size(wanted)} px; give a "
                "square --image-size.",
                field="preprocess",
            )
        if set(preprocessing.mean) | set(preprocessing.std) != {0.5}:
            conversation.warn(
                f"{loaded.name} was trained with mean {preprocessing.mean} and std {preprocessing.std}; big_vision's "
                "preprocessing gives it values from -1 to 1 instead."
            )
        transform = BigVisionTransform(wanted[0])
        described = dict(transform.describe())
    identity = {
        "architecture": type(loaded.model).__name__,
        "weights": hash_of_weights(loaded.model) if config.cache is not None else "",
        "preprocessing": described,
        "versions": {package: version(package) for package in _PACKAGES},
    }
    extractor = FeatureExtractor(
        loaded.model, chosen.keys, device=torch.device("cpu"), name=loaded.name, positions=chosen.positions
    )
    return PreparedModel(loaded, extractor, transform, wanted, identity, extractor.shapes(wanted))


def _evaluate_model(
    config: FewshotEvalConfig,
    name: str,
    weights: str,
    prepared: PreparedModel,
    tasks: Sequence[Task],
    probe: Probe,
    device: torch.device,
    findings: Findings,
    conversation: Conversation,
) -> None:
    for task in tasks:
        if task.images is None or task.used is None:
            raise AssertionError("a task without images")
        if weights == "pretrained":
            warn_of_known_classes(prepared.loaded, task, conversation)
        subject = _Subject(task.name, name)
        with enough_memory(config):
            prepared.extractor.to(device)
            num_numbers = sum(int(np.prod(shape)) for shape in prepared.shapes.values())
            is_streamed = _can_stream(config, probe)
            check_memory(4 * num_numbers * (len(task.used.test) + (0 if is_streamed else len(task.used.support))))
            test = embed(config, prepared, task, task.used.test, task.used.test_hashes, findings, conversation)
            if is_streamed:
                _solve_streaming(config, prepared, task, test, subject, probe, findings, conversation)
                continue
            support = embed(config, prepared, task, task.used.support, task.used.support_hashes, findings, conversation)
        _solve(config, task, support, test, subject, probe, findings, conversation)
        findings.cost["images_skipped"] += task.num_images - len(task.used.support) - len(task.used.test)


def _can_stream(config: FewshotEvalConfig, probe: Probe) -> bool:
    """Return whether the sums over the support are all that is needed of it."""
    is_whole = config.protocol == "linear" and config.shot_counts == (None,) and config.cache is None
    return is_whole and probe.classifier == "ridge" and probe.l2 is not None and probe.balance != "weighted"


@contextmanager
def enough_memory(config: FewshotEvalConfig) -> Iterator[None]:
    """Say which setting to change where the device runs out of memory.

    Raises:
        SettingError: It does.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise SettingError(
            f"The device ran out of memory at a batch of {config.batch_size} images. Try a smaller --batch-size."
        ) from error


def embed(
    config: FewshotEvalConfig,
    prepared: PreparedModel,
    task: Task,
    split: Split,
    hashes: list[str],
    findings: Findings,
    conversation: Conversation,
) -> dict[FeatureKey, np.ndarray]:
    """Return the features of ``split``, (M, D) or (T, M, D) float32, from the cache where they are there.

    Args:
        config: Batches, workers, cache.
        prepared: The model.
        task: Whose images they are.
        split: Which of its images.
        hashes: Of their pixels.
        findings: Counts the cost.
        conversation: Shows progress.
    """
    started = time.perf_counter()
    extractor = prepared.extractor
    cache = FeatureCache(user_path(config.cache), conversation) if config.cache is not None else None
    identity = {**prepared.identity, "images": hash_of_images(hashes)}
    found: dict[FeatureKey, np.ndarray] = {}
    for key in extractor.keys if cache is not None else ():
        features = cache.load(identity, key, num_images=len(split)) if cache is not None else None
        if features is not None:
            found[key] = features
    missing = [key for key in extractor.keys if key not in found]
    if missing:
        made = collect_features(
            extractor.only(missing),
            _batches(config, prepared, task, split, extractor.device),
            num_images=len(split),
            description=f"embedding {split.name}",
            conversation=conversation,
        )
        for key, features in made.items():
            found[key] = features
            if cache is not None:
                cache.save(identity, key, features)
    findings.cost["images_embedded" if missing else "images_skipped"] += len(split)
    findings.cost["embed_s"] += time.perf_counter() - started
    return {key: found[key] for key in extractor.keys}


def _batches(config: FewshotEvalConfig, prepared: PreparedModel, task: Task, split: Split, device: torch.device) -> Any:
    is_in_memory = task.images is not None and task.images.is_in_memory
    workers, _ = resolve_num_workers(config.num_workers, is_in_memory=is_in_memory, device_type=device.type)
    return evaluation_batches(split, prepared.transform, batch_size=config.batch_size, num_workers=workers)


def _solve_streaming(
    config: FewshotEvalConfig,
    prepared: PreparedModel,
    task: Task,
    test: dict[FeatureKey, np.ndarray],
    subject: _Subject,
    probe: Probe,
    findings: Findings,
    conversation: Conversation,
) -> None:
    """Embed the whole pool and add it up on the way; its features are never held."""
    if task.used is None:
        raise AssertionError("a task without images")
    started = time.perf_counter()
    batches = stream_features(
        prepared.extractor,
        _batches(config, prepared, task, task.used.support, prepared.extractor.device),
        num_images=len(task.used.support),
        description="embedding pool",
        conversation=conversation,
    )
    solved = stream_ridge(
        batches,
        task.labels,
        test,
        task.test_labels,
        probe=probe,
        num_classes=len(task.class_names),
        conversation=conversation,
    )
    findings.cost["embed_s"] += time.perf_counter() - started
    findings.cost["images_embedded"] += len(task.used.support)
    for key, found in solved.items():
        _record(config, task, key, test[key], found, subject, probe, findings)


def _solve(
    config: FewshotEvalConfig,
    task: Task,
    support: dict[FeatureKey, np.ndarray],
    test: dict[FeatureKey, np.ndarray],
    subject: _Subject,
    probe: Probe,
    findings: Findings,
    conversation: Conversation,
) -> None:
    started = time.perf_counter()
    if config.protocol == "episodes":
        _solve_episodes(config, task, support, test, subject, probe, findings, conversation)
    else:
        total = sum(
            num_fits(task.draws, config.shot_counts, probe) * (len(values) if values.ndim == 3 else 1)
            for values in support.values()
        )
        with conversation.progress("solving", total, "classifiers") as bar:
            for key, features in support.items():
                solved = solve_probes(
                    features,
                    task.labels,
                    test[key],
                    task.test_labels,
                    task.draws,
                    shots=config.shot_counts,
                    probe=probe,
                    num_classes=len(task.class_names),
                    advance=bar.advance,
                )
                _record(config, task, key, test[key], solved, subject, probe, findings)
    findings.cost["solve_s"] += time.perf_counter() - started


def _record(
    config: FewshotEvalConfig,
    task: Task,
    key: FeatureKey,
    test_features: np.ndarray,
    solved: Sequence[Solved],
    subject: _Subject,
    probe: Probe,
    findings: Findings,
) -> None:
    """Add a result per combination of shots and setting."""
    within, between = _cosines(test_features, task.test_labels)
    counts = np.bincount(task.labels, minlength=len(task.class_names))
    for one in solved:
        if _repeats_fewer_neighbours(one.setting, one.num_support, probe):
            continue
        row = FewshotRow(
            data=subject.data,
            model=subject.model,
            layer=key.layer,
            pool=key.pool,
            classifier=probe.classifier,
            shots="all" if one.shots is None else one.shots,
            l2=one.l2[0] if len(set(one.l2)) == 1 else None,
            neighbours=probe.neighbours[one.setting] if probe.classifier == "knn" else None,
            **summarise(one.table, task.bootstrap),
            num_support=one.num_support,
            num_test=len(task.test_labels),
            num_classes=len(task.class_names),
            num_short_classes=0 if one.shots is None else int((counts < one.shots).sum()),
            l2_per_seed=tuple(one.l2),
            cosine_within=within,
            cosine_between=between,
        )
        findings.rows.append(row)
        combination = (task.name, key.layer, key.pool, row.shots, one.setting)
        findings.correct.setdefault(str(subject.model), {})[combination] = (one.table, task, row)
        if config.predictions is not None:
            for seed, l2, predicted in zip(one.seeds, one.l2, one.predicted, strict=True):
                findings.predictions[_prediction_name(seed, row, l2)] = predicted


def _repeats_fewer_neighbours(setting: int, num_support: int, probe: Probe) -> bool:
    """Return whether fewer neighbours than these are already the whole support."""
    return probe.classifier == "knn" and setting > 0 and probe.neighbours[setting - 1] >= num_support


def _prediction_name(seed: int, row: FewshotRow, l2: float | None) -> str:
    how = f"l{l2:g}" if l2 is not None else row.classifier
    neighbours = "" if row.neighbours is None else str(row.neighbours)
    return f"s{seed}_k{row.shots}_{how}{neighbours}_pred"


def _cosines(features: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Return mean cosine similarities of test images within and between classes; over tokens their mean."""
    tokens = features[None] if features.ndim == 2 else features
    pairs = [cosine_similarities(rows, labels) for rows in tokens]
    within, between = ([value for value in side if value is not None] for side in zip(*pairs, strict=True))
    return float(np.mean(within)) if within else None, float(np.mean(between)) if between else None


def _solve_episodes(
    config: FewshotEvalConfig,
    task: Task,
    support: dict[FeatureKey, np.ndarray],
    test: dict[FeatureKey, np.ndarray],
    subject: _Subject,
    probe: Probe,
    findings: Findings,
    conversation: Conversation,
) -> None:
    drawn = next(iter(task.episodes.values()))
    grid = [(ways, shots) for ways in config.ways for shots in config.shot_counts if shots is not None]
    num_tokens = sum(len(values) if values.ndim == 3 else 1 for values in support.values())
    with conversation.progress("solving", num_tokens * len(grid) * len(drawn) * config.episodes, "episodes") as bar:
        for key, features in support.items():
            tokens, test_tokens = ((one[None] if one.ndim == 2 else one) for one in (features, test[key]))
            cosines = _cosines(test[key], task.test_labels)
            for ways, shots in grid:
                per_seed = []  # (settings, episodes) of each seed
                for episodes in drawn:
                    part = episodes.part(ways=ways, shots=shots)
                    found = [
                        episode_accuracies(rows, asked, part, probe, advance=bar.advance)
                        for rows, asked in zip(tokens, test_tokens, strict=True)
                    ]
                    per_seed.append(np.mean(found, axis=0))
                for setting in range(len(per_seed[0])):
                    if _repeats_fewer_neighbours(setting, ways * shots, probe):
                        continue
                    accuracies = [one[setting] for one in per_seed]
                    row = _episode_row(config, task, key, ways, shots, setting, accuracies, cosines, subject, probe)
                    findings.rows.append(row)


def _episode_row(
    config: FewshotEvalConfig,
    task: Task,
    key: FeatureKey,
    ways: int,
    shots: int,
    setting: int,
    accuracies: Sequence[np.ndarray],
    cosines: tuple[float | None, float | None],
    subject: _Subject,
    probe: Probe,
) -> FewshotRow:
    together = np.concatenate(accuracies)
    mean, half_width = episode_interval(together)
    return FewshotRow(
        data=subject.data,
        model=subject.model,
        layer=key.layer,
        pool=key.pool,
        classifier=probe.classifier,
        ways=ways,
        shots=shots,
        queries=config.queries,
        episodes=len(together),
        l2=probe.l2[setting] if probe.classifier == "ridge" and probe.l2 is not None else None,
        neighbours=probe.neighbours[setting] if probe.classifier == "knn" else None,
        top1_mean=mean,
        top1_std=float(together.std(ddof=1)) if len(together) > 1 else None,
        top1_ci95_support=None,
        top1_ci95=(max(0.0, mean - half_width), min(1.0, mean + half_width)),
        top1_ci95_half_width=half_width,
        top1_per_seed=tuple(float(one.mean()) for one in accuracies),
        num_support=ways * shots,
        num_test=ways * config.queries,
        num_classes=len(task.class_names),
        cosine_within=cosines[0],
        cosine_between=cosines[1],
    )


def _cost(findings: Findings) -> FewshotCost:
    cost = findings.cost
    return FewshotCost(
        images_embedded=int(cost["images_embedded"]),
        images_skipped=int(cost["images_skipped"]),
        embed_s=round(cost["embed_s"], 3),
        solve_s=round(cost["solve_s"], 3),
    )


def _paired(findings: Findings) -> list[PairedDifference]:
    """Return the difference of every pair of models on the same supports and test images."""
    rows = []
    for first, second in combinations(findings.correct, 2):
        shared = [one for one in findings.correct[first] if one in findings.correct[second]]
        for combination in shared:
            (left, task, row), (right, _, _) = (
                findings.correct[first][combination],
                findings.correct[second][combination],
            )
            rows.append(
                PairedDifference(
                    data=row.data,
                    model_a=first,
                    model_b=second,
                    layer=row.layer,
                    pool=row.pool,
                    shots=row.shots,
                    l2=row.l2,
                    neighbours=row.neighbours,
                    **paired_difference(left, right, task.bootstrap),
                )
            )
    return rows


# --- saying what is done -----------------------------------------------------------------------------------


def _model_settings(
    config: FewshotEvalConfig, models: Sequence[tuple[str, Decision[str], str]], prepared: Sequence[PreparedModel]
) -> list[Setting]:
    sizes = ", ".join(dict.fromkeys(format_size(one.image_size) for one in prepared))
    return [
        *(
            Setting("model", name, model.reason + ("" if weights == "pretrained" else f"; weights {weights}"))
            for name, model, weights in models
        ),
        Setting("layers, pooling", f"{', '.join(config.layers)}; {', '.join(config.pool)}"),
        Setting("image size", f"{sizes} px", "given" if config.image_size else "the models' own"),
        Setting("preprocessing", config.preprocess),
    ]


def _task_settings(tasks: Sequence[Task], config: FewshotEvalConfig) -> list[Setting]:
    settings = []
    for task in tasks:
        why = "the default: no --data is given" if config.data is None and config.features is None else ""
        settings.append(Setting("data", task.name, why))
        if task.images is not None and task.used is not None:
            pool, used = task.images, task.used
            num_pool = len(pool.pool)
            saved = f"the rest of {num_pool:,} need not be embedded" if len(used.support) < num_pool else "all"
            settings.append(Setting("support", f"{len(used.support):,} images in any draw", saved))
            settings.append(Setting("test", f"{len(used.test):,} images", f"{pool.test_reason} ({pool.test_spec})"))
        settings.append(Setting("classes", str(len(task.class_names))))
    shots = ", ".join("all" if count is None else str(count) for count in config.shot_counts)
    if config.shot_counts == (None,) and (config.seeds or 1) > 1:
        settings.append(Setting("", "", "all images are the same whatever the seed: one draw"))
    seeds = f"{_num_seeds(config)}: 0 to {_num_seeds(config) - 1}" if _num_seeds(config) > 1 else "1: 0"
    if config.protocol == "episodes":
        ways = ", ".join(map(str, config.ways))
        settings.append(
            Setting("episodes", f"{config.episodes} for every way and shot", f"{config.queries} queries a class")
        )
        settings.append(Setting("ways; shots", f"{ways}; {shots}"))
        settings.append(Setting("seeds", seeds))
    else:
        settings.append(Setting("shots, seeds", f"{shots}; {seeds}", "drawn as big_vision draws them"))
    detail = {
        "ridge": "l2 " + ("by leave-one-out on the support" if config.penalties is None else listed(config.l2)),
        "logistic": "C on a held-out part of the support",
        "knn": f"{listed(config.neighbours)} neighbours, cosine, temperature 0.07",
        "centroid": "nearest class mean",
    }[config.classifier]
    settings.append(Setting("classifier", config.classifier, detail))
    if config.penalties is None and 1 in config.shot_counts:
        settings.append(Setting("", "", "at one shot leave-one-out has nothing to go by: l2 is 1024 there"))
    return settings


def warn_of_known_classes(loaded: LoadedModel, task: Task, conversation: Conversation) -> None:
    """Say so where the model's own classes carry the names of the support's: it is no few-shot learning then."""
    if loaded.name == DEMO:
        if "fashion-mnist" in task.name.lower() or "fashion_mnist" in task.name.lower():
            conversation.warn("the demo model was pretrained on Fashion-MNIST's training images: no new classes.")
        return
    names = {*(loaded.class_names or ()), *loaded.class_descriptions.values()}
    known = {_plain(part) for name in names for part in name.split(",")}
    are_equal = loaded.class_names == task.class_names  # else numbers say nothing: they may stand for anything
    both = [name for name in task.class_names if are_equal or (_plain(name) in known and not name.isdigit())]
    if both:
        conversation.warn(
            f"{len(both)} of the {len(task.class_names)} classes of {task.name} carry names that {loaded.name} was "
            f"trained on ({', '.join(both[:3])}{', ...' if len(both) > 3 else ''}): these are no new classes to it."
        )


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())
