"""Runs with a /dev/shm of their own: small, read-only, and one that is full only when a batch is handed over."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# what the check of the free bytes cannot know: others fill it later
UNCHECKED = "from vitctl.data import workers; workers.shared_memory = lambda: None; "
MAIN = "import sys; sys.argv[0] = 'vitctl'; from vitctl.cli.app import main; main()"


def _run(options: str, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``vitctl finetune`` where /dev/shm is a file system of its own, mounted with ``options``."""
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$@"'
    if subprocess.run(["unshare", "-m", "sh", "-c", mount, "sh", "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare -m is not permitted here")
    command = ["unshare", "-m", "sh", "-c", mount, "sh", sys.executable, "-c", code, "finetune", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "300"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture
def arguments(image_folder: Path, tiny_model_folder: Path) -> list[str]:
    return ["--data", str(image_folder), "--model", str(tiny_model_folder), "--num-workers", "2", "--steps", "4",
            "--batch-size", "8", "--head", "zero", "--val-fraction", "0.2", "--out", "out"]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "words"),
    [("size=64k", "0 .*of 2: /dev/shm has 64 KiB"), ("size=9m,ro", "of 2: /dev/shm cannot be written")],
)
def test_too_little__trains_without_workers_and_says_so(options: str, words: str, arguments: list[str]) -> None:
    done = _run(options, MAIN, *arguments)
    assert done.returncode == 0, done.stderr
    assert re.search(words, " ".join(done.stderr.split())), done.stderr  # lines are wrapped
    assert Path("out/last/model.safetensors").is_file()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("size=96k", "could not hand a batch over: /dev/shm is full"),
        ("size=200k", "No space left on device"),  # of the next processes, or of a batch: who comes first
        ("size=8k", "cannot be started (No space left on device)"),
        ("size=9m,ro", "cannot be started (Read-only file system)"),
    ],
)
def test_full_later__one_sentence_and_no_wait_without_end(options: str, words: str, arguments: list[str]) -> None:
    done = _run(options, UNCHECKED + MAIN, *arguments, "--image-size", "64")
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert "--num-workers" in done.stderr
