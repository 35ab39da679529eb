"""What is kept is believed only where it verifies, and kept where only its owner looks."""

import os
import pwd
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitctl.primitives import cache
from vitctl.primitives.cache import CacheWarning, cache_folder, file_stamp, keep, make_private, recall

SETTLED_S = 0.03
LONG_AGO = 1_500_000_000_000_000_000  # ns, whole seconds


# --- stamps


def _settled(path: Path) -> str:
    time.sleep(SETTLED_S)
    return file_stamp(path)


def test_stamp__the_same_while_nothing_changes(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    assert _settled(tmp_path / "a") == _settled(tmp_path / "a")


@pytest.mark.parametrize("change", ["content", "replaced", "restored time", "size"])
def test_stamp__changes_with_the_file_whatever_is_put_back(tmp_path: Path, change: str) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_text("a")
    before, status = _settled(path), path.stat()
    if change == "replaced":
        other.write_text("b")
        os.replace(other, path)
    else:
        path.write_text("bc" if change == "size" else "b")
    if change != "content":
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert _settled(path) != before


def test_stamp__a_file_that_has_just_changed_never_has_the_same_again(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("a")
    young = file_stamp(path)
    assert young != file_stamp(path)
    assert young != _settled(path)


@pytest.mark.parametrize(
    ("mtime", "ctime", "is_settled"),
    [
        (-5_000_000_000, -5_000_000_000, True),
        (-1_000_000, -5_000_000_000, False),
        (-5_000_000_000, -1_000_000, False),
        (-30_000_001, -30_000_001, True),
        (9_000_000_000, -5_000_000_000, True),  # a camera's clock; the system's own time tells
        (-5_000_000_000, 9_000_000_000, False),  # a server's clock, ahead of ours
    ],
)
def test_is_settled(mtime: int, ctime: int, is_settled: bool) -> None:
    now = LONG_AGO + 1  # so that no time here is of whole seconds
    status = os.stat_result((0,) * 10 + (0, 0, 0) + (0, now + mtime, now + ctime))
    assert (status.st_mtime_ns, status.st_ctime_ns) == (now + mtime, now + ctime)
    assert cache._is_settled(status, now) is is_settled


@pytest.mark.parametrize(("age_s", "is_settled"), [(1, False), (2, False), (3, True)])
def test_is_settled__times_of_whole_seconds(age_s: int, is_settled: bool) -> None:
    times = LONG_AGO - age_s * 1_000_000_000
    status = os.stat_result((0,) * 10 + (0, 0, 0) + (0, times, times))
    assert cache._is_settled(status, LONG_AGO) is is_settled


# --- what is kept


def test_kept__comes_back(tmp_path: Path) -> None:
    keep(tmp_path / "new" / "a", "é\nb")
    assert recall(tmp_path / "new" / "a") == "é\nb"
    assert recall(tmp_path / "new" / "b") is None


def test_kept__every_bit_counts(tmp_path: Path) -> None:
    path = tmp_path / "a"
    keep(path, "some text")
    whole = path.read_bytes()
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.warns(CacheWarning, match="is damaged"):
            assert recall(path) is None
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.warns(CacheWarning):
            assert recall(path) is None


def test_kept__a_folder_that_cannot_be_written_costs_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    keep(tmp_path / "file" / "a", "text")
    assert recall(tmp_path / "file" / "a") is None


# --- where


def test_make_private__new_folders_are_the_owners_alone_and_old_ones_stay(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    make_private(tmp_path / "a" / "b")
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in (tmp_path, tmp_path / "a", tmp_path / "a" / "b")]
    assert modes == [0o755, 0o700, 0o700]


@pytest.mark.parametrize("homeless", ["empty", "unknown user", "tilde in VITCTL_CACHE"])
def test_cache_folder__none_without_a_home(monkeypatch: pytest.MonkeyPatch, homeless: str) -> None:
    def unknown(_user: object) -> None:
        raise KeyError

    if homeless == "empty":
        monkeypatch.setenv("HOME", "")
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", unknown)
    if homeless.startswith("tilde"):
        monkeypatch.setenv("VITCTL_CACHE", "~/cache")
    with pytest.warns(CacheWarning, match="no home folder"):
        assert cache_folder() is None
    monkeypatch.setenv("VITCTL_CACHE", "/elsewhere")
    assert cache_folder() == Path("/elsewhere")


@pytest.mark.skipif(os.geteuid() != 0, reason="another user's processes are root's to start")
@pytest.mark.slow
def test_command_without_a_home__works_says_so_once_and_makes_no_folder(image_folder: Path) -> None:
    Path.cwd().chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-m", "vitctl", "data", str(image_folder)],
        env={key: value for key, value in os.environ.items() if key != "HOME"} | {"HOME": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("There is no home folder") == 1
    assert not Path("~").exists()
