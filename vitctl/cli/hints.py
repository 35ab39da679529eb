"""What somebody may have meant by a command, an option or an argument that is not there."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitctl.errors import did_you_mean

# command -> what other programs call it
_COMMANDS = {
    "finetune": "train training fit fine-tune tune",
    "evaluate": "eval test validate val score",
    "predict": "infer inference classify",
    "fewshot-eval": "fewshot few-shot linear-probe knn",
    "inspect": "visualize visualise explain analyze analyse attention",
    "export": "convert onnx",
    "data": "dataset datasets",
    "models": "model list",
    "--help": "help",
    "--version": "version",
}
MOST_NAMED = 5  # commands that take an option
# option -> what other programs call it, both without their dashes
_OPTIONS = {
    "batch-size": "bs batch",
    "class-weights": "class-weight",
    "data": "dataset dataset-dir data-dir data-path data-root train train-dir input",
    "compile": "torchcompile torch-compile",
    "deterministic": "reproducible",
    "device": "gpu gpus cuda accelerator",
    "dry-run": "dryrun",
    "epochs": "epoch num-epochs max-epochs",
    "image-size": "resolution img-size imgsz size input-size",
    "label-column": "label-col target-column",
    "lr": "learning-rate rate base-lr",
    "model": "arch architecture model-name backbone",
    "num-threads": "threads",
    "num-workers": "workers num-worker",
    "opset": "opset-version",
    "out": "output output-dir outdir out-dir save-dir save-path",
    "overwrite": "force",
    "precision": "dtype amp amp-dtype mixed-precision",
    "seed": "random-seed",
    "shots": "shot k-shot num-shots",
    "steps": "step num-steps max-steps iterations",
    "to": "format formats",
    "top-k": "topk",
    "val": "valid validation val-data val-dir",
    "val-fraction": "val-split validation-split",
    "ways": "way n-way",
    "weights": "checkpoint ckpt pretrained",
}
_SYNONYMS = {word: command for command, words in _COMMANDS.items() for word in words.split()} | {
    f"--{word}": f"--{option}" for option, words in _OPTIONS.items() for word in words.split()
}
# what a file is by the end of its name -> the option that takes it
_FILES = {"json": "--config", "toml": "--recipe", "safetensors": "--weights", "pth": "--weights", "npz": "--weights"}
_MODEL = re.compile(r"[a-z0-9]+(_[a-z0-9]+)+(\.\w+)?|demo")
_SPEC = re.compile(r"digits|hub:.+|.*/.*|.+\.(csv|tsv|parquet|tar)")


def hint(error: Exception) -> str | None:
    """Return one sentence in place of a usage error of typer's; None where its own words are the best there are."""
    context, text = getattr(error, "ctx", None), str(getattr(error, "message", ""))
    option, parameter = getattr(error, "option_name", None), getattr(error, "param", None)
    if option and text.endswith("requires an argument."):
        return f"{option} stands without a value; give it one, or leave it out."
    if option and text.endswith("does not take a value."):
        return f"{option} takes no value; write it alone, or leave it out."
    if context is None:
        return None
    if option:
        return _unknown_option(context, option) if text.startswith("No such option") else None
    if parameter is not None:
        return _no_number(error, parameter) if text else _missing_argument(context, parameter)
    if match := re.match(r"No such command '(.*?)'\.", text, re.DOTALL):
        return _unknown_command(context, match[1])
    if match := re.match(r"Got unexpected extra arguments?(?:\(s\))? \((.*)\)", text, re.DOTALL):
        return _unexpected_argument(context, match[1])
    return None


def _unknown_command(context: Any, word: str) -> str:
    known = [*context.command.commands, "--help", *_options(context.command)]
    near = did_you_mean(word.lower(), known, synonyms=_SYNONYMS)
    if (
        not near
        and context.parent is None
        and (option := _option_for(word, _options(context.command.commands["finetune"])))
    ):
        near = f" Did you mean 'vitctl finetune {option} {shlex.quote(word)}'?"
    return f"{_path(context)} has no command {word!r}{_or_help(near, context)}"


