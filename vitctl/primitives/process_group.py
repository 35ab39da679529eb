"""How the processes of one run find each other, and what to say when one of them is gone.

Who starts them (``vitctl.cli.launcher``, torchrun, a scheduler) tells each by its environment which one it is.
"""

import atexit
import contextlib
import os
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from vitctl.errors import FailedElsewhere, InterruptedRun, SettingError, VitctlError
from vitctl.primitives.cpus import num_local_processes
from vitctl.primitives.launched import LISTENING, is_launched
from vitctl.primitives.processes import Processes

MAX_WAIT = timedelta(hours=12)  # that a process waits for another, which may be looking at a million photos; guess
_ENVIRONMENT = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_FAILED = "vitctl/failed"  # what the first process leaves with torch's store when it has said an error
_HEARING_S = 5.0  # how long another waits to hear of that; guess
# gloo's words for a process that is gone; NCCL's errors have a class of their own
_GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "Socket closed", "Connection refused")


def join_processes(device: torch.device) -> Processes:
    """Return the processes that this one belongs to by its environment, after all of them have found each other.

    Args:
        device: Of the kind that they compute on.

    Raises:
        SettingError: The environment names several processes and not which of them this is, or there are more of them
            on this machine than GPUs.
    """
    number = _whole_number("WORLD_SIZE", 1)
    if number < 2:
        return Processes(device=device)
    lacking = [name for name in _ENVIRONMENT if not os.environ.get(name)]
    if lacking:
        raise SettingError(
            f"The environment says WORLD_SIZE={number} and does not say {', '.join(lacking)}; expected all that "
            "torchrun sets. Start with vitctl --num-processes or torchrun, or unset WORLD_SIZE."
        )
    index, local_index = _whole_number("RANK", 0), _whole_number("LOCAL_RANK", 0)
    if index >= number:
        raise SettingError(
            f"The environment says RANK={index} of WORLD_SIZE={number}; expected less. Start with vitctl "
            "--num-processes or torchrun, or unset both."
        )
    _check_gpus(device, max(local_index + 1, num_local_processes()))
    if device.type == "cuda":
        device = torch.device("cuda", local_index)
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        _find_each_other(index, number, device)
    return Processes(index, number, local_index, device)


@contextlib.contextmanager
def lost_process_is_a_sentence() -> Iterator[None]:
    """Say in a sentence that another process is gone, which torch does in a traceback.

    Raises:
        VitctlError: It is; a FailedElsewhere where vitctl itself started the processes, and says which of them it was.
    """
    try:
        yield
    except Exception as error:
        is_torch = isinstance(error, (dist.DistError, RuntimeError))
        if not (is_torch and dist.is_initialized() and any(words in str(error) for words in _GONE)):
            raise
        if is_launched():
            raise FailedElsewhere(VitctlError.exit_code) from error
        raise VitctlError(
            "Another process of this run has ended, so this one cannot go on. See what that one said; the same command "
            "starts again."
        ) from error


def is_said_by_first(error: VitctlError) -> bool:
    """Return whether ``error`` need not be said, as the first process says what it failed of; for any process to call.

    The first process leaves word that it has failed. Another one that fails, most likely of the same, waits a moment
    for that.
    """
    if not dist.is_initialized() or is_launched() or error.is_of_one_process:  # of those launched each has its own log
        return False
    if isinstance(error, InterruptedRun):  # a stop is agreed upon
        return dist.get_rank() > 0
    try:
        store = dist.distributed_c10d._get_default_store()
        if dist.get_rank() == 0:
            store.set(_FAILED, "1")
            return False
        store.wait([_FAILED], timedelta(seconds=_HEARING_S))
    except Exception:  # the first goes on, or waits for this one; or is gone, and its store with it
        return False
    return True


def _whole_number(name: str, default: int) -> int:
    text = os.environ.get(name, "") or str(default)
    if not text.isascii() or not text.isdigit():
        raise SettingError(f"The environment says {name}={text!r}; expected a whole number, as torchrun sets it.")
    return int(text)


def _check_gpus(device: torch.device, num_here: int) -> None:
    num_gpus = {"cuda": torch.cuda.device_count(), "mps": 1}.get(device.type)
    if num_gpus is not None and num_here > num_gpus:
        raise SettingError(
            f"There are {num_here} processes on this machine and {num_gpus} GPU{'s' * (num_gpus != 1)} to compute on; "
            f"expected one for each. Try --num-processes {num_gpus}, or --device cpu.",
            field="num_processes",
        )


def _find_each_other(index: int, number: int, device: torch.device) -> None:
    # nccl carries what is on GPUs, gloo the rest
    how: dict[str, Any] = {"backend": "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", "timeout": MAX_WAIT}
    if is_launched():
        # whoever started us holds the port since it chose it, so that nobody else can have taken it meanwhile
        listening = int(os.environ[LISTENING]) if index == 0 else None
        address, port = os.environ["MASTER_ADDR"], _whole_number("MASTER_PORT", 0)
        store = dist.TCPStore(  # type: ignore[attr-defined]
            address, port, number, index == 0, timeout=MAX_WAIT, wait_for_workers=False, master_listen_fd=listening
        )
        how |= {"store": store, "rank": index, "world_size": number}
    dist.init_process_group(**how)
    atexit.register(_part)  # else gloo's threads end the process with an abort


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
