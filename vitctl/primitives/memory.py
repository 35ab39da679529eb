"""How much memory is free, and whether what a file declares fits into it: asked before anything is allocated."""

import os
from collections.abc import Iterator
from pathlib import Path

from vitctl.primitives.documents import Refusal
from vitctl.primitives.formatting import format_bytes

SMALL_BYTES = 256 * 2**20  # guess: what is smaller is read, however well it was packed
MOST_TIMES = 100  # guess: MNIST is 5 times its .gz, features with many zeros are 3; deflate packs zeros 1,032 times

LISTING_BYTES = 128 * 2**20  # guess: names of two million images
TIMES_READ = (
    32  # what a listing takes while it is read: of names 2 times its size, of empty lists 26; measured, 2026-11
)

# a control group's folder below /sys/fs/cgroup -> the names of its limit and its use (kernel.org, cgroup v2 and v1)
_CGROUPS = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
_CGROUP_ROOT = Path("/sys/fs/cgroup")


def free_bytes() -> int | None:
    """Return how much memory this process can still have, None where unknown.

    It is the least of what the computer has, of what a container's control group leaves and of what ``ulimit -v``
    leaves. What the kernel keeps of files counts as free: it is given back when it is needed.
    """
    return min((found for found in (_of_computer(), *_of_cgroups(), _of_limit()) if found is not None), default=None)


def most_listing_bytes() -> int:
    """Return how large a list of names may be, in bytes of a file: what the memory holds, whatever is in it instead."""
    return max(LISTING_BYTES, (free_bytes() or 0) // TIMES_READ)


def check_fits(num_bytes: int, *, what: str, error: Refusal, advice: str) -> None:
    """Check that ``num_bytes`` of memory are free.

    Args:
        num_bytes: About to be allocated.
        what: What would take them, for the sentence: ``The features``.
        error: What to raise.
        advice: What to try: a sentence without its full stop.

    Raises:
        VitctlError: ``error``; they are not.
    """
    free = free_bytes()
    if free is not None and num_bytes > free:
        raise error(
            f"{what} would take {format_bytes(num_bytes)} of memory, and {format_bytes(max(free, 0))} are free. "
            f"{advice}."
        )


def check_declared(num_bytes: int, file_bytes: int, *, where: Path | str, error: Refusal) -> None:
    """Check that what a file says it holds is neither a lie nor a bomb nor too much for the memory.

    Args:
        num_bytes: What it will be when it is unpacked, by the file's own word.
        file_bytes: Size of the file.
        where: The file, for the sentence.
        error: What to raise.

    Raises:
        VitctlError: ``error``; it is.
    """
    if num_bytes > max(SMALL_BYTES, MOST_TIMES * file_bytes):
        raise error(
            f"{where} says that {format_bytes(num_bytes)} are packed into its {format_bytes(file_bytes)}; expected at "
            f"most {MOST_TIMES} times its size. Unpack it yourself if you trust it, or get it again."
        )
    check_fits(num_bytes, what=f"What {where} holds", error=error, advice="Use a part of it, or more memory")


def _of_computer() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):  # not Linux
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not a POSIX system
        return None


def _of_cgroups() -> Iterator[int]:
    """Yield what the control groups of this process, and those above them, leave."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, place = line.split(":", 2)
        folder, limit, used = _CGROUPS[bool(controllers)]
        if not controllers or "memory" in controllers.split(","):
            inner = Path(place.lstrip("/"))
            for group in (inner, *inner.parents):
                left = _left(_CGROUP_ROOT / folder / group, limit, used)
                if left is not None:
                    yield left


def _left(group: Path, limit: str, used: str) -> int | None:
    """Return what a control group leaves; None where it has no limit, or cannot be seen from inside a container."""
    try:
        most, now = (int((group / name).read_text(encoding="ascii")) for name in (limit, used))
        statistics = (group / "memory.stat").read_text(encoding="ascii").split()
    except (OSError, ValueError):  # "max" is no number
        return None
    named = dict(zip(statistics[::2], statistics[1::2], strict=False))
    of_files = int(named.get("total_inactive_file", named.get("inactive_file", 0)))
    return most - now + of_files


def _of_limit() -> int | None:
    """Return how much address space ``ulimit -v`` leaves; None where there is no limit."""
    try:
        import resource  # not on Windows

        most = resource.getrlimit(resource.RLIMIT_AS)[0]
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except (ImportError, OSError, ValueError):
        return None
    return None if most == resource.RLIM_INFINITY else most - pages * os.sysconf("SC_PAGE_SIZE")
