"""``vitctl finetune``: from a pretrained ViT and images to a run folder.

The order matters: everything that can be wrong is found before the first step, cheapest first, and
nothing is written before that.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from vitctl import __version__
from vitctl.config import FinetuneConfig
from vitctl.conversation import Conversation, Setting
from vitctl.data.loader import BatchPlan, evaluation_batches, resolve_num_workers, training_batches
from vitctl.data.training_data import TrainingData, prepare_training_data
from vitctl.data.transforms import EvaluationTransform, TrainingTransform
from vitctl.errors import InterruptedRun, SettingError
from vitctl.evaluation.classify import predict_logits
from vitctl.evaluation.metrics import confusion, mean_nll, top_k_accuracy, wilson_interval
from vitctl.models.build import DEMO, LoadedModel, load_model, preprocessing_of, replace_head
from vitctl.models.geometry import Resolution, change_resolution, geometry_of
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.devices import resolve_device, resolve_num_threads
from vitctl.primitives.files import sha256_of
from vitctl.primitives.image_sizes import check_divisible, format_size, parse_image_size
from vitctl.primitives.interrupts import StopRequest, stop_requests
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes import Recipe, load_recipe, recipe_from_settings
from vitctl.reporting.figures import draw_confusion, draw_curves
from vitctl.training.decisions import (
    Decision,
    decide_batch_size,
    decide_image_size,
    decide_lr,
    decide_num_images_seen,
    validation_steps,
)
from vitctl.training.loop import RateSchedule, StepReport, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.run_folder import RunFolder, check_out, new_run_folder

DEFAULT_DATA = "digits"
CPU_MODEL = "vit_small_patch16_224.augreg_in21k"
GPU_MODEL = "vit_base_patch16_224.augreg_in21k"


@dataclass(frozen=True)
class Plan:
    """A run with nothing left to decide.

    Attributes:
        config: Every setting resolved: with ``--config`` on it the run repeats.
        data: Images, checked and split.
        loaded: The model at its new size, with its new head.
        resolution: What changing the size did; None for random weights, built at the size.
        preprocessing: Of validation, evaluate and predict.
        recipe: Optimiser, schedule, augmentation.
        batches: Which images make up each step.
        lr: Peak rate.
        accelerator: Devices, processes, precision.
        out: Run folder.
        settings: The header.
    """

    config: FinetuneConfig
    data: TrainingData
    loaded: LoadedModel
    resolution: Resolution | None
    preprocessing: Preprocessing
    recipe: Recipe
    batches: BatchPlan
    lr: float
    accelerator: Accelerator
    out: Path
    settings: list[Setting]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The class map of the run."""
        return self.data.train.class_names


@dataclass(frozen=True)
class Score:
    """How weights did on the validation images; None where there are none."""

    step: int
    top1: float | None
    loss: float | None


def run(config: FinetuneConfig, conversation: Conversation) -> dict[str, Any]:
    """Fine-tune, and return the summary (the ``--json`` document).

    Raises:
        SettingError, DataError, ModelError, UnavailableError: Something cannot be used; nothing was written.
        InterruptedRun: The user stopped it; ``last/`` holds the weights.
    """
    started = time.perf_counter()
    plan = make_plan(config, conversation)
    conversation.header("finetune", plan.settings)
    if config.dry_run:
        from vitctl.workflows.dry_run import describe_cost

        return describe_cost(plan, conversation)
    with _run_folder(plan) as folder, stop_requests() as stop:
        recorder = Recorder(plan, folder)
        recorder.write_start()
        last, best, images_per_s = _train(plan, recorder, stop, conversation)
        return recorder.write_end(last, best, images_per_s=images_per_s, started=started)


# --- deciding ---------------------------------------------------------------------------------------------


