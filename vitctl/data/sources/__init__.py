"""Data sources: one file per kind, behind the contract of ``vitctl.data.source``.

To add one: write the file (``OPTIONS``, ``recognises`` and ``open_source``) and name it in ``SOURCES``, before
any that would also recognise its specs.
"""

from dataclasses import replace
from typing import Protocol

from vitctl.data.source import Source, SourceOptions
from vitctl.data.sources import digits, folder, hub, idx, saved, shards, table, zips
from vitctl.errors import DataError, SettingError


class SourceKind(Protocol):
    """What each file here offers."""

    OPTIONS: tuple[str, ...]

    def recognises(self, spec: str) -> bool:
        """Return whether ``spec`` is written for this kind; looks, reads nothing big."""

    def open_source(self, spec: str, options: SourceOptions) -> Source:
        """Return what ``spec`` stands for; DataError with one sentence where it cannot."""


SOURCES: tuple[SourceKind, ...] = (digits, hub, table, shards, saved, idx, zips, folder)


def open_source(
    spec: str, options: SourceOptions | None = None, *, is_strict: bool = True, otherwise: SourceOptions | None = None
) -> Source:
    """Return the source that ``spec`` stands for.

    Args:
        spec: ``digits``, ``hub:OWNER/NAME``, or the path of a table, of tar shards, of a saved data set, of a
            folder of IDX files, or of class folders, which may be a ``.zip``.
        options: How to read it; None leaves everything to the source.
        is_strict: Refuse an option that means nothing to this kind of source, instead of passing it over.
        otherwise: For what ``options`` leave open; what means nothing to this kind of source is passed over.

    Raises:
        SettingError: Such an option is given.
        DataError: There is nothing there, or it is inconsistent.
    """
    options = options or SourceOptions()
    try:
        kind = next((kind for kind in SOURCES if kind.recognises(spec)), None)
        if kind is None:
            return folder.open_source(spec, options)  # the most general kind knows best what is wrong
        unused = [name for name in options.given() if name not in kind.OPTIONS]
        if unused and is_strict:
            option = "--" + unused[0].replace("_", "-")
            raise SettingError(f"{option} is given, but {spec} has no use for it; leave it out.", field=unused[0])
        known = {} if otherwise is None else otherwise.given()
        known = {name: value for name, value in known.items() if name in kind.OPTIONS}
        return kind.open_source(spec, replace(options, **(known | options.given())))
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error.strerror}; expected a data set that you may read.") from error
