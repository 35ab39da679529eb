"""Several image sizes in a run: each step's, their division into micro-batches, their cost; which sizes are refused."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.data.order import BatchPlan
from vitctl.errors import InterruptedRun, SettingError
from vitctl.primitives.compiler_later import COMPILED_FILES
from vitctl.primitives.interrupts import StopRequest
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import compiled, step
from vitctl.training.header import header_settings
from vitctl.training.job import Job
from vitctl.training.step import add_gradients, rehearse
from vitctl.training.trainer import new_state
from vitctl.training.trial import measure_cost
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

SIZES = ("length.sizes=[8,12,16]",)
ROTARY = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SettingsOf = Callable[..., FinetuneConfig]


@pytest.fixture
def settings(whole_folder: Path, tiny_model_folder: Path) -> SettingsOf:
    def made(**changes: Any) -> FinetuneConfig:
        own = {"data": str(whole_folder), "model": str(tiny_model_folder), "batch_size": 8, "num_workers": 0,
               "val_fraction": 0.0, "head": "zero", "recipe": "demo", "steps": 7, "set": SIZES}  # fmt: skip
        return FinetuneConfig(**(own | changes))

    return made


def job_of(config: FinetuneConfig) -> Job:
    return finetune.prepare(config, Conversation()).job


def batches_of(job: Job, **how: Any) -> Iterator[TrainingBatch]:
    smaller = [job.training_transform(size) for size in job.batches.sizes[:-1]]
    return training_batches(job.train, job.training_transform(), job.batches, num_workers=0, smaller=smaller, **how)


# --- the size of a step --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("num_steps", "num_sizes"), [(1, 1), (2, 2), (7, 3), (12, 3), (100, 6), (5, 5)])
def test_stages__are_equal_shares_of_the_steps_in_order(num_steps: int, num_sizes: int) -> None:
    plan = BatchPlan(10, 4, 4 * num_steps - 1, seed=0, sizes=tuple(range(1, num_sizes + 1)))
    stages = [plan.stage(index) for index in range(num_steps)]
    assert stages == sorted(stages)
    counts = [stages.count(stage) for stage in range(num_sizes)]
    assert counts == [plan.steps_of(stage) for stage in range(num_sizes)]
    assert max(counts) - min(counts) <= 1
    assert min(counts) >= 1
    assert BatchPlan(10, 4, 40, seed=0).stage(9) == 0


def test_batches__are_of_the_sizes_of_their_steps_whoever_reads_them_and_from_any_step_on(settings: SettingsOf) -> None:
    job = job_of(settings())
    whole = list(batches_of(job))
    sides = [batch.images.shape[-1] for batch in whole]
    assert sides == [8, 8, 8, 12, 12, 16, 16]
    for batch, pairs, side in zip(whole, job.batches.batches(), sides, strict=True):
        transform = job.training_transform(side)
        (view, position), image = pairs[0], batch.images[0]
        assert torch.equal(image, transform(job.train.read(position), view=view, position=position))
    one_size = list(batches_of(job_of(settings(set=None))))
    assert torch.equal(one_size[6].images, whole[6].images)  # the same views of the same images at the last size
    for rest in (batches_of(job, first_step=4), batches_of(replace(job, num_workers=1), first_step=4)):
        for one, other in zip(rest, whole[4:], strict=True):
            assert torch.equal(one.images, other.images)


# --- gradients -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_micro_batches__add_up_to_the_gradient_of_the_batch_at_each_size(settings: SettingsOf, stage: int) -> None:
    """With noise that belongs to the images. Largest difference seen: 2e-7."""
    noise = ("noise.patch_drop=0.4", "noise.drop_path=0.3")
    job = job_of(settings(set=(*SIZES, *noise), steps=3))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for parameter in job.model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    batch = next(batches_of(job, first_step=stage))
    found = []
    for micro_batch in (8, 4, 3):
        job.model.train().zero_grad()
        add_gradients(job.model, batch, micro_batch, accelerator=job.accelerator, precision="fp32")
        found.append({name: one.grad.clone() for name, one in job.model.named_parameters() if one.grad is not None})
    table = found[0]["pos_embed"]
    assert float(table.norm(dim=-1).min()) > 0  # every place has its part
    for other in found[1:]:
        for name, whole in found[0].items():
            torch.testing.assert_close(other[name], whole, rtol=0, atol=1e-6)


# --- memory, the compiler, cost ------------------------------------------------------------------------------


def test_a_rehearsal__is_of_the_largest_size(settings: SettingsOf, monkeypatch: pytest.MonkeyPatch) -> None:
    job, seen = job_of(settings()), []

    def agreed(_state: object, add: Callable[[int], Tensor], **_how: object) -> None:
        add(3)

    def passed(_model: nn.Module, batch: TrainingBatch, size: int, **_how: object) -> None:
        seen.append((*batch.images.shape, size))

    monkeypatch.setattr(step, "agree_on_size", agreed)
    monkeypatch.setattr(step, "add_gradients", passed)
    batch, how = next(batches_of(job)), {"accelerator": job.accelerator, "precision": "fp32"}
    rehearse(new_state(job), job.model, batch, largest=(16, 16), conversation=Conversation(), **how)  # type: ignore[arg-type]
    rehearse(new_state(job), job.model, batch, conversation=Conversation(), **how)  # type: ignore[arg-type]
    assert seen == [(3, 3, 16, 16, 3), (3, 3, 8, 8, 3)]


@pytest.mark.slow  # the compiler's settings are in the compiler
@pytest.mark.parametrize(("first_step", "sides"), [(0, [8, 12, 16]), (4, [12, 16]), (7, [16])])
def test_what_is_compiled__are_the_sizes_still_to_come(
    settings: SettingsOf, monkeypatch: pytest.MonkeyPatch, first_step: int, sides: list[int]
) -> None:
    job, seen = job_of(settings()), list[int]()
    monkeypatch.setattr(torch, "compile", lambda model, **_how: model)
    monkeypatch.setattr(compiled, "add_gradients", lambda _, batch, *_a, **_how: seen.append(batch.images.shape[-1]))
    state = new_state(job)
    state.step = first_step
    compiled.compiled_for_training(job, state, StopRequest(), Conversation())
    assert seen == sides


def test_cost__is_that_of_each_size_times_its_steps(settings: SettingsOf) -> None:
    prepared = finetune.prepare(settings(), Conversation())
    cost = measure_cost(prepared.job)
    assert [(one.size, one.steps) for one in cost.sizes] == [(8, 3), (12, 2), (16, 2)]
    assert cost.training_s == pytest.approx(sum(one.steps * one.step_s for one in cost.sizes))
    assert cost.step_s == pytest.approx(cost.training_s / 7)
    rows = {row.name: (row.value, row.reason) for row in header_settings(prepared)}
    assert rows["image size"] == ("16 px", "--set length.sizes")
    assert rows["image sizes"] == ("8, 12, 16 px", "3, 2, 2 steps, one size after the other; validated at 16 px")
    one_size = measure_cost(job_of(settings(set=None)))
    assert one_size.sizes == ()
    assert one_size.memory_bytes == cost.memory_bytes  # of the largest


def test_epochs_of_the_recipe__are_what_repeats_the_run(settings: SettingsOf) -> None:
    """Of 36 images, one and a half times, 8 at a time: the last batch has 6."""
    prepared = finetune.prepare(settings(steps=None, set=("length.epochs=1.5",)), Conversation())
    assert prepared.job.batches.num_images_seen == 54
    assert (prepared.config.steps, prepared.config.epochs) == (None, 1.5)
    again = finetune.prepare(replace(prepared.config, set=None), Conversation())
    assert again.job.batches == prepared.job.batches
    whole = finetune.prepare(settings(steps=None, set=("length.epochs=2",)), Conversation()).config
    assert (whole.steps, whole.epochs) == (9, None)


# --- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "field", "sentence"),
    [
        ({"image_size": (24, 24)}, "image_size",
         r"length\.sizes ends at 16 px, but the image size is 24 \(given\); expected the same"),
        ({"image_size": (16, 24)}, "image_size", "but the image size is 16x24"),
        ({"set": (*SIZES, "images.size=24")}, "image_size", r"the image size is 24 \(--set images\.size\)"),
        ({"set": ("length.sizes=[10,16]",)}, "set", r"length\.sizes: 10 is not a multiple"),
        ({"set": ("images.size=18",)}, "set", r"images\.size 18 is not a multiple .* 16 and 20"),
        ({"image_size": (18, 18)}, "image_size", "--image-size 18 is not a multiple"),
    ],
)  # fmt: skip
def test_sizes_that_cannot_be__a_sentence_before_images_are_read(
    settings: SettingsOf, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], field: str, sentence: str
) -> None:
    monkeypatch.setattr(finetune, "check_training_data", None)  # nothing gets as far
    with pytest.raises(SettingError, match=sentence) as caught:
        finetune.prepare(settings(**changes), Conversation())
    assert caught.value.field == field


def test_fewer_steps_than_sizes__a_sentence(settings: SettingsOf) -> None:
    with pytest.raises(SettingError, match=r"length\.sizes has 3 sizes, but the run has 2 steps"):
        finetune.prepare(settings(steps=2), Conversation())


# --- a whole run ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_run__says_each_steps_size_and_saves_a_model_of_one(
    settings: SettingsOf, no_rendering: None, tmp_path: Path
) -> None:
    plain, sized = tmp_path / "plain", tmp_path / "sized"
    few = ("evaluation.validations=1",)
    finetune.run(settings(set=few, out=str(plain)), Conversation())
    finetune.run(settings(set=(*few, *SIZES), out=str(sized)), Conversation())
    lines = [json.loads(line) for line in (sized / "metrics.jsonl").read_text().splitlines()]
    assert [line.get("size") for line in lines if "loss" in line] == [8, 8, 8, 12, 12, 16, 16]
    assert not any("size" in line for line in map(json.loads, (plain / "metrics.jsonl").read_text().splitlines()))
    assert (plain / "last/config.json").read_bytes() == (sized / "last/config.json").read_bytes()
    kept = json.loads((sized / "config.json").read_text())
    assert kept["image_size"] == "16"
    assert kept["recipe_settings"]["length.sizes"] == [8, 12, 16]
    # a run that starts from it goes through the sizes again, and one that is told another size alone does not
    again = finetune.prepare(FinetuneConfig(data=settings().data, model=str(sized), num_workers=0), Conversation())
    assert again.job.batches.sizes == (8, 12, 16)
    assert again.plan.image_size == ((16, 16), f"as {sized} was trained")
    other = settings(model=str(sized), recipe=None, set=("length.sizes=[]", "images.size=24"))
    assert finetune.prepare(other, Conversation()).plan.image_size == ((24, 24), "--set images.size")


@pytest.mark.slow
@pytest.mark.parametrize("model", ["tiny", "eva02_tiny_patch14_224"])
@pytest.mark.parametrize("stopped", [2, 3, 5])
def test_stopped_in_any_size__the_same_bytes(
    settings: SettingsOf,
    no_rendering: None,
    tmp_path: Path,
    stopped_after: StoppedAfter,
    model: str,
    stopped: int,
) -> None:
    """Before, at and after a change of size; with rotary positions, whose tables are made for each size."""
    own = {"model_arg": tuple(f"{key}={value}" for key, value in ROTARY.items()), "weights": "none", "model": model}
    changes = {"save_every": "1", "set": (*SIZES, "noise.patch_drop=0.3", "evaluation.validations=2")}
    changes |= {} if model == "tiny" else own
    finetune.run(settings(out=str(tmp_path / "whole"), **changes), Conversation())
    stopped_after(stopped, settings(out=str(tmp_path / "out"), **changes))
    finetune.run(settings(out=str(tmp_path / "out"), **changes), Conversation())
    for name in ("metrics.jsonl", "last/model.safetensors", "best/model.safetensors"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.slow
def test_two_processes__losses_of_one(settings: SettingsOf, no_rendering: None, tmp_path: Path) -> None:
    config = settings()
    Path("recipe.toml").write_text('[length]\nsizes = [8, 12, 16]\n[optimizer]\nname = "sgd"\n')
    losses = []
    for processes in (1, 2):
        out = tmp_path / str(processes)
        command = [sys.executable, "-m", "vitctl", "finetune", "--data", config.data, "--model", config.model,
                   "--recipe", "recipe.toml", "--set", "noise.patch_drop=0.3", "--lr", "0.05", "--steps", 6,
                   "--batch-size", 7, "--device", "cpu", "--num-threads", 1, "--num-workers", 0, "--out", out,
                   "--num-processes", processes]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
        subprocess.run(list(map(str, command)), check=True, capture_output=True, env=environment)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # of its compiler, about itself
def test_compiled__losses_are_those_without_it_and_each_size_is_compiled_once(
    settings: SettingsOf, no_rendering: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(COMPILED_FILES, str(tmp_path / "compiled"))
    import torch._dynamo.utils

    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    recipe = ("length.sizes=[8,16]", "evaluation.validations=1", "optimizer.name=sgd", "noise.patch_drop=0.25")
    losses = []
    for is_compiled in (False, True):
        out = tmp_path / str(is_compiled)
        config = settings(steps=4, lr=0.03, set=recipe, out=str(out), compile=is_compiled)
        finetune.run(config, Conversation())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines if "loss" in line])
    assert losses[1] == pytest.approx(losses[0], abs=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    assert not torch._dynamo.utils.counters["graph_break"]
    torch._dynamo.reset()
