"""How a workflow talks while it works: lines, warnings, settings with reasons, progress.

Workflows and blocks never print; they call these methods. The base class is silent, which is what a
notebook or a test wants; ``vitctl.cli.screen`` shows the same calls on stderr with rich.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Setting:
    """One line of a header: what was decided, and why."""

    name: str
    value: str
    reason: str = ""


class Progress:
    """A running count of something. This one shows nothing."""

    def begin_at(self, amount: int) -> None:
        """Say how much was done before: it counts, and took no time."""

    def advance(self, amount: int = 1, **facts: str) -> None:
        """Count ``amount`` more; ``facts`` are short texts to show beside the bar (loss, rate...)."""


class Conversation:
    """Says what a workflow is doing. This one is silent; subclasses show it."""

    def line(self, text: str) -> None:
        """Say one sentence."""

    def warn(self, text: str) -> None:
        """Say one sentence that the user should not miss."""

    def header(self, title: str, settings: list[Setting]) -> None:
        """Show resolved settings, each with its reason."""

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        """Show a bar with rate and time left while the block runs."""
        yield Progress()

    def track(self, items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        """Yield ``items`` while a bar shows how many are done."""
        with self.progress(description, total, unit) as bar:
            for item in items:
                yield item
                bar.advance()
