"""Every figure against another library, a closed form or the slow obvious version."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
import torch
import torch.nn.functional as F

from vitctl.evaluation.classify import probabilities
from vitctl.evaluation.metrics import (
    Figures,
    brier_per_image,
    classification_report,
    confusion,
    expected_calibration_error,
    mean_nll,
    nll_per_image,
    per_class_report,
    seen_report,
    top_k_accuracy,
    wilson_interval,
)


def _drawn(num_images: int = 200, num_classes: int = 7, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits (N, C) float32 that are right about half of the time, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, size=num_images)
    logits = rng.normal(size=(num_images, num_classes)).astype(np.float32)
    logits[np.arange(num_images), labels] += 1.2
    return logits, labels


def _report(logits: np.ndarray, labels: np.ndarray) -> Figures:
    return classification_report(logits, probabilities(logits), labels)


@pytest.mark.parametrize(
    ("num_correct", "num_images"), [(0, 1), (1, 1), (0, 50), (50, 50), (45, 50), (7, 9), (913, 1000)]
)
@pytest.mark.parametrize(("confidence", "z"), [(0.95, 1.959963984540054), (0.68, 0.994457883209753)])
def test_wilson_interval_is_the_closed_form(num_correct: int, num_images: int, confidence: float, z: float) -> None:
    share = num_correct / num_images
    centre = share + z**2 / (2 * num_images)
    half = z * math.sqrt(share * (1 - share) / num_images + z**2 / (4 * num_images**2))
    scale = 1 + z**2 / num_images
    expected = ((centre - half) / scale, (centre + half) / scale)
    found = wilson_interval(num_correct, num_images, confidence=confidence)
    assert found == pytest.approx(expected, abs=1e-12)
    assert 0 <= found[0] <= share <= found[1] <= 1


@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_interval_is_scipys_to_the_last_bit(confidence: float) -> None:
    for num_images in (1, 2, 7, 360, 10_000):
        for num_correct in {0, 1, num_images // 3, num_images - 1, num_images}:
            theirs = scipy.stats.binomtest(num_correct, num_images).proportion_ci(confidence, method="wilson")
            assert wilson_interval(num_correct, num_images, confidence=confidence) == (theirs.low, theirs.high)


def test_nll_is_torchs_cross_entropy_in_float64() -> None:
    logits, labels = _drawn()
    theirs = F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels))
    assert mean_nll(logits, labels) == pytest.approx(theirs.item(), rel=1e-13)


def test_nll__large_logits_do_not_overflow() -> None:
    logits = np.array([[5000.0, -5000.0], [-5000.0, 5000.0]], dtype=np.float32)
    assert mean_nll(logits, np.array([0, 0])) == 5000.0  # 0 for the first image, 10,000 for the second


def test_nll_per_image_has_the_mean_for_mean() -> None:
    logits = np.random.default_rng(0).normal(size=(30, 5)).astype(np.float32)
    labels = np.arange(30) % 5
    assert nll_per_image(logits, labels).shape == (30,)
    assert nll_per_image(logits, labels).mean() == mean_nll(logits, labels)


def test_brier_is_the_slow_obvious_sum_and_twice_sklearns_of_two_classes() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(4), size=20)
    labels = np.arange(20) % 4
    slow = [sum((shares[image, index] - (index == labels[image])) ** 2 for index in range(4)) for image in range(20)]
    assert brier_per_image(shares, labels) == pytest.approx(slow)
    two = np.random.default_rng(1).dirichlet(np.ones(2), size=20)
    theirs = sklearn.metrics.brier_score_loss(labels % 2, two[:, 1])
    assert brier_per_image(two, labels % 2).mean() == pytest.approx(2 * theirs)
    assert brier_per_image(np.array([[0.0, 1.0]]), np.array([0])) == pytest.approx([2.0])


def test_nll__equal_logits_are_the_logarithm_of_the_number_of_classes() -> None:
    assert mean_nll(np.full((4, 10), 3.0, dtype=np.float32), np.arange(4)) == pytest.approx(math.log(10), rel=1e-15)


@pytest.mark.parametrize("k", [1, 2, 5, 7])
def test_top_k_is_sklearns_where_nothing_ties(k: int) -> None:
    logits, labels = _drawn()
    if k == 7:
        assert top_k_accuracy(logits, labels, k) == 1.0
    else:
        theirs = sklearn.metrics.top_k_accuracy_score(labels, logits, k=k, labels=np.arange(7))
        assert top_k_accuracy(logits, labels, k) == theirs


def test_top_k__of_equal_logits_the_first_class_is_the_larger() -> None:
    logits = np.zeros((4, 4), dtype=np.float32)
    labels = np.arange(4)
    assert [top_k_accuracy(logits, labels, k) for k in (1, 2, 3, 4)] == [0.25, 0.5, 0.75, 1.0]


def test_top_k__of_many_equal_logits_the_first_class_is_the_larger() -> None:
    logits = np.zeros((50, 50), dtype=np.float32)  # sorting routines change their method above 16
    for k in (1, 20, 49):
        assert top_k_accuracy(logits, np.arange(50), k) == k / 50


def test_top_1_agrees_with_argmax_on_ties() -> None:
    logits = np.random.default_rng(0).integers(0, 3, size=(300, 6)).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 6, size=300)
    assert top_k_accuracy(logits, labels, 1) == np.mean(logits.argmax(axis=1) == labels)


def test_top_k__more_than_there_are_classes_is_everything() -> None:
    logits, labels = _drawn(20, 3)
    assert top_k_accuracy(logits, labels, 5) == 1.0


def _slow_calibration_error(probs: np.ndarray, labels: np.ndarray, num_bins: int) -> float:
    """Return equation 3 of arXiv 1706.04599, image by image."""
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(num_bins)]
    for row, label in zip(probs, labels, strict=True):
        confidence, predicted = max(zip(row.tolist(), itertools.count(0, -1), strict=False))
        for number in range(num_bins):
            if number / num_bins < confidence <= (number + 1) / num_bins:
                bins[number].append((confidence, -predicted == label))
    total = 0.0
    for members in bins:
        if members:
            accuracy = sum(is_correct for _, is_correct in members) / len(members)
            mean_confidence = sum(confidence for confidence, _ in members) / len(members)
            total += len(members) / len(labels) * abs(accuracy - mean_confidence)
    return total


@pytest.mark.parametrize("num_bins", [1, 2, 10, 15])
def test_ece_is_the_slow_obvious_loop(num_bins: int) -> None:
    logits, labels = _drawn(300, 5)
    probs = probabilities(2 * logits)
    found = expected_calibration_error(probs, labels, num_bins=num_bins)
    assert found == pytest.approx(_slow_calibration_error(probs, labels, num_bins), abs=1e-12)
    assert found > 0.001


def test_ece__worked_by_hand() -> None:
    # two bins. (0, 0.5]: one image, confidence 0.5, wrong: gap 0.5.
    # (0.5, 1]: confidences 0.6, 0.8, 1.0, two of three right: gap |2/3 - 0.8|
    probs = np.array([[0.5, 0.5], [0.6, 0.4], [0.2, 0.8], [1.0, 0.0]])
    labels = np.array([1, 0, 0, 0])
    expected = 0.25 * 0.5 + 0.75 * abs(2 / 3 - 0.8)
    assert expected_calibration_error(probs, labels, num_bins=2) == pytest.approx(expected, abs=1e-15)


def test_ece__certain_and_right_is_0_certain_and_wrong_is_1() -> None:
    probs = np.eye(3)
    assert expected_calibration_error(probs, np.array([0, 1, 2])) == 0.0
    assert expected_calibration_error(probs, np.array([1, 2, 0])) == 1.0


def test_confusion_has_true_classes_in_rows_and_all_classes() -> None:
    labels, predicted = np.array([0, 0, 0, 2]), np.array([0, 1, 1, 0])
    expected = [[1, 2, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert confusion(predicted, labels, num_classes=4).tolist() == expected


def test_confusion_is_sklearns() -> None:
    logits, labels = _drawn(300, 9)
    predicted = np.minimum(logits.argmax(axis=1), 6)  # two classes are never predicted
    theirs = sklearn.metrics.confusion_matrix(labels, predicted, labels=np.arange(9))
    found = confusion(predicted, labels, num_classes=9)
    assert found.dtype == theirs.dtype
    assert found.tolist() == theirs.tolist()


def test_report_agrees_with_sklearn() -> None:
    logits, labels = _drawn()
    predicted = logits.argmax(axis=1)
    report = _report(logits, labels)
    assert report["top1"] == sklearn.metrics.accuracy_score(labels, predicted)
    assert report["top1_ci95"] == wilson_interval(int((predicted == labels).sum()), 200)
    assert report["top5"] == sklearn.metrics.top_k_accuracy_score(labels, logits, k=5)
    assert report["balanced_accuracy"] == pytest.approx(sklearn.metrics.balanced_accuracy_score(labels, predicted))
    assert report["macro_f1"] == pytest.approx(sklearn.metrics.f1_score(labels, predicted, average="macro"))
    assert report["nll"] == pytest.approx(sklearn.metrics.log_loss(labels, probabilities(logits)), rel=1e-12)
    assert report["ece"] == expected_calibration_error(probabilities(logits), labels, num_bins=15)
    assert report["num_images"] == 200


def test_report__macro_f1_and_balanced_accuracy_worked_by_hand() -> None:
    # of four classes, 0 and 1 are present, 2 is only predicted, 3 is neither
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 2, 1, 0])
    report = _report(np.eye(4, dtype=np.float32)[predicted], labels)
    assert report["balanced_accuracy"] == pytest.approx((3 / 4 + 1 / 2) / 2)  # recalls of the classes present
    f1 = [2 * 3 / (4 + 4), 2 * 1 / (2 + 1), 0.0]  # 2 TP / (true + predicted)
    assert report["macro_f1"] == pytest.approx(sum(f1) / 3)


def test_report__one_image() -> None:
    report = _report(np.array([[0.0, 1.0]], dtype=np.float32), np.array([1]))
    assert (report["top1"], report["balanced_accuracy"], report["macro_f1"]) == (1.0, 1.0, 1.0)
    assert report["top1_ci95"] == pytest.approx([0.2065, 1.0], abs=1e-4)


def test_report__a_constant_classifier_has_high_accuracy_but_chance_balanced_accuracy() -> None:
    logits = np.tile(np.array([1.0, 0.0], dtype=np.float32), (10, 1))
    report = _report(logits, np.array([0] * 9 + [1]))
    assert (report["top1"], report["balanced_accuracy"]) == (0.9, 0.5)


def test_per_class_report__worked_by_hand_and_none_where_undefined() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1])
    predicted = np.array([0, 0, 0, 2, 0, 0])
    rows = per_class_report(predicted, labels, ("a", "b", "c", "d"))
    assert [row.as_json() for row in rows] == [
        {"class": "a", "num_images": 4, "precision": 3 / 5, "recall": 3 / 4, "f1": pytest.approx(2 / 3)},
        {"class": "b", "num_images": 2, "precision": None, "recall": 0.0, "f1": 0.0},  # never predicted
        {"class": "c", "num_images": 0, "precision": 0.0, "recall": None, "f1": 0.0},  # no such image
        {"class": "d", "num_images": 0, "precision": None, "recall": None, "f1": None},
    ]


def test_seen_report_is_the_slow_obvious_loop() -> None:
    logits, labels = _drawn()
    predicted, is_seen = logits.argmax(axis=1), np.arange(len(labels)) % 3 == 0
    right = {True: 0, False: 0}
    for guess, label, seen in zip(predicted, labels, is_seen, strict=True):
        right[bool(seen)] += int(guess == label)
    report = seen_report(predicted, labels, is_seen)
    assert report["num_seen_in_training"] == 67
    assert (report["top1_seen"], report["top1_unseen"]) == (right[True] / 67, right[False] / 133)
    assert report["top1_seen_ci95"] == wilson_interval(right[True], 67)
    assert report["top1_unseen_ci95"] == wilson_interval(right[False], 133)


@pytest.mark.parametrize(
    ("is_seen", "number"), [(None, None), (np.zeros(5, dtype=bool), 0), (np.ones(5, dtype=bool), 5)]
)
def test_seen_report__nothing_to_tell_apart(is_seen: np.ndarray | None, number: int | None) -> None:
    labels = np.zeros(5, dtype=np.int64)
    report = seen_report(labels, labels, is_seen)
    assert report["num_seen_in_training"] == number
    assert report["top1_seen"] == (1.0 if number == 5 else None)
    assert report["top1_unseen"] == (1.0 if number == 0 else None)
