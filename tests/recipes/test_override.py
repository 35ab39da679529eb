"""``--set``: one value of a recipe at a time, checked like those of a file."""

import json
from dataclasses import asdict
from operator import attrgetter
from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.recipes import Recipe, check_given_once, load_recipe, options_behind, override


def nested(recipe: Recipe) -> dict[str, Any]:
    """Return the values by section, as a recipe file has them."""
    document: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    del document["sources"]
    return document


@pytest.mark.parametrize(
    ("text", "path", "value"),
    [
        ("rate.lr=1e-3", "rate.lr", 1e-3),
        ("rate.lr=1", "rate.lr", 1.0),
        (" rate.lr = 0.5 ", "rate.lr", 0.5),
        ("images.flip=false", "images.flip", False),
        ("length.batch_size=7", "length.batch_size", 7),
        ("optimizer.name=sgd", "optimizer.name", "sgd"),
        ('optimizer.name="sgd"', "optimizer.name", "sgd"),
        ("optimizer.optimizer=sgd", "optimizer.name", "sgd"),  # its name in 0.1.0
        ("head.head=random", "head.init", "random"),
        ("optimizer.betas=[0.9, 0.95]", "optimizer.betas", (0.9, 0.95)),
        ("images.crop=none", "images.crop", "none"),
    ],
)
def test_override__is_read_as_toml_or_as_a_word(text: str, path: str, value: Any) -> None:
    recipe = load_recipe("transfer")
    changed = override(recipe, [text])
    found = attrgetter(path)(changed)
    assert (found, type(found)) == (value, type(value))
    assert changed.sources == {**recipe.sources, path: "--set"}
    assert recipe == load_recipe("transfer")


def test_override__leaves_the_other_values() -> None:
    before = nested(load_recipe("transfer"))
    after = nested(override(load_recipe("transfer"), ["rate.lr=1", "images.flip=false"]))
    before["rate"]["lr"], before["images"]["flip"] = 1.0, False
    assert after == before


def test_override__of_nothing_is_the_recipe() -> None:
    assert override(load_recipe("demo"), []) == load_recipe("demo")


def test_override__twice_is_once() -> None:
    changes = ["length.steps=5", "optimizer.name=sgd"]
    once = override(load_recipe("transfer"), changes)
    assert override(once, changes) == once
    assert override(once, changes).sources == once.sources


def test_override__the_last_of_a_key_counts() -> None:
    assert override(Recipe(), ["rate.lr=1", "rate.lr=2"]).rate.lr == 2.0


def test_override__steps_are_what_is_trained() -> None:
    """Recipe transfer counts images; steps given to it would say nothing if that rule stayed."""
    changed = override(load_recipe("transfer"), ["length.steps=5"])
    assert (changed.length.steps, changed.length.steps_rule) == (5, "fixed")
    assert changed.sources["length.steps_rule"] == "--set"
    both = override(load_recipe("transfer"), ["length.steps=5", "length.steps_rule=bit-hyperrule"])
    assert both.length.steps_rule == "bit-hyperrule"


