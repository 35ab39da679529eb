"""What ``vitctl sweep`` chose, trained again and averaged, as rows for the screen."""

from collections.abc import Iterator

from vitctl.results.sweep import Retrained, Selected, Soup, SweepResult
from vitctl.settings.words import SELECT_BY_CALLED

Row = tuple[str, str]


def choice_rows(result: SweepResult) -> Iterator[Row]:
    """Yield the rows of what was chosen and made of it; none where nothing was asked for."""
    if result.selected is not None:
        yield from _selected(result.selected)
    if result.retrained is not None:
        yield from _retrained(result.retrained)
    if result.soup is not None:
        yield from _soup(result.soup)


def _score(by: str, top1: float, nll: float) -> str:
    return f"{nll:.4f}" if by == "nll" else f"{top1:.2%}"


def _selected(selected: Selected) -> Iterator[Row]:
    yield "chosen", f"{selected.cell}: {selected.why}"
    score = f"{selected.score:.4f}" if selected.by == "nll" else f"{selected.score:.2%}"
    yield (
        "its score",
        f"{SELECT_BY_CALLED[selected.by]} {score} on {selected.num_dev:,} development images; it was picked for this, "
        "so expect worse on new images",
    )
    if selected.extended:
        yield "extended", f"{', '.join(selected.extended)}, as an edge of the grid had been chosen"
    if selected.is_at_edge:
        yield "edge", "it stands at the edge of the grid: better settings may lie beyond"


def _retrained(retrained: Retrained) -> Iterator[Row]:
    if retrained.top1_mean is None or retrained.top1_ci95 is None:
        yield "trained again", "on all training images; no score: there are no validation images, or a run diverged"
    else:
        low, high = retrained.top1_ci95
        yield (
            "trained again",
            f"on all training images: top-1 {retrained.top1_mean:.2%} ({low:.2%} to {high:.2%}) on "
            f"{retrained.num_val:,} validation images, by which nothing was chosen",
        )
    for run in retrained.runs:
        yield "run folder", run


def _soup(soup: Soup) -> Iterator[Row]:
    by = SELECT_BY_CALLED[soup.by]
    single, greedy, uniform = (
        _score(soup.by, *one)
        for one in (
            (soup.single_top1, soup.single_nll),
            (soup.greedy_top1, soup.greedy_nll),
            (soup.uniform_top1, soup.uniform_nll),
        )
    )
    yield (
        "soup",
        f"{by} on {soup.num_dev:,} development images: the best of {soup.num_runs} runs alone {single}, greedy soup of "
        f"{len(soup.greedy_runs)} {greedy}, soup of all {uniform}",
    )
    kept = "the best run alone: no soup is better" if soup.chosen == "single" else f"the {soup.chosen} soup"
    yield "kept", f"{kept}, in {soup.out}; chosen on these images, so expect worse on new ones"
