"""The commands as functions: the same settings, the same documents, the same sentences; silent unless asked."""

import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitctl
from vitctl.inspecting.catalogue import every_setting
from vitctl.results.result import Result
from vitctl.settings.compare import CompareConfig
from vitctl.settings.data import DataConfig
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.export import ExportConfig
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.log import LogConfig
from vitctl.settings.option import Described, described
from vitctl.settings.predict import PredictConfig
from vitctl.settings.runs import RunsConfig
from vitctl.settings.sweep import SweepConfig

FUNCTIONS: dict[Callable[..., Any], Mapping[str, Described]] = {
    vitctl.finetune: described(FinetuneConfig),
    vitctl.evaluate: described(EvaluateConfig),
    vitctl.fewshot_eval: described(FewshotEvalConfig),
    vitctl.inspect: every_setting(),
    vitctl.export: described(ExportConfig),
    vitctl.log: described(LogConfig),
    vitctl.sweep: described(SweepConfig),
    vitctl.compare: described(CompareConfig),
    vitctl.runs: described(RunsConfig),
    vitctl.predict: described(PredictConfig),
    vitctl.data_report: described(DataConfig),
}
TIMES = {"wall_s", "images_per_s", "data_wait_fraction", "embed_s", "solve_s"}

pytestmark = pytest.mark.usefixtures("no_rendering")


def without_times(document: Any) -> Any:
    if isinstance(document, dict):
        return {name: without_times(value) for name, value in document.items() if name not in TIMES}
    return [without_times(value) for value in document] if isinstance(document, list) else document


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions__say_names_and_defaults_of_the_options(function: Callable[..., Any]) -> None:
    parameters = inspect.signature(function).parameters
    for name, one in FUNCTIONS[function].items():
        if one.opt is not None:
            assert name in parameters, name
            assert f"{name}: " in str(function.__doc__), name
            if one.default is not MISSING and parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
                assert parameters[name].default == one.default, name
    assert parameters["verbose"].default is False


def test_documents__are_those_of_the_commands(
    finished_run: Path, run_cli: Callable[..., Any], capfd: pytest.CaptureFixture[str]
) -> None:
    data = finished_run.parent / "data"
    cases: list[tuple[Result, list[Any]]] = [
        (
            vitctl.evaluate(finished_run, split="test", num_workers=0, out="e"),
            ["evaluate", finished_run, "--split", "test", "--num-workers", 0, "--out", "e"],
        ),
        (
            vitctl.predict(finished_run, [data / "test" / "red", data / "test" / "blue" / "0.png"], top_k=np.int64(2)),
            ["predict", finished_run, data / "test" / "red", data / "test" / "blue" / "0.png", "--top-k", 2],
        ),
        (
            vitctl.fewshot_eval(
                model=finished_run, weights="none", data=str(data), shots=(1, 5), seeds=2, num_workers=0, out="f"
            ),
            [
                "fewshot-eval",
                "--model",
                finished_run,
                "--weights",
                "none",
                "--data",
                data,
                "--shots",
                "1,5",
                "--seeds",
                2,
            ]
            + ["--num-workers", 0, "--out", "f"],
        ),
        (
            vitctl.inspect("filters", finished_run, components=3, out="i"),
            ["inspect", "filters", finished_run, "--components", 3, "--out", "i"],
        ),
        (vitctl.data_report(data, out="d"), ["data", data, "--out", "d"]),
    ]
    silent = capfd.readouterr()
    assert (silent.out, silent.err) == ("", "")
    for result, command in cases:
        answer = run_cli(*command, "--json")
        assert answer.exit_code == 0, answer.stderr
        assert without_times(json.loads(json.dumps(result.as_json()))) == without_times(answer.json), command[0]


def test_finetune__returns_what_it_wrote(
    image_folder: Path, tiny_model_folder: Path, run_cli: Callable[..., Any]
) -> None:
    settings = {"data": image_folder, "model": tiny_model_folder, "image_size": 24, "num_workers": 0}
    cost = vitctl.finetune(**settings, steps=2, dry_run=True)
    assert (cost.steps, cost.dry_run) == (2, True)
    result = vitctl.finetune(**settings, steps=2, out=Path("a"))
    assert isinstance(result, vitctl.FinetuneResult)
    assert result.last.step == 2
    assert result.image_size == (24, 24)
    assert json.loads(Path("a/summary.json").read_text()) == json.loads(json.dumps(result.as_json()))
    again = vitctl.finetune(config="a/config.json", out="b")
    assert again.weights_sha256 == result.weights_sha256
    other = vitctl.finetune(config="a/config.json", out="c", seed=np.int64(1))
    assert other.weights_sha256 != result.weights_sha256
    listed = ["--data", image_folder, "--model", tiny_model_folder, "--image-size", 24, "--num-workers", 0]
    assert run_cli("finetune", *listed, "--steps", 2, "--out", "d", "--json").json["weights_sha256"] == (
        result.weights_sha256
    )


