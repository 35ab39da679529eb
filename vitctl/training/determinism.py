"""Kernels that give the same bits every time, for ``--deterministic``."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from vitctl.errors import SettingError

CUBLAS_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
_NONE_FOUND = "does not have a deterministic implementation"  # torch's words


@contextmanager
def deterministic_kernels(is_wanted: bool) -> Iterator[None]:
    """Let torch use deterministic kernels only, where ``is_wanted``; else leave it as it is.

    torch's flags are as before afterwards. cuBLAS reads its variable once, when a process first multiplies matrices on
    a GPU, so that stays set; https://docs.pytorch.org/docs/stable/notes/randomness.html.

    Raises:
        SettingError: What is trained needs an operator that has no deterministic kernel.
    """
    if not is_wanted:
        yield
        return
    os.environ.setdefault(CUBLAS_WORKSPACE, ":4096:8")
    cudnn = torch.backends.cudnn
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
    )
    torch.use_deterministic_algorithms(True)
    cudnn.deterministic, cudnn.benchmark = True, False
    try:
        yield
    except RuntimeError as error:
        if _NONE_FOUND not in str(error):
            raise
        operator = str(error).split(_NONE_FOUND)[0].strip()
        raise SettingError(
            f"--deterministic is given, but {operator} of this model has no deterministic kernel; leave the option out,"
            " or try --device cpu.",
            field="deterministic",
        ) from error
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark = before[2:]
