"""A full memory or disk, in a sentence; anything else as it was."""

import errno
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vitctl.errors import SettingError
from vitctl.training.resources import full_is_a_sentence

JOB: Any = SimpleNamespace(
    accelerator=SimpleNamespace(device=torch.device("cuda")),
    batches=SimpleNamespace(batch_size=512),
)


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (
            torch.OutOfMemoryError("CUDA"),
            "cuda ran out of memory at a batch of 512 images. Try a smaller --batch-size or --image-size.",
        ),
        (
            OSError(errno.ENOSPC, "It is full"),
            "--out runs/a cannot be written: It is full. Make room there, or give another folder.",
        ),
        (OSError(errno.EDQUOT, "Quota exceeded"), "--out runs/a cannot be written: Quota exceeded."),
        (OSError(errno.EFBIG, "Too large", "w.bin"), "--out runs/a cannot be written: Too large (w.bin)."),
        (OSError(errno.ENOENT, "Gone", "runs/a/last"), "--out runs/a cannot be written: Gone (runs/a/last)."),
    ],
)
def test_what_is_full_is_said(failure: Exception, sentence: str) -> None:
    with pytest.raises(SettingError) as refusal, full_is_a_sentence(JOB, Path("runs/a")):
        raise failure
    assert str(refusal.value).startswith(sentence)


@pytest.mark.parametrize(
    "failure", [OSError(errno.EACCES, "no"), OSError(errno.ENOENT, "no", "runs/ab"), ValueError("ours")]
)
def test_other_failures_stay_what_they_are(failure: Exception) -> None:
    with pytest.raises(type(failure)) as same, full_is_a_sentence(JOB, Path("runs/a")):
        raise failure
    assert same.value is failure
