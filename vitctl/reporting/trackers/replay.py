"""A run read back from its files, as a tracker is told of it: settings, figures by step, pictures.

When you would come here: to tell a tracker of a new figure. What stands in a line of ``metrics.jsonl`` or
``speed.jsonl`` as a number is told already, by its key.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.errors import DataError
from vitctl.primitives.documents import UnusableDocument, check_regular, parse_document, read_document
from vitctl.primitives.files import short_hash
from vitctl.shown import shown

CONFIG, METRICS, SPEED = "config.json", "metrics.jsonl", "speed.jsonl"
PICTURES = ("curves.png", "confusion.png", "first-batches.png")
"""Of a run, where they are; other pictures in its folder are someone else's."""
TRAIN, VALIDATION, RATE = "train", "validation", "speed"
_PNG = b"\x89PNG\r\n\x1a\n"

Value = bool | int | float | str


@dataclass(frozen=True)
class Point:
    """What is known of a step.

    Attributes:
        step: Optimiser steps done.
        time_s: Seconds since 1970: when the run began, and the seconds of its steps up to here; validations and pauses
            take none. So the same run gives the same times.
        values: By name: ``train/loss``, ``validation/top1``, ``speed/images_per_s``.
    """

    step: int
    time_s: float
    values: Mapping[str, float]


@dataclass(frozen=True)
class Picture:
    """A PNG of the run.

    Attributes:
        name: Its file's, without the ending.
        size: (H, W) px.
        content: The file's bytes.
        path: The file.
    """

    name: str
    size: tuple[int, int]
    content: bytes
    path: Path


@dataclass(frozen=True)
class Replay:
    """A run.

    Attributes:
        name: Its folder's, as a person can see it.
        run_id: 16 hexadecimal digits, the same each time: of its ``config.json`` and its folder's name.
        start_s: Whole seconds since 1970: when its ``config.json`` was written.
        config: Its settings; keys within keys have dots. Of absolute paths the last part, as trackers may be shared.
        points: By step, which grows.
        num_steps: Optimiser steps with a loss.
        num_validations: Validations.
        pictures: Those that are there.
        notes: A sentence for each thing that was left out.
    """

    name: str
    run_id: str
    start_s: int
    config: Mapping[str, Value]
    points: tuple[Point, ...]
    num_steps: int
    num_validations: int
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]


def read_replay(run: Path) -> Replay:
    """Return the run in a folder, as far as it has come.

    A last line without an end is being written, or was when the run was killed: it is left out.

    Raises:
        DataError: A file cannot be read, or has no step yet.
    """
    config = read_document(run / CONFIG, dict[str, Any], error=DataError, advice="expected the settings of a run")
    start_s = int((run / CONFIG).stat().st_mtime)
    values: dict[int, dict[str, float]] = {}
    counts = {TRAIN: 0, VALIDATION: 0}
    for step, record in _records(run / METRICS):
        group = TRAIN if "loss" in record else VALIDATION
        counts[group] += 1
        values.setdefault(step, {}).update(_figures(record, group))
    if not values:
        raise DataError(f"{run / METRICS} holds no whole line; expected a run that has done a step.")
    seconds = _add_speeds(run / SPEED, values) if (run / SPEED).exists() else {}
    pictures, notes = _pictures(run)
    return Replay(
        name=shown(run.name),
        run_id=short_hash(f"{json.dumps(config, sort_keys=True)}\0{run.name}"),
        start_s=start_s,
        config=dict(_flat(config)),
        points=tuple(_points(values, seconds, start_s)),
        num_steps=counts[TRAIN],
        num_validations=counts[VALIDATION],
        pictures=tuple(pictures),
        notes=tuple(notes),
    )


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield step and content of every whole line."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.endswith(b"\n"):
                    yield _record(line, where=f"{path}, line {number},")
    except (OSError, UnusableDocument) as error:
        why = getattr(error, "strerror", None) or error
        raise DataError(f"{path} cannot be read: {why}; expected a run that has done a step.") from error


def _record(line: bytes, *, where: str) -> tuple[int, dict[str, Any]]:
    try:
        record = parse_document(line, dict[str, Any])
    except UnusableDocument as error:
        raise DataError(f"{where} cannot be read: {error}; expected a line as finetune writes it.") from error
    step = record.get("step")
    if type(step) is not int or not 0 <= step < 2**63:
        raise DataError(f"{where} has the step {step!r}; expected a whole number from 0.")
    return step, record


def _figures(record: Mapping[str, Any], group: str) -> dict[str, float]:
    """Return the numbers of a line by the names that trackers show them under; a null is no number."""
    return {
        f"{group}/{key.replace('val_', '', 1)}": float(value)
        for key, value in record.items()
        if key != "step" and type(value) in (int, float)
    }


def _add_speeds(path: Path, values: Mapping[int, dict[str, float]]) -> dict[int, float]:
    """Add speeds to those steps that have a loss; return the seconds that each took."""
    seconds = {}
    for step, record in _records(path):
        if step in values:
            speeds = _figures(record, RATE)
            values[step].update(speeds)
            seconds[step] = speeds.get(f"{RATE}/step_s", 0.0)
    return seconds


def _points(values: Mapping[int, Mapping[str, float]], seconds: Mapping[int, float], start_s: float) -> Iterator[Point]:
    time_s = start_s
    for step in sorted(values):
        time_s += seconds.get(step, 0.0)
        yield Point(step, time_s, values[step])


def _flat(config: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Value]]:
    """Yield the settings that are set, keys within keys with dots; a list is its JSON."""
    for key, value in config.items():
        name = shown(f"{above}{key}")
        if isinstance(value, Mapping):
            yield from _flat(value, f"{name}.")
        elif isinstance(value, str):
            yield name, shown(Path(value).name if os.path.isabs(value) else value)
        elif isinstance(value, list):
            yield name, shown(json.dumps(value))
        elif value is not None:
            yield name, value


def _pictures(run: Path) -> tuple[list[Picture], list[str]]:
    """Return the pictures, and a sentence for each that is none."""
    found, notes = [], []
    for path in (run / name for name in PICTURES):
        if not path.is_file():
            continue
        content = path.read_bytes()
        if len(content) < len(_PNG) + 16 or not content.startswith(_PNG):
            notes.append(f"left out {path}, which is no PNG.")
            continue
        width, height = struct.unpack(">II", content[16:24])  # of the first chunk, IHDR (PNG, section 11.2.1)
        found.append(Picture(path.stem, (height, width), content, path))
    return found, notes
