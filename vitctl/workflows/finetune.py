"""``vitctl finetune``: from a pretrained model and images to a run folder.

The order matters: everything that can be wrong is found before the first step, cheapest first, and
nothing is written before that.
"""

import contextlib
import errno
import functools
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.data.imbalance import BalancedOrder, balanced_class_weights
from vitctl.data.loader import BatchPlan, evaluation_batches, resolve_num_workers
from vitctl.data.resized import num_bytes, resized_sizes, resized_split
from vitctl.data.scan import num_scan_threads
from vitctl.data.source import SourceOptions, Split
from vitctl.data.training_data import (
    TrainingData,
    TrainingSources,
    check_training_data,
    open_training_sources,
)
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.classify import split_logits
from vitctl.evaluation.features import FeatureExtractor, FeatureKey, stream_features
from vitctl.evaluation.metrics import confusion, mean_nll, top_k_accuracy, wilson_interval
from vitctl.evaluation.ridge_head import RidgeHead, fit_ridge_head
from vitctl.models.build import LoadedModel
from vitctl.models.choices import decide_image_size, decide_model
from vitctl.models.geometry import Resolution, geometry_of
from vitctl.models.heads import fit_head, has_linear_head, linear_heads, set_linear_head
from vitctl.models.prepared import open_model
from vitctl.primitives.decision import Decision
from vitctl.primitives.devices import enough_memory, resolve_device, resolve_num_threads
from vitctl.primitives.files import cache_folder, sha256_of, user_path
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.image_sizes import check_divisible
from vitctl.primitives.interrupts import stop_requests
from vitctl.primitives.outputs import cannot_write, check_elsewhere
from vitctl.primitives.seeds import torch_randomness
from vitctl.recipes import Recipe, as_document, list_recipes, load_recipe, override, recipe_from_settings, recipe_path
from vitctl.reporting.figures import draw_confusion, draw_curves
from vitctl.results.finetune import DryRunResult, FinetuneResult, LinearProbe, Score
from vitctl.results.result import JsonObject
from vitctl.settings.finetune import NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.words import DEMO, DIGITS, FINAL
from vitctl.training.decisions import (
    decide_batch_size,
    decide_flip,
    decide_head_start,
    decide_interpolation,
    decide_lr,
    decide_num_images_seen,
)
from vitctl.training.job import Job, Outcome, train
from vitctl.training.processes import build_accelerator, choose_precision
from vitctl.training.recorder import Recorder, WeightsIdentity
from vitctl.training.run_folder import RunFolder, check_out, new_run_folder
from vitctl.training.trial import check_batch_norm, measure_cost
from vitctl.workflows.finetune_header import cost_settings, header_settings

MIN_EVALUATION_BATCH = 64  # validation needs no gradients, so it can take more than a small training batch
PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "scikit-learn")


@dataclass(frozen=True)
class Plan:
    """A run with nothing left to decide.

    Attributes:
        config: Every setting resolved: ``--config`` on it repeats the run.
        data: Images, checked and split.
        loaded: The model at its new size, with its new head.
        resolution: What changing the size did; None for random weights, built at the size.
        job: What to train and how.
        out: Run folder.
        settings: The header.
        has_ridge_head: Whether the head is to be computed from the frozen features before training.
    """

    config: FinetuneConfig
    data: TrainingData
    loaded: LoadedModel
    resolution: Resolution | None
    job: Job
    out: Path
    settings: list[Setting]
    has_ridge_head: bool


def run(config: FinetuneConfig, conversation: Conversation) -> FinetuneResult | DryRunResult:
    """Fine-tune and return the summary; with ``dry_run`` the cost instead.

    Raises:
        VitctlError: A setting, the data, the weights or the device cannot be used; nothing was written.
        InterruptedRun: The user stopped it; ``last/`` holds the weights.
    """
    started = time.perf_counter()
    plan = make_plan(config, conversation)
    conversation.header("vitctl finetune", plan.settings)
    if config.dry_run:
        return _describe_cost(plan, conversation)
    if config.cache == "resized":
        plan = _with_resized_images(plan, conversation)
    probe = _with_ridge_head(plan, conversation) if plan.has_ridge_head else None
    plan.job.accelerator.wait_for_everyone()  # no process may find the run folder made by another
    with _run_folder(plan, overwrite=config.overwrite) as folder, stop_requests() as stop:
        _write_start(plan, folder)
        recorder = Recorder(folder, _identity(plan), plan.job.batches)
        if probe is not None and probe.score.loss is not None:
            recorder.validation(probe.score)
        validate = functools.partial(_validate, plan, conversation)
        process = plan.job.accelerator.process_index
        with _resources(plan), torch_randomness(config.seed, "augment", process):  # dropout, stochastic depth
            outcome = train(plan.job, recorder, stop, validate, out=plan.out, conversation=conversation)
            if probe is not None and (probe.score.loss or 0.0) < (outcome.best.loss or 0.0):
                conversation.warn(
                    f"the closed-form head alone had a lower validation loss ({probe.score.loss:.4f}) than the best "
                    f"weights ({outcome.best.loss:.4f}): try more steps, or a lower --lr."
                )
            return _write_end(plan, outcome, probe, folder, wall_s=time.perf_counter() - started)


