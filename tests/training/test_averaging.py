"""Means of the weights: against closed forms, torch and timm; through files; validated and saved in runs."""

import copy
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vitctl.conversation import Conversation
from vitctl.errors import InterruptedRun
from vitctl.recipes.sections import Averaging
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import trainer
from vitctl.training.averaging import Average, averaging_told, build_average
from vitctl.workflows import evaluate, finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]


def new_model() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3)  # its norms keep statistics, and count batches


def step(model: nn.Module, number: int) -> None:
    """Change everything that a step changes, as a function of its number."""
    generator = torch.Generator().manual_seed(number)
    with torch.no_grad():
        for one in model.parameters():
            one += 0.1 * torch.randn(one.shape, generator=generator)
        for one in model.buffers():
            one += torch.rand(one.shape, generator=generator) if one.is_floating_point() else 1


def started(model: nn.Module, **how: Any) -> Average:
    average = build_average(model, Averaging(**how))
    assert average is not None
    average.start()
    return average


def taken(average: Average, model: nn.Module, first: int, last: int) -> list[dict[str, Tensor]]:
    """Take steps ``first`` to ``last``, with a validation after each even one; return the weights after each."""
    along = []
    for number in range(first, last + 1):
        step(model, number)
        average.after_step()
        if number % 2 == 0:
            average.after_validation(number)
        along.append({name: one.clone() for name, one in model.state_dict().items()})
    return along


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, one in found.items():
        torch.testing.assert_close(one, expected[name].to(one.dtype), rtol=2e-6, atol=2e-6, msg=name)


def test_ema__is_the_closed_form() -> None:
    """Each step's weights count d^(T - t) (1 - d) / (1 - d^T); in float64."""
    model = new_model()
    average = started(model, method="ema", decay=0.8)
    along = taken(average, model, 1, 6)
    shares = [0.2 * 0.8 ** (6 - number) / (1 - 0.8**6) for number in range(1, 7)]
    expected = dict(along[-1])
    for name, one in along[-1].items():
        if one.is_floating_point():
            expected[name] = sum(share * each[name].double() for share, each in zip(shares, along, strict=True))
    assert_close(average.weights(), expected)
    assert average.weights()["bn1.num_batches_tracked"] == along[-1]["bn1.num_batches_tracked"] == 6


def test_ema__of_one_step_is_its_weights() -> None:
    model = new_model()
    average = started(model, method="ema", decay=0.9999)
    [after] = taken(average, model, 1, 1)
    assert_close(average.weights(), after)


def test_polyak__is_what_torch_and_timm_average() -> None:
    model = new_model()
    by_torch = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    by_torch.update_parameters(model)  # the first only copies
    by_timm = ModelEmaV3(model, decay=0.9, foreach=True)
    average = started(model, method="polyak", decay=0.9)
    for number in range(1, 6):
        taken(average, model, number, number)
        by_torch.update_parameters(model)
        by_timm.update(model)
    found = average.weights()
    parameters = dict(by_torch.module.named_parameters())
    assert_close({name: found[name] for name in parameters}, parameters)
    assert_close(found, by_timm.module.state_dict())


def test_validations__is_the_mean_of_the_last_ones() -> None:
    model = new_model()
    average = started(model, method="validations", k=2)
    along = taken(average, model, 1, 7)  # after steps 2, 4, 6
    average.after_validation(6)  # once more: of a validation that was broken off
    found = average.weights()
    for name in ("fc.weight", "bn1.running_var", "fc.bias"):
        np.testing.assert_allclose(found[name], (along[3][name].double() + along[5][name]) / 2, rtol=1e-6, atol=1e-7)


def test_average__leaves_out_what_is_not_trained_and_keeps_tied_weights_tied() -> None:
    model = nn.ModuleDict({"frozen": nn.Linear(2, 2), "one": nn.Linear(2, 2), "other": nn.Linear(2, 2)})
    model["frozen"].requires_grad_(False)
    model["other"].weight = model["one"].weight
    average = started(model, method="polyak", decay=0.5)
    before = model["one"].weight.detach().clone()
    step(model, 1)
    average.after_step()
    found = average.weights()
    assert set(average.tensors()) == {"one.weight", "one.bias", "other.bias"}
    torch.testing.assert_close(found["one.weight"], (before + model["one"].weight) / 2)
    assert torch.equal(found["other.weight"], found["one.weight"])
    assert torch.equal(found["frozen.weight"], model["frozen"].weight)


@pytest.mark.parametrize("method", ["ema", "polyak", "validations"])
def test_in_use__the_model_has_the_mean_and_then_its_own(method: str) -> None:
    model = new_model()
    average = started(model, method=method, decay=0.5)
    own = taken(average, model, 1, 4)[-1]
    mean, pointers = average.weights(), [one.data_ptr() for one in model.state_dict().values()]
    with average.in_use():
        assert all(torch.equal(one, mean[name]) for name, one in model.state_dict().items())
    assert all(torch.equal(one, own[name]) for name, one in model.state_dict().items())
    assert [one.data_ptr() for one in model.state_dict().values()] == pointers
    with pytest.raises(KeyError), average.in_use():
        raise KeyError
    assert all(torch.equal(one, own[name]) for name, one in model.state_dict().items())


