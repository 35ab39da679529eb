"""What a classifier's probabilities say about it: accuracy with its uncertainty, calibration, per class.

Letters: N images, C classes. Everything is a fraction 0-1 except the negative log-likelihood (nats).
"""

from typing import TypedDict

import numpy as np

from vitctl.evaluation.score_interval import wilson_ends
from vitctl.results.evaluate import ClassResult

NUM_ECE_BINS = 15


def wilson_interval(num_correct: int, num_images: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, without continuity correction.

    ``scipy.stats.binomtest`` has the same, to the last bit: to import ``scipy.stats`` takes a second.

    Args:
        num_correct: 0..num_images.
        num_images: >= 1.
        confidence: 0-1.

    Example:
        >>> [round(end, 4) for end in wilson_interval(45, 50)]
        [0.7864, 0.9565]
    """
    from scipy.special import ndtri

    return wilson_ends(num_correct / num_images, num_images, float(ndtri(0.5 + 0.5 * confidence)))


def nll_per_image(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the negative log-likelihood of each image's true class, in nats: (N,) float64.

    Args:
        logits: (N, C) float. Where they are not finite, neither is the result.
        labels: (N,) int64.
    """
    from scipy.special import logsumexp

    values = logits.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        found: np.ndarray = logsumexp(values, axis=1) - values[np.arange(len(labels)), labels]
    return found


def mean_nll(logits: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean negative log-likelihood of the true classes, in nats, summed in float64.

    Args:
        logits: (N, C) float.
        labels: (N,) int64.
    """
    with np.errstate(invalid="ignore"):  # logits that are not finite give a result that is not
        return float(np.mean(nll_per_image(logits, labels)))


def brier_per_image(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the Brier score of each image, the sum over classes of squared errors: (N,) float64, 0-2.

    Brier (1950, Monthly Weather Review 78:1). Of two classes it is twice what ``sklearn.metrics.brier_score_loss`` has.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) int64.
    """
    true = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    squares = np.einsum("nc,nc->n", probabilities, probabilities, dtype=np.float64)
    found: np.ndarray = squares - true**2 + (1 - true) ** 2
    return found


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Return the share of images whose true class is among the ``k`` largest logits; k > C counts as C.

    Of equal logits the class that comes first is taken to be the larger, so the result does not depend on
    a sorting routine.

    Args:
        logits: (N, C) float.
        labels: (N,) int64.
        k: >= 1.
    """
    order = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    return float(np.mean((order == labels[:, None]).any(axis=1)))


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = NUM_ECE_BINS) -> float:
    """Return the expected calibration error with bins of equal width (arXiv 1706.04599, equation 3).

    Args:
        probabilities: (N, C), rows sum to 1. The confidence is the largest.
        labels: (N,) int64.
        num_bins: Bins of the confidence over (0, 1], each open on the left.
    """
    gaps, bins = calibration_gaps(probabilities, labels, num_bins=num_bins)
    return float(np.abs(np.bincount(bins, weights=gaps, minlength=num_bins)).sum() / len(labels))


def calibration_gaps(
    probabilities: np.ndarray, labels: np.ndarray, *, num_bins: int = NUM_ECE_BINS
) -> tuple[np.ndarray, np.ndarray]:
    """Return of each image what it adds to the gap of its bin, and that bin.

    Args:
        probabilities: (N, C), rows sum to 1.
        labels: (N,) int64.
        num_bins: As of ``expected_calibration_error``.

    Returns:
        (N,) float, 1 where the image is right, else 0, less the confidence; (N,) int64, 0 to ``num_bins`` - 1.
    """
    confidence = probabilities.max(axis=1)
    is_correct = probabilities.argmax(axis=1) == labels
    bins = np.clip(np.ceil(confidence * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    return is_correct - confidence, bins


def confusion(predicted: np.ndarray, labels: np.ndarray, *, num_classes: int) -> np.ndarray:
    """Return the confusion matrix: (C, C) int64, rows are true classes, columns predicted ones."""
    counts: np.ndarray = np.bincount(labels * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


class Figures(TypedDict):
    """How good a classifier is, all classes together; ``EvaluateResult`` says what each of these is."""

    top1: float
    top1_ci95: tuple[float, float]
    top5: float
    balanced_accuracy: float
    macro_f1: float
    nll: float
    ece: float
    num_images: int


def classification_report(logits: np.ndarray, probabilities: np.ndarray, labels: np.ndarray) -> Figures:
    """Return the figures of ``vitctl evaluate``, without the per-class table.

    Args:
        logits: (N, C) float, N >= 1.
        probabilities: (N, C), their softmax.
        labels: (N,) int64.
    """
    from sklearn.metrics import f1_score, recall_score

    predicted = logits.argmax(axis=1)
    num_correct = int((predicted == labels).sum())
    present = np.unique(np.concatenate([labels, predicted]))
    return {
        "top1": num_correct / len(labels),
        "top1_ci95": wilson_interval(num_correct, len(labels)),
        "top5": top_k_accuracy(logits, labels, 5),
        "balanced_accuracy": float(recall_score(labels, predicted, labels=np.unique(labels), average="macro")),
        "macro_f1": float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0)),
        "nll": mean_nll(logits, labels),
        "ece": expected_calibration_error(probabilities, labels),
        "num_images": len(labels),
    }


class SeenFigures(TypedDict):
    """Accuracy apart for images of the training and others; ``EvaluateResult`` says what each of these is."""

    num_seen_in_training: int | None
    top1_unseen: float | None
    top1_unseen_ci95: tuple[float, float] | None
    top1_seen: float | None
    top1_seen_ci95: tuple[float, float] | None


def seen_report(predicted: np.ndarray, labels: np.ndarray, is_seen: np.ndarray | None) -> SeenFigures:
    """Return the accuracy on the images that were in the training, and on those that were not.

    Args:
        predicted: (N,) int64.
        labels: (N,) int64.
        is_seen: (N,) bool; None where nobody knows.
    """
    report = SeenFigures(
        num_seen_in_training=None, top1_unseen=None, top1_unseen_ci95=None, top1_seen=None, top1_seen_ci95=None
    )
    if is_seen is None:
        return report
    report["num_seen_in_training"] = int(is_seen.sum())
    is_right = predicted == labels
    if not is_seen.all():
        num_right, number = int(is_right[~is_seen].sum()), int((~is_seen).sum())
        report["top1_unseen"], report["top1_unseen_ci95"] = num_right / number, wilson_interval(num_right, number)
    if is_seen.any():
        num_right, number = int(is_right[is_seen].sum()), int(is_seen.sum())
        report["top1_seen"], report["top1_seen_ci95"] = num_right / number, wilson_interval(num_right, number)
    return report


def per_class_report(
    predicted: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]
) -> tuple[ClassResult, ...]:
    """Return one row per class.

    Args:
        predicted: (N,) int64.
        labels: (N,) int64.
        class_names: C names.
    """
    from sklearn.metrics import precision_recall_fscore_support

    precision, recall, f1, support = precision_recall_fscore_support(
        labels, predicted, labels=np.arange(len(class_names)), zero_division=np.nan
    )
    return tuple(
        ClassResult(
            class_name=name,
            num_images=int(support[index]),
            precision=_number(precision[index]),
            recall=_number(recall[index]),
            f1=_number(f1[index]),
        )
        for index, name in enumerate(class_names)
    )


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
