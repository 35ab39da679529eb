"""What a sweep would cost: a dry run for each kind of combination, and the difference that could be told."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vitctl.conversation import Conversation
from vitctl.evaluation.comparison import smallest_difference
from vitctl.results.sweep import SweepDryRunResult
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping import pricing
from vitctl.sweeping.cells import cells_of
from vitctl.sweeping.planning import PlannedRun, planned_runs

Saying = Callable[..., KeptLogits]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    names: list[str] = []

    def dry_run(run: PlannedRun) -> dict[str, Any]:
        names.append(run.cell)
        steps = run.given.get("steps", 10)
        return {"steps": steps, "training_s": 2.0 * steps, "memory_bytes": 7 * steps, "num_val": 50, "num_train": 450}

    monkeypatch.setattr(pricing, "_dry_run", dry_run)
    return names


def priced(out: Path, *grid: str, **settings: object) -> SweepDryRunResult:
    config = SweepConfig(grid=grid or None, **settings)  # type: ignore[arg-type]
    cells = cells_of(config)
    return pricing.price(cells, planned_runs(cells, config, out), config, out, conversation=Conversation())


def test_one_dry_run_of_each_kind(tmp_path: Path, asked: list[str]) -> None:
    cost = priced(tmp_path, "lr=1,2", "optimizer.weight_decay=0,1", "steps=10,20", seeds=3, jobs=2)
    assert asked == ["lr=1,optimizer.weight_decay=0,steps=10", "lr=1,optimizer.weight_decay=0,steps=20"]
    assert (cost.num_runs, cost.training_s, cost.memory_at_a_time_bytes) == (24, 3 * 4 * (20 + 40), 2 * 140)
    assert [one.training_s for one in cost.cells] == [20, 40] * 4
    assert cost.smallest_difference == pytest.approx(
        smallest_difference(num_runs=3, num_images=50, disagreement=0.1, seed_sd=0.01)
    )
    assert not cost.is_assumed_from_runs
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "key", ["model=demo,vit_tiny_patch16_224", "batch_size=8,16", "tune=full,head", "mixing.mixup=0,0.2"]
)
def test_what_costs_otherwise__is_asked_for(key: str, tmp_path: Path, asked: list[str]) -> None:
    priced(tmp_path, key)
    assert len(asked) == 2


def test_folds__each_image_is_validated_on(tmp_path: Path, asked: list[str]) -> None:
    cost = priced(tmp_path, "lr=1,2", folds=5)
    assert (cost.num_runs, cost.num_val) == (10, 500)


def test_finished_runs__are_not_priced_and_tell_what_to_assume(
    tmp_path: Path, asked: list[str], logits_of: Saying
) -> None:
    rng = np.random.default_rng(0)
    config = SweepConfig(grid=("lr=1,2",), seeds=2)
    for run in planned_runs(cells_of(config), config, tmp_path):
        run.out.mkdir(parents=True)
        (run.out / "summary.json").write_text("{}")
        write_logits(run.out, logits_of(list(rng.integers(0, 2, 50))))
    cost = priced(tmp_path, "lr=1,2,3", seeds=4)
    assert [one.num_runs for one in cost.cells] == [2, 2, 4]
    assert cost.is_assumed_from_runs
    assert 0.3 < cost.assumed["disagreement"] < 0.7
