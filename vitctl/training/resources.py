"""A full memory or disk in a sentence."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from vitctl.primitives.devices import enough_memory
from vitctl.primitives.outputs import cannot_write, is_of_writing
from vitctl.training.job import Job


@contextlib.contextmanager
def full_is_a_sentence(job: Job, out: Path, *, place: Path | None = None) -> Iterator[None]:
    """Say in a sentence that the memory of the device, or the disk, is full, or that ``out`` cannot be written.

    Args:
        job: What is being trained.
        out: The run folder.
        place: Where it grows until it is complete, if elsewhere.

    Raises:
        SettingError: Either was full inside the block, or writing failed.
    """
    try:
        with enough_memory(job.accelerator.device, job.batches.batch_size, "--image-size"):
            yield
    except OSError as error:
        if not is_of_writing(error, place or out):
            raise
        raise cannot_write(out, error) from error
