"""Letters that matplotlib's own font lacks are drawn with an installed font that has them, or named."""

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.figure import Figure
from PIL import Image

from vitctl.reporting import fonts
from vitctl.reporting.figures import draw_confusion, fitted, save
from vitctl.reporting.fonts import FontWarning

KOREAN = "고양이"


def build_font(path: Path, family: str, letters: str) -> Path:
    """Write a font in which each of ``letters`` is a full square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 1000), (1000, 1000), (1000, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord(letter): "square" for letter in letters})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": family, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=1000, usWeightClass=400)
    builder.setupPost()
    builder.save(path)
    return path


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[object]:
    """Return ``install(FAMILY, LETTERS)``; nothing but matplotlib's own fonts and these is installed."""
    own = [entry for entry in font_manager.fontManager.ttflist if "mpl-data" in entry.fname]
    installed: list[str] = []
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: installed)

    def forget() -> None:
        for remembered in (fonts.fallback_families, fonts._installed, fonts._letters):
            remembered.cache_clear()
        font_manager.fontManager._findfont_cached.cache_clear()

    def put(family: str, letters: str) -> None:
        installed.append(str(build_font(tmp_path / f"{family}.ttf", family, letters)))
        forget()

    forget()
    yield put
    forget()


def saved(text: str, path: Path) -> np.ndarray:
    figure = Figure(figsize=(2, 1))
    figure.text(0.1, 0.1, text, parse_math=False)
    save(figure, path)
    return np.asarray(Image.open(path).convert("L"), dtype=int)


def test_an_installed_font_with_the_letters_is_used(install, tmp_path: Path) -> None:
    with pytest.warns(FontWarning):
        boxes = saved(KOREAN, tmp_path / "boxes.png")
    install("Squares Sans", KOREAN)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        letters = saved(KOREAN, tmp_path / "letters.png")
    assert (letters < 50).sum() > 2 * (boxes < 50).sum()  # squares that are full


def test_latin_letters_stay_in_matplotlibs_font(install, tmp_path: Path) -> None:
    before = saved("cat é ©", tmp_path / "a.png")
    install("Squares Sans", "cat é©" + KOREAN)
    assert (saved("cat é ©", tmp_path / "a.png") == before).all()


def test_letters_that_no_font_has_are_named_with_a_package(install, tmp_path: Path) -> None:
    install("Squares Sans", KOREAN[:2])
    with pytest.warns(FontWarning, match=r"the letters 이, so they are boxes .*'apt-get install fonts-noto-cjk'"):
        saved(KOREAN, tmp_path / "a.png")
    with pytest.warns(FontWarning, match=r"the letters ก, .* fonts-noto-core"):
        saved("ก", tmp_path / "a.png")
    with pytest.warns(FontWarning, match=r"the letters 🐈, .* fonts-symbola"):
        saved("🐈", tmp_path / "a.png")


def test_as_few_fonts_as_suffice_the_one_with_most_letters_first(install) -> None:
    install("One", KOREAN[:1])
    install("Two Gothic", KOREAN)
    install("Three", KOREAN)
    install("Four", "字")
    assert fonts.fallback_families(KOREAN + "字") == ("Two Gothic", "Four")


def test_a_font_of_boxes_is_no_font(install) -> None:
    assert fonts.fallback_families(KOREAN) == ()


def test_a_file_that_is_no_font_is_passed_over(install, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "a.ttf").write_bytes(b"no font")
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(tmp_path / "a.ttf")])
    assert fonts.fallback_families(KOREAN) == ()


@pytest.mark.filterwarnings("error")
def test_names_on_axes_are_found(install, tmp_path: Path) -> None:
    install("Squares Sans", KOREAN)
    draw_confusion(np.eye(2, dtype=np.int64), [KOREAN, "cat"], tmp_path / "a.png", title="images")


def test_fitted__wide_letters_take_two_places() -> None:
    assert fitted(KOREAN, 6) == KOREAN
    assert fitted(KOREAN, 5) == "고양…"
    assert fitted("cat", 3) == "cat"
    assert fitted("cats", 3) == "ca…"
