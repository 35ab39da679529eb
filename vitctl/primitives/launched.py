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

PARENT = "VITCTL_PARENT"
"""Environment variable: the process that started this one."""
LISTENING = "VITCTL_LISTENING"
"""Environment variable of the first process: the file number of a socket at MASTER_PORT, for the others to find it."""
LOG = "VITCTL_LOG"
"""Environment variable of the other processes: the file that stdout and stderr go to."""
FAILED = "VITCTL_FAILED"
"""Environment variable: a file that is there once a process has failed, and the others are told to end."""

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


def end_with_parent() -> None:
    """End when the process that started this one is gone: nobody would stop or hear this one any more.

    First with SIGTERM, as the parent would have it; who does not follow within ``GRACE_S`` is killed, with all that it
    started. Of no effect where vitctl did not start this process.
    """
    if is_launched():
        threading.Thread(target=_watch, args=(int(os.environ[PARENT]),), daemon=True).start()


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
