"""What a recipe may say of augmentation: timm's spellings, and nothing that timm would pass over."""

import pytest

from vitctl.errors import SettingError
from vitctl.primitives.augment_specs import OPERATION_SETS, check_augment, known_as
from vitctl.recipes import override
from vitctl.recipes.sections import Recipe


@pytest.mark.parametrize(
    ("spec", "name"),
    [
        ("trivial", "TrivialAugment"),
        ("three", "3-Augment"),
        ("rand", "RandAugment"),
        ("rand-m9-mstd0.5-inc1", "RandAugment"),
        ("rand-m15-mmax30-n3-p0.5-mstd101", "RandAugment"),
        *((f"rand-n14-t{name}", "RandAugment") for name in OPERATION_SETS),
        ("augmix", "AugMix"),
        ("augmix-m5-w4-d2-a0.5-b1-mstd1", "AugMix"),
        ("original", "AutoAugment"),
        ("v0r-mstd0.5", "AutoAugment"),
        ("3a", "AutoAugment"),
    ],
)
def test_check__takes_what_means_something(spec: str, name: str) -> None:
    check_augment(spec, what="augment")
    assert known_as(spec) == name


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("", "''; it can be none, trivial, three, or as timm spells it, e.g. rand-m9-mstd0.5-inc1"),
        ("RandAugment", r"Did you mean 'rand-m9-mstd0\.5-inc1'\?"),
        ("Trivial", "Did you mean 'trivial'"),
        ("3-Augment", "Did you mean 'three'"),
        ("rand-inc", "inc has ''; expected a whole number, 0 to 1"),  # timm passes over it
        ("rand-m9.5", "m has '9.5'; expected a whole number"),
        ("rand-m9-m8", "'m' stands there twice"),
        ("rand-m15", "magnitude 15 is above 10.*or mmax15 beside it"),  # timm clips it
        ("rand-n15-tweights", "n has '15'"),  # timm draws 15 of 15 without putting back
        ("rand-p1.5", "p has '1.5'; expected a number, 0 to 1"),
        ("rand-mstd1e3", "mstd has '1e3'"),
        ("rand-q3", "'q3' is no part of it; the parts are m, n, p, mstd, mmax, inc"),
        ("rand-tall", "'tall' names no set of operations; expected tweights, t3a, t3aw"),
        ("rand-", "'' is no part of it"),
        ("augmix-n2", "'n2' is no part of it; the parts are m, w, d, a, b, mstd"),
        ("augmix-a0", "a has '0'"),
        ("original-m9", "the parts are mstd"),
    ],
)
def test_check__says_what_is_wrong_where_recipes_are_read(spec: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=rf"(?s)^--set: images\.augment is .*{sentence}"):
        override(Recipe(), [f'images.augment="{spec}"'])
