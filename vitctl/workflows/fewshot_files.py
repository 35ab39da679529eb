"""Files of ``vitctl fewshot-eval``: features and predictions as .npz, results as JSON, CSV and pictures.

Letters: N support pool rows, M test rows, D width.
"""

import csv
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
from numpy.lib.npyio import NpzFile

from vitctl.conversation import Conversation
from vitctl.data.support_pool import SupportPool, UsedImages
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.supports import Episodes, SupportDraw
from vitctl.primitives.files import whole_file, write_json
from vitctl.reporting.fewshot_figures import (
    draw_accuracy_vs_l2,
    draw_accuracy_vs_shots,
    draw_layers,
    draw_ways_shots,
)
from vitctl.results.fewshot_eval import FewshotResult
from vitctl.results.result import JsonObject, JsonValue

WRITTEN = (
    "accuracy_vs_shots.png",
    "accuracy_vs_l2.png",
    "layers.png",
    "ways_shots.png",
    "supports.json",
    "episodes.npz",
)
MAX_CLASSES = 1_000_000
FEATURE_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


class DrawnTask(Protocol):
    """What is written of a task; see the workflow's ``Task``."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def images(self) -> SupportPool | None: ...  # noqa: D102
    @property
    def used(self) -> UsedImages | None: ...  # noqa: D102
    @property
    def class_names(self) -> tuple[str, ...]: ...  # noqa: D102
    @property
    def draws(self) -> tuple[SupportDraw, ...]: ...  # noqa: D102
    @property
    def episodes(self) -> dict[int, list[Episodes]]: ...  # noqa: D102


def read_features(path: Path, conversation: Conversation) -> dict[str, np.ndarray]:
    """Return the arrays of a features file: ``x_train`` (N, D), ``y_train`` (N,), ``x_test`` (M, D), ``y_test`` (M,).

    Raises:
        DataError: The file or an array is missing, shapes do not fit, a number is not finite, a label is no class.
    """
    try:
        with path.open("rb") as opened, _archive(opened) as file:
            missing = [name for name in FEATURE_ARRAYS if name not in file]
            if missing:
                raise DataError(
                    f"--features {path} lacks {', '.join(missing)}; expected {', '.join(FEATURE_ARRAYS)}. It holds "
                    f"{', '.join(list(file)[:10]) or 'nothing'}."
                )
            arrays = {name: file[name] for name in FEATURE_ARRAYS}
    except DataError:
        raise
    except Exception as error:  # numpy's reader raises whatever the bytes provoke
        is_known = isinstance(error, (OSError, zipfile.BadZipFile)) and str(error)
        reason = str(error).splitlines()[0] if is_known else "damaged, or something else"
        raise DataError(f"--features {path} cannot be read ({reason}); expected an .npz file of arrays.") from error
    for half in ("train", "test"):
        arrays[f"y_{half}"] = _checked(path, half, arrays[f"x_{half}"], arrays[f"y_{half}"])
    if arrays["x_train"].shape[1] != arrays["x_test"].shape[1]:
        raise DataError(
            f"--features {path}: x_train is {arrays['x_train'].shape[1]} wide and x_test {arrays['x_test'].shape[1]}; "
            "expected features of one model."
        )
    num_classes = int(arrays["y_train"].max()) + 1
    if arrays["y_test"].max() >= num_classes:
        raise DataError(
            f"--features {path}: y_test holds class {int(arrays['y_test'].max())}, y_train only 0 to "
            f"{num_classes - 1}; expected the same classes in both."
        )
    _warn_of_oddities(path, arrays, conversation)
    return arrays


def _archive(opened: BinaryIO) -> NpzFile:
    file = np.load(opened, allow_pickle=False)
    if not isinstance(file, NpzFile):
        raise zipfile.BadZipFile("it holds a single array")
    return file


def _checked(path: Path, half: str, features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the labels as int64, everything checked."""
    where = f"--features {path}"
    if features.ndim != 2 or labels.ndim != 1 or len(features) != len(labels) or not features.size:
        raise DataError(
            f"{where}: x_{half} is {features.shape} and y_{half} {labels.shape}; expected (rows, width) and (rows,), a "
            "label for each row, at least one."
        )
    if features.dtype.kind not in "fiu":
        raise DataError(f"{where}: x_{half} holds {features.dtype}; expected real numbers.")
    bad = ~np.isfinite(features)
    if bad.any():
        row, column = (int(index) for index in np.argwhere(bad)[0])
        raise DataError(
            f"{where}: x_{half} holds {_numbers(int(bad.sum()))} not finite, the first at row {row}, column "
            f"{column}; expected none."
        )
    found = str(labels.dtype) if labels.dtype.kind not in "iu" else ""
    if not found and (labels.min() < 0 or labels.max() >= MAX_CLASSES):
        found = f"the label {int(labels.min() if labels.min() < 0 else labels.max())}"
    if found:
        raise DataError(
            f"{where}: y_{half} holds {found}; expected whole numbers from 0 to {MAX_CLASSES - 1:,}, positions of "
            "classes."
        )
    return labels.astype(np.int64)


