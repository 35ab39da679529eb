"""The header of ``vitctl finetune``: every resolved setting with its reason, in the order a person asks."""

import numpy as np

from vitctl.conversation import Setting
from vitctl.data.endings import left_out_settings
from vitctl.data.images import MOST_OF_16_BITS
from vitctl.data.resized import num_bytes, resized_sizes
from vitctl.data.training_data import TrainingData
from vitctl.models.build import LoadedModel
from vitctl.models.geometry import Geometry, Resolution, geometry_of
from vitctl.primitives.cache import cache_folder
from vitctl.primitives.decision import Decision
from vitctl.primitives.formatting import format_bytes, format_count, format_seconds
from vitctl.primitives.image_sizes import format_size
from vitctl.training.averaging import averaging_told
from vitctl.training.job import Job
from vitctl.training.micro_batches import kinds_by_division
from vitctl.training.plan import asked_noise
from vitctl.training.precision import tf32_told
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.trial import Cost


def header_settings(run: PreparedRun) -> list[Setting]:
    """Return the header."""
    plan, job, data, loaded = run.plan, run.job, run.data, run.loaded
    recipe, num_val = job.recipe, len(data.val) if data.val else 0
    skipped = f"{len(data.skipped)} left out because they cannot be read" if data.skipped else ""
    how, least = recipe.optimizer, recipe.evaluation.select_best_from
    optimizer = f"{how.name}, weight decay {how.weight_decay:g}, layer decay {how.layer_decay:g}"
    accelerator, names, counts = job.accelerator, data.train.class_names, data.train.counts()
    processes = f" over {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    selection = ("lowest validation loss", f"{num_val:,} validation images") if job.selects_best else (
        "the last step",
        f"fewer than {least:,} validation images to choose by" if num_val else "no validation images",
    )  # fmt: skip
    augmentation = recipe.images.crop + (", flip" if job.flip else ", no flip")
    threads = (f"{plan.threads.value}, {job.num_workers}", f"{plan.threads.reason}; {plan.workers.reason}")
    return [
        Setting("data", *plan.data),
        Setting("classes", f"{len(names)}: {listed(names)}", _each(counts) + _balance(job)),
        Setting("training images", f"{len(data.train):,}", skipped),
        Setting("validation images", f"{num_val:,}", data.val_reason + _unvalidated(data)),
        *left_out_settings(data.left_out),
        *_range(data),
        Setting("model", loaded.name, plan.model.reason + _arguments(run)),
        _weights(loaded),
        Setting("image size", f"{format_size(job.preprocessing.image_size)} px", plan.image_size.reason),
        *_resolution(loaded, run.resolution, plan.interpolation),
        Setting("head", *plan.head),
        Setting("recipe", f"{plan.recipe.value}: {optimizer}", plan.recipe.reason),
        Setting("batch", f"{job.batches.batch_size} images{processes}{_micro_batch(run)}", _batch_reason(run)),
        Setting("length", _length(job), plan.length.reason),
        Setting("learning rate", f"{job.lr:.3g}", plan.lr.reason),
        Setting("augmentation", augmentation, f"flip: {plan.flip.reason}"),
        *_mixing(job),
        *_noise(job),
        Setting("evaluation crop", f"{job.preprocessing.crop_mode}, {job.preprocessing.crop_pct:g}", _crop(job)),
        Setting("best weights", *selection),
        *_averaging(job),
        *_patience(job),
        Setting("device", job.processes.place, plan.device.reason),
        *_speed(run),
        Setting("threads, workers", *threads),
        Setting("seed", str(job.batches.seed), "split, order, augmentation, random weights"),
        *([_cache(job, data)] if run.config.cache == "resized" else []),
        *([] if run.config.dry_run else [Setting("run folder", str(plan.out.value), plan.out.reason)]),
    ]


def _arguments(run: PreparedRun) -> str:
    return f", with {', '.join(run.config.model_arg)}" if run.config.model_arg else ""


