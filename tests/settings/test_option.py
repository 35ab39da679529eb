"""The mechanism of settings: what was given, values from text and from Python, limits, order, JSON."""

import copy
import pickle
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
import pytest

from vitctl.errors import SettingError
from vitctl.inspecting.analyses import attention, features, rollout
from vitctl.settings.export import ExportConfig
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.groups import Compute
from vitctl.settings.option import FRACTION, Opt, Settings, at_least, described, settings_of
from vitctl.settings.parsing import pixels, whole_numbers
from vitctl.settings.reading import settings_from_python


@dataclass(frozen=True, kw_only=True)
class _First(Settings):
    first: Annotated[int, Opt("First.", limits=(at_least(1),))] = 1


@dataclass(frozen=True, kw_only=True)
class _Second(Settings):
    second: Annotated[str, Opt("Second.", choices=("a", "b"))] = "a"


@dataclass(frozen=True, kw_only=True)
class Toy(_First, _Second):
    """Settings of a command that there is not."""

    third: Annotated[str, Opt("Third.", choices=("on", "off"))] = "off"
    fourth: Annotated[tuple[int, ...] | None, Opt("Fourth.", parse=whole_numbers(least=1))] = None
    hidden: int = 0


def test_described__is_in_reading_order() -> None:
    assert list(described(Toy)) == ["first", "second", "third", "fourth", "hidden"]
    assert described(Toy)["hidden"].opt is None


def test_given__is_what_was_named_even_at_its_default() -> None:
    assert Toy().given == set()
    assert Toy(first=1).given == {"first"}


def test_given__of_a_copy_is_what_differs_from_the_defaults() -> None:
    """``dataclasses.replace`` names every field; nobody typed those."""
    assert replace(Toy(first=3)).given == {"first"}
    assert replace(Toy(), third="on").given == {"third"}


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])
def test_settings__can_be_copied_and_sent_to_other_processes(duplicate: Any) -> None:
    made = Toy(first=1, fourth="2,1")  # type: ignore[arg-type]
    assert duplicate(made) == made
    assert duplicate(made).given == {"first", "fourth"}


@dataclass(frozen=True, kw_only=True)
class _WithLast(_First):
    last: ClassVar[tuple[str, ...]] = ("first",)


@dataclass(frozen=True, kw_only=True)
class LastFirst(_WithLast, _Second):
    """Settings whose first one stands last."""

    third: Annotated[str, Opt("Third.")] = ""


def test_described__has_what_is_last_behind_those_of_classes_below() -> None:
    assert list(described(LastFirst)) == ["second", "third", "first"]


def test_refuse__takes_none_for_not_given() -> None:
    """Python may pass the default of an option along; there is nothing to leave out."""
    assert FewshotEvalConfig(features="f.npz", data=None, image_size=None).data is None
    assert rollout.Options(run="r", image=None, data=None).image is None
    with pytest.raises(SettingError, match="--data is given beside --features"):
        FewshotEvalConfig(features="f.npz", data=("digits",))


@pytest.mark.parametrize(
    ("settings", "field", "sentence"),
    [
        ({"first": 0}, "first", "--first is 0; expected 1 or more."),
        ({"third": "of"}, "third", "--third is 'of'; it can be on, off. Did you mean 'off'?"),
        ({"third": ""}, "third", "--third is empty; give it a value, or leave it out."),
    ],
)
def test_errors__carry_the_field_and_spell_the_option(settings: dict[str, Any], field: str, sentence: str) -> None:
    with pytest.raises(SettingError) as caught:
        Toy(**settings)
    assert (caught.value.field, str(caught.value)) == (field, sentence)


@pytest.mark.parametrize("value", ["", (), []])
@pytest.mark.parametrize("name", ["first", "second", "fourth", "hidden"])
def test_nothing__is_no_value_of_any_kind_of_setting(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=rf"--{name} is empty; give it a value, or leave it out\.") as caught:
        Toy(**{name: value})
    assert caught.value.field == name


def test_empty_entries__are_named_by_who_knows_the_entries() -> None:
    with pytest.raises(SettingError, match="--pool is ''; it can be native"):
        FewshotEvalConfig(pool=("cls", ""))
    with pytest.raises(SettingError, match="--model is empty"):
        FewshotEvalConfig(model=("demo", ""))
    assert FewshotEvalConfig(layers="0,,1").layers == ("0", "", "1")  # type: ignore[arg-type]


def test_limits__are_not_fooled_by_nan() -> None:
    assert not FRACTION.holds(float("nan"))
    assert not at_least(0).holds(float("nan"))


def test_json__has_lists_as_the_command_line_writes_them() -> None:
    config = FewshotEvalConfig(shots=(1, "all", 5), l2=(1e-3, 1234567.8), image_size=(32, 48), model=("demo",))
    document = config.as_json(without=("out",))
    assert "out" not in document
    assert (document["shots"], document["l2"], document["image_size"]) == ("1,5,all", "0.001,1234567.8", "32x48")
    assert document["model"] == ["demo"]
    assert (
        FewshotEvalConfig(**{name: document[name] for name in ("shots", "l2", "image_size")}).as_json()["l2"]
        == (document["l2"])
    )


