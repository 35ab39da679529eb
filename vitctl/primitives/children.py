"""Processes that this one has started: signals reach all of them, and none outlives it or the others.

Those of one command (``vitctl.cli.launcher``), or a sweep's runs. Imports no torch.
"""

import contextlib
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from vitctl.primitives.launched import GRACE_S

POLL_S = 0.05
"""Seconds between two looks at the processes."""
_SETTLING_S = 1.0  # after the first failure others fail of it, or of the same: who says most of it is named; guess
FOLLOWED = (128 + signal.SIGINT, 128 + signal.SIGTERM)
"""Exit codes of processes that a signal told to end, and that did so by themselves."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# threads of OpenMP with nothing to do sleep, GNU's and Intel's: two processes of two threads on two processors, with
# others at work, train 39 images a second instead of 5; with a thread for each processor it makes no difference
# (measured, 2026-11)
PATIENT = {"OMP_WAIT_POLICY": "passive", "KMP_BLOCKTIME": "0"}
"""Environment of processes that share the processors."""
# from a signal that was passed on to killing those that have not followed: a step, a batch of a validation and a
# checkpoint of a large model on a slow disk fit, and who cannot wait for them has the second Ctrl-C; guess
_STOPPING_S = 300.0


@dataclass
class Children:
    """The processes that were started.

    Attributes:
        failed: The file that says that they end as one has failed, for those who look for it.
        processes: In the order of their numbers.
        passed_on: The signal that came for all of them.
        is_overdue: Whether some did not follow, and were killed.
    """

    failed: Path | None = None
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    passed_on: signal.Signals | None = None
    is_overdue: bool = False
    _num_told: int = 0
    _kill_at: float = math.inf

    @property
    def codes(self) -> list[int | None]:
        """Exit codes, minus the signal of those that one ended, None of those that go on."""
        return [process.poll() for process in self.processes]

    def pass_on(self, number: signal.Signals) -> None:
        """Send the signal to all, and kill those that have not ended after a while."""
        self.passed_on = number
        self._kill_at = min(self._kill_at, time.monotonic() + _STOPPING_S)
        self.tell()

    def tell(self) -> None:
        """Send the signal that is passed on to those that have not got it yet: a second one would end them at once."""
        if self.passed_on is None:
            return
        untold, self._num_told = self.processes[self._num_told :], len(self.processes)
        _send(self.passed_on, untold)

    def kill(self) -> None:
        """Kill those that go on, with all that they started."""
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def wait(self) -> list[int | None]:
        """Return the exit codes as they were a moment after the first failure, or at the end; all have ended by then.

        After a failure the others are told to end; who does not, then or after a signal, is killed.
        """
        failed: list[int | None] | None = None
        failed_at = 0.0
        while None in (codes := self.codes):
            now = time.monotonic()
            if failed is None and any(codes):
                failed_at = failed_at or now
                # a stop that one process heard of all follow, and may still be saving
                is_stop = all(code in FOLLOWED for code in codes if code)
                if now - failed_at >= (GRACE_S if is_stop else _SETTLING_S):
                    failed = codes
                    if self.passed_on is None:
                        if self.failed is not None:
                            with contextlib.suppress(OSError):  # a full disk: then the first says that it was told
                                self.failed.touch()
                        self.end(within=GRACE_S)
            self.kill_overdue()
            time.sleep(POLL_S)
        return failed or codes

    def end(self, *, within: float) -> None:
        """Tell those that go on to end, and kill those that have not after ``within`` seconds."""
        self._kill_at = min(self._kill_at, time.monotonic() + within)
        _send(signal.SIGTERM, self.processes)

    def kill_overdue(self) -> None:
        """Kill those that were told to end and had their time."""
        if time.monotonic() >= self._kill_at:
            self.is_overdue = True
            self.kill()


def _send(number: signal.Signals, processes: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


@contextlib.contextmanager
def passed_on(children: Children) -> Iterator[None]:
    """Pass signals on to the children; a second one kills them, as does an error of the block.

    Outside the main thread, where Python delivers no signals, nothing is caught.
    """

    def pass_on(number: int, _frame: FrameType | None) -> None:
        if children.passed_on is not None:
            children.kill()
        else:
            children.pass_on(signal.Signals(number))

    is_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in _SIGNALS if is_main}
    # what is ignored here (nohup) the children ignore, too
    mine = [number for number, handler in before.items() if handler is not signal.SIG_IGN]
    for number in mine:
        signal.signal(number, pass_on)
    try:
        yield
    except BaseException:
        children.kill()
        raise
    finally:
        for number in mine:
            signal.signal(number, before[number])


def vitctl_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of another vitctl that is this one."""
    # a module is found in the working folder where Python was told so (-m), and nowhere else
    is_module = Path(sys.argv[0]).name == "__main__.py"
    return [sys.executable, *([] if is_module else ["-P"]), "-m", "vitctl", *arguments]


def signal_name(number: int) -> str:
    """Return how a sentence names a signal."""
    return f"{signal.Signals(number).name}, signal {number}"


def why_killed(number: int, *, fewer: str) -> str:
    """Return the likely reason of a signal that nobody here sent, for a sentence.

    Args:
        number: The signal.
        fewer: What could be fewer: ``processes``.
    """
    return f": most likely the memory is full, fewer {fewer} or a smaller --batch-size take less" * (
        number == signal.SIGKILL
    )


def tail_of(log: Path, *, most: int) -> list[str]:
    """Return the last lines of a log; none where it cannot be read."""
    try:
        return log.read_text(encoding="utf-8", errors="replace").splitlines()[-most:]
    except OSError:
        return []
