"""What is loaded is what was meant, in every command that opens a model: they all have it from one place."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

COMMANDS = {
    "predict": "predict --model {model} --weights {weights} {image}",
    "evaluate": "evaluate --model {model} --weights {weights} --data {images} --out out",
    "finetune": "finetune --model {model} --weights {weights} --data {images} --dry-run",
    "fewshot-eval": "fewshot-eval --model {model} --weights {weights} --data {images} --shots 1 --seeds 1 --out out",
    "inspect": "inspect pos-embed --model {model} --weights {weights} --out out",
    "probe": "inspect probe --model {model} --weights {weights} --data {images} --shots 1 --out out",
    "export": "export --model {model} --weights {weights} --to timm --out out",
}


@pytest.fixture
def line(tmp_path: Path, tiny_model_folder: Path, whole_folder: Path) -> Callable[..., list[str]]:
    """Return ``line(command, **tensors)``: its arguments, with weights that have these tensors besides."""

    def make(command: str, **tensors: torch.Tensor) -> list[str]:
        weights = tmp_path / "w.safetensors"
        images = tmp_path / "images"  # their classes are the numbers that a weights file knows its outputs by
        if not images.exists():
            for number, name in enumerate(("red", "green", "blue")):
                shutil.copytree(whole_folder / name, images / str(number))
        changed = {key.replace("__", "."): value for key, value in tensors.items()}
        save_file(load_file(tiny_model_folder / "model.safetensors") | changed, weights)
        places = {"model": tiny_model_folder, "weights": weights, "image": images / "0" / "0.png", "images": images}
        return COMMANDS[command].format(**places).split()

    return make


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command__refuses_what_was_not_meant(
    refused: Callable[..., None], line: Callable[..., list[str]], command: str
) -> None:
    nan = torch.tensor([0.0, torch.nan, 0.0])
    refused(line(command, head__bias=nan), 4, ("w.safetensors", "head.bias", "not finite"))
    gamma = torch.ones(16)
    refused(line(command, blocks__1__ls1__gamma=gamma), 4, ("w.safetensors", "no place for blocks.1.ls1.gamma"))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command__tells_what_is_not_used(
    run_cli: Callable[..., Any],
    line: Callable[..., list[str]],
    no_rendering: None,
    no_findings_drawn: None,
    command: str,
) -> None:
    result = run_cli(*line(command, extra__weight=torch.ones(2)))
    assert result.exit_code == 0, result.stderr
    assert "w.safetensors is not used: extra.weight." in " ".join(result.stderr.split())
