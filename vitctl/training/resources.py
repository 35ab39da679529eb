"""A full memory or disk in a sentence."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

import torch

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
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
        yield
    except torch.OutOfMemoryError as error:
        raise SettingError(
            f"{job.accelerator.device} ran out of memory at a batch of {job.batches.batch_size} images of "
            f"{format_size(job.preprocessing.image_size)} px. Try a smaller --batch-size or --image-size.",
            field="batch_size",
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SettingError(
            f"The disk is full at {out}. Make room, or give another folder with --out.", field="out"
        ) from error
