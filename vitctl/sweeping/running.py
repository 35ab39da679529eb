"""The runs of a sweep, each a process of its own, some at a time: started, watched, told to end, their ends told."""

import os
import subprocess
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.conversation import Conversation, Progress
from vitctl.errors import InterruptedRun, SettingError, VitctlError
from vitctl.primitives.children import (
    FOLLOWED,
    PATIENT,
    POLL_S,
    Children,
    passed_on,
    signal_name,
    tail_of,
    why_killed,
)
from vitctl.primitives.launched import DIVERGED, GRACE_S, KEEPER
from vitctl.primitives.outputs import writing
from vitctl.run_folders.layout import is_being_written
from vitctl.run_folders.seen import look_at
from vitctl.sweeping.places import Places
from vitctl.sweeping.planning import PlannedRun, command_of, has_nothing_to_go_on_from
from vitctl.sweeping.states import check_same, check_whole, is_diverged, is_done, is_finished

_LOOK_S = 1.0  # between two looks at how far runs have come
_TAIL_LINES = 20
_AGAIN = "The same command goes on; what is finished stays."
# a run whose sweep was killed hears of it and saves; then it is killed
_MOST_WAIT_S = 2 * GRACE_S


class FailedRunError(VitctlError):
    """A run of a sweep has failed; the exit code is the run's."""

    def __init__(self, message: str, *lines: str, exit_code: int) -> None:
        super().__init__(message, *lines)
        self.exit_code = exit_code


def run_all(
    runs: Sequence[PlannedRun],
    *,
    jobs: int,
    conversation: Conversation,
    command: Callable[[PlannedRun], Sequence[str]] = command_of,
) -> None:
    """Run those that are not finished, in their order, ``jobs`` at a time; those that were stopped go on.

    A run whose loss is no longer finite has a result, too: the others go on (``states.is_diverged``).

    Args:
        runs: Finished ones among them are left as they are.
        jobs: Runs at a time, >= 1.
        conversation: Shows how far they have come.
        command: From a run to the command line that makes it.

    Raises:
        SettingError: A run of other settings is in the way, or a log cannot be written.
        DataError: What a finished run says of itself is damaged.
        FailedRunError: A run has failed: those that ran were told to end, no other was started.
        InterruptedRun: A signal came, and all have ended.
    """
    for run in runs:
        if is_finished(run):
            check_whole(run)
        if is_finished(run) or has_nothing_to_go_on_from(run):  # which would be replaced
            check_same(run)
    left = [run for run in runs if not is_done(run)]
    if not left:
        return
    done = len(runs) - len(left)
    if done:
        conversation.line(f"{done} of {len(runs)} runs are done already")
    jobs = min(jobs, len(left))
    children = Children()
    with passed_on(children), _Bar.over(runs, conversation) as bar:
        queue = _Queue(left, children, bar, Places(jobs, left), command)
        while queue.has_work:
            queue.start()
            time.sleep(POLL_S)
            queue.collect()
            children.kill_overdue()
    queue.tell_end(conversation)


@dataclass
class _Working:
    """A run that a process works on."""

    run: PlannedRun
    process: subprocess.Popen[bytes]
    place: int


@dataclass
class _Queue:
    """Runs that wait, that are worked on, and the first that failed."""

    waiting: list[PlannedRun]
    children: Children
    bar: "_Bar"
    places: Places
    command: Callable[[PlannedRun], Sequence[str]]
    working: list[_Working] = field(default_factory=list)
    diverged: list[PlannedRun] = field(default_factory=list)
    failed: tuple[PlannedRun, int] | None = None
    waits_since: float | None = None

    @property
    def is_stopping(self) -> bool:
        """Whether no further run is to be started."""
        return self.failed is not None or self.children.passed_on is not None

    @property
    def has_work(self) -> bool:
        return bool(self.working) or (bool(self.waiting) and not self.is_stopping)

    def start(self) -> None:
        """Start as many as there are places."""
        while self.waiting and not self.is_stopping and (place := self.places.take()) is not None:
            run = next((run for run in self.waiting if not is_being_written(run.out)), None)
            if run is None:  # a sweep was killed just now, and its runs are saving
                self.places.give_back(place)
                self._wait_for(self.waiting[0])
                return
            self.waiting.remove(run)
            self.waits_since = None
            process = _started(run, self.command(run), self.places.environment(place))
            self.children.processes.append(process)
            self.children.tell()  # a signal may have come meanwhile
            self.working.append(_Working(run, process, place))

    def _wait_for(self, run: PlannedRun) -> None:
        self.waits_since = self.waits_since or time.monotonic()
        if not self.working and time.monotonic() - self.waits_since > _MOST_WAIT_S:
            raise SettingError(
                f"{run.out} is being written by another vitctl. Wait for it, or give another folder with --out.",
                field="out",
            )

    def collect(self) -> None:
        """Take note of those that have ended, and of how far the others are."""
        for one in [one for one in self.working if one.process.poll() is not None]:
            self.working.remove(one)
            self.places.give_back(one.place)
            self._note_end(one.run, one.process.returncode)
        self.bar.show([one.run for one in self.working])

    def _note_end(self, run: PlannedRun, code: int) -> None:
        # a signal may have come when all was written
        if is_finished(run) and (code == 0 or code in FOLLOWED):
            self.bar.finish(run)
        elif code and is_diverged(run):
            self.diverged.append(run)
            self.bar.finish(run)
        elif self.failed is None and self.children.passed_on is None:
            self.failed = run, code
            self.children.end(within=GRACE_S)

    def tell_end(self, conversation: Conversation) -> None:
        """Say which runs diverged; raise what ended the others.

        Raises:
            FailedRunError: A run failed.
            InterruptedRun: A signal came.
        """
        for run in self.diverged:
            conversation.warn(f"{run.title}: its loss is no longer finite; see {run.log}")
        stopped = self.children.passed_on
        if stopped is not None:  # also where all ended meanwhile: who stopped it wants nothing more to begin
            killed = " Runs that did not follow in time were killed." * self.children.is_overdue
            raise InterruptedRun(
                f"the sweep was stopped by {stopped.name}; its runs saved what they had.{killed} {_AGAIN}",
                exit_code=128 + stopped,
            )
        if self.failed is not None:
            raise _failure(*self.failed)


