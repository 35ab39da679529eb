"""Why a run of a sweep ended without a result: in its own words, where it found any."""

from collections.abc import Sequence

from vitctl.errors import VitctlError
from vitctl.primitives.children import FOLLOWED, signal_name, tail_of, why_killed
from vitctl.sweeping.planning import PlannedRun

AGAIN = "The same command goes on; what is finished stays."
"""What to do when a sweep has ended before its end."""
_TAIL_LINES = 20


class FailedRunError(VitctlError):
    """A run of a sweep has failed; the exit code is the run's."""

    def __init__(self, message: str, *lines: str, exit_code: int) -> None:
        super().__init__(message, *lines)
        self.exit_code = exit_code


def failure_of(run: PlannedRun, code: int) -> FailedRunError:
    """Return the error of a run that failed, in its own words."""
    where = f"It is {run.title}; all that it said is in {run.log}. What is finished stays."
    if code < 0:
        return FailedRunError(
            f"The run {run.title} was killed ({signal_name(-code)}){why_killed(-code, fewer='--jobs')}; the others "
            f"were stopped. {AGAIN}",
            *(f"  {line}" for line in tail_of(run.log, most=3)),
            exit_code=128 - code,
        )
    if code in FOLLOWED:
        return FailedRunError(
            f"The run {run.title} was told to end ({signal_name(code - 128)}); the others were stopped. {AGAIN}",
            exit_code=code,
        )
    said = own_sentence(tail_of(run.log, most=200))
    if said:
        return FailedRunError(said[0], *said[1:], f"  {where}", exit_code=code)
    if code == 0:
        return FailedRunError(
            f"The run {run.title} ended without a result; expected a run folder at {run.out}. {AGAIN}", exit_code=1
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
