"""A conversation on stderr: lines, a table of settings, progress bars. stdout stays free for the result."""

import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TaskID, TextColumn
from rich.progress import Progress as RichProgress
from rich.table import Table
from rich.text import Text

from vitctl.conversation import Conversation, Progress, Setting
from vitctl.primitives.formatting import format_seconds
from vitctl.shown import shown

LOG_EVERY_S = 10.0  # without a terminal, say where things stand about this often
LOG_WIDTH = 150


def is_first_process() -> bool:
    """Return whether this process speaks for the run: the only one, or the first that torchrun started."""
    return os.environ.get("RANK", "0") == "0"


def _plain(text: str, style: str = "") -> Text:
    """Return ``text``, in which names may be anyone's, for rich: no markup, no emoji codes, no controls."""
    return Text(shown(text), style)


def _speed(task: Task) -> float | None:
    """Return how many a second: of late where many were counted of late, else since the beginning; None of none yet."""
    if speed := task.finished_speed or task.speed:
        return speed
    done = task.completed - task.fields["first"]
    return done / task.elapsed if done > 0 and task.elapsed else None


class _RateColumn(ProgressColumn):
    def render(self, task: Task) -> Text:
        """Return e.g. ``3.4 steps/s``."""
        speed = _speed(task)
        return Text(f"{speed:.3g} {task.fields['unit']}/s" if speed else "")


class _LeftColumn(ProgressColumn):
    max_refresh = 0.5  # seconds, as that of rich, which knows no time left where little was counted of late

    def render(self, task: Task) -> Text:
        """Return e.g. ``0:01:30``."""
        speed = _speed(task)
        left = str(timedelta(seconds=math.ceil((task.remaining or 0) / speed))) if speed else "-:--:--"
        return Text(left, "progress.remaining")


class _BarProgress(Progress):
    def __init__(self, bars: RichProgress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def begin_at(self, amount: int) -> None:
        """Move the bar to where it begins."""
        self._bars.reset(self._task, completed=amount)
        self._bars.update(self._task, first=amount)

    def advance(self, amount: int = 1, **facts: str) -> None:
        """Move the bar; ``facts`` appear behind it."""
        self._bars.update(self._task, advance=amount, facts=shown("  ".join(facts.values())))


class _LogProgress(Progress):
    def __init__(self, console: Console, description: str, total: int, unit: str) -> None:
        self._console, self._description, self._total, self._unit = console, description, total, unit
        self._done = self._first = 0
        self._start = self._said = time.monotonic()

    def begin_at(self, amount: int) -> None:
        """Count what was done before."""
        self._done = self._first = amount

    def advance(self, amount: int = 1, **facts: str) -> None:
        """Count, and write a line every few seconds."""
        self._done += amount
        now = time.monotonic()
        if now - self._said < LOG_EVERY_S:
            return
        self._said = now
        parts = [f"{self._description} {self._done}/{self._total} {self._unit}", *facts.values()]
        if self._done > self._first:
            left = (now - self._start) / (self._done - self._first) * (self._total - self._done)
            parts.append(f"{format_seconds(left)} left")
        self._console.print(_plain("  ".join(parts)))


class Screen(Conversation):
    """Shows a conversation on stderr with rich; without a terminal, as plain lines.

    In a process that is not the first of a distributed run it says nothing.
    """

    def __init__(self) -> None:
        is_first = is_first_process()
        self._console = Console(stderr=True, quiet=not is_first, soft_wrap=False)
        if not self._console.is_terminal:
            self._console = Console(stderr=True, quiet=not is_first, width=LOG_WIDTH)
        self._bars: RichProgress | None = None

    def line(self, text: str) -> None:
        """Say one sentence."""
        self._console.print(_plain(text))

    def warn(self, text: str) -> None:
        """Say one sentence, marked as a warning."""
        self._console.print(Text.assemble(("warning: ", "bold yellow"), _plain(text)))

    def header(self, title: str, settings: list[Setting]) -> None:
        """Show settings as a table: name, value, reason."""
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
        table.add_column(style="bold", no_wrap=True)
        table.add_column(overflow="fold")
        table.add_column(style="dim", overflow="fold")
        for setting in settings:
            table.add_row(*(_plain(text) for text in (setting.name, setting.value, setting.reason)))
        self._console.print(_plain(title, "bold underline"))
        self._console.print(table)

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        """Show a bar with rate and time left; bars inside bars are shown together."""
        if not self._console.is_terminal:
            yield _LogProgress(self._console, description, total, unit)
            return
        is_outermost = self._bars is None
        bars = self._bars or self._new_bars()
        if is_outermost:
            self._bars = bars
            bars.start()
        task = bars.add_task(shown(description), total=total, unit=unit, facts="", first=0)
        try:
            yield _BarProgress(bars, task)
        finally:
            if is_outermost:
                bars.stop()
                self._bars = None
            else:
                bars.remove_task(task)

    def _new_bars(self) -> RichProgress:
        return RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            _RateColumn(),
            _LeftColumn(),
            TextColumn("{task.fields[facts]}", style="dim", markup=False),
            console=self._console,
            transient=True,
            speed_estimate_period=20,
        )

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show a spinner while something without a known length goes on."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(_plain(what)):
            yield
