"""A full memory or disk in a sentence."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from vitctl.primitives.devices import enough_memory
from vitctl.primitives.outputs import cannot_write
from vitctl.training.job import Job


@contextlib.contextmanager
def full_is_a_sentence(job: Job, out: Path) -> Iterator[None]:
    """Say in a sentence that the memory of the device, or the disk, is full.

    Args:
        job: What is being trained.
        out: The run folder.

    Raises:
        SettingError: Either was full inside the block.
    """
    try:
        with enough_memory(job.accelerator.device, job.batches.batch_size, "--image-size"):
            yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise cannot_write(out, "the disk is full") from error
