"""Runs of CNNs: another size, BatchNorm's statistics, byte-identical repeats, and what opens them afterwards."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.data import create_transform, resolve_model_data_config

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.predict import PredictConfig
from vitctl.workflows import evaluate, finetune, predict

pytestmark = pytest.mark.usefixtures("no_rendering")

Run = Callable[..., Any]


@pytest.fixture
def run(image_folder: Path) -> Run:
    """Fine-tune timm's ``test_resnet`` on 36 images for 4 steps of 8 at 48x40 px, into ``out``."""

    def do(*, out: str = "out", **changes: Any) -> FinetuneResult | DryRunResult:
        settings = {"data": str(image_folder), "model": "test_resnet", "weights": "none", "image_size": "48x40"}
        settings |= {"batch_size": 8, "lr": 0.003, "val_fraction": 0.3, "num_workers": 0}
        if "epochs" not in changes:
            settings["steps"] = 4
        return finetune.run(FinetuneConfig(**{**settings, "out": out, **changes}), Conversation())

    return do


def test_config_file__repeats_the_run_byte_for_byte(run: Run) -> None:
    first = run(out="a", seed=3)
    again = merge(config_from_file(Path("a/config.json")), {"out": "b"})
    assert finetune.run(again, Conversation()).weights_sha256 == first.weights_sha256
    assert Path("a/metrics.jsonl").read_bytes() == Path("b/metrics.jsonl").read_bytes()


@pytest.fixture
def with_dropout(tmp_path: Path) -> Path:
    """A timm folder of a ``test_resnet`` that drops half of its features in training, as ghostnet drops a fifth."""
    config = {"architecture": "test_resnet", "model_args": {"drop_rate": 0.5}, "pretrained_cfg": {"classifier": "fc"}}
    (tmp_path / "dropping").mkdir()
    (tmp_path / "dropping" / "config.json").write_text(json.dumps(config))
    return tmp_path / "dropping"


def test_dropout__follows_the_seed_whatever_was_drawn_before(run: Run, with_dropout: Path) -> None:
    shas = []
    for out in "ab":
        torch.rand(len(shas) + 1)
        shas.append(run(out=out, model=str(with_dropout), steps=2).weights_sha256)
    assert shas[0] == shas[1] != run(out="c", steps=2).weights_sha256


def test_batch_norm__statistics_are_saved_and_evaluate_gives_the_same_figures(run: Run) -> None:
    summary = run()
    tensors = load_file("out/best/model.safetensors")
    counts = {int(value) for key, value in tensors.items() if key.endswith("num_batches_tracked")}
    assert counts == {4}
    assert float(tensors["bn1.running_mean"].abs().max()) > 0
    assert (summary.image_size, summary.grid_before, summary.grid_after) == ((48, 40), None, None)
    report = evaluate.run(EvaluateConfig(run="out", num_workers=0), Conversation())
    assert (report.nll, report.top1) == (summary.best.loss, summary.best.top1)
    assert report.image_size == (48, 40)


def test_timm_opens_it_at_its_size_and_predicts_the_same(run: Run, image_folder: Path) -> None:
    run(steps=12)
    images = sorted(str(path) for path in image_folder.rglob("*.png"))[::7]
    document = predict.run(PredictConfig(run="out", images=tuple(images)), Conversation())
    model = timm.create_model("local-dir:out/best", pretrained=True).eval()
    config = resolve_model_data_config(model)
    assert config["input_size"] == (3, 48, 40)
    transform, names = create_transform(**config, is_training=False), model.pretrained_cfg["label_names"]
    for path, entry in zip(images, document.predictions, strict=True):
        with torch.no_grad():
            shares = model(transform(Image.open(path)).unsqueeze(0)).softmax(dim=1)[0].numpy()
        found = np.array([{top.class_name: top.probability for top in entry.top}[name] for name in names])
        assert np.allclose(found, shares, atol=1e-5)


def test_run_as_model__goes_on_at_its_size(run: Run) -> None:
    run(out="a", steps=1)
    assert run(out="b", model="a", weights="pretrained", image_size=None, steps=1).image_size == (48, 40)


def test_dry_run__trains_nothing_and_has_no_tokens(run: Run) -> None:
    document = run(dry_run=True)
    assert (document.num_tokens, document.grid_after) == (None, None)
    assert document.flops_per_image > 0
    assert not Path("out").exists()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"batch_size": 1}, "a batch of 1. Try --batch-size 2"),
        ({"batch_size": 7, "epochs": 1, "val_fraction": 0}, "1 in the last batch. Try --steps 5 in place of --epochs"),
    ],
)
def test_batch_norm__single_images_are_refused_before_anything_is_written(
    run: Run, changes: dict[str, Any], words: str, dry_run: bool
) -> None:
    with pytest.raises(SettingError, match=words):
        run(**changes, dry_run=dry_run)
    assert not Path("out").exists()


def test_single_images__are_enough_without_batch_norm(run: Run) -> None:
    assert run(model="test_convnext", image_size="64", batch_size=1, steps=1).steps == 1
