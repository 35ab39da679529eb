"""Fonts that have the letters of a picture, where matplotlib's own (DejaVu Sans) has no Korean, Chinese or Japanese.

matplotlib draws each letter in the first font of a list that has it
(https://matplotlib.org/stable/users/explain/text/fonts.html, "Font fallback"); which list that is has to be found.
"""

import unicodedata
import warnings
from collections.abc import Iterable
from contextlib import suppress
from functools import cache

from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, FontProperties, fontManager
from matplotlib.text import Text

from vitctl.errors import SaidWarning

# what a person's eye expects beside a font without serifs, nearest first; guess
_NEAR_OURS = ("sans", "gothic", "nanum", "hei", "kai", "song", "ming", "myungjo", "batang", "serif")
_BOXES = "last resort"  # matplotlib's font of boxes, which has every letter
_MOST_NAMED = 8  # letters in the warning


class FontWarning(SaidWarning):
    """Some letters of a picture are boxes."""


def use_fonts_with_all_letters(figure: Figure) -> None:
    """Let each text of ``figure`` fall back to installed fonts that have its letters; warn of letters that none has."""
    texts = [text for text in figure.findobj(Text) if not text.get_text().isascii()]
    missing = {letter for text in texts for letter in text.get_text() if _is_drawn(letter)} - _own_letters()
    if not missing:
        return
    families = fallback_families("".join(sorted(missing)))
    for text in texts:
        text.set_fontfamily([*text.get_fontfamily(), *families])
    boxes = missing.difference(*(_letters(entry.fname) for entry in _of_families(families)))
    if boxes:
        warnings.warn(_sentence(sorted(boxes)), FontWarning, stacklevel=2)


@cache
def fallback_families(letters: str) -> tuple[str, ...]:
    """Return families of installed fonts that have ``letters``, few of them: the one with most comes first."""
    families, missing = [], set(letters)
    candidates = {entry.fname: len(missing & _letters(entry.fname)) for entry in _installed()}
    for entry in sorted(_installed(), key=lambda entry: (-candidates[entry.fname], _distance(entry), entry.name)):
        if missing & _letters(entry.fname):
            families.append(entry.name)
            missing -= _letters(entry.fname)
    return tuple(families)


@cache
def _installed() -> list[FontEntry]:
    """Return upright fonts of ordinary weight, those installed since matplotlib last looked among them."""
    known = {entry.fname for entry in fontManager.ttflist}
    for path in font_manager.findSystemFonts():
        if path not in known:
            with suppress(Exception):  # a file that is no font, or none that can be scaled: FreeType has many words
                fontManager.addfont(path)
    return [
        entry
        for entry in fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal") and _BOXES not in entry.name.lower()
    ]


def _of_families(families: Iterable[str]) -> list[FontEntry]:
    return [entry for entry in _installed() if entry.name in families]


def _distance(entry: FontEntry) -> int:
    name = entry.name.lower()
    return next((place for place, word in enumerate(_NEAR_OURS) if word in name), len(_NEAR_OURS))


@cache
def _letters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, font_manager.get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # removed since it was found, or damaged
        return frozenset()


def _own_letters() -> frozenset[str]:
    return _letters(font_manager.findfont(FontProperties()))


def _is_drawn(letter: str) -> bool:
    """Return whether a letter leaves ink: no space, control or joiner does, nor what chooses between two forms."""
    return not unicodedata.category(letter).startswith(("C", "Z")) and not 0xFE00 <= ord(letter) <= 0xFE0F


def _sentence(boxes: list[str]) -> str:
    named = "".join(boxes[:_MOST_NAMED]) + ("..." if len(boxes) > _MOST_NAMED else "")
    names = [unicodedata.name(letter, "") for letter in boxes]
    is_east_asian = any(name.startswith(("HANGUL", "CJK", "HIRAGANA", "KATAKANA")) for name in names)
    is_sign = all(unicodedata.category(letter) == "So" for letter in boxes)  # emoji
    package = "fonts-noto-cjk" if is_east_asian else "fonts-symbola" if is_sign else "fonts-noto-core"  # Debian's
    return (
        f"No installed font has the letters {named}, so they are boxes in the pictures. Install one that has, such as "
        f"Debian's {package} ('apt-get install {package}'), and draw again."
    )
