"""What a few-shot evaluation found: accuracies with intervals, differences of models, tables that are written.

Letters: S seeds, M test images, T tokens, D width.
"""

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from vitctl.evaluation.episodes import SolvedEpisodes
from vitctl.evaluation.features import FeatureKey
from vitctl.evaluation.fewshot import Probe
from vitctl.evaluation.fewshot_statistics import cosine_similarities, episode_interval, paired_difference, summarise
from vitctl.evaluation.probing import Solved
from vitctl.evaluation.tasks import ImageTask, Task
from vitctl.primitives.csv_files import write_csv
from vitctl.primitives.files import whole_file, write_json
from vitctl.results.fewshot_eval import FewshotResult, FewshotRow, PairedDifference
from vitctl.results.result import JsonObject, JsonValue

DRAWN = ("supports.json", "episodes.npz")


class Record:
    """What has been found so far.

    Args:
        keeps_predictions: Whether predicted classes are kept.

    Attributes:
        rows: The results, in the order they were found.
        predictions: (M,) int64 by name.
    """

    def __init__(self, keeps_predictions: bool = False) -> None:
        self.rows: list[FewshotRow] = []
        self.predictions: dict[str, np.ndarray] = {}
        self._keeps_predictions = keeps_predictions
        self._tables: dict[str, dict[tuple[Any, ...], tuple[np.ndarray, Task, FewshotRow]]] = {}

    def add(
        self,
        task: Task,
        model: str | None,
        key: FeatureKey,
        test_features: np.ndarray,
        solved: Sequence[Solved],
        probe: Probe,
    ) -> None:
        """Add a result per combination of shots and setting.

        Args:
            task: Whose labels.
            model: Its name; None for features from a file.
            key: Layer and pooling.
            test_features: (M, D) float, or (T, M, D).
            solved: What was found.
            probe: The classifier.
        """
        within, between = _cosines(test_features, task.test_labels)
        counts = np.bincount(task.labels, minlength=len(task.class_names))
        for one in solved:
            if _repeats_fewer_neighbours(one.setting, one.num_support, probe):
                continue
            row = FewshotRow(
                data=task.name,
                model=model,
                layer=key.layer,
                pool=key.pool,
                classifier=probe.classifier,
                shots="all" if one.shots is None else one.shots,
                l2=one.l2[0] if len(set(one.l2)) == 1 else None,
                neighbours=probe.neighbours[one.setting] if probe.classifier == "knn" else None,
                **summarise(one.table, task.bootstrap),
                num_support=one.num_support,
                num_test=len(task.test_labels),
                num_classes=len(task.class_names),
                num_short_classes=0 if one.shots is None else int((counts < one.shots).sum()),
                l2_per_seed=tuple(one.l2),
                cosine_within=within,
                cosine_between=between,
            )
            self.rows.append(row)
            combination = (task.name, key.layer, key.pool, row.shots, one.setting)
            self._tables.setdefault(str(model), {})[combination] = (one.table, task, row)
            if self._keeps_predictions:
                for seed, l2, predicted in zip(one.seeds, one.l2, one.predicted, strict=True):
                    self.predictions[_prediction_name(seed, row, l2)] = predicted

    def add_episodes(
        self,
        task: Task,
        model: str | None,
        key: FeatureKey,
        test_features: np.ndarray,
        solved: Sequence[SolvedEpisodes],
        probe: Probe,
    ) -> None:
        """Add a result per number of ways, shots and setting.

        Args:
            task: Whose labels.
            model: Its name; None for features from a file.
            key: Layer and pooling.
            test_features: (M, D) float, or (T, M, D).
            solved: What was found.
            probe: The classifier.
        """
        within, between = _cosines(test_features, task.test_labels)
        queries = task.episodes[0].queries.shape[2]
        for one in solved:
            if _repeats_fewer_neighbours(one.setting, one.ways * one.shots, probe):
                continue
            together = np.concatenate(one.accuracies)
            mean, half_width = episode_interval(together)
            self.rows.append(
                FewshotRow(
                    data=task.name,
                    model=model,
                    layer=key.layer,
                    pool=key.pool,
                    classifier=probe.classifier,
                    ways=one.ways,
                    shots=one.shots,
                    queries=queries,
                    episodes=len(together),
                    l2=probe.l2[one.setting] if probe.classifier == "ridge" and probe.l2 is not None else None,
                    neighbours=probe.neighbours[one.setting] if probe.classifier == "knn" else None,
                    top1_mean=mean,
                    top1_std=float(together.std(ddof=1)) if len(together) > 1 else None,
                    top1_ci95_support=None,
                    top1_ci95=(max(0.0, mean - half_width), min(1.0, mean + half_width)),
                    top1_ci95_half_width=half_width,
                    top1_per_seed=tuple(float(part.mean()) for part in one.accuracies),
                    num_support=one.ways * one.shots,
                    num_test=one.ways * queries,
                    num_classes=len(task.class_names),
                    cosine_within=within,
                    cosine_between=between,
                )
            )

    def paired(self) -> tuple[PairedDifference, ...]:
        """Return the difference of every pair of models on the same supports and test images."""
        pairs = []
        for first, second in combinations(self._tables, 2):
            others = self._tables[second]
            for combination, (left, task, row) in self._tables[first].items():
                if combination in others:
                    pairs.append(
                        PairedDifference(
                            data=row.data,
                            model_a=first,
                            model_b=second,
                            layer=row.layer,
                            pool=row.pool,
                            shots=row.shots,
                            l2=row.l2,
                            neighbours=row.neighbours,
                            **paired_difference(left, others[combination][0], task.bootstrap),
                        )
                    )
        return tuple(pairs)


