"""What torch's compiler needs beside torch, looked for without importing it."""

import importlib.util
import os
import shutil
import sys

import torch

from vitctl.errors import UnavailableError


def check_compiler(device: torch.device) -> None:
    """Check, as far as that takes no time, that torch's compiler finds what it needs on ``device``.

    Raises:
        UnavailableError: It does not.
    """
    if device.type == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise UnavailableError("--compile needs Triton, which is not installed; install triton, or leave it out.")
        return
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")  # as torch has it
    if shutil.which(name) is None:
        raise UnavailableError(
            f"--compile needs a C++ compiler, and {name!r} was not found; install one (Debian: apt-get install g++), "
            "name yours in CXX, or leave --compile out."
        )
