"""Files of ``vitctl fewshot-eval``: tables, pictures and draws that are written."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.errors import SettingError
from vitctl.evaluation.results import write_arrays
from vitctl.evaluation.supports import Episodes, draw_support
from vitctl.evaluation.tasks import FeatureTask
from vitctl.results.fewshot_eval import FewshotCost, FewshotResult, FewshotRow
from vitctl.shown import shown
from vitctl.workflows.fewshot_eval import write_files


def task_of(**changed: Any) -> FeatureTask:
    """Return a task of no rows, for what is written of it."""
    labels, features = np.zeros(0, np.int64), np.zeros((0, 2))
    usual = {"name": "pets", "class_names": ("cat", "dog"), "labels": labels, "test_labels": labels}
    return FeatureTask(**(usual | {"support": features, "test": features} | changed))


def a_row(**changed: Any) -> FewshotRow:
    usual = {
        "data": "pets",
        "model": "m",
        "layer": "final",
        "pool": "native",
        "classifier": "ridge",
        "shots": 5,
        "l2": 1024.0,
        "neighbours": None,
        "top1_mean": 0.5,
        "top1_std": 0.1,
        "top1_ci95_support": (0.4, 0.6),
        "top1_ci95": (0.3, 0.7),
        "top1_per_seed": (0.4, 0.6),
        "top1_mean_first3": None,
        "num_support": 10,
        "num_test": 20,
        "num_classes": 2,
        "num_short_classes": 0,
        "l2_per_seed": (1024.0, 1024.0),
        "cosine_within": 0.5,
        "cosine_between": 0.25,
    }
    return FewshotRow(**(usual | changed))


def result_of(*rows: FewshotRow) -> FewshotResult:
    cost = FewshotCost(images_embedded=0, images_skipped=0, embed_s=0.0, solve_s=0.0)
    return FewshotResult(results=rows, paired=(), cost=cost, settings={}, out="")


def write(out: Path, rows: list[FewshotRow], task: FeatureTask | None = None) -> list[dict[str, str]]:
    """Write the files and return the lines of the table."""
    write_files(out, result_of(*rows), [task or task_of()])
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv__pairs_become_two_columns_and_lists_stay_in_json(tmp_path: Path) -> None:
    (line,) = write(tmp_path / "out", [a_row()])
    assert [float(line[f"top1_ci95_{end}"]) for end in ("low", "high")] == [0.3, 0.7]
    assert [float(line[f"top1_ci95_support_{end}"]) for end in ("low", "high")] == [0.4, 0.6]
    assert not {"top1_per_seed", "l2_per_seed", "top1_ci95"} & set(line)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"] == [a_row().as_json()]


def test_csv__what_there_is_not_is_empty(tmp_path: Path) -> None:
    first = a_row(top1_std=None, top1_ci95_support=None, shots="all")
    lines = write(tmp_path / "out", [first, a_row()])
    assert [lines[0][name] for name in ("top1_std", "top1_ci95_support_low", "top1_ci95_support_high")] == [""] * 3
    assert (lines[0]["shots"], lines[1]["shots"], lines[1]["top1_ci95_support_low"]) == ("all", "5", "0.4")


@pytest.mark.filterwarnings("ignore::vitctl.reporting.fonts.FontWarning")  # a machine may have no font for them
@pytest.mark.parametrize("name", ['a,b "c"', "two\nlines", "Bäume 树", "caf\udce9", "$x$ %s {y}"])
def test_any_name_survives(tmp_path: Path, name: str) -> None:
    (line,) = write(tmp_path / "out", [a_row(data=name, model=name)], task_of(name=name))
    assert (line["data"], line["model"]) == (shown(name), shown(name))
    assert json.loads((tmp_path / "out" / "results.json").read_text())["results"][0]["data"] == name
    assert json.loads((tmp_path / "out" / "supports.json").read_text())[0]["data"] == name


PICTURES = {"accuracy_vs_shots.png", "accuracy_vs_l2.png", "layers.png", "ways_shots.png"}
EPISODES = {"ways": 2, "episodes": 7, "queries": 3, "top1_ci95_support": None}


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([a_row()], {"accuracy_vs_shots.png"}),
        ([a_row(), a_row(l2=1.0)], {"accuracy_vs_shots.png", "accuracy_vs_l2.png"}),
        ([a_row(), a_row(l2=None)], {"accuracy_vs_shots.png"}),
        ([a_row(classifier="logistic"), a_row(classifier="logistic", l2=1.0)], {"accuracy_vs_shots.png"}),
        ([a_row(), a_row(layer=0)], {"accuracy_vs_shots.png", "layers.png"}),
        ([a_row(), a_row(pool="mean")], {"accuracy_vs_shots.png", "layers.png"}),
        ([a_row(), a_row(model="n")], {"accuracy_vs_shots.png"}),
        ([a_row(**EPISODES)], {"ways_shots.png"}),
    ],
)
def test_pictures__those_that_say_something_and_none_of_before(
    tmp_path: Path, rows: list[FewshotRow], expected: set[str]
) -> None:
    for name in PICTURES:
        (tmp_path / name).write_text("of before")
    write(tmp_path, rows)
    assert {path.name for path in tmp_path.iterdir()} & PICTURES == expected
    for name in expected:
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_supports__rows_of_a_file_are_numbers_in_drawn_order(tmp_path: Path) -> None:
    labels = np.array([0, 1, 0, 0, 1, 0])
    draws = tuple(draw_support(labels, num_classes=2, seed=seed, most=3) for seed in (0, 1))
    write(tmp_path, [a_row()], task_of(draws=draws))
    (found,) = json.loads((tmp_path / "supports.json").read_text())
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        expected = [rng.permutation([0, 2, 3, 5])[:3].tolist(), rng.permutation([1, 4]).tolist()]
        assert found["seeds"][str(seed)] == expected
    assert (found["class_names"], found["test"]) == (["cat", "dog"], None)


def test_episodes__of_every_data_set_and_seed_are_kept(tmp_path: Path) -> None:
    def drawn(start: int) -> Episodes:
        numbers = np.arange(start, start + 12)
        return Episodes(numbers[:4].reshape(2, 2), numbers[:4].reshape(2, 2, 1), numbers.reshape(2, 2, 3))

    tasks = [task_of(episodes=(drawn(0), drawn(100))), task_of(name="more", episodes=(drawn(200), drawn(300)))]
    write_files(tmp_path, result_of(a_row(**EPISODES)), tasks)
    with np.load(tmp_path / "episodes.npz") as file:
        assert set(file) == {f"d{d}_s{s}_{name}" for d in (0, 1) for s in (0, 1) for name in
                             ("classes", "support", "queries")}  # fmt: skip
        np.testing.assert_array_equal(file["d1_s0_queries"], drawn(200).queries)
        np.testing.assert_array_equal(file["d0_s1_classes"], drawn(100).classes)
    assert not (tmp_path / "supports.json").exists()


@pytest.mark.parametrize(("old", "row"), [("supports.json", a_row(**EPISODES)), ("episodes.npz", a_row())])
def test_draws_of_an_earlier_evaluation_are_gone(tmp_path: Path, old: str, row: FewshotRow) -> None:
    """They would be taken for those of the results beside them."""
    (tmp_path / old).write_text("of before")
    one = Episodes(np.zeros((1, 2), int), np.zeros((1, 2, 1), int), np.zeros((1, 2, 3), int))
    write(tmp_path, [row], task_of(episodes=(one,) if row.ways is not None else ()))
    assert not (tmp_path / old).exists()


def test_out__that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match=r"--out .*file/out cannot be written: .*Give another folder\."):
        write_files(tmp_path / "file" / "out", result_of(a_row()), [task_of()])
    assert (tmp_path / "file").read_text() == "mine"


# --- predictions -------------------------------------------------------------------------------------------


def test_predictions__are_written_whole_over_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.npz"
    for value in (1, 2):
        write_arrays(path, {"s0_k1_l1024_pred": np.array([value, 5])})
    with np.load(path) as file:
        assert {name: file[name].tolist() for name in file} == {"s0_k1_l1024_pred": [2, 5]}
    assert [one.name for one in path.parent.iterdir()] == ["p.npz"]