def _unknown_option(context: Any, option: str) -> str:
    known, word = _options(context.command), option.lower().replace("_", "-")
    start = f"{_path(context)} has no option {option!r}"
    arguments = {f"--{p.name}": p.metavar for p in context.command.params if p.param_type_name == "argument"}
    if word in arguments:
        return f"{start}; give its value alone, as in '{_path(context)} {' '.join(arguments.values())}'."
    near = did_you_mean(word, known, most=1, synonyms=_SYNONYMS)
    owners = [name for name, options in _commands(context.find_root().command.commands) if word in options]
    below = [name for name, options in _commands(getattr(context.command, "commands", {})) if word in options]
    if below:
        return f"{start}; options stand behind the command, as in '{_path(context)} {below[0]} {word}'."
    if beside := _commands_beside(context, word):
        return f"{start}, which is for {_listed(beside)}; '{_path(context)} --help' lists what it takes."
    if not near and owners:
        return f"{start}, which belongs to {_listed(owners)}; '{_path(context)} --help' lists what it takes."
    return start + _or_help(near, context)


def _commands_beside(context: Any, option: str) -> list[str]:
    """Return the commands of the same group that take an option; none, where the group is vitctl itself."""
    if context.parent is None or context.parent.parent is None:
        return []
    return [name for name, options in _commands(context.parent.command.commands) if option in options]


def _listed(names: list[str]) -> str:
    rest = len(names) - MOST_NAMED
    return ", ".join(names) if rest <= 1 else f"{', '.join(names[:MOST_NAMED])} and {rest} others"


def _unexpected_argument(context: Any, arguments: str) -> str:
    word = arguments if Path(arguments).exists() else arguments.split(" ")[0]
    option = _option_for(word, _options(context.command))
    near = f" Did you mean '{option} {shlex.quote(word)}'?" if option else ""
    return f"{_path(context)} takes no argument {word!r}{_or_help(near, context)}"


def _missing_argument(context: Any, missing: Any) -> str:
    asked = [p.metavar for p in context.command.params if p.param_type_name == "argument" and p.required]
    usage = f"'{_path(context)} {' '.join(asked)}'"
    return f"{_path(context)} needs {missing.metavar}, as in {usage}; '{_path(context)} --help' explains it."


def _no_number(error: Exception, parameter: Any) -> str | None:
    """Return a sentence about a value that is not the number its option takes; typer's own does not quote it."""
    details: list[Any] = getattr(error.__cause__ or error.__context__, "errors", list)()
    expected = {"int_parsing": "a whole number", "float_parsing": "a number"}
    if not details or details[0]["type"] not in expected:
        return None
    return f"{parameter.opts[0]} is {details[0]['input']!r}; expected {expected[details[0]['type']]}."


def _option_for(word: str, known: list[str]) -> str | None:
    """Return the option, one of ``known``, whose value ``word`` looks like."""
    path = Path(word).expanduser()
    if path.suffix.lstrip(".") in _FILES:
        option = _FILES[path.suffix.lstrip(".")]
    elif (path / "config.json").is_file() or (_MODEL.fullmatch(word) and not path.exists()):
        option = "--model"
    elif path.exists() or _SPEC.fullmatch(word):
        option = "--data"
    else:
        return None
    return option if option in known else None


def _or_help(near: str, context: Any) -> str:
    return f".{near}" if near else f"; '{_path(context)} --help' lists what it takes."


def _path(context: Any) -> str:
    """Return ``vitctl`` and the names of the sub-commands, however vitctl was started."""
    names: list[str] = []
    while context.parent is not None:
        names.insert(0, context.info_name)
        context = context.parent
    return " ".join(["vitctl", *names])


def _options(command: Any) -> list[str]:
    names = [name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)]
    return [name for name in names if name.startswith("--")]


def _commands(commands: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of every one of ``commands`` and of those below them, and its options."""
    for name, command in commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command.commands, (*path, name))
        else:
            yield " ".join((*path, name)), _options(command)
