"""What ``vitctl compare`` returns: runs on the same images, what differs between them, and how sure that is."""

from collections.abc import Mapping
from dataclasses import dataclass

from vitctl.results.result import JsonValue, Result


@dataclass(frozen=True, repr=False, kw_only=True)
class ComparedRow(Result):
    """A run, or runs that differ in the seed alone. Intervals are of 95 %: other images, and other seeds of several."""

    name: str
    """What it is called in tables: by the settings that differ, else by its folder."""
    runs: tuple[str, ...]
    """The run folders, absolute, by seed."""
    settings: Mapping[str, JsonValue]
    """The settings that differ between rows, as config.json has them."""
    top1: float
    """Accuracy, mean of the runs, 0-1."""
    top1_ci95: tuple[float, float]
    """Its interval."""
    top1_per_run: tuple[float, ...]
    """Of each run."""
    nll: float
    """Mean negative log-likelihood, nats."""
    nll_ci95: tuple[float, float]
    """Its interval."""
    brier: float
    """Mean Brier score, the sum over classes of squared errors of the probabilities, 0-2."""
    brier_ci95: tuple[float, float]
    """Its interval."""
    ece: float
    """Expected calibration error, 15 bins, mean of the runs, 0-1."""
    ece_ci95: tuple[float, float]
    """Its interval."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ComparedPair(Result):
    """Row ``b`` against row ``a``, image by image. A difference is b - a; of losses lower is better."""

    a: str
    """Name of the first."""
    b: str
    """Name of the second."""
    difference: float
    """Of accuracies, -1 to 1."""
    ci95: tuple[float, float]
    """Its interval: other images and, of several runs, other seeds."""
    mcnemar_p: float | None
    """Of McNemar's exact test on accuracies, two-sided, 0-1; None where a row has several runs."""
    p: float
    """Two-sided, 0-1: McNemar's, of rows of several runs that of the interval."""
    p_holm: float
    """The same after Holm's correction for the number of pairs, 0-1."""
    nll_difference: float
    """Nats."""
    nll_ci95: tuple[float, float]
    """Its interval."""
    brier_difference: float
    """-2 to 2."""
    brier_ci95: tuple[float, float]
    """Its interval."""
    ece_difference: float
    """-1 to 1."""
    ece_ci95: tuple[float, float]
    """Its interval."""
    num_a_only: int | None
    """Images that a alone has right; None where a row has several runs."""
    num_b_only: int | None
    """Images that b alone has right; None where a row has several runs."""


@dataclass(frozen=True, repr=False, kw_only=True)
class CompareResult(Result):
    """Runs on the same images: the content of ``compare.json``."""

    images: str
    """Which images, in words: a spec, or whose validation images."""
    num_images: int
    """Images that all were evaluated on, >= 1."""
    which: str
    """Weights of the runs: best, last or average."""
    rows: tuple[ComparedRow, ...]
    """In the order given."""
    pairs: tuple[ComparedPair, ...]
    """Every two of them."""
    num_equal_settings: int
    """Settings that are the same in all runs, by their names; the seed is not counted."""
    num_disagreements: int
    """Images of which not all rows say the same."""
    out: str
    """Folder of the files, absolute."""
    notes: tuple[str, ...] = ()
    """What to know about the intervals and the files."""
