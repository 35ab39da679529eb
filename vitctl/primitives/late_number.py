"""A number that a device is still computing."""

import torch
from torch import Tensor


class LateNumber:
    """One number on its way from a device; reading it waits for it, not for what was asked of the device since.

    A CUDA device works on while Python goes on, and ``float(tensor)`` waits for everything it was asked to do. Here
    the number is copied in its turn, to pinned memory, with an event behind it. Elsewhere it has arrived when this is
    made.

    Args:
        value: () of any float type; one number.
    """

    def __init__(self, value: Tensor) -> None:
        self._value = value.to("cpu", non_blocking=value.is_cuda)  # elsewhere such a copy could be read too early
        self._arrival: torch.cuda.Event | None = None
        if value.is_cuda:
            self._arrival = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._arrival.record(torch.cuda.current_stream(value.device))

    @property
    def is_here(self) -> bool:
        """Whether it can be read without waiting."""
        return self._arrival is None or bool(self._arrival.query())  # type: ignore[no-untyped-call]

    def read(self) -> float:
        """Return the number, waiting for it if need be."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return float(self._value)
