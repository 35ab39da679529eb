"""How many processors this process may use, which in a container are often fewer than the machine has."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUPS, _MEMBERSHIP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
_V2, _V1_QUOTA, _V1_PERIOD = "cpu.max", "cpu.cfs_quota_us", "cpu.cfs_period_us"


def num_cpus() -> int:
    """Return how many processors this process may use, at least 1: by its affinity, and the quota of its cgroups."""
    # joblib.cpu_count() looks at the root of the cgroups only, and importing it takes half a second
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.ceil(min(allowed, cpu_quota())))


def num_local_processes() -> int:
    """Return how many processes of one run share this machine, as who started them says; 1 without a word of it."""
    return max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def num_threads_asked_for() -> int | None:
    """Return the threads that OMP_NUM_THREADS asks every process for; None where it does not."""
    text = os.environ.get("OMP_NUM_THREADS", "").strip()
    return int(text) if text.isdecimal() and int(text) else None


def num_own_cpus() -> int:
    """Return this process's share of the processors, at least 1, where several of one run share the machine."""
    return max(1, num_cpus() // num_local_processes())


def cpu_quota(cgroups: Path = _CGROUPS, membership: Path = _MEMBERSHIP) -> float:
    """Return how many processors' time the cgroups of this process allow it; infinity where they set no limit.

    Args:
        cgroups: Where they are mounted, version 1 (a folder per controller) or 2.
        membership: The file that says in which of them this process is.
    """
    return min(_quotas(cgroups, membership), default=math.inf)


def _quotas(cgroups: Path, membership: Path) -> Iterator[float]:
    for controllers, inside in _memberships(membership):
        root = cgroups if not controllers else cgroups / "cpu"
        # a limit holds for all below; in a container the path may be the host's, and only the root be there
        for folder in (inside, *inside.parents):
            quota = _quota(root / folder, is_v2=not controllers)
            if quota is not None:
                yield quota


def _memberships(membership: Path) -> Iterator[tuple[str, Path]]:
    """Yield the controllers ("" in version 2) and the relative path of each cgroup that may limit processors."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, inside = rest.partition(":")
        if not controllers or "cpu" in controllers.split(","):
            yield controllers, Path(inside.lstrip("/"))


def _quota(folder: Path, *, is_v2: bool) -> float | None:
    """Return the quota of one cgroup in processors; None where it has none."""
    try:
        if is_v2:
            quota, period = (folder / _V2).read_text(encoding="utf-8").split()[:2]
        else:
            quota, period = ((folder / name).read_text(encoding="utf-8") for name in (_V1_QUOTA, _V1_PERIOD))
        found = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # not there; or "max"
        return None
    return found if found > 0 else None  # version 1 says -1 for none
