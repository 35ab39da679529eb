"""Pictures of the first batches: what the model gets, denormalised, under its classes; once in a run."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vitctl.data.augmentation import Augmentation
from vitctl.data.loader import training_batches
from vitctl.data.mixing import Others, PairMixing
from vitctl.data.order import BatchPlan
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages
from vitctl.data.transforms import TrainingTransform
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.training.first_batches import MOST_IMAGES, FirstBatches, sheet_of


def drawn_split() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (6, 20, 20), dtype=np.uint8)
    return split_from_names("train", ArrayImages("noise", pixels), ["cat", "dog", "cow"] * 2)


def job_of(split: Split, size: tuple[int, int], *, class_weights: np.ndarray | None = None, num_steps: int = 5) -> Any:
    """Return what stands in for a job: its images, preprocessing and plan."""
    preprocessing = Preprocessing(size, "bicubic", 1.0, "center", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    plan = BatchPlan(len(split), 6, 6 * num_steps, seed=1)
    return SimpleNamespace(train=split, preprocessing=preprocessing, class_weights=class_weights, batches=plan)


def batches_of(job: Any, *, mixing: PairMixing | None = None) -> Any:
    how = Augmentation(augment="rand-m9-mstd0.5-inc1", erasing=0.5)
    transform = TrainingTransform(job.preprocessing, crop="none", crop_area=(1, 1), flip=True, seed=1, augmentation=how)
    plan = BatchPlan(len(job.train), 6, job.batches.num_images_seen, seed=1, mixing=mixing)
    return transform, training_batches(job.train, transform, plan, num_workers=0, class_weights=job.class_weights)


@pytest.mark.parametrize(("size", "factor"), [((8, 8), 16), ((100, 60), 1), ((9, 30), 4), ((256, 128), None)], ids=str)
def test_sheet__shows_the_levels_of_the_images(size: tuple[int, int], factor: int | None) -> None:
    """Bit for bit, small ones enlarged by a whole number; larger ones are made smaller."""
    job = job_of(drawn_split(), size)
    transform, batches = batches_of(job)
    batch = next(batches)
    sheet = sheet_of(batch, job)
    assert sheet.title == f"step 1: 6 of 6 images as the model sees them, {size[0]}x{size[1]} px"
    assert sheet.captions == [job.train.class_names[label] for label in batch.labels]
    for (view, position), picture in zip(job.batches.batch(0), sheet.pictures, strict=True):
        pixels = transform.pixels(job.train.read(position), view=view, position=position).permute(1, 2, 0).numpy()
        if factor is None:
            assert picture.shape == (128, 64, 3)
            assert abs(float(picture.mean()) - float(pixels.mean())) < 3
        else:
            np.testing.assert_array_equal(picture, pixels.repeat(factor, 0).repeat(factor, 1))


def test_sheet__shows_mixtures_and_names_both_classes_the_larger_first() -> None:
    """With weights of the classes, which are no part of the shares."""
    job = job_of(drawn_split(), (8, 8), class_weights=np.array([0.5, 2.0, 3.0]))
    _, plain = batches_of(job)
    _, mixed = batches_of(job, mixing=PairMixing(mixup=0.4))
    before, batch = next(plain), next(mixed)
    draws = PairMixing(mixup=0.4).draws(3, (8, 8), seed=1, step=0)
    names, captions = job.train.class_names, []
    for slot in range(6):
        parts = [(float(draws.own[slot // 2]), slot), (1 - float(draws.own[slot // 2]), slot ^ 1)]
        (most, name), (rest, other) = (
            (share, names[int(before.labels[index])]) for share, index in sorted(parts)[::-1]
        )
        captions.append(name if rest < 0.005 or name == other else f"{most:.0%}: {name}\n{rest:.0%}: {other}")
    sheet = sheet_of(batch, job)
    assert sheet.captions == captions
    assert any("\n" in caption for caption in captions)
    assert not np.array_equal(sheet.pictures[0], sheet_of(before, job).pictures[0])


def test_sheet__of_a_large_batch_shows_the_first() -> None:
    job = job_of(drawn_split(), (8, 8))
    batch = next(batches_of(job)[1])
    images = batch.images.repeat(4, 1, 1, 1)
    labels = batch.labels.repeat(4)
    others = Others(labels, torch.zeros(24))
    large = batch._replace(images=images, labels=labels, weights=torch.ones(24), num_global=48, others=others)
    sheet = sheet_of(large, job)
    assert len(sheet.pictures) == len(sheet.captions) == MOST_IMAGES == 16
    assert sheet.title.startswith("step 1: 16 of 48 images")


@pytest.mark.parametrize(("num_steps", "expected"), [(5, 3), (2, 2)])
def test_first_batches__are_drawn_once_and_passed_on(tmp_path: Path, num_steps: int, expected: int) -> None:
    job, path, drawn = job_of(drawn_split(), (8, 8), num_steps=num_steps), tmp_path / "first.png", []

    def draw(sheets: Any, to: Path) -> None:
        drawn.append([sheet.title[:6] for sheet in sheets])
        to.write_bytes(b"")

    for _ in range(2):  # the second time it is there
        pictures = FirstBatches(job, path, draw)
        steps = []
        for batch in pictures.watched(batches_of(job)[1]):
            steps.append(batch.step)
            pictures.draw_when_complete()
        assert steps == list(range(num_steps))
    assert drawn == [["step 1", "step 2", "step 3"][:expected]]


@pytest.mark.parametrize("is_first", [True, False])
def test_first_batches__nobody_draws_in_other_processes_or_where_none_is_wanted(tmp_path: Path, is_first: bool) -> None:
    job = job_of(drawn_split(), (8, 8))
    pictures = (
        FirstBatches(job, tmp_path / "first.png", None)
        if is_first
        else FirstBatches(job, None, lambda sheets, path: None)
    )
    assert pictures.num_missing == 0
    assert len(list(pictures.watched(batches_of(job)[1]))) == 5
    pictures.draw_when_complete()
