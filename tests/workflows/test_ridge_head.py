import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vitctl.evaluation.features import FeatureExtractor, FeatureKey
from vitctl.models.prepared import open_model

pytestmark = pytest.mark.usefixtures("no_rendering")

FEW = ("--image-size", "16", "--batch-size", "8", "--val-fraction", "0.25", "--num-threads", "1", "--num-workers", "0")


def _finetune(run_cli: Callable[..., Any], data: Path, model: Path | str, out: str, *more: object) -> Any:
    result = run_cli("finetune", "--data", data, "--model", model, *FEW, "--out", out, "--json", *more)
    assert result.exit_code == 0, result.stderr
    return result


def _renamed(folder: Path) -> Path:
    for name, other in (("red", "rouge"), ("green", "vert"), ("blue", "bleu")):
        (folder / name).rename(folder / other)
    return folder


def test_probe_is_reported_and_is_what_training_starts_from(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    data = _renamed(image_folder)
    result = _finetune(run_cli, data, tiny_model_folder, "run", "--head", "ridge", "--steps", "1", "--lr", "1e-12")
    probe, best = result.json["linear_probe"], result.json["best"]
    assert set(probe) == {"top1", "loss", "l2", "loo_top1", "scale"}
    assert probe["top1"] == best["top1"]  # a step of next to nothing
    assert probe["loss"] == pytest.approx(best["loss"], rel=1e-4)
    assert probe["top1"] > 0.8  # the dominant colour is easy to see
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert lines[0] == {"step": 0, "val_loss": probe["loss"], "val_top1": probe["top1"]}
    assert "closed form (ridge)" in result.stderr
    zero = _finetune(run_cli, data, tiny_model_folder, "zero", "--head", "zero", "--steps", "1", "--lr", "1e-12")
    assert zero.json["linear_probe"] is None
    assert zero.json["best"]["loss"] > probe["loss"]


def test_human_output_compares_probe_and_fine_tuned(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    data = _renamed(image_folder)
    result = run_cli(
        "finetune", "--data", data, "--model", tiny_model_folder, *FEW, "--steps", 2, "--head", "ridge", "--out", "run"
    )
    summary = json.loads(Path("run/summary.json").read_text())
    expected = f"{summary['linear_probe']['top1']:.3f}, fine-tuned {summary['best']['top1']:.3f}"
    assert f"linear probe  {expected}" in result.stdout


def test_weights_do_not_depend_on_workers_and_repeat_from_the_configuration(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    data = _renamed(image_folder)
    first = _finetune(run_cli, data, tiny_model_folder, "a", "--head", "ridge", "--steps", "3")
    again = _finetune(run_cli, data, tiny_model_folder, "b", "--head", "ridge", "--steps", "3", "--num-workers", "2")
    replay = run_cli("finetune", "--config", "a/config.json", "--out", "c", "--json")
    digests = {one.json["weights_sha256"] for one in (first, again, replay)}
    assert len(digests) == 1
    assert json.loads(Path("a/config.json").read_text())["head"] == "ridge"


def test_head_of_equal_classes_is_kept_unless_one_is_asked_for(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    _finetune(run_cli, image_folder, tiny_model_folder, "run", "--steps", "1")
    kept = _finetune(run_cli, image_folder, "run", "kept", "--steps", "1")
    assert kept.json["linear_probe"] is None
    asked = _finetune(run_cli, image_folder, "run", "asked", "--steps", "1", "--head", "ridge")
    assert asked.json["linear_probe"] is not None


def test_transfer_starts_from_the_closed_form(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    data = _renamed(image_folder)
    result = _finetune(run_cli, data, tiny_model_folder, "run", "--steps", "1")
    assert result.json["linear_probe"] is not None
    settings = json.loads(Path("run/config.json").read_text())
    assert (settings["head"], settings["recipe_settings"]["head"]) == (None, "ridge")


def test_without_validation_images(run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path) -> None:
    data = _renamed(image_folder)
    few = ("--steps", 1, "--val-fraction", 0, "--num-workers", 0)
    arguments = ("--data", data, "--model", tiny_model_folder, *few, "--head", "ridge")
    result = run_cli("finetune", *arguments, "--out", "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert result.json["linear_probe"]["top1"] is None
    assert result.json["linear_probe"]["loo_top1"] > 0.8
    shown = run_cli("finetune", *arguments, "--out", "shown")
    assert shown.exit_code == 0
    assert "fine-tuned" not in shown.stdout


def test_dry_run_embeds_nothing(run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path) -> None:
    data = _renamed(image_folder)
    result = run_cli("finetune", "--data", data, "--model", tiny_model_folder, *FEW, "--head", "ridge", "--dry-run")
    assert result.exit_code == 0
    assert "closed form (ridge)" in result.stderr
    assert "l2 " not in result.stderr


def test_model_whose_head_is_more_than_linear(run_cli: Callable[..., Any], image_folder: Path) -> None:
    arguments = ("--data", image_folder, "--model", "levit_128s", "--weights", "none", "--dry-run")
    refused = run_cli("finetune", *arguments, "--head", "ridge")
    assert refused.exit_code == 4
    assert "more than a linear layer" in refused.stderr
    taken = run_cli("finetune", *arguments)
    assert taken.exit_code == 0
    assert "zero initialisation" in taken.stderr
    assert "its head is more than linear" in taken.stderr


def test_head_is_ridge_of_the_saved_models_features(
    run_cli: Callable[..., Any], image_folder: Path, tiny_model_folder: Path
) -> None:
    """With a step of nothing the saved head still classifies its own features as the closed form does."""
    data = _renamed(image_folder)
    _finetune(run_cli, data, tiny_model_folder, "run", "--head", "ridge", "--steps", "1", "--lr", "1e-12")
    model = open_model("run").model
    plain = timm.create_model("local-dir:run/best", pretrained=True).eval()
    images = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    key = FeatureKey("final", "native")
    features = FeatureExtractor(model, [key], device=torch.device("cpu"), name="run")(images)[key]
    with torch.no_grad():
        assert torch.allclose(plain(images), features @ plain.head.weight.T + plain.head.bias, atol=1e-4)
