"""What ``vitctl guide`` prints with ``--json``: the list of guides, or the text of one."""

from dataclasses import dataclass

from vitctl.results.result import Result


@dataclass(frozen=True, repr=False, kw_only=True)
class GuideEntry(Result):
    """A guide in the list."""

    name: str
    """What ``vitctl guide`` takes."""
    about: str
    """What it is about, in a line."""
    languages: tuple[str, ...]
    """Languages there are, English first: en, ko."""


@dataclass(frozen=True, repr=False, kw_only=True)
class GuidesResult(Result):
    """The guides of the package."""

    guides: tuple[GuideEntry, ...]
    """In the order of their names."""


@dataclass(frozen=True, repr=False, kw_only=True)
class GuideResult(Result):
    """One guide."""

    name: str
    """Its topic."""
    lang: str
    """Its language."""
    text: str
    """Markdown."""
