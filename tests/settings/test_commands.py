"""The settings of each command: ranges, contradictions, the file of a run, and what comes before what."""

import json
import math
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.settings.data import DataConfig
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.models import ModelsConfig
from vitctl.settings.option import option_of
from vitctl.settings.predict import PredictConfig


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
        ({"cache": "resize"}, "--cache is 'resize'; it can be none, resized.*Did you mean 'resized'"),
        ({"cache": "RESIZED"}, "--cache is 'RESIZED'; it can be none, resized"),
        (
            {"class_weights": "balance"},
            "--class-weights is 'balance'; it can be none, balanced.*Did you mean 'balanced'",
        ),
        ({"sampler": "balancd"}, "--sampler is 'balancd'; it can be shuffle, balanced.*Did you mean 'balanced'"),
        ({"sampler": "none"}, "--sampler is 'none'; it can be shuffle, balanced"),
        (
            {"class_weights": "balanced", "sampler": "balanced"},
            r"--class-weights balanced and --sampler balanced are both given.*Keep one\.",
        ),
        (
            {"group_column": "patient", "group_pattern": "{group}/*"},
            "--group-column and --group-pattern are both given; expected one way",
        ),
        ({"image_root": ""}, "--image-root is empty; give it a value, or leave it out"),
        ({"group_pattern": ""}, "--group-pattern is empty"),
        ({"label_column": ""}, "--label-column is empty"),
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
        ({"run": "r", "image_root": "photos"}, "--image-root is given without --data; the run's own data know theirs"),
        ({"run": "r", "image_column": "scan"}, "--image-column is given without --data"),
        ({"run": "r", "label_column": "breed"}, "--label-column is given without --data"),
        ({"run": "r", "class_depth": 2}, "--class-depth is given without --data"),
        ({"run": "r", "data": "photos", "class_depth": 0}, "--class-depth is 0"),
    ],
)
def test_evaluate__an_unusable_value_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        EvaluateConfig(**settings)


def test_evaluate__columns_go_with_data() -> None:
    config = EvaluateConfig(run="r", data="t.csv", image_root="photos", image_column="scan", label_column="breed")
    assert (config.image_root, config.image_column, config.label_column) == ("photos", "scan", "breed")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "No data are given; expected e.g. vitctl data photos/"),
        ({"data": ""}, "--data is empty"),
        ({"data": "pets", "out": ""}, "--out is empty"),
        ({"data": "pets", "val_fraction": 1.0}, "--val-fraction is 1.0; expected a fraction, 0 to below 1"),
        ({"data": "pets", "val_fraction": -0.1}, "--val-fraction is -0.1"),
        ({"data": "pets", "val_fraction": math.nan}, "--val-fraction is nan"),
        ({"data": "pets", "seed": -1}, r"--seed is -1; expected 0 or more\."),
        ({"data": "pets", "seed": 2**63}, r"--seed is 9223372036854775808; expected less than 2\^63"),
        (
            {"data": "pets", "group_column": "patient", "group_pattern": "{group}/*"},
            "--group-column and --group-pattern are both given",
        ),
    ],
)
def test_data__an_unusable_value_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        DataConfig(**settings)


def test_data__shares_its_settings_with_finetune() -> None:
    """What ``data`` says of a run holds only where the same name means the same."""
    shared = {field.name for field in fields(DataConfig)} - {"out"}
    defaults = {field.name: field.default for field in fields(FinetuneConfig)}
    assert shared <= set(defaults)
    assert all(getattr(DataConfig(data="pets"), name) == defaults[name] for name in shared - {"data"})


@pytest.mark.parametrize("settings", [{"class_weights": "balanced"}, {"sampler": "balanced"}, {"cache": "resized"}])
def test_finetune__each_alone_is_allowed(settings: dict[str, str]) -> None:
    config = FinetuneConfig(**settings)  # type: ignore[arg-type]
    assert {name: getattr(config, name) for name in settings} == settings


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"run": "r"}, "No image is given"),
        ({"run": "", "images": ("1.jpg",)}, "RUN is empty; give it a value, or leave it out"),
        ({"run": "r", "images": ("1.jpg", "")}, "IMAGES is empty"),
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


