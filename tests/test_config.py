"""The settings of each command: ranges, contradictions, the file of a run, and what comes before what."""

import json
import math
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest

from vitctl.config import (
    EvaluateConfig,
    FinetuneConfig,
    ModelsConfig,
    PredictConfig,
    config_from_file,
    merge,
    option_of,
)
from vitctl.errors import SettingError


def test_option_of__is_the_field_with_dashes() -> None:
    assert option_of("pos_embed_interp") == "--pos-embed-interp"


def test_defaults__are_usable() -> None:
    assert FinetuneConfig().weights == "pretrained"
    assert ModelsConfig().pattern is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"steps": 0}, r"--steps is 0; expected 1 or more\."),
        ({"steps": -1}, "--steps"),
        ({"batch_size": 0}, r"--batch-size is 0; expected 1 or more\."),
        ({"num_threads": 0}, "--num-threads is 0"),
        ({"seed": -1}, r"--seed is -1; expected 0 or more\."),
        ({"num_workers": -1}, "--num-workers is -1"),
        ({"epochs": 0.0}, r"--epochs is 0\.0; expected a number above 0\."),
        ({"epochs": math.nan}, "--epochs is nan"),
        ({"epochs": math.inf}, "--epochs is inf"),
        ({"lr": 0.0}, r"--lr is 0\.0; expected a number above 0\."),
        ({"lr": -1e-3}, "--lr is -0.001"),
        ({"lr": math.nan}, "--lr is nan"),
        ({"lr": math.inf}, "--lr is inf"),
        ({"val_fraction": -0.1}, "--val-fraction is -0.1; expected a fraction, 0 to below 1"),
        ({"val_fraction": 1.0}, "--val-fraction is 1.0"),
        ({"val_fraction": math.nan}, "--val-fraction is nan"),
        ({"device": "gpu"}, "--device is 'gpu'; it can be auto, cpu, cuda, mps"),
        ({"on_bad_image": "ignore"}, "--on-bad-image is 'ignore'; it can be fail, skip"),
        ({"pos_embed_interp": "bicubic_aa"}, "--pos-embed-interp is 'bicubic_aa'.*Did you mean 'bicubic-aa'"),
        ({"steps": 5, "epochs": 1.0}, "--steps and --epochs are both given"),
        ({"val": "pets/val", "val_fraction": 0.1}, "--val and --val-fraction are both given"),
    ],
)
def test_finetune__a_value_out_of_range_is_refused_by_its_option(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        FinetuneConfig(**settings)


def test_finetune__the_ends_of_the_ranges_are_allowed() -> None:
    FinetuneConfig(steps=1, batch_size=1, num_threads=1, seed=0, num_workers=0, val_fraction=0.0, lr=1e-12)
    FinetuneConfig(epochs=0.01, val_fraction=0.99)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "Expected a run folder or --model NAME, one of them; found neither"),
        ({"run": "r", "model": "demo"}, "found both"),
        ({"run": "r", "weights": "none"}, "--weights is 'none' beside a run folder"),
        ({"run": "r", "batch_size": 0}, "--batch-size is 0"),
        ({"run": "r", "num_threads": 0}, "--num-threads is 0"),
        ({"run": "r", "num_workers": -1}, "--num-workers is -1"),
        ({"run": "r", "device": "tpu"}, "--device is 'tpu'"),
        ({"run": "r", "on_bad_image": "no"}, "--on-bad-image is 'no'"),
    ],
)
def test_evaluate__an_unusable_value_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        EvaluateConfig(**settings)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"run": "r"}, "No image is given"),
        ({"images": ("1.jpg",)}, "found neither"),
        ({"run": "r", "model": "demo", "images": ("1.jpg",)}, "found both"),
        ({"run": "r", "weights": "w.pth", "images": ("1.jpg",)}, "--weights is 'w.pth' beside a run folder"),
        ({"run": "r", "images": ("1.jpg",), "top_k": 0}, "--top-k is 0"),
        ({"run": "r", "images": ("1.jpg",), "batch_size": 0}, "--batch-size is 0"),
        ({"run": "r", "images": ("1.jpg",), "device": "tpu"}, "--device is 'tpu'"),
    ],
)
def test_predict__an_unusable_value_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        PredictConfig(**settings)


def test_model_and_weights__go_together() -> None:
    assert EvaluateConfig(model="demo", weights="none").weights == "none"
    assert PredictConfig(model="demo", weights="w.pth", images=("1.jpg",)).weights == "w.pth"


