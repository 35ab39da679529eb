"""The processes that read images: how many, whether what they hand over has room, and what to say when one dies.

They hand batches over in shared memory, a folder of which a container may have very little (Docker: 64 MB).
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from vitctl.data.pixel_budget import IN_FLIGHT, SharedPixelBudget
from vitctl.errors import SettingError, VitctlError
from vitctl.primitives.cpus import num_local_processes, num_own_cpus
from vitctl.primitives.formatting import format_bytes

SHARED_MEMORY = Path("/dev/shm")
PREFETCH = 2  # batches that each process holds ready; torch's default
# one that cannot be started is half made, and would complain of what it lacks when it is removed
_MultiProcessingDataLoaderIter._shutdown = True
_IN_USE = 2  # batches that the main process holds: the one it computes with, and the next
_SLACK = 1 << 14  # bytes of each batch besides its images: labels, weights, whole pages
_SHARE = 0.9  # of the free bytes, as others take from them too; guess


class Workers(NamedTuple):
    """Processes that read images.

    Attributes:
        number: How many.
        reason: Why.
        is_reduced: Whether there are fewer than there would be, for want of shared memory.
    """

    number: int
    reason: str
    is_reduced: bool = False

    def sentence(self) -> str:
        """Return it in words."""
        return f"workers: {self.number} ({self.reason})"


class LostWorkerError(SettingError):
    """A process that reads images is gone."""


def resolve_num_workers(given: int | None, *, is_in_memory: bool, device_type: str, batch_bytes: int) -> Workers:
    """Return how many processes read images, and why; no result depends on it.

    Args:
        given: How many were asked for; None leaves it to us.
        is_in_memory: Whether reading an image costs next to nothing.
        device_type: Of the device that computes.
        batch_bytes: Of the batches that a process makes at a time.
    """
    wanted, why = _wanted(given, is_in_memory=is_in_memory, device_type=device_type)
    room = shared_memory()
    if not wanted or room is None:
        return Workers(wanted, why)
    one = batch_bytes + _SLACK
    fitting = max(0, int((_SHARE * room - _IN_USE * one) // (PREFETCH * one)))
    if fitting >= wanted:
        return Workers(wanted, why)
    short = f"has {format_bytes(room)}, a worker takes {format_bytes(PREFETCH * one)}" if room else "cannot be written"
    return Workers(fitting, f"of {wanted}: {SHARED_MEMORY} {short}", is_reduced=True)


def _wanted(given: int | None, *, is_in_memory: bool, device_type: str) -> tuple[int, str]:
    if given is not None:
        return given, "asked for"
    if is_in_memory:
        return 0, "the images are in memory"
    if device_type == "cpu":
        return min(4, num_own_cpus() // 2), "half of the processors, the model needs them too"
    return min(16, max(1, num_own_cpus() - 1)), "one per processor, less one"


def batch_bytes(num_images: int, image_size: tuple[int, int]) -> int:
    """Return the bytes of ``num_images`` of (H, W) px as they travel: a byte per channel."""
    return num_images * 3 * image_size[0] * image_size[1]


def shared_memory() -> int | None:
    """Return the bytes of shared memory that this process may take, 0 where it may not write; None where unknown."""
    try:
        status = os.statvfs(SHARED_MEMORY)
    except FileNotFoundError:
        return 0 if Path("/proc/self").exists() else None  # other systems keep it elsewhere
    except OSError:
        return 0
    if status.f_flag & os.ST_RDONLY or not os.access(SHARED_MEMORY, os.W_OK):
        return 0
    # processes of one run on this machine, as torchrun counts them, share it
    return status.f_bavail * status.f_frsize // num_local_processes()


def _start_worker(_worker: int, *, budget: SharedPixelBudget) -> None:
    """Prepare a process that reads images, large ones when it is their turn among all processes."""
    IN_FLIGHT.join(budget)
    sys.excepthook = _say_unless_left
    torch.set_num_threads(1)
    # Ctrl-C at a terminal, and a scheduler's SIGTERM, reach every process of the group; the main process finishes its
    # step, for which it needs images, and then ends its workers
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def _say_unless_left(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say what went wrong in a thread, but not that the main process, which is ending, no longer takes a batch."""
    if not issubclass(kind, (ConnectionError, EOFError)):
        sys.__excepthook__(kind, error, trace)


def handed_over(make: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...] | SettingError:
    """Return the (B, ...) tensors that ``make`` makes, in a worker in shared memory, or that there is no room for them.

    By itself torch moves them there in a thread whose errors reach nobody, and the main process would wait for ever.
    """
    if get_worker_info() is None:
        return make()
    try:
        return tuple(tensor.share_memory_() for tensor in make())  # type: ignore[no-untyped-call]
    except (OSError, RuntimeError) as error:
        return LostWorkerError(
            f"A process that reads images could not hand a batch over: {SHARED_MEMORY} is full, or cannot be written "
            f"({str(error).splitlines()[0]}). Try fewer with --num-workers, 0 for none.",
            field="num_workers",
        )


def taken(loader: DataLoader[Any]) -> Iterator[Any]:
    """Yield the batches of ``loader``; an error in the place of a batch is raised.

    Raises:
        VitctlError: What a worker found, a LostWorkerError among them.
    """
    iterator = _started(loader)
    while True:
        try:
            batch = next(iterator)
        except StopIteration:
            return
        except RuntimeError as error:
            if loader.num_workers and any(words in str(error) for words in ("exited unexpectedly", "killed by signal")):
                raise _lost_worker([process.exitcode for process in getattr(iterator, "_workers", [])]) from error
            raise
        if isinstance(batch, VitctlError):
            raise batch
        yield batch


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    before = signal.getsignal(signal.SIGCHLD)
    try:
        if loader.num_workers:
            context = loader.multiprocessing_context or torch.multiprocessing.get_context()
            loader.worker_init_fn = partial(_start_worker, budget=SharedPixelBudget(context, loader.num_workers))
        iterator = iter(loader)
    except OSError as error:
        raise LostWorkerError(
            f"The processes that read images cannot be started ({error.strerror}); {SHARED_MEMORY} or the number of "
            "processes may be limited. Try --num-workers 0.",
            field="num_workers",
        ) from error
    for process in getattr(iterator, "_workers", []):
        # who does not end when told to is ended by what no one can ignore; also by Python when it ends, and then waits
        process._popen.terminate = process._popen.kill
    # torch's handler raises wherever the main process is at that moment, in the middle of a step; a wait for a batch
    # finds out as well that its process is gone
    if loader.num_workers and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before or signal.SIG_DFL)
    return iterator


def _lost_worker(exit_codes: list[int | None]) -> LostWorkerError:
    code = next((code for code in exit_codes if code), 0)
    if code == -signal.SIGBUS:
        why = f"was killed (signal 7): most likely {SHARED_MEMORY} is full"
    elif code == -signal.SIGKILL:
        why = "was killed (signal 9): most likely the memory is full"
    elif code < 0:
        why = f"was killed (signal {-code})"
    else:
        why = f"ended before its time (exit code {code})"
    return LostWorkerError(
        f"A process that reads images {why}. Try fewer with --num-workers, or a smaller --batch-size.",
        field="num_workers",
    )
