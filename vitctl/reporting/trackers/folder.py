"""The folder that a run is told to a tracker in: made whole, and replaced only where nothing else lies in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitctl.primitives.documents import peek_document
from vitctl.primitives.files import whole_folder, write_json
from vitctl.primitives.outputs import check_replaceable, writing

MARKER = "vitctl-log.json"
"""Says that a folder is one of ``vitctl log``, of which tracker, and what it put there."""


def check_place(folder: Path, tracker: str) -> bool:
    """Check that a log may be written at ``folder``, changing nothing; return whether one is replaced.

    Raises:
        SettingError: Something else lies there, or it cannot be written to.
    """
    marker = peek_document(folder / MARKER)
    ours = marker.get("entries")
    is_ours = marker.get("to") == tracker and isinstance(ours, list)
    names = (MARKER, *map(str, ours or ())) if is_ours else ()
    return check_replaceable(folder, names, by=f"vitctl log --to {tracker}")


@contextmanager
def log_folder(folder: Path, tracker: str) -> Iterator[Path]:
    """Yield an empty folder to fill; put it, marked, in the place of ``folder`` if the block succeeds.

    Raises:
        SettingError: It cannot be written; what was there is as before.
    """
    with writing(folder), whole_folder(folder) as partial:
        yield partial
        write_json(partial / MARKER, {"to": tracker, "entries": sorted(path.name for path in partial.iterdir())})