def test_a_value_of_one_schedule_or_mean_alone__means_that_one() -> None:
    assert override(Recipe(), ["rate.drop_at=[0.5]"]).rate.schedule == "step"
    assert override(Recipe(), ["rate.drop_at=[0.5]", "rate.schedule=linear"]).rate.schedule == "linear"
    assert override(Recipe(), ["averaging.k=5"]).averaging.method == "validations"
    assert override(Recipe(), ["averaging.decay=0.9"]).averaging.method == "ema"
    polyak = override(Recipe(), ["averaging.method=polyak"])
    assert override(polyak, ["averaging.decay=0.9"]).averaging.method == "polyak"
    assert override(polyak, ["averaging.decay=0.9", "averaging.method=none"]).averaging.method == "none"


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("rate.lr", r"'rate\.lr' gives no value; expected SECTION\.KEY=VALUE, e\.g\. rate\.lr=1e-3"),
        ("", "'' gives no value"),
        ("lr=1", r"'lr' names no section; expected SECTION\.KEY=VALUE\. Did you mean 'rate\.lr'\?"),
        ("=1", "'' names no section"),
        (
            "optimzer.name=sgd",
            r"unknown section 'optimzer'\. Did you mean 'optimizer'\? The sections are optimizer, rate",
        ),
        ("optimizer.momentun=1", r"unknown setting 'momentun' in \[optimizer\]\. Did you mean 'momentum'\?"),
        ("optimizer.lr=1", r"unknown setting 'lr' in \[optimizer\]\. Did you mean 'rate\.lr'\?"),
        ("rate.peak=1", r"unknown setting 'peak' in \[rate\]\. It has lr, lr_at_batch, lr_scaling, final_lr, warmup"),
        ("optimizer.=1", r"unknown setting '' in \[optimizer\]"),
        ("rate.lr.x=1", r"unknown setting 'lr\.x' in \[rate\]"),
        ("about=mine", "'about' is not a setting of training; change it in a recipe file"),
        ("sources.x=1", "unknown section 'sources'"),
        ("rate.lr=", r"rate\.lr is ''; expected a number above 0"),
        ("rate.lr=0", r"rate\.lr is 0; expected a number above 0"),
        ("rate.lr=nan", r"rate\.lr is nan; expected a number above 0, finite"),
        ('rate.lr="1"', r"rate\.lr is '1'; expected a number"),
        ("rate.lr={value=1}", r"rate\.lr is \{'value': 1\}; expected a number"),
        ("rate.lr=1\nx=2", r"rate\.lr is '1\\nx=2'; expected a number"),
        ("images.flip=True", r"images\.flip is 'True'; expected true or false"),
        ("images.flip=1", r"images\.flip is 1; expected true or false"),
        ("length.batch_size=1.0", r"length\.batch_size is 1\.0; expected a whole number"),
        ("optimizer.name=1", r"optimizer\.name is 1; expected text"),
        ("rate.schedule=cos", r"rate\.schedule is 'cos'; it can be cosine, linear, constant, step\. Did you mean 'cos"),
        ("rate.schedule=step", r"rate\.schedule is 'step' but rate\.drop_at is empty; expected shares of the steps"),
        ("rate.drop_at=[0.5, 0.5]", r"rate\.drop_at is \[0\.5, 0\.5\]; expected rising shares of the steps"),
        ("rate.drop_at=[1.5]", r"rate\.drop_at is \[1\.5\]; expected"),
        ("rate.drop_factor=1", r"rate\.drop_factor is 1; expected"),
        ("length.sizes=[32,16]", r"length\.sizes is \[32, 16\]; expected rising sizes"),
        ("length.sizes=[16,16]", r"length\.sizes is \[16, 16\]; expected rising sizes"),
        ("length.steps_rule=fixed", r"length\.steps is 0 but length\.steps_rule is 'fixed'"),
    ],
)
def test_override__mistakes_are_named(text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=f"^--set: {sentence}"):
        override(load_recipe("transfer"), [text])


def test_override__all_mistakes_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        override(load_recipe("transfer"), ["rate.lr=x", "rate.final_lr=0", "optimzer.name=sgd", "images.flip=2"])
    first, *others = str(caught.value).split("\n")
    assert first == "--set has 3 mistakes:"
    assert [line.split()[0] for line in others] == ["unknown", "rate.lr", "images.flip"]


# The same thing as an option


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("rate.lr=1", {"lr"}),
        ("rate.lr_scaling=none", {"lr"}),
        ("length.batch_size=8", {"batch_size"}),
        ("length.batch_rule=fixed", {"batch_size"}),
        ("length.steps=8", {"steps", "epochs", "time_limit"}),
        ("images.flip=true", {"flip"}),
        ("images.pos_embed_interp=paper", {"pos_embed_interp"}),
        ("head.init=zero", {"head"}),
        ("head.head=zero", {"head"}),
        ("optimizer.weight_decay=0", set()),
        ("unknown.key=0", set()),
        ("nothing", set()),
    ],
)
def test_options_behind__what_an_override_says_too(text: str, options: set[str]) -> None:
    assert set(options_behind([text])) == options


def test_given_twice__is_refused() -> None:
    check_given_once(["rate.lr=1"], ["steps", "batch_size", "set"])
    check_given_once(None, ["lr"])
    with pytest.raises(SettingError, match=r"--batch-size and --set length\.batch_rule are both given.*Keep one\."):
        check_given_once(["rate.lr=1", "length.batch_rule=fixed"], ["batch_size"])
