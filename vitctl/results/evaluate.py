"""What ``vitctl evaluate`` returns: accuracy with its interval, calibration, every class."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import Result, key


@dataclass(frozen=True, repr=False, kw_only=True)
class ClassResult(Result):
    """How one class fared."""

    class_name: str = field(metadata=key("class"))
    """The class."""
    num_images: int
    """Images of it, >= 0."""
    precision: float | None
    """Share of the images taken for it that are of it, 0-1; None where none was."""
    recall: float | None
    """Share of its images that were named rightly, 0-1; None where there is none."""
    f1: float | None
    """Harmonic mean of the two, 0-1; None where it was neither seen nor predicted."""


@dataclass(frozen=True, repr=False, kw_only=True)
class EvaluateResult(Result):
    """How good a classifier is on a split: the content of ``evaluation.json``."""

    model: str
    """The classifier."""
    data: str
    """The data spec."""
    split: str
    """The split's name."""
    image_size: tuple[int, int]
    """(H, W) px that the model takes."""
    top1: float
    """Accuracy, 0-1."""
    top1_ci95: tuple[float, float]
    """Its 95 % Wilson interval: (low, high), 0-1."""
    num_seen_in_training: int | None = None
    """Images that the run was trained on, or a run that it started from, by content; None where nobody knows."""
    top1_unseen: float | None = None
    """Accuracy on the others, 0-1: the honest figure; None where there are none, or none can be told."""
    top1_unseen_ci95: tuple[float, float] | None = None
    """Its 95 % Wilson interval."""
    top1_seen: float | None = None
    """Accuracy on the images that the run was trained on, 0-1; None where there are none."""
    top1_seen_ci95: tuple[float, float] | None = None
    """Its 95 % Wilson interval."""
    baseline_top1: float
    """Accuracy of always saying the class that most of these images are of, 0-1."""
    baseline_class: str
    """That class."""
    baseline_p: float
    """Of McNemar's exact test of the two on the same images, two-sided, 0-1; from 0.05 on they may be equally good."""
    top5: float
    """Share of images whose class is among the five most probable, 0-1."""
    balanced_accuracy: float
    """Mean recall over the classes that are present, 0-1."""
    macro_f1: float
    """Mean F1 over the classes that are present or predicted, 0-1."""
    nll: float
    """Mean negative log-likelihood, nats per image."""
    ece: float
    """Expected calibration error, 15 bins, 0-1."""
    num_images: int
    """Images evaluated on, >= 1."""
    num_skipped: int
    """Images left out because they cannot be read."""
    per_class: tuple[ClassResult, ...]
    """One row per class, in the model's order."""
    out: str
    """Folder of the files, absolute."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
