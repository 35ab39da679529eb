"""Bad input of ``vitctl evaluate``: one sentence on stderr, the agreed exit code, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

# options after "evaluate" ({run}: a finished run, {data}: its data), exit code, words of the sentence
CASES = {
    "nothing given": ("", 2, ("found neither",)),
    "no such run": ("nowhere", 4, ("neither a folder nor a model",)),
    "a model without data": ("--model demo", 2, ("--data SPEC",)),
    "two models": ("{run} --model demo", 2, ("found both",)),
    "misspelt split": ("{run} --split tset", 2, ("Did you mean 'test'",)),
    "no such split": ("{run} --split all", 3, ("no split 'all'",)),
    "empty run": ("{empty} --data digits", 2, ("RUN is empty",)),
    "out unwritable": ("{run} --out /proc/vitctl", 2, ("/proc/vitctl",)),
    "other classes": ("{run} --data digits", 3, ("unknown in training",)),
    "no data there": ("{run} --data nowhere", 3, ("nothing at",)),
    "no batch": ("{run} --batch-size 0", 2, ("--batch-size is 0",)),
    "root without data": ("{run} --image-root x --json", 2, ("--image-root is given without --data",)),
    "image column without data": ("{run} --image-column x --json", 2, ("--image-column is given without --data",)),
    "label column without data": ("{run} --label-column x --json", 2, ("--label-column is given without --data",)),
    "a column of a folder": ("{run} --data {data} --image-column x", 2, ("--image-column is given", "no use")),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(refused: Callable[..., None], finished_run: Path, case: str) -> None:
    line, exit_code, words = CASES[case]
    places = {"run": finished_run, "data": finished_run.parent / "data", "empty": ""}
    refused(["evaluate", *(part.format(**places) for part in line.split())], exit_code, words, finished_run.parent)
