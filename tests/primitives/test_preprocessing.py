"""Preprocessing speaks timm's words."""

import dataclasses

import pytest
from timm.data import resolve_data_config

from vitctl.primitives.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((24, 32), "bilinear", 0.9, "squash", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def test_data_config_is_what_timm_resolves_it_to() -> None:
    config = PREPROCESSING.data_config()
    assert resolve_data_config(args=config) == config  # every key known to timm, no value changed


def test_data_config_holds_every_field() -> None:
    config = PREPROCESSING.data_config()
    assert config["input_size"] == (3, 24, 32)
    for field in dataclasses.fields(Preprocessing):
        if field.name not in ("image_size", "max_value"):  # of the latter, which comes before, timm knows nothing
            assert config[field.name] == getattr(PREPROCESSING, field.name)


def test_preprocessing_does_not_change_and_compares_by_value() -> None:
    assert dataclasses.replace(PREPROCESSING) == PREPROCESSING
    assert dataclasses.replace(PREPROCESSING, crop_pct=1.0) != PREPROCESSING
    with pytest.raises(dataclasses.FrozenInstanceError):
        PREPROCESSING.crop_pct = 1.0  # type: ignore[misc]
