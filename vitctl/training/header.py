"""The header of ``vitctl finetune``: every resolved setting with its reason, in the order a person asks."""

import numpy as np

from vitctl.conversation import Setting
from vitctl.data.endings import left_out_settings
from vitctl.data.images import MOST_OF_16_BITS
from vitctl.data.resized import num_bytes, resized_sizes
from vitctl.data.training_data import TrainingData
from vitctl.models.build import LoadedModel
from vitctl.models.geometry import Geometry, Resolution, geometry_of
from vitctl.models.pooling import MODEL, described_pooling
from vitctl.primitives.cache import cache_folder
from vitctl.primitives.decision import Decision
from vitctl.primitives.formatting import format_bytes, format_count, format_rounded, format_seconds
from vitctl.primitives.image_sizes import format_size
from vitctl.recipes import published_results, told_together
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.averaging import averaging_told
from vitctl.training.header_augmentation import augmentation_setting
from vitctl.training.job import Job
from vitctl.training.micro_batches import kinds_by_division
from vitctl.training.optimizer_choice import described
from vitctl.training.plan import asked_noise
from vitctl.training.precision import tf32_told
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.trial import Cost
from vitctl.training.tuning_header import trained_settings


def header_settings(run: PreparedRun) -> list[Setting]:
    """Return the header."""
    plan, job, data, loaded = run.plan, run.job, run.data, run.loaded
    recipe, num_val = job.recipe, len(data.val) if data.val else 0
    skipped = f"{len(data.skipped)} left out because they cannot be read" if data.skipped else ""
    how, least = recipe.optimizer, recipe.evaluation.select_best_from
    optimizer = f"{described(recipe)}, weight decay {how.weight_decay:g}, layer decay {how.layer_decay:g}"
    accelerator, names, counts = job.accelerator, data.train.class_names, data.train.counts()
    processes = f" over {accelerator.num_processes} processes" if accelerator.num_processes > 1 else ""
    selection = ("lowest validation loss", f"{num_val:,} {data.val_called}") if job.selects_best else (
        "the last step",
        f"fewer than {least:,} {data.val_called} to choose by" if num_val else "no validation images",
    )  # fmt: skip
    threads = (f"{plan.threads.value}, {job.num_workers}", f"{plan.threads.reason}; {plan.workers.reason}")
    return [
        Setting("data", *plan.data),
        Setting("classes", f"{len(names)}: {listed(names)}", _each(counts) + _balance(job)),
        Setting("training images", f"{len(data.train):,}", "; ".join(filter(None, (skipped, _listed_out(data))))),
        Setting(data.val_called, f"{num_val:,}", data.val_reason + _unvalidated(data)),
        *left_out_settings(data.left_out),
        *_range(data),
        Setting("model", loaded.name, plan.model.reason + _arguments(run)),
        _weights(loaded),
        Setting("image size", f"{format_size(job.preprocessing.image_size)} px", plan.image_size.reason),
        *_sizes(job),
        *_resolution(loaded, run.resolution, plan.interpolation),
        *_pool(run),
        Setting("head", *plan.head),
        Setting("recipe", f"{plan.recipe.value}: {optimizer}", plan.recipe.reason),
        *_published(plan.recipe.value),
        *trained_settings(run),
        Setting("batch", f"{job.batches.batch_size} images{processes}{_micro_batch(run)}", _batch_reason(run)),
        Setting("length", _length(job), plan.length.reason),
        Setting("learning rate", job.schedule.described(), plan.lr.reason + _tried(job)),
        augmentation_setting(run),
        *_mixing(job),
        *_loss(job),
        *_noise(job),
        *_features(job),
        Setting("evaluation crop", f"{job.preprocessing.crop_mode}, {job.preprocessing.crop_pct:g}", _crop(job)),
        Setting("best weights", *selection),
        *_averaging(job),
        *_patience(job),
        Setting("device", job.processes.place, plan.device.reason),
        *_speed(run),
        Setting("threads, workers", *threads),
        _seed(run.config),
        *([_cache(job, data)] if run.config.cache == "resized" else []),
        *([] if run.config.dry_run else [Setting("run folder", str(plan.out.value), plan.out.reason)]),
    ]


def _listed_out(data: TrainingData) -> str:
    return "" if data.listed is None else data.listed.told


def _seed(config: FinetuneConfig) -> Setting:
    if config.split_seed is None:
        return Setting("seed", str(config.seed), "split, order, augmentation, random weights")
    return Setting("seed", str(config.seed), f"order, augmentation, random weights; of the split {config.split_seed}")


def _published(recipe_name: str) -> list[Setting]:
    told, source = told_together(published_results(recipe_name))
    return [Setting("published", told, source)] if told else []


def _arguments(run: PreparedRun) -> str:
    return f", with {', '.join(run.config.model_arg)}" if run.config.model_arg else ""


