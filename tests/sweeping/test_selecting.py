"""Choosing a cell by what runs kept of their images, on run folders that nobody trained."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import cells_of
from vitctl.sweeping.choosing import Chosen, check_choice, choose_among, for_choosing
from vitctl.sweeping.planning import PlannedRun, planned_runs
from vitctl.sweeping.selecting import _tables

NUM_IMAGES = 150


@dataclass
class Heard(Conversation):
    warnings: list[str] = field(default_factory=list)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def kept(quality: float, seed: int, num_images: int = NUM_IMAGES) -> KeptLogits:
    """Return what a classifier says that is the surer of the truth the higher ``quality``; images are the same."""
    labels = np.arange(num_images) % 2
    of_this_run = np.random.default_rng((seed, round(1000 * quality))).normal(size=num_images)
    noise = np.random.default_rng(0).normal(size=num_images) + 0.1 * of_this_run
    margin = np.where(labels == 1, 1.0, -1.0) * (quality + noise)
    logits = np.stack([-margin, margin], axis=1) / 2
    hashes = tuple(f"{index:032x}" for index in range(num_images))
    return KeptLogits(logits.astype(np.float32), labels, hashes, ("cat", "dog"))


def trained(qualities: Mapping[str, float | None], num_images: int = NUM_IMAGES) -> Callable[..., None]:
    """Return a trainer of runs of a quality by cell; None diverges."""

    def run_these(runs: Sequence[PlannedRun]) -> None:
        for run in runs:
            run.out.mkdir(parents=True, exist_ok=True)
            quality = qualities[run.cell]
            (run.out / "config.json").write_text(json.dumps({"vitctl": "0"}))
            if quality is None:
                (run.out / "diverged.json").write_text("{}")
                continue
            (run.out / "summary.json").write_text('{"steps": 1}')
            write_logits(run.out, kept(quality, run.seed, num_images))

    return run_these


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[..., Chosen]:
    """Return ``chosen(GRID, QUALITIES, ...)``: what a sweep comes to whose cells have these qualities."""

    def choose(
        grid: tuple[str, ...] | None,
        qualities: Mapping[str, float | None],
        *,
        conversation: Conversation | None = None,
        num_images: int = NUM_IMAGES,
        **settings: object,
    ) -> Chosen:
        given = {"select": "nll", "seeds": 2, "out": str(tmp_path / "sweep"), **settings}
        config = for_choosing(SweepConfig(grid=grid, **given))  # type: ignore[arg-type]
        cells = cells_of(config)
        check_choice(config, cells)
        runs, run_these = planned_runs(cells, config, tmp_path / "sweep"), trained(qualities, num_images)
        run_these(runs)
        return choose_among(
            cells, runs, config, tmp_path / "sweep", conversation or Conversation(), run_these=run_these
        )

    return choose


def test_select__the_best_of_a_grid_is_chosen(chosen: Callable[..., Chosen]) -> None:
    found = chosen(("lr=1e-4,3e-4,1e-3",), {"lr=0.0001": 0.0, "lr=0.0003": 2.0, "lr=0.001": 1.0})
    assert found.selected is not None
    selected = found.selected
    assert (selected.cell, selected.best, selected.standard_error) == ("lr=0.0003", "lr=0.0003", 0)
    assert (selected.is_at_edge, selected.extended, selected.num_dev) == (False, (), NUM_IMAGES)
    assert selected.settings == {"lr": 0.0003}
    margins = np.concatenate([np.diff(kept(2.0, seed).logits.astype(float))[:, 0] for seed in (0, 1)])
    signs = np.tile(np.where(np.arange(NUM_IMAGES) % 2, 1, -1), 2)
    assert selected.score == pytest.approx(np.log1p(np.exp(-signs * margins)).mean())
    assert "optimistic" in selected.why


def test_select__of_rates_that_cannot_be_told_apart_the_lowest(chosen: Callable[..., Chosen]) -> None:
    qualities = {"lr=0.0001": 0.0, "lr=0.0003": 2.0, "lr=0.001": 2.006, "lr=0.003": 0.0}
    found = chosen(("lr=3e-3,1e-3,3e-4,1e-4",), qualities)
    assert found.selected is not None
    assert (found.selected.cell, found.selected.best) == ("lr=0.0003", "lr=0.001")
    assert found.selected.standard_error > 0
    assert "the lowest rate within one standard error" in found.selected.why


def test_select__without_a_rate_the_first_in_the_order(chosen: Callable[..., Chosen]) -> None:
    found = chosen(("tune=head,full",), {"tune=head": 1.0, "tune=full": 1.0})
    assert found.selected is not None
    assert found.selected.cell == "tune=head"


def test_select__an_edge_is_extended_once(chosen: Callable[..., Chosen]) -> None:
    heard = Heard()
    qualities = {"lr=0.0001": 0.0, "lr=0.001": 1.0, "lr=0.01": 2.0, "lr=0.1": 1.5}
    found = chosen(("lr=1e-4,1e-3,1e-2",), qualities, conversation=heard)
    assert found.selected is not None
    assert (found.selected.cell, found.selected.extended, found.selected.is_at_edge) == ("lr=0.01", ("lr=0.1",), False)
    assert [cell.name for cell in found.cells][-1] == "lr=0.1"
    assert {run.seed for run in found.runs if run.cell == "lr=0.1"} == {0, 1}
    assert [("edge" in text, "lr=0.1" in text) for text in heard.warnings] == [(True, True)]


def test_select__the_low_edge_that_is_only_no_worse__says_why(chosen: Callable[..., Chosen]) -> None:
    heard = Heard()
    qualities = {"lr=0.0001": 2.0, "lr=0.001": 2.006, "lr=0.01": 0.0, "lr=1e-05": 0.0}
    found = chosen(("lr=1e-2,1e-4,1e-3",), qualities, conversation=heard)
    assert found.selected is not None
    assert (found.selected.cell, found.selected.best, found.selected.is_at_edge) == ("lr=0.0001", "lr=0.001", False)
    (warning,) = heard.warnings
    assert "lr=0.001 did better, but by no more than one standard error" in warning
    assert "better rates" not in warning


def test_select__a_second_edge_only_warns(chosen: Callable[..., Chosen]) -> None:
    heard = Heard()
    qualities = {"lr=0.0001": 0.0, "lr=0.001": 1.0, "lr=0.01": 2.0, "lr=0.1": 3.0}
    found = chosen(("lr=1e-4,1e-3,1e-2",), qualities, conversation=heard)
    assert found.selected is not None
    assert (found.selected.cell, found.selected.extended, found.selected.is_at_edge) == ("lr=0.1", ("lr=0.1",), True)
    assert len(heard.warnings) == 2


def test_select__a_run_that_diverged_is_infinitely_bad(chosen: Callable[..., Chosen]) -> None:
    found = chosen(("lr=1e-4,1e-3",), {"lr=0.0001": 0.1, "lr=0.001": None})
    assert found.selected is not None
    assert found.selected.cell == "lr=0.0001"
    with pytest.raises(SettingError, match="None of the 2 combinations .* Try lower rates"):
        chosen(("lr=1e-2,1e-1",), {"lr=0.01": None, "lr=0.1": None})


def test_select__by_accuracy_the_score_is_one(chosen: Callable[..., Chosen]) -> None:
    found = chosen(("lr=1e-4,1e-3",), {"lr=0.0001": 0.0, "lr=0.001": 1.0}, select="top1")
    assert found.selected is not None
    right = [kept(1.0, seed) for seed in (0, 1)]
    expected = np.mean([(one.logits.argmax(axis=1) == one.labels).mean() for one in right])
    assert found.selected.score == pytest.approx(expected)


def test_losses__are_of_the_same_images_in_whatever_order_runs_saw_them(tmp_path: Path) -> None:
    config = SweepConfig(grid=("lr=1,2",))
    cells = cells_of(config)
    runs = planned_runs(cells, config, tmp_path)
    trained({cell.name: 1.0 for cell in cells})(runs)
    one = kept(1.0, 0)
    turned = KeptLogits(one.logits[::-1], one.labels[::-1], one.hashes[::-1], one.class_names)
    write_logits(runs[1].out, turned)
    first, second = _tables([[run] for run in runs], "nll")
    assert np.array_equal(first, second)


def test_select__few_images_warn(chosen: Callable[..., Chosen]) -> None:
    heard = Heard()
    chosen(("lr=1e-4,1e-3",), {"lr=0.0001": 0.0, "lr=0.001": 1.0}, conversation=heard, num_images=60)
    assert "60 development images" in heard.warnings[0]


def test_retrain__the_winner_again_without_development_images(chosen: Callable[..., Chosen], tmp_path: Path) -> None:
    qualities = {"lr=0.0001": 0.0, "lr=0.001": 1.0}
    found = chosen(("lr=1e-4,1e-3",), qualities, retrain=True)
    assert found.retrained is not None
    folder = tmp_path / "sweep" / "retrained"
    assert found.retrained.runs == (str(folder / "seed-0"), str(folder / "seed-1"))
    assert found.retrained.num_val == NUM_IMAGES
    commands = (tmp_path / "sweep" / "commands.txt").read_text().splitlines()
    assert ["--dev-fraction auto" in line for line in commands[1:]] == [True] * 4 + [False] * 2
    assert all("--lr 0.001" in line for line in commands[-2:])
    assert ["select_best_from" in line for line in commands[1:]] == [False] * 4 + [True] * 2


def test_retrain__no_validation_image_chooses_the_best_weights(chosen: Callable[..., Chosen], tmp_path: Path) -> None:
    of_all = ("evaluation.select_best_from=1", "optimizer.weight_decay=0.1")
    chosen(("lr=1e-4,1e-3",), {"lr=0.0001": 0.0, "lr=0.001": 1.0}, retrain=True, set=of_all)
    commands = (tmp_path / "sweep" / "commands.txt").read_text().splitlines()
    assert all("select_best_from=1000000000" in line and "weight_decay=0.1" in line for line in commands[-2:])
    assert all(line.count("select_best_from") == 1 for line in commands[-2:])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"retrain": True, "select": None}, "--retrain is given without --select"),
        ({"folds": 5}, "--select and --folds are both given"),
        ({"grid": None}, "The default recipe names no rates to try"),
        ({"grid": None, "lr": 0.1}, "--select is given, and --lr for all runs"),
        ({"grid": ("lr=0.1",)}, "one combination of settings"),
        ({"grid": ("lr=0.1,grid",)}, "--lr is grid; expected one rate"),
        ({"grid": ("lr=1e-4,1e-3", "val_fraction=0.1,0.2")}, "the grid has val_fraction, so that"),
        ({"grid": ("data=digits,demo",)}, "the grid has data, so that"),
        ({"retrain": True, "patience": 3}, "--retrain and --patience are both given"),
        ({"retrain": True, "grid": ("patience=2,3",)}, "--retrain and --patience are both given"),
        ({"soup": True, "patience": 3}, "--soup and --patience are both given"),
        ({"soup": True, "grid": ("model=demo,vit_tiny_patch16_224",)}, "the grid has model"),
        ({"soup": True, "grid": ("tune=head,full",)}, "the grid has tune"),
        ({"soup": True, "seeds": 2, "set": ("head.init=random",)}, "a random head, which every seed draws otherwise"),
        ({"soup": True, "seeds": 2, "recipe": "attention-only"}, "a random head"),
        ({"soup": True, "seeds": 2, "weights": "none"}, "--weights none, which"),
        ({"soup": True, "seeds": 2, "set": ("head.pool=map",)}, "attention pooling, which"),
    ],
)
def test_choice__what_cannot_be_is_refused_before_anything_starts(settings: dict[str, object], sentence: str) -> None:
    given = {"grid": ("lr=1e-4,1e-3",), "select": "nll", **settings}

    def checked() -> None:
        config = for_choosing(SweepConfig(**given))  # type: ignore[arg-type]
        check_choice(config, cells_of(config))

    with pytest.raises(SettingError, match=sentence):
        checked()


def test_choice__the_recipes_own_grid_is_taken_where_none_is_given() -> None:
    config = for_choosing(SweepConfig(select="nll", recipe="vit-paper:cifar10"))
    assert [cell.settings for cell in cells_of(config)] == [{"rate.lr": rate} for rate in (0.001, 0.003, 0.01, 0.03)]


def test_choice__nothing_asked_for_changes_nothing() -> None:
    config = SweepConfig(grid=("lr=1e-4,1e-3",))
    assert for_choosing(config) is config
    assert for_choosing(SweepConfig(select="nll", grid=("lr=1,2",))).dev_fraction == "auto"
    assert for_choosing(SweepConfig(select="nll", grid=("lr=1,2",), dev_fraction=0.3)).dev_fraction == 0.3
