"""How the learning rate of a run was chosen among several, kept in its folder: ``RUN/selection.json``."""

import json
from dataclasses import dataclass
from pathlib import Path

from vitctl.primitives.documents import UnusableDocument, parse_document, peek_document
from vitctl.primitives.files import write_json
from vitctl.results.sweep import Selected

SELECTION = "selection.json"


@dataclass(frozen=True)
class KeptSelection:
    """A choice.

    Attributes:
        lr: What it was chosen from, as ``--lr`` has it: ``0.0001,0.0003``, or ``grid``.
        selected: What was chosen, and how.
    """

    lr: str
    selected: Selected


def write_selection(run: Path, kept: KeptSelection) -> None:
    """Write a choice into the folder of the run that was made by it."""
    write_json(run / SELECTION, {"lr": kept.lr, "selected": kept.selected.as_json()})


def read_selection(run: Path) -> KeptSelection | None:
    """Return the choice that a run was made by; None where it was made by none, or the file cannot be read."""
    document = peek_document(run / SELECTION)
    try:
        return parse_document(json.dumps(document), KeptSelection) if document else None
    except UnusableDocument:
        return None
