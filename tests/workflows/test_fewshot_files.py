"""Files of ``vitctl fewshot-eval``: features that are read; predictions, tables, pictures, draws that are written."""

import csv
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.conversation import Conversation
from vitctl.data.support_pool import SupportPool, UsedImages
from vitctl.errors import DataError, SettingError
from vitctl.evaluation.supports import Episodes, SupportDraw, draw_support
from vitctl.results.fewshot_eval import FewshotCost, FewshotResult, FewshotRow
from vitctl.workflows.fewshot_files import check_predictions, read_features, write_files, write_predictions


class Listener(Conversation):
    """Keeps what it is warned of."""

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@pytest.fixture
def arrays() -> dict[str, Any]:
    """12 and 6 rows of width 4 in three classes, all numbers different."""
    rng = np.random.default_rng(0)
    return {
        "x_train": rng.normal(size=(12, 4)).astype(np.float32),
        "y_train": np.tile([0, 1, 2], 4).astype(np.uint8),
        "x_test": rng.normal(size=(6, 4)).astype(np.float32),
        "y_test": np.tile([0, 1, 2], 2).astype(np.int16),
    }


@pytest.fixture
def read(tmp_path: Path, arrays: dict[str, Any]) -> Callable[..., tuple[dict[str, np.ndarray], list[str]]]:
    """Return ``read(name=array)``: what is read of a file with those arrays replaced, and the warnings."""

    def write_and_read(**changed: Any) -> tuple[dict[str, np.ndarray], list[str]]:
        np.savez(tmp_path / "f.npz", allow_pickle=True, **(arrays | changed))
        listener = Listener()
        return read_features(tmp_path / "f.npz", listener), listener.warnings

    return write_and_read


# --- features ----------------------------------------------------------------------------------------------


def test_features__come_as_they_are_and_labels_as_int64(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    found, warnings = read(more=np.zeros(3))
    assert list(found) == ["x_train", "y_train", "x_test", "y_test"]
    for name, values in arrays.items():
        np.testing.assert_array_equal(found[name], values)
    assert found["x_train"].dtype == np.float32
    assert found["y_train"].dtype == found["y_test"].dtype == np.int64
    assert warnings == []


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32, np.uint8])
def test_features__of_any_real_kind(read: Callable[..., Any], dtype: type) -> None:
    x = np.arange(48).reshape(12, 4).astype(dtype)
    found, _ = read(x_train=x)
    np.testing.assert_array_equal(found["x_train"], x)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"x_train": np.zeros((11, 4))}, r"x_train is \(11, 4\) and y_train \(12,\)"),
        ({"x_train": np.zeros((12, 4, 1))}, r"x_train is \(12, 4, 1\)"),
        ({"x_train": np.zeros((12, 0))}, r"x_train is \(12, 0\)"),
        ({"y_test": np.int64(3)}, r"y_test \(\)"),
        ({"y_train": np.zeros((12, 1), int)}, r"y_train \(12, 1\)"),
        ({"x_test": np.zeros((6, 5))}, "x_train is 4 wide and x_test 5"),
        ({"x_train": np.zeros((12, 4), bool)}, "x_train holds bool; expected real numbers"),
        ({"x_train": np.zeros((12, 4), "datetime64[s]")}, "x_train holds datetime64"),
        ({"y_train": np.zeros(12)}, "y_train holds float64; expected whole numbers from 0"),
        ({"y_train": np.zeros(12, bool)}, "y_train holds bool"),
        ({"y_test": np.array([0, 1, 2, 0, 1, -5])}, "y_test holds the label -5"),
        ({"y_test": np.array([0, 1, 2, 0, 1, 3])}, "y_test holds class 3, y_train only 0 to 2"),
        ({"y_train": np.full(12, 2**63 + 1, np.uint64)}, "y_train holds"),
        # a label is a position in a list of classes: a list this long fits into no memory
        ({"y_train": np.array([0] * 11 + [10**12])}, "y_train holds"),
    ],
)
def test_features__that_do_not_fit_are_refused(
    read: Callable[..., Any], changed: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(DataError, match=sentence):
        read(**changed)


def test_features__numbers_that_are_not_finite_are_counted_and_the_first_is_named(
    read: Callable[..., Any], arrays: dict[str, Any]
) -> None:
    x = arrays["x_test"].copy()
    x[4, 1], x[2, 3], x[5] = np.nan, np.inf, -np.inf
    with pytest.raises(DataError, match="x_test holds 6 numbers that are not finite, the first at row 2, column 3"):
        read(x_test=x)


def test_features__nothing_is_unpickled(read: Callable[..., Any], tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "harm",)

    with pytest.raises(DataError, match="cannot be read"):
        read(x_train=np.array([[Harm()] * 4] * 12, dtype=object))
    assert not (tmp_path / "harm").exists()


def test_features__missing_arrays_and_those_there_are_named(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=np.zeros(3), y_test=np.zeros(3))
    with pytest.raises(DataError, match=r"lacks x_train, y_train, x_test; expected .* It holds features, y_test\."):
        read_features(tmp_path / "f.npz", Conversation())


def test_features__that_never_vary_are_counted(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    x = arrays["x_train"].copy()
    x[:, 1] = x[:, 3] = 0.1
    (warning,) = read(x_train=x)[1]
    assert "2 of the 4 features of" in warning
    assert warning.endswith("never vary; they get no weight.")
    (warning,) = read(x_train=np.ones((12, 4), np.float32))[1]
    assert "4 of the 4 features of" in warning
    assert "Every prediction is a guess" in warning


def test_features__rows_of_both_halves_are_counted(read: Callable[..., Any], arrays: dict[str, Any]) -> None:
    x = arrays["x_test"].copy()
    x[1], x[4] = arrays["x_train"][7], arrays["x_train"][0]
    (warning,) = read(x_test=x)[1]
    assert "2 of the 6 rows of x_test are also rows of x_train" in warning
    (warning,) = read(x_test=x.astype(np.float64))[1]  # the same numbers
    assert "2 of the 6 rows" in warning


# --- predictions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("p.csv", r"p\.csv; expected a file that ends in \.npz"),
        ("p", "ends in"),
        ("folder.npz", "give a"),
        ("file/p.npz", "give a"),
        ("file/deeper/p.npz", "give a"),
    ],
)
def test_check_predictions__what_cannot_be_written_is_refused_first(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=sentence):
        check_predictions(tmp_path / name, features=None)
    assert {path.name for path in tmp_path.iterdir()} == {"folder.npz", "file"}


