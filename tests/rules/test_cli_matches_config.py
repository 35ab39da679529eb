"""Options are config fields: the same names, the same defaults, help and examples for each."""

import dataclasses
import inspect
from typing import Any

import pytest
import typer

from vitctl import config
from vitctl.cli.app import app

ROOT: Any = typer.main.get_command(app)

# parameters that say how to read or print settings, and so are none themselves
NOT_SETTINGS = {
    "finetune": {"config", "as_json"},
    "evaluate": {"as_json"},
    "predict": {"as_json", "as_csv", "run", "images"},
    "models": {"as_json"},
    "data": {"as_json"},
    "fewshot-eval": {"as_json"},
    "export": {"as_json"},
    "inspect": {"as_json", "analysis"},
}
# fields that no option sets: predict's positional arguments, what a config.json holds
NOT_OPTIONS = {"predict": {"run", "images"}, "finetune": {"recipe_settings"}, "inspect": {"analysis"}}
CONFIGS = {
    "finetune": config.FinetuneConfig,
    "evaluate": config.EvaluateConfig,
    "predict": config.PredictConfig,
    "models": config.ModelsConfig,
    "data": config.DataConfig,
    "fewshot-eval": config.FewshotEvalConfig,
    "export": config.ExportConfig,
    "inspect": config.InspectConfig,
}


def all_commands(command: Any = ROOT, path: tuple[str, ...] = ()) -> list[tuple[str, Any]]:
    children = getattr(command, "commands", {})
    found = [(" ".join(path), command)] if path and not children else []
    return found + [pair for name, child in children.items() for pair in all_commands(child, (*path, name))]


@pytest.mark.parametrize("name", CONFIGS)
def test_options_are_config_fields(name: str) -> None:
    fields = {field.name: field.default for field in dataclasses.fields(CONFIGS[name])}
    options = {
        p.name: p.default for p in ROOT.commands[name].params if p.name not in NOT_SETTINGS[name] and p.name != "help"
    }
    assert set(options) == set(fields) - NOT_OPTIONS.get(name, set())
    for option, default in options.items():
        assert default == fields[option], f"--{option}: the command says {default!r}, the config {fields[option]!r}"


@pytest.mark.parametrize(("name", "command"), all_commands())
def test_every_command_is_explained(name: str, command: Any) -> None:
    assert command.help, f"{name} has no help"
    assert f"vitctl {name}" in (command.epilog or ""), f"{name} shows no example of itself"
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", CONFIGS)
def test_every_field_is_explained(name: str) -> None:
    """Each config field is followed by a docstring with its unit or values."""
    source = inspect.getsource(CONFIGS[name])
    for field in dataclasses.fields(CONFIGS[name]):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 2)[1].strip()
        assert after.startswith('"""'), f"{CONFIGS[name].__name__}.{field.name} has no docstring"
