"""The report of ``vitctl inspect all``: one HTML file that loads nothing, with every picture inside.

Every text is escaped: names of models, classes and files are strangers' words. A Content-Security-Policy forbids
scripts and requests even where that failed.
"""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.primitives.files import write_text

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
PAPERS = (
    "V is “An image is worth 16x16 words” (arXiv 2010.11929), R is “Do vision transformers see like convolutional "
    "neural networks?” (arXiv 2108.08810). This page loads nothing from the network."
)
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 74rem; padding: 0 1rem 4rem; color: #1a1a1a; background: #fff;
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.25rem; margin: 3rem 0 .25rem; padding-top: .75rem; border-top: 2px solid #0072b2; }
h3 { font-size: 1rem; margin: 1.25rem 0 .25rem; }
a { color: #00558a; }
.question { font-size: 1.1rem; margin: 0 0 .75rem; color: #444; }
.scroll { overflow-x: auto; margin: .5rem 0; }
.scroll:focus-visible { outline: 2px solid #0072b2; }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; color: #444; }
img { display: block; height: auto; max-width: 100%; }
.scroll img.wide { max-width: none; width: 110rem; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
th.number, td.number { text-align: right; white-space: nowrap; }
td, th { overflow-wrap: normal; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1rem; margin: .5rem 0; }
dt { font-weight: 600; }
dd { margin: 0; }
pre { margin: .5rem 0; padding: .6rem .8rem; background: #f3f3f3; border-radius: 4px; font-size: .85rem;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.verdict { white-space: nowrap; font-weight: 600; }
.holds { color: #00614a; }
.partly { color: #6b5500; }
.fails { color: #a34500; }
.open { color: #555; }
.note { border-left: 4px solid #e69f00; padding-left: .75rem; margin: .5rem 0; }
nav ul { columns: 16rem; column-gap: 2.5rem; padding-left: 1.2rem; margin: .5rem 0; }
@media (max-width: 45rem) {
  dl { display: block; } dd { margin: 0 0 .4rem; }
  .scroll img { max-width: none; width: 46rem; }
}
@media print {
  body { max-width: none; font-size: 10pt; }
  h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; }
  .scroll { overflow: visible; }
  .scroll img, .scroll img.wide { max-width: 100%; width: auto; }
  a { color: inherit; }
}
"""
NO_VALUE = "none"  # as the tables say it
WIDE_PX = 1900  # measured: the letters of wider pictures are too small when they are shrunk to the page
_OUTCOMES = {
    "yes": ("holds", "✓ holds"),
    "partly": ("partly", "~ holds in part"),
    "no": ("fails", "✗ does not hold"),
    "cannot be said": ("open", "? cannot be said"),
}
_NUMBER = re.compile(r"[-+\N{MINUS SIGN}]?[\d.,]+(e[-+]?\d+)?( ?(%|px|nats))?")
_NO_TEXT = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # control characters that HTML does not allow


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
    anchors = {section.anchor for section in sections}
    body = [
        f"<h1>{_text(title)}</h1>",
        _facts(facts),
        _verdicts("Claims, held against this model", verdicts, anchors) if verdicts else "",
        _contents(sections, skipped),
        *(_section(section) for section in sections),
        _skipped(skipped),
        f"<footer>\n<p>{PAPERS}</p>\n</footer>",
    ]
    write_text(path, _page(title, body))


def _page(title: str, body: Iterable[str]) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def _contents(sections: Sequence[Section], skipped: Sequence[Skipped]) -> str:
    items = [f'<li><a href="#{_anchor(one.anchor)}">{_text(one.title)}</a></li>' for one in sections]
    items += ['<li><a href="#left-out">Left out</a></li>'] if skipped else []
    return f'<nav aria-label="Contents">\n<h2>Contents</h2>\n<ul>\n{_lines(items)}\n</ul>\n</nav>'


def _section(section: Section) -> str:
    anchor = _anchor(section.anchor)
    control = ""
    if section.control is not None:
        control = _picture(
            section.control, f"{section.title}: the same with random weights", "The same with random weights"
        )
    return _lines(
        [
            f'<section aria-labelledby="{anchor}">',
            f'<h2 id="{anchor}">{_text(section.title)}</h2>',
            f'<p class="question">{_text(section.question)}</p>',
            _picture(
                section.picture, f"{section.title}. {section.question}", f"{section.title}, after {section.source}"
            ),
            _facts(
                [
                    ("Trained weights", section.look_for),
                    ("Control", section.random_weights),
                    ("Method", section.method),
                ]
            ),
            control,
            *(_panel(panel) for panel in section.panels),
            _verdicts("Verdicts", section.claims, (), level=3) if section.claims else "",
            "<h3>Again, alone</h3>",
            f"<pre><code>{_text(section.command)}</code></pre>",
            "</section>",
        ]
    )


def _panel(panel: Panel) -> str:
    notes = [f'<p class="note">{_text(note)}</p>' for note in panel.notes]
    table = _table(*_without_empty(panel.header, panel.rows), label=panel.name) if panel.rows else ""
    return _lines([f"<h3>{_text(panel.name)}</h3>", table, *notes])


def _without_empty(header: Sequence[str], rows: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """Return a table without the columns that hold nothing but "none", e.g. a pooling that the model does not have."""
    is_empty = [all(list(row[place : place + 1]) == [NO_VALUE] for row in rows) for place in range(len(header))]

    def without(cells: Sequence[str]) -> list[str]:
        return [cell for cell, empty in zip(cells, is_empty, strict=False) if not empty]

    return without(header), [without(row) for row in rows]


def _picture(path: Path, words: str, caption: str) -> str:
    """Return a PNG as part of the page; a wide one, or on a small screen, it scrolls rather than shrinks."""
    png = path.read_bytes()
    kind = ' class="wide"' * (int.from_bytes(png[16:20], "big") > WIDE_PX)  # the width, in the header of every PNG
    encoded = base64.b64encode(png).decode("ascii")
    return (
        f'<figure>\n<div class="scroll" tabindex="0" role="region" aria-label="{_text(words)}">'
        f'<img{kind} alt="{_text(words)}" src="data:image/png;base64,{encoded}"></div>\n'
        f"<figcaption>{_text(caption)}</figcaption>\n</figure>"
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, label: str) -> str:
    """Return a table; a column of numbers stands to the right."""
    columns = [[row[index] for row in rows if index < len(row)] for index in range(len(header))]
    kinds = [' class="number"' if all(map(_NUMBER.fullmatch, column)) else "" for column in columns]
    head = "".join(f'<th scope="col"{kind}>{_text(cell)}</th>' for cell, kind in zip(header, kinds, strict=True))
    lines = [
        "<tr>" + "".join(f"<td{kind}>{_text(cell)}</td>" for cell, kind in zip(row, kinds, strict=False)) + "</tr>"
        for row in rows
    ]
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(label)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{_lines(lines)}\n</tbody>\n</table>\n</div>"
    )


def _verdicts(heading: str, claims: Sequence[Claim], anchors: Iterable[str], *, level: int = 2) -> str:
    """Return the verdicts as a table; the analysis is named, and linked, where ``anchors`` has it."""
    anchors = set(anchors)
    head = "".join(f'<th scope="col">{name}</th>' for name in ("verdict", "claim", "found"))
    lines = []
    for claim in claims:
        kind, words = _OUTCOMES[claim.verdict]
        where = f' (<a href="#{_anchor(claim.analysis)}">{_text(claim.analysis)}</a>)' * (claim.analysis in anchors)
        lines.append(
            f'<tr><td class="verdict {kind}">{words}</td><td>{_text(claim.claim)}{where}</td>'
            f"<td>{_text(claim.numbers)}</td></tr>"
        )
    count = f"<p>{_counted(claims)}</p>\n" if len(claims) > 1 else ""
    return (
        f"<h{level}>{_text(heading)}</h{level}>\n{count}"
        f'<div class="scroll" tabindex="0" role="region" aria-label="{_text(heading)}">\n<table>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{_lines(lines)}\n</tbody>\n</table>\n</div>"
    )


def _counted(claims: Sequence[Claim]) -> str:
    counts = (sum(claim.verdict == outcome for claim in claims) for outcome in _OUTCOMES)
    return "Holds: {}. In part: {}. Does not hold: {}. Cannot be said: {}.".format(*counts)


def _skipped(skipped: Sequence[Skipped]) -> str:
    if not skipped:
        return ""
    reasons = _facts((one.analysis, one.reason) for one in skipped)
    return f'<section aria-labelledby="left-out">\n<h2 id="left-out">Left out</h2>\n{reasons}\n</section>'


def _facts(facts: Iterable[tuple[str, str]]) -> str:
    items = [f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in facts if value]
    return f"<dl>\n{_lines(items)}\n</dl>" if items else ""


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(part for part in parts if part)


def _anchor(name: str) -> str:
    """Return a name that can stand in an address: letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "section"


def _text(text: str) -> str:
    """Return text as HTML shows it, also between double quotes; what UTF-8 or HTML cannot say is replaced."""
    printable = text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return html.escape(_NO_TEXT.sub("\N{REPLACEMENT CHARACTER}", printable))
