"""What ``--tune`` and its neighbours can say; options before the recipe; rates for few weights."""

from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.recipes import Recipe, load_recipe, override, recipe_from_settings
from vitctl.settings.files import merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.plan import decide_lr, decide_tuning
from vitctl.training.tuning import MODES, TuningOptions, parse_mode, parse_scales

TRANSFER = load_recipe("transfer")


@pytest.mark.parametrize(
    ("text", "expected"), [("full", ("full", None)), ("last:3", ("last", 3)), ("lora:16", ("lora", 16))]
)
def test_parse_mode__name_and_number(text: str, expected: tuple[str, int | None]) -> None:
    assert parse_mode(text) == expected


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("heads", r"it can be full, head, attention, norm, bias, last:N, lora:R\. Did you mean 'head'"),
        ("bitfit", "Did you mean 'bias'"),
        ("lora", "expected the rank after a colon, 1 or more, e.g. lora:16"),
        ("last:0", "expected the number of blocks after a colon, 1 or more, e.g. last:2"),
        ("lora:1.5", "expected the rank"),
        ("lora:²", "expected the rank"),
        pytest.param("lora:" + "9" * 5000, "expected the rank", id="5000 digits"),
        ("head:2", "head takes no number. Try head"),
        ("", "it can be full"),
    ],
)
def test_parse_mode__says_what_it_can_be(text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        parse_mode(text)
    assert caught.value.field == "tune"


def test_parse_scales__the_last_equals_sign_divides() -> None:
    assert parse_scales(["(?=head)=10", "norm=0.5"]) == (("(?=head)", 10.0), ("norm", 0.5))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("head", "expected REGEX=X"),
        ("=3", "expected REGEX=X"),
        ("head=", "expected a number above 0"),
        ("head=nan", "expected a number above 0"),
        ("head=inf", "expected a number above 0"),
        ("head=0", "To leave them as they are: --freeze 'head'"),
        ("(head=2", "is no regular expression: missing \\)"),
    ],
)
def test_parse_scales__says_what_is_wrong(text: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence) as caught:
        parse_scales([text])
    assert caught.value.field == "lr_scale"


# --- options and recipe


def of_file(**tuning: Any) -> Recipe:
    """Return a recipe that says itself what it trains."""
    return recipe_from_settings(
        {"tuning": tuning, "rate": {"lr": 1e-3}, "optimizer": {"layer_decay": 0.5}}, where="test"
    )


def test_choice__nothing_said_is_the_recipe() -> None:
    choice = TuningOptions().on(TRANSFER)
    assert choice.resolved() == {"tune": "full", "layer_decay": 0.75, "lr_scale": None, "freeze": None}


def test_choice__an_option_goes_before_the_recipe() -> None:
    recipe = of_file(mode="head", freeze=["norm"], lr_scale=["head=2"])
    options = TuningOptions("last:1", 0.9, ("bias=3",), ("^head",))
    assert options.on(recipe).resolved() == {
        "tune": "last:1", "layer_decay": 0.9, "lr_scale": ("bias=3",), "freeze": ("^head",)
    }  # fmt: skip
    assert TuningOptions(tune="norm").on(recipe).resolved()["freeze"] == ("norm",)


@pytest.mark.parametrize(
    ("options", "recipe", "expected"),
    [
        (TuningOptions(tune="lora:4"), TRANSFER, 1.0),  # 0.75 is meant for all weights
        (TuningOptions(tune="lora:4", layer_decay=0.5), TRANSFER, 0.5),
        (TuningOptions(tune="lora:4"), override(TRANSFER, ["optimizer.layer_decay=0.6"]), 0.6),
        (TuningOptions(), override(TRANSFER, ["tuning.mode=lora:4"]), 1.0),
        (TuningOptions(), of_file(mode="lora:4"), 0.5),  # its author knew of both
        (TuningOptions(tune="attention"), TRANSFER, 0.75),
    ],
)
def test_choice__layer_decay_of_lora(options: TuningOptions, recipe: Recipe, expected: float) -> None:
    assert options.on(recipe).layer_decay == expected


@pytest.mark.parametrize("field", ["tune", "set"])
def test_choice__says_where_a_wrong_mode_is_from(field: str) -> None:
    is_option = field == "tune"
    recipe = TRANSFER if is_option else override(TRANSFER, ["tuning.mode=half"])
    with pytest.raises(SettingError, match="^--tune is" if is_option else r"^tuning\.mode is") as caught:
        TuningOptions(tune="half" if is_option else None).on(recipe)
    assert caught.value.field == field


def test_choice__an_invalid_expression_is_a_sentence() -> None:
    with pytest.raises(SettingError, match=r"--freeze 'blocks\[' is no regular expression"):
        TuningOptions(freeze=("blocks[",)).on(TRANSFER)


# --- the rate


def rate(tune: str | None, recipe: Recipe = TRANSFER, lr: float | None = None) -> tuple[float, str]:
    config = FinetuneConfig(tune=tune)
    return decide_lr(lr, recipe, 128, recipe_name="r", tuning=decide_tuning(config, recipe))


@pytest.mark.parametrize("mode", MODES)
def test_rate__of_a_recipe_for_all_weights_is_larger_for_few(mode: str) -> None:
    value, reason = rate(f"{mode}:2" if MODES[mode].number else mode)
    factor = MODES[mode].lr_factor
    assert value == pytest.approx(1e-4 * factor)
    assert (f"x{factor:g} for {mode}" in reason) == (factor != 1)
    assert factor == 1 or MODES[mode].source in reason


def test_rate__that_somebody_chose_is_used_as_it_is() -> None:
    assert rate("lora:2", lr=0.5) == (0.5, "given, used as it is")
    assert rate("lora:2", override(TRANSFER, ["rate.lr=3e-4"])) == (3e-4, "--set rate.lr")
    assert rate(None, of_file(mode="lora:2")) == (1e-3, "recipe r")
    assert rate("lora:2", of_file(mode="lora:2")) == (1e-3, "recipe r")
    assert rate("lora:4", of_file(mode="lora:2"))[0] == 1e-3  # another rank is the same mode


def test_settings_of_a_file__what_was_decided_for_another_mode_is_decided_anew() -> None:
    file = FinetuneConfig(tune="lora:4", lr=1e-2, layer_decay=1.0, lr_scale=("lora_b=4",), batch_size=8)
    changed = merge(file, {"tune": "last:1"})
    assert (changed.lr, changed.layer_decay, changed.lr_scale, changed.batch_size) == (None, None, None, 8)
    assert merge(file, {"tune": "last:1", "lr": 0.5}).lr == 0.5
    changed = merge(file, {"set": ["tuning.mode=full"]})  # the same said in another way
    assert (changed.tune, changed.lr, changed.layer_decay, changed.lr_scale) == (None, None, None, None)
