"""Features that somebody else computed, in an ``.npz`` file.

Letters: N support pool rows, M test rows, D width.
"""

from pathlib import Path

import numpy as np

from vitctl.conversation import Conversation
from vitctl.errors import DataError
from vitctl.primitives.archives import open_arrays
from vitctl.primitives.documents import check_regular, foreign

MAX_CLASSES = 1_000_000
FEATURE_ARRAYS = ("x_train", "y_train", "x_test", "y_test")


def read_features(path: Path, conversation: Conversation) -> dict[str, np.ndarray]:
    """Return the arrays of a features file: ``x_train`` (N, D), ``y_train`` (N,), ``x_test`` (M, D), ``y_test`` (M,).

    Raises:
        DataError: The file or an array is missing, shapes do not fit, a number is not finite, a label is no class.
    """
    where = f"--features {path}"
    with foreign(where, DataError, expected="an .npz file of arrays"):
        check_regular(path)
        with (
            path.open("rb") as opened,
            open_arrays(opened, where=where, error=DataError, names=FEATURE_ARRAYS) as file,
        ):
            missing = [name for name in FEATURE_ARRAYS if name not in file]
            if missing:
                raise DataError(
                    f"--features {path} lacks {', '.join(missing)}; expected {', '.join(FEATURE_ARRAYS)}. It holds "
                    f"{', '.join(list(file)[:10]) or 'nothing'}."
                )
            arrays = {name: file[name] for name in FEATURE_ARRAYS}
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):  # numpy gives the bytes of a member that is no .npy file
            raise DataError(f"--features {path}: {name} is no array; expected an .npz file as np.savez writes it.")
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
