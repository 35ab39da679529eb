"""What a run that has diverged tells: the images of its batch, the weights that can be used, how to go on."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitctl.primitives.launched import tell_of_divergence
from vitctl.results.finetune import Score
from vitctl.run_folders.layout import DIVERGENCE
from vitctl.training.divergence import Diverged
from vitctl.training.job import Job
from vitctl.training.recorder import Recorder
from vitctl.training.state import TrainingState

_NUM_NAMED = 3  # of a batch's images in the message; the file has all


@contextmanager
def divergence_is_told(job: Job, state: TrainingState, recorder: Recorder, out: Path) -> Iterator[None]:
    """Add to a ``Diverged`` of the block what was in its batch and how to go on; write that into ``diverged.json``.

    The file is in the run folder only where that stays, as something was saved. One of an earlier attempt goes first.

    Args:
        job: What is trained.
        state: What it has come to.
        recorder: Whose folder it is; of several processes only the first has one.
        out: The run folder, for messages.

    Raises:
        Diverged: With the lines added.
    """
    recorder.remove(DIVERGENCE)
    try:
        yield
    except Diverged as error:
        images = [
            {"name": job.train.image_name(place), "label": job.train.class_names[job.train.labels[place]], "view": view}
            for view, place in job.batches.batch(error.step - 1)
        ]
        document = {
            "step": error.step,
            "what": error.what,
            "lr": job.schedule.at(error.step),
            "last_steps": list(recorder.recent),
            "images": images,
        }
        is_written = recorder.keep(DIVERGENCE, document)
        tell_of_divergence(document)
        names = [image["name"] for image in images]
        lines = [
            _batch(error.step, names, out / DIVERGENCE if is_written else None),
            _way_on(error, job, state.last, recorder, out),
        ]
        raise Diverged(
            _message(error, job), *lines, what=error.what, step=error.step, lower_lr=error.lower_lr
        ) from error


def _message(error: Diverged, job: Job) -> str:
    first, _, advice = str(error.args[0]).partition(" Try ")
    if _is_before_any_step(error):
        other = "" if job.precision == "fp32" else ", or --precision fp32"
        return f"{first} No step was taken before it, so that the rate is not to blame: try other weights{other}."
    precision = "" if job.precision == "fp32" else ", or --precision fp32"
    return f"{first} Try {advice.rstrip('.')}{precision}."


def _is_before_any_step(error: Diverged) -> bool:
    return error.what == "loss" and error.step == 1


def _batch(step: int, names: list[str], path: Path | None) -> str:
    left = len(names) - _NUM_NAMED
    more = f" and {left} more" if left > 0 else ""
    where = f"; all are in {path}" if path else ""
    return f"  The images of step {step}: {', '.join(names[:_NUM_NAMED])}{more}{where}."


def _way_on(error: Diverged, job: Job, last: Score, recorder: Recorder, out: Path) -> str:
    replaces = " --overwrite" if recorder.is_worth_keeping else ""
    if _is_before_any_step(error):
        return f"  Nothing was trained; begin again{' with' * bool(replaces)}{replaces}."
    again = f"begin again with --lr {error.lower_lr}{replaces}"
    if not recorder.has_last or not last.step:
        return f"  No weights were saved before: {again}."
    scored = "" if last.loss is None else f", validation loss {last.loss:.3g}"
    found = f"  The weights in {out / 'last'} are those of step {last.step}{scored}"
    if last.loss is not None and last.loss > math.log(len(job.train.class_names)):
        return f"{found}, worse than guessing: {again}."
    return (
        f"{found}. To train on from them, give the same command --model {out / 'last'}, a lower --lr and another "
        "--out; --resume would take the same steps again."
    )
