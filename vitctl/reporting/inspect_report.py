"""The report of ``vitctl inspect all``: one HTML file that loads nothing, with every picture inside.

The page is ``inspect_report.html.jinja``. Every text is escaped: names of models, classes and files are strangers'
words. A Content-Security-Policy forbids scripts and requests even where that failed.
"""

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.primitives.files import write_text
from vitctl.shown import shown

TEMPLATE = Path(__file__).with_suffix(".html.jinja")
NO_VALUE = "none"  # as the tables say it
WIDE_PX = 1900  # measured: the letters of wider pictures are too small when they are shrunk to the page
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?[\d.,]+(e[-+]?\d+)?( ?(%|px|nats))?")


@dataclass(frozen=True)
class Claim:
    """One claim of the papers, held against what was found.

    Attributes:
        analysis: The anchor of the section it belongs to.
        claim: What the papers found.
        verdict: ``yes``, ``partly``, ``no`` or ``cannot be said``.
        numbers: What was found.
    """

    analysis: str
    claim: str
    verdict: str
    numbers: str


@dataclass(frozen=True)
class Panel:
    """The numbers of one model (or pair) in a section.

    Attributes:
        name: Of the model.
        header: Of the table; may be empty.
        rows: Of the table, as text.
        notes: Sentences that the reader should not miss.
    """

    name: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Skipped:
    """An analysis that was left out.

    Attributes:
        analysis: Its name.
        reason: A sentence.
    """

    analysis: str
    reason: str


@dataclass(frozen=True)
class Section:
    """One analysis.

    Attributes:
        anchor: Its name as typed; no two sections have the same.
        title: A heading.
        question: What it asks of the model.
        method: How the numbers come about.
        source: Figure or section of the papers that it follows.
        look_for: What a trained model shows.
        random_weights: What random weights would show.
        command: That repeats it.
        picture: PNG.
        panels: The numbers of each model.
        control: PNG of the same with random weights, None without.
        claims: Verdicts on this analysis.
    """

    anchor: str
    title: str
    question: str
    method: str
    source: str
    look_for: str
    random_weights: str
    command: str
    picture: Path
    panels: Sequence[Panel]
    control: Path | None = None
    claims: Sequence[Claim] = field(default=())


@dataclass(frozen=True)
class _Outcome:
    """What the page says of a claim: a CSS class, words in the table, a name in the count."""

    css_class: str
    words: str
    name: str


_OUTCOMES = {
    "yes": _Outcome("holds", "✓ holds", "Holds"),
    "partly": _Outcome("partly", "~ holds in part", "In part"),
    "no": _Outcome("fails", "✗ does not hold", "Does not hold"),
    "cannot be said": _Outcome("open", "? cannot be said", "Cannot be said"),
}


def write_report(
    path: Path,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    sections: Sequence[Section],
    verdicts: Sequence[Claim],
    skipped: Sequence[Skipped],
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: HTML file to write.
        title: Heading of the page.
        facts: Names and values: models, images, device.
        sections: In order.
        verdicts: Of all sections.
        skipped: Analyses that were left out.

    Raises:
        OSError: A picture cannot be read, or the file not written.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, finalize=_seen, trim_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"anchor": _anchor, "png": _png, "table": _table}
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=title,
        facts=facts,
        sections=sections,
        claims=verdicts,
        left_out=[(one.analysis, one.reason) for one in skipped],
        outcomes=_OUTCOMES,
    )
    write_text(path, page.lstrip())


def _anchor(name: str) -> str:
    """Return a name that can stand in an address: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section"


def _png(path: Path) -> dict[str, str | bool]:
    """Return a PNG as the page holds it; a wide one, or on a small screen, it scrolls rather than shrinks."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # in the header of every PNG
    return {"base64": base64.b64encode(content).decode("ascii"), "is_wide": width > WIDE_PX}


def _table(panel: Panel) -> list[list[tuple[str, bool]]]:
    """Return header and rows, each text with whether it stands in a column of numbers, which go to the right.

    Columns that hold nothing but "none" are left out, e.g. a pooling that the model does not have.
    """
    columns = [[row[index] for row in panel.rows if index < len(row)] for index in range(len(panel.header))]
    kept = [index for index, column in enumerate(columns) if set(column) != {NO_VALUE}]
    numbers = [all(map(_NUMBER.fullmatch, column)) for column in columns]
    return [[(row[index], numbers[index]) for index in kept if index < len(row)] for row in (panel.header, *panel.rows)]


def _seen(value: object) -> object:
    """Return what stands on the page for a value of the template; what a macro made has been shown already."""
    return shown(value) if type(value) is str else value
