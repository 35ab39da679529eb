"""Going on from a checkpoint: whether the images are the run's, what computes otherwise, and the state itself."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.errors import DataError
from vitctl.training.checkpoint import Checkpoint, put_back
from vitctl.training.earlier import EarlierRun, earlier_run
from vitctl.training.job import Job
from vitctl.training.prepared_run import PreparedRun
from vitctl.training.run_folder import RunFolder, is_finished
from vitctl.training.state import TrainingState
from vitctl.training.summary import PACKAGES

_IMAGES = "images"
_OF_THE_SHARE = ("num_processes", "micro_batch")  # with others a process has memory for others at a time


def made_with(run: PreparedRun) -> dict[str, Any]:
    """Return what a checkpoint says of what computed it: equal, the bytes are; and of the images, which must be."""
    job = run.job
    return {
        "vitctl": __version__,
        **{package: version(package) for package in PACKAGES},
        "device": job.accelerator.device.type,
        "num_threads": run.plan.threads.value,
        "num_processes": job.accelerator.num_processes,
        "micro_batch": run.config.micro_batch,
    }


def find_earlier(prepared: PreparedRun, conversation: Conversation) -> tuple[EarlierRun | None, Checkpoint | None]:
    """Return the run that stands where this one is to be written, and where to go on from, if there is anything.

    Raises:
        SettingError: It has other settings.
        ModelError: Its checkpoints cannot be used.
        DataError: Its images are others.
    """
    earlier = earlier_run(prepared.config, prepared.plan.out.value)
    if earlier is None:
        return None, None
    earlier.check_equal(prepared.config)
    if is_finished(earlier.place):
        return earlier, None
    checkpoint, damaged = earlier.newest()
    for sentence in damaged:
        conversation.warn(sentence)
    if checkpoint is None:
        conversation.line(f"{earlier.out} was ended before anything was saved; it begins again.")
    else:
        _check_images(checkpoint, prepared)
    return earlier, checkpoint


def _check_images(checkpoint: Checkpoint, run: PreparedRun) -> None:
    """Check that the images are those of the run that ``checkpoint`` is of.

    Raises:
        DataError: They are others.
    """
    now, before = made_with(run).get(_IMAGES), checkpoint.made_with.get(_IMAGES)
    if now != before:
        raise DataError(
            f"The images of {run.data.source.spec} are no longer those that the run was made with; expected the same "
            "images, wherever they lie. Bring them back, or train anew with --overwrite."
        )


def resumed_settings(run: PreparedRun, checkpoint: Checkpoint | None) -> list[Setting]:
    """Return the row of the header that says where a run goes on; none for a new one."""
    if checkpoint is None:
        return []
    differing = list(_differences(made_with(run), checkpoint.made_with))
    how = f"equal to about 1e-5, not byte for byte: {', '.join(differing)}" if differing else "byte for byte"
    return [Setting("goes on", f"after step {checkpoint.step:,} of {run.job.batches.num_steps:,}", how)]


def _differences(now: Mapping[str, Any], before: Mapping[str, Any]) -> list[str]:
    names = [name for name, value in now.items() if name != _IMAGES and before.get(name) != value]
    return [f"{name.removeprefix('num_')} {now[name]} instead of {before.get(name)}" for name in names]


def restore(
    state: TrainingState, checkpoint: Checkpoint, folder: RunFolder | None, job: Job, *, made_with: Mapping[str, Any]
) -> None:
    """Make ``state``, new, and the run folder what they were at ``checkpoint``.

    Args:
        state: Of ``job``.
        checkpoint: Where to go on.
        folder: The run's; None in a process that writes nothing.
        job: What is trained.
        made_with: What computes from here on.

    Raises:
        ModelError: It is of another model.
        OSError: The folder cannot be written.
    """
    job.model.to(job.accelerator.device)  # what the optimiser remembers goes where the parameters are
    state.restore(checkpoint.tensors(), checkpoint.facts)
    if any(made_with[name] != checkpoint.made_with.get(name) for name in _OF_THE_SHARE):
        state.micro_batch = 0  # found anew
    job.accelerator.wait_for_everyone()  # before anything of it can be removed
    if folder is not None:
        put_back(folder.path, checkpoint)
