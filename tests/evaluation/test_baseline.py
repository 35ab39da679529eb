"""A classifier against always saying one class, against scipy's exact test and by hand."""

import numpy as np
import pytest
import scipy.stats

from vitctl.evaluation.baseline import majority_baseline, mcnemar_p
from vitctl.results.baseline import against_baseline


@pytest.mark.parametrize("first", [0, 1, 2, 7, 30, 400])
@pytest.mark.parametrize("second", [0, 1, 3, 7, 29, 460])
def test_mcnemar__is_scipys_exact_binomial_test(first: int, second: int) -> None:
    both = first + second
    expected = scipy.stats.binomtest(first, both).pvalue if both else 1.0
    assert mcnemar_p(first, second) == pytest.approx(expected, rel=1e-10)


def test_majority_baseline__by_hand() -> None:
    labels = np.array([0] * 2 + [1] * 6 + [2] * 2)
    predicted = np.array([0, 0, 1, 1, 1, 1, 0, 0, 2, 2])  # right where the other is wrong: 4; the other way round: 2
    found = majority_baseline(predicted, labels, ("a", "b", "c", "never seen"))
    assert (found["baseline_top1"], found["baseline_class"]) == (0.6, "b")
    assert found["baseline_p"] == pytest.approx(2 * (1 + 6 + 15) / 64)


def test_majority_baseline__a_model_that_says_nothing_else_is_the_same() -> None:
    labels = np.array([1, 0, 1])
    assert majority_baseline(np.ones(3, dtype=np.int64), labels, ("a", "b"))["baseline_p"] == 1


def test_majority_baseline__of_equal_classes_the_first() -> None:
    labels = np.array([1, 0, 1, 0])
    assert majority_baseline(labels, labels, ("a", "b"))["baseline_class"] == "a"


@pytest.mark.parametrize(
    ("top1", "share", "p", "words"),
    [
        (0.6, 0.35, 1e-9, "35.00%   always saying 'shoes'; the model is better (p < 1e-06, McNemar's exact test)"),
        (0.4, 0.35, 0.0123, "the model is better (p = 0.012, McNemar's exact test)"),
        (0.358, 0.35, 0.63, "35.00%   the model is not shown to be better than always saying 'shoes' (p = 0.63,"),
        (0.35, 0.35, 1.0, "the model is not better than always saying 'shoes' (p = 1,"),
        (0.2, 0.35, 0.001, "the model is not better than always saying 'shoes' (p = 0.001,"),
        (0.6, 0.5, 0.05, "not shown to be better"),
        (0.9, 1.0, 0.5, "100.00%   all images are of class 'shoes'"),
    ],
)
def test_against_baseline__in_words(top1: float, share: float, p: float, words: str) -> None:
    assert words in against_baseline(top1, baseline_top1=share, baseline_class="shoes", baseline_p=p)
