"""What a run says of itself: its configuration at the start, its summary at the end, its cost with ``--dry-run``."""

from importlib.metadata import version

from vitctl import __version__
from vitctl.evaluation.baseline import Baseline, majority_baseline
from vitctl.models.describe import num_parameters
from vitctl.models.geometry import geometry_of
from vitctl.primitives.files import sha256_of
from vitctl.results.finetune import DryRunResult, FinetuneResult, LinearProbe, Score
from vitctl.results.result import JsonObject
from vitctl.results.sweep import Selected
from vitctl.run_folders.selection import read_selection
from vitctl.settings.finetune import NOT_OF_A_RUN, FinetuneConfig
from vitctl.training.averaging import AVERAGED
from vitctl.training.optimizer import implementation_of
from vitctl.training.precision import num_skipped
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.run_folder import RunFolder
from vitctl.training.state import TrainingState
from vitctl.training.trial import Cost

PACKAGES = ("torch", "torchvision", "timm", "accelerate", "numpy", "pillow", "scikit-learn")


def config_document(config: FinetuneConfig) -> JsonObject:
    """Return the ``config.json`` of a run: every setting, resolved, and the versions it was made with."""
    versions = {package: version(package) for package in PACKAGES}
    return {
        "vitctl": __version__,
        "command": "finetune",
        **config.as_json(without=NOT_OF_A_RUN),
        "versions": versions,
    }


def doubt(probe: LinearProbe, best: Score) -> str | None:
    """Return a sentence for who trained to weights no better than the head they started from, else None."""
    if probe.loss is None or best.loss is None or probe.loss >= best.loss:
        return None
    return (
        f"the closed-form head alone had a lower validation loss ({probe.loss:.4f}) than the best weights "
        f"({best.loss:.4f}): try more steps, or a lower --lr."
    )


def summarise(run: PreparedRun, state: TrainingState, folder: RunFolder | None) -> FinetuneResult:
    """Return the summary of a finished run.

    Args:
        run: What it was to be.
        state: What it has come to.
        folder: The run's, complete but for what this returns; None in a process that writes nothing.
    """
    data, after, clock = run.data, geometry_of(run.loaded.model), state.clock
    baseline = _baseline(run, state)
    return FinetuneResult(
        run=str(run.plan.out.value),
        model=run.loaded.name,
        image_size=after.image_size,
        grid_before=run.resolution.before.grid if run.resolution else None,
        grid_after=after.grid,
        num_classes=len(data.train.class_names),
        num_train=len(data.train),
        num_val=len(data.val) if data.val else 0,
        classes_without_validation=data.unvalidated,
        steps=run.job.batches.num_steps,
        micro_batch=state.micro_batch,
        num_processes=run.job.processes.count,
        best=state.best.score,
        last=state.last,
        baseline_top1=baseline["baseline_top1"] if baseline else None,
        baseline_class=baseline["baseline_class"] if baseline else None,
        baseline_p=baseline["baseline_p"] if baseline else None,
        linear_probe=state.linear_probe,
        weights_sha256=_sha256(folder, "last"),
        average=None if state.average is None else state.average.score,
        average_weights_sha256=_sha256(folder, AVERAGED),
        precision=run.job.precision,
        optimizer_implementation=implementation_of(state.optimizer),
        num_skipped_steps=num_skipped(state.scaler),
        images_per_s=round(clock.num_images / clock.training_s, 3),
        data_wait_fraction=round(clock.data_s / clock.training_s, 4),
        wall_s=round(clock.wall_s, 3),
        num_trained_parameters=num_parameters(run.job.model),
        left_out=data.left_out,
        validated_on=data.validated_on,
        num_untouched=data.num_untouched,
        selection=_selection(folder),
    )


def _sha256(folder: RunFolder | None, name: str) -> str | None:
    path = None if folder is None else folder.path / name / "model.safetensors"
    return sha256_of(path) if path is not None and path.is_file() else None


def _selection(folder: RunFolder | None) -> Selected | None:
    kept = None if folder is None else read_selection(folder.path)
    return None if kept is None else kept.selected


def _baseline(run: PreparedRun, state: TrainingState) -> Baseline | None:
    """Return how the best weights compare to always saying one class, where there were images to look at."""
    val, logits = run.data.val, state.best.logits
    if val is None or logits is None:
        return None
    return majority_baseline(logits.argmax(axis=1), val.labels, val.class_names)


def describe_cost(run: PreparedRun, cost: Cost) -> DryRunResult:
    """Return what the run would be and cost."""
    data, after = run.data, geometry_of(run.loaded.model)
    return DryRunResult(
        config=config_document(run.config),
        num_classes=len(data.train.class_names),
        num_train=len(data.train),
        num_val=len(data.val) if data.val else 0,
        classes_without_validation=data.unvalidated,
        grid_before=run.resolution.before.grid if run.resolution else None,
        grid_after=after.grid,
        num_tokens=after.num_tokens,
        steps=run.job.batches.num_steps,
        epochs=run.job.batches.num_images_seen / len(data.train),
        num_parameters=cost.num_parameters,
        num_trained_parameters=cost.num_parameters,
        flops_per_image=cost.flops_per_image,
        memory_bytes=cost.memory_bytes,
        step_s=cost.step_s,
        training_s=cost.training_s,
        embedding_s=cost.embedding_s,
        groups=cost.groups,
        sizes=cost.sizes,
        left_out=data.left_out,
        validated_on=data.validated_on,
        num_untouched=data.num_untouched,
    )
