"""Results that the source of a recipe published, to stand beside one's own; training never sees them."""

from collections.abc import Iterable
from dataclasses import dataclass

TOP1 = "top-1"
"""The metric that is meant where none is named: share of images whose first guess is right."""

_MOST_IN_BRIEF = 3


@dataclass(frozen=True, kw_only=True)
class Published:
    """A result that someone got with a recipe, or with a variant of it.

    Attributes:
        model: Which.
        pretrained: On what; empty where it was trained from random weights.
        data: Whose test images, by the name of the data set.
        image_size: px of the square that it was trained at.
        percent: The result, 0-100.
        metric: Of what.
        source: Where it is published.
        variant: Of the recipe; empty is the recipe as it is.
    """

    model: str
    pretrained: str
    data: str
    image_size: int
    percent: float
    metric: str
    source: str
    variant: str = ""


def told_briefly(results: Iterable[Published]) -> str:
    """Return the first results of each data set in one line: ``CIFAR-10 98.95 % (ViT-B/16)``."""
    told = []
    for data, found in _by_data(results).items():
        percents = {one.model: f"{one.percent:g} % ({one.model})" for one in reversed(found)}
        shown = list(reversed(percents.values()))
        told.append(f"{data} {', '.join(shown[:_MOST_IN_BRIEF])}" + (", ..." if len(shown) > _MOST_IN_BRIEF else ""))
    return "; ".join(told)


def told_together(results: Iterable[Published]) -> tuple[str, str]:
    """Return the results in one line, with pretraining and size, and where they are from."""
    told, sources = [], dict[str, None]()
    for data, found in _by_data(results).items():
        sizes = " or ".join(dict.fromkeys(str(one.image_size) for one in found))
        pretrained = dict.fromkeys(one.pretrained for one in found)
        is_one = len(pretrained) == 1
        percents = (f"{one.percent:g} % ({one.model}{'' if is_one else f' of {one.pretrained}'})" for one in found)
        start = f" from {found[0].pretrained}" if is_one and found[0].pretrained else ""
        told.append(f"{data} at {sizes} px{start}: {', '.join(percents)}")
        sources |= dict.fromkeys(one.source for one in found)
    return "; ".join(told), "; ".join(sources)


def _by_data(results: Iterable[Published]) -> dict[str, list[Published]]:
    by_data: dict[str, list[Published]] = {}
    for one in results:
        metric = "" if one.metric == TOP1 else f", {one.metric}"
        by_data.setdefault(one.data + metric, []).append(one)
    return by_data
