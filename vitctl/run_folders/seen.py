"""A run folder as anyone finds it: what its settings are, how far it has come, what it has come to. No torch.

Looking changes nothing, and whatever is in a folder it raises nothing: ``vitctl runs`` shows what others left.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from vitctl.errors import DataError
from vitctl.primitives.atomic import is_in_use, partial_of
from vitctl.primitives.documents import UnusableDocument, parse_document, peek_document, read_document, why_unreadable
from vitctl.primitives.schemas import NotNegative, Schema, Share
from vitctl.run_folders.layout import (
    CHECKPOINTS,
    CONFIG,
    DIVERGENCE,
    METRICS,
    SUMMARY,
    command_to_go_on,
    is_finished,
    is_outdated,
    newest_step,
)

STATES = FINISHED, RUNNING, STOPPED, DIVERGED, UNREADABLE = (
    "finished", "running", "stopped", "diverged", "unreadable",
)  # fmt: skip
_TAIL = 2**14  # bytes of metrics.jsonl that hold its last line: lines have some 200
_WRITTEN = (CONFIG, METRICS, SUMMARY, DIVERGENCE, CHECKPOINTS)  # what tells when a run was last written


class _Score(Schema):
    step: NotNegative = 0
    top1: Share | None = None
    loss: float | None = None


class _Summary(Schema):
    """What is read of summary.json; a version that did not write one of these has its default."""

    best: _Score = _Score()
    last: _Score = _Score()
    num_val: NotNegative | None = None
    steps: NotNegative | None = None


class _Line(Schema):
    """A line of metrics.jsonl, and diverged.json."""

    step: NotNegative


@dataclass(frozen=True)
class SeenRun:
    """A run folder.

    Attributes:
        path: Absolute.
        config: Its config.json; empty where it cannot be read.
        summary: Its summary.json; empty where it is not finished.
        state: One of ``STATES``.
        step: Optimiser steps taken, >= 0; of a run that was stopped those of the checkpoint that it goes on from.
        steps: Planned; None where nobody knows.
        changed: When anything was last written in it, seconds since 1970.
        why: What is wrong with it, or what else there is to know; None where there is nothing.
        top1: Accuracy of best/ on the validation images, 0-1; None where it is not finished, or validates none.
        loss: Mean negative log-likelihood of them, nats; None likewise.
        num_val: How many they are; None where it is not finished.
    """

    path: Path
    config: Mapping[str, Any]
    summary: Mapping[str, Any]
    state: str
    step: int
    steps: int | None
    changed: float
    why: str | None = None
    top1: float | None = field(default=None, kw_only=True)
    loss: float | None = field(default=None, kw_only=True)
    num_val: int | None = field(default=None, kw_only=True)


def look_at(path: Path) -> SeenRun:
    """Return what there is at ``path``, changing nothing; raises nothing, but an error of a full memory.

    A run that grows, or was stopped, beside the one that it is to replace is that run, unless the one there is
    finished: its score stands until then, and ``why`` says that there is another.
    """
    path = Path(os.path.abspath(path))
    real = Path(os.path.realpath(path))
    here, beside = _seen(real, path), partial_of(real)
    if not beside.is_dir() or "vitctl" not in peek_document(beside / CONFIG):
        return here
    other = _seen(beside, path)
    is_going_on = other.state == RUNNING or newest_step(beside) is not None
    if here.state == FINISHED and is_going_on and not is_outdated(beside, real):
        return replace(here, why=_of_the_other(other))
    if here.state in (FINISHED, RUNNING) or not (is_going_on or not real.exists()):
        return here
    if other.state == FINISHED:  # complete, and killed before it took its place: to go on is to do that
        return replace(other, state=STOPPED, summary={}, top1=None, loss=None, num_val=None)
    return other


def _of_the_other(other: SeenRun) -> str:
    if other.state == RUNNING:
        return f"another run, which is to replace it, is at step {other.step}"
    return (
        f"another run, which was to replace it, was stopped after step {other.step}; "
        f"'{command_to_go_on(other.path)}' goes on with that"
    )


def _seen(place: Path, path: Path) -> SeenRun:
    """Return what is in the folder ``place``, as that of the run ``path``."""
    config = peek_document(place / CONFIG)
    steps, changed = config.get("steps"), _changed(place)
    steps = steps if isinstance(steps, int) and steps >= 0 else None
    if "vitctl" not in config and is_in_use(place):  # it has just begun
        return SeenRun(path, {}, {}, RUNNING, 0, None, changed)
    if "vitctl" not in config:
        found = why_unreadable(place / CONFIG) or "it is not there, or not that of a run"
        why = f"{CONFIG} cannot be read: {found}; expected that of a run"
        return SeenRun(path, {}, {}, UNREADABLE, 0, None, changed, why)
    if is_finished(place):
        return _finished(SeenRun(path, config, {}, FINISHED, 0, steps, changed), place)
    if is_in_use(place):
        return SeenRun(path, config, {}, RUNNING, _last_step(place / METRICS), steps, changed)
    if (place / DIVERGENCE).is_file():
        return SeenRun(path, config, {}, DIVERGED, _step_in(place / DIVERGENCE), steps, changed)
    return SeenRun(path, config, {}, STOPPED, newest_step(place) or 0, steps, changed)


def _finished(run: SeenRun, place: Path) -> SeenRun:
    try:
        advice = "expected that of a finished run; --overwrite trains it anew"
        found = read_document(place / SUMMARY, _Summary, error=DataError, advice=advice, where=SUMMARY)
    except DataError as error:
        return replace(run, state=UNREADABLE, why=str(error).rstrip("."))
    return replace(
        run,
        summary=peek_document(place / SUMMARY),
        step=found.last.step,
        steps=found.steps if run.steps is None else run.steps,
        top1=found.best.top1,
        loss=found.best.loss,
        num_val=found.num_val,
    )


def _last_step(path: Path) -> int:
    """Return the step of the last whole line of ``metrics.jsonl``, 0 where there is none; reads its end alone."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            lines = file.read(_TAIL).split(b"\n")[:-1]  # what stands behind the last newline is still being written
    except OSError:
        return 0
    for line in reversed(lines):
        try:
            return parse_document(line, _Line).step
        except UnusableDocument:
            continue
    return 0


def _step_in(path: Path) -> int:
    try:
        return read_document(path, _Line, error=DataError, advice="").step
    except DataError:
        return 0


def _changed(place: Path) -> float:
    """Return when the newest of a run's files was written; of a folder with none of them, the folder."""
    times: list[float] = []
    for name in (*_WRITTEN, ""):
        try:
            times.append(os.stat(place / name).st_mtime if name or not times else 0.0)
        except OSError:
            continue
    return max(times, default=0.0)
