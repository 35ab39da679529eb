"""A run folder as anyone finds it: what its settings are, how far it has come, what it has come to. No torch."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.primitives.atomic import is_in_use
from vitctl.primitives.documents import peek_document

FINISHED, RUNNING, STOPPED, DIVERGED, UNREADABLE = "finished", "running", "stopped", "diverged", "unreadable"


@dataclass(frozen=True)
class SeenRun:
    """A run folder.

    Attributes:
        path: Absolute.
        config: Its config.json; empty where it cannot be read.
        summary: Its summary.json; empty where it is not finished.
        state: One of the five above.
        step: Optimiser steps taken.
        steps: Planned; None where nobody knows.
        changed: When anything was last written in it, seconds since 1970.
        why: What is wrong with it; None where nothing is.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    state: str
    step: int
    steps: int | None
    changed: float
    why: str | None = None


def look_at(path: Path) -> SeenRun:
    """Return what there is at ``path``, changing nothing."""
    config, summary = peek_document(path / "config.json"), peek_document(path / "summary.json")
    state = FINISHED if summary else RUNNING if is_in_use(path) else STOPPED
    if (path / "diverged.json").is_file() and not summary:
        state = DIVERGED
    step = summary.get("last", {}).get("step", 0) if summary else 0
    return SeenRun(path, config, summary, state, step, config.get("steps"), time.time())


def find_runs(folder: Path) -> Iterator[Path]:
    """Yield the run folders below ``folder``, itself included, in the order of their names; none within another."""
    for path in sorted(folder.rglob("config.json")):
        if "vitctl" in peek_document(path):
            yield path.parent