def make_plan(config: FinetuneConfig, conversation: Conversation) -> Plan:
    """Resolve every setting, check every input and load the model; writes nothing."""
    data_spec = DIGITS if config.data is None else config.data
    # settings and paths first, which are checked in no time; then lists of files, then weights, then every image
    device, device_reason = resolve_device(config.device)
    num_threads, threads_reason = resolve_num_threads(config.num_threads)
    model = decide_model(config.model, has_data=config.data is not None, device_type=device.type)
    recipe_name, recipe, recipe_reason = _decide_recipe(config, is_demo=model.value == DEMO)
    out = _decide_out(config, data_spec, model.value)
    if not config.dry_run:
        check_out(out, overwrite=config.overwrite)
    wanted = config.image_size

    sources = open_training_sources(
        data_spec,
        val=config.val,
        val_fraction=config.val_fraction,
        options=SourceOptions(config.image_root, config.image_column, config.label_column, config.group_column),
        group_pattern=config.group_pattern,
    )
    _check_classes(sources)
    check_elsewhere(out, (sources.source.spec, sources.val_spec))
    if config.cache == "resized" and sources.source.is_in_memory:
        raise SettingError(
            f"--cache resized is of no use for {sources.source.spec}: its images are in memory.", field="cache"
        )

    # the model before the scan: a wrong name, weights or size are known in seconds, decoding every image takes minutes
    conversation.line(f"loading {model.value}")
    opened = open_model(model.value, weights=config.weights, seed=config.seed)
    pretrained = opened.geometry
    if wanted and pretrained.patch_size:
        check_divisible(wanted, pretrained.patch_size, model=opened.name)
    data = check_training_data(
        sources,
        val_fraction=config.val_fraction,
        seed=config.seed,
        skip_bad=config.on_bad_image == "skip",
        num_threads=num_scan_threads(),
        conversation=conversation,
    )

    # after the scan: a size that is not given follows from the images that decode
    size = Decision(wanted, "given") if wanted else decide_image_size(
        data.sizes, pretrained.image_size, pretrained.patch_size, is_demo=model.value == DEMO
    )  # fmt: skip
    interp = decide_interpolation(config.pos_embed_interp, recipe, weights=config.weights, recipe_name=recipe_name)
    prepared = opened.at(size.value, interpolation=interp)
    loaded, resolution = prepared.loaded, prepared.resolution
    # the head after the size: random weights are built anew at the size, and a head put on before would be lost
    head_method = decide_head_start(config.head, recipe)
    head = Decision(
        *fit_head(
            loaded,
            data.train.class_names,
            method=head_method,
            seed=config.seed,
            is_given=config.head is not None,
        )
    )
    has_ridge_head = head_method == "ridge" and head.value != "kept"
    if has_ridge_head and not has_linear_head(loaded.model):
        if config.head is not None:
            linear_heads(loaded.model, name=loaded.name)  # says what is wrong
        has_ridge_head = False
        head = Decision(
            head.value.replace("closed form (ridge)", "zero initialisation"), "its head is more than linear"
        )
    # the batch follows from the images that are left, length and rate from the batch
    batch = decide_batch_size(config.batch_size, recipe, len(data.train), recipe_name=recipe_name)
    seen = decide_num_images_seen(
        config.steps, config.epochs, recipe, len(data.train), batch.value, recipe_name=recipe_name
    )
    lr = decide_lr(config.lr, recipe, batch.value, recipe_name=recipe_name)
    flip = decide_flip(
        config.flip, recipe, is_flippable=data.source.may_flip(data.train.class_names), recipe_name=recipe_name
    )
    workers = Decision(
        *resolve_num_workers(config.num_workers, is_in_memory=data.source.is_in_memory, device_type=device.type)
    )
    job = Job(
        model=loaded.model,
        train=data.train,
        val=data.val,
        preprocessing=prepared.preprocessing.cropped(recipe.images.evaluation_crop),
        recipe=recipe,
        batches=BatchPlan(
            len(data.train),
            batch.value,
            seen.value,
            config.seed,
            BalancedOrder(data.train.labels, config.seed) if config.sampler == "balanced" else None,
        ),
        lr=lr.value,
        flip=flip.value,
        num_workers=workers.value,
        accelerator=build_accelerator(device, num_threads=num_threads),
        precision=choose_precision(device),
        class_weights=balanced_class_weights(data.train.labels, len(data.train.class_names))
        if config.class_weights == "balanced"
        else None,
    )
    # last, because only the finished plan says how many images the last batch has
    check_batch_norm(job)
    decisions: dict[str, Decision[Any]] = {
        "data": Decision(
            data.source.spec, data.source.description if config.data else "the default: no --data is given"
        ),
        "model": model,
        "image size": size,
        "interpolation": interp,
        "head": head,
        "recipe": Decision(recipe_name, recipe_reason),
        "batch": batch,
        "length": seen,
        "lr": lr,
        "flip": flip,
        "device": Decision(device.type, device_reason),
        "threads": Decision(num_threads, threads_reason),
        "workers": workers,
    }
    settings = header_settings(job, data=data, loaded=loaded, resolution=resolution, decisions=decisions)
    if config.cache == "resized":
        settings.append(_cache_setting(job, data))
    for note in (*data.source.notes, *prepared.notes):
        conversation.warn(note)
    if model.value == DEMO and Path(DEMO).is_dir():
        conversation.warn(f"'{DEMO}' is the embedded model; the folder here is './{DEMO}'.")
    for line in data.skipped:
        conversation.warn(f"left out: {line}")
    if not config.dry_run:
        settings.append(
            Setting("run folder", str(out), "given" if config.out else "the default for this data and model")
        )
    resolved = _resolved_config(config, decisions, job, val_spec=data.val_spec, model=loaded.name)
    return Plan(resolved, data, loaded, resolution, job, out, settings, has_ridge_head)


