"""The table of a sweep: its numbers are those of the tables of images, paired by content; and what it says of gaps."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from vitctl.evaluation.comparison import estimate, estimate_folds, holm
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import Cell, cells_of
from vitctl.sweeping.planning import PlannedRun, planned_runs
from vitctl.sweeping.table import SweepTable, table_of

Saying = Callable[..., KeptLogits]


def finished(
    out: Path, says: Callable[[PlannedRun], KeptLogits | None], *grid: str, **settings: object
) -> tuple[Sequence[Cell], Sequence[PlannedRun]]:
    config = SweepConfig(grid=grid or None, **settings)  # type: ignore[arg-type]
    cells = cells_of(config)
    runs = planned_runs(cells, config, out)
    for run in runs:
        run.out.mkdir(parents=True)
        (run.out / "summary.json").write_text("{}")
        if (kept := says(run)) is not None:
            write_logits(run.out, kept)
    return cells, runs


def shuffled(kept: KeptLogits, seed: int) -> KeptLogits:
    order = np.random.default_rng(seed).permutation(len(kept.hashes))
    hashes = tuple(kept.hashes[index] for index in order)
    return KeptLogits(kept.logits[order], kept.labels[order], hashes, kept.class_names)


def tables(num_cells: int, num_seeds: int, num_images: int) -> np.ndarray:
    """Return what is right: (cells, seeds, images)."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(size=num_images)
    chance = np.linspace(0.6, 0.9, num_cells)[:, None, None]
    return np.asarray(hard + 0.3 * rng.normal(size=(num_cells, num_seeds, num_images)) < chance, dtype=np.float64)


def told(table: SweepTable, name: str) -> list[object]:
    return [getattr(cell, name) for cell in table.cells]


def test_means_and_paired_differences__whatever_order_the_images_come_in(tmp_path: Path, logits_of: Saying) -> None:
    right = tables(3, 2, 60)
    cells, runs = finished(
        tmp_path,
        lambda run: shuffled(logits_of(right[int(run.cell[-1]) - 1, run.seed]), seed=int(run.cell[-1]) + run.seed),
        "lr=1,2,3",
        seeds=2,
    )
    table = table_of(cells, runs)
    assert table.num_val == 60
    assert told(table, "top1_mean") == pytest.approx(right.mean(axis=(1, 2)))
    assert table.cells[2].top1_per_run == pytest.approx(tuple(right[2].mean(axis=1)))
    assert table.cells[0].difference is None
    expected = [estimate(right[index] - right[0], is_difference=True) for index in (1, 2)]
    for cell, one, p in zip(table.cells[1:], expected, holm([one.p for one in expected]), strict=True):
        assert cell.difference == pytest.approx(one.mean)
        assert cell.difference_ci95 == pytest.approx(one.ci95)
        assert (cell.p, cell.p_holm) == (pytest.approx(one.p), pytest.approx(p))
    assert table.cells[1].nll_mean == pytest.approx(
        np.where(right[1] == 1, np.log1p(np.exp(-1)), np.log1p(np.e)).mean(), rel=1e-6
    )
    assert any("other images and other seeds" in note for note in table.notes)
    assert table.cells[0].runs == tuple(str(run.out) for run in runs if run.cell == "lr=1")


def test_folds__each_image_once(tmp_path: Path, logits_of: Saying) -> None:
    right = tables(2, 2, 30)
    parts = [slice(0, 12), slice(12, 20), slice(20, 30)]
    cells, runs = finished(
        tmp_path,
        lambda run: logits_of(
            right[int(run.cell[-1]) - 1, run.seed, parts[(run.fold or 1) - 1]],
            first_image=parts[(run.fold or 1) - 1].start,
        ),
        "lr=1,2",
        seeds=2,
        folds=3,
    )
    table = table_of(cells, runs)
    assert table.num_val == 30
    assert told(table, "top1_mean") == pytest.approx(right.mean(axis=(1, 2)))
    assert len(table.cells[0].runs) == len(table.cells[0].top1_per_run) == 6
    assert table.cells[0].top1_per_run[:3] == pytest.approx([right[0, 0, part].mean() for part in parts])
    expected = estimate_folds([right[1][:, part] - right[0][:, part] for part in parts], is_difference=True)
    assert table.cells[1].difference_ci95 == pytest.approx(expected.ci95)
    assert any(note.startswith("cross-validation") for note in table.notes)


