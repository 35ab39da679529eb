"""Rows and pairs of ``vitctl compare``: held against scipy, and against numbers made by hand."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import log_softmax, softmax

from vitctl.evaluation.compared import compared_pairs, row_figures
from vitctl.evaluation.disagreement import disagreement
from vitctl.evaluation.matching import match_runs
from vitctl.evaluation.resampling import PigeonholeBootstrap
from vitctl.evaluation.row_tables import RowTables

NUM_IMAGES, NUM_CLASSES = 60, 3
LABELS = np.arange(NUM_IMAGES, dtype=np.int64) % NUM_CLASSES


def row(name: str, seeds: tuple[int, ...] = (0,), *, skill: float = 1.0) -> RowTables:
    rng = np.random.default_rng([len(name), *seeds])
    logits = rng.normal(size=(len(seeds), NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
    logits[:, np.arange(NUM_IMAGES), LABELS] += skill
    return RowTables.of(name, seeds, list(logits), LABELS)


def test_figures__of_a_run() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(NUM_IMAGES, NUM_CLASSES)).astype(np.float32)
    found = row_figures(RowTables.of("a", (0,), [logits], LABELS), seed=0)
    right = logits.argmax(axis=1) == LABELS
    interval = stats.binomtest(int(right.sum()), NUM_IMAGES).proportion_ci(method="wilson")
    assert found["top1"] == pytest.approx(right.mean())
    assert found["top1_ci95"] == pytest.approx((interval.low, interval.high), abs=1e-6)
    nll = -log_softmax(logits.astype(np.float64), axis=1)[np.arange(NUM_IMAGES), LABELS]
    assert found["nll"] == pytest.approx(nll.mean())
    brier = ((softmax(logits.astype(np.float64), axis=1) - np.eye(NUM_CLASSES)[LABELS]) ** 2).sum(axis=1)
    assert found["brier"] == pytest.approx(brier.mean())
    for name in ("nll", "brier", "ece"):
        low, high = found[f"{name}_ci95"]  # type: ignore[literal-required]
        assert 0 <= low < found[name] < high  # type: ignore[literal-required]


def test_calibration__of_a_run_is_drawn_once_for_all_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = list[int]()

    def sums(bootstrap: PigeonholeBootstrap, columns: np.ndarray) -> np.ndarray:
        drawn.append(columns.shape[1])
        return np.zeros((len(bootstrap.image_counts), columns.shape[1]))

    monkeypatch.setattr(PigeonholeBootstrap, "sums", sums)
    rows = [row("a", (0, 1)), row("bb"), row("ccc"), row("dddd")]
    compared_pairs(rows, seed=0)
    row_figures(rows[0], seed=0)
    assert len(drawn) == 5


def test_pairs_of_two_runs__are_mcnemars() -> None:
    a, b, c = row("a"), row("bb", skill=2.0), row("ccc", skill=4.0)
    pairs, notes = compared_pairs([a, b, c], seed=0)
    assert not notes
    assert [(pair.a, pair.b) for pair in pairs] == [("a", "bb"), ("a", "ccc"), ("bb", "ccc")]
    for pair, (first, second) in zip(pairs, [(a, b), (a, c), (b, c)], strict=True):
        only_first = int((first.correct[0] > second.correct[0]).sum())
        only_second = int((first.correct[0] < second.correct[0]).sum())
        assert (pair.num_a_only, pair.num_b_only) == (only_first, only_second)
        assert pair.mcnemar_p == pytest.approx(stats.binomtest(only_first, only_first + only_second).pvalue)
        assert pair.p == pair.mcnemar_p
        assert pair.difference == pytest.approx((only_second - only_first) / NUM_IMAGES)
        assert pair.ci95[0] < pair.difference < pair.ci95[1]
        assert pair.nll_difference == pytest.approx(second.nll.mean() - first.nll.mean())
        assert pair.brier_difference == pytest.approx(second.brier.mean() - first.brier.mean())
        eces = [row_figures(one, seed=0)["ece"] for one in (first, second)]
        assert pair.ece_difference == pytest.approx(eces[1] - eces[0])
    # Holm's: the least p times 3, the next times 2, never less than one before
    ordered = sorted(pairs, key=lambda pair: pair.p)
    expected = np.minimum(
        1, np.maximum.accumulate([pair.p * times for pair, times in zip(ordered, (3, 2, 1), strict=True)])
    )
    assert [pair.p_holm for pair in ordered] == pytest.approx(expected)


def test_pairs_of_equal_runs__losses_are_equal_and_nothing_is_unsure_of_that() -> None:
    a = row("a")
    (pair,), _ = compared_pairs([a, a], seed=0)
    for name in ("nll", "brier", "ece"):
        assert (getattr(pair, f"{name}_difference"), getattr(pair, f"{name}_ci95")) == (0, (0, 0))
    assert (pair.difference, pair.mcnemar_p, pair.p_holm) == (0, 1, 1)
    assert pair.ci95[0] < 0 < pair.ci95[1]  # of other images these two may say something else


def test_pairs_of_several_runs__are_paired_by_seed() -> None:
    a, b = row("a", (0, 1, 2)), row("bb", (0, 1, 2), skill=2.0)
    (pair,), notes = compared_pairs([a, b], seed=0)
    assert not notes
    assert pair.mcnemar_p is None
    assert pair.num_a_only is None
    assert pair.difference == pytest.approx(b.correct.mean() - a.correct.mean())
    assert pair.p == pair.p_holm


@pytest.mark.parametrize(
    ("seeds_a", "seeds_b", "first", "second", "words"),
    [
        ((0,), (5,), (0,), (0,), ""),
        ((0, 1), (0, 1), (0, 1), (0, 1), ""),
        ((0,), (0, 1, 2), (0, 0, 0), (0, 1, 2), "not of the one"),
        ((0, 1, 2), (4,), (0, 1, 2), (0, 0, 0), "not of the one"),
        ((0, 1, 2), (1, 2), (1, 2), (0, 1), "both have: 1, 2"),
        ((0, 1), (2, 3, 4), (0, 1), (0, 1), "first 2 runs"),
    ],
)
def test_which_runs_are_paired(
    seeds_a: tuple[int, ...], seeds_b: tuple[int, ...], first: tuple[int, ...], second: tuple[int, ...], words: str
) -> None:
    found = match_runs(row("a", seeds_a), row("b", seeds_b))
    assert (found.first, found.second) == (first, second)
    assert words in found.note
    assert bool(words) == bool(found.note)


def test_disagreement__comes_first_where_both_are_sure() -> None:
    sure, unsure, same = [9.0, 0, 0], [0.5, 0, 0], [3.0, 0, 0]
    a = RowTables.of("a", (0,), [np.array([unsure, sure, same], dtype=np.float32)], LABELS[:3])
    b = RowTables.of("b", (0,), [np.array([np.roll(sure, 1), np.roll(sure, 1), same], dtype=np.float32)], LABELS[:3])
    found = disagreement([a, b])
    assert found.positions.tolist() == [1, 0]
    assert found.predicted.tolist() == [[0, 0, 0], [1, 1, 0]]
    assert found.confidence[0, 1] == pytest.approx(softmax(sure)[0])


def test_disagreement__of_several_runs_is_of_their_mean() -> None:
    logits = [np.array([[4.0, 0, 0]], dtype=np.float32), np.array([[0, 1.0, 0]], dtype=np.float32)]
    both = RowTables.of("a", (0, 1), logits, LABELS[:1])
    found = disagreement([both, both])
    assert found.positions.tolist() == []
    assert found.predicted.tolist() == [[0], [0]]
    assert found.confidence[0, 0] == pytest.approx((softmax([4.0, 0, 0])[0] + softmax([0, 1.0, 0])[0]) / 2)
