"""The report of ``vitctl inspect all``: it loads nothing, runs nothing, and says everything it was given."""

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from vitctl.reporting.inspect_report import Claim, Panel, Section, Skipped, write_report

EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>&amp;<a href=http://evil.test>"
VOID = {"meta", "img", "br", "hr"}
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """What a browser would find: elements with attributes, text, and whether everything is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.source = path.read_text(encoding="utf-8")
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.headings: list[str] = []
        self.open: list[str] = []
        self.feed(self.source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert len(dict(attributes)) == len(attributes), f"an attribute of {tag} stands twice"
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, text: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(text)
        if self.open and self.open[-1] in ("h1", "h2", "h3"):
            self.headings.append(text)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self) -> str:
        return "\n".join(self.texts)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    path.write_bytes(PNG)
    return path


def section_of(picture: Path, anchor: str = "pos-embed", words: str = "", **changes: object) -> Section:
    """Return a section with ``words`` in every text."""
    claim = Claim(anchor, f"claim {words}", "yes", f"0.9 {words}")
    values: dict[str, object] = {
        "anchor": anchor,
        "title": f"title of {anchor} {words}",
        "question": f"question {words}",
        "method": f"method {words}",
        "source": f"V, figure 7 {words}",
        "look_for": f"look for {words}",
        "random_weights": f"random {words}",
        "command": f"vitctl inspect {anchor} {words}",
        "picture": picture,
        "panels": [Panel(f"model {words}", ["layer", f"px {words}"], [["0", f"12.5 {words}"]], [f"note {words}"])],
        "claims": [claim],
    }
    return Section(**(values | changes))  # type: ignore[arg-type]


def report(
    path: Path, *sections: Section, words: str = "", verdicts: tuple[Claim, ...] = (), skipped: tuple[Skipped, ...] = ()
) -> Page:
    write_report(
        path,
        title=f"How it sees {words}",
        facts=[(f"model {words}", f"vit {words}"), ("nothing", "")],
        sections=sections,
        verdicts=verdicts,
        skipped=skipped,
    )
    return Page(path)


def full_report(tmp_path: Path, picture: Path, words: str = "") -> Page:
    return report(
        tmp_path / "report.html",
        section_of(picture, "filters", words),
        section_of(picture, "pos-embed", words, control=picture),
        words=words,
        verdicts=(Claim("filters", f"smooth {words}", "cannot be said", words),),
        skipped=(Skipped(f"rollout {words}", f"no attention {words}"),),
    )


def outside_requests(page: Page) -> list[str]:
    """Return every address that a browser would load or follow out of the file."""
    found = []
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            is_address = name in ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")
            if is_address and not re.match(r"data:image/png;base64,[A-Za-z0-9+/=]+$|#[a-z0-9-]+$", value or ""):
                found.append(f"{tag} {name}={value}")
            if name.startswith("on") or name == "style":
                found.append(f"{tag} {name}={value}")
    found += [tag for tag, _ in page.elements if tag in ("script", "link", "iframe", "object", "embed", "base", "form")]
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, flags=re.DOTALL)
    return found + re.findall(r"url\([^)]*\)|@import[^;]*", style)


@pytest.mark.parametrize("words", ["", EVIL])
def test_nothing_is_loaded_and_nothing_runs(tmp_path: Path, picture: Path, words: str) -> None:
    page = full_report(tmp_path, picture, words)
    assert outside_requests(page) == []
    policies = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]


@pytest.mark.parametrize("planted", ['<img src="x.png">', "<p onclick='x()'></p>", '<a href="http://a.test">b</a>'])
def test_nothing_is_loaded__the_check_can_fail(tmp_path: Path, picture: Path, planted: str) -> None:
    full_report(tmp_path, picture)
    path = tmp_path / "report.html"
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", f"{planted}</body>"), encoding="utf-8")
    assert len(outside_requests(Page(path))) == 1


def test_strangers_words_stand_everywhere_as_text(tmp_path: Path, picture: Path) -> None:
    page, plain = full_report(tmp_path, picture, EVIL), full_report(tmp_path, picture, "")
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    for start in ("How it sees", "question", "method", "look for", "random", "note", "claim", "no attention", "smooth"):
        assert f"{start} {EVIL}" in page.text
    assert [one["alt"] for one in page.all("img")][0] == f"title of filters {EVIL}. question {EVIL}"


def test_every_part_of_a_section_is_there(tmp_path: Path, picture: Path) -> None:
    page = full_report(tmp_path, picture)
    assert [text.strip() for text in page.headings] == [
        "How it sees", "Claims, held against this model", "Contents",
        "title of filters", "model", "Verdicts", "Again, alone",
        "title of pos-embed", "model", "Verdicts", "Again, alone", "Left out",
    ]  # fmt: skip
    for text in ("12.5", "px", "note", "vitctl inspect pos-embed", "V, figure 7", "look for", "random", "0.9"):
        assert text in page.text
    assert "nothing" not in page.text.replace("loads nothing", "")


def test_the_words_before_a_sentence_do_not_say_its_start(tmp_path: Path, picture: Path) -> None:
    section = section_of(picture, look_for="Look for tiles.", random_weights="Random weights would show noise.")
    texts = report(tmp_path / "report.html", section).texts
    labels = {text: texts[place - 1] for place, text in enumerate(texts)}
    assert labels["Look for tiles."] == "Trained weights"
    assert labels["Random weights would show noise."] == "Control"


def test_the_contents_stand_in_columns_apart(tmp_path: Path, picture: Path) -> None:
    (gap,) = re.findall(r"nav ul \{[^}]*column-gap: ([\d.]+)rem", full_report(tmp_path, picture).source)
    assert float(gap) >= 2


def test_contents_lead_to_every_section(tmp_path: Path, picture: Path) -> None:
    page = full_report(tmp_path, picture)
    anchors = [attributes["id"] for tag, attributes in page.elements if "id" in attributes]
    assert anchors == ["filters", "pos-embed", "left-out"]
    links = [str(one["href"]).removeprefix("#") for one in page.all("a")]
    assert links == ["filters", *anchors]  # a verdict leads to its section, too
    assert {one["aria-labelledby"] for one in page.all("section")} == set(anchors)


def test_pictures_are_inside_and_the_control_has_its_own_words(tmp_path: Path, picture: Path) -> None:
    images = full_report(tmp_path, picture).all("img")
    assert [base64.b64decode(str(one["src"]).split(",")[1]) for one in images] == [PNG] * 3
    assert "random weights" in str(images[2]["alt"])
    assert "random weights" not in str(images[1]["alt"])


@pytest.mark.parametrize(
    ("verdict", "words", "count"),
    [
        ("yes", "✓ holds", "Holds: 2. In part: 0. Does not hold: 0. Cannot be said: 0."),
        ("partly", "~ holds in part", "Holds: 0. In part: 2. Does not hold: 0. Cannot be said: 0."),
        ("no", "✗ does not hold", "Holds: 0. In part: 0. Does not hold: 2. Cannot be said: 0."),
        ("cannot be said", "? cannot be said", "Holds: 0. In part: 0. Does not hold: 0. Cannot be said: 2."),
    ],
)
def test_verdicts_are_said_in_words(tmp_path: Path, picture: Path, verdict: str, words: str, count: str) -> None:
    claim = Claim("pos-embed", "peaks at itself", verdict, "share 0.95")
    page = report(tmp_path / "report.html", section_of(picture, claims=()), verdicts=(claim, claim))
    assert page.texts.count(words) == 2
    assert count in page.texts
    assert "share 0.95" in page.texts


def test_a_verdict_on_an_analysis_that_was_left_out_leads_nowhere(tmp_path: Path) -> None:
    page = report(
        tmp_path / "report.html",
        verdicts=(Claim("rollout", "finds the object", "cannot be said", ""),),
        skipped=(Skipped("rollout", "no attention"),),
    )
    assert [one["href"] for one in page.all("a")] == ["#left-out"]


def test_columns_of_numbers_stand_to_the_right(tmp_path: Path, picture: Path) -> None:
    rows = [["embed", "-1.5e-07", "3 %", "12"], ["0", "0.25", "12.5 %", "n/a"]]
    table = Panel("model", ["layer", "error", "share", "px"], rows)
    page = report(tmp_path / "report.html", section_of(picture, panels=[table], claims=()))
    assert [one.get("class") for one in page.all("th")] == [None, "number", "number", None]
    assert [one.get("class") for one in page.all("td")] == [None, "number", "number", None] * 2


def test_columns_without_any_value_are_left_out(tmp_path: Path, picture: Path) -> None:
    rows = [["embed", "none", "none", "12%"], ["0", "none", "5%", "13%"]]
    table = Panel("model", ["layer", "cls", "mean", "tokens"], rows)
    page = report(tmp_path / "report.html", section_of(picture, panels=[table], claims=()))
    assert len(page.all("th")) == 3
    assert len(page.all("td")) == 6
    assert "cls" not in page.texts
    assert page.texts.count("none") == 1


def test_a_panel_without_a_table_has_its_notes(tmp_path: Path, picture: Path) -> None:
    bare = Panel("model", [], [], ["a note"])
    page = report(tmp_path / "report.html", section_of(picture, panels=[bare], claims=()))
    assert page.all("table") == []
    assert "a note" in page.texts


def test_text_that_utf8_or_html_cannot_say_is_shown_escaped(tmp_path: Path, picture: Path) -> None:
    page = report(tmp_path / "report.html", section_of(picture, words="caf\udce9 \ud800 \x00\x1b[31m 花"))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.source)
    assert r"caf\xe9 \ud800 \x00\x1b[31m" in page.text
    assert "花" in page.text


def test_phones_and_readers_are_served(tmp_path: Path, picture: Path) -> None:
    page = full_report(tmp_path, picture)
    assert page.source.startswith("<!DOCTYPE html>")
    assert page.all("html") == [{"lang": "en"}]
    assert {"charset": "utf-8"} in page.all("meta")
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert all(one.get("alt") for one in page.all("img"))
    assert all(one.get("scope") == "col" for one in page.all("th"))
    assert all(one.get("tabindex") == "0" and one.get("aria-label") for one in page.all("div"))


def test_wide_pictures_scroll(tmp_path: Path, picture: Path) -> None:
    wide = tmp_path / "wide.png"
    Image.new("RGB", (2470, 2)).save(wide)
    page = report(tmp_path / "report.html", section_of(wide, control=picture))
    assert [one.get("class") for one in page.all("img")] == ["wide", None]


def test_the_file_lands_whole(tmp_path: Path, picture: Path) -> None:
    path = tmp_path / "out" / "report.html"
    report(path, section_of(picture))
    before = path.read_bytes()
    with pytest.raises(FileNotFoundError):
        report(path, section_of(tmp_path / "missing.png"))
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == ["report.html"]
