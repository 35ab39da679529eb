"""How far all runs of a sweep are, as one bar."""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from vitctl.conversation import Conversation, Progress
from vitctl.run_folders.seen import look_at
from vitctl.sweeping.planning import PlannedRun
from vitctl.sweeping.states import is_done

_LOOK_S = 1.0  # between two looks at how far runs have come


@contextmanager
def sweep_bar(runs: Sequence[PlannedRun], conversation: Conversation) -> Iterator["SweepBar"]:
    """Show how far ``runs`` are while the block runs; what was done before counts.

    In optimiser steps where every run says how many it takes, else in runs.
    """
    steps = {run.out: int(run.given["steps"]) for run in runs if run.given.get("steps") is not None}
    if len(steps) < len(runs):
        steps = {}
    total, unit = (sum(steps.values()), "steps") if steps else (len(runs), "runs")
    with conversation.progress("sweep", total, unit) as progress:
        bar = SweepBar(progress, steps)
        before = [run for run in runs if is_done(run)]
        if before:
            progress.begin_at(sum(map(bar.whole, before)))
        yield bar


class SweepBar:
    """A bar that is advanced as runs are worked on, and end."""

    def __init__(self, progress: Progress, steps: Mapping[Path, int]) -> None:
        """Begin at nothing.

        Args:
            progress: What shows it.
            steps: Of each run, by its folder; empty where runs are counted.
        """
        self._progress, self._steps = progress, steps
        self._shown: dict[Path, int] = {}
        self._looked_at = 0.0

    def whole(self, run: PlannedRun) -> int:
        """Return what a run that is done counts."""
        return self._steps[run.out] if self._steps else 1

    def finish(self, run: PlannedRun) -> None:
        """Count the rest of a run."""
        self._progress.advance(max(0, self.whole(run) - self._shown.pop(run.out, 0)))

    def show(self, working: Iterable[PlannedRun]) -> None:
        """Show how far those are that are worked on, now and then."""
        if time.monotonic() - self._looked_at < _LOOK_S:
            return
        self._looked_at = time.monotonic()
        facts, amount = {}, 0
        for run in working:
            seen = look_at(run.out)
            of = f" of {seen.steps}" if seen.steps else ""
            facts[run.title] = f"{run.title}: step {seen.step}{of}"
            if self._steps:
                amount += max(0, seen.step - self._shown.get(run.out, 0))
                self._shown[run.out] = max(seen.step, self._shown.get(run.out, 0))
        if facts:
            self._progress.advance(amount, **facts)
