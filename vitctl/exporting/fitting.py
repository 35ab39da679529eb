"""Formats that were asked for, those that hold the model: found, and written into a folder each."""

import importlib.util
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, UnavailableError, VitctlError
from vitctl.exporting.formats import FIRST_ATTEMPT, PACKAGES, Exporter
from vitctl.results.export import RefusedFormat


@dataclass(frozen=True)
class Refusals:
    """What formats object to.

    Attributes:
        are_allowed: Whether such a format is left out, as of ``--to all``; else its objection is an error.
        conversation: Hears of what is left out.
        found: What was left out.
    """

    are_allowed: bool
    conversation: Conversation
    found: list[RefusedFormat] = field(default_factory=list)

    def add(self, name: str, error: VitctlError) -> None:
        """Leave out a format.

        Raises:
            VitctlError: ``error``, where nothing may be left out.
        """
        if not self.are_allowed:
            raise error
        self.found.append(RefusedFormat(name, str(error)))
        self.conversation.warn(f"left out {name}: {error}")


def check_packages(formats: Sequence[str]) -> None:
    """Check that the packages which ``formats`` need are installed; imports none of them.

    Raises:
        UnavailableError: One is not; the sentence says how to get it.
    """
    for name in formats:
        missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UnavailableError(
                f"--to {name} needs {' and '.join(missing)}, not installed here; try: pip install 'vitctl[{name}]'"
            )


def formats_that_fit(exporter: Exporter, formats: Sequence[str], refusals: Refusals) -> list[str]:
    """Return those of ``formats`` that can hold the model.

    Raises:
        ModelError: One cannot, and none may be left out.
        UnavailableError: The packages of one are not installed, and none may be left out.
    """
    fitting = []
    for name in formats:
        try:
            exporter.check(name)
            check_packages([name])  # of --to all, hf alone is left out where it could not be verified
            fitting.append(name)
        except (ModelError, UnavailableError) as error:
            refusals.add(name, error)
    return fitting


def write_formats(
    exporter: Exporter, formats: Sequence[str], staging: Path, refusals: Refusals, conversation: Conversation
) -> list[str]:
    """Write every format into its folder in ``staging``; return those that came about.

    Raises:
        ModelError: One did not, and none may be left out; or none did.
    """
    written = []
    with conversation.progress("exporting", len(formats), "formats") as bar:
        for name in formats:
            (staging / name).mkdir()
            try:
                how = exporter.write(name, staging / name)
                written.append(name)
                if how not in ("", FIRST_ATTEMPT):
                    conversation.line(f"{name}: exported {how}")
            except ModelError as error:
                shutil.rmtree(staging / name)
                refusals.add(name, error)
            bar.advance(format=name)
    if not written:
        raise ModelError(f"No format can hold {exporter.source.name}; nothing was written.")
    return written
