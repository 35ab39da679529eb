"""``--cache resized``: the training images of a job, read from the cache of resized ones."""

from dataclasses import replace

import numpy as np

from vitctl.conversation import Conversation
from vitctl.data.resized import resized_split
from vitctl.primitives.cpus import num_cpus
from vitctl.training.job import Job


def with_resized_images(job: Job, sizes: np.ndarray, conversation: Conversation) -> Job:
    """Return the job with its training images read from the cache of resized ones, which is made if need be.

    Args:
        job: What is to be trained.
        sizes: (N, 2) px of its training images.
        conversation: Shows progress.
    """
    train, _ = resized_split(
        job.train,
        sizes,
        short_side=job.training_transform().least_side,
        max_value=job.preprocessing.max_value,
        num_threads=num_cpus(),  # of the one process that does it on this machine
        conversation=conversation,
        processes=job.processes,
    )
    return replace(job, train=train)
