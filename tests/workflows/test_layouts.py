"""A run is the same, but for the last bits, whatever its batches are divided into; and it says so."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.models import VisionTransformer

from vitctl.conversation import Conversation, Setting
from vitctl.errors import SettingError
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

pytestmark = pytest.mark.usefixtures("no_rendering")
NOISY = (
    "noise.drop_path=0.2", "noise.patch_drop=0.25", "mixing.mixup=0.2", "mixing.cutmix=1.0",
    "images.augment=rand-m9-mstd0.5-inc1", "images.rotate=10", "images.erasing=0.25", "loss.label_smoothing=0.1",
)  # fmt: skip


class Heard(Conversation):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines, self.settings = list[str](), dict[str, Setting]()

    def line(self, text: str) -> None:
        self.lines.append(text)

    def header(self, title: str, settings: list[Setting]) -> None:
        self.settings |= {setting.name: setting for setting in settings}


@pytest.fixture
def settings(image_folder: Path, tiny_model_folder: Path) -> dict[str, Any]:
    for number in range(6):  # 12 red, 12 green, 6 blue ones are left
        (image_folder / "blue" / f"{number}.png").unlink()
    return {"data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0, "steps": 4,
            "val_fraction": 0.2, "head": "zero", "set": NOISY, "class_weights": "balanced", "num_threads": 1,
            "device": "cpu", "lr": 0.01}  # fmt: skip


def run(out: str, conversation: Conversation | None = None, **settings: Any) -> FinetuneResult:
    found = finetune.run(FinetuneConfig(**settings, out=out), conversation or Conversation())
    assert isinstance(found, FinetuneResult)
    return found


def losses(out: str) -> list[float]:
    lines = map(json.loads, Path(out, "metrics.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if "loss" in line]


@pytest.mark.slow
def test_micro_batches__give_the_losses_of_the_whole_and_are_told(settings: dict[str, Any]) -> None:
    """Largest difference seen: 5e-7."""
    heard = Heard()
    whole, parts = run("whole", **settings), run("parts", heard, **settings, micro_batch=3, checkpointing=True)
    assert losses("parts") == pytest.approx(losses("whole"), abs=1e-5)
    assert (whole.micro_batch, parts.micro_batch) == (8, 3)
    assert json.loads(Path("parts/summary.json").read_text())["micro_batch"] == 3
    config = json.loads(Path("parts/config.json").read_text())
    assert (config["micro_batch"], config["checkpointing"]) == (3, True)
    assert heard.settings["batch"].value == "8 images, 3 at a time, blocks computed twice"
    assert heard.settings["noise"].value == "drop path up to 0.2 in 1 block, 25% of the patches dropped"
    assert heard.settings["mixing"].value == "mixup, alpha 0.2; cutmix, alpha 1"
    run("plain", **settings | {"set": None})
    assert max(abs(a - b) for a, b in zip(losses("plain")[1:], losses("whole")[1:], strict=True)) > 1e-3


def test_full_memory__the_run_goes_on_with_half_as_many_at_a_time(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run("whole", **settings)
    forward = VisionTransformer.forward_features

    def full(model: VisionTransformer, images: torch.Tensor, *more: Any, **named: Any) -> torch.Tensor:
        too_many = model.training and len(images) > 2
        return torch.empty(2**60) if too_many else forward(model, images, *more, **named)

    monkeypatch.setattr(VisionTransformer, "forward_features", full)
    found = run("halved", **settings)
    assert found.micro_batch == 2
    assert json.loads(Path("halved/config.json").read_text())["micro_batch"] is None  # what was asked for
    assert losses("halved") == pytest.approx(losses("whole"), abs=1e-5)


@pytest.mark.slow
def test_models_own_drop_path__is_keyed_at_its_rates(settings: dict[str, Any]) -> None:
    heard = Heard()
    own = settings | {"model": "test_vit", "weights": "none", "image_size": (32, 32), "set": None, "steps": 2}
    own |= {"model_arg": ("drop_path_rate=0.5",)}
    run("own", heard, **own)
    run("parts", **own, micro_batch=2)
    assert heard.settings["noise"].value == "drop path up to 0.5 in 5 blocks"
    assert heard.settings["noise"].reason.startswith("the model's own rates")
    assert losses("parts") == pytest.approx(losses("own"), abs=1e-5)
    saved = json.loads(Path("own/last/config.json").read_text())
    assert "Keyed" not in json.dumps(saved)


def test_model_without_a_place__is_refused_before_the_images_are_looked_at(settings: dict[str, Any]) -> None:
    class NoScan(Conversation):
        def progress(self, description: str, total: int, unit: str) -> Any:
            raise AssertionError(description)

    with pytest.raises(SettingError, match="test_resnet has no residual blocks"):
        run("out", NoScan(), **settings | {"model": "test_resnet", "weights": "none"})


@pytest.mark.slow
def test_two_processes_times_two_micro_batches__give_the_losses_of_one(settings: dict[str, Any]) -> None:
    arguments = ["finetune", "--micro-batch", "2", "--json", "--out", "two"]
    for name, value in (settings | {"set": None, "recipe": "sgd.toml"}).items():
        arguments += [] if value is None else [f"--{name.replace('_', '-')}", str(value)]
    arguments += [word for change in NOISY for word in ("--set", change)]
    # plain SGD: AdamW, or clipping, would hide a gradient of the wrong size
    Path("sgd.toml").write_text('[optimizer]\nname = "sgd"\n[length]\nbatch_size = 8\n')
    run("one", **settings | {"recipe": "sgd.toml"})
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29519"]
    done = subprocess.run([*launcher, "-m", "vitctl", *arguments], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["micro_batch"] == 2
    assert losses("two") == pytest.approx(losses("one"), abs=1e-5)
