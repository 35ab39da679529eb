"""A command, an option or a value that is not there: one sentence that names what was meant."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from vitctl.cli import hints
from vitctl.cli.app import app
from vitctl.errors import SYNONYMS, check_choice, did_you_mean

ROOT: Any = typer.main.get_command(app)

# what is typed -> the end of the sentence
CASES = {
    "train --data photos": "vitctl has no command 'train'. Did you mean 'finetune'?",
    "fit": "Did you mean 'finetune'?",
    "fine-tune": "Did you mean 'finetune'?",
    "Tune": "vitctl has no command 'Tune'. Did you mean 'finetune'?",
    "finetun": "Did you mean 'finetune'?",
    "eval run": "Did you mean 'evaluate'?",
    "test run": "Did you mean 'evaluate'?",
    "infer run": "Did you mean 'predict'?",
    "classify": "Did you mean 'predict'?",
    "fewshot": "Did you mean 'fewshot-eval'?",
    "few-shot": "Did you mean 'fewshot-eval'?",
    "visualize": "Did you mean 'inspect'?",
    "explain": "Did you mean 'inspect'?",
    "convert": "Did you mean 'export'?",
    "help finetune": "vitctl has no command 'help'. Did you mean '--help'?",
    "xyzzy": "vitctl has no command 'xyzzy'; 'vitctl --help' lists what it takes.",
    "photos/": "Did you mean 'vitctl finetune --data photos/'?",
    "recipes list": "vitctl recipes has no command 'list'. Did you mean 'ls'?",
    "recipes xyzzy": "; 'vitctl recipes --help' lists what it takes.",
    "finetune photos": "vitctl finetune takes no argument 'photos'. Did you mean '--data photos'?",
    "finetune gone/ --steps 3": "Did you mean '--data gone/'?",
    "finetune digits": "Did you mean '--data digits'?",
    "finetune hub:a/b": "Did you mean '--data hub:a/b'?",
    "finetune eyes.csv": "Did you mean '--data eyes.csv'?",
    "finetune vit_base_patch16_224.augreg_in21k": "Did you mean '--model vit_base_patch16_224.augreg_in21k'?",
    "finetune run": "Did you mean '--model run'?",
    "finetune old.json": "Did you mean '--config old.json'?",
    "finetune xyzzy plugh": "takes no argument 'xyzzy'; 'vitctl finetune --help' lists what it takes.",
    "evaluate run photos": "Did you mean '--data photos'?",
    "models vit photos": "vitctl models takes no argument 'photos'; 'vitctl models --help' lists what it takes.",
    "finetune --learning-rate 0.1": "vitctl finetune has no option '--learning-rate'. Did you mean '--lr'?",
    "finetune --learning_rate=0.1": "Did you mean '--lr'?",
    "finetune --image_size 24": "vitctl finetune has no option '--image_size'. Did you mean '--image-size'?",
    "finetune --image-sise 24": "Did you mean '--image-size'?",
    "finetune --dataset x": "Did you mean '--data'?",
    "finetune --data-dir x": "Did you mean '--data'?",
    "finetune --data-path x": "Did you mean '--data'?",
    "finetune --arch x": "Did you mean '--model'?",
    "finetune --resolution 3": "Did you mean '--image-size'?",
    "finetune --img-size 3": "Did you mean '--image-size'?",
    "finetune --size 3": "Did you mean '--image-size'?",
    "finetune --bs 3": "Did you mean '--batch-size'?",
    "finetune --batch 3": "Did you mean '--batch-size'?",
    "finetune --workers 3": "Did you mean '--num-workers'?",
    "finetune --num-worker 3": "Did you mean '--num-workers'?",
    "finetune --output x": "Did you mean '--out'?",
    "finetune --outdir x": "Did you mean '--out'?",
    "finetune --epoch 3": "Did you mean '--epochs'?",
    "finetune --ckpt x": "Did you mean '--weights'?",
    "evaluate run --checkpoint x": "Did you mean '--weights'?",
    "finetune --xyzzy": "has no option '--xyzzy'; 'vitctl finetune --help' lists what it takes.",
    "inspect cka --shots 3": "vitctl inspect cka has no option '--shots', which is for probe, all; "
    "'vitctl inspect cka --help' lists what it takes.",
    "inspect filters --data x": "which is for attention, rollout, distance, cka, heads-vs-cnn and 7 others; 'vitctl "
    "inspect filters --help' lists what it takes.",
    "inspect rollout --fuson max": "vitctl inspect rollout has no option '--fuson'. Did you mean '--fusion'?",
    "inspect --model demo": "options stand behind the command, as in 'vitctl inspect filters --model'.",
    "inspect rolout": "vitctl inspect has no command 'rolout'. Did you mean 'rollout'?",
    "evaluate --steps 3": "has no option '--steps', which belongs to finetune, sweep; 'vitctl evaluate --help' "
    "lists what it takes.",
    "data --data photos": "vitctl data has no option '--data'; give its value alone, as in 'vitctl data SPEC'.",
    "predict --images a.jpg": "give its value alone, as in 'vitctl predict RUN IMAGE'.",
    "--data photos": "options stand behind the command, as in 'vitctl finetune --data'.",
    "--xyzzy": "vitctl has no option '--xyzzy'; 'vitctl --help' lists what it takes.",
    "finetune --device gpu": "--device is 'gpu'; it can be auto, cpu, cuda, mps. Did you mean 'cuda'?",
    "finetune --device CUDA": "Did you mean 'cuda'?",
    "export run --to pytorch": "Did you mean 'pt2'?",
    "evaluate run --split validation": "Did you mean 'val'?",
    "predict": "vitctl predict needs RUN, as in 'vitctl predict RUN'; 'vitctl predict --help' explains it.",
    "recipes cp transfer": "vitctl recipes cp needs FILE, as in 'vitctl recipes cp NAME FILE'; 'vitctl recipes cp "
    "--help' explains it.",
    "finetune --lr": "--lr stands without a value; give it one, or leave it out.",
    "finetune --flip=yes": "--flip takes no value; write it alone, or leave it out.",
    "finetune --batch-size x": "--batch-size is 'x'; expected a whole number.",
    "finetune --steps 1.5": "--steps is '1.5'; expected a whole number.",
    "finetune --lr 1e-3x": "--lr is '1e-3x'; expected a learning rate (1e-4), several to choose from (1e-4,3e-4,1e-3), "
    "or grid, the recipe's own.",
}


@pytest.mark.parametrize("line", CASES)
def test_hint(run_cli: Callable[..., Any], line: str) -> None:
    Path("photos").mkdir()
    Path("run").mkdir()
    Path("run/config.json").write_text("{}")
    result = run_cli(*line.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    (sentence,) = result.stderr.splitlines()
    assert sentence.startswith("error: ")
    assert sentence.endswith(CASES[line])


def test_hint__is_quoted_as_a_shell_reads_it(run_cli: Callable[..., Any]) -> None:
    Path("my photos").mkdir()
    assert run_cli("finetune", "my photos").stderr.endswith("Did you mean '--data 'my photos''?\n")
    assert run_cli("my photos").stderr.endswith("Did you mean 'vitctl finetune --data 'my photos''?\n")
    assert "\x1b" not in run_cli("finetune", "\x1b[31m/").stderr


def test_hint__leaves_what_typer_says_well(run_cli: Callable[..., Any]) -> None:
    result = run_cli("recipes")
    assert result.exit_code == 2
    assert "error: " not in result.stderr
    assert "Usage: " in result.stderr


def test_hint__in_a_process_of_its_own() -> None:
    done = subprocess.run([sys.executable, "-m", "vitctl", "train"], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: vitctl has no command 'train'. Did you mean 'finetune'?\n"


def test_tables_name_what_there_is() -> None:
    assert set(hints._COMMANDS) - {"--help", "--version"} <= set(ROOT.commands)
    options = {option for _, options in hints._commands(ROOT.commands) for option in options}
    assert {f"--{name}" for name in hints._OPTIONS} | set(hints._FILES.values()) <= options
    assert len(hints._SYNONYMS) == sum(
        len(words.split()) for words in (*hints._COMMANDS.values(), *hints._OPTIONS.values())
    )


def test_tables_shadow_nothing() -> None:
    """A word that is a command everywhere, or an option of every command that has what it stands for, gives no hint."""
    assert not set(ROOT.commands) & set(hints._SYNONYMS)
    for word, option in hints._SYNONYMS.items():
        if word.startswith("--"):
            assert any(option in options and word not in options for _, options in hints._commands(ROOT.commands)), word


@pytest.mark.parametrize("word", SYNONYMS)
def test_did_you_mean__synonyms_only_where_they_are_known(word: str) -> None:
    assert did_you_mean(word, ["x", SYNONYMS[word]]) == f" Did you mean {SYNONYMS[word]!r}?"
    assert SYNONYMS[word] not in did_you_mean(word, ["x"])


def test_did_you_mean__is_spelt_alike_otherwise() -> None:
    assert did_you_mean("bicubicaa", ["paper", "bicubic-aa"]) == " Did you mean 'bicubic-aa'?"
    assert did_you_mean("gpu", ["gp", "tpu"]) == " Did you mean 'gp' or 'tpu'?"
    assert check_choice("cuda", ["cuda"], what="--device") == "cuda"
