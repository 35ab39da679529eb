"""Precisions of the forward pass: what a device can do, fp16 as by hand, steps that are skipped, nothing waited for."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from vitctl.data.loader import TrainingBatch
from vitctl.errors import UnavailableError
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.optimizer import build_optimizer, implementation_of, parameter_groups
from vitctl.training.precision import LossScaler, build_scaler, decide_precision, num_skipped, tf32_told
from vitctl.training.state import TrainingState

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NUM_STEPS = 6


@pytest.fixture(scope="module")
def accelerator() -> Accelerator:
    return Accelerator(cpu=True)


@pytest.fixture
def model() -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        vit: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2, num_classes=3
        )
    return vit


def batches(num: int = NUM_STEPS) -> list[TrainingBatch]:
    generator = torch.Generator().manual_seed(1)
    return [
        TrainingBatch(
            images=torch.randn(4, 3, 16, 16, generator=generator),
            labels=torch.randint(3, (4,), generator=generator),
            weights=torch.ones(4),
            num_global=4,
            weight_global=4.0,
            micro_batch=4,
        )
        for _ in range(num)
    ]


def new_state(model: nn.Module, *, device: torch.device = CPU) -> TrainingState:
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=1.0)
    optimizer = build_optimizer(groups, name="adamw", lr=1e-2, betas=(0.9, 0.999), momentum=0.0, device=device)
    return TrainingState(model, optimizer, scaler=build_scaler("fp16", CPU))


SCHEDULE = RateSchedule(num_steps=NUM_STEPS, num_warmup_steps=0, peak=1e-2, final=1e-2)


def train(state: TrainingState, accelerator: Accelerator, given: list[TrainingBatch]) -> list[float]:
    prepared = accelerator.prepare(state.model)
    reports = train_steps(state, prepared, given, SCHEDULE, accelerator=accelerator, clip_norm=1.0, precision="fp16")
    return [report.loss.read() for report in reports]


# --- what a device can do -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", pytest.param("bf16", marks=pytest.mark.slow), "fp16"])  # 1 s to begin
def test_a_cpu__computes_in_all(precision: str) -> None:
    assert decide_precision(precision, CPU).value == precision


@pytest.mark.parametrize(("has_bf16", "auto"), [(True, "bf16"), (False, "fp32")])
def test_auto__is_bf16_on_gpus_that_compute_in_it(monkeypatch: pytest.MonkeyPatch, has_bf16: bool, auto: str) -> None:
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bf16
    )
    assert decide_precision("auto", CUDA).value == auto
    assert decide_precision("auto", CPU).value == "fp32"


def test_a_device_that_cannot__says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Tesla T4")
    with pytest.raises(UnavailableError, match=r"bf16 is not available on cuda \(Tesla T4\); try --precision fp16"):
        decide_precision("bf16", CUDA)
    with pytest.raises(UnavailableError, match=r"fp16 is not available on meta .* try --precision fp32") as caught:
        decide_precision("fp16", torch.device("meta"))  # which has no numbers to look at
    assert caught.value.exit_code == 5


def test_tf32__is_told_of_gpus() -> None:
    assert tf32_told(CPU) == ""
    assert tf32_told(CUDA) == "fp32 matrices in full, fp32 convolutions in TF32"


def test_only_fp16_has_a_scaler() -> None:
    assert build_scaler("fp32", CPU) is build_scaler("bf16", CPU) is None
    assert num_skipped(build_scaler("fp16", CPU)) == num_skipped(None) == 0


# --- fp16 -----------------------------------------------------------------------------------------------------


def test_fp16__is_torchs_recipe_bit_for_bit(accelerator: Accelerator, model: nn.Module) -> None:
    by_hand = copy.deepcopy(model).train()
    state = new_state(model)
    losses = train(state, accelerator, batches())

    optimizer = torch.optim.AdamW(parameter_groups(by_hand, weight_decay=0.05, layer_decay=1.0), lr=1e-2)
    scaler = torch.amp.GradScaler("cpu")
    expected = []
    for batch in batches():
        with torch.autocast("cpu", torch.float16):
            logits = by_hand(batch.images)
        loss = F.cross_entropy(logits.float(), batch.labels, reduction="none").sum() / 4
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert losses == expected
    for trained, other in zip(model.parameters(), by_hand.parameters(), strict=True):
        assert torch.equal(trained, other)
    assert state.scaler is not None
    assert {
        key: value for key, value in state.scaler.state_dict().items() if key != "num_skipped"
    } == scaler.state_dict()


def test_fp16__steps_out_of_range_are_skipped_and_counted(accelerator: Accelerator, model: nn.Module) -> None:
    state, before = new_state(model), copy.deepcopy(model)
    assert state.scaler is not None
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 2.0**40})
    assert train(state, accelerator, batches(3))[2] > 0  # losses are those before the factor
    assert (state.step, num_skipped(state.scaler), state.scaler.get_scale()) == (3, 3, 2.0**37)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), before.parameters(), strict=True))
    state.scaler.load_state_dict({**state.scaler.state_dict(), "scale": 1024.0})
    train(state, accelerator, batches(1))
    assert num_skipped(state.scaler) == 3
    assert not torch.equal(model.get_parameter("head.weight"), before.get_parameter("head.weight"))


def test_fp16__goes_on_from_json_bit_for_bit(accelerator: Accelerator, model: nn.Module) -> None:
    whole, first, second = (new_state(copy.deepcopy(model)) for _ in range(3))
    assert whole.scaler is not None
    assert first.scaler is not None
    assert second.scaler is not None
    for scaler in (whole.scaler, first.scaler):
        scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**19})  # a few are skipped
    losses = train(whole, accelerator, batches())
    begun = train(first, accelerator, batches()[:2])
    second.restore(first.tensors(), json.loads(json.dumps(first.facts())))
    second.scaler.load_state_dict(json.loads(json.dumps(first.scaler.state_dict())))
    assert begun + train(second, accelerator, batches()[2:]) == losses
    assert 0 < num_skipped(second.scaler) == num_skipped(whole.scaler) < NUM_STEPS
    assert second.scaler.state_dict() == whole.scaler.state_dict()


# --- on CUDA --------------------------------------------------------------------------------------------------


@contextmanager
def numbers_not_read() -> Iterator[None]:
    """Refuse what would make Python wait for a CUDA device."""

    def refuse(tensor: torch.Tensor, *_args: object) -> None:
        raise AssertionError("a number was read")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("item", "tolist", "__bool__", "__float__", "__int__"):
            patch.setattr(torch.Tensor, name, refuse)
        yield


def test_fp16_with_the_fused_optimiser__waits_for_no_number(
    accelerator: Accelerator, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser is CUDA's, which computes on a CPU too; the loss is read by whoever shows the step."""
    state = new_state(model, device=CUDA)
    assert implementation_of(state.optimizer) == "fused"

    class Unread:
        is_here = False

        def __init__(self, _value: torch.Tensor) -> None:
            pass

        def read(self) -> float:
            return 0.0

    monkeypatch.setattr("vitctl.training.loop.LateNumber", Unread)
    with numbers_not_read():
        train(state, accelerator, batches())
    assert state.step == NUM_STEPS
    with numbers_not_read(), pytest.raises(AssertionError, match="a number was read"):
        train(new_state(copy.deepcopy(model)), accelerator, batches(1))  # torch's loop asks whether to skip


@pytest.mark.slow
def test_skipped_steps__are_told(
    image_folder: Path, tiny_model_folder: Path, run_cli: Any, monkeypatch: pytest.MonkeyPatch, no_rendering: None
) -> None:
    scaler = LossScaler("cpu")
    scaler.load_state_dict({**scaler.state_dict(), "scale": 2.0**40})
    monkeypatch.setattr("vitctl.training.trainer.build_scaler", lambda *_how: scaler)
    said = run_cli("finetune", "--data", image_folder, "--model", tiny_model_folder, "--steps", 2, "--val-fraction", 0,
                   "--precision", "fp16", "--num-workers", 0, "--out", "out")  # fmt: skip
    assert "2 of 2 steps: their gradients were too large for fp16" in said.stdout
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    assert [line["grad_norm"] for line in lines] == [None, None]  # infinite, which JSON has no word for
    summary = json.loads(Path("out/summary.json").read_text())
    assert (summary["precision"], summary["optimizer_implementation"], summary["num_skipped_steps"]) == (
        "fp16", "loop", 2
    )  # fmt: skip
