"""How many pixels may be decoded at one time, whatever the number of threads: large images take turns."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vitctl.primitives.memory import free_bytes

LEAST_IN_FLIGHT = 2**27  # px; guess: five photos of 24 megapixels, 1 GB at the 8 bytes that a pixel takes here
BYTES_A_PIXEL = 128  # guess: an eighth of the free memory, at the 16 bytes that odd modes take


class PixelBudget:
    """Pixels that are held at one time by the threads of this process.

    Args:
        most: px; an image above it is decoded alone. None is the share of the free memory at the first image.
    """

    def __init__(self, most: int | None = None) -> None:
        self._most, self._held, self._changed = most, 0, threading.Condition()

    @contextmanager
    def hold(self, size: tuple[int, int]) -> Iterator[None]:
        """Wait until there is room for an image of ``size`` (W, H) px, and keep that room while the block runs.

        A thread that holds room must not ask for more.
        """
        pixels = size[0] * size[1]
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
            self._most = max(LEAST_IN_FLIGHT, (free_bytes() or 0) // BYTES_A_PIXEL)
        return self._most


IN_FLIGHT = PixelBudget()
"""The one budget of this process."""