def test_export__returns_what_it_wrote(finished_run: Path) -> None:
    result = vitctl.export(finished_run, to=("timm", "npz"), out="exports")
    assert [one.format for one in result.exports] == ["timm", "npz"]
    assert Path("exports/timm").is_dir()


def test_verbose__shows_what_the_command_shows(finished_run: Path, capfd: pytest.CaptureFixture[str]) -> None:
    vitctl.evaluate(finished_run, num_workers=0, out="e", verbose=True)
    seen = capfd.readouterr()
    assert seen.out == ""
    assert "vitctl evaluate" in seen.err


@pytest.mark.parametrize(
    ("call", "error", "field", "sentence"),
    [
        (lambda: vitctl.finetune(steps=0), "SettingError", "steps", "--steps is 0; expected 1 or more."),
        (
            lambda: vitctl.finetune(learning_rate=0.1),
            "SettingError",
            None,
            "vitctl.finetune has an unknown setting 'learning_rate'. help(vitctl.finetune) lists those it has.",
        ),
        (lambda: vitctl.finetune(step=1), "SettingError", None, "Did you mean 'steps'"),
        (
            lambda: vitctl.finetune(steps="5"),
            "SettingError",
            None,
            "steps in vitctl.finetune is '5'; expected int or None.",
        ),
        (lambda: vitctl.finetune(seed=True), "SettingError", None, "seed in vitctl.finetune is True; expected int."),
        (lambda: vitctl.finetune(data=object()), "SettingError", None, "data in vitctl.finetune is <object"),
        (lambda: vitctl.finetune(image_size="x"), "SettingError", "image_size", "--image-size is 'x'; it takes pixels"),
        (lambda: vitctl.fewshot_eval(ways=(5,)), "SettingError", "ways", "--ways is given without --protocol episodes"),
        (
            lambda: vitctl.fewshot_eval(shots=None),
            "SettingError",
            None,
            "shots in vitctl.fewshot_eval is None; expected",
        ),
        (lambda: vitctl.export("r", to=None), "SettingError", None, "to in vitctl.export is None; expected"),
        (lambda: vitctl.export("r", outputs=[]), "SettingError", "outputs", "--outputs is empty; give it a value"),
        (lambda: vitctl.predict("r", ["1.jpg", ""]), "SettingError", "images", "IMAGES is empty; give it a value"),
        (lambda: vitctl.evaluate(), "SettingError", "model", "found neither"),
        (
            lambda: vitctl.finetune(num_processes=2),
            "SettingError",
            "num_processes",
            "num_processes is for the command line, which starts the processes: vitctl ... --num-processes N.",
        ),
        (lambda: vitctl.inspect("distanc", "r"), "SettingError", "analysis", "Did you mean 'distance'?"),
        (
            lambda: vitctl.inspect("cka", "r", shots=10),
            "SettingError",
            "shots",
            "--shots is given to cka, and is for probe, all; leave it out.",
        ),
        (
            lambda: vitctl.inspect("filters", "r", batch_size=64),
            "SettingError",
            "batch_size",
            "--batch-size is given to filters, which looks at weights only; leave it out.",
        ),
        (
            lambda: vitctl.inspect("rollout", "r", fuson="max"),
            "SettingError",
            None,
            "vitctl.inspect has an unknown setting 'fuson'. Did you mean 'fusion'?",
        ),
        (lambda: vitctl.export("nowhere"), "ModelError", None, "nowhere"),
        (lambda: vitctl.data_report("nowhere"), "DataError", None, "nowhere"),
    ],
)
def test_errors__are_the_sentences_of_the_screen(
    call: Callable[[], Any], error: str, field: str | None, sentence: str
) -> None:
    with pytest.raises(getattr(vitctl, error)) as caught:
        call()
    assert sentence in str(caught.value)
    assert isinstance(caught.value, vitctl.VitctlError)
    assert getattr(caught.value, "field", None) == field


def test_errors__are_the_same_as_the_commands(run_cli: Callable[..., Any]) -> None:
    with pytest.raises(vitctl.SettingError) as caught:
        vitctl.fewshot_eval(shots="0")
    assert run_cli("fewshot-eval", "--shots", "0").stderr == f"error: {caught.value}\n"


def test_warnings__are_pythons(finished_run: Path) -> None:
    with pytest.warns(UserWarning, match="these are no new classes to it") as caught:
        vitctl.fewshot_eval(model=finished_run, data=finished_run.parent / "data", shots=1, seeds=2, num_workers=0)
    assert [Path(one.filename) for one in caught] == [Path(__file__)] * len(caught)
