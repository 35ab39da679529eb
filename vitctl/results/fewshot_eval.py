"""What ``vitctl fewshot-eval`` returns: accuracies of linear classifiers on frozen features, with intervals."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import JsonValue, Result, left_out_if_none


@dataclass(frozen=True, repr=False, kw_only=True)
class FewshotRow(Result):
    """The accuracy of one classifier on the features of one layer and pooling."""

    data: str
    """The data set."""
    model: str | None
    """The model; None for features from a file."""
    layer: str | int
    """``embed``, the number of a block, or ``final``."""
    pool: str
    """How tokens became one vector."""
    classifier: str
    """ridge, logistic, knn or centroid."""
    ways: int | None = field(default=None, metadata=left_out_if_none())
    """Classes of an episode; None, without a key, where there are no episodes."""
    shots: int | str
    """Support images per class, or ``all``."""
    queries: int | None = field(default=None, metadata=left_out_if_none())
    """Test images per class and episode; None, without a key, where there are no episodes."""
    episodes: int | None = field(default=None, metadata=left_out_if_none())
    """Episodes of all seeds together; None, without a key, where there are none."""
    l2: float | None
    """Penalty (1/C of logistic); None where seeds have different ones, or the classifier has none."""
    neighbours: int | None
    """Of knn; None otherwise."""
    top1_mean: float
    """Mean accuracy over seeds or episodes, 0-1."""
    top1_std: float | None
    """Its standard deviation over seeds or episodes; None for one."""
    top1_ci95_support: tuple[float, float] | None
    """95 % t interval over the seeds, 0-1: other support images, the same test images. None for one seed."""
    top1_ci95: tuple[float, float]
    """95 % interval, 0-1: other support and other test images; of episodes, other episodes."""
    top1_ci95_half_width: float | None = field(default=None, metadata=left_out_if_none())
    """Half the interval over episodes; None, without a key, where there are none."""
    top1_per_seed: tuple[float, ...]
    """Mean accuracy of every seed, 0-1."""
    top1_mean_first3: float | None = field(default=None, metadata=left_out_if_none("num_short_classes"))
    """Mean of the first three seeds, as published few-shot numbers; None for fewer, without a key for episodes."""
    num_support: int
    """Support images of one draw or episode."""
    num_test: int
    """Test images of one draw or episode."""
    num_classes: int
    """Classes of the data."""
    num_short_classes: int | None = field(default=None, metadata=left_out_if_none())
    """Classes with fewer images than ``shots``; None, without a key, for episodes."""
    l2_per_seed: tuple[float | None, ...] | None = field(default=None, metadata=left_out_if_none())
    """Penalty of every seed; None, without a key, for episodes."""
    cosine_within: float | None
    """Mean cosine similarity of test images of one class, -1 to 1; None without such a pair."""
    cosine_between: float | None
    """Mean cosine similarity of test images of different classes, -1 to 1; None without such a pair."""


@dataclass(frozen=True, repr=False, kw_only=True)
class PairedDifference(Result):
    """By how much one model is better than another, on the same supports and test images."""

    data: str
    """The data set."""
    model_a: str
    """The model that the other is subtracted from."""
    model_b: str
    """The other."""
    layer: str | int
    """Of both."""
    pool: str
    """Of both."""
    shots: int | str
    """Support images per class, or ``all``."""
    l2: float | None
    """Penalty, of the first model's row."""
    neighbours: int | None
    """Of knn; None otherwise."""
    difference: float
    """Mean accuracy of a less that of b, -1 to 1."""
    ci95: tuple[float, float]
    """Its 95 % bootstrap interval over supports and test images."""
    ci95_support: tuple[float, float] | None
    """Its 95 % t interval over the seeds; None for one seed."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FewshotCost(Result):
    """What the evaluation took."""

    images_embedded: int
    """Images that models were shown, each model counted."""
    images_skipped: int
    """Images that no draw uses, or whose features were in the cache."""
    embed_s: float
    """Seconds of embedding."""
    solve_s: float
    """Seconds of fitting and scoring classifiers."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FewshotResult(Result):
    """How good frozen features are: the content of ``results.json``."""

    results: tuple[FewshotRow, ...]
    """By data set, model, layer, pooling, shots and setting; at least one. Of several processes the first has them."""
    paired: tuple[PairedDifference, ...]
    """Of every two models; empty for one, and for episodes."""
    cost: FewshotCost
    """Images and seconds."""
    settings: Mapping[str, JsonValue]
    """Those that results depend on, and the version of vitctl."""
    out: str
    """Folder of the files, absolute."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
