"""The trackers by name. A new one is its name in ``words.TRACKERS``, a file ``to_NAME.py`` here, an extra NAME."""

import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from vitctl.errors import UnavailableError
from vitctl.reporting.trackers.replay import Point, Replay


@dataclass(frozen=True)
class Tracker:
    """How a run is told to a tracker; each ``to_NAME.py`` has one by the name ``TRACKER``.

    Attributes:
        write: Fills a folder, which exists and is empty, with a run. The points come apart, to be counted on their way;
            they are the run's.
        view: The command that shows what was written; ``{}`` is the folder.
    """

    write: Callable[[Replay, Path, Iterable[Point]], None]
    view: str


def find_tracker(name: str) -> Tracker:
    """Return the tracker ``name``, one of ``words.TRACKERS``, whose package has the same name.

    Raises:
        UnavailableError: The package is not installed; the sentence says how to get it.
    """
    if importlib.util.find_spec(name) is None:
        raise UnavailableError(f"--to {name} needs {name}, not installed here; try: pip install 'vitctl[{name}]'")
    found: Tracker = import_module(f"vitctl.reporting.trackers.to_{name}").TRACKER
    return found
