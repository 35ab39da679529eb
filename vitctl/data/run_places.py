"""Where things lie that a run names by their paths, also after they were moved together with it."""

import os
from pathlib import Path

from vitctl.primitives.documents import peek_document


def former_place(run: Path) -> str | None:
    """Return the absolute path that a run folder had when it was last written to; None where it does not say.

    A finished run says it in its summary, a stopped one in its newest checkpoint.
    """
    place = peek_document(run / "summary.json").get("run") or _place_in_checkpoint(run)
    return place if isinstance(place, str) and os.path.isabs(place) else None


def _place_in_checkpoint(run: Path) -> object:
    steps = (path.name.removeprefix("step-") for path in run.glob("checkpoints/step-*"))
    newest = max((int(step) for step in steps if step.isdecimal()), default=0)
    made_with = peek_document(run / "checkpoints" / f"step-{newest}" / "state.json").get("made_with")
    return made_with.get("run") if isinstance(made_with, dict) else None


def beside_as_before(path: str, run: Path) -> str | None:
    """Return where ``path``, which is gone, lies now if it was moved together with ``run``; None where it was not.

    Args:
        path: As the run names it.
        run: The run folder, where it is now.
    """
    if not os.path.isabs(path) or os.path.exists(path) or (before := former_place(run)) is None:
        return None
    there = os.path.normpath(run.absolute() / os.path.relpath(path, before))
    return there if os.path.exists(there) else None
