"""Run folders of ``vitctl finetune`` as those see them who load a model of one."""

from pathlib import Path

from vitctl.models.named import model_folder
from vitctl.primitives.atomic import recover
from vitctl.primitives.documents import peek_document
from vitctl.primitives.files import user_path
from vitctl.settings.words import WHICH


def is_run_folder(folder: Path) -> bool:
    """Return whether ``folder`` holds the ``config.json`` of a vitctl run."""
    recover(folder)
    return "vitctl" in peek_document(folder / "config.json")


def run_of(spec: str | None) -> Path | None:
    """Return the run folder that ``spec`` names, itself or by a folder of weights in it; None where it names none."""
    if spec is None:
        return None
    folder = user_path(spec).absolute()
    if is_run_folder(folder):
        return folder
    return folder.parent if folder.name in WHICH and is_run_folder(folder.parent) else None


def stopped_note(spec: str) -> str | None:
    """Return a sentence for who loads the model ``spec``, where that is a run without a best/; else None."""
    run = user_path(spec).absolute()
    if model_folder(spec) == run / "last" and is_run_folder(run):
        return f"{spec} was stopped before its end: these are the weights of its last/."
    return None