def make_plan(config: FinetuneConfig, conversation: Conversation) -> Plan:
    """Resolve every setting, check every input, load the model; writes nothing."""
    is_default_data = config.data is None
    data_spec = config.data or DEFAULT_DATA
    device, device_reason = resolve_device(config.device)
    num_threads, threads_reason = resolve_num_threads(config.num_threads)
    model_spec, model_reason = _decide_model(config, device)
    recipe_name, recipe, recipe_reason = _decide_recipe(config, is_demo=model_spec == DEMO)
    out = _decide_out(config, data_spec, model_spec)
    if not config.dry_run:
        check_out(out, overwrite=config.overwrite)

    wanted = parse_image_size(config.image_size) if config.image_size else None
    loaded = load_model(model_spec, weights=config.weights, seed=config.seed)
    pretrained = geometry_of(loaded.model, name=loaded.name)
    if wanted:
        check_divisible(wanted, pretrained.patch_size, model=loaded.name)
    data = prepare_training_data(
        data_spec,
        val=config.val,
        val_fraction=config.val_fraction,
        seed=config.seed,
        skip_bad=config.on_bad_image == "skip",
        num_threads=num_threads,
        conversation=conversation,
    )
    if len(data.train.class_names) < 2:
        raise SettingError(
            f"{data.source.spec} has one class, {data.train.class_names[0]!r}; a classifier needs two or more. Put "
            "the images of each class into a folder of its own."
        )
    size = (
        Decision(wanted, "asked for")
        if wanted
        else decide_image_size(data.sizes, pretrained.image_size, pretrained.patch_size, is_demo=model_spec == DEMO)
    )
    interp = _decide_interpolation(config, recipe, recipe_name)
    loaded, resolution = _fit_model(config, model_spec, loaded, size.value, interp.value)
    head_reason = _fit_head(loaded, data.train.class_names, recipe, seed=config.seed)
    preprocessing = _fit_preprocessing(preprocessing_of(loaded.model), size.value, recipe)

    num_train = len(data.train)
    batch = decide_batch_size(config.batch_size, recipe, num_train, recipe_name=recipe_name)
    seen = decide_num_images_seen(
        config.steps, config.epochs, recipe, num_train, batch.value, recipe_name=recipe_name
    )
    lr = decide_lr(config.lr, recipe, batch.value, recipe_name=recipe_name)
    flip = _decide_flip(config, recipe, recipe_name, is_flippable=data.source.is_flippable)
    workers = resolve_num_workers(
        config.num_workers, is_in_memory=data.source.is_in_memory, device_type=device.type
    )
    accelerator = _build_accelerator(device)
    batches = BatchPlan(num_train, batch.value, seen.value, config.seed)
    resolved = FinetuneConfig(
        data=data.source.spec,
        val=data.val_spec if config.val is not None else None,
        val_fraction=config.val_fraction,
        model=loaded.name,
        weights=_absolute_weights(config.weights),
        image_size=format_size(size.value),
        pos_embed_interp=interp.value,
        recipe=recipe_name,
        steps=batches.num_steps if seen.value == batches.num_steps * batch.value else None,
        epochs=None if seen.value == batches.num_steps * batch.value else config.epochs,
        batch_size=batch.value,
        lr=lr.value,
        flip=flip.value,
        on_bad_image=config.on_bad_image,
        seed=config.seed,
        num_workers=workers[0],
        num_threads=num_threads,
        device=device.type,
        recipe_settings=recipe.as_settings(),
    )
    settings = _header(
        data=data,
        is_default_data=is_default_data,
        loaded=loaded,
        model_reason=model_reason,
        resolution=resolution,
        size=size,
        interp=interp,
        head_reason=head_reason,
        recipe_name=recipe_name,
        recipe=recipe,
        recipe_reason=recipe_reason,
        batches=batches,
        batch=batch,
        seen=seen,
        lr=lr,
        flip=flip,
        workers=workers,
        device=(accelerator, device_reason),
        threads=(num_threads, threads_reason),
        seed=config.seed,
        out=None if config.dry_run else out,
    )
    for note in (*data.source.notes, *(loaded.report.notes if loaded.report else ())):
        conversation.warn(note)
    return Plan(
        resolved, data, loaded, resolution, preprocessing, recipe, batches, lr.value, accelerator, out, settings
    )