def test_other_images__no_difference(tmp_path: Path, logits_of: Saying) -> None:
    (tmp_path / "a").mkdir()
    cells, runs = finished(
        tmp_path, lambda run: logits_of([1, 0, 1], first_image=10 * (run.cell == "data=b")), "data=a,b"
    )
    table = table_of(cells, runs)
    assert told(table, "top1_mean") == pytest.approx([2 / 3, 2 / 3])
    assert told(table, "difference") == [None, None]
    assert any("not the same: data=b" in note for note in table.notes)


def test_seeds_of_other_images__no_score(tmp_path: Path, logits_of: Saying) -> None:
    cells, runs = finished(tmp_path, lambda run: logits_of([1, 0], first_image=run.seed), "lr=1,2", seeds=2)
    table = table_of(cells, runs)
    assert told(table, "top1_mean") == [None, None]
    assert any("have not seen the same images" in note for note in table.notes)


def test_diverged__is_a_row(tmp_path: Path, logits_of: Saying) -> None:
    cells, runs = finished(tmp_path, lambda _: logits_of([1, 0, 1]), "lr=1,2", seeds=2)
    for run in (runs[1], runs[0]):
        (run.out / "summary.json").unlink()
        run.diverged.parent.mkdir(exist_ok=True)
        run.diverged.write_text("{}")
        table = table_of(cells, runs)
        index = [cell.name for cell in cells].index(run.cell)
        assert (table.cells[index].state, table.cells[index].top1_mean) == ("diverged", None)
    assert told(table, "difference") == [None, None]
    assert any("diverged" in note for note in table.notes)


def test_nothing_validated__said(tmp_path: Path) -> None:
    cells, runs = finished(tmp_path, lambda _: None, "lr=1,2", val_fraction=0)
    table = table_of(cells, runs)
    assert (table.num_val, told(table, "top1_mean"), told(table, "difference")) == (0, [None] * 2, [None] * 2)
    assert table.notes == ("no run was validated, so that there is nothing to compare",)


@pytest.mark.parametrize(("damage", "words"), [("gone", "is gone"), ("cut", "is damaged")])
def test_what_a_run_said_is_lost__that_is_said(damage: str, words: str, tmp_path: Path, logits_of: Saying) -> None:
    cells, runs = finished(tmp_path, lambda _: logits_of([0, 1, 1, 1]), "lr=1,2")
    kept = runs[1].out / "val-logits.safetensors"
    (runs[1].out / "summary.json").write_text('{"num_val": 4}')
    if damage == "gone":
        kept.unlink()
    else:
        kept.write_bytes(kept.read_bytes()[:40])
    table = table_of(cells, runs)
    assert told(table, "top1_mean") == [0.75, None]
    assert any(words in note and f"Remove {runs[1].out}, and the same command" in note for note in table.notes)


def test_what_the_first_said_is_lost__that_is_why_there_are_no_differences(tmp_path: Path, logits_of: Saying) -> None:
    cells, runs = finished(tmp_path, lambda _: logits_of([0, 1, 1, 1]), "lr=1,2")
    kept = runs[0].out / "val-logits.safetensors"
    kept.write_bytes(kept.read_bytes()[:40])
    table = table_of(cells, runs)
    assert (told(table, "top1_mean"), told(table, "difference")) == ([None, 0.75], [None, None])
    assert "no differences: lr=1, which they would be from, has no score" in table.notes
