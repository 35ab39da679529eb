"""Where run folders are, below a folder. No torch."""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from vitctl.primitives.atomic import partial_of
from vitctl.primitives.documents import peek_document
from vitctl.run_folders.layout import CONFIG, METRICS, SUMMARY

_ONLY_OF_RUNS = (METRICS, SUMMARY, "speed.jsonl", "training-images.txt")


def find_runs(folder: Path, on_error: Callable[[OSError], None] | None = None) -> Iterator[Path]:
    """Yield the run folders below ``folder``, itself included, in the order of their names; none within another.

    Hidden folders are passed over. A link to a run is one, unless that run is yielded itself; other links are not
    followed, as they may lead anywhere. A run whose config.json is damaged is one, which ``look_at`` says.

    Args:
        folder: Where to look.
        on_error: Gets the error of each folder that cannot be read; None passes over them.
    """
    found = list(_found(Path(os.path.abspath(folder)), on_error))
    real = {os.path.realpath(path) for path in found if not path.is_symlink()}
    for path in found:
        target = os.path.realpath(path)
        if not path.is_symlink() or target not in real:
            real.add(target)
            yield path


def _found(folder: Path, on_error: Callable[[OSError], None] | None) -> Iterator[Path]:
    waiting = [folder]
    while waiting:
        path = waiting.pop()
        if _is_run_beside(path):
            yield path
            continue
        try:
            with os.scandir(path) as listing:
                entries = {entry.name: entry for entry in listing}
        except OSError as error:
            if on_error is not None:
                on_error(error)
            continue
        if _is_run(path, entries):
            yield path
            continue
        if path.is_symlink() and path != folder:
            continue
        names = {name for name, entry in entries.items() if not name.startswith(".") and _is_folder(entry)}
        names |= {name for name in _of_partials(entries) if _is_run_beside(path / name)}
        waiting += [path / name for name in sorted(names, reverse=True)]


def _of_partials(entries: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the folders that grow, or grew, beside their places: ``.NAME.partial``."""
    for name in entries:
        if name.startswith(".") and name.endswith(".partial") and len(name) > len("..partial"):
            yield name.removeprefix(".").removesuffix(".partial")


def _is_run_beside(path: Path) -> bool:
    """Return whether there is nothing at ``path`` but a run beside it, the one that it was to replace being gone."""
    return not os.path.lexists(path) and "vitctl" in peek_document(partial_of(path) / CONFIG)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle
        return False


def _is_run(path: Path, names: Mapping[str, Any]) -> bool:
    if CONFIG not in names:
        return False
    config = peek_document(path / CONFIG)
    return "vitctl" in config or (not config and any(name in names for name in _ONLY_OF_RUNS))
