"""A run without training: a process that writes what a run folder has, or fails as a run would."""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.sweeping.planning import PlannedRun

Command = Callable[[PlannedRun], Sequence[str]]

# what it does is told by the seed and the name of its folder: see ``fake_command``; a process that imports more takes
# twice as long
CHILD = """
import os, sys, time, _signal
out, kept, does, config = sys.argv[1:]
cell = os.path.dirname(out)
def write(path, text, mode="w"):
    with open(path, mode) as file:
        file.write(text)
def saved(number, frame):
    write(out + "/stopped.txt", {_signal.SIGINT: "SIGINT\\n", _signal.SIGTERM: "SIGTERM\\n"}[number], "a")
    sys.exit(128 + number)
started = f"{os.path.basename(cell)} {os.path.basename(out)}\\n"
write(os.path.dirname(os.path.dirname(cell)) + "/started.txt", started, "a")
os.makedirs(out, exist_ok=True)
write(out + "/config.json", config)
_signal.signal(_signal.SIGINT, saved); _signal.signal(_signal.SIGTERM, saved)
if does == "fail":
    print("warning: something\\nerror: The disk is full; give another.\\n  it is", file=sys.stderr)
    sys.exit(3)
if does == "crash":
    print("error: long ago\\nTraceback (most recent call last):\\nKeyError", file=sys.stderr)
    sys.exit(1)
if does == "diverge":
    write(os.environ["VITCTL_DIVERGED"], "{}")
    os.remove(out + "/config.json")
    os.rmdir(out)
    sys.exit(2)
if does == "memory":
    os.kill(os.getpid(), _signal.SIGKILL)
if does == "wait":
    write(out + "/ready", "")
    time.sleep(20)
if kept:
    os.link(kept, out + "/val-logits.safetensors")
write(out + "/environment.txt", repr(dict(os.environ)))
write(out + "/summary.json", "{}")
"""


def _logits_of(correct: Sequence[int], *, first_image: int = 0) -> KeptLogits:
    """Return what a classifier of two classes says that is right where ``correct`` is 1; images are numbered."""
    right = np.array(correct, dtype=bool)
    labels = np.arange(len(right)) % 2
    said = np.where(right, labels, 1 - labels)
    logits = np.stack([said == 0, said == 1], axis=1).astype(np.float32)
    hashes = tuple(f"{first_image + index:032x}" for index in range(len(right)))
    return KeptLogits(logits, labels, hashes, ("cat", "dog"))


@pytest.fixture(scope="session")
def logits_of() -> Callable[..., KeptLogits]:
    """Return the maker of what a classifier says that is right where it is told to be."""
    return _logits_of


@pytest.fixture
def fake_command(tmp_path: Path) -> Callable[..., Command]:
    """Return the maker of a command that is a run: ``does`` says what each does, ``kept`` what it says of images."""

    def make(
        does: Callable[[PlannedRun], str] = lambda _: "", kept: Callable[[PlannedRun], KeptLogits] | None = None
    ) -> Command:
        def command(run: PlannedRun) -> Sequence[str]:
            place = ""
            if kept is not None:
                folder = tmp_path / "kept" / run.log.stem
                folder.mkdir(parents=True, exist_ok=True)
                write_logits(folder, kept(run))
                place = str(folder / "val-logits.safetensors")
            config = json.dumps({"vitctl": "0", "seed": run.seed, "lr": run.given.get("lr")})
            return [sys.executable, "-S", "-E", "-c", CHILD, str(run.out), place, does(run), config]

        return command

    return make
