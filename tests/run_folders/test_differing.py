"""Settings of runs by name: which differ, and which runs differ in the seed alone."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.recipes import Recipe, as_document, keys_of, load_recipe
from vitctl.recipes.keys import Option
from vitctl.run_folders.differing import differing, rows_by_seed, settings_by_name, settings_of_run
from vitctl.settings.finetune import HOW_COMPUTED, NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.option import described


def resolved(**changes: Any) -> FinetuneConfig:
    """Return the settings of a run as its config.json has them."""
    usual = {
        "data": "digits", "model": "demo", "recipe": "demo", "recipe_settings": as_document(load_recipe("demo")),
        "lr": 1e-3, "steps": 390, "batch_size": 16, "image_size": "48", "seed": 0,
    }  # fmt: skip
    return FinetuneConfig(**(usual | changes))


def named(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    return [settings_by_name(resolved(**one)) for one in changes]


def test_settings__every_one_that_says_what_is_trained() -> None:
    names = list(settings_by_name(resolved()))
    options = [name for name in described(FinetuneConfig) if name not in (*NOT_OF_A_RUN, *HOW_COMPUTED)]
    with_option = [path for path, key in keys_of(Recipe).items() if key.marks(Option)]
    keys = [path for path in keys_of(Recipe) if path != "about" and path not in with_option]
    assert names == [*(name for name in options if name not in ("set", "recipe_settings")), *keys]
    json.dumps(settings_by_name(resolved()), allow_nan=False)  # values as JSON has them


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ({}, {}, []),
        ({}, {"out": "elsewhere", "num_workers": 3, "device": "cpu", "micro_batch": 2, "num_threads": 4}, []),
        ({}, {"seed": 1, "lr": 3e-3}, ["lr", "seed"]),
        ({"image_size": "32"}, {"image_size": (32, 32)}, []),
        ({"steps": None, "epochs": 2.0}, {"steps": None, "epochs": 3.0}, ["epochs"]),
        ({}, {"steps": None, "epochs": 3.0}, ["steps", "epochs"]),
        ({"time_limit": 60.0}, {"time_limit": 60.0, "steps": 391}, []),  # as many as the machine had time for
        ({"time_limit": 60.0}, {}, ["steps", "time_limit"]),
        ({"fold": "1/5"}, {"fold": "2/5"}, ["fold"]),
        ({"recipe": "mine.toml"}, {}, []),  # the same values by another name
        ({}, {"set": ("rate.lr=1",)}, []),  # what it came to is in lr
    ],
)
def test_differing(one: dict[str, Any], other: dict[str, Any], expected: list[str]) -> None:
    assert differing(named(one, other)) == expected


def test_differing__values_of_the_recipe() -> None:
    values = as_document(load_recipe("demo"))
    other = values | {"weight_decay": 0.1, "lr": 0.5, "batch_size": 7, "steps": 3, "about": "another", "head": "zero"}
    found = differing(named({}, {"recipe_settings": other, "recipe": "mine.toml"}))
    assert found == ["head", "recipe", "optimizer.weight_decay"]  # the rate, batch and steps used are as before


def test_differing__an_option_of_a_later_version_is_as_the_recipe_says() -> None:
    before = resolved()
    now = replace(before, tune="full", layer_decay=1.0, head="ridge")
    assert differing([settings_by_name(before), settings_by_name(now)]) == []
    assert differing([settings_by_name(before), settings_by_name(replace(now, tune="head"))]) == ["tune"]


def test_differing__what_one_does_not_have() -> None:
    assert differing([{"lr": 0.1}, {"lr": 0.1, "seed": 0}, {"lr": 0.1, "patience": None}]) == ["seed"]
    assert differing([{"lr": 0.1}]) == []


def test_rows_by_seed() -> None:
    runs = named({"seed": 2, "lr": 0.1}, {"seed": 0}, {"seed": 0, "lr": 0.1}, {"seed": 1}, {"seed": 1, "lr": 0.1})
    assert rows_by_seed(runs) == [[2, 4, 0], [1, 3]]
    assert rows_by_seed([]) == []


def test_rows_by_seed__is_what_differing_says() -> None:
    changes: list[dict[str, Any]] = [
        {}, {"seed": 5}, {"recipe": "mine.toml"}, {"num_workers": 2}, {"flip": True}, {"freeze": ("pos",)},
        {"recipe_settings": as_document(load_recipe("transfer"))}, {"lr": 1}, {"lr": 1.0},
    ]  # fmt: skip
    runs = named(*changes)
    groups = rows_by_seed(runs)
    row = {index: number for number, group in enumerate(groups) for index in group}
    for one in range(len(runs)):
        for other in range(len(runs)):
            is_same = set(differing([runs[one], runs[other]])) <= {"seed"}
            assert is_same == (row[one] == row[other]), (changes[one], changes[other])


def test_settings_of_a_run(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be read"):
        settings_of_run(tmp_path)
    document = {"vitctl": "0.1.0", "command": "finetune", "versions": {}}
    document |= resolved().as_json(without=(*NOT_OF_A_RUN, "dev_fraction", "split_seed"))  # of before these
    (tmp_path / "config.json").write_text(json.dumps(document))
    assert settings_of_run(tmp_path) == settings_by_name(resolved())
