"""``--compile``: what it needs, short batches filled up, and in the slow set the same losses as without it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch
from vitctl.errors import UnavailableError
from vitctl.primitives.compiler_later import COMPILED_FILES
from vitctl.primitives.compiler_needs import check_compiler
from vitctl.primitives.interrupts import StopNow, StopRequest
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import compiled
from vitctl.training.header import header_settings
from vitctl.training.trainer import new_state
from vitctl.workflows import finetune

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture
def settings(image_folder: Path, tiny_model_folder: Path) -> dict[str, Any]:
    return {"data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
            "val_fraction": 0.0, "head": "zero", "set": ("evaluation.validations=1",)}  # fmt: skip


@pytest.mark.parametrize(("device", "needs"), [(CPU, "a C.. compiler, and 'no-such-compiler'"), (CUDA, "Triton")])
def test_without_a_compiler__a_sentence(
    monkeypatch: pytest.MonkeyPatch, run_cli: Callable[..., Any], device: torch.device, needs: str
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(UnavailableError, match=f"--compile needs {needs}"):
        check_compiler(device)
    if device == CPU:
        result = run_cli("finetune", "--compile", "--device", "cpu")
        assert result.exit_code == 5
        assert "install one" in result.stderr


def test_filled_batch__has_black_images_of_no_weight_behind_its_own() -> None:
    batch = TrainingBatch(torch.ones(2, 3, 4, 4), torch.tensor([1, 2]), torch.ones(2), 2, 2.0)
    filled = batch.filled(5)
    assert filled.images.shape == (5, 3, 4, 4)
    assert filled.images.sum() == batch.images.sum()
    assert filled.labels.tolist() == [1, 2, 0, 0, 0]
    assert filled.weights.tolist() == [1, 1, 0, 0, 0]
    assert filled._replace(images=batch.images, labels=batch.labels, weights=batch.weights) == batch
    assert batch.filled(2) is batch


@pytest.mark.parametrize("error", [RuntimeError("the compiler was ended by a signal"), None])
def test_a_stop_while_compiling__ends_it(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Whether the signal came to this process first, or to a compiler that it had started."""
    stop = StopRequest()

    def stopped(*_args: object, **_kwargs: object) -> None:
        if error is None:
            stop.note(15)  # breaks off
        stop._is_breaking = False
        stop.note(15)
        raise error or AssertionError

    job = finetune.prepare(FinetuneConfig(**settings, steps=2), Conversation()).job
    monkeypatch.setattr(torch, "compile", lambda model, **_how: model)
    monkeypatch.setattr(compiled, "add_gradients", stopped)
    with pytest.raises(StopNow):
        compiled.compiled_for_training(job, new_state(job), stop, Conversation())


def test_a_compiler_that_fails__a_sentence(settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_args: object, **_kwargs: object) -> None:
        raise RuntimeError("CppCompileError: C++ compile error\nmore of it")

    job = finetune.prepare(FinetuneConfig(**settings, steps=2), Conversation()).job
    monkeypatch.setattr(torch, "compile", lambda model, **_how: model)
    monkeypatch.setattr(compiled, "add_gradients", fails)
    with pytest.raises(UnavailableError) as caught:
        compiled.compiled_for_training(job, new_state(job), StopRequest(), Conversation())
    assert str(caught.value).splitlines() == [
        "--compile: torch's compiler failed: CppCompileError: C++ compile error; leave the option out."
    ]


def test_header__says_how_it_computes(settings: dict[str, Any]) -> None:
    config = FinetuneConfig(**settings, steps=1, precision="fp16", compile=True, deterministic=True)
    prepared = finetune.prepare(config, Conversation())
    rows = {row.name: (row.value, row.reason) for row in header_settings(prepared)}
    assert rows["precision"] == (
        "fp16",
        "given; weights and loss stay fp32; slow on processors without it",
    )
    assert rows["compiled"][0] == "yes"
    assert rows["kernels"][0] == "deterministic"
    document = prepared.config.as_json()
    assert (document["precision"], document["compile"], document["deterministic"]) == ("fp16", True, True)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its compiler, about itself
def test_compiled__losses_are_those_without_it_and_nothing_is_compiled_twice(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_rendering: None
) -> None:
    """The last batch is short, and so is the last micro-batch of each. Largest difference seen: 1.2e-7 nats."""
    monkeypatch.setenv(COMPILED_FILES, str(tmp_path / "compiled"))
    import torch._dynamo.utils

    # 36 images: 6 batches of 8, one of 6; sgd, as the first steps of adamw have the same size whatever the gradient's
    recipe = ("evaluation.validations=1", "optimizer.name=sgd", "optimizer.momentum=0.9")
    recipe += ("noise.drop_path=0.5", "noise.patch_drop=0.25", "mixing.mixup=0.8", "mixing.cutmix=1")
    settings = settings | {"epochs": 1.5, "micro_batch": 3, "lr": 0.03, "set": recipe}
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    losses = {}
    for out, is_compiled in (("eager", False), ("compiled", True)):
        finetune.run(FinetuneConfig(**settings, compile=is_compiled, out=out), Conversation())
        lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
        losses[out] = [line["loss"] for line in lines if "loss" in line]
    assert len(losses["eager"]) == 7
    assert losses["compiled"] == pytest.approx(losses["eager"], abs=1e-5)
    assert losses["eager"][0] - losses["eager"][-1] > 0.01
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    with (
        safe_open("eager/last/model.safetensors", "pt") as eager,
        safe_open("compiled/last/model.safetensors", "pt") as other,
    ):
        assert set(eager.keys()) == set(other.keys())
    torch._dynamo.reset()
