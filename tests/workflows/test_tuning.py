"""Runs that train a part of the weights: interrupted, repeated, started from, on the screen; what they leave behind."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file

from vitctl.conversation import Conversation, Setting
from vitctl.errors import InterruptedRun, SettingError
from vitctl.models.build import load_model
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

pytestmark = pytest.mark.usefixtures("no_rendering")


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), batch_size=8, num_workers=0, val_fraction=0.2, steps=3,
        save_every="1", out="out", set=("evaluation.validations=1", "noise.drop_path=0.2"),
    )  # fmt: skip


class Header(Conversation):
    """Keeps what the header says."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def header(self, title: str, settings: list[Setting]) -> None:
        self.said |= {one.name: f"{one.value}; {one.reason}" for one in settings}


def run(config: FinetuneConfig, conversation: Conversation | None = None) -> FinetuneResult:
    result = finetune.run(config, conversation or Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    names = ("config.json", "metrics.jsonl", "last", "best")
    paths = [path for name in names for path in (Path(folder) / name, *(Path(folder) / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def check_goes_on(config: FinetuneConfig, stopped_after: StoppedAfter) -> FinetuneResult:
    whole = run(replace(config, out="whole"))
    stopped_after(1, config)
    again = run(config)
    assert bytes_of("out") == bytes_of("whole")
    assert again.weights_sha256 == whole.weights_sha256
    return again


@pytest.mark.slow
def test_lora__goes_on_with_the_same_bytes_and_leaves_plain_weights(
    config: FinetuneConfig, tiny_model_folder: Path, stopped_after: StoppedAfter
) -> None:
    result = check_goes_on(replace(config, tune="lora:2"), stopped_after)
    assert result.num_trained_parameters == 2 * 2 * (4 * 16 + 2 * 16 + 2 * 80) + 3 * 17  # A and B of each layer; head
    before, after = (load_file(Path(folder, "model.safetensors")) for folder in (tiny_model_folder, "out/last"))
    assert before.keys() == after.keys()
    factors = load_file("out/last/adapter.safetensors")
    changed = {name for name in after if not torch.equal(before[name], after[name])}
    assert changed == {f"{name.removesuffix('.lora_a')}.weight" for name in factors if name.endswith("a")} | {
        "head.weight", "head.bias"
    }  # fmt: skip
    model = timm.create_model("local-dir:out/last", pretrained=True)
    images = torch.rand(2, 3, 16, 16)
    again = load_model("out/last").model.eval()
    assert torch.equal(model.eval()(images), again(images))
    assert json.loads(Path("out/summary.json").read_text())["num_trained_parameters"] == result.num_trained_parameters


@pytest.mark.slow
def test_head__goes_on_with_the_same_bytes(
    config: FinetuneConfig, tiny_model_folder: Path, stopped_after: StoppedAfter
) -> None:
    assert check_goes_on(replace(config, tune="head"), stopped_after).num_trained_parameters == 3 * 17
    before, after = (load_file(Path(folder, "model.safetensors")) for folder in (tiny_model_folder, "out/last"))
    assert {name for name in after if not torch.equal(before[name], after[name])} == {"head.weight", "head.bias"}
    assert not Path("out/last/adapter.safetensors").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        {"tune": "norm"},
        {"tune": "bias", "checkpointing": True},
        {"tune": "last:1", "micro_batch": 3},
        {"tune": "attention", "precision": "bf16"},
        {"tune": "lora:2", "precision": "fp16", "checkpointing": True},
        {"freeze": ("^blocks.0", "embed"), "lr_scale": ("head=3",), "layer_decay": 0.5},
    ],
)
def test_every_mode__goes_on_with_the_same_bytes(
    config: FinetuneConfig, how: dict[str, Any], stopped_after: StoppedAfter
) -> None:
    check_goes_on(replace(config, **how), stopped_after)


@pytest.mark.slow
def test_validation__of_factors_is_that_of_the_merged_weights(
    config: FinetuneConfig, run_cli: Callable[..., Any]
) -> None:
    result = run(replace(config, tune="lora:2", lr=0.05, steps=20))
    found = json.loads(run_cli("evaluate", "out", "--json").stdout)
    assert found["nll"] == pytest.approx(result.best.loss, abs=1e-5)
    assert found["top1"] == pytest.approx(result.best.top1)


def test_run_of_lora__starts_another_from_its_merged_weights(config: FinetuneConfig) -> None:
    run(replace(config, tune="lora:2", lr=0.05, steps=1))
    prepared = finetune.prepare(FinetuneConfig(data=config.data, model="out", num_workers=0, out="two"), Conversation())
    assert (prepared.config.tune, prepared.config.layer_decay, prepared.config.lr) == ("lora:2", 1.0, 0.05)
    state, saved = prepared.job.model.state_dict(), load_file("out/best/model.safetensors")
    assert torch.equal(state["blocks.0.attn.qkv.base.weight"], saved["blocks.0.attn.qkv.weight"])
    assert not state["blocks.0.attn.qkv.lora_b"].any()  # factors of its own, from the start


def test_header__says_what_is_trained(config: FinetuneConfig) -> None:
    header = Header()
    config = replace(config, tune="last:1", layer_decay=0.5, lr_scale=("^head=2",), freeze=("norm2",), dry_run=True)
    result = finetune.run(config, header)
    assert isinstance(result, DryRunResult)
    assert result.num_trained_parameters == result.num_parameters < 5000
    assert "the last block and what follows; frozen: norm2" in header.said["trained"]
    assert header.said["rates"] == "x0.5 for 3.28 k, x2 for 51; layer decay 0.5; --lr-scale ^head=2"
    assert header.said["group"].startswith("frozen; ")
    header = Header()
    finetune.run(replace(config, tune=None, layer_decay=1.0, lr_scale=None, freeze=None), header)
    assert header.said["trained"].startswith("all 7.71 k")
    assert "rates" not in header.said


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ({"tune": "last:3"}, "has 2 blocks; expected last:1 to last:2"),
        ({"freeze": ("blcoks",)}, "Did you mean 'blocks'"),
        ({"tune": "hed"}, "Did you mean 'head'"),
    ],
)
def test_what_cannot_be_trained__is_said_before_an_image_is_read(
    config: FinetuneConfig, how: dict[str, Any], sentence: str
) -> None:
    for path in Path(config.data or "").rglob("*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(SettingError, match=sentence):
        run(replace(config, **how))
    assert not Path("out").exists()
