"""Processors that may be used: affinity, and the quotas of cgroups of both versions."""

import math
import os
from pathlib import Path

import pytest

from vitctl.primitives import cpus


def _cgroups(root: Path, membership: str, **files: str) -> tuple[Path, Path]:
    """Write cgroup files (in names ``__`` is a slash, ``_dot_`` a dot); return their root and the membership."""
    for name, text in files.items():
        path = root / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (root / "membership").write_text(membership)
    return root / "cgroup", root / "membership"


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {}, math.inf),
        ("0::/\n", {"cpu_dot_max": "max 100000\n"}, math.inf),
        ("0::/\n", {"cpu_dot_max": "150000 100000\n"}, 1.5),
        ("0::/a/b\n", {"a__b__cpu_dot_max": "max 100000\n", "a__cpu_dot_max": "200000 100000\n"}, 2),
        ("0::/of/the/host\n", {"cpu_dot_max": "300000 100000\n"}, 3),  # a container, which sees its own root only
        (
            "4:cpu,cpuacct:/d\n3:memory:/m\n0::/\n",
            {"cpu__d__cpu_dot_cfs_quota_us": "50000\n", "cpu__d__cpu_dot_cfs_period_us": "100000\n"},
            0.5,
        ),
        ("1:cpu:/\n", {"cpu__cpu_dot_cfs_quota_us": "-1\n", "cpu__cpu_dot_cfs_period_us": "100000\n"}, math.inf),
        ("2:cpuset:/\n", {"cpu__cpu_dot_cfs_quota_us": "1\n", "cpu__cpu_dot_cfs_period_us": "1\n"}, math.inf),
        ("0::/\n", {"cpu_dot_max": "garbage"}, math.inf),
        ("0::/\n", {"cpu_dot_max": "100000 0\n"}, math.inf),
    ],
)
def test_cpu_quota(tmp_path: Path, membership: str, files: dict[str, str], expected: float) -> None:
    assert cpus.cpu_quota(*_cgroups(tmp_path, membership, **files)) == expected


def test_cpu_quota__no_linux(tmp_path: Path) -> None:
    assert cpus.cpu_quota(tmp_path, tmp_path / "membership") == math.inf


@pytest.mark.parametrize(("quota", "expected"), [(math.inf, 6), (2.1, 3), (8.0, 6), (0.1, 1)])
def test_num_cpus__the_least_of_affinity_and_quota(
    monkeypatch: pytest.MonkeyPatch, quota: float, expected: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(6)))
    monkeypatch.setattr(cpus, "cpu_quota", lambda: quota)
    assert cpus.num_cpus() == expected


def test_num_cpus__affinity_as_the_system_has_it() -> None:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert cpus.num_cpus() == 1
    finally:
        os.sched_setaffinity(0, before)