# Precedence: command line, then file, then default


def test_merge__given_values_come_before_those_of_the_file() -> None:
    base = FinetuneConfig(data="pets", lr=1e-3, seed=3)
    assert merge(base, {"lr": 2e-3}) == FinetuneConfig(data="pets", lr=2e-3, seed=3)


def test_merge__nothing_given_changes_nothing() -> None:
    base = FinetuneConfig(data="pets", steps=5, recipe="demo", recipe_settings={"lr": 1.0})
    assert merge(base, {}) == base


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        ({"steps": 5}, {"epochs": 2.0}, {"epochs": 2.0}),
        ({"epochs": 2.0}, {"steps": 5}, {"steps": 5}),
        ({"val": "pets/val"}, {"val_fraction": 0.1}, {"val_fraction": 0.1}),
        ({"val_fraction": 0.1}, {"val": "pets/val"}, {"val": "pets/val"}),
    ],
)
def test_merge__a_given_value_drops_its_rival_in_the_file(
    base: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merge(FinetuneConfig(**base), given) == FinetuneConfig(**expected)


def test_merge__rivals_that_are_both_given_are_refused() -> None:
    with pytest.raises(SettingError, match="--steps and --epochs are both given"):
        merge(FinetuneConfig(), {"steps": 5, "epochs": 1.0})


def test_merge__another_recipe_drops_the_settings_of_the_old_one() -> None:
    base = FinetuneConfig(recipe="demo", recipe_settings={"lr": 1.0})
    assert merge(base, {"recipe": "transfer"}) == FinetuneConfig(recipe="transfer")


def test_merge__given_values_are_checked() -> None:
    with pytest.raises(SettingError, match="--lr is -1"):
        merge(FinetuneConfig(), {"lr": -1.0})


# The config.json of a run


def write(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_file__gives_the_settings_back(tmp_path: Path) -> None:
    config = FinetuneConfig(data="pets", steps=5, lr=1e-3, flip=False, image_size="48", seed=3)
    document = {"vitctl": "0.1.0", "versions": {"torch": "2"}} | asdict(config)
    assert config_from_file(write(tmp_path, document)) == config


def test_file__gives_the_recipes_settings_back(tmp_path: Path) -> None:
    config = FinetuneConfig(recipe="demo", recipe_settings={"lr": 1.0, "betas": [0.9, 0.999]})
    assert config_from_file(write(tmp_path, asdict(config))) == config


def test_file__of_a_few_settings_leaves_the_others_at_their_defaults(tmp_path: Path) -> None:
    assert config_from_file(write(tmp_path, {"steps": 5})) == FinetuneConfig(steps=5)


@pytest.mark.parametrize("name", [field.name for field in fields(FinetuneConfig)])
def test_file__every_setting_has_a_type_that_is_checked(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingError, match=rf"{name} in --config .* is \[1\]; expected "):
        config_from_file(write(tmp_path, {name: [1]}))


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ({"stepz": 5}, r"unknown setting 'stepz'\. Did you mean 'steps'"),
        ({"steps": "5"}, "steps in --config .* is '5'; expected int or None"),
        ({"steps": 5.0}, r"steps in --config .* is 5\.0; expected int"),
        ({"steps": True}, "steps in --config .* is True; expected int"),
        ({"lr": True}, "lr in --config .* is True; expected float"),
        ({"flip": 1}, "flip in --config .* is 1; expected bool"),
        ({"data": 3}, "data in --config .* is 3; expected str"),
        ({"device": None}, "device in --config .* is None; expected str"),
        ({"recipe_settings": []}, r"recipe_settings in --config .* is \[\]"),
        ({"steps": 0}, "--steps is 0"),
        ([1], "holds no settings"),
        ("3", "holds no settings"),
        ("{", "cannot be read"),
        ("", "cannot be read"),
    ],
)
def test_file__mistakes_are_named(tmp_path: Path, document: Any, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        config_from_file(write(tmp_path, document))


def test_file__whole_numbers_are_rates_too(tmp_path: Path) -> None:
    assert config_from_file(write(tmp_path, {"epochs": 2})).epochs == 2


def test_file__that_is_not_there_or_not_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="--config .* cannot be read"):
        config_from_file(tmp_path / "nowhere.json")
    (tmp_path / "config.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="--config .* cannot be read"):
        config_from_file(tmp_path / "config.json")
