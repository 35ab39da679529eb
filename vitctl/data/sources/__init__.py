"""Data sources: one file per kind, behind the contract of ``vitctl.data.source``.

To add one: write the file (``recognises`` and ``open_source``) and name it in ``SOURCES``, before any
that would also recognise its specs.
"""

from typing import Protocol

from vitctl.data.source import Source
from vitctl.data.sources import digits, folder, idx
from vitctl.errors import DataError


class SourceKind(Protocol):
    """What each file here offers."""

    def recognises(self, spec: str) -> bool:
        """Return whether ``spec`` is written for this kind; looks, reads nothing big."""

    def open_source(self, spec: str) -> Source:
        """Return what ``spec`` stands for; DataError with one sentence where it cannot."""


SOURCES: tuple[SourceKind, ...] = (digits, idx, folder)


def open_source(spec: str) -> Source:
    """Return the source that ``spec`` stands for: ``digits``, an IDX folder, a folder of class folders.

    Raises:
        DataError: There is nothing there, or it is inconsistent.
    """
    try:
        for kind in SOURCES:
            if kind.recognises(spec):
                return kind.open_source(spec)
        return folder.open_source(spec)  # the most general kind knows best what is wrong
    except OSError as error:
        raise DataError(f"{spec} cannot be read: {error.strerror}; expected a data set that you may read.") from error
