"""Which device to compute on, and how many threads."""

import torch

from vitctl.errors import UnavailableError, check_choice
from vitctl.settings.words import DEVICES


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
        return torch.get_num_threads(), "what torch chose for this machine"
    torch.set_num_threads(num_threads)
    return num_threads, "asked for"
