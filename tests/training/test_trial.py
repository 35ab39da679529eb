"""The trial pass of --dry-run: right counts, sane scaling, nothing trained; and batches too small for BatchNorm."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator

from vitctl.data.loader import training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.sources import open_source
from vitctl.errors import SettingError
from vitctl.models.build import load_model, preprocessing_of
from vitctl.models.describe import flops_per_image
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes import load_recipe, override
from vitctl.training.job import Job
from vitctl.training.noise_places import install_noise
from vitctl.training.trial import MAX_TRIAL_IMAGES, Cost, check_batch_norm, measure_cost

PREPROCESSING = Preprocessing((32, 32), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)


def make_job(
    model_folder: Path, images: Path, *, batch_size: int = 8, num_steps: int = 5, changes: tuple[str, ...] = ()
) -> Job:
    loaded = load_model(str(model_folder))
    train = open_source(str(images)).training_split()
    return Job(
        model=loaded.model,
        train=train,
        val=None,
        preprocessing=preprocessing_of(loaded.model),
        recipe=override(load_recipe("demo"), changes),
        batches=BatchPlan(len(train), batch_size, batch_size * num_steps, 0),
        lr=1e-3,
        flip=False,
        num_workers=0,
        accelerator=Accelerator(cpu=True),
        precision="fp32",
    )


@pytest.fixture
def job(tiny_model_folder: Path, image_folder: Path) -> Job:
    return make_job(tiny_model_folder, image_folder)


def test_cost__counts_parameters_flops_and_groups(job: Job) -> None:
    cost = measure_cost(job)
    assert cost.num_parameters == sum(parameter.numel() for parameter in job.model.parameters())
    assert cost.flops_per_image == flops_per_image(job.model, (16, 16))
    assert sum(group.num_parameters for group in cost.groups) == cost.num_parameters


def test_cost__frozen_parameters_are_not_counted(job: Job) -> None:
    whole = measure_cost(job).num_parameters
    table = job.model.get_parameter("pos_embed").requires_grad_(False)
    assert measure_cost(job).num_parameters == whole - table.numel()


def test_memory__gradients_and_moments_are_those_of_what_is_trained(job: Job) -> None:
    whole = measure_cost(job)
    for parameter in job.model.parameters():
        parameter.requires_grad_(parameter.ndim == 1)
    few = measure_cost(job)
    saved = 3 * 4 * (whole.num_parameters - few.num_parameters)  # a gradient and two moments, float32
    assert whole.memory_bytes - few.memory_bytes >= saved  # and activations
    assert few.memory_bytes > 4 * whole.num_parameters


def test_cost__time_of_a_run_is_that_of_its_steps(job: Job) -> None:
    cost = measure_cost(job)
    assert cost.step_s > 0
    assert cost.training_s == pytest.approx(5 * cost.step_s)


def activations(cost: Cost, *, copies: int) -> int:
    """Return what is left of the memory without weights, gradients and optimiser state."""
    return cost.memory_bytes - 4 * copies * cost.num_parameters


def test_memory__activations_grow_with_the_batch(tiny_model_folder: Path, image_folder: Path) -> None:
    small, large = (
        activations(measure_cost(make_job(tiny_model_folder, image_folder, batch_size=size)), copies=4)
        for size in (8, 32)
    )
    assert large == pytest.approx(4 * small, rel=0.01)
    images_alone = 8 * 3 * 16 * 16 * 4
    assert small > images_alone


def test_memory__sgd_keeps_one_moment_less_than_adamw(tiny_model_folder: Path, image_folder: Path) -> None:
    adamw = measure_cost(make_job(tiny_model_folder, image_folder))
    changes = ("optimizer.name=sgd", "optimizer.momentum=0.9")
    sgd, plain, lion = (
        measure_cost(make_job(tiny_model_folder, image_folder, changes=given))
        for given in (changes, changes[:1], ("optimizer.name=lion",))
    )
    assert adamw.memory_bytes - sgd.memory_bytes == 4 * adamw.num_parameters
    assert sgd.memory_bytes - plain.memory_bytes == 4 * adamw.num_parameters
    assert lion.memory_bytes == sgd.memory_bytes


@pytest.mark.parametrize(("batch_size", "processes"), [(9, 2), (8, 2), (7, 4), (2, 3)])
def test_cost__of_a_process_is_that_of_the_largest_share(
    job: Job, monkeypatch: pytest.MonkeyPatch, batch_size: int, processes: int
) -> None:
    """Of a batch that the processes cannot share evenly, the largest share is what the loader gives one of them."""
    batches = BatchPlan(len(job.train), batch_size, batch_size, 0)
    transform = job.training_transform()
    largest = max(
        len(batch.images)
        for index in range(processes)
        for batch in training_batches(
            job.train, transform, batches, num_workers=0, process_index=index, num_processes=processes
        )
    )
    ticks = itertools.count()  # both of the readings around the timed pass: it takes a second
    monkeypatch.setattr("vitctl.training.trial.time", SimpleNamespace(perf_counter=lambda: float(next(ticks))))
    several: Any = SimpleNamespace(
        device=torch.device("cpu"), backward=lambda loss: loss.backward(), num_processes=processes
    )
    shared = measure_cost(replace(job, batches=batches, accelerator=several))
    alone = measure_cost(replace(job, batches=batches))
    images_shown = min(batch_size, MAX_TRIAL_IMAGES)
    assert shared.step_s == pytest.approx(largest / images_shown)
    assert activations(shared, copies=4) == pytest.approx(activations(alone, copies=4) * largest / batch_size, abs=1)


def test_trial__trains_nothing_and_leaves_no_gradient(job: Job) -> None:
    before = {key: value.clone() for key, value in job.model.state_dict().items()}
    measure_cost(job)
    assert all(torch.equal(value, before[key]) for key, value in job.model.state_dict().items())
    assert all(parameter.grad is None for parameter in job.model.parameters())


def cnn_job(job: Job, name: str = "test_resnet") -> Job:
    import timm

    return replace(job, model=timm.create_model(name, num_classes=3), preprocessing=PREPROCESSING)


def test_trial__of_a_cnn_leaves_the_running_statistics(job: Job) -> None:
    cnn = cnn_job(job)
    before = {key: value.clone() for key, value in cnn.model.state_dict().items()}
    cost = measure_cost(cnn)
    assert cost.num_parameters == sum(parameter.numel() for parameter in cnn.model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in cnn.model.state_dict().items())
    assert "bn1.running_mean" in before


class Processes:
    """Stands in for Accelerate's view of several processes."""

    def __init__(self, count: int) -> None:
        self.num_processes = count