def _speed(run: PreparedRun) -> list[Setting]:
    """Return how the device computes: in which numbers, with which kernels."""
    precision, device, config = run.plan.precision, run.job.accelerator.device, run.config
    tf32 = tf32_told(device)
    rows = [Setting("precision", precision.value, precision.reason + (f"; {tf32}" if tf32 else ""))]
    if config.compile:
        rows.append(Setting("compiled", "yes", "before the first step, which takes a minute or so; not for validation"))
    if config.deterministic:
        rows.append(Setting("kernels", "deterministic", "the same run on the same machine gives the same bytes"))
    elif device.type == "cuda":
        rows.append(
            Setting("kernels", "the fastest", "the same run agrees to about 1e-3; byte for byte with --deterministic")
        )
    return rows


def cost_settings(cost: Cost, job: Job) -> list[Setting]:
    """Return what ``--dry-run`` adds to the header."""
    rows = [
        Setting("parameters", format_count(cost.num_parameters), "trained"),
        Setting("FLOPs per image", format_count(cost.flops_per_image), "forward; a training step takes about 3x"),
        Setting("memory", format_bytes(cost.memory_bytes), "weights, gradients, optimiser, activations; estimated"),
        Setting("time per step", format_seconds(cost.step_s), "one forward and backward pass, measured and scaled"),
        Setting(
            "training time",
            format_seconds(cost.training_s),
            f"{job.batches.num_steps:,} steps, no validation",
        ),
    ]
    for group in cost.groups:
        tensors = "1 tensor" if group.num_tensors == 1 else f"{group.num_tensors} tensors"
        rate = f"rate x{group.lr_scale:.3g}, weight decay {group.weight_decay:g}"
        rows.append(Setting("group", rate, f"{tensors}, {group.num_parameters:,} parameters"))
    return rows