def test_check_predictions__makes_nothing(tmp_path: Path) -> None:
    check_predictions(tmp_path / "not" / "yet" / "p.npz", features=None)
    assert list(tmp_path.iterdir()) == []


def test_predictions__are_written_whole_over_an_old_file(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p.npz"
    for value in (1, 2):
        write_predictions(path, {"s0_k1_l1024_pred": np.array([value, 5])})
    with np.load(path) as file:
        assert {name: file[name].tolist() for name in file} == {"s0_k1_l1024_pred": [2, 5]}
    assert [one.name for one in path.parent.iterdir()] == ["p.npz"]


def test_predictions__that_cannot_be_written_are_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="--predictions .* cannot be written"):
        write_predictions(tmp_path / "file" / "p.npz", {"a": np.zeros(1)})
    assert (tmp_path / "file").read_text() == "mine"


# --- results -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """What ``write_files`` reads of a task."""

    name: str = "pets"
    images: SupportPool | None = None
    used: UsedImages | None = None
    class_names: tuple[str, ...] = ("cat", "dog")
    draws: tuple[SupportDraw, ...] = ()
    episodes: dict[int, list[Episodes]] | None = None


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


def write(out: Path, rows: list[FewshotRow], task: Task | None = None) -> list[dict[str, str]]:
    """Write the files and return the lines of the table."""
    write_files(out, result_of(*rows), [task or Task(episodes={})])
    with (out / "results.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
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


@pytest.mark.parametrize("name", ['a,b "c"', "two\nlines", "Bäume 树", "caf\udce9", "$x$ %s {y}"])
def test_any_name_survives(tmp_path: Path, name: str) -> None:
    (line,) = write(tmp_path / "out", [a_row(data=name, model=name)], Task(name=name, episodes={}))
    assert (line["data"], line["model"]) == (name, name)
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
    write(tmp_path, [a_row()], Task(draws=draws, episodes={}))
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

    tasks = [Task(episodes={2: [drawn(0), drawn(100)]}), Task(name="more", episodes={2: [drawn(200), drawn(300)]})]
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
    write(tmp_path, [row], Task(episodes={2: [one]} if row.ways is not None else {}))
    assert not (tmp_path / old).exists()


def test_out__that_cannot_be_written_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match=r"--out .*file/out cannot be written: .*Give another folder\."):
        write_files(tmp_path / "file" / "out", result_of(a_row()), [Task(episodes={})])
    assert (tmp_path / "file").read_text() == "mine"
