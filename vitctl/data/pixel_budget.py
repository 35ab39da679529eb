"""How many pixels may be decoded at one time, whatever the number of threads or processes: large images take turns."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vitctl.primitives.cpus import num_local_processes
from vitctl.primitives.memory import free_bytes

LEAST_IN_FLIGHT = 2**27  # px; guess: five photos of 24 megapixels, 1 GB at the 8 bytes that a pixel takes here
BYTES_A_PIXEL = 128  # guess: an eighth of the free memory, at the 16 bytes that odd modes take
UNASKED = 8  # guess: of the room of several processes, this part is theirs without asking, as asking takes a while


def most_in_flight() -> int:
    """Return how many pixels may be in flight, by the memory that is free now."""
    return max(LEAST_IN_FLIGHT, (free_bytes() or 0) // BYTES_A_PIXEL)


class PixelBudget:
    """Pixels that are held at one time by the threads of this process.

    Args:
        most: px; an image above it is decoded alone. None is the share of the free memory at the first image.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most, self._held, self._changed = most, 0, threading.Condition()
        self._shared: SharedPixelBudget | None = None

    def join(self, shared: "SharedPixelBudget") -> None:
        """Hold pixels of ``shared`` from now on, as one of its processes."""
        self._shared = shared

    @contextmanager
    def hold(self, size: tuple[int, int]) -> Iterator[None]:
        """Wait until there is room for an image of ``size`` (W, H) px, and keep that room while the block runs.

        A thread that holds room must not ask for more.
        """
        pixels = size[0] * size[1]
        if self._shared is not None:
            with self._shared.hold(pixels):
                yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._room())
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def _room(self) -> int:
        if self._most is None:
            self._most = most_in_flight()
        return self._most


class SharedPixelBudget:
    """Pixels that are held at one time by several processes, each of which holds one image.

    Args:
        context: Of ``multiprocessing``, by which the processes are started.
        num_processes: How many.
        most: px; None is this process's share of the free memory. Of images above it one is decoded at a time.

    Raises:
        OSError: The system has no semaphores to give.
    """

    def __init__(self, context: Any, num_processes: int, *, most: int | None = None) -> None:
        room = most_in_flight() // num_local_processes() if most is None else most
        self._unasked = room // UNASKED // num_processes
        self._room = room - self._unasked * num_processes
        self._changed, self._held = context.Condition(), context.Value("q", 0, lock=False)

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for ``pixels``, and keep that room while the block runs."""
        if pixels <= self._unasked:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: not self._held.value or self._held.value + pixels <= self._room)
            self._held.value += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held.value -= pixels
                self._changed.notify_all()


IN_FLIGHT = PixelBudget()
"""The one budget of this process."""
