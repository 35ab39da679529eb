"""Free memory by every word on it, and files that declare more than they can hold."""

import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from vitctl.errors import DataError, ModelError
from vitctl.primitives import memory
from vitctl.primitives.memory import check_declared, check_fits, free_bytes, most_listing_bytes

MEMINFO = Path("/proc/meminfo")


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the computer as the only one to have a word."""
    monkeypatch.setattr(memory, "_of_cgroups", lambda: iter(()))
    monkeypatch.setattr(memory, "_of_limit", lambda: None)


def test_free_bytes__what_the_system_keeps_of_files_counts(monkeypatch: pytest.MonkeyPatch, alone: None) -> None:
    if not MEMINFO.is_file():
        pytest.skip("Linux tells")
    available = int(re.findall(r"MemAvailable: +(\d+) kB", MEMINFO.read_text())[0]) * 1024
    sysconf = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}  # a machine that has read many images: 4 MB unused
    monkeypatch.setattr("os.sysconf", lambda name: sysconf[name])
    assert available / 8 < (free_bytes() or 0) < available * 8


# files below the root of control groups -> what is left
CGROUPS = {
    "v2": (
        "0::/job/inner\n",
        {
            "job/inner/memory.max": "max\n", "job/inner/memory.current": "500\n", "job/inner/memory.stat": "anon 1\n",
            "job/memory.max": "1000000\n", "job/memory.current": "600000\n",
            "job/memory.stat": "anon 1\ninactive_file 50000\nactive_file 9\n",
        },
        450_000,
    ),
    "v1": (
        "5:devices:/\n4:cpu,memory:/job\n0::/\n",
        {
            "memory/job/memory.limit_in_bytes": "3000\n", "memory/job/memory.usage_in_bytes": "2500\n",
            "memory/job/memory.stat": "inactive_file 7\ntotal_inactive_file 100\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n", "memory/memory.usage_in_bytes": "8\n",
            "memory/memory.stat": "",
        },
        600,
    ),
    "a container that sees no folder of its own": (
        "0::/docker/abc\n",
        {"memory.max": "100\n", "memory.current": "300\n", "memory.stat": ""},
        -200,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CGROUPS)
def test_free_bytes__of_control_groups(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    own, files, left = CGROUPS[name]
    for file, content in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(content)
    read_text = Path.read_text
    monkeypatch.setattr(memory, "_CGROUP_ROOT", tmp_path)
    monkeypatch.setattr(
        Path, "read_text", lambda self, **how: own if str(self) == "/proc/self/cgroup" else read_text(self, **how)
    )
    assert free_bytes() == left


def test_free_bytes__of_a_limit() -> None:
    if not MEMINFO.is_file():
        pytest.skip("Linux tells")
    code = "from vitctl.primitives.memory import free_bytes; print(free_bytes())"
    most = 2**30
    found = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (most, most)),
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert most / 2 < int(found.stdout) < most


def test_check_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**30)
    check_fits(2**30, what="It", error=ModelError, advice="Do without")
    with pytest.raises(ModelError, match=r"^It would take 4 GiB of memory, and 1 GiB are free\. Do without\.$"):
        check_fits(2**32, what="It", error=ModelError, advice="Do without")
    monkeypatch.setattr(memory, "free_bytes", lambda: None)
    check_fits(2**62, what="It", error=ModelError, advice="Do without")


def test_check_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda: 2**40)
    check_declared(256 * 2**20, 1, where="a.gz", error=DataError)  # small, however well it is packed
    check_declared(100 * 2**30, 2**30, where="a.gz", error=DataError)
    with pytest.raises(DataError, match=r"^a\.gz says that 101 GiB are packed into its 1 GiB; .* 100 times its size"):
        check_declared(101 * 2**30, 2**30, where="a.gz", error=DataError)
    with pytest.raises(DataError, match=r"^What a\.gz holds would take 2 TiB of memory, and 1 TiB are free\."):
        check_declared(2**41, 2**40, where="a.gz", error=DataError)


def test_most_listing_bytes__follows_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, expected in ((None, 2**27), (2**30, 2**27), (2**37, 2**32)):
        monkeypatch.setattr(memory, "free_bytes", lambda free=free: free)
        assert most_listing_bytes() == expected
