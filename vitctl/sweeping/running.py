"""The runs of a sweep, each a process of its own, some at a time: started, watched, told to end, their ends told."""

import os
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from vitctl.conversation import Conversation
from vitctl.errors import InterruptedRun, SettingError
from vitctl.primitives.children import FOLLOWED, PATIENT, POLL_S, Children, passed_on
from vitctl.primitives.launched import DIVERGED, GRACE_S, KEEPER
from vitctl.primitives.outputs import writing
from vitctl.run_folders.layout import is_being_written
from vitctl.sweeping.bar import SweepBar, sweep_bar
from vitctl.sweeping.failures import AGAIN, failure_of
from vitctl.sweeping.places import Places
from vitctl.sweeping.planning import PlannedRun, command_of, has_nothing_to_go_on_from
from vitctl.sweeping.states import check_same, check_whole, is_diverged, is_done, is_finished

# a run whose sweep was killed hears of it and saves; then it is killed
_MOST_WAIT_S = 2 * GRACE_S


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
    with passed_on(children), sweep_bar(runs, conversation) as bar:
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
    bar: SweepBar
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
                f"the sweep was stopped by {stopped.name}; its runs saved what they had.{killed} {AGAIN}",
                exit_code=128 + stopped,
            )
        if self.failed is not None:
            raise failure_of(*self.failed)


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