TABLE = {"image_root": "scans", "image_column": "scan", "label_column": "eye", "group_column": "patient"}


def test_merge__other_data_drop_how_the_old_ones_were_read() -> None:
    base = FinetuneConfig(data="eyes.csv", val="more.csv", flip=True, sampler="balanced", seed=3, **TABLE)
    assert merge(base, {"data": "pets"}) == FinetuneConfig(data="pets", sampler="balanced", seed=3)
    base = FinetuneConfig(data="pets", group_pattern="{group}/*")
    assert merge(base, {"data": "cars"}) == FinetuneConfig(data="cars")


def test_merge__columns_given_with_other_data_are_kept() -> None:
    base = FinetuneConfig(data="eyes.csv", **TABLE)
    merged = merge(base, {"data": "pets.csv", "label_column": "breed"})
    assert merged == FinetuneConfig(data="pets.csv", label_column="breed")


def test_merge__the_same_data_keep_how_they_were_read() -> None:
    base = FinetuneConfig(data="eyes.csv", **TABLE)
    assert merge(base, {"seed": 4}) == FinetuneConfig(data="eyes.csv", seed=4, **TABLE)


@pytest.mark.parametrize(
    ("base", "given", "expected"),
    [
        ({"group_column": "patient"}, {"group_pattern": "{group}/*"}, {"group_pattern": "{group}/*"}),
        ({"group_pattern": "{group}/*"}, {"group_column": "patient"}, {"group_column": "patient"}),
        ({"sampler": "balanced"}, {"class_weights": "balanced"}, {"class_weights": "balanced"}),
        ({"class_weights": "balanced"}, {"sampler": "balanced"}, {"sampler": "balanced"}),
    ],
)
def test_merge__a_given_way_to_group_or_balance_drops_the_files(
    base: dict[str, Any], given: dict[str, Any], expected: dict[str, Any]
) -> None:
    assert merge(FinetuneConfig(**base), given) == FinetuneConfig(**expected)


def test_merge__the_usual_way_given_drops_nothing() -> None:
    """``--sampler shuffle`` is no rival of the file's ``class_weights``."""
    base = FinetuneConfig(class_weights="balanced")
    assert merge(base, {"sampler": "shuffle"}) == base


def test_merge__another_model_drops_the_weights_and_the_size_of_the_old_one() -> None:
    base = FinetuneConfig(model="demo", weights="none", image_size=(48, 48), lr=0.1)
    assert merge(base, {"model": "vit_tiny"}) == FinetuneConfig(model="vit_tiny", lr=0.1)
    assert merge(base, {"weights": "pretrained"}) == FinetuneConfig(model="demo", image_size=(48, 48), lr=0.1)


def test_merge__rivals_that_are_both_given_are_refused() -> None:
    with pytest.raises(SettingError, match="--steps and --epochs are both given"):
        merge(FinetuneConfig(), {"steps": 5, "epochs": 1.0})


def test_merge__another_recipe_drops_the_settings_of_the_old_one() -> None:
    decided: dict[str, Any] = {"lr": 1.0, "batch_size": 8, "flip": True, "pos_embed_interp": "paper", "head": "zero"}
    for length in ({"steps": 5}, {"epochs": 2.0}):
        base = FinetuneConfig(recipe="demo", recipe_settings={"lr": 1.0}, **decided, **length, seed=3)
        assert merge(base, {"recipe": "transfer"}) == FinetuneConfig(recipe="transfer", seed=3)


# --set: what the file's run was trained with is in its recipe_settings and its options; --set now comes before both


RUN = {"recipe": "demo", "lr": 0.1, "batch_size": 8, "steps": 5, "flip": True, "recipe_settings": {"lr": 0.2}}


def test_merge__what_the_file_set_stays() -> None:
    base = FinetuneConfig(**RUN, set=("rate.lr=0.2",))
    assert merge(base, {}) == base
    assert merge(base, {"seed": 3}) == FinetuneConfig(**RUN, set=("rate.lr=0.2",), seed=3)


