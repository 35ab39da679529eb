"""What can be computed again, kept in a folder of vitctl's own, and believed only where it can be checked.

Each thing kept has a stamp of what it was made from, as git's index has of every file, and a checksum, as restic's
packs have. What does not verify, whatever it is instead, counts as unknown, and is made again.
"""

import fcntl
import functools
import os
import re
import time
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from vitctl.errors import SaidWarning
from vitctl.primitives.files import user_path, whole_file

_TICK_NS = 20_000_000  # file systems keep time in the kernel's ticks, of at most 10 ms
_COARSE_TICK_NS = 2_000_000_000  # those that keep whole seconds; FAT keeps even ones


class CacheWarning(SaidWarning):
    """Something that is kept cannot be used; it costs time, and nothing else."""


def cache_folder() -> Path | None:
    """Return the folder for what can be computed again: ``$VITCTL_CACHE``, else ``~/.cache/vitctl``.

    ``$XDG_CACHE_HOME`` takes the place of ``~/.cache``. The folder may not exist. None, with a warning, where there is
    no home to keep it in.
    """
    given = os.environ.get("VITCTL_CACHE")
    folder = user_path(given) if given else user_path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "vitctl"
    # a home that is not known stays "~", an empty one leaves "/.cache": neither is where somebody wants a folder
    is_homeless = folder.parts[0].startswith("~") or (not given and os.environ.get("HOME") == "")
    if not is_homeless:
        return folder
    warnings.warn(
        "There is no home folder, so nothing is kept for the next run. Set HOME, or VITCTL_CACHE to a folder.",
        CacheWarning,
        stacklevel=2,
    )
    return None


def make_private(folder: Path) -> None:
    """Make a folder of the cache where it is not there, and those above it, for this user's eyes alone (mode 0700).

    Raises:
        OSError: It cannot be made.
    """
    for one in (*reversed(folder.parents), folder):
        one.mkdir(mode=0o700, exist_ok=True)


@functools.cache  # once is enough: nobody makes more of them
def clear_old(folder: Path, names: str) -> None:
    """Remove from a folder of the cache the files that earlier versions kept there and nobody reads any more.

    Args:
        folder: It may not exist.
        names: A regular expression of their whole names, which no other file could have.
    """
    with suppress(OSError):  # what stays costs room, and nothing else
        with os.scandir(folder) as inside:
            old = [one.path for one in inside if re.fullmatch(names, one.name) and one.is_file(follow_symlinks=False)]
        for path in old:
            os.unlink(path)


@contextmanager
def alone(lock: Path) -> Iterator[None]:
    """Wait until no other process is in a block with the same ``lock``, a file that is made and stays.

    Raises:
        OSError: It cannot be made.
    """
    with lock.open("a") as file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say_damaged(folder: Path) -> None:
    """Warn that something in ``folder`` did not verify."""
    warnings.warn(f"Something kept in {folder} is damaged, so it is made anew.", CacheWarning, stacklevel=2)


def file_stamp(path: str | Path) -> str:
    """Return a text that changes when the file does: its size, the times of its last changes, and its inode.

    A file that has just changed may change again and keep its times. Its stamp is one that no other equals, so that
    what is made of it now is not believed later: git's rule for "racily clean" entries
    (https://git-scm.com/docs/racy-git).

    Raises:
        OSError: There is no such file.
    """
    now = time.time_ns()
    status = os.stat(path)
    stamp = f"{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}-{status.st_ino}"
    return stamp if _is_settled(status, now) else f"{stamp}-{now}"


def _is_settled(status: os.stat_result, now: int) -> bool:
    """Return whether a change after ``now``, ns, would show in the times of a file."""
    times = (status.st_mtime_ns, status.st_ctime_ns)
    tick = _COARSE_TICK_NS if all(one % 1_000_000_000 == 0 for one in times) else _TICK_NS
    # users set the first, also to the future, the system alone the second
    return status.st_ctime_ns + tick < now and not now - tick <= status.st_mtime_ns <= now


def checksum(content: bytes | memoryview, start: int = 0) -> int:
    """Return the CRC-32 of ``content``, after that of what came before: against damage, not against an attacker."""
    return zlib.crc32(content, start)


def file_checksum(path: Path) -> int:
    """Return the checksum of a file's bytes.

    Raises:
        OSError: It cannot be read.
    """
    found = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            found = checksum(block, found)
    return found


def recall(path: Path) -> str | None:
    """Return the text that ``keep`` wrote; None where there is none, or, after a warning, where it does not verify."""
    try:
        digest, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if digest != b"%08x" % checksum(content):
        say_damaged(path.parent)
        return None
    return content.decode(errors="replace")


def keep(path: Path, text: str) -> None:
    """Keep ``text`` behind a first line with its checksum; a cache that cannot be written costs time only."""
    content = text.encode(errors="replace")
    try:
        make_private(path.parent)
        with whole_file(path) as partial:
            partial.write_bytes(b"%08x\n" % checksum(content) + content)
    except OSError:
        return