def _warn_of_oddities(path: Path, arrays: dict[str, np.ndarray], conversation: Conversation) -> None:
    train, test = arrays["x_train"], arrays["x_test"]
    num_constant = int((train.min(axis=0) == train.max(axis=0)).sum())
    if num_constant:
        conversation.warn(
            f"{num_constant} of the {train.shape[1]} features of {path} never vary; they get no weight."
            + (" Every prediction is a guess." if num_constant == train.shape[1] else "")
        )
    known = {row.tobytes() for row in np.ascontiguousarray(train)}
    same = np.ascontiguousarray(test.astype(train.dtype))
    num_shared = sum(row.tobytes() in known for row in same)
    if num_shared:
        conversation.warn(
            f"{num_shared} of the {len(test):,} rows of x_test are also rows of x_train: scores on them are too good "
            "to be true."
        )


def _numbers(count: int) -> str:
    return "1 number that is" if count == 1 else f"{count} numbers that are"


def check_predictions(path: Path, *, features: Path | None) -> None:
    """Check that ``--predictions`` can be written; changes nothing.

    Raises:
        SettingError: It is no .npz file, stands where none can be made, or is the file of features.
    """
    if features is not None and path.resolve() == features.resolve():
        raise SettingError(
            f"--predictions is {path}, the file of features itself; give another file.", field="predictions"
        )
    if path.suffix != ".npz":
        raise SettingError(f"--predictions is {path}; expected a file that ends in .npz.", field="predictions")
    if path.is_dir():
        raise SettingError(f"--predictions {path} is a folder; give a file.", field="predictions")
    check_folder(path.parent, field="predictions")


def check_folder(folder: Path, *, field: str) -> None:
    """Check that ``folder`` can be made or written to; changes nothing.

    Raises:
        SettingError: It cannot.
    """
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        why = "no permission" if folder.is_dir() else "it is a file"
        raise SettingError(f"--{field} cannot be written below {folder} ({why}); give another place.", field=field)


def write_predictions(path: Path, predictions: dict[str, np.ndarray]) -> None:
    """Write the predicted classes, (M,) int64 by name, whole.

    Raises:
        SettingError: The file cannot be written.
    """
    try:
        with whole_file(path) as partial, partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **predictions)
    except OSError as error:
        raise SettingError(
            f"--predictions {path} cannot be written: {error}. Give another file.", field="predictions"
        ) from error


def write_files(out: Path, result: FewshotResult, tasks: Sequence[DrawnTask]) -> None:
    """Write ``results.json``, ``results.csv``, the pictures that fit, and the drawn supports.

    Raises:
        SettingError: The folder cannot be written.
    """
    rows = [row.as_json() for row in result.results]
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in WRITTEN:
            (out / name).unlink(missing_ok=True)  # of an earlier evaluation
        _draw(out, rows)
        if any(task.episodes for task in tasks):
            _write_episodes(out / "episodes.npz", tasks)
        else:
            write_json(out / "supports.json", [_supports(task) for task in tasks])
        _write_csv(out / "results.csv", rows)
        write_json(out / "results.json", result.as_json())
    except OSError as error:
        raise SettingError(f"--out {out} cannot be written: {error}. Give another folder.", field="out") from error


def _draw(out: Path, rows: list[JsonObject]) -> None:
    title = "few-shot evaluation of frozen features"
    if any(row["l2"] is None for row in rows):  # chosen for every support: no name of a curve
        rows = [{**row, "l2": None} for row in rows]
    if "ways" in rows[0]:
        draw_ways_shots(rows, out / "ways_shots.png", title=title)
    else:
        draw_accuracy_vs_shots(rows, out / "accuracy_vs_shots.png", title=title)
        if rows[0]["classifier"] == "ridge" and len({row["l2"] for row in rows} - {None}) > 1:
            draw_accuracy_vs_l2(rows, out / "accuracy_vs_l2.png", title=title)
    if len({(row["layer"], row["pool"]) for row in rows}) > 1:
        draw_layers(rows, out / "layers.png", title=title)


def _supports(task: DrawnTask) -> JsonObject:
    """Return which images every seed drew of each class, first drawn first: k shots are the first k."""
    used = task.used.support if task.used is not None else None
    drawn: JsonObject = {}
    for draw in task.draws:
        drawn[str(draw.seed)] = [
            order.tolist() if used is None else [used.image_name(int(row)) for row in order] for order in draw.orders
        ]
    test_spec = None if task.images is None else task.images.test_spec
    return {"data": task.name, "test": test_spec, "class_names": list(task.class_names), "seeds": drawn}


def _write_episodes(path: Path, tasks: Sequence[DrawnTask]) -> None:
    arrays: dict[str, np.ndarray] = {}
    for index, task in enumerate(tasks):
        for group in task.episodes.values():
            for seed, one in enumerate(group):
                names = {"classes": one.classes, "support": one.support, "queries": one.queries}
                arrays |= {f"d{index}_s{seed}_{name}": values for name, values in names.items()}
        if task.used is not None:
            arrays[f"d{index}_support_images"] = np.array(task.used.support.image_names())
            arrays[f"d{index}_test_images"] = np.array(task.used.test.image_names())
    write_predictions(path, arrays)


def _write_csv(path: Path, rows: list[JsonObject]) -> None:
    """Write one line per result; pairs of numbers become two columns, lists per seed are left to results.json."""
    flat = []
    for row in rows:
        line: dict[str, JsonValue] = {}
        for key, value in row.items():
            if key in ("top1_ci95", "top1_ci95_support"):
                line[f"{key}_low"], line[f"{key}_high"] = value if isinstance(value, list) else (None, None)
            elif not isinstance(value, list):
                line[key] = value
        flat.append(line)
    with (
        whole_file(path) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        writer = csv.DictWriter(file, list(flat[0]))
        writer.writeheader()
        writer.writerows(flat)