# Python passes values, the command line text: both are the same settings


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"shots": (1, 5)}, {"shots": "1,5"}),
        ({"shots": 5}, {"shots": "5"}),
        ({"shots": [5, "all", 1]}, {"shots": "1,5,all"}),
        ({"l2": 1.0}, {"l2": "1"}),
        ({"l2": (1, 1e-3)}, {"l2": "1,1e-3"}),
        ({"classifier": "knn", "neighbours": [3]}, {"classifier": "knn", "neighbours": "3"}),
        ({"layers": ("embed", 0, "final")}, {"layers": "embed,0,final"}),
        ({"pool": ("cls", "mean")}, {"pool": "cls, mean"}),
        ({"image_size": 32}, {"image_size": "32"}),
        ({"image_size": (32, 48)}, {"image_size": "32x48"}),
    ],
)
def test_fewshot_eval__values_are_text(settings: dict[str, Any], same: dict[str, Any]) -> None:
    assert settings_of(FewshotEvalConfig, settings) == FewshotEvalConfig(**same)


def test_other_commands__values_are_text() -> None:
    assert rollout.Options(model=("demo",), query=(3, 5)) == rollout.Options(
        model=("demo",),
        query="3,5",  # type: ignore[arg-type]
    )
    assert attention.Options(model=("demo",), layer="1").layer == 1  # type: ignore[arg-type]
    assert features.Options(model=("demo",), layer="1", query="1,2").layer == 1  # type: ignore[arg-type]
    assert features.Options(model=("demo",), layer="final").as_json()["layer"] == "final"
    assert ExportConfig(run="r", outputs=("embedding", "logits")).outputs == ("logits", "embedding")
    assert ExportConfig(run="r", to="pt2, npz,pt2").formats == ("pt2", "npz")  # type: ignore[arg-type]
    assert FinetuneConfig(image_size=(32, 48)).as_json()["image_size"] == "32x48"


@pytest.mark.parametrize("given", ["x", "3x", "0", "1x2x3", -1, (3,) * 3, 1.5])
def test_pixels__refuses_what_is_no_size(given: Any) -> None:
    with pytest.raises(SettingError, match="--image-size is '.*'; it takes pixels"):
        pixels(given, "--image-size")


def test_a_float_keeps_its_digits() -> None:
    """Handed on as text with six digits it would be another penalty."""
    assert FewshotEvalConfig(l2=(1234567.8,)).penalties == (1234567.8,)


def test_python__numbers_of_numpy_paths_and_one_name_for_a_list() -> None:
    read = partial(settings_from_python, where="here")
    settings = {"batch_size": np.int64(3), "lr": np.float64(0.5), "flip": np.bool_(True), "data": Path("photos")}
    assert read(FinetuneConfig, settings) == FinetuneConfig(batch_size=3, lr=0.5, flip=True, data="photos")
    assert read(FinetuneConfig, {"set": "rate.lr=1"}) == FinetuneConfig(set=("rate.lr=1",))
    assert read(FewshotEvalConfig, {"model": Path("runs/a")}) == FewshotEvalConfig(model=("runs/a",))
    assert read(FewshotEvalConfig, {"model": ["a", Path("b")]}) == FewshotEvalConfig(model=("a", "b"))
    assert read(FewshotEvalConfig, {"shots": np.array([1, 5])}) == FewshotEvalConfig(shots=(1, 5))


@pytest.mark.parametrize("value", [1.0, -0.5, float("nan")])
@pytest.mark.parametrize("name", ["discard", "residual"])
def test_inspect__shares_are_checked_before_a_model_is_loaded(name: str, value: float) -> None:
    with pytest.raises(SettingError, match=f"--{name} is .*; expected a fraction, 0 to below 1"):
        settings_of(rollout.Options, {"run": "r", name: value})


# options that would do nothing are refused also at their default (D6 of the house's list)


@pytest.mark.parametrize(
    ("command", "settings", "sentence"),
    [
        (FewshotEvalConfig, {"ways": (5,)}, "--ways is given without --protocol episodes"),
        (FewshotEvalConfig, {"classifier": "knn", "l2": (1024.0,)}, "--l2 is given beside --classifier knn"),
        (FewshotEvalConfig, {"features": "f.npz", "batch_size": 64}, "--batch-size is given beside --features"),
        (ExportConfig, {"run": "r", "to": "npz", "opset": 18}, "--opset is given without --to onnx"),
        (ExportConfig, {"model": "demo", "which": "best"}, "--which is given beside --model"),
        (rollout.Options, {"run": "r", "image": ("a.png",), "num_images": 4}, "--num-images is given beside --image"),
    ],
)
def test_given_at_its_default__is_refused_where_it_would_do_nothing(
    command: type[Settings], settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingError, match=sentence):
        command(**settings)


def test_shared_groups__say_a_setting_once() -> None:
    """The same words in every command that has the group."""
    for name, one in described(Compute).items():
        for command in (FinetuneConfig, FewshotEvalConfig, rollout.Options):
            assert described(command)[name] == one
