"""The header's row on augmentation names what is on, and nothing else."""

from types import SimpleNamespace
from typing import Any

import pytest

from vitctl.primitives.decision import Decision
from vitctl.recipes import override
from vitctl.recipes.sections import Images, Recipe
from vitctl.training.header_augmentation import augmentation_setting


@pytest.mark.parametrize(
    ("images", "changes", "value", "reason"),
    [
        (Images(), [], "none, no flip", "flip: given"),
        (
            Images(crop="pad-random-crop", erasing=0.25, augment="rand-m9-mstd0.5-inc1"),
            [],
            "pad-random-crop, no flip, rand-m9-mstd0.5-inc1 (RandAugment), erasing 0.25",
            "flip: given; augment, erasing: recipe mine",
        ),
        (
            Images(rotate=10, augment="three"),
            ["images.zoom=0.2", "images.erasing=0"],
            "none, no flip, turns to 10 degrees, zooms to 0.2, three (3-Augment, colour jitter 0.3)",
            "flip: given; rotate: recipe mine; zoom: --set; augment: recipe mine",
        ),
        (
            Images(translate=0.1, shear=5, augment="three", color_jitter=0.5),
            [],
            "none, no flip, shifts to 0.1 of a side, shears to 5 degrees, three (3-Augment), colour jitter 0.5",
            "flip: given; translate, shear, augment, color_jitter: recipe mine",
        ),
    ],
)
def test_row(images: Images, changes: list[str], value: str, reason: str) -> None:
    recipe = override(Recipe(images=images), changes)
    plan = SimpleNamespace(values=recipe, recipe=Decision("mine", ""), flip=Decision(False, "given"))
    run: Any = SimpleNamespace(plan=plan, job=SimpleNamespace(flip=False))
    setting = augmentation_setting(run)
    assert (setting.value, setting.reason) == (value, reason)
