"""Bad input of ``vitctl predict``: one sentence on stderr, the agreed exit code, nothing written."""

from collections.abc import Callable
from pathlib import Path

import pytest

# words after "predict" ({run}: a finished run, {empty}: an empty folder), exit code, words of the sentence
CASES = {
    "no image": ("{run}", 2, ("No image is given",)),
    "an empty folder": ("{run} {empty}", 3, ("1 of 1 images could not be read",)),
    "no such run": ("nowhere x.png", 4, ("neither a folder nor a model",)),
    "no class asked for": ("{run} x.png --top-k 0", 2, ("--top-k is 0",)),
    "two forms": ("{run} x.png --json --csv", 2, ("one of them",)),
}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(
    refused: Callable[..., None], finished_run: Path, tmp_path: Path, case: str
) -> None:
    line, exit_code, words = CASES[case]
    refused(["predict", *line.format(run=finished_run, empty=tmp_path).split()], exit_code, words, finished_run)
