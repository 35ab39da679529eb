"""The guides: one Markdown file per topic, read on GitHub or with ``vitctl guide``.

``NAME.md`` is English, ``NAME.LANG.md`` the same guide in another language (``ko``: Korean). Plain Python.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from vitctl.errors import SettingError, check_choice

FOLDER = Path(__file__).parent
ENGLISH = "en"

_FENCE = re.compile(r"^( {0,3}```.*?^ {0,3}```[^\n]*\n)", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"^<!--.*?-->\n", re.MULTILINE | re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\([^)]*\)")
_FILE_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:)[^)]*\)")


@dataclass(frozen=True)
class Guide:
    """A guide: its name, its title, and the languages there are, English first."""

    name: str
    about: str
    languages: tuple[str, ...]


def list_guides() -> tuple[Guide, ...]:
    """Return every guide in alphabetical order."""
    english = sorted(path.stem for path in FOLDER.glob("*.md") if "." not in path.stem)
    return tuple(Guide(name, _title(FOLDER / f"{name}.md"), _languages(name)) for name in english)


def read_guide(name: str, language: str = ENGLISH) -> str:
    """Return the text of a guide as Markdown that needs no other file.

    Comments are left out, pictures are their captions, links to files of the repository are their words.

    Raises:
        SettingError: There is no such guide, or it is not there in ``language``.
    """
    check_choice(name, [guide.name for guide in list_guides()], what="TOPIC")
    languages = _languages(name)
    if language not in languages:
        there_are = f"there is {languages[0]}" if len(languages) == 1 else f"there are {', '.join(languages)}"
        raise SettingError(f"--lang is {language!r}; of the guide {name!r} {there_are}.", field="lang")
    return _standalone(_path(name, language).read_text(encoding="utf-8"))


def _path(name: str, language: str) -> Path:
    return FOLDER / (f"{name}.md" if language == ENGLISH else f"{name}.{language}.md")


def _languages(name: str) -> tuple[str, ...]:
    others = sorted(path.stem.removeprefix(f"{name}.") for path in FOLDER.glob(f"{name}.*.md"))
    return (ENGLISH, *others)


def _title(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")


def _standalone(text: str) -> str:
    parts = _FENCE.split(text)  # prose, code, prose, ...: code stays as it is
    for index in range(0, len(parts), 2):
        prose = _COMMENT.sub("", parts[index])
        prose = _PICTURE.sub(r"*Picture: \1*", prose)
        parts[index] = _FILE_LINK.sub(r"\1", prose)
    return "".join(parts)
