"""A run that stands where one is to be written: how to go on where its images are gone."""

from dataclasses import replace
from pathlib import Path

import pytest

from vitctl.errors import DataError, SettingError
from vitctl.recipes import as_document, load_recipe
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.earlier import EarlierRun, moved_data_are_told


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


def test_option_of_a_later_version__is_what_the_recipe_says(tmp_path: Path) -> None:
    """A run that knew nothing of ``tune`` trained as its recipe says, all weights."""
    recipe = as_document(load_recipe("demo"))
    before = FinetuneConfig(recipe_settings=recipe)
    now = replace(before, tune="full", layer_decay=1.0)
    run = EarlierRun(tmp_path, tmp_path, before)
    run.check_equal(now)
    for changes in ({"tune": "head"}, {"layer_decay": 0.5}, {"freeze": ("^head",)}, {"lr_scale": ("head=2",)}):
        with pytest.raises(SettingError) as caught:
            run.check_equal(replace(now, **changes))
        name = next(iter(changes)).replace("_", "-")
        assert any(f"--{name}: " in line for line in caught.value.args)