def listed(names: tuple[str, ...], most: int = 10) -> str:
    """Return the first names, and dots where there are more."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def _each(counts: np.ndarray) -> str:
    least, most = int(counts.min()), int(counts.max())
    return f"{least:,} images each" if least == most else f"{least:,} to {most:,} images each"


def _unvalidated(data: TrainingData) -> str:
    names = data.unvalidated
    return f"; {len(names)} of {len(data.train.class_names)} classes have none: {listed(names)}" if names else ""


def _range(data: TrainingData) -> list[Setting]:
    if not data.depth.num_images:
        return []
    white = f"; {data.max_value.value or MOST_OF_16_BITS:,} is white"
    return [Setting("pixel values", data.depth.described() + white, data.max_value.reason)]


def _balance(job: Job) -> str:
    if job.class_weights is not None:
        return f"; weighted {job.class_weights.min():.2g} to {job.class_weights.max():.2g} in the loss"
    return "; each shown equally often" if job.batches.balanced is not None else ""


def _micro_batch(run: PreparedRun) -> str:
    batches = run.job.batches
    num_images = batches.largest_micro_batch(run.job.accelerator.num_processes)
    size = f", {num_images} at a time" if batches.micro_batch is not None else ""
    return size + (", blocks computed twice" if run.config.checkpointing else "")


def _batch_reason(run: PreparedRun) -> str:
    """Return why the batch is what it is, and what its division into parts is not without effect on."""
    job, reason = run.job, run.plan.batch.reason
    num_images = job.batches.largest_micro_batch(job.accelerator.num_processes)
    kinds = kinds_by_division(job.model)
    if num_images == job.batches.batch_size or not kinds:
        return reason
    return f"{reason}; what {' and '.join(kinds)} does depends on the {num_images} at a time"


def _mixing(job: Job) -> list[Setting]:
    kinds = [f"{key}, alpha {alpha:g}" for key, alpha in vars(job.recipe.mixing).items() if alpha]
    why = "neighbours in the batch" + (", each pair one of the two" if len(kinds) > 1 else "")
    return [Setting("mixing", "; ".join(kinds), why)] if kinds else []


def _noise(job: Job) -> list[Setting]:
    noise, parts = job.noise, list[str]()
    if noise.branch_rate:
        blocks = "1 block" if noise.num_blocks == 1 else f"{noise.num_blocks} blocks"
        parts.append(f"drop path up to {noise.branch_rate:g} in {blocks}")
    if noise.patch_rate:
        parts.append(f"{noise.patch_rate:.0%} of the patches dropped")
    asked = asked_noise(job.recipe).values()
    why = "the model's own rates" if all(rate is None for rate in asked) else "as the recipe says"
    return [Setting("noise", ", ".join(parts), f"{why}; keyed by step and place in the batch")] if parts else []


def _averaging(job: Job) -> list[Setting]:
    how = job.recipe.averaging
    return [Setting("averaging", *averaging_told(how, job.batches.num_steps))] if how.method != "none" else []


def _patience(job: Job) -> list[Setting]:
    if job.patience is None:
        return []
    count, ends = ("1 validation", "ends") if job.patience == 1 else (f"{job.patience} validations", "end")
    why = f"without a lower loss {ends} the run, and the schedule with it"
    kept = "" if job.selects_best else "; best/ will be the last step all the same"
    return [Setting("patience", count, why + kept)]


def _length(job: Job) -> str:
    epochs = job.batches.num_images_seen / job.batches.num_images
    return f"{job.batches.num_steps:,} steps, {epochs:.3g} epochs"


def _cache(job: Job, data: TrainingData) -> Setting:
    short_side = job.training_transform().least_side
    size = format_bytes(num_bytes(resized_sizes(data.sizes, short_side)))
    return Setting("image cache", f"resized, {size}", f"short side up to {short_side} px, in {cache_folder()}")


def _crop(job: Job) -> str:
    return "the recipe's" if job.recipe.images.evaluation_crop == "squash" else "the model's own"


def _weights(loaded: LoadedModel) -> Setting:
    report = loaded.report
    if report is None:
        return Setting("weights", "random", "--weights none")
    details = [f"{report.num_loaded} tensors loaded"]
    details.append(f"missing: {listed(report.missing)}" if report.missing else "none missing")
    details.append(f"not used: {listed(report.unexpected, 5)}" if report.unexpected else "none unexpected")
    if loaded.licence:
        details.append(f"licence {loaded.licence}")
    return Setting("weights", report.source, ", ".join(details))


def _resolution(loaded: LoadedModel, resolution: Resolution | None, interpolation: Decision[str]) -> list[Setting]:
    after = geometry_of(loaded.model)
    is_changed = resolution is not None and resolution.before.image_size != after.image_size
    if after.patch_size is None:
        return [_pixels(resolution)] if resolution is not None and is_changed else []
    if resolution is None or not is_changed:
        why = "random weights, built at this size" if resolution is None else "as pretrained"
        return [Setting("grid", f"{_grid(after)}, {after.num_tokens} tokens", why)]
    before = resolution.before
    grids = f"{_grid(before)} to {_grid(after)}, {before.num_tokens} to {after.num_tokens} tokens"
    cost = f"attention costs x{resolution.attention_cost_factor:.2g}, the rest x{resolution.cost_factor:.2g}"
    rows = [Setting("grid", grids, f"{cost}; the patch stays {format_size(after.patch_size)} px")]
    if resolution.norm_ratio is None:
        rows.append(Setting("position embeddings", "none", "no absolute ones in this model; timm adapts its own kind"))
        return rows
    rows.append(
        Setting(
            "position embeddings", f"{interpolation.value}, norm x{resolution.norm_ratio:.3f}", interpolation.reason
        )
    )
    return rows


def _grid(geometry: Geometry) -> str:
    return "x".join(str(side) for side in geometry.grid or ())


def _pixels(resolution: Resolution) -> Setting:
    """Return what a new size means for a model without a grid of patches."""
    sizes = f"{format_size(resolution.before.image_size)} to {format_size(resolution.after.image_size)} px"
    cost = f"convolutions cost x{resolution.cost_factor:.2g}"
    return Setting("resolution", sizes, f"no position embeddings to resample; {cost}")