@pytest.mark.parametrize(
    ("batch_size", "num_seen", "processes", "words"),
    [
        (1, 5, 1, "a batch of 1. Try --batch-size 2 or more"),
        (8, 17, 1, "1 in the last batch. Try --steps 2 in place of --epochs"),
        (8, 1, 1, "1 in the last batch. Try --steps 1 in place of --epochs"),
        (6, 12, 4, "a batch of 6 over 4 processes. Try --batch-size 8 or more"),
        (8, 21, 4, "5 in the last batch over 4 processes. Try --steps 2"),
    ],
)
def test_batch_norm__one_image_per_process_is_refused(
    job: Job, batch_size: int, num_seen: int, processes: int, words: str
) -> None:
    accelerator: Any = Processes(processes)
    batches = BatchPlan(12, batch_size, num_seen, 0)
    cnn = replace(cnn_job(job), batches=batches, accelerator=accelerator)
    with pytest.raises(SettingError, match="BatchNorm layers need two images or more") as refusal:
        check_batch_norm(cnn)
    assert words in str(refusal.value)
    check_batch_norm(replace(job, batches=batches, accelerator=accelerator))  # a ViT has LayerNorm


@pytest.mark.parametrize(
    ("batch_size", "num_seen", "processes", "micro_batch", "words"),
    [
        (8, 16, 1, 1, "found 1 where a batch of 8 is taken 1 at a time. Try another --micro-batch, or --batch-size"),
        (8, 16, 2, 3, "found 1 where a batch of 8 over 2 processes is taken 3 at a time"),
        (8, 13, 1, 4, "5 in the last batch"),
    ],
)
def test_batch_norm__one_image_per_micro_batch_is_refused(
    job: Job, batch_size: int, num_seen: int, processes: int, micro_batch: int, words: str
) -> None:
    accelerator: Any = Processes(processes)
    batches = BatchPlan(12, batch_size, num_seen, 0, micro_batch=micro_batch)
    with pytest.raises(SettingError) as refusal:
        check_batch_norm(replace(cnn_job(job), batches=batches, accelerator=accelerator))
    assert words in str(refusal.value)
    two = replace(batches, num_images_seen=16, micro_batch=2)
    check_batch_norm(replace(cnn_job(job), batches=two, accelerator=accelerator))


def test_memory__is_that_of_a_micro_batch(job: Job) -> None:
    whole, half = (
        activations(measure_cost(replace(job, batches=replace(job.batches, micro_batch=size))), copies=4)
        for size in (None, 4)
    )
    assert half == pytest.approx(whole / 2, rel=0.01)


def test_cost__of_a_model_with_noise_is_measured_with_it(job: Job) -> None:
    plain = activations(measure_cost(job), copies=4)
    install_noise(job.model, drop_path=None, patch_drop=0.75, name="tiny")
    assert activations(measure_cost(job), copies=4) < plain / 2  # a quarter of the patches is left


@pytest.mark.parametrize(("batch_size", "num_seen", "processes"), [(2, 4, 1), (8, 18, 1), (8, 24, 4)])
def test_batch_norm__two_images_per_process_are_enough(
    job: Job, batch_size: int, num_seen: int, processes: int
) -> None:
    accelerator: Any = Processes(processes)
    check_batch_norm(replace(cnn_job(job), batches=BatchPlan(12, batch_size, num_seen, 0), accelerator=accelerator))


@pytest.mark.parametrize("name", ["test_convnext", "test_nfnet", "test_efficientnet_gn"])
def test_batch_norm__models_without_it_take_single_images(job: Job, name: str) -> None:
    check_batch_norm(replace(cnn_job(job, name), batches=BatchPlan(12, 1, 3, 0)))
