"""``finetune --lr A,B,C``: what is tried, what the run is given, what is not done twice; nothing is trained."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.recipes import load_recipe
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.run_folders.selection import KeptSelection, read_selection, write_selection
from vitctl.settings.finetune import FinetuneConfig
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.rate_search import choose_rate

RATES = "1e-4,3e-4,1e-3"


def said(*, is_right: bool) -> KeptLogits:
    """Return what a classifier says of two images."""
    logits = np.eye(2, dtype=np.float32) if is_right else np.zeros((2, 2), dtype=np.float32)
    return KeptLogits(logits, np.arange(2), ("0" * 32, "1" * 32), ("cat", "dog"))


@pytest.fixture
def chosen(tmp_path: Path) -> Callable[..., tuple[FinetuneConfig, KeptSelection | None, list[PlannedRun]]]:
    """Return ``chosen(RECIPE, **SETTINGS)``: of three runs the second is the best."""

    def choose(
        tried: str = "demo", **settings: object
    ) -> tuple[FinetuneConfig, KeptSelection | None, list[PlannedRun]]:
        started = list[PlannedRun]()

        def run_these(runs: Sequence[PlannedRun]) -> None:
            for index, run in enumerate(runs):
                started.append(run)
                run.out.mkdir(parents=True, exist_ok=True)
                (run.out / "config.json").write_text('{"vitctl": "0"}')
                (run.out / "summary.json").write_text('{"steps": 1}')
                write_logits(run.out, said(is_right=index == 1))

        config = FinetuneConfig(**{"lr": RATES, "steps": 5, **settings})  # type: ignore[arg-type]
        found = choose_rate(config, tmp_path / "run", load_recipe(tried), Conversation(), run_these=run_these)
        return *found, started

    return choose


def test_choose_rate__the_run_is_given_the_one_that_won(chosen: Callable[..., tuple], tmp_path: Path) -> None:
    config, selection, started = chosen(seed=3, dev_fraction=0.2, set=("optimizer.weight_decay=0.1",))
    assert config == FinetuneConfig(lr=3e-4, steps=5, seed=3, set=("optimizer.weight_decay=0.1",))
    assert selection.lr == "0.0001,0.0003,0.001"
    assert (selection.selected.cell, selection.selected.by) == ("lr=0.0003", "nll")
    assert [(run.given["lr"], run.given["seed"], run.given["dev_fraction"]) for run in started] == [
        (1e-4, 3, 0.2), (3e-4, 3, 0.2), (1e-3, 3, 0.2),
    ]  # fmt: skip
    assert {run.out.parents[2] for run in started} == {tmp_path / "run-rates"}
    assert all("overwrite" not in run.given for run in started)


def test_choose_rate__grid_is_the_recipes(chosen: Callable[..., tuple]) -> None:
    config, selection, started = chosen("vit-paper:cifar10", lr="grid", recipe="vit-paper:cifar10")
    assert [run.given["set"] for run in started] == [(f"rate.lr={rate}",) for rate in (0.001, 0.003, 0.01, 0.03)]
    assert (config.lr, config.set) == (None, ("rate.lr=0.003",))
    assert selection.lr == "grid"


def test_choose_rate__what_a_run_says_was_chosen_is_not_chosen_again(
    chosen: Callable[..., tuple], tmp_path: Path
) -> None:
    _, selection, _ = chosen()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"vitctl": "0"}')
    with pytest.raises(SettingError, match=r"run is a run that was not made by --lr 0\.0001,0\.0003,0\.001"):
        chosen()
    write_selection(tmp_path / "run", selection)
    config, again, started = chosen()
    assert (config.lr, again, started) == (3e-4, selection, [])
    with pytest.raises(SettingError, match=r"not made by --lr 0\.0001,0\.01"):
        chosen(lr="1e-4,1e-2")


def test_choose_rate__a_dry_run_says_what_it_would_add_and_starts_nothing(
    chosen: Callable[..., tuple], tmp_path: Path
) -> None:
    config, selection, started = chosen(dry_run=True)
    assert (config.lr, selection, started) == (1e-4, None, [])
    assert not list(tmp_path.iterdir())


def test_choose_rate__a_recipe_without_rates_is_refused(chosen: Callable[..., tuple]) -> None:
    with pytest.raises(SettingError, match=r"recipe names no rates to try \(rate\.grid\)"):
        chosen(lr="grid")


def test_selection__read_back_is_the_same_and_damaged_is_none(chosen: Callable[..., tuple], tmp_path: Path) -> None:
    _, selection, _ = chosen()
    write_selection(tmp_path, selection)
    assert read_selection(tmp_path) == selection
    (tmp_path / "selection.json").write_text(json.dumps({"lr": 1}))
    assert read_selection(tmp_path) is None
    assert read_selection(tmp_path / "nowhere") is None
