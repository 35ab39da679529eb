"""What a process knows that vitctl itself started as one of several: its log, and who started it.

``vitctl ... --num-processes N`` starts them (``vitctl.cli.launcher``); of one that torchrun or a person started nothing
here does anything. Imports no torch.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

from vitctl.primitives.files import write_json

PARENT = "VITCTL_PARENT"
"""Environment variable: the process that started this one."""
LISTENING = "VITCTL_LISTENING"
"""Environment variable of the first process: the file number of a socket at MASTER_PORT, for the others to find it."""
LOG = "VITCTL_LOG"
"""Environment variable of the other processes: the file that stdout and stderr go to."""
FAILED = "VITCTL_FAILED"
"""Environment variable: a file that is there once a process has failed, and the others are told to end."""

KEEPER = "VITCTL_KEEPER"
"""Environment variable: a process that started this one for a work of its own, a run of a sweep, and ends it."""
DIVERGED = "VITCTL_DIVERGED"
"""Environment variable: a file to say in that the loss is no longer finite, as the run folder may not stay."""

LOST = 75
"""Exit code of a process that ends because another one has failed, which is the one to be named."""
GRACE_S = 30.0  # from being told to end to being killed: longer than a step and saving; torchrun's, too
_POLL_S = 0.5


def is_launched() -> bool:
    """Return whether vitctl itself started this process as one of several."""
    return PARENT in os.environ


def is_told_of_failure() -> bool:
    """Return whether vitctl, which started this process as one of several, ends it as another one has failed."""
    return FAILED in os.environ and Path(os.environ[FAILED]).exists()


def tell_of_divergence(document: object) -> None:
    """Tell who started this process, and asked for it, that the loss is no longer finite."""
    if DIVERGED in os.environ and os.environ.get("RANK", "0") == "0":
        write_json(Path(os.environ[DIVERGED]), document)


def end_with_parent() -> None:
    """End when the process that started this one is gone: nobody would stop or hear this one any more.

    First with SIGTERM, as the parent would have it; who does not follow within ``GRACE_S`` is killed, with all that it
    started. Of no effect where vitctl did not start this process.
    """
    keeper = os.environ.pop(KEEPER, None)  # not of the processes that this one may start
    parent = os.environ.get(PARENT) or keeper
    if parent is not None:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_S)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.killpg(0, signal.SIGKILL)


def keep_log(folder: Path) -> None:
    """Write what this process has said, and says from now on, to ``folder/logs/rank-R.txt``.

    Of no effect in the first process, which speaks for all, and where vitctl did not start this process.
    """
    log = os.environ.get(LOG)
    if log is None:
        return
    with contextlib.suppress(OSError):  # a full disk: then it stays where it is
        kept = folder / "logs" / f"rank-{os.environ['RANK']}.txt"
        kept.parent.mkdir(exist_ok=True)
        sys.stdout.flush()
        sys.stderr.flush()
        # an earlier part of the same run may have said what it failed of
        handle = os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.write(handle, Path(log).read_bytes())
        for stream in (1, 2):
            os.dup2(handle, stream)
        os.close(handle)
        Path(log).unlink()
        Path(log).symlink_to(kept.absolute())