def _decide_model(config: FinetuneConfig, device: torch.device) -> tuple[str, str]:
    if config.model is not None:
        return config.model, "asked for"
    if config.data is None:
        return DEMO, "embedded; neither --data nor --model is given"
    if device.type == "cpu":
        return CPU_MODEL, "the smaller default, for a machine without a GPU; a GPU would get the base size"
    return GPU_MODEL, "the paper's family, Apache-2.0"


def _decide_recipe(config: FinetuneConfig, *, is_demo: bool) -> tuple[str, Recipe, str]:
    name = config.recipe or ("demo" if is_demo else "transfer")
    reason = "asked for" if config.recipe else f"the default for {'the demo model' if is_demo else 'a pretrained ViT'}"
    if config.recipe_settings is not None:
        settings = recipe_from_settings(config.recipe_settings, sources={}, where="recipe_settings of --config")
        return name, settings, "as the configuration file holds it"
    return name, load_recipe(name), reason


def _decide_out(config: FinetuneConfig, data_spec: str, model_spec: str) -> Path:
    if config.out is not None:
        return Path(config.out).expanduser().absolute()
    return (Path("runs") / f"{Path(data_spec).name}-{Path(model_spec).name}").absolute()


def _decide_interpolation(config: FinetuneConfig, recipe: Recipe, recipe_name: str) -> Decision[str]:
    if config.pos_embed_interp is not None:
        return Decision(config.pos_embed_interp, "asked for")
    if config.weights.endswith(".npz"):
        return Decision("paper", "what the authors' code does to their .npz weights")
    return Decision(recipe.pos_embed_interp, f"recipe {recipe_name}")


def _decide_flip(config: FinetuneConfig, recipe: Recipe, recipe_name: str, *, is_flippable: bool) -> Decision[bool]:
    if config.flip is not None:
        return Decision(config.flip, "asked for")
    if recipe.flip and not is_flippable:
        return Decision(False, "these images show digits or letters")
    return Decision(recipe.flip, f"recipe {recipe_name}")


def _absolute_weights(weights: str) -> str:
    return weights if weights in ("pretrained", "none") else str(Path(weights).expanduser().absolute())


def _fit_model(
    config: FinetuneConfig, model_spec: str, loaded: LoadedModel, size: tuple[int, int], method: str
) -> tuple[LoadedModel, Resolution | None]:
    """Bring the model to ``size``; random weights are drawn at that size, there is nothing to resample."""
    if config.weights == "none":
        geometry = geometry_of(loaded.model, name=loaded.name)
        check_divisible(size, geometry.patch_size, model=loaded.name)
        if size != geometry.image_size:
            loaded = load_model(model_spec, weights="none", image_size=size, seed=config.seed)
        return loaded, None
    return loaded, change_resolution(loaded.model, size, method=method, name=loaded.name)


def _fit_head(loaded: LoadedModel, class_names: tuple[str, ...], recipe: Recipe, *, seed: int) -> str:
    """Give the model a head for ``class_names`` unless it has one, and return what was done and why."""
    if loaded.class_names == class_names and loaded.name != DEMO:
        return f"kept: it has these {len(class_names)} classes already"
    replace_head(loaded.model, len(class_names), method=recipe.head, seed=seed)
    had = "random weights" if loaded.report is None else "the pretrained classes are others"
    return f"new, {recipe.head} initialisation, {len(class_names)} outputs: {had}"


def _fit_preprocessing(own: Preprocessing, size: tuple[int, int], recipe: Recipe) -> Preprocessing:
    crop = {"crop_pct": 1.0, "crop_mode": "squash"} if recipe.evaluation_crop == "squash" else {}
    return Preprocessing(**{**asdict(own), "image_size": size, **crop})


def _build_accelerator(device: torch.device) -> Accelerator:
    use_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return Accelerator(cpu=device.type == "cpu", mixed_precision="bf16" if use_bf16 else "no")