def _speed(run: PreparedRun) -> list[Setting]:
    """Return how the device computes: in which numbers, with which kernels."""
    precision, device, config = run.plan.precision, run.job.accelerator.device, run.config
    tf32 = tf32_told(device)
    rows = [Setting("precision", precision.value, precision.reason + (f"; {tf32}" if tf32 else ""))]
    if config.compile and run.job.kept is not None:
        rows.append(Setting("compiled", "no", "the head alone is trained, on kept features"))
    elif config.compile:
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
    mean = ", mean over the image sizes" if cost.sizes else ""
    rows = [
        Setting("parameters", format_count(cost.num_parameters), "trained"),
        Setting("FLOPs per image", format_count(cost.flops_per_image), "forward; a training step takes about 3x"),
        Setting("memory", format_bytes(cost.memory_bytes), "weights, gradients, optimiser, activations; estimated"),
        Setting(
            "time per step", format_seconds(cost.step_s), f"one forward and backward pass, measured and scaled{mean}"
        ),
        Setting(
            "training time",
            format_seconds(cost.training_s),
            f"{job.batches.num_steps:,} steps, no validation" + _embedding(cost),
        ),
    ]
    for one in cost.sizes:
        rows.append(Setting(f"at {one.size} px", format_seconds(one.step_s), f"a step, of {one.steps:,}"))
    for group in cost.groups:
        tensors = "1 tensor" if group.num_tensors == 1 else f"{group.num_tensors} tensors"
        rate = f"rate x{group.lr_scale:.3g}, weight decay {group.weight_decay:g}"
        rows.append(Setting("group", rate, f"{tensors}, {group.num_parameters:,} parameters"))
    frozen = [parameter.numel() for parameter in job.model.parameters() if not parameter.requires_grad]
    if frozen:
        rows.append(Setting("group", "frozen", f"{len(frozen)} tensors, {sum(frozen):,} parameters"))
    return rows


def _embedding(cost: Cost) -> str:
    seconds = cost.embedding_s
    return "" if seconds is None else f"; {format_seconds(seconds)} of it for the features, once"


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


def _loss(job: Job) -> list[Setting]:
    share = job.recipe.loss.label_smoothing
    why = "in training; the loss of validation is the plain one"
    return [Setting("loss", f"cross-entropy, label smoothing {share:g}", why)] if share else []


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


def _tried(job: Job) -> str:
    rates = job.recipe.rate.grid
    return f"; its source tried {', '.join(f'{rate:g}' for rate in rates)}" if rates else ""


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
    return f"{job.batches.num_steps:,} steps, {format_rounded(epochs)} epochs"


def _cache(job: Job, data: TrainingData) -> Setting:
    short_side = job.training_transform().least_side
    size = format_bytes(num_bytes(resized_sizes(data.sizes, short_side)))
    return Setting("image cache", f"resized, {size}", f"short side up to {short_side} px, in {cache_folder()}")


def _features(job: Job) -> list[Setting]:
    """Return the row on the features of a run that trains its classifier alone."""
    if job.keeping.why_not is not None:
        return [Setting("features", "computed in every step", job.keeping.why_not)]
    if job.kept is None:
        return []
    num_images = len(job.train) + (0 if job.val is None else len(job.val))
    size = f"{num_images:,} x {job.kept.shape[0]:,}, {format_bytes(job.kept.num_bytes)}"
    return [
        Setting("features", f"kept once: {size}", "the head alone is trained, and images are never shown otherwise")
    ]


def _pool(run: PreparedRun) -> list[Setting]:
    """Return the row on a pooling that somebody chose."""
    pool = run.plan.pool
    if pool.value == MODEL:
        return []
    own = "" if run.loaded.is_pooled_anew or run.loaded.report is None else "; the model's own"
    return [Setting("pooling", described_pooling(run.loaded.model), pool.reason + own)]


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


def _sizes(job: Job) -> list[Setting]:
    """Return the sizes that training goes through, where there are several."""
    batches = job.batches
    if not batches.sizes:
        return []
    steps = [f"{batches.steps_of(stage):,}" for stage in range(len(batches.sizes))]
    sizes = ", ".join(str(size) for size in batches.sizes)
    why = f"{', '.join(steps)} steps, one size after the other; validated at {batches.sizes[-1]} px"
    return [Setting("image sizes", f"{sizes} px", why)]


def _grid(geometry: Geometry) -> str:
    return "x".join(str(side) for side in geometry.grid or ())


def _pixels(resolution: Resolution) -> Setting:
    """Return what a new size means for a model without a grid of patches."""
    sizes = f"{format_size(resolution.before.image_size)} to {format_size(resolution.after.image_size)} px"
    cost = f"convolutions cost x{resolution.cost_factor:.2g}"
    return Setting("resolution", sizes, f"no position embeddings to resample; {cost}")
