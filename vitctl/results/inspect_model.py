"""What ``vitctl inspect`` returns: what one analysis found, or all of them with verdicts and a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import JsonValue, Result


@dataclass(frozen=True, repr=False, kw_only=True)
class InspectedModel(Result):
    """A model as an analysis saw it."""

    name: str
    """On screen and in the report."""
    model: str
    """A run, a timm name or folder, or demo."""
    weights: str
    """pretrained, none (random) or a file."""
    image_size: tuple[int, int]
    """(H, W) px."""
    patch_size: tuple[int, int] | None
    """(H, W) px per token; None without a patch grid."""
    grid: tuple[int, int] | None
    """(h, w) patches; None without a patch grid."""
    num_prefix_tokens: int
    """Class token and registers."""


@dataclass(frozen=True, repr=False, kw_only=True)
class AnalysisFindings(Result):
    """What an analysis found in one model, or in a pair."""

    name: str
    """Of the model, or of both."""
    models: tuple[InspectedModel, ...]
    """One or two."""
    facts: Mapping[str, JsonValue]
    """Scalars and short lists; which, depends on the analysis. None where a number is not defined."""
    header: tuple[str, ...]
    """Of the short table."""
    rows: tuple[tuple[str, ...], ...]
    """Of the short table, as text."""
    notes: tuple[str, ...]
    """Sentences that the user should not miss."""


@dataclass(frozen=True, repr=False, kw_only=True)
class InspectedImages(Result):
    """The images that were shown."""

    data: str
    """The data spec, or the files."""
    num_images: int
    """How many were shown."""
    num_available: int | None
    """How many there are; None for probe, which draws its own."""
    reason: str
    """Why these."""


@dataclass(frozen=True, repr=False, kw_only=True)
class InspectResult(Result):
    """One analysis: the content of ``ANALYSIS.json``, and where that is."""

    analysis: str
    """Its name."""
    title: str
    """Its heading."""
    results: tuple[AnalysisFindings, ...]
    """One per model, or one of a pair."""
    images: InspectedImages | None
    """None where only weights were looked at."""
    arrays: Mapping[str, str] = field(repr=False)
    """By name in ``ANALYSIS.npz``: shape, unit and meaning. Those of a second model end in ``_2``."""
    method: str = field(repr=False)
    """How the numbers come about."""
    look_for: str = field(repr=False)
    """What a trained model shows."""
    random_weights: str = field(repr=False)
    """What random weights show."""
    source: str = field(repr=False)
    """Figure or section of the papers."""
    settings: Mapping[str, JsonValue] = field(repr=False)
    """Those that results depend on, and the version of vitctl."""
    files: tuple[str, ...]
    """Names of the files in ``out``."""
    out: str
    """Folder of the files, absolute; no key of ``ANALYSIS.json``."""


@dataclass(frozen=True, repr=False)
class Verdict(Result):
    """One claim of the papers, held against what was found."""

    analysis: str
    """Where it was looked for."""
    claim: str
    """What the papers found."""
    holds: bool | None = field(init=False)
    """True where the verdict is yes, False where it is no, None between."""
    verdict: str
    """``yes``; ``partly``: over part of the layers, or no more than with random weights; ``no``; ``cannot be said``."""
    numbers: str
    """What was found."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "holds", {"yes": True, "no": False}.get(self.verdict))


@dataclass(frozen=True, repr=False)
class SkippedAnalysis(Result):
    """An analysis that was left out."""

    analysis: str
    """Its name."""
    model: str | None
    """The model that it does not take; None where it takes none of them."""
    reason: str
    """Why."""


@dataclass(frozen=True, repr=False, kw_only=True)
class InspectAllResult(Result):
    """Every analysis that fits the models."""

    analysis: str = "all"
    """Always all: what tells this document from that of one analysis."""
    analyses: Mapping[str, InspectResult]
    """By name, in the order they ran."""
    verdicts: tuple[Verdict, ...]
    """Claims of the papers that numbers can decide."""
    skipped: tuple[SkippedAnalysis, ...]
    """What was left out."""
    report: str
    """The HTML file, absolute."""
    out: str
    """Folder of the files, absolute."""