def _header(  # noqa: D417
    *,
    data: TrainingData,
    is_default_data: bool,
    loaded: LoadedModel,
    model_reason: str,
    resolution: Resolution | None,
    size: Decision[tuple[int, int]],
    interp: Decision[str],
    head_reason: str,
    recipe_name: str,
    recipe: Recipe,
    recipe_reason: str,
    batches: BatchPlan,
    batch: Decision[int],
    seen: Decision[int],
    lr: Decision[float],
    flip: Decision[bool],
    workers: tuple[int, str],
    device: tuple[Accelerator, str],
    threads: tuple[int, str],
    seed: int,
    out: Path | None,
) -> list[Setting]:
    """Return every resolved setting with its reason, in the order a person asks."""
    train, val, accelerator = data.train, data.val, device[0]
    rows = [
        Setting("data", data.source.spec, "the default: no --data is given" if is_default_data else data.source.description),
        Setting("classes", f"{len(train.class_names)}: {_listed(train.class_names)}", _balance(train.counts())),
        Setting("training images", f"{len(train):,}", f"{len(data.skipped)} left out, unreadable" if data.skipped else ""),
        Setting("validation images", f"{len(val) if val else 0:,}", data.val_reason),
        Setting("model", loaded.name, model_reason),
        Setting("weights", *_weights_setting(loaded)),
        Setting("image size", f"{format_size(size.value)} px", size.reason),
        *_resolution_settings(loaded, resolution, interp),
        Setting("head", head_reason.partition(":")[0], head_reason.partition(": ")[2]),
        Setting("recipe", f"{recipe_name}: {recipe.name}, weight decay {recipe.weight_decay:g}, layer decay "
                f"{recipe.layer_decay:g}, clip {recipe.clip_norm:g}", recipe_reason),
        Setting("batch", f"{batch.value} images"
                + (f" over {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""), batch.reason),
        Setting("length", f"{batches.num_steps:,} steps, {seen.value / len(train):.3g} epochs", seen.reason),
        Setting("learning rate", f"{lr.value:.3g}", lr.reason),
        Setting("augmentation", recipe.crop + (" and flip" if flip.value else ", no flip"), f"flip: {flip.reason}"),
        Setting("best weights", *_selection_setting(recipe, val)),
        Setting("device", f"{accelerator.device}, {accelerator.mixed_precision.replace('no', 'fp32')}", device[1]),
        Setting("threads, workers", f"{threads[0]}, {workers[0]}", f"{threads[1]}; {workers[1]}"),
        Setting("seed", str(seed)),
    ]  # fmt: skip
    return [*rows, Setting("run folder", str(out))] if out else rows


def _listed(names: tuple[str, ...], most: int = 10) -> str:
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _balance(counts: np.ndarray) -> str:
    return f"{counts.min():,} to {counts.max():,} training images each"


def _weights_setting(loaded: LoadedModel) -> tuple[str, str]:
    report = loaded.report
    if report is None:
        return "random", "--weights none"
    details = [f"{report.num_loaded} tensors loaded"]
    if report.missing:
        details.append(f"missing: {', '.join(report.missing)}")
    if report.unexpected:
        details.append(f"unexpected, not used: {_listed(report.unexpected, 5)}")
    if loaded.licence:
        details.append(f"licence {loaded.licence}")
    return report.source, "; ".join(details)


def _resolution_settings(
    loaded: LoadedModel, resolution: Resolution | None, interp: Decision[str]
) -> list[Setting]:
    after = geometry_of(loaded.model, name=loaded.name)
    grid = f"{after.grid[0]}x{after.grid[1]}"
    if resolution is None or resolution.before.image_size == after.image_size:
        return [Setting("grid", f"{grid}, {after.num_tokens} tokens", "as built" if resolution is None else "unchanged")]
    before = resolution.before
    rows = [
        Setting(
            "grid",
            f"{before.grid[0]}x{before.grid[1]} to {grid}, {before.num_tokens} to {after.num_tokens} tokens",
            f"attention costs x{resolution.attention_cost_factor:.2g}, the rest "
            f"x{after.num_tokens / before.num_tokens:.2g}; the patch stays {format_size(after.patch_size)} px",
        )
    ]
    if resolution.norm_ratio is None:
        return [*rows, Setting("position embeddings", "none", "this model has no absolute ones; timm adapts its own kind")]
    return [*rows, Setting("position embeddings", f"{interp.value}, norm x{resolution.norm_ratio:.3f}", interp.reason)]


def _selection_setting(recipe: Recipe, val: Any) -> tuple[str, str]:
    num_val = len(val) if val is not None else 0
    if num_val >= recipe.select_best_from:
        return "lowest validation loss", f"{num_val:,} validation images"
    return "the last step", f"fewer than {recipe.select_best_from:,} validation images to choose by"


# --- training ---------------------------------------------------------------------------------------------


def _train(
    plan: Plan, recorder: "Recorder", stop: StopRequest, conversation: Conversation
) -> tuple[Score, Score, float]:
    """Train to the end; return the scores of last/ and best/, and the images per second."""
    recipe, accelerator, num_steps = plan.recipe, plan.accelerator, plan.batches.num_steps
    groups = parameter_groups(plan.loaded.model, weight_decay=recipe.weight_decay, layer_decay=recipe.layer_decay)
    optimizer = build_optimizer(groups, name=recipe.name, lr=plan.lr, betas=recipe.betas, momentum=recipe.momentum)
    model, optimizer = accelerator.prepare(plan.loaded.model, optimizer)
    schedule = RateSchedule(num_steps, round(recipe.warmup_fraction * num_steps), plan.lr, recipe.final_lr)
    selects = plan.data.val is not None and len(plan.data.val) >= recipe.select_best_from
    best: Score | None = None
    score = Score(num_steps, None, None)
    num_images, training_s = 0, 0.0
    validate_after = set(validation_steps(num_steps, recipe.validations))
    steps = train_steps(
        model, optimizer, _batches(plan), schedule, accelerator=accelerator, clip_norm=recipe.clip_norm
    )
    with conversation.progress("training", num_steps, "steps") as bar:
        for report in steps:
            num_images, training_s = num_images + report.num_images, training_s + report.step_s
            recorder.step(report)
            bar.advance(
                loss=f"{report.loss:.3f}",
                lr=f"{report.lr:.1e}",
                speed=f"{report.num_images / report.step_s:.0f} images/s",
                waiting=f"data {report.data_s / report.step_s:.0%}",
            )
            if stop:
                recorder.save("last")
                raise InterruptedRun(
                    f"Stopped after step {report.step} of {num_steps}; its weights are in {plan.out / 'last'}.",
                    exit_code=stop.exit_code,
                )
            if report.step in validate_after:
                score = _validate(plan, report.step, recorder, conversation)
                recorder.save("last")
                if selects and (best is None or (score.loss or 0) < (best.loss or 0)):
                    best = score
                    recorder.save("best")
    if best is None:
        best = score
        recorder.save("best")
    return score, best, num_images / training_s


def _batches(plan: Plan) -> Any:
    recipe, config, accelerator = plan.recipe, plan.config, plan.accelerator
    transform = TrainingTransform(
        plan.preprocessing, crop=recipe.crop, crop_area=recipe.crop_area, flip=bool(config.flip), seed=config.seed
    )
    return training_batches(
        plan.data.train,
        transform,
        plan.batches,
        num_workers=config.num_workers or 0,
        process_index=accelerator.process_index,
        num_processes=accelerator.num_processes,
        pin_memory=accelerator.device.type == "cuda",
    )


def validation_logits(plan: Plan, conversation: Conversation) -> np.ndarray:
    """Return the logits of the validation images, (N, C) float32, from the model as it is now."""
    val = plan.data.val
    assert val is not None
    batches = evaluation_batches(
        val,
        EvaluationTransform(plan.preprocessing),
        batch_size=max(64, plan.batches.batch_size),
        num_workers=plan.config.num_workers or 0,
    )
    return predict_logits(
        plan.accelerator.unwrap_model(plan.loaded.model),
        batches,
        device=plan.accelerator.device,
        num_images=len(val),
        description="validating",
        conversation=conversation,
    )


def _validate(plan: Plan, step: int, recorder: "Recorder", conversation: Conversation) -> Score:
    if plan.data.val is None:
        return Score(step, None, None)
    logits, labels = validation_logits(plan, conversation), plan.data.val.labels
    score = Score(step, top_k_accuracy(logits, labels, 1), mean_nll(logits, labels))
    low, high = wilson_interval(round((score.top1 or 0) * len(labels)), len(labels))
    recorder.validation(score, logits)
    conversation.line(
        f"step {step}: validation loss {score.loss:.4f}, top-1 {score.top1:.4f} "
        f"(95 % interval {low:.3f} to {high:.3f}, {len(labels)} images)"
    )
    return score


# --- writing ----------------------------------------------------------------------------------------------


def _run_folder(plan: Plan) -> Any:
    from contextlib import nullcontext

    if not plan.accelerator.is_main_process:
        return nullcontext(None)
    return new_run_folder(plan.out, overwrite=True)


class Recorder:
    """Writes a run's files; in processes other than the first it writes nothing."""

    def __init__(self, plan: Plan, folder: RunFolder | None) -> None:
        self._plan, self._folder = plan, folder
        self._confusion: np.ndarray | None = None

    def write_start(self) -> None:
        """Write the configuration and the list of validation images."""
        if self._folder is None:
            return
        self._folder.write_json("config.json", config_document(self._plan.config))
        val = self._plan.data.val
        if val is not None:
            self._folder.write_json(
                "validation.json", {"data": self._plan.data.val_spec, "split": "val", "images": val.image_names()}
            )

    def step(self, report: StepReport) -> None:
        """Add a training step to the metrics, and its timing to the speeds."""
        if self._folder is None:
            return
        epoch = min(report.step * self._plan.batches.batch_size, self._plan.batches.num_images_seen)
        self._folder.append(
            "metrics.jsonl",
            {
                "step": report.step,
                "epoch": round(epoch / self._plan.batches.num_images, 6),
                "loss": report.loss,
                "lr": report.lr,
            },
        )
        self._folder.append(
            "speed.jsonl",
            {
                "step": report.step,
                "step_s": round(report.step_s, 6),
                "data_wait_s": round(report.data_s, 6),
                "images_per_s": round(report.num_images / report.step_s, 3),
            },
        )

    def validation(self, score: Score, logits: np.ndarray) -> None:
        """Add a validation to the metrics and draw the curves so far."""
        self._logits = logits
        if self._folder is not None:
            self._folder.append(
                "metrics.jsonl", {"step": score.step, "val_loss": score.loss, "val_top1": score.top1}
            )

    def save(self, name: str) -> None:
        """Write the model's weights as the timm folder ``name``."""
        if self._folder is None:
            return
        loaded = self._plan.loaded
        save_timm_folder(
            self._plan.accelerator.unwrap_model(loaded.model),
            self._folder.path / name,
            class_names=self._plan.class_names,
            preprocessing=self._plan.preprocessing,
            base_model=loaded.name,
            base_licence=loaded.licence,
        )

    def write_end(self, last: Score, best: Score, *, images_per_s: float, started: float) -> dict[str, Any]:
        summary = {"last": asdict(last), "best": asdict(best), "images_per_s": images_per_s, "wall_s": time.perf_counter() - started}
        if self._folder is not None:
            self._folder.write_json("summary.json", summary)
        return summary


def config_document(config: FinetuneConfig) -> dict[str, Any]:
    """Return the ``config.json`` of a run: every setting, resolved, and the versions it was made with."""
    skipped = ("out", "overwrite", "dry_run")
    settings = {f.name: getattr(config, f.name) for f in fields(config) if f.name not in skipped}
    packages = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "scikit-learn")
    return {
        "vitctl": __version__,
        "command": "finetune",
        **settings,
        "versions": {package: version(package) for package in packages},
    }
