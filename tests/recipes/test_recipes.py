"""Recipes: every value has a source, old files load, every mistake in a file has a sentence."""

import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import pytest

from vitctl.errors import SettingError
from vitctl.recipes import (
    Recipe,
    as_document,
    flat_settings,
    keys_of,
    list_recipes,
    load_recipe,
    override,
    recipe_file,
    recipe_from_settings,
    recipe_path,
)
from vitctl.recipes.keys import Range
from vitctl.recipes.reading import SECTIONS_OF_0_1_0
from vitctl.recipes.sections import Optimizer


def nested(recipe: Recipe) -> dict[str, Any]:
    """Return the values by section, as a recipe file has them."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    del document["sources"]
    return document


GOLDEN = Path(__file__).parents[1] / "golden"


def from_settings(settings: dict[str, Any], recipe_class: type[Recipe] = Recipe) -> Recipe:
    return recipe_from_settings(settings, where="Recipe mine.toml", recipe_class=recipe_class)


def mistakes_in(settings: dict[str, Any]) -> str:
    with pytest.raises(SettingError) as caught:
        from_settings(settings)
    return str(caught.value)


# The recipes of the package


def test_recipes__those_of_the_package() -> None:
    assert {"demo", "transfer", "vit-paper"} <= set(list_recipes())


def every_recipe() -> list[str]:
    """Return the names of the recipes in the package and of all their variants."""
    return [
        f"{name}:{variant}" if variant else name
        for name in list_recipes()
        for variant in ("", *recipe_file(name).variants)
    ]


@pytest.mark.parametrize("name", every_recipe())
def test_recipe__every_value_has_a_source(name: str) -> None:
    """What is not given is off, or at its default, as ``vitctl recipes check`` lists; what changes a thing is given."""
    recipe = load_recipe(name)
    assert recipe.about
    for path, key in keys_of(Recipe).items():
        if key.section and getattr(getattr(recipe, key.section), key.name) != key.default:
            assert path in recipe.sources
    for path, source in recipe.sources.items():
        assert source.strip(), path


@pytest.mark.parametrize("name", every_recipe())
def test_recipe__settings_make_the_same_recipe(name: str) -> None:
    recipe = load_recipe(name)
    assert from_settings(json.loads(json.dumps(nested(recipe)))) == recipe


@pytest.mark.parametrize("name", list_recipes())
def test_recipe__copy_in_a_file_is_the_same(name: str, tmp_path: Path) -> None:
    copy = tmp_path / "mine.toml"
    copy.write_bytes(recipe_path(name).read_bytes())
    assert load_recipe(str(copy)) == load_recipe(name)


def test_recipe__name_of_the_package_comes_before_a_file() -> None:
    Path("demo").write_text("not TOML [")  # in this test's own working folder
    assert load_recipe("demo").optimizer.name == "adamw"


def test_recipe__unknown_name_gives_near_matches_and_the_list() -> None:
    with pytest.raises(SettingError, match=r"no recipe 'transfr'.*Did you mean 'transfer'.*The recipes are .*demo"):
        load_recipe("transfr")


# What a file may leave out, and where things may stand


def test_nothing_given__everything_is_off_or_at_its_default() -> None:
    recipe = from_settings({})
    assert recipe == Recipe()
    off = recipe.optimizer
    assert (off.momentum, off.weight_decay, off.clip_norm, off.layer_decay) == (0.0, 0.0, 0.0, 1.0)
    assert (recipe.rate.final_lr, recipe.rate.warmup_fraction, recipe.rate.lr_scaling) == (0.0, 0.0, "none")
    assert (recipe.images.flip, recipe.images.crop, recipe.head.init) == (False, "none", "zero")


def test_defaults__would_be_accepted_if_given() -> None:
    assert from_settings(nested(Recipe())) == Recipe()


def test_missing_keys__are_at_their_defaults() -> None:
    recipe = from_settings({"optimizer": {"weight_decay": 0.3}})
    assert recipe == Recipe(optimizer=Optimizer(weight_decay=0.3))
    assert recipe.sources == {"optimizer.weight_decay": ""}


def test_value__alone_or_with_a_source() -> None:
    recipe = from_settings({"rate": {"lr": {"value": 0.1, "source": "measured"}, "final_lr": 0.01}})
    assert (recipe.rate.lr, recipe.rate.final_lr) == (0.1, 0.01)
    assert recipe.sources == {"rate.lr": "measured", "rate.final_lr": ""}


@pytest.mark.parametrize(
    "settings",
    [
        {"lr": 0.1, "optimizer": "sgd", "head": "random", "about": "mine"},  # as in a config.json of 0.1.0
        {"lr": {"value": 0.1}, "optimizer": {"value": "sgd"}, "head": {"value": "random"}, "about": {"value": "mine"}},
        {"training": {"lr": 0.1, "optimizer": "sgd", "about": "mine"}, "head": {"head": "random"}},
        {"rate": {"optimizer": "sgd", "lr": 0.1, "init": "random"}, "about": "mine"},
        {"optimizer": {"optimizer": "sgd", "lr": 0.1}, "head": {"init": "random"}, "about": "mine"},
    ],
)
def test_keys__are_found_where_0_1_0_allowed_them(settings: dict[str, Any]) -> None:
    recipe = from_settings(settings)
    assert (recipe.rate.lr, recipe.optimizer.name, recipe.head.init) == (0.1, "sgd", "random")
    assert recipe.about == "mine"


def test_steps_without_a_rule__are_the_steps() -> None:
    assert from_settings({"length": {"steps": 500}}).length.steps_rule == "fixed"
    assert from_settings({"length": {"steps": 0}}).length.steps_rule == "images-seen"
    assert from_settings({"length": {"steps": 5, "steps_rule": "images-seen"}}).length.steps_rule == "images-seen"


# What vitctl 0.1.0 wrote


def test_file_of_0_1_0__means_what_it_meant() -> None:
    recipe = load_recipe(str(GOLDEN / "recipe-0.1.0.toml"))
    written = {
        "about": "leaf diseases, 4,000 photos",
        "optimizer": {
            "name": "adamw", "betas": [0.9, 0.999], "momentum": 0.0, "weight_decay": 0.05, "clip_norm": 1.0,
            "layer_decay": 0.65,
        },
        "rate": {"lr": 3e-5, "lr_at_batch": 128, "lr_scaling": "sqrt", "final_lr": 1e-6, "warmup_fraction": 0.0},
        "length": {"batch_size": 64, "batch_rule": "quarter", "steps": 2000, "steps_rule": "fixed"},
        "images": {
            "crop": "random-resized-crop", "crop_area": [0.3, 1.0], "flip": True, "evaluation_crop": "model",
            "pos_embed_interp": "bicubic-aa",
        },
        "head": {"init": "ridge"},
        "evaluation": {"validations": 10, "select_best_from": 500},
    }  # fmt: skip
    for section, values in nested(recipe).items():
        if section == "about":
            assert values == written["about"]
            continue
        off = nested(Recipe())[section]  # what came later
        assert values == off | written.get(section, {}), section
    assert recipe.sources["images.flip"] == "leaves have no left and right"


# recipe_settings of a config.json that vitctl 0.1.0 wrote for recipe vit-paper
SETTINGS_OF_0_1_0 = {
    "about": "the ViT paper's fine-tuning: SGD, cosine, batch 512, no weight decay",
    "optimizer": "sgd", "betas": [0.9, 0.999], "momentum": 0.9, "weight_decay": 0.0, "clip_norm": 1.0,
    "layer_decay": 1.0, "lr": 0.01, "lr_at_batch": 512, "lr_scaling": "linear", "final_lr": 0.0,
    "warmup_fraction": 0.05, "batch_size": 512, "batch_rule": "fixed", "steps": 0, "steps_rule": "bit-hyperrule",
    "crop": "resize-random-crop", "crop_area": [0.05, 1.0], "flip": True, "evaluation_crop": "squash",
    "pos_embed_interp": "paper", "head": "zero", "validations": 10, "select_best_from": 1000,
}  # fmt: skip


def test_settings_of_0_1_0__are_those_of_the_recipe() -> None:
    # which rates its source tried says nothing of how it trains, and was not in the recipe then
    now = load_recipe("vit-paper")
    assert from_settings(SETTINGS_OF_0_1_0) == replace(now, rate=replace(now.rate, grid=()))


def test_flat_settings__have_the_names_of_0_1_0() -> None:
    flat = flat_settings(load_recipe("vit-paper"))
    values = json.loads(json.dumps({name: given.value for name, given in flat.items()}))
    assert {name: value for name, value in values.items() if "." not in name} == SETTINGS_OF_0_1_0
    later = {path for path in values if "." in path}  # by their paths, and off
    assert {"mixing.mixup", "noise.patch_drop", "rate.schedule", "tuning.mode", "averaging.method"} < later
    keys = keys_of(Recipe)
    assert all(flat[path].value == keys[path].default for path in later - {"rate.grid"})
    assert all(flat[name].source for name in SETTINGS_OF_0_1_0)


# Mistakes


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"optimizer": {"momentun": 0.9}}, "unknown setting 'momentun' in [optimizer]. Did you mean 'momentum'?"),
        ({"rate": {"momentun": 0.9}}, "unknown setting 'momentun' in [rate]. Did you mean 'optimizer.momentum'?"),
        ({"momentun": 0.9}, "unknown setting 'momentun'. Did you mean 'optimizer.momentum'?"),
        (
            {"imags": {"jitter": 0.8}},
            "unknown section [imags], with an unknown setting 'jitter'. Did you mean 'images'?",
        ),
        ({"rate": {"lr": 1.0}, "lr": 1.0}, "rate.lr stands there twice; keep one."),
        ({"rate": {"lr": {"source": "x"}}}, "rate.lr is {'source': 'x'}; expected a value, or { value = "),
        ({"images": {"crop_area": [0.5, 0.4]}}, "images.crop_area is [0.5, 0.4]; expected [least, most]."),
        ({"length": {"steps_rule": "fixed"}}, "length.steps is 0 but length.steps_rule is 'fixed'"),
        ({"head": {"init": "zeros"}}, "head.init is 'zeros'; it can be zero, random, ridge. Did you mean 'zero'?"),
    ],
)
def test_one_mistake__is_one_sentence(settings: dict[str, Any], sentence: str) -> None:
    text = mistakes_in(settings)
    assert text.startswith(f"Recipe mine.toml: {sentence}")
    assert "\n" not in text


def test_all_mistakes__are_told_at_once() -> None:
    text = mistakes_in({
        "optimizer": {"momentun": 0.9, "weight_decay": -1, "final_norm": "heads"},
        "images": {"flip": "no", "crop_area": [0.9, 0.1], "crop": "none"},
        "length": {"steps_rule": "fixed"},
    })  # fmt: skip
    first, *others = text.split("\n")
    assert first == "Recipe mine.toml has 5 mistakes:"
    for line, start in zip(
        others, ("unknown setting 'momentun'", "optimizer.weight_decay is -1", "optimizer.final_norm is 'heads'",
                 "images.flip is 'no'", "length.steps is 0"), strict=True
    ):  # fmt: skip
        assert line.strip().startswith(start)


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        ("optimizer.momentum", "0", "a number, 0 or more"),
        ("optimizer.momentum", True, "a number"),
        ("optimizer.momentum", None, "a number"),
        ("optimizer.momentum", [0.0], "a number"),
        ("optimizer.momentum", {"a": 1}, "a number"),
        ("optimizer.momentum", float("nan"), "a number, 0 or more, finite"),
        ("optimizer.momentum", float("inf"), "a number, 0 or more, finite"),
        ("optimizer.momentum", 10**400, "a number"),
        ("length.batch_size", 1.5, "a whole number above 0"),
        ("length.batch_size", 64.0, "a whole number"),
        ("length.batch_size", True, "a whole number"),
        ("length.batch_size", "64", "a whole number"),
        ("images.flip", 1, "true or false"),
        ("images.flip", "true", "true or false"),
        ("optimizer.name", 1, "text"),
        ("optimizer.final_norm", 1, "block, head"),
        ("optimizer.betas", [0.9], "a list of 2, each a number, 0 to below 1"),
        ("optimizer.betas", [0.9, 0.99, 0.999], "a list of 2"),
        ("optimizer.betas", ["a", "b"], "a list of 2"),
        ("optimizer.betas", [0.9, 1.0], "a list of 2"),
        ("optimizer.betas", 0.9, "a list of 2"),
        ("about", 3, "text"),
    ],
)
def test_types__are_strict(path: str, value: Any, expected: str) -> None:
    section, _, key = path.rpartition(".")
    text = mistakes_in({section: {key: {"value": value}}} if section else {key: value})
    assert text.startswith(f"Recipe mine.toml: {path} is ")
    assert f"; expected {expected}" in text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("rate.lr", 0.0), ("rate.lr", -1e-3), ("rate.lr_at_batch", 0), ("length.batch_size", 0),
        ("evaluation.validations", 0), ("optimizer.momentum", -0.1), ("optimizer.weight_decay", -0.1),
        ("optimizer.clip_norm", -1.0), ("rate.final_lr", -1.0), ("length.steps", -1), ("optimizer.betas", [-0.1, 0.9]),
        ("evaluation.select_best_from", -1), ("optimizer.layer_decay", 0.0), ("optimizer.layer_decay", 1.1),
        ("rate.warmup_fraction", -0.1), ("rate.warmup_fraction", 1.1), ("images.crop_area", [0.0, 1.0]),
        ("images.crop_area", [0.5, 0.4]), ("images.crop_area", [0.5, 1.5]), ("optimizer.final_norm", "heads"),
        ("rate.lr_scaling", "log"), ("length.batch_rule", "half"), ("length.steps_rule", "auto"),
        ("images.crop", "center"), ("images.evaluation_crop", "border"), ("images.pos_embed_interp", "linear"),
    ],
)  # fmt: skip
def test_settings__out_of_range_are_refused_by_name(path: str, value: Any) -> None:
    section, _, key = path.partition(".")
    assert mistakes_in({section: {key: value}}).startswith(f"Recipe mine.toml: {path} is ")


def test_whole_numbers__are_numbers_too() -> None:
    recipe = from_settings({"optimizer": {"momentum": 0, "betas": [0, 0.5]}})
    assert type(recipe.optimizer.momentum) is float
    assert recipe.optimizer.betas == (0.0, 0.5)


def test_file__that_is_not_toml_or_not_text_is_refused(tmp_path: Path) -> None:
    text = re.sub(r"^momentum = .*$", "momentum = {", recipe_path("transfer").read_text(), flags=re.MULTILINE)
    for content in (text.encode(), b"\xff\xfe\x00"):
        (tmp_path / "mine.toml").write_bytes(content)
        with pytest.raises(SettingError, match=r"Recipe .*mine\.toml cannot be read"):
            load_recipe(str(tmp_path / "mine.toml"))


# A new key is a field and nothing else


@dataclass(frozen=True, kw_only=True)
class Blur:
    """A section of a later version."""

    strength: Annotated[float, Range(ge=0, le=1)] = 0.0
    steps: int = 0
    limit: float | None = None


@dataclass(frozen=True, kw_only=True)
class LaterOptimizer(Optimizer):
    """A section with a key more."""

    damping: Annotated[float, Range(gt=0)] = 1e-8


@dataclass(frozen=True, kw_only=True)
class LaterRecipe(Recipe):
    """The recipe of a later version."""

    optimizer: LaterOptimizer = LaterOptimizer()
    blur: Blur = Blur()


def test_new_field__is_read_checked_overridden_and_written() -> None:
    recipe = from_settings({"blur": {"strength": 0.5}, "optimizer": {"damping": 1e-6}}, LaterRecipe)
    assert isinstance(recipe, LaterRecipe)
    assert (recipe.blur, recipe.optimizer.damping) == (Blur(strength=0.5), 1e-6)
    assert override(recipe, ["blur.strength=1", "blur.steps=3"]).blur == Blur(strength=1.0, steps=3)
    with pytest.raises(SettingError, match=r"blur\.strength is 2; expected a number, 0 to 1\."):
        override(recipe, ["blur.strength=2"])
    with pytest.raises(SettingError, match=r"unknown setting 'strenth' in \[blur\]\. Did you mean 'strength'"):
        override(recipe, ["blur.strenth=1"])
    with pytest.raises(SettingError, match=r"blur\.limit is 'x'; expected a valid number\."):  # pydantic's own words
        override(recipe, ["blur.limit=x"])
    assert from_settings(nested(recipe), LaterRecipe) == recipe
    flat = flat_settings(override(recipe, ["blur.steps=3", "length.steps=9"]))
    assert (flat["blur.strength"].value, flat["blur.steps"].value, flat["steps"].value) == (0.5, 3, 9)
    assert from_settings(json.loads(json.dumps(as_document(recipe))), LaterRecipe) == recipe


def test_new_field__leaves_old_files_as_they_were() -> None:
    """Also where it has the name of an old key: ``steps`` alone, or under any heading, stays that of 0.1.0."""
    old = load_recipe("vit-paper")
    optimizer = LaterOptimizer(**nested(from_settings(SETTINGS_OF_0_1_0))["optimizer"] | {"betas": (0.9, 0.999)})
    later = from_settings(SETTINGS_OF_0_1_0, LaterRecipe)
    assert later.optimizer == optimizer
    assert (later.length, later.blur) == (old.length, Blur())
    assert from_settings({"any": {"steps": 5}}, LaterRecipe).length.steps == 5
    assert from_settings(nested(old), LaterRecipe).rate == old.rate


def test_new_name_in_two_sections__is_asked_for_with_its_section() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Twice(LaterRecipe):
        more: Blur = Blur()

    with pytest.raises(SettingError, match=r"'strength' can be blur\.strength or more\.strength; put it into its"):
        from_settings({"strength": 0.5}, Twice)


def test_names_of_0_1_0__are_all_still_read() -> None:
    for section, names in SECTIONS_OF_0_1_0.items():
        for name in names:
            assert [key for key in keys_of(Recipe).values() if key.section == section and name in key.names], name


# The rate


@pytest.mark.parametrize(
    ("scaling", "at_64", "at_256"), [("none", 0.1, 0.1), ("sqrt", 0.05, 0.1), ("linear", 0.025, 0.1)]
)
def test_peak_lr__follows_the_batch(scaling: str, at_64: float, at_256: float) -> None:
    rate = replace(Recipe().rate, lr=0.1, lr_at_batch=256, lr_scaling=scaling)
    assert rate.peak_lr(64) == pytest.approx(at_64)
    assert rate.peak_lr(256) == pytest.approx(at_256)
