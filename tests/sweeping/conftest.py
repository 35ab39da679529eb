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

# what it does is told by the seed and the name of its folder: see ``fake_command``
CHILD = """
import json, os, pathlib, shutil, signal, sys, time
out, kept, does, config = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
(out.parents[2] / "started.txt").open("a").write(f"{out.parent.name} {out.name}\\n")
out.mkdir(parents=True, exist_ok=True)
(out / "config.json").write_text(config)
def saved(number, frame):
    (out / "stopped.txt").open("a").write(signal.Signals(number).name + "\\n")
    sys.exit(128 + number)
signal.signal(signal.SIGINT, saved); signal.signal(signal.SIGTERM, saved)
if does == "fail":
    print("warning: something\\nerror: The disk is full; give another.\\n  it is", file=sys.stderr)
    sys.exit(3)
if does == "crash":
    print("error: long ago\\nTraceback (most recent call last):\\nKeyError", file=sys.stderr)
    sys.exit(1)
if does == "diverge":
    pathlib.Path(os.environ["VITCTL_DIVERGED"]).write_text("{}")
    shutil.rmtree(out)
    sys.exit(2)
if does == "memory":
    os.kill(os.getpid(), signal.SIGKILL)
if does == "wait":
    (out / "ready").touch()
    time.sleep(20)
if kept:
    shutil.copy(kept, out / "val-logits.safetensors")
(out / "environment.json").write_text(json.dumps(dict(os.environ)))
(out / "summary.json").write_text("{}")
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
