"""``--num-processes N``: start a command in N processes of this machine, and be all of them to whoever started it.

The parent imports no torch. Each child is the same command line again, in a session of its own, so that a Ctrl-C
reaches the parent alone, which passes it on once. The first child speaks on our stdout and stderr; what the others say
goes to ``logs/`` in the folder that the command writes, and its end is shown where one of them fails first.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from vitctl.errors import FailedElsewhere, InterruptedRun, SettingError, VitctlError
from vitctl.primitives.children import (
    FOLLOWED,
    PATIENT,
    Children,
    passed_on,
    signal_name,
    tail_of,
    vitctl_command,
    why_killed,
)
from vitctl.primitives.cpus import num_cpus
from vitctl.primitives.gpus import num_gpus
from vitctl.primitives.launched import FAILED, LISTENING, LOG, LOST, PARENT, is_launched
from vitctl.settings.words import AUTO

_FAILED = "failed"  # name of the file that says so, beside the logs
_TAIL_LINES = 20


class LostProcessError(VitctlError):
    """A process of several has failed, and not the one that speaks for all; the exit code is that one's."""

    def __init__(self, message: str, *lines: str, exit_code: int) -> None:
        super().__init__(message, *lines)
        self.exit_code = exit_code


def processes_to_start(num_processes: int | str | None, *, device: str) -> int:
    """Return how many processes a command is to be started in; 1 where it goes on in this one.

    Args:
        num_processes: As given: a number, ``auto``, which is one for each GPU that can be used, or None.
        device: As given.

    Raises:
        SettingError: Something else has started several processes already.
    """
    if num_processes is None or is_launched():
        return 1
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 or "RANK" in os.environ:
        raise SettingError(
            "--num-processes is given in one of several processes that torchrun, or another launcher, has started "
            "(RANK or WORLD_SIZE is set); leave it out, or start vitctl without that launcher.",
            field="num_processes",
        )
    if num_processes != AUTO:
        return int(num_processes)
    return max(1, num_gpus()) if device in (AUTO, "cuda") else 1


def own_command() -> list[str]:
    """Return the command line that this process was started with, for another process to do the same."""
    return vitctl_command(sys.argv[1:])


def run_in_processes(command: Sequence[str], count: int, *, is_resumable: bool = False) -> None:
    """Run ``command`` in ``count`` processes that find each other, to the end of all; all have succeeded.

    Args:
        command: To run.
        count: Of processes, >= 1.
        is_resumable: Whether the same command goes on from a checkpoint, for the message.

    Raises:
        FailedElsewhere: They did not, and the first process has said why; so with a signal that was passed on.
        InterruptedRun: A signal was passed on, and who did not follow it was killed.
        LostProcessError: Another process failed first.
    """
    logs = Path(tempfile.mkdtemp(prefix="vitctl-"))
    try:
        children = Children(logs / _FAILED)
        with passed_on(children):
            with _listening_socket() as listening:
                for index in range(count):
                    children.processes.append(_start(command, index, count, listening, logs))
                    if children.passed_on is not None:
                        children.tell()  # this one, which was not there when the signal came
                        break
            codes = children.wait()
        _end(children, codes, logs, again=_again(is_resumable))
    finally:
        shutil.rmtree(logs, ignore_errors=True)


@contextlib.contextmanager
def _listening_socket() -> Iterator[socket.socket]:
    """Yield a socket at a port of this machine that the first process takes over: no other program can come between."""
    with socket.create_server(("127.0.0.1", 0), backlog=1024) as listening:
        yield listening


def _start(
    command: Sequence[str], index: int, count: int, listening: socket.socket, logs: Path
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        PARENT: str(os.getpid()),
        FAILED: str(logs / _FAILED),
        "RANK": str(index),
        "LOCAL_RANK": str(index),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(listening.getsockname()[1]),
    }
    for name, value in ({"OMP_NUM_THREADS": str(max(1, num_cpus() // count))} | PATIENT).items():
        environment.setdefault(name, value)
    if Path("/sys/class/net/lo").exists():  # else gloo looks up the name of the machine, which may lead anywhere
        environment.setdefault("GLOO_SOCKET_IFNAME", "lo")
    if index == 0:
        number = listening.fileno()
        return subprocess.Popen(
            command,
            env=environment | {LISTENING: str(number)},
            pass_fds=[number],
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    log = logs / f"rank-{index}.txt"
    with log.open("wb") as file:
        return subprocess.Popen(
            command,
            env=environment | {LOG: str(log)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _again(is_resumable: bool) -> str:
    return "Give the same command again" + (
        "; it goes on from the last checkpoint, if there is one." if is_resumable else "."
    )


def _end(children: Children, codes: Sequence[int | None], logs: Path, *, again: str) -> None:
    """Raise what became of the processes, unless all have succeeded."""
    failed = {index: code for index, code in enumerate(codes) if code}
    if not failed:
        return
    if children.passed_on is not None:
        code = 128 + children.passed_on
        if not children.is_overdue:
            raise FailedElsewhere(code)
        raise InterruptedRun(
            f"Processes that did not follow {children.passed_on.name} in time were killed. {again}",
            exit_code=code,
        )
    # who was killed, or has a sentence, comes before who has a traceback, and who ended for want of another is last
    index = min(failed, key=lambda one: (failed[one] == LOST, failed[one] > 0, failed[one] == 1, one))
    code, count = failed[index], len(codes)
    if code == LOST:
        raise LostProcessError(f"The {count} processes have lost each other. Start again.", exit_code=1)
    if code > 0 and failed.get(0) == code:
        raise FailedElsewhere(code)
    lines = _tail(logs / f"rank-{index}.txt")
    if code < 0:
        raise LostProcessError(
            f"Process {index} of {count} was killed ({signal_name(-code)})"
            f"{why_killed(-code, fewer='processes')}; the others were stopped. {again}",
            *lines,
            exit_code=128 - code,
        )
    if code in FOLLOWED:
        raise LostProcessError(
            f"Process {index} of {count} was told to end ({signal_name(code - 128)}); the others were stopped. {again}",
            *lines,
            exit_code=code,
        )
    raise LostProcessError(
        f"Process {index} of {count} ended with exit code {code}, and the others were stopped"
        + (". It said last:" if lines else "."),
        *lines,
        exit_code=code,
    )


def _tail(log: Path) -> list[str]:
    return [f"  {line}" for line in tail_of(log, most=_TAIL_LINES)]


def start_if_asked(num_processes: int | str | None, *, device: str, is_resumable: bool = False) -> bool:
    """Run the command in several processes where that is asked for; return whether it was, and all is done.

    Args:
        num_processes: As given.
        device: As given.
        is_resumable: Whether the same command goes on from a checkpoint, for the message.

    Raises:
        SettingError: They cannot be started from here.
        FailedElsewhere: They failed, and that is said.
        InterruptedRun: They were to stop, and who did not was killed.
        LostProcessError: One that cannot be heard failed.
    """
    count = processes_to_start(num_processes, device=device)
    if count == 1:
        return False
    run_in_processes(own_command(), count, is_resumable=is_resumable)
    return True
