"""Where runs are worked on at the same time: the GPUs that each is shown."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from vitctl.primitives.gpus import num_gpus
from vitctl.settings.words import AUTO
from vitctl.sweeping.planning import PlannedRun

_VISIBLE = "CUDA_VISIBLE_DEVICES"


class Places:
    """As many places as there are runs at a time; the GPUs are given out to them in turn.

    Args:
        jobs: Runs at a time, >= 1.
        runs: Those that are to be run: on which device, in how many processes.
    """

    def __init__(self, jobs: int, runs: Sequence[PlannedRun]) -> None:
        self._free = list(range(jobs))
        asks = jobs > 1 and any(run.given.get("device", AUTO) in (AUTO, "cuda") for run in runs)
        self._gpus = _gpus() if asks else []
        self._share = _share(runs[0].given if runs else {}, len(self._gpus), jobs)

    def take(self) -> int | None:
        """Return a place that is free, and take it; None where all are taken."""
        return self._free.pop(0) if self._free else None

    def give_back(self, place: int) -> None:
        """Say that a place is free again."""
        self._free = sorted((*self._free, place))

    def environment(self, place: int) -> dict[str, str]:
        """Return what a process at ``place`` is told of the GPUs; nothing where there is one at most."""
        if len(self._gpus) < 2:
            return {}
        first = place * self._share
        return {_VISIBLE: ",".join(self._gpus[(first + index) % len(self._gpus)] for index in range(self._share))}


def _share(given: Mapping[str, Any], num_all: int, jobs: int) -> int:
    """Return how many GPUs a run is shown: one, or as many as it has processes."""
    wanted = given.get("num_processes", 1)
    wanted = num_all // jobs if wanted == AUTO else int(wanted)
    return max(1, min(wanted, num_all))


def _gpus() -> list[str]:
    """Return the GPUs that can be used by the names that the driver takes."""
    count, visible = num_gpus(), os.environ.get(_VISIBLE)
    if visible is None:
        return [str(index) for index in range(count)]
    return [name.strip() for name in visible.split(",") if name.strip()][:count]
