"""An analysis is one file and one drawing: a toy that is laid beside the others is in help, run, JSON and report."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer.testing

import vitctl
from vitctl import reporting
from vitctl.errors import SettingError
from vitctl.inspecting import analyses, catalogue
from vitctl.reporting import inspect_figures
from vitctl.settings.inspect_model import InspectAllConfig, OnImages, OnPictures
from vitctl.settings.option import described

TOY = '''
"""How bright the images are: a toy."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

from vitctl.inspecting.verdicts import decided, fact
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import OnImages, first_images
from vitctl.settings.option import Opt, at_least


@dataclass(frozen=True, kw_only=True)
class Options(OnImages):
    """Settings of the toy."""

    usual_num_images: ClassVar[int] = 5

    num_images: Annotated[int | None, first_images("5")] = None
    power: Annotated[int, Opt("Brightness to this power.", "N", limits=(at_least(1),))] = 1


WORDS = Words(
    place=15,
    title="Brightness of a toy",
    question="How bright are the images?",
    method="The mean over pixels.",
    look_for="Look for day and night.",
    random_weights="Random weights would see the same.",
    source="nowhere",
    is_controlled=True,
)


def analyse(options, _conversation, model):
    """Return the brightness of each image."""
    import torch

    from vitctl.inspecting.findings import Findings

    images = torch.cat(list(model.images.batches()))
    brightness = (images.mean(dim=(1, 2, 3)) ** options.power).numpy()
    return Findings(
        {"brightness": brightness},
        {"brightness": "(I,) mean over pixels, to the power"},
        {"mean": float(brightness.mean()), "power": options.power},
        ("images", "mean"),
        [(str(len(images)), f"{brightness.mean():.3f}")],
    )


def judge(found, control):
    """Return whether there is any light."""
    return [decided("there is light", {"mean": fact(found, "mean")}, lambda mean: mean > -1)]
'''
DRAWING = '''
"""The toy's picture."""

from vitctl.reporting.inspect_drawing import Drawing


def draw(panel, shown):
    panel.subplots().plot(shown.arrays["brightness"])
    return ""


