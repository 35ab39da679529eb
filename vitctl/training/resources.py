"""A full memory or disk in a sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vitctl.errors import SettingError
from vitctl.primitives.devices import enough_memory
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.outputs import cannot_write, is_of_writing
from vitctl.run_folders.layout import command_to_go_on, newest_step
from vitctl.training.job import Job


@contextlib.contextmanager
def full_is_a_sentence(job: Job, out: Path, *, place: Path | None = None) -> Iterator[None]:
    """Say in a sentence that the memory of the device, or the disk, is full, or that ``out`` cannot be written.

    Args:
        job: What is being trained.
        out: The run folder.
        place: Where it grows until it is complete, if elsewhere.

    Raises:
        SettingError: Either was full inside the block, or writing failed; where a checkpoint stands, the sentence says
            how to go on.
    """
    try:
        with enough_memory(job.accelerator.device, job.batches.batch_size, "--image-size"):
            yield
    except OSError as error:
        if not is_of_writing(error, place or out):
            raise
        raise _with_the_way_on(cannot_write(out, error), out, place) from error
    except SettingError as error:
        if error.__cause__ is None or not is_out_of_memory(error.__cause__):
            raise
        raise _with_the_way_on(error, out, place) from error.__cause__


def _with_the_way_on(error: SettingError, out: Path, place: Path | None) -> SettingError:
    step = newest_step(place or out)
    if step is None:
        return error
    on = f"Step {step} is saved; when there is room, go on with: {command_to_go_on(out)}"
    return SettingError(f"{error} {on}", field=error.field)
