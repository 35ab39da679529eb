"""Options are fields of settings: the same names, the same defaults, words and an example for each."""

import dataclasses
import sys
from typing import Any

import pytest
import typer

from vitctl.cli.app import app
from vitctl.inspecting.catalogue import every_setting, settings_classes
from vitctl.settings.compare import CompareConfig
from vitctl.settings.data import DataConfig
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.export import ExportConfig
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.log import LogConfig
from vitctl.settings.models import ModelsConfig
from vitctl.settings.option import Settings, described
from vitctl.settings.predict import PredictConfig
from vitctl.settings.runs import RunsConfig
from vitctl.settings.sweep import SweepConfig

ROOT: Any = typer.main.get_command(app)

# parameters that say how to read or print settings, and so are none themselves
NOT_SETTINGS = {"help", "as_json", "as_csv", "config"}
CONFIGS: dict[str, type[Settings]] = {
    "finetune": FinetuneConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "models": ModelsConfig,
    "data": DataConfig,
    "fewshot-eval": FewshotEvalConfig,
    "export": ExportConfig,
    "log": LogConfig,
    "sweep": SweepConfig,
    "compare": CompareConfig,
    "runs": RunsConfig,
    **{f"inspect {name}": settings for name, settings in settings_classes().items()},
}
# fields that the command makes of what stands without a name, or that only a file holds
NOT_OPTIONS = {"predict": {"run", "images"}, "finetune": {"recipe_settings"}, "sweep": {"recipe_settings"}}


def all_commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    found = [(" ".join(path), command)] if path and not children else []
    return found + [pair for name, child in children.items() for pair in all_commands(child, (*path, name))]


COMMANDS = dict(all_commands())


def leaves(settings: type[Settings] = Settings) -> set[type[Settings]]:
    return {leaf for child in settings.__subclasses__() for leaf in leaves(child)} or {settings}


def test_every_command_with_settings_is_held() -> None:
    there = {one for one in leaves() if one.__module__ in sys.modules}  # those that other tests planted are gone
    named = {one for one in there if one.__name__.endswith("Config") or one.__name__ == "Options"}
    assert named - set(CONFIGS.values()) == set()
    assert set(CONFIGS) <= {name for name, _ in all_commands()}


def test_analyses_mean_the_same_by_a_name() -> None:
    """``vitctl.inspect`` and JSON have the settings of all in one list; a name has one default there."""
    for settings in settings_classes().values():
        for name, one in described(settings).items():
            assert one.default == every_setting()[name].default, (settings, name)


@pytest.mark.parametrize("name", CONFIGS)
def test_options_are_settings(name: str) -> None:
    fields = described(CONFIGS[name])
    assert set(fields) == {field.name for field in dataclasses.fields(CONFIGS[name])}
    by_hand = NOT_OPTIONS.get(name, set())
    options = {
        parameter.name: parameter for parameter in COMMANDS[name].params if parameter.name not in NOT_SETTINGS | by_hand
    }
    assert set(options) == set(fields) - by_hand
    for option, parameter in options.items():
        one = fields[option]
        assert one.opt is not None, option
        if one.default is dataclasses.MISSING:
            assert parameter.required, option
        elif one.opt.parse is not None and one.default is not None:
            assert one.opt.parse(parameter.default, option) == one.default, option
        else:
            assert parameter.default == one.default, option


@pytest.mark.parametrize("name", CONFIGS)
def test_parsers__read_what_they_spell(name: str) -> None:
    """The help page, JSON and config.json say a value in the words that the command line reads."""
    for one in described(CONFIGS[name]).values():
        if one.opt is not None and one.opt.parse is not None and one.default not in (None, dataclasses.MISSING):
            assert one.opt.parse(one.opt.spell(one.default), one.name) == one.default == one.opt.parse(one.default, "")


@pytest.mark.parametrize(("name", "command"), all_commands())
def test_every_command_is_explained(name: str, command: Any) -> None:
    assert command.help, f"{name} has no help"
    assert f"vitctl {name}" in (command.epilog or ""), f"{name} shows no example of itself"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", CONFIGS)
def test_names_in_words_are_settings(name: str) -> None:
    """What a field says of other fields (``outdates``) names fields that there are."""
    fields = described(CONFIGS[name])
    for one in fields.values():
        if one.opt is not None:
            assert set(one.opt.outdates) <= set(fields), one.name