DRAWINGS = {"toy-brightness": Drawing("Brightness", lambda _shown: (3.0, 2.0), draw)}
'''


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an analysis, which the catalogue finds, and its drawing."""
    for package, name, source in ((analyses, "toy_brightness", TOY), (reporting, "inspect_toy_figures", DRAWING)):
        folder = tmp_path / package.__name__
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    # the commands are built once for all tests, before there was this analysis
    monkeypatch.setattr(typer.testing, "_get_command", typer.main.get_command)
    _forget()
    yield tmp_path
    _forget()


def _forget() -> None:
    for cached in (catalogue.catalogue, catalogue.every_setting, inspect_figures.drawings):
        cached.cache_clear()
    for name in ("vitctl.inspecting.analyses.toy_brightness", "vitctl.reporting.inspect_toy_figures"):
        sys.modules.pop(name, None)


def test_toy__is_in_the_help(toy: Path, run_cli: Callable[..., Any]) -> None:
    listed = run_cli("inspect", "--help").stdout.splitlines()
    (line,) = (line for line in listed if "toy-brightness" in line)
    assert line.split(maxsplit=1)[1] == "Brightness of a toy"
    places = [
        listed.index(one) for one in listed if one.split()[:1] in (["filters"], ["toy-brightness"], ["pos-embed"])
    ]
    assert places == list(range(places[0], places[0] + 3))  # where its WORDS say
    page = run_cli("inspect", "toy-brightness", "--help").stdout
    assert "--power N" in page
    assert "(default: 5)" in page
    assert "--fusion" not in page
    assert "vitctl inspect toy-brightness runs/photos" in page


def test_toy__runs_and_is_in_json(
    toy: Path, run_cli: Callable[..., Any], tiny_model_folder: Path, image_folder: Path
) -> None:
    line = ("inspect", "toy-brightness", tiny_model_folder, "--data", image_folder, "--num-workers", 0, "--out", "out")
    found = run_cli(*line, "--power", 2, "--json")
    assert found.exit_code == 0, found.stderr
    assert found.json["results"][0]["facts"]["power"] == 2
    settings = found.json["settings"]
    assert (settings["power"], settings["fusion"], settings["shots"]) == (2, "mean", 10)  # those of others, too
    assert {path.name for path in Path("out").iterdir()} == {f"toy-brightness.{end}" for end in ("npz", "json", "png")}
    with np.load("out/toy-brightness.npz") as arrays:
        assert arrays["brightness"].shape == (5,)
    refused = run_cli(*line, "--power", 0)
    assert (refused.exit_code, refused.stderr) == (2, "error: --power is 0; expected 1 or more.\n")
    elsewhere = run_cli("inspect", "rollout", tiny_model_folder, "--power", 2)
    assert "has no option '--power', which is for toy-brightness;" in elsewhere.stderr
    again = vitctl.inspect("toy-brightness", tiny_model_folder, data=image_folder, num_workers=0, out="out", power=2)
    assert json.loads(json.dumps(again.as_json())) == found.json


def test_toy__is_in_the_report_beside_random_weights(
    toy: Path, run_cli: Callable[..., Any], tiny_model_folder: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = catalogue.catalogue()
    few = {name: every[name] for name in ("filters", "toy-brightness")}
    monkeypatch.setattr("vitctl.inspecting.everything.catalogue", lambda: few)
    found = run_cli("inspect", "all", tiny_model_folder, "--data", image_folder, "--num-workers", 0, "--out", "out",
                    "--json")  # fmt: skip
    assert found.exit_code == 0, found.stderr
    assert list(found.json["analyses"]) == ["filters", "toy-brightness"]
    (verdict,) = (one for one in found.json["verdicts"] if one["analysis"] == "toy-brightness")
    assert (verdict["claim"], verdict["holds"], verdict["verdict"]) == ("there is light", True, "yes")
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "Brightness of a toy" in page
    assert "vitctl inspect toy-brightness" in page
    assert Path("out/random-weights/toy-brightness.png").is_file()


def test_names_and_drawings_agree() -> None:
    assert list(catalogue.catalogue())[:3] == ["filters", "pos-embed", "attention"]
    assert set(inspect_figures.drawings()) == set(catalogue.catalogue())
    places = [one.words.place for one in catalogue.catalogue().values()]
    assert len(places) == len(set(places))


@pytest.mark.parametrize("name", catalogue.settings_classes())
def test_settings__say_whose_they_are_and_how_many_images_are_usual(name: str) -> None:
    settings = catalogue.settings_classes()[name]
    config = settings(model=("demo", "resnet18"))
    assert config.analysis == name
    if isinstance(config, OnImages) and not isinstance(config, InspectAllConfig):
        opt = described(settings)["num_images"].opt
        assert opt is not None
        assert f"(default: {config.usual_num_images})" in opt.help


def test_every_analysis_ends_with_what_to_look_for_and_random_weights() -> None:
    for name, one in catalogue.catalogue().items():
        words = one.words
        assert words.look_for.startswith("Look "), name
        assert words.random_weights.startswith("Random weights would "), name
        for text in (words.title, words.question, words.method, words.source):
            assert text, name


def test_listing_the_analyses_imports_nothing_heavy() -> None:
    script = "import sys; from vitctl.inspecting.catalogue import catalogue; catalogue(); print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# --- the settings of one analysis in ``all`` ---------------------------------------------------------------


def options_in_all(analysis: str, **given: Any) -> Any:
    return catalogue.catalogue()[analysis].options_for(InspectAllConfig(**given))


def test_all__hands_on_what_was_given() -> None:
    probe = options_in_all("probe", run="r", shots=3, num_images=9, image_size="32")
    assert (probe.run, probe.shots, probe.count, probe.image_size, probe.seeds) == ("r", 3, 9, (32, 32), 3)
    assert options_in_all("rollout", run="r", num_images=9).count == 4  # each is a picture of the report
    assert options_in_all("rollout", run="r", num_images=2).count == 2
    assert options_in_all("equivariance", run="r").count == 32
    assert options_in_all("filters", run="r", image_size="32", num_images=3, minibatch=5).given == {"run"}


def test_all__pairs_are_the_first_two_models() -> None:
    three = {"model": ("a", "b", "c"), "weights": ("none", "pretrained", "none")}
    assert options_in_all("cka", **three).named == (("a", "none"), ("b", "pretrained"))
    assert options_in_all("cka", run="r", model=("a", "b")).named == (("r", "pretrained"), ("a", "pretrained"))
    with pytest.raises(SettingError, match="two models and 1 is given.*a CNN"):
        options_in_all("heads-vs-cnn", run="r")


def test_every_setting__is_in_the_order_of_the_help_page() -> None:
    names = list(catalogue.every_setting())
    shared = list(described(OnPictures))
    assert [name for name in names if name in shared] == shared
    assert names[-6:] == ["seed", "batch_size", "num_workers", "num_threads", "device", "out"]


# --- the command line of old -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "--components 3 filters --model demo",
        "--json --model demo filters --components 3",
        "--model=demo filters --components=3",
        "--out all --model demo filters --components 3",  # here all is a folder
    ],
)
def test_the_analysis_may_stand_behind_options(run_cli: Callable[..., Any], line: str) -> None:
    found = run_cli("inspect", *line.split())
    assert found.exit_code == 0, found.stderr
    (path,) = Path.cwd().glob("*/filters.json")
    assert json.loads(path.read_text())["settings"]["components"] == 3
