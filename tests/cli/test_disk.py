"""Disks that are full, read-only or gone, at any moment of a command; pipes and devices among the images."""

import ctypes
import os
import resource
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

CLONE_NEWNS, MS_RDONLY, MS_REC, MS_PRIVATE = 0x20000, 1, 0x4000, 0x40000  # of Linux: sched.h, sys/mount.h
NO_MOUNTS = 77
NO_WORKERS = ("--num-workers", 0)
TINY_RUN = ("--image-size", 16, "--steps", 3, *NO_WORKERS)


def mount(folder: Path, options: str, flags: int = 0) -> None:
    """Put an empty file system in the place of ``folder``, for this process alone; end it where that is forbidden."""
    libc = ctypes.CDLL(None, use_errno=True)
    folder.mkdir(exist_ok=True)
    if (
        libc.unshare(CLONE_NEWNS)
        or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        or libc.mount(b"tmpfs", os.fsencode(folder), b"tmpfs", flags, options.encode())
    ):
        os._exit(NO_MOUNTS)


def run_where(prepare: Callable[[], object], *args: object) -> tuple[int, str]:
    """Run ``vitctl ARGS...`` in a fork that does ``prepare`` first; return its exit code and what it said on stderr."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 70
        try:
            os.close(reader)
            sys.stdout, sys.stderr = open(os.devnull, "w"), open(writer, "w", buffering=1)  # noqa: SIM115
            prepare()
            from vitctl.cli.app import app

            app([str(arg) for arg in args], prog_name="vitctl")
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(writer)
    with open(reader, encoding="utf-8") as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == NO_MOUNTS:
        pytest.skip("mounting is not permitted here")
    return code, text


def check_refused(found: tuple[int, str], *words: str) -> None:
    code, text = found
    assert "Traceback" not in text
    errors = [line for line in text.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, text
    assert code == 2, text
    for word in ("cannot be written: ", *words):
        assert word in " ".join(text[text.index("error: ") :].split())


@pytest.fixture(scope="module")
def commands(finished_run: Path, tiny_model_folder: Path) -> dict[str, tuple[object, ...]]:
    """Commands that write below ``--out``."""
    data = finished_run.parent / "data"
    return {
        "finetune": ("finetune", "--data", data, "--model", tiny_model_folder, *TINY_RUN),
        "evaluate": ("evaluate", finished_run, "--split", "test", *NO_WORKERS),
        "data": ("data", data),
        "fewshot-eval": (
            "fewshot-eval",
            "--model",
            tiny_model_folder,
            "--data",
            data,
            "--shots",
            1,
            "--seeds",
            2,
            *NO_WORKERS,
        ),
        "inspect": ("inspect", "distance", finished_run, "--data", data, "--num-images", 2, *NO_WORKERS),
        "export": ("export", finished_run, "--to", "timm"),
    }


NAMES = ("finetune", "evaluate", "data", "fewshot-eval", "inspect", "export")


def all_of(*default: str) -> list[Any]:
    """Return every command as a parameter, slow but for some: they share most of the code that writes."""
    return [pytest.param(name, marks=() if name in default else pytest.mark.slow) for name in NAMES]


@pytest.mark.parametrize("name", all_of("finetune", "evaluate"))
def test_a_disk_that_is_full(commands: dict[str, tuple[object, ...]], tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    found = run_where(lambda: mount(disk, "size=4k"), *commands[name], "--out", disk / "out")
    check_refused(found, f"--out {disk / 'out'}", "No space left on device", "Make room there, or give another folder.")


@pytest.mark.parametrize("name", all_of("finetune", "export"))
def test_a_disk_that_has_no_more_names(commands: dict[str, tuple[object, ...]], tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    found = run_where(lambda: mount(disk, "nr_inodes=3"), *commands[name], "--out", disk / "out")
    check_refused(found, f"--out {disk / 'out'}", "No space left on device", "Make room there, or give another folder.")


@pytest.mark.parametrize("name", all_of("data"))
def test_a_disk_that_is_read_only(commands: dict[str, tuple[object, ...]], tmp_path: Path, name: str) -> None:
    disk = tmp_path / "disk"
    found = run_where(lambda: mount(disk, "size=1m", MS_RDONLY), *commands[name], "--out", disk / "out")
    check_refused(found, f"--out {disk / 'out'}")


@pytest.mark.parametrize("name", all_of("finetune", "inspect", "fewshot-eval"))
def test_files_that_may_not_grow(commands: dict[str, tuple[object, ...]], tmp_path: Path, name: str) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))

    check_refused(run_where(limit, *commands[name], "--out", tmp_path / "out"), "File too large")


def test_a_run_folder_that_is_removed(
    commands: dict[str, tuple[object, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitctl.training.run_folder import RunFolder

    append = RunFolder.append

    def append_to_nothing(self: RunFolder, name: str, record: Any) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        append(self, name, record)

    monkeypatch.setattr(RunFolder, "append", append_to_nothing)
    found = run_where(lambda: None, *commands["finetune"], "--out", tmp_path / "out")
    check_refused(found, f"--out {tmp_path / 'out'}", "No such file or directory")


@pytest.mark.parametrize(
    "line",
    [("models",), ("models", "--json"), ("recipes", "show", "demo"), ("guide",), ("guide", "data")],
    ids=" ".join,
)
def test_stdout_that_is_full(line: tuple[str, ...]) -> None:
    def prepare() -> None:
        full = os.open("/dev/full", os.O_WRONLY)
        os.dup2(full, 1)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  # the process ends with it

    code, text = run_where(prepare, *line)
    assert text == (
        "error: The result cannot be written to standard output: No space left on device. Send it elsewhere.\n"
    )
    assert code == 2


@pytest.fixture
def with_pipes(image_folder: Path) -> Path:
    os.mkfifo(image_folder / "red" / "pipe.png")
    (image_folder / "red" / "zero.png").symlink_to("/dev/zero")
    return image_folder


def test_a_pipe_and_a_device_in_a_data_folder(run_cli: Callable[..., Any], with_pipes: Path, tmp_path: Path) -> None:
    report = run_cli("data", with_pipes, "--out", tmp_path / "out", "--json").json
    assert [(Path(one["image"]).name, one["reason"]) for one in report["bad"]] == [
        ("pipe.png", "not a file: a FIFO, a device or a socket"),
        ("zero.png", "not a file: a FIFO, a device or a socket"),
    ]


def test_a_pipe_and_a_device_among_images_to_predict(
    run_cli: Callable[..., Any], finished_run: Path, with_pipes: Path
) -> None:
    Image.new("RGB", (16, 16)).save(with_pipes / "red" / "0.png")
    result = run_cli("predict", finished_run, with_pipes / "red", "--json")
    assert result.exit_code == 3
    assert [Path(one["image"]).name for one in result.json["skipped"]] == ["pipe.png", "zero.png"]
    assert len(result.json["predictions"]) == 12


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize(
    ("words", "is_stdout", "said"),
    [
        ("--help", True, "error: Standard output cannot be written. Send it elsewhere.\n"),
        ("recipes nothing", False, None),
    ],
)
def test_what_cannot_be_said_ends_with_2(words: str, is_stdout: bool, said: str | None, unbuffered: str) -> None:
    """Even a help page; and where a sentence has no place to go, without one."""
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "vitctl", *words.split()],
            stdout=full if is_stdout else subprocess.PIPE,
            stderr=subprocess.PIPE if is_stdout else full,
            text=True,
            check=False,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": unbuffered},
        )
    assert ended.returncode == 2
    assert ended.stderr == said
