"""The folder that a run is told to a tracker in: made whole, and replaced only where nothing else lies in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vitctl.errors import SettingError
from vitctl.primitives.documents import peek_document
from vitctl.primitives.files import whole_folder, write_json
from vitctl.primitives.outputs import check_writable, writing

MARKER = "vitctl-log.json"
"""Says that a folder is one of ``vitctl log``, of which tracker, and what it put there."""


def check_place(folder: Path, tracker: str) -> bool:
    """Check that a log may be written at ``folder``, changing nothing; return whether one is replaced.

    Raises:
        SettingError: Something else lies there, or it cannot be written to.
    """
    with writing(folder):
        if folder.exists() and not folder.is_dir():
            raise SettingError(f"--out {folder} is a file; expected a folder, or nothing there yet.", field="out")
        check_writable(folder)
        names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    marker = peek_document(folder / MARKER)
    ours = marker.get("entries")
    is_ours = marker.get("to") == tracker and isinstance(ours, list)
    foreign = sorted(names - {MARKER} - set(map(str, ours or ()))) if is_ours else sorted(names)
    if foreign:
        raise SettingError(
            f"--out {folder} holds {foreign[0]}, which vitctl log --to {tracker} did not write. Move it away, or give "
            "another folder with --out.",
            field="out",
        )
    return bool(names)


@contextmanager
def log_folder(folder: Path, tracker: str) -> Iterator[Path]:
    """Yield an empty folder to fill; put it, marked, in the place of ``folder`` if the block succeeds.

    Raises:
        SettingError: It cannot be written; what was there is as before.
    """
    with writing(folder), whole_folder(folder) as partial:
        yield partial
        write_json(partial / MARKER, {"to": tracker, "entries": sorted(path.name for path in partial.iterdir())})
