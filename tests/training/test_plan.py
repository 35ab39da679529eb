"""What is decided where the user did not say, with the reason shown."""

import json
import math
from dataclasses import asdict
from typing import Any

import pytest

from vitctl.recipes import Recipe, load_recipe, override, recipe_from_settings
from vitctl.training.plan import (
    decide_asked_size,
    decide_batch_size,
    decide_flip,
    decide_interpolation,
    decide_lr,
    decide_num_images_seen,
)
from vitctl.training.starting_run import StartingRun


def nested(recipe: Recipe) -> dict[str, Any]:
    """Return the values by section, as a recipe file has them."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    del document["sources"]
    return document


def recipe_with(**sections: dict[str, object]) -> Recipe:
    """Return recipe transfer with some keys of some sections changed."""
    settings = nested(load_recipe("transfer"))
    changed = {name: settings[name] | changes for name, changes in sections.items()}
    return recipe_from_settings(settings | changed, where="test")


def test_batch_size__a_given_one_is_used_as_it_is() -> None:
    decision = decide_batch_size(7, recipe_with(length={"batch_size": 128}), 10, recipe_name="r")
    assert decision == (7, "given")


@pytest.mark.parametrize(
    ("num_train", "expected"), [(1, 1), (4, 1), (7, 1), (8, 2), (200, 32), (511, 64), (512, 128), (50_000, 128)]
)
def test_batch_size__quarter_rule_rounds_down_to_a_power_of_two(num_train: int, expected: int) -> None:
    recipe = recipe_with(length={"batch_rule": "quarter", "batch_size": 128})
    decision = decide_batch_size(None, recipe, num_train, recipe_name="r")
    assert decision.value == expected
    assert ("quarter" in decision.reason) == (expected < 128)


def test_batch_size__fixed_rule_ignores_the_number_of_images() -> None:
    recipe = recipe_with(length={"batch_rule": "fixed", "batch_size": 128})
    assert decide_batch_size(None, recipe, 10, recipe_name="r") == (128, "recipe r")


def test_length__given_steps_are_whole_batches() -> None:
    assert decide_num_images_seen(5, None, recipe_with(), 100, 32, recipe_name="r") == (160, "given")


@pytest.mark.parametrize(
    ("epochs", "expected", "reason"),
    [(1.0, 100, "1 epochs; the last batch holds 4"), (0.5, 50, "0.5 epochs; the last batch holds 2"),
     (2.4, 240, "2.4 epochs"), (1e-9, 1, "1e-09 epochs; the last batch holds 1")],
)  # fmt: skip
def test_length__given_epochs_are_counted_in_images(epochs: float, expected: int, reason: str) -> None:
    assert decide_num_images_seen(None, epochs, recipe_with(), 100, 16, recipe_name="r") == (expected, reason)


@pytest.mark.parametrize(
    ("num_train", "images"),
    [(500, 32_000), (2_000, 60_000), (20_000, 256_000), (50_000, 500_000)],
)
def test_length__images_seen_rule_is_rounded_up_to_whole_batches(num_train: int, images: int) -> None:
    recipe = recipe_with(length={"steps_rule": "images-seen"})
    decision = decide_num_images_seen(None, None, recipe, num_train, 48, recipe_name="r")
    assert decision.value == math.ceil(images / 48) * 48
    assert f"{images:,} images seen" in decision.reason


@pytest.mark.parametrize(
    ("num_train", "steps"), [(19_999, 500), (20_000, 10_000), (499_999, 10_000), (500_000, 20_000)]
)
def test_length__bit_hyperrule(num_train: int, steps: int) -> None:
    recipe = recipe_with(length={"steps_rule": "bit-hyperrule"})
    assert decide_num_images_seen(None, None, recipe, num_train, 512, recipe_name="r").value == 512 * steps


@pytest.mark.parametrize(
    ("epochs", "expected", "reason"),
    [(1.0, 100, "recipe r: 1 epochs; the last batch holds 4"), (2.4, 240, "recipe r: 2.4 epochs")],
)
def test_length__epochs_of_the_recipe_are_those_of_the_option(epochs: float, expected: int, reason: str) -> None:
    recipe = recipe_with(length={"epochs": epochs, "steps_rule": "epochs"})
    assert decide_num_images_seen(None, None, recipe, 100, 16, recipe_name="r") == (expected, reason)
    assert decide_num_images_seen(None, 0.5, recipe, 100, 16, recipe_name="r").value == 50
    assert decide_num_images_seen(3, None, recipe, 100, 16, recipe_name="r").value == 48
    changed = override(load_recipe("transfer"), [f"length.epochs={epochs}"])
    found = decide_num_images_seen(None, None, changed, 100, 16, recipe_name="r")
    assert found == (expected, reason.replace("recipe r", "--set length.epochs"))


def test_length__fixed_steps() -> None:
    recipe = recipe_with(length={"steps_rule": "fixed", "steps": 390})
    assert decide_num_images_seen(None, None, recipe, 1, 32, recipe_name="r") == (390 * 32, "recipe r")


def test_lr__a_given_one_is_never_rescaled() -> None:
    recipe = recipe_with(rate={"lr": 1e-4, "lr_at_batch": 128, "lr_scaling": "linear"})
    assert decide_lr(3e-3, recipe, 8, recipe_name="r") == (3e-3, "given, used as it is")


@pytest.mark.parametrize(("scaling", "factor"), [("none", 1.0), ("sqrt", 0.5), ("linear", 0.25)])
def test_lr__follows_the_batch_as_the_recipe_says(scaling: str, factor: float) -> None:
    recipe = recipe_with(rate={"lr": 1e-4, "lr_at_batch": 128, "lr_scaling": scaling})
    decision = decide_lr(None, recipe, 32, recipe_name="r")
    assert decision.value == pytest.approx(factor * 1e-4)
    assert (f"{scaling} scaling" in decision.reason) == (scaling != "none")


def test_lr__at_the_recipes_batch_is_the_recipes() -> None:
    recipe = recipe_with(rate={"lr": 1e-4, "lr_at_batch": 128, "lr_scaling": "sqrt"})
    assert decide_lr(None, recipe, 128, recipe_name="r") == (1e-4, "recipe r")


# What stands both in the recipe and as an option: the option, then --set, then what the images or weights are like,
# then the recipe


def test_lr__that_is_set_in_the_recipe_follows_the_batch_and_says_so() -> None:
    recipe = override(load_recipe("transfer"), ["rate.lr=0.4"])
    reason = "--set rate.lr: 0.4 at batch 128, sqrt scaling; --lr is used as it is"
    assert decide_lr(None, recipe, 32, recipe_name="r") == (0.2, reason)
    assert decide_lr(None, recipe, 128, recipe_name="r") == (0.4, "--set rate.lr")
    assert decide_lr(3e-3, recipe, 32, recipe_name="r").value == 3e-3


def test_batch_and_length__that_are_set_in_the_recipe() -> None:
    recipe = override(load_recipe("transfer"), ["length.batch_size=32", "length.steps=7"])
    assert decide_batch_size(None, recipe, 1000, recipe_name="r") == (32, "--set length.batch_size")
    reason = "--set length.batch_size, at most a quarter of the images"
    assert decide_batch_size(None, recipe, 64, recipe_name="r") == (16, reason)
    assert decide_batch_size(5, recipe, 64, recipe_name="r") == (5, "given")
    assert decide_num_images_seen(None, None, recipe, 64, 32, recipe_name="r") == (7 * 32, "--set length.steps")


@pytest.mark.parametrize(
    ("given", "changes", "is_flippable", "expected"),
    [
        (True, [], False, (True, "given")),
        (False, [], True, (False, "given")),
        (None, [], True, (True, "recipe r")),
        (None, [], False, (False, "the images seem to show digits or letters; --flip overrules")),
        (None, ["images.flip=true"], False, (True, "--set images.flip")),
        (None, ["images.flip=false"], True, (False, "--set images.flip")),
    ],
)
def test_flip(given: bool | None, changes: list[str], is_flippable: bool, expected: tuple[bool, str]) -> None:
    recipe = override(load_recipe("transfer"), changes)
    assert decide_flip(given, recipe, is_flippable=is_flippable, recipe_name="r") == expected


@pytest.mark.parametrize(
    ("given", "changes", "weights", "expected"),
    [
        ("bicubic", ["images.pos_embed_interp=paper"], "a.npz", ("bicubic", "given")),
        (None, [], "pretrained", ("bicubic-aa", "recipe r")),
        (None, [], "a.npz", ("paper", "what the authors' code does to .npz weights")),
        (None, ["images.pos_embed_interp=bicubic"], "a.npz", ("bicubic", "--set images.pos_embed_interp")),
    ],
)
def test_interpolation(given: str | None, changes: list[str], weights: str, expected: tuple[str, str]) -> None:
    recipe = override(load_recipe("transfer"), changes)
    assert decide_interpolation(given, recipe, weights=weights, recipe_name="r") == expected


@pytest.mark.parametrize(
    ("given", "changes", "of_run", "expected"),
    [
        (None, [], None, None),
        (None, ["images.size=64"], None, ((64, 64), "--set images.size")),
        (None, ["length.sizes=[32,64]"], None, ((64, 64), "--set length.sizes")),
        (None, ["length.sizes=[32,64]", "images.size=64"], None, ((64, 64), "--set images.size")),
        ((48, 32), ["images.size=64"], None, ((48, 32), "given")),
        (None, ["images.size=64"], ["images.size=64"], None),  # the run's size, which may have been given beside it
        (None, ["images.size=64"], ["length.sizes=[32,64]"], None),
        (None, ["images.size=64"], [], ((64, 64), "--set images.size")),
        (None, [], ["images.size=64"], None),
        ((48, 48), ["images.size=64"], ["images.size=64"], ((48, 48), "given")),
    ],
)
def test_image_size(
    given: tuple[int, int] | None, changes: list[str], of_run: list[str] | None, expected: tuple[object, str] | None
) -> None:
    recipe = override(load_recipe("transfer"), changes)
    run = None if of_run is None else StartingRun("why", "r", override(load_recipe("transfer"), of_run), 8, None)
    assert decide_asked_size(given, recipe, recipe_name="r", run=run) == expected


def test_image_size__of_a_recipe_file_is_the_recipes() -> None:
    recipe = recipe_with(images={"size": 384})
    assert decide_asked_size(None, recipe, recipe_name="r") == ((384, 384), "recipe r")
