"""Which device to compute on, with how many threads, and what to say when its memory is full."""

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

from vitctl.errors import SettingError, UnavailableError, check_choice
from vitctl.primitives.cpus import cpu_quota, num_cpus, num_local_processes, num_own_cpus
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.settings.words import DEVICES

# the words of torch, onnxruntime, CUDA and numpy for how much they could not have
_ASKED = re.compile(r"(?:allocate|buffer of size) (?P<amount>\d+(?:\.\d+)?)(?: bytes|(?P<unit> [KMGTPE]iB)|$)")


def resolve_device(name: str) -> tuple[torch.device, str]:
    """Return the torch device for ``auto``, ``cpu``, ``cuda`` or ``mps``, and the reason for it.

    Raises:
        SettingError: Another name.
        UnavailableError: The device asked for is not here.
    """
    check_choice(name, DEVICES, what="--device", field="device")
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        found = next(kind for kind, here in present.items() if here)
        why = {"cuda": "a CUDA device is here", "mps": "an Apple GPU is here", "cpu": "no GPU was found"}
        return torch.device(found), why[found]
    if not present[name]:
        here = ", ".join(kind for kind, is_here in present.items() if is_here)
        raise UnavailableError(
            f"--device {name} is not available to this torch ({torch.__version__}); here there is: {here}."
        )
    return torch.device(name), "asked for"


def resolve_num_threads(num_threads: int | None) -> tuple[int, str]:
    """Set torch's CPU threads for the whole process and return their number and the reason for it.

    The number is part of a run's identity: sums are split among threads, so another number can change
    the last bits of a result.
    """
    if num_threads is None:
        num_here = num_local_processes()
        if num_here > 1 and torch.get_num_threads() > num_own_cpus():  # torchrun and vitctl say it by OMP_NUM_THREADS
            torch.set_num_threads(num_own_cpus())
        if num_here > 1:
            return torch.get_num_threads(), f"of this process; {num_here} share the machine"
        if torch.get_num_threads() > cpu_quota():  # torch knows the affinity, not what a container may use
            torch.set_num_threads(num_cpus())
            return torch.get_num_threads(), "as many processors as this container may use"
        return torch.get_num_threads(), "what torch chose for this machine"
    torch.set_num_threads(num_threads)
    return num_threads, "asked for"


@contextmanager
def enough_memory(device: torch.device, batch_size: int | None, *others: str) -> Iterator[None]:
    """Say in a sentence that the memory of ``device``, or of the computer, is full, and what to try.

    Args:
        device: Where the block computes.
        batch_size: Images at a time; None where that is no option.
        others: Options, besides ``--batch-size``, that take less memory when they are smaller.

    Raises:
        SettingError: It is.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        full = device if isinstance(error, torch.OutOfMemoryError) else torch.device("cpu")
        at = "" if batch_size is None else f" at a batch of {batch_size} images{_estimated(error)}"
        smaller = others if batch_size is None else ("--batch-size", *others)
        elsewhere = "a smaller model, or fewer images" if full.type == "cpu" else "another --device"
        field = smaller[0] if smaller else None if full.type == "cpu" else "--device"
        raise SettingError(
            f"{full} ran out of memory{at}{_asked_for(error)}. Try "
            f"{'a smaller ' + ' or '.join(smaller) if smaller else elsewhere}.",
            field=None if field is None else field.removeprefix("--").replace("-", "_"),
        ) from error


def enough_memory_on_cpu(batch_size: int | None) -> AbstractContextManager[None]:
    """Say what ``enough_memory`` says of whatever a command does outside of blocks that know more.

    Args:
        batch_size: Images at a time; None where that is no option, or not given.

    Returns:
        A context that raises SettingError where the memory is full.
    """
    return enough_memory(torch.device("cpu"), batch_size)


def _estimated(error: BaseException) -> str:
    """Return about how much the batch takes, where whoever computed it has said so (``vitctl.models.batch_memory``)."""
    found = getattr(error, "batch_bytes", None)
    return "" if found is None else f" (about {format_bytes(found)})"


def _asked_for(error: BaseException) -> str:
    """Return how much an allocator says it could not have; nothing where it does not say."""
    found = _ASKED.search(str(error))
    if found is None:
        return ""
    amount = found["amount"] if found["unit"] else format_bytes(int(found["amount"]))
    return f", when it asked for {amount}{found['unit'] or ''}"