def _resolved_config(
    config: FinetuneConfig, decisions: Mapping[str, Decision[Any]], job: Job, *, val_spec: str, model: str
) -> FinetuneConfig:
    """Return ``config`` with every ``None`` decided and every path absolute; what is not named here stays as given."""
    seen, batch_size = decisions["length"].value, decisions["batch"].value
    is_whole = seen == job.batches.num_steps * batch_size  # else a short last batch: only epochs say that
    return replace(
        config,
        data=decisions["data"].value,
        image_root=None if config.image_root is None else str(user_path(config.image_root).absolute()),
        val=val_spec if config.val is not None else None,
        model=model,
        weights=_absolute_weights(config.weights),
        image_size=decisions["image size"].value,
        pos_embed_interp=decisions["interpolation"].value,
        recipe=decisions["recipe"].value,
        set=config.set,
        steps=job.batches.num_steps if is_whole else None,
        epochs=None if is_whole else config.epochs,
        batch_size=batch_size,
        lr=decisions["lr"].value,
        flip=decisions["flip"].value,
        num_workers=decisions["workers"].value,
        num_threads=decisions["threads"].value,
        device=decisions["device"].value,
        recipe_settings=as_document(job.recipe),
    )


# --- deciding what the user left open ----------------------------------------------------------------------


def _decide_recipe(config: FinetuneConfig, *, is_demo: bool) -> tuple[str, Recipe, str]:
    name = config.recipe or ("demo" if is_demo else "transfer")
    if config.recipe_settings is not None:
        recipe = recipe_from_settings(config.recipe_settings, where="recipe_settings of --config")
        why = "as the configuration file holds it"
    else:
        if name not in list_recipes():
            name = str(recipe_path(name))
        recipe = load_recipe(name)
        why = "given" if config.recipe else f"the default for {'the demo model' if is_demo else 'a pretrained model'}"
    if config.set:
        return name, override(recipe, config.set), f"{why}; with --set {', '.join(config.set)}"
    return name, recipe, why