@pytest.mark.parametrize(
    ("text", "forgotten"),
    [
        ("rate.lr=1", {"lr"}),
        ("rate.lr_at_batch=64", {"lr"}),
        ("length.steps=9", {"steps"}),
        ("images.flip=false", {"flip"}),
        ("optimizer.weight_decay=0", set()),
    ],
)
def test_merge__what_is_set_now_drops_what_the_file_decided_from_it(text: str, forgotten: set[str]) -> None:
    kept = {name: value for name, value in RUN.items() if name not in forgotten}
    merged = merge(FinetuneConfig(**RUN, set=("optimizer.name=sgd",)), {"set": (text,)})
    assert merged == FinetuneConfig(**kept, set=("optimizer.name=sgd", text))


def test_merge__an_option_drops_what_the_file_set() -> None:
    base = FinetuneConfig(**RUN, set=("rate.lr=0.2", "optimizer.name=sgd"))
    assert merge(base, {"lr": 3.0}) == FinetuneConfig(**RUN | {"lr": 3.0}, set=("optimizer.name=sgd",))
    assert merge(FinetuneConfig(set=("rate.lr=0.2",)), {"lr": 3.0}) == FinetuneConfig(lr=3.0)


def test_merge__another_recipe_drops_what_the_file_set() -> None:
    base = FinetuneConfig(**RUN, set=("rate.lr=0.2",))
    assert merge(base, {"recipe": "transfer"}) == FinetuneConfig(recipe="transfer")
    changes = {"recipe": "transfer", "set": ("rate.lr=0.3",)}
    assert merge(base, changes) == FinetuneConfig(recipe="transfer", set=("rate.lr=0.3",))


def test_set_and_its_option__both_given_is_refused() -> None:
    with pytest.raises(SettingError, match=r"--lr and --set rate\.lr are both given"):
        FinetuneConfig(lr=1.0, set=("rate.lr=1",))
    with pytest.raises(SettingError, match=r"--lr and --set rate\.lr are both given"):
        merge(FinetuneConfig(**RUN), {"lr": 1.0, "set": ("rate.lr=1",)})
    with pytest.raises(SettingError, match=r"--flip and --set images\.flip are both given"):
        merge(FinetuneConfig(), {"flip": False, "set": ("images.flip=true",)})


def test_merge__given_values_are_checked() -> None:
    with pytest.raises(SettingError, match="--lr is -1"):
        merge(FinetuneConfig(), {"lr": -1.0})


# The config.json of a run


def write(tmp_path: Path, document: Any) -> Path:
    path = tmp_path / "config.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


def test_file__gives_the_settings_back(tmp_path: Path) -> None:
    config = FinetuneConfig(data="pets", steps=5, flip=False, image_size="48", seed=3, set=("rate.lr=1e-3",))
    document = {"vitctl": "0.1.0", "versions": {"torch": "2"}} | config.as_json()
    assert config_from_file(write(tmp_path, document)) == config


def test_file__gives_the_recipes_settings_back(tmp_path: Path) -> None:
    config = FinetuneConfig(recipe="demo", recipe_settings={"lr": 1.0, "betas": [0.9, 0.999]})
    assert config_from_file(write(tmp_path, config.as_json())) == config


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
        ({"lr": True}, "lr in --config .* is True; expected str or float"),
        ({"flip": 1}, "flip in --config .* is 1; expected bool"),
        ({"data": 3}, "data in --config .* is 3; expected str"),
        ({"device": None}, "device in --config .* is None; expected str"),
        ({"set": "rate.lr=1"}, r"set in --config .* is 'rate\.lr=1'; expected list of texts or None"),
        ({"set": ["rate.lr=1"], "lr": 1.0}, r"--lr and --set rate\.lr are both given"),
        ({"recipe_settings": []}, r"recipe_settings in --config .* is \[\]"),
        ({"steps": 0}, "--steps is 0"),
        ([1], r"cannot be read: it holds \[1\], not an object .* expected the config\.json of a run"),
        ("3", "cannot be read: it holds 3, not an object"),
        ("{", "cannot be read"),
        ("", "cannot be read"),
        ("[" * 100_000, "cannot be read"),
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
