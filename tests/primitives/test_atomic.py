"""One name for another in one step, whatever the moment a process is killed at, and whoever else writes there."""

import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.primitives import atomic
from vitctl.primitives.files import whole_file, whole_folder, whole_folders

WITHOUT_EXCHANGE = pytest.mark.parametrize("has_exchange", [True, False], ids=["exchange", "two renames"])


def listed(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in folder.rglob("*") if path.is_file()}


def write_file(path: Path, text: str) -> None:
    with whole_file(path) as partial:
        partial.write_text(text)


def write_folder(path: Path, text: str) -> None:
    with whole_folder(path) as partial:
        for name in ("a.txt", "b.txt"):
            (partial / name).write_text(text)
        (partial / "inner").mkdir()
        (partial / "inner" / "c.txt").write_text(text)


def whole(text: str) -> dict[str, str]:
    return dict.fromkeys(("a.txt", "b.txt", "inner/c.txt"), text)


def test_whole_file__killed_anywhere(tmp_path: Path, killed_at: Any) -> None:
    path = tmp_path / "a.txt"
    write_file(path, "old")
    for number in itertools.count(1):
        if not killed_at(lambda: write_file(path, "new"), number):
            break
        assert path.read_text() in ("old", "new")
    assert number > 4
    assert listed(tmp_path) == {"a.txt": "new"}


@pytest.mark.slow  # forks of a large process, 0.1 s each
@WITHOUT_EXCHANGE
def test_whole_folder__killed_anywhere(
    tmp_path: Path, killed_at: Any, monkeypatch: pytest.MonkeyPatch, has_exchange: bool
) -> None:
    if not has_exchange:
        monkeypatch.setattr(atomic, "_exchanged", lambda _first, _second: False)
    path, was_absent = tmp_path / "last", False
    write_folder(path, "0")
    for number in itertools.count(1):
        before = listed(path)
        if not killed_at(lambda text=str(number): write_folder(path, text), number):
            break
        was_absent |= not path.exists()
        atomic.recover(path)
        assert listed(path) in (before, whole(str(number)))
    assert number > 15
    assert was_absent == (not has_exchange)  # the case that recover is for did come up, and only there
    assert listed(tmp_path) == {f"last/{name}": text for name, text in whole(str(number)).items()}


@pytest.mark.slow
def test_whole_folders__killed_anywhere_each_is_whole_or_not_there(tmp_path: Path, killed_at: Any) -> None:
    def write_two(parent: Path) -> None:
        with whole_folders(parent) as staging:
            for name in ("onnx", "timm"):
                (staging / name).mkdir()
                (staging / name / "model").write_text(name)

    out = tmp_path / "out"
    for number in itertools.count(1):
        is_killed = killed_at(lambda: write_two(out), number)
        for folder in (out / "onnx", out / "timm"):
            assert not folder.exists() or listed(folder) == {"model": folder.name}
        if not is_killed:
            break
        for folder in (out / "onnx", out / "timm"):
            shutil.rmtree(folder, ignore_errors=True)
    assert number > 8
    assert listed(out) == {"onnx/model": "onnx", "timm/model": "timm"}