def _decide_out(config: FinetuneConfig, data_spec: str, model_spec: str) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    names = (Path(spec).absolute().name for spec in (data_spec, model_spec))
    return (Path("runs") / "-".join(names)).absolute()


def _absolute_weights(weights: str) -> str:
    return weights if weights in ("pretrained", "none") else str(user_path(weights).absolute())


def _check_classes(sources: TrainingSources) -> None:
    names = sources.train.class_names
    if len(names) < 2:
        raise DataError(
            f"{sources.source.spec} has one class, {names[0]!r}; a classifier needs two or more. Put the images of "
            "each class into a folder of its own."
        )


def _cache_setting(job: Job, data: TrainingData) -> Setting:
    short_side = job.training_transform().least_side
    size = format_bytes(num_bytes(resized_sizes(data.sizes, short_side)))
    return Setting("image cache", f"resized, {size}", f"short side up to {short_side} px, in {cache_folder()}")


def _with_resized_images(plan: Plan, conversation: Conversation) -> Plan:
    """Return ``plan`` with its training images read from the cache of resized ones, made if need be."""
    with plan.job.accelerator.local_main_process_first():  # the others find what the first has written
        train, _ = resized_split(
            plan.job.train,
            plan.data.sizes,
            short_side=plan.job.training_transform().least_side,
            num_threads=num_scan_threads(),
            conversation=conversation,
        )
    return replace(plan, job=replace(plan.job, train=train))


# --- the closed-form head ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Probe:
    """The closed-form head and how it does before any training.

    Attributes:
        head: Its penalty, temperature and leave-one-out accuracy.
        score: On the validation images, as step 0.
    """

    head: RidgeHead
    score: Score

    def result(self) -> LinearProbe:
        """Return what the summary says of it."""
        return LinearProbe(
            top1=self.score.top1,
            loss=self.score.loss,
            l2=self.head.l2,
            loo_top1=self.head.loo_accuracy,
            scale=self.head.scale,
        )


def _with_ridge_head(plan: Plan, conversation: Conversation) -> _Probe | None:
    """Fill in the head from the frozen features of the training images; return it and its score.

    Of several processes the first does it; the others get its weights when training starts.
    """
    job = plan.job
    if not job.accelerator.is_main_process:
        return None
    key = FeatureKey(FINAL, "native")
    extractor = FeatureExtractor(job.model, [key], device=job.accelerator.device, name=plan.loaded.name)
    batches = evaluation_batches(
        job.train, EvaluationTransform(job.preprocessing), batch_size=MIN_EVALUATION_BATCH, num_workers=job.num_workers
    )
    features = stream_features(
        extractor,
        batches,
        num_images=len(job.train),
        description="embedding training images",
        conversation=conversation,
    )
    with _resources(plan):
        head = fit_ridge_head(
            (batch[key] for batch in features),
            job.train.labels,
            num_classes=len(job.train.class_names),
            has_intercept=_has_even_classes(job.train) or (job.class_weights is None and job.batches.balanced is None),
            seed=job.batches.seed,
        )
        weights, bias = (torch.from_numpy(part).float() for part in (head.linear.weights.T, head.linear.bias))
        set_linear_head(job.model, weights, bias, name=plan.loaded.name)
        found = "" if head.loo_accuracy is None else f", {head.loo_accuracy:.2%} of the training images when left out"
        conversation.line(f"closed-form head: l2 {head.l2:g}{found}, scores x{head.scale:.3g}")
        return _Probe(head, _validate(plan, conversation, 0)[0])


def _has_even_classes(split: Split) -> bool:
    counts = split.counts()
    return bool((counts == counts[0]).all())


# --- validating --------------------------------------------------------------------------------------------


def _validate(plan: Plan, conversation: Conversation, step: int) -> tuple[Score, np.ndarray | None]:
    """Score the model as it is now, the way ``vitctl evaluate`` would."""
    job = plan.job
    if job.val is None:
        return Score(step, None, None), None
    logits = split_logits(
        job.model,
        job.val,
        job.preprocessing,
        batch_size=max(MIN_EVALUATION_BATCH, job.batches.batch_size),
        num_workers=job.num_workers,
        device=job.accelerator.device,
        description="validating",
        conversation=conversation,
    )
    labels = job.val.labels
    top1, loss = top_k_accuracy(logits, labels, 1), mean_nll(logits, labels)
    low, high = wilson_interval(round(top1 * len(labels)), len(labels))
    conversation.line(
        f"step {step}: validation loss {loss:.4f}, top-1 {top1:.2%} "
        f"(95 % interval {low:.1%} to {high:.1%}, {len(labels)} images)"
    )
    return Score(step, top1, loss), logits