def _repeats_fewer_neighbours(setting: int, num_support: int, probe: Probe) -> bool:
    """Return whether fewer neighbours than these are already the whole support."""
    return probe.classifier == "knn" and setting > 0 and probe.neighbours[setting - 1] >= num_support


def _prediction_name(seed: int, row: FewshotRow, l2: float | None) -> str:
    how = f"l{l2:g}" if l2 is not None else row.classifier
    neighbours = "" if row.neighbours is None else str(row.neighbours)
    return f"s{seed}_k{row.shots}_{how}{neighbours}_pred"


def _cosines(features: np.ndarray, labels: np.ndarray) -> tuple[float | None, float | None]:
    """Return mean cosine similarities of test images within and between classes; over tokens their mean."""
    tokens = features[None] if features.ndim == 2 else features
    pairs = [cosine_similarities(rows, labels) for rows in tokens]
    within, between = ([value for value in side if value is not None] for side in zip(*pairs, strict=True))
    return float(np.mean(within)) if within else None, float(np.mean(between)) if between else None


# --- files -------------------------------------------------------------------------------------------------


def write_tables(out: Path, result: FewshotResult, tasks: Sequence[Task]) -> None:
    """Write what was drawn (``supports.json`` or ``episodes.npz``), ``results.csv`` and ``results.json``, each whole.

    Raises:
        OSError: The folder, which must be there, cannot be written.
    """
    if any(task.episodes for task in tasks):
        write_arrays(out / "episodes.npz", _episode_arrays(tasks))
    else:
        write_json(out / "supports.json", [_supports(task) for task in tasks])
    _write_csv(out / "results.csv", [row.as_json() for row in result.results])
    write_json(out / "results.json", result.as_json())


def write_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays (N, ...) by name as a compressed ``.npz`` file, whole.

    Raises:
        OSError: It cannot be written.
    """
    with whole_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def _supports(task: Task) -> JsonObject:
    """Return which images (or rows) every seed drew of each class, first drawn first: k shots are the first k."""
    drawn: JsonObject = {}
    for draw in task.draws:
        drawn[str(draw.seed)] = [
            [task.used.support.image_name(row) for row in order] if isinstance(task, ImageTask) else order
            for order in (positions.tolist() for positions in draw.orders)
        ]
    test_spec = task.images.test_spec if isinstance(task, ImageTask) else None
    return {"data": task.name, "test": test_spec, "class_names": list(task.class_names), "seeds": drawn}


def _episode_arrays(tasks: Sequence[Task]) -> dict[str, np.ndarray]:
    arrays: dict[str, np.ndarray] = {}
    for index, task in enumerate(tasks):
        for seed, one in enumerate(task.episodes):
            names = {"classes": one.classes, "support": one.support, "queries": one.queries}
            arrays |= {f"d{index}_s{seed}_{name}": values for name, values in names.items()}
        if isinstance(task, ImageTask):
            arrays[f"d{index}_support_images"] = np.array(task.used.support.image_names())
            arrays[f"d{index}_test_images"] = np.array(task.used.test.image_names())
    return arrays


def _write_csv(path: Path, rows: Sequence[JsonObject]) -> None:
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
    header = list(flat[0])
    write_csv(path, [header, *([line.get(name) for name in header] for line in flat)])
