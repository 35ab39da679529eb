"""``vitctl data --model`` and ``vitctl finetune --clean``: which labels look wrong, and training without them."""

import csv
import json
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vitctl.cli.data import _print_labels
from vitctl.settings.data import DataConfig


@pytest.fixture
def mistaken(image_folder: Path) -> Path:
    """Red, green and blue images; one red lies among the blues, twice."""
    shutil.copy(image_folder / "red" / "0.png", image_folder / "blue" / "red-1.png")
    shutil.move(image_folder / "red" / "0.png", image_folder / "blue" / "red-0.png")
    return image_folder


@pytest.fixture
def report(run_cli, mistaken: Path, tiny_model_folder: Path) -> Any:
    (mistaken / "blue" / "0-broken.png").write_bytes(b"x")  # before the others, so that these have another place
    result = run_cli("data", mistaken, "--model", tiny_model_folder, "--num-workers", 0, "--out", "report", "--json")
    assert result.exit_code == 0, result.stderr
    return result.json


def test_suspicious__the_images_among_others_are_ranked_first(report: dict[str, Any], mistaken: Path) -> None:
    first = report["suspicious"][:2]
    assert {Path(one["image"]).name for one in first} == {"red-0.png", "red-1.png"}
    assert all(
        (one["class"], one["suggested"], one["is_flagged"], one["copies"]) == ("blue", "red", True, 1) for one in first
    )
    assert report["num_suspicious"] == sum(one["is_flagged"] for one in report["suspicious"]) >= 2
    assert 0.5 < report["probe_top1"] < 1
    with (Path(report["out"]) / "suspicious.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["image", "class", "probability", "suggested", "suggested_probability", "flagged"]
    assert [(row["image"], row["flagged"] == "yes") for row in rows] == [
        (one["image"], one["is_flagged"]) for one in report["suspicious"]
    ]
    assert (Path(report["out"]) / "suspicious.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads((Path(report["out"]) / "report.json").read_text()) == report


def test_suspicious__a_list_that_was_edited_is_not_replaced(run_cli, image_folder: Path) -> None:
    Path("report").mkdir()
    mine = Path("report/suspicious.csv")
    mine.write_text("image,flagged\na.png,no\n")
    result = run_cli("data", image_folder, "--model", "demo", "--out", "report")
    assert (result.exit_code, "it was edited, or is of another report" in result.stderr) == (2, True)
    assert [*Path("report").iterdir()] == [mine]
    assert mine.read_text() == "image,flagged\na.png,no\n"


@pytest.mark.usefixtures("no_rendering")
def test_suspicious__the_screen_says_how_to_go_on(run_cli, mistaken: Path, tiny_model_folder: Path) -> None:
    how = ("--group-pattern", "{group}.png")
    result = run_cli("data", mistaken, "--model", tiny_model_folder, "--num-workers", 0, "--out", "a report", *how)
    assert "look wrong. Of " in result.stdout
    assert "red-0.png" in result.stdout
    command = shlex.split(next(line for line in result.stdout.splitlines() if "--clean" in line))
    assert {*how} < {*command}
    cleaned = run_cli(
        *command[1:], "--model", tiny_model_folder, "--dry-run", "--num-workers", 0, "--batch-size", 4, "--steps", 1
    )
    assert cleaned.exit_code == 0, cleaned.stderr
    assert "left out: " in cleaned.stderr


@pytest.mark.parametrize("validation", [None, "some"])
def test_suspicious__of_images_to_test_on_no_training_is_proposed(
    validation: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    found = SimpleNamespace(
        suspicious=(), num_suspicious=1, probe_top1=0.9, model="demo", validation=validation, data="photos", out="/out"
    )
    _print_labels(found, DataConfig(data="photos"))  # type: ignore[arg-type]
    shown = capsys.readouterr().out
    assert "Look at suspicious.png." in shown
    assert ("vitctl finetune --data photos --clean /out/suspicious.csv" in shown) == (validation is not None)


@pytest.mark.usefixtures("no_rendering")
def test_labels__a_run_that_was_trained_on_them_is_told(run_cli, finished_run: Path) -> None:
    data = finished_run.parent / "data"
    result = run_cli("data", data, "--model", finished_run, "--num-workers", 0, "--out", "report", "--json")
    assert any(
        "in the training of" in sentence and "learnt their labels" in sentence for sentence in result.json["warnings"]
    )


@pytest.mark.usefixtures("no_rendering")
def test_data__without_a_model_is_what_it_was(run_cli, image_folder: Path) -> None:
    document = run_cli("data", image_folder, "--out", "report", "--json").json
    assert not {"model", "probe_top1", "num_suspicious", "suspicious"} & set(document)
    assert not Path("report/suspicious.csv").exists()


@pytest.mark.parametrize("given", [("--weights", "none"), ("--image-size", 32), ("--device", "cpu")])
def test_data__what_is_said_of_a_model_needs_one(run_cli, image_folder: Path, given: tuple[Any, ...]) -> None:
    result = run_cli("data", image_folder, *given)
    assert result.exit_code == 2
    assert f"{given[0]} is given without --model, by whose features labels are judged; leave it out." in result.stderr


@pytest.mark.slow
def test_clean__resumes_with_its_list_alone_and_is_compared(run_cli, mistaken: Path, tiny_model_folder: Path) -> None:
    Path("list.csv").write_text(f"image\n{mistaken / 'blue' / 'red-0.png'}\n{mistaken / 'blue' / 'red-1.png'}\n")
    how = ("--data", mistaken, "--model", tiny_model_folder, "--steps", 2, "--batch-size", 4, "--num-workers", 0)
    assert run_cli("finetune", *how, "--out", "usual").exit_code == 0
    assert run_cli("finetune", *how, "--out", "clean", "--clean", "list.csv").exit_code == 0
    settings = json.loads(Path("clean/config.json").read_text())
    assert settings["clean"].startswith(f"{Path('list.csv').absolute()}#sha256=")
    compared = run_cli("compare", "usual", "clean", "--json", "--out", "compared")
    assert compared.exit_code == 0, compared.stderr
    assert [list(row["settings"]) for row in compared.json["rows"]] == [["clean"], ["clean"]]
    assert run_cli("finetune", "--resume", "clean").exit_code == 0
    assert run_cli("finetune", "--config", "clean/config.json", "--out", "again").exit_code == 0
    Path("list.csv").write_text(f"image\n{mistaken / 'blue' / 'red-0.png'}\n")
    assert "is no longer the list that the run was made with" in run_cli("finetune", "--resume", "clean").stderr
    other = run_cli("finetune", *how, "--out", "clean", "--clean", "list.csv")
    assert (other.exit_code, "is a run with other settings" in other.stderr) == (2, True)