@pytest.mark.parametrize("method", ["ema", "polyak", "validations"])
@pytest.mark.parametrize("stopped", [0, 3])
def test_restored__goes_on_to_the_same_bytes(method: str, stopped: int) -> None:
    how = {"method": method, "decay": 0.7, "k": 2}
    model = new_model()
    whole = started(model, **how)
    taken(whole, model, 1, 7)
    part_model = new_model()
    part = started(part_model, **how)
    taken(part, part_model, 1, stopped)
    tensors, facts = copy.deepcopy(part.tensors()), json.loads(json.dumps(part.facts()))
    other = build_average(part_model, Averaging(**how))
    assert other is not None
    other.restore(tensors, facts)
    taken(other, part_model, stopped + 1, 7)
    assert all(torch.equal(one, whole.weights()[name]) for name, one in other.weights().items())


def test_averaging_told__says_how_far_back_it_reaches() -> None:
    assert averaging_told(Averaging(method="polyak"), 500)[1].startswith("95% of average/ will still be the starting")
    assert (
        averaging_told(Averaging(method="ema", decay=0.99), 500)[1] == "half of average/ will be of the last 69 steps"
    )
    assert "plain mean" in averaging_told(Averaging(method="ema"), 500)[1]
    assert "last 3" in averaging_told(Averaging(method="validations"), 500)[1]


# --- whole runs

MORE_STOPS = (("ema", 4), ("polyak", 3), ("validations", 3), ("validations", 5))


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path, no_rendering: None) -> Callable[..., FinetuneConfig]:
    """Return six steps with three validations, and what else is given."""

    def made(out: str, *sets: str, **given: Any) -> FinetuneConfig:
        settings = {
            "data": str(image_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
            "val_fraction": 0.2, "steps": 6, "save_every": "1", "recipe": "demo", "lr": 0.01, "out": out,
        }  # fmt: skip
        return FinetuneConfig(**settings | given, set=("evaluation.validations=3", *sets))

    return made


def run(config: FinetuneConfig) -> FinetuneResult:
    result = finetune.run(config, Conversation())
    assert isinstance(result, FinetuneResult)
    return result


def bytes_of(folder: str) -> dict[str, bytes]:
    names = ("metrics.jsonl", "last", "best", "average")
    paths = [path for name in names for path in (Path(folder) / name, *(Path(folder) / name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def validations(folder: str) -> list[dict[str, Any]]:
    lines = map(json.loads, Path(folder, "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "val_loss" in line and line["step"]]


@pytest.mark.slow
def test_run__its_average_is_validated_saved_and_changes_nothing_else(config: Callable[..., FinetuneConfig]) -> None:
    plain, averaged = run(config("plain")), run(config("averaged", "averaging.method=ema", "averaging.decay=0.7"))
    assert (averaged.weights_sha256, averaged.last, averaged.best) == (plain.weights_sha256, plain.last, plain.best)
    assert plain.average is None
    assert not Path("plain/average").exists()
    assert averaged.average is not None
    assert averaged.average.step == 6
    lines = validations("averaged")
    assert [line["average_val_loss"] for line in lines][-1] == averaged.average.loss != averaged.last.loss
    kept = ("step", "val_loss", "val_top1")
    assert [{key: line[key] for key in kept} for line in lines] == validations("plain")
    mean, last = (load_file(f"averaged/{name}/model.safetensors") for name in ("average", "last"))
    assert mean.keys() == last.keys()
    assert any(not torch.equal(mean[name], last[name]) for name in mean)
    evaluated = evaluate.run(EvaluateConfig(run="averaged/average", num_workers=0), Conversation())
    assert (evaluated.top1, evaluated.nll) == (averaged.average.top1, pytest.approx(averaged.average.loss, abs=1e-6))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "stop"), [("ema", 5), *(pytest.param(*one, marks=pytest.mark.slow) for one in MORE_STOPS)]
)
def test_stopped_and_resumed__the_average_has_the_same_bytes(
    config: Callable[..., FinetuneConfig], stopped_after: StoppedAfter, method: str, stop: int
) -> None:
    sets = (f"averaging.method={method}", "averaging.decay=0.7", "averaging.k=2")
    whole = run(config("whole", *sets))
    stopped_after(stop, config("parts", *sets))
    assert Path("parts/average").is_dir()
    parts = run(FinetuneConfig(resume="parts"))
    assert bytes_of("parts") == bytes_of("whole")
    assert parts.average == whole.average
    assert parts.average_weights_sha256 == whole.average_weights_sha256


@pytest.mark.slow
def test_stopped_while_the_average_is_validated__the_weights_are_the_trained_ones(
    config: Callable[..., FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = ("averaging.method=validations", "averaging.k=2", "head.init=zero")
    run(config("whole", *sets))
    validate = trainer.validate

    def stopping(job: Any, step: int, *args: Any, whose: str = "", **named: Any) -> Any:
        if whose and step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return validate(job, step, *args, whose=whose, **named)

    with monkeypatch.context() as patched:
        patched.setattr(trainer, "validate", stopping)
        with pytest.raises(InterruptedRun, match="after step 4"):
            run(config("parts", *sets))
    run(FinetuneConfig(resume="parts"))
    assert bytes_of("parts") == bytes_of("whole")
