"""Ctrl-C and SIGTERM as something to finish a step on, not as an explosion in the middle of it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from vitctl.errors import InterruptedRun

_SAME_S = 1.0  # within which two signals are one; guess: a person who presses Ctrl-C again takes longer
EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class StopNow(BaseException):
    """The user asked to stop inside a block that need not be finished; ``except Exception`` does not stop it."""


class StopRequest:
    """Whether the user has asked to stop. Falsy until then."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._is_breaking = False

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 for Ctrl-C, 143 for SIGTERM."""
        return EXIT_CODES[self.signal or signal.SIGINT]

    @contextmanager
    def breaking(self) -> Iterator[None]:
        """Leave the block at the first signal, or do not enter it after one: a wait, which may have no end.

        Raises:
            StopNow: The user asked to stop.
        """
        self._is_breaking = True
        try:
            if self:
                raise StopNow
            yield
        finally:
            self._is_breaking = False

    def note(self, number: int) -> None:
        """Note that the signal ``number`` has come.

        Raises:
            StopNow: Where a block need not be finished.
        """
        self.signal = signal.Signals(number)
        if self._is_breaking:
            raise StopNow


@contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Note the first SIGINT or SIGTERM inside the block; another one, later, acts as it would without us.

    Not one that comes at once: a scheduler that signals every process of a job reaches those that vitctl, or torchrun,
    has started twice, as these pass it on.

    Outside the main thread, where Python delivers no signals, nothing is caught.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous = {number: signal.getsignal(number) for number in EXIT_CODES}

    first_at: list[float] = []

    def note(number: int, _frame: FrameType | None) -> None:
        if not first_at:
            first_at.append(time.monotonic())
            request.note(number)
        elif time.monotonic() - first_at[0] >= _SAME_S:
            for one, handler in previous.items():
                signal.signal(one, handler)
            signal.raise_signal(number)

    for number in EXIT_CODES:
        signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class _Terminated(BaseException):
    """A SIGTERM on its way out of the block."""


@contextmanager
def termination_as_error(text: str = "terminated; nothing was written.") -> Iterator[None]:
    """Leave the block with ``InterruptedRun`` at a SIGTERM, so that what is half done is cleared away.

    Inside it travels as an exception that ``except Exception`` does not stop, like Ctrl-C.

    Outside the main thread, where Python delivers no signals, nothing is caught.

    Args:
        text: What the user is told.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _Terminated

    previous = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except _Terminated:
        raise InterruptedRun(text, exit_code=EXIT_CODES[signal.SIGTERM]) from None
    finally:
        signal.signal(signal.SIGTERM, previous)