def test_files_of_two_writers__the_last_to_end_wins_and_nothing_is_left(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    with whole_file(path) as first:
        first.write_text("first")
        with whole_file(path) as second:
            assert second != first
            second.write_text("second")
        assert path.read_text() == "second"
    assert listed(tmp_path) == {"a.txt": "first"}


def test_folders_of_two_writers__neither_takes_the_others(tmp_path: Path) -> None:
    path = tmp_path / "last"
    write_folder(path, "old")
    with whole_folder(path) as first:
        (first / "a.txt").write_text("first")
        write_folder(path, "second")
        assert listed(first) == {"a.txt": "first"}
    assert listed(tmp_path) == {"last/a.txt": "first"}


def test_many_writers_at_once__each_reader_sees_a_whole_folder(tmp_path: Path) -> None:
    path, stop = tmp_path / "last", time.monotonic() + 1.0
    write_folder(path, "start")
    children = []
    for number in range(3):
        child = os.fork()
        if child == 0:
            try:
                while time.monotonic() < stop:
                    write_folder(path, str(number))
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    num_looks = 0
    while time.monotonic() < stop:
        assert path.is_dir()
        num_looks += 1
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert num_looks > 10
    assert listed(path) in [whole(str(number)) for number in range(3)]
    assert [found.name for found in tmp_path.iterdir()] == ["last"]


def test_what_a_killed_writer_left__is_used_again(tmp_path: Path) -> None:
    (tmp_path / ".a.txt.partial").write_text("half of it, and longer than what comes")
    (tmp_path / ".last.partial" / "inner").mkdir(parents=True)
    (tmp_path / ".last.partial" / "stale.txt").write_text("half")
    write_file(tmp_path / "a.txt", "new")
    write_folder(tmp_path / "last", "new")
    assert listed(tmp_path) == {"a.txt": "new"} | {f"last/{name}": "new" for name in whole("")}


@pytest.mark.parametrize("kind", ["folder", "link", "fifo"])
def test_something_odd_in_the_partials_place__is_left_alone(tmp_path: Path, kind: str) -> None:
    odd = tmp_path / ".a.txt.partial"
    if kind == "folder":
        odd.mkdir()
    elif kind == "fifo":
        os.mkfifo(odd)
    else:
        (tmp_path / "elsewhere").write_text("precious")
        odd.symlink_to(tmp_path / "elsewhere")
    write_file(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert odd.is_symlink() or odd.exists()
    assert kind != "link" or (tmp_path / "elsewhere").read_text() == "precious"


def test_no_locks__each_writer_has_a_name_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_handle: int, _how: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    write_file(tmp_path / "a.txt", "new")
    write_folder(tmp_path / "last", "new")
    with atomic.own_folder(tmp_path / "run") as is_own:
        assert is_own
        assert not atomic.is_in_use(tmp_path / "run")
    assert not (tmp_path / ".a.txt.partial").read_text()  # was made to be locked, and is empty


@pytest.mark.parametrize("write", [write_file, write_folder])
def test_where_nothing_can_be_made__is_an_error(write: Callable[[Path, str], None]) -> None:
    with pytest.raises(FileNotFoundError):
        write(Path("/proc/self/nothing"), "new")


def test_own_folder__is_in_use_until_the_end(tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert not atomic.is_in_use(run)
    with atomic.own_folder(run) as is_own:
        assert is_own
        assert atomic.is_in_use(run)
        with atomic.own_folder(run) as is_own_too:
            assert not is_own_too
        assert atomic.is_in_use(run)
    assert not atomic.is_in_use(run)


def test_sync__a_disk_that_is_full_only_then_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    write_file(tmp_path / "a.txt", "old")
    write_folder(tmp_path / "last", "old")
    before = listed(tmp_path)
    monkeypatch.setattr(os, "fsync", full)
    for write, path in ((write_file, tmp_path / "a.txt"), (write_folder, tmp_path / "last")):
        with pytest.raises(OSError, match="No space"):
            write(path, "new")
    assert listed(tmp_path) == before


def test_everything_is_on_disk_before_its_name_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = list[str]()
    rename = os.rename

    def sync(handle: int) -> None:
        done.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)

    def note(source: Path, target: Path) -> None:
        done.append(f"-> {Path(target).name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(os, "rename", note)
    write_folder(tmp_path / "last", "new")
    renamed = done.index("-> last")
    assert {"a.txt", "b.txt", "inner", "c.txt", ".last.partial"} == set(done[:renamed])
    assert done[renamed + 1 :] == [tmp_path.name]


# --- by the system's own hand: strace(1) kills between two system calls

SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from vitctl.primitives.files import whole_file, whole_folder
path = Path({path!r})
with whole_folder(path) as partial:
    for name in ("a.txt", "b.txt"):
        with whole_file(partial / name) as file:
            file.write_text({text!r})
"""
CALLS = "rename,renameat,renameat2,fsync,mkdir,unlink,unlinkat,rmdir,flock"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_whole_folder__killed_between_system_calls(tmp_path: Path) -> None:
    path, ends = tmp_path / "last", list[int]()

    def run(text: str, number: int) -> int:
        code = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path), text=text)
        inject = f"inject={CALLS}:signal=KILL:when={number}"
        line = [
            "strace",
            "-f",
            "-qq",
            "-o",
            os.devnull,
            "-e",
            f"trace={CALLS}",
            "-e",
            inject,
            sys.executable,
            "-c",
            code,
        ]
        return subprocess.run(line, check=False, capture_output=True).returncode

    if run("0", 10_000) != 0:
        pytest.skip("strace may not trace here")
    for number in np.random.default_rng(0).integers(1, 30, 20).tolist():
        before = listed(path)
        ends.append(run(str(number), number))
        assert listed(path) in (before, dict.fromkeys(("a.txt", "b.txt"), str(number)))
    assert len(set(ends)) > 1  # some were killed, some ended
    assert run("end", 10_000) == 0
    assert [found.name for found in tmp_path.iterdir()] == ["last"]


def test_killed_at__kills(tmp_path: Path, killed_at: Callable[..., bool]) -> None:
    assert killed_at(lambda: os.mkdir(tmp_path / "a"), 1)  # noqa: PTH102
    assert not (tmp_path / "a").exists()
    assert not killed_at(lambda: os.mkdir(tmp_path / "a"), 2)  # noqa: PTH102
    assert (tmp_path / "a").exists()
