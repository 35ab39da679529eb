"""A run folder as a row of ``vitctl runs``; whatever its config.json holds, only what is of its type is shown."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from vitctl.errors import SettingError
from vitctl.evaluation.metrics import wilson_interval
from vitctl.primitives.image_sizes import image_size_of
from vitctl.results.runs import RunEntry
from vitctl.run_folders.seen import SeenRun

ORDERS: Mapping[str, Callable[[RunEntry], Any]] = {
    "age": lambda entry: entry.age_s,
    "top1": lambda entry: (entry.top1 is None, -(entry.top1 or 0.0)),
    "name": lambda entry: entry.run,
}
"""What runs are sorted by, lowest first, for each of ``words.RUN_ORDERS``."""


def entry_of(run: SeenRun, *, now: float) -> RunEntry:
    """Return the row of a run.

    Args:
        run: What was seen of it.
        now: Seconds since 1970.
    """
    interval = None
    if run.top1 is not None and run.num_val:
        interval = wilson_interval(round(run.top1 * run.num_val), run.num_val)
    return RunEntry(
        run=str(run.path),
        data=_text(run.config.get("data")),
        model=_text(run.config.get("model")),
        image_size=_size(run.config.get("image_size")),
        recipe=_text(run.config.get("recipe")),
        seed=_number(run.config.get("seed")),
        state=run.state,
        step=run.step,
        steps=run.steps,
        top1=run.top1,
        top1_ci95=interval,
        loss=run.loss,
        num_val=run.num_val,
        age_s=round(max(0.0, now - run.changed), 3),
        why=run.why,
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _size(value: object) -> tuple[int, int] | None:
    with suppress(SettingError):
        return image_size_of(value) if isinstance(value, str | int) else None
    return None