def _started(run: PlannedRun, command: Sequence[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    every = os.environ | environment | {KEEPER: str(os.getpid()), DIVERGED: str(run.diverged)}
    threads = run.given.get("num_threads", 1)
    for name, value in ({"OMP_NUM_THREADS": str(threads)} | PATIENT).items():
        every.setdefault(name, value)
    with writing(run.log):
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.out.parent.mkdir(parents=True, exist_ok=True)
        with run.log.open("ab") as log:  # an earlier part of the run may have said what it was stopped by
            return subprocess.Popen(
                command, env=every, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )


def _failure(run: PlannedRun, code: int) -> FailedRunError:
    """Return the error of a run that failed, in its own words."""
    where = f"It is {run.title}; all that it said is in {run.log}. What is finished stays."
    if code < 0:
        return FailedRunError(
            f"The run {run.title} was killed ({signal_name(-code)}){why_killed(-code, fewer='--jobs')}; the others "
            f"were stopped. {_AGAIN}",
            *(f"  {line}" for line in tail_of(run.log, most=3)),
            exit_code=128 - code,
        )
    if code in FOLLOWED:
        return FailedRunError(
            f"The run {run.title} was told to end ({signal_name(code - 128)}); the others were stopped. {_AGAIN}",
            exit_code=code,
        )
    said = own_sentence(tail_of(run.log, most=200))
    if said:
        return FailedRunError(said[0], *said[1:], f"  {where}", exit_code=code)
    if code == 0:
        return FailedRunError(
            f"The run {run.title} ended without a result; expected a run folder at {run.out}. {_AGAIN}", exit_code=1
        )
    return FailedRunError(
        f"The run {run.title} ended with exit code {code}; the others were stopped. It said last ({run.log}):",
        *(f"  {line}" for line in tail_of(run.log, most=_TAIL_LINES)),
        exit_code=code,
    )


def own_sentence(lines: Sequence[str]) -> list[str]:
    """Return the sentence that a run ended with, of all that it said, and what stands below it; else nothing."""
    starts = [index for index, line in enumerate(lines) if line.startswith("error: ")]
    # it is the last that a run says: a line of a traceback may stand behind an error of long ago
    if not starts or any(not line.startswith("  ") for line in lines[starts[-1] + 1 :]):
        return []
    return [lines[starts[-1]].removeprefix("error: "), *lines[starts[-1] + 1 :]]


class _Bar:
    """How far all runs are: in optimiser steps where every run says how many it takes, else in runs."""

    def __init__(self, runs: Sequence[PlannedRun], progress: Progress, steps: Sequence[int] | None) -> None:
        self.runs, self._progress = runs, progress
        self._steps = None if steps is None else dict(zip((run.out for run in runs), steps, strict=True))
        self._shown: dict[Path, int] = {}
        self._looked_at = 0.0

    @classmethod
    def over(cls, runs: Sequence[PlannedRun], conversation: Conversation) -> "_Opened":
        """Return the bar as a context."""
        return _Opened(runs, conversation)

    def begin(self) -> None:
        """Count what was done before."""
        before = [run for run in self.runs if is_done(run)]
        if before:
            self._progress.begin_at(sum(self._whole(run) for run in before))

    def _whole(self, run: PlannedRun) -> int:
        return 1 if self._steps is None else self._steps[run.out]

    def finish(self, run: PlannedRun) -> None:
        """Count the rest of a run."""
        self._progress.advance(max(0, self._whole(run) - self._shown.pop(run.out, 0)))

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
            if self._steps is not None:
                amount += max(0, seen.step - self._shown.get(run.out, 0))
                self._shown[run.out] = max(seen.step, self._shown.get(run.out, 0))
        if facts:
            self._progress.advance(amount, **facts)


class _Opened:
    """The bar while it is shown."""

    def __init__(self, runs: Sequence[PlannedRun], conversation: Conversation) -> None:
        self._runs = runs
        steps = [run.given.get("steps") for run in runs]
        self._steps = [int(one) for one in steps if one is not None] if None not in steps else None
        total, unit = (len(runs), "runs") if self._steps is None else (sum(self._steps), "steps")
        self._context = conversation.progress("sweep", total, unit)

    def __enter__(self) -> _Bar:
        bar = _Bar(self._runs, self._context.__enter__(), self._steps)
        bar.begin()
        return bar

    def __exit__(self, *error: object) -> None:
        self._context.__exit__(*error)  # type: ignore[arg-type]
