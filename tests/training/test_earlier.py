"""A run that stands where one is to be written: how to go on where its images are gone."""

from pathlib import Path

import pytest

from vitctl.errors import DataError
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.earlier import moved_data_are_told


@pytest.mark.parametrize(
    ("data", "val", "resume", "expected"),
    [
        ("/gone", None, "/my runs/one", "vitctl finetune --resume '/my runs/one' --data NEW"),
        ("/gone", "/gone too", "/one", "vitctl finetune --resume /one --data NEW --val NEW"),
        ("digits", "/gone", "/one", "vitctl finetune --resume /one --val NEW"),
        ("/gone", None, None, None),  # no run goes on
        ("digits", None, "/one", None),
        ("/shards/*.tar", None, "/one", None),  # whether that is gone, its own error tells
        (str(Path(__file__).parent), None, "/one", None),
    ],
)
def test_data_that_are_gone__the_error_says_how_to_go_on(
    data: str, val: str | None, resume: str | None, expected: str | None
) -> None:
    with pytest.raises(DataError) as caught, moved_data_are_told(FinetuneConfig(data=data, val=val, resume=resume)):
        raise DataError("What is wrong.", "  a line")
    added = "" if expected is None else f" Where the data have moved: {expected}"
    assert caught.value.args == (f"What is wrong.{added}", "  a line")