# --- writing -----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _run_folder(plan: Plan, *, overwrite: bool) -> Iterator[RunFolder | None]:
    """Yield the run folder in the first process, None in the others."""
    if not plan.job.accelerator.is_main_process:
        yield None
        return
    with new_run_folder(plan.out, overwrite=overwrite) as folder:
        yield folder


@contextlib.contextmanager
def _resources(plan: Plan) -> Iterator[None]:
    """Say in a sentence that the memory of the device, or the disk, is full."""
    try:
        with enough_memory(plan.job.accelerator.device, plan.job.batches.batch_size, "--image-size"):
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise cannot_write(plan.out, "the disk is full") from error


def _identity(plan: Plan) -> WeightsIdentity:
    return WeightsIdentity(plan.data.train.class_names, plan.job.preprocessing, plan.loaded.name, plan.loaded.licence)


def config_document(config: FinetuneConfig) -> JsonObject:
    """Return the ``config.json`` of a run: every setting, resolved, and the versions it was made with."""
    versions = {package: version(package) for package in PACKAGES}
    return {
        "vitctl": __version__,
        "command": "finetune",
        **config.as_json(without=NOT_OF_A_RUN),
        "versions": versions,
    }


def _write_start(plan: Plan, folder: RunFolder | None) -> None:
    if folder is None:
        return
    folder.write_json("config.json", config_document(plan.config))
    if plan.data.val is not None:
        names = plan.data.val.image_names()
        folder.write_json("validation.json", {"data": plan.data.val_spec, "images": names})


def _write_end(
    plan: Plan, outcome: Outcome, probe: _Probe | None, folder: RunFolder | None, *, wall_s: float
) -> FinetuneResult:
    after = geometry_of(plan.loaded.model)
    summary = FinetuneResult(
        run=str(plan.out),
        model=plan.loaded.name,
        image_size=after.image_size,
        grid_before=plan.resolution.before.grid if plan.resolution else None,
        grid_after=after.grid,
        num_classes=len(plan.data.train.class_names),
        num_train=len(plan.data.train),
        num_val=len(plan.data.val) if plan.data.val else 0,
        steps=plan.job.batches.num_steps,
        best=outcome.best,
        last=outcome.last,
        linear_probe=None if probe is None else probe.result(),
        weights_sha256=None if folder is None else sha256_of(folder.path / "last" / "model.safetensors"),
        images_per_s=round(outcome.images_per_s, 3),
        data_wait_fraction=round(outcome.data_wait_fraction, 4),
        wall_s=round(wall_s, 3),
    )
    if folder is None:
        return summary
    draw_curves(folder.path / "metrics.jsonl", folder.path / "curves.png")
    if plan.data.val is not None and outcome.best_logits is not None:
        class_names = plan.data.train.class_names
        matrix = confusion(outcome.best_logits.argmax(axis=1), plan.data.val.labels, num_classes=len(class_names))
        draw_confusion(matrix, class_names, folder.path / "confusion.png", title="validation images")
    folder.write_json("summary.json", summary.as_json())
    return summary


def _describe_cost(plan: Plan, conversation: Conversation) -> DryRunResult:
    """Measure one forward and backward pass, show the cost, and return it with the settings."""
    cost = measure_cost(plan.job)
    conversation.header("cost of this run (nothing was written)", cost_settings(cost, plan.job))
    after = geometry_of(plan.loaded.model)
    return DryRunResult(
        config=config_document(plan.config),
        num_classes=len(plan.data.train.class_names),
        num_train=len(plan.data.train),
        num_val=len(plan.data.val) if plan.data.val else 0,
        grid_before=plan.resolution.before.grid if plan.resolution else None,
        grid_after=after.grid,
        num_tokens=after.num_tokens,
        steps=plan.job.batches.num_steps,
        epochs=plan.job.batches.num_images_seen / len(plan.data.train),
        num_parameters=cost.num_parameters,
        flops_per_image=cost.flops_per_image,
        memory_bytes=cost.memory_bytes,
        step_s=cost.step_s,
        training_s=cost.training_s,
        groups=cost.groups,
    )
