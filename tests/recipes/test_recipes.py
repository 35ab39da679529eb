"""Recipes: every value has a source, every mistake in a file has a sentence."""

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.recipes import Recipe, list_recipes, load_recipe, recipe_from_settings, recipe_path

SETTINGS = sorted(field.name for field in fields(Recipe) if field.name != "sources")


def settings_with(**changes: Any) -> dict[str, Any]:
    return load_recipe("transfer").as_settings() | changes


def from_settings(settings: dict[str, Any]) -> Recipe:
    return recipe_from_settings(settings, sources={}, where="recipe mine.toml")


def test_recipes__those_of_the_package() -> None:
    assert {"demo", "transfer", "vit-paper"} <= set(list_recipes())


@pytest.mark.parametrize("name", list_recipes())
def test_recipe__every_value_has_a_source(name: str) -> None:
    recipe = load_recipe(name)
    assert sorted(recipe.sources) == SETTINGS
    for key, source in recipe.sources.items():
        assert source.strip(), key


@pytest.mark.parametrize("name", list_recipes())
def test_recipe__settings_make_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert from_settings(recipe.as_settings()) == recipe


@pytest.mark.parametrize("name", list_recipes())
def test_recipe__copy_in_a_file_is_the_same(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_bytes(recipe_path(name).read_bytes())
    assert load_recipe(str(copy)) == load_recipe(name)


def test_recipe__name_of_the_package_comes_before_a_file() -> None:
    Path("demo").write_text("not TOML [")  # in this test's own working folder
    assert load_recipe("demo").optimizer == "adamw"


def test_recipe__unknown_name_gives_near_matches_and_the_list() -> None:
    with pytest.raises(SettingError, match=r"no recipe 'transfr'.*Did you mean 'transfer'.*The recipes are .*demo"):
        load_recipe("transfr")


def edited(tmp_path: Path, pattern: str, replacement: str) -> str:
    """Write recipe transfer with the line that ``pattern`` matches replaced."""
    text = recipe_path("transfer").read_text(encoding="utf-8")
    changed, count = re.subn(pattern, replacement, text, flags=re.MULTILINE)
    assert count == 1
    (tmp_path / "mine.toml").write_text(changed, encoding="utf-8")
    return str(tmp_path / "mine.toml")


@pytest.mark.parametrize(
    ("pattern", "replacement", "sentence"),
    [
        (r"^momentum = .*$", "", r"lacks momentum; 'vitctl recipes show transfer' has all settings"),
        (r"^momentum =", "momentun =", r"unknown setting 'momentun'\. Did you mean 'momentum'"),
        (r"^momentum = .*$", "momentum = 0.0", r"momentum in recipe .* is 0\.0; expected \{ value"),
        (r"^momentum = .*$", 'momentum = { source = "x" }', r"expected \{ value = \.\.\., source"),
        (r"^momentum = .*$", 'momentum = { value = "0", source = "x" }', r"momentum in .* is '0'; expected float"),
        (r"^momentum = .*$", 'momentum = { value = true, source = "x" }', r"is True; expected float"),
        (r"^batch_size = .*$", 'batch_size = { value = 1.5, source = "x" }', r"is 1\.5; expected int"),
        (r"^batch_size = .*$", 'batch_size = { value = true, source = "x" }', r"is True; expected int"),
        (r"^flip = .*$", 'flip = { value = 1, source = "x" }', r"flip in .* is 1; expected bool"),
        (r"^betas = .*$", 'betas = { value = [0.9], source = "x" }', r"betas in .* is \[0\.9\]; expected a list"),
        (r"^betas = .*$", 'betas = { value = ["a", "b"], source = "x" }', r"betas in .* is 'a'; expected float"),
        (r"^head = .*$", 'head = { value = "zeros", source = "x" }', r"head is 'zeros'; it can be zero, random"),
        (r"^momentum = .*$", "momentum = {", r"cannot be read"),
    ],
)
def test_recipe_file__mistakes_are_named(tmp_path: Path, pattern: str, replacement: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        load_recipe(edited(tmp_path, pattern, replacement))


def test_recipe_file__integers_are_numbers_too(tmp_path: Path) -> None:
    recipe = load_recipe(edited(tmp_path, r"^momentum = .*$", 'momentum = { value = 0, source = "x" }'))
    assert type(recipe.momentum) is float


def test_recipe_file__that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingError, match="cannot be read"):
        load_recipe(str(tmp_path / "mine.toml"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0), ("lr", -1e-3), ("lr_at_batch", 0), ("batch_size", 0), ("validations", 0), ("momentum", -0.1),
        ("weight_decay", -0.1), ("clip_norm", -1.0), ("final_lr", -1.0), ("steps", -1), ("select_best_from", -1),
        ("layer_decay", 0.0), ("layer_decay", 1.1), ("warmup_fraction", -0.1), ("warmup_fraction", 1.1),
        ("crop_area", [0.0, 1.0]), ("crop_area", [0.5, 0.4]), ("crop_area", [0.5, 1.5]),
        ("name", "adam"), ("lr_scaling", "log"), ("batch_rule", "half"), ("steps_rule", "auto"), ("crop", "center"),
        ("evaluation_crop", "border"), ("pos_embed_interp", "linear"),
    ],
)  # fmt: skip
def test_settings__out_of_range_are_refused_by_name(key: str, value: Any) -> None:
    with pytest.raises(SettingError, match=key):
        from_settings(settings_with(**{key: value}))


def test_settings__fixed_steps_need_a_number() -> None:
    with pytest.raises(SettingError, match="steps is 0 but steps_rule is 'fixed'"):
        from_settings(settings_with(steps_rule="fixed", steps=0))


@pytest.mark.parametrize(
    ("scaling", "at_64", "at_256"), [("none", 0.1, 0.1), ("sqrt", 0.05, 0.1), ("linear", 0.025, 0.1)]
)
def test_peak_lr__follows_the_batch(scaling: str, at_64: float, at_256: float) -> None:
    recipe = from_settings(settings_with(lr=0.1, lr_at_batch=256, lr_scaling=scaling))
    assert recipe.peak_lr(64) == pytest.approx(at_64)
    assert recipe.peak_lr(256) == pytest.approx(at_256)
