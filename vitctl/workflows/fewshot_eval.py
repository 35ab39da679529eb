"""``vitctl fewshot-eval``: how good frozen representations are, by linear few-shot evaluation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.endings import together
from vitctl.data.source import SourceOptions
from vitctl.evaluation.embedding import Cost, Embedder, FeatureChoice
from vitctl.evaluation.feature_cache import FeatureCache
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.results import DRAWN, Record, write_arrays, write_tables
from vitctl.evaluation.scoring import Scorer
from vitctl.evaluation.tasks import (
    EpisodePlan,
    ImageTask,
    LinearPlan,
    Plan,
    Task,
    known_classes,
    open_feature_task,
    open_image_tasks,
    plan_settings,
    task_settings,
)
from vitctl.models.choices import NamedModel, name_models
from vitctl.models.layers import choose_layers
from vitctl.models.prepared import open_model
from vitctl.primitives.devices import enough_memory, resolve_device, resolve_num_threads
from vitctl.primitives.files import user_path
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.outputs import check_file, check_writable, writing
from vitctl.primitives.process_group import join_processes
from vitctl.primitives.processes import Processes
from vitctl.results.fewshot_eval import FewshotResult
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.parsing import listed
from vitctl.settings.words import DIGITS, FINAL, PRETRAINED

DEFAULT_OUT = "fewshot-eval"
_NOT_OF_RESULTS = ("cache", "batch_size", "num_workers", "num_threads", "device", "num_processes", "predictions", "out")


def run(config: FewshotEvalConfig, conversation: Conversation) -> FewshotResult:
    """Evaluate and return the accuracies; writes tables, pictures and supports. Of several processes the first does.

    Raises:
        VitctlError: A setting, the data or a model cannot be used; no result was written.
    """
    written = _check_places(config)
    device, why = resolve_device(config.device)
    processes = join_processes(device)
    resolve_num_threads(config.num_threads)
    probe = Probe(config.classifier, config.penalties, config.balance, config.neighbours)
    plan, record, cost, out = _plan(config), Record(config.predictions is not None), Cost(), written["--out"]
    scorer = Scorer(plan, probe, record=record, cost=cost, conversation=conversation)
    if config.features is not None:
        tasks = _score_file(config, plan, scorer, written, conversation)
    else:
        tasks = _score_models(config, plan, scorer, cost, written, processes, why, conversation)
    result = FewshotResult(
        results=tuple(record.rows),
        paired=record.paired(),
        cost=cost.result(),
        settings={"vitctl": __version__} | config.as_json(without=_NOT_OF_RESULTS),
        out=str(out),
        left_out=together(*(task.images.left_out for task in tasks if isinstance(task, ImageTask))),
    )
    if processes.is_first:
        write_files(out, result, tasks)
    if processes.is_first and config.predictions is not None:
        with writing(written["--predictions"], option="--predictions"):
            write_arrays(written["--predictions"], record.predictions)
    processes.keep_logs(out)
    return result


def _check_places(config: FewshotEvalConfig) -> dict[str, Path]:
    """Return by option where something is written, all of which can be."""
    given = {"--out": config.out or DEFAULT_OUT, "--predictions": config.predictions, "--cache": config.cache}
    written = {option: user_path(text).absolute() for option, text in given.items() if text is not None}
    for option, path in written.items():
        if option == "--predictions":
            check_file(path, ending=".npz", option=option, inputs={"features": config.features})
        else:
            check_writable(path, option=option)
    return written


def _plan(config: FewshotEvalConfig) -> Plan:
    if config.protocol == "linear":
        return LinearPlan(config.shot_counts, config.seeds)
    shots = tuple(count for count in config.shot_counts if count is not None)
    return EpisodePlan(config.ways, shots, config.queries, config.episodes, config.seeds)


def _score_models(
    config: FewshotEvalConfig,
    plan: Plan,
    scorer: Scorer,
    cost: Cost,
    written: Mapping[str, Path],
    processes: Processes,
    why: str,
    talk: Conversation,
) -> list[Task]:
    """Score every model on every data set; return those."""
    has_data = config.data is not None
    models = name_models(config.model, config.weights, has_data=has_data, device_type=processes.device.type)
    embedders = [_open(config, model, cost, processes, talk) for model in models]  # all of them, before anything slow
    data = config.data or (DIGITS,)
    tasks = open_image_tasks(
        data,
        config.test or (None,) * len(data),
        plan,
        options=SourceOptions.of(config),
        group_pattern=config.group_pattern,
        skip_bad=config.on_bad_image == "skip",
        conversation=talk,
        written=written,
        processes=processes,
    )
    where = Setting("device", processes.place, f"{why}; classifiers are solved on the CPU, in float64")
    files = Setting("files", str(written["--out"]), "given" if config.out else "the default")
    settings = [*_model_settings(config, models, embedders), *_task_settings(config, tasks, plan), where, files]
    talk.header("vitctl fewshot-eval", settings)
    for model, embedder in zip(models, embedders, strict=True):
        for task in tasks:
            known = known_classes(embedder.opened.loaded, task) if model.weights == PRETRAINED else None
            if known is not None:
                talk.warn(known)
            with enough_memory(processes.device, config.batch_size):
                embedder.to(processes.device)
                scorer.score_model(embedder, task, name=model.name, keeps_features=config.cache is not None)
        embedder.to(torch.device("cpu"))  # room for the next one
    return list(tasks)


def _open(
    config: FewshotEvalConfig, model: NamedModel, cost: Cost, processes: Processes, talk: Conversation
) -> Embedder:
    spec, weights = model.spec.value, model.weights
    talk.line(f"loading {spec}" + ("" if weights == PRETRAINED else f", weights {weights}"))
    opened = open_model(spec, weights=weights, image_size=config.image_size, model_args=config.model_args)
    for note in opened.notes:
        talk.warn(note)
    layers = choose_layers(config.layers, opened.model, name=opened.name)
    return Embedder(
        opened,
        FeatureChoice(tuple(FeatureKey(layer, pool) for layer in layers for pool in config.pool)),
        preprocess=config.preprocess,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        cache=None if config.cache is None else FeatureCache(user_path(config.cache), talk),
        cost=cost,
        conversation=talk,
        processes=processes,
    )


def _score_file(
    config: FewshotEvalConfig, plan: Plan, scorer: Scorer, written: Mapping[str, Path], talk: Conversation
) -> list[Task]:
    """Score the features of ``--features``; return their task."""
    task = open_feature_task(user_path(str(config.features)), plan, talk)
    settings = [*_task_settings(config, [task], plan), Setting("files", str(written["--out"]))]
    talk.header("vitctl fewshot-eval", settings)
    key = FeatureKey(FINAL, "native")  # which is what they are taken for
    scorer.score_features({key: task.support}, {key: task.test}, task, name=None)
    return [task]


def _model_settings(
    config: FewshotEvalConfig, models: Sequence[NamedModel], embedders: Sequence[Embedder]
) -> list[Setting]:
    sizes = ", ".join(dict.fromkeys(format_size(one.opened.image_size) for one in embedders))
    weights = ("" if model.weights == PRETRAINED else f"; weights {model.weights}" for model in models)
    return [
        *(Setting("model", one.name, one.spec.reason + more) for one, more in zip(models, weights, strict=True)),
        Setting("layers, pooling", f"{', '.join(config.layers)}; {', '.join(config.pool)}"),
        Setting("image size", f"{sizes} px", "given" if config.image_size else "the models' own"),
        Setting("preprocessing", config.preprocess),
    ]


def _task_settings(config: FewshotEvalConfig, tasks: Sequence[Task], plan: Plan) -> list[Setting]:
    why = "the default: no --data is given" if config.data is None and config.features is None else ""
    detail = {
        "ridge": "l2 " + ("by leave-one-out on the support" if config.penalties is None else listed(config.l2)),
        "logistic": "C on a held-out part of the support",
        "knn": f"{listed(config.neighbours)} neighbours, cosine, temperature 0.07",
        "centroid": "nearest class mean",
    }[config.classifier]
    settings = [setting for task in tasks for setting in task_settings(task, reason=why)]
    settings += [*plan_settings(plan), Setting("classifier", config.classifier, detail)]
    if config.penalties is None and 1 in config.shot_counts:
        settings.append(Setting("", "", "at one shot leave-one-out has nothing to go by: l2 is 1024 there"))
    return settings


def write_files(out: Path, result: FewshotResult, tasks: Sequence[Task]) -> None:
    """Write ``results.json``, ``results.csv``, the pictures that fit, and the drawn supports.

    Raises:
        SettingError: The folder cannot be written.
    """
    from vitctl.reporting.fewshot_drawing import PICTURES, draw_pictures

    rows = [row.as_json() for row in result.results]
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (*PICTURES, *DRAWN):
            (out / name).unlink(missing_ok=True)  # of an earlier evaluation
        draw_pictures(out, rows)
        write_tables(out, result, tasks)
