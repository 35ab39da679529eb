"""A batch is a function of (seed, step): not of workers, processes or what came before."""

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitctl.data.augmentation import Augmentation
from vitctl.data.images import to_rgb
from vitctl.data.loader import TrainingBatch, evaluation_batches, training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources import open_source
from vitctl.data.sources.folder import FileImages
from vitctl.data.transforms import EvaluationTransform, TrainingTransform
from vitctl.errors import DataError
from vitctl.primitives.preprocessing import Preprocessing

PREPROCESSING = Preprocessing((8, 8), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
TRANSFORM = TrainingTransform(PREPROCESSING, crop="random-resized-crop", crop_area=(0.3, 1.0), flip=True, seed=0)


def _equal(one: TrainingBatch, other: TrainingBatch) -> bool:
    tensors = all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))
    return tensors and one[3:] == other[3:]


def test_training_batches_hold_what_the_plan_says(drawn_split: Callable[..., Split]) -> None:
    split, plan = drawn_split(7, 3), BatchPlan(7, 4, 18, seed=1)
    batches = list(training_batches(split, TRANSFORM, plan, num_workers=0))
    assert len(batches) == plan.num_steps
    for pairs, batch in zip(plan.batches(), batches, strict=True):
        images = [TRANSFORM(split.read(position), view=view, position=position) for view, position in pairs]
        assert torch.equal(batch.images, torch.stack(images))
        assert batch.labels.tolist() == [split.labels[position] for _, position in pairs]
        assert batch.weights.tolist() == [1.0] * len(pairs)
        assert batch.num_global == batch.weight_global == len(pairs)
        assert (batch.images.dtype, batch.labels.dtype, batch.weights.dtype) == (
            torch.float32,
            torch.int64,
            torch.float32,
        )


def test_content_is_the_same_for_any_number_of_workers(drawn_split: Callable[..., Split]) -> None:
    split, plan = drawn_split(7, 3), BatchPlan(7, 4, 18, seed=1)
    here = list(training_batches(split, TRANSFORM, plan, num_workers=0))
    there = list(training_batches(split, TRANSFORM, plan, num_workers=2))
    assert len(here) == len(there) == plan.num_steps
    assert all(_equal(one, other) for one, other in zip(here, there, strict=True))


ALL_ON = Augmentation(
    augment="rand-m9-n3-mstd1-inc1", color_jitter=0.3, rotate=20, translate=0.1, zoom=0.2, shear=10, erasing=0.5
)


def test_content_is_the_same_for_any_number_of_workers__with_all_augmentation(
    drawn_split: Callable[..., Split],
) -> None:
    split, plan, before = drawn_split(7, 3), BatchPlan(7, 4, 18, seed=1), random.getstate()
    augmented = TrainingTransform(
        PREPROCESSING, crop="random-resized-crop", crop_area=(0.3, 1.0), flip=True, seed=0, augmentation=ALL_ON
    )
    here = list(training_batches(split, augmented, plan, num_workers=0))
    there = list(training_batches(split, augmented, plan, num_workers=2))
    assert all(_equal(one, other) for one, other in zip(here, there, strict=True))
    plain = list(training_batches(split, TRANSFORM, plan, num_workers=0))
    assert not any(_equal(one, other) for one, other in zip(here, plain, strict=True))
    assert random.getstate() == before


def test_batches_from_a_step_on_are_the_rest_of_all_batches(drawn_split: Callable[..., Split]) -> None:
    split, plan = drawn_split(7, 3), BatchPlan(7, 4, 18, seed=1)
    whole = list(training_batches(split, TRANSFORM, plan, num_workers=0))
    rest = list(training_batches(split, TRANSFORM, plan, num_workers=0, first_step=2))
    assert len(rest) == 3
    assert all(_equal(one, other) for one, other in zip(whole[2:], rest, strict=True))


def test_loading_does_not_disturb_the_global_generator(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(4)
    before = torch.random.get_rng_state()
    list(training_batches(split, TRANSFORM, BatchPlan(4, 2, 8, seed=1), num_workers=0))
    list(evaluation_batches(split, EvaluationTransform(PREPROCESSING), batch_size=2, num_workers=0))
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("num_processes", [2, 3])
def test_shares_of_the_processes_are_even_contiguous_parts_of_every_global_batch(
    drawn_split: Callable[..., Split], num_processes: int
) -> None:
    split, plan = drawn_split(7, 3), BatchPlan(7, 5, 16, seed=1)  # the last batch has one image
    whole = list(training_batches(split, TRANSFORM, plan, num_workers=0))
    shares = [
        list(training_batches(split, TRANSFORM, plan, num_workers=0, process_index=index, num_processes=num_processes))
        for index in range(num_processes)
    ]
    for step, batch in enumerate(whole):
        parts = [share[step] for share in shares]
        assert all(part.num_global == part.weight_global == len(batch.labels) for part in parts)
        counted = [part.images[row] for part in parts for row in range(len(part.weights)) if part.weights[row] == 1]
        assert torch.equal(torch.stack(counted), batch.images)  # contiguous, in the order of the processes
        sizes = [int(part.weights.sum()) for part in parts]
        assert sum(sizes) == batch.num_global
        assert max(sizes) - min(sizes) <= 1


def test_an_empty_share_is_one_image_of_weight_zero(drawn_split: Callable[..., Split]) -> None:
    plan = BatchPlan(4, 4, 5, seed=1)  # the second batch has one image, which goes to the first process
    first, second = (
        list(training_batches(drawn_split(4), TRANSFORM, plan, num_workers=0, process_index=index, num_processes=2))
        for index in range(2)
    )
    assert len(first) == len(second) == 2  # else the processes would wait for each other for ever
    assert first[1].weights.tolist() == [1.0]
    assert second[1].weights.tolist() == [0.0]
    assert second[1].images.shape == (1, 3, 8, 8)
    assert second[1].num_global == second[1].weight_global == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_evaluation_batches_are_in_order_and_the_last_may_be_short(
    drawn_split: Callable[..., Split], num_workers: int
) -> None:
    split = drawn_split(7).select([6, 0, 3, 2, 5])
    transform = EvaluationTransform(PREPROCESSING)
    batches = list(evaluation_batches(split, transform, batch_size=2, num_workers=num_workers))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    expected = torch.stack([transform(split.read(position)) for position in range(5)])
    assert torch.equal(torch.cat(batches), expected)


def test_a_file_that_vanished_is_an_error_with_its_name(tmp_path: Path) -> None:
    split = split_from_names("train", FileImages((str(tmp_path / "gone.png"),)), ["cat"])
    with pytest.raises(DataError, match=r"gone\.png cannot be read any more"):
        list(training_batches(split, TRANSFORM, BatchPlan(1, 1, 1, seed=0), num_workers=0))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_gone_after_the_check__one_sentence_also_from_a_worker(
    tmp_path: Path, write_classes: Callable[..., Path], num_workers: int
) -> None:
    split = open_source(str(write_classes(tmp_path / "images", a=2, b=2))).split("all")
    (tmp_path / "images" / "b" / "1.png").unlink()
    preprocessing = Preprocessing((8, 8), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    transform = EvaluationTransform(preprocessing)
    for batches in (
        evaluation_batches(split, transform, batch_size=2, num_workers=num_workers),
        training_batches(
            split,
            TrainingTransform(preprocessing, crop="none", crop_area=(1.0, 1.0), flip=False, seed=0),
            BatchPlan(4, 4, 4, seed=0),
            num_workers=num_workers,
        ),
    ):
        with pytest.raises(DataError, match=r"^[^\n]*1\.png cannot be read any more: no such file\.$"):
            list(batches)


class _Watched(TrainingTransform):
    """Remembers the sizes, (width, height), of the images it is given."""

    seen: list[tuple[int, int]]

    def pixels(self, image: Image.Image, *, view: int, position: int) -> torch.Tensor:
        self.seen.append(image.size)
        return super().pixels(image, view=view, position=position)


def _watched(*, crop: str, side: int = 16) -> _Watched:
    preprocessing = Preprocessing((side, side), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    transform = _Watched(preprocessing, crop=crop, crop_area=(0.5, 1.0), flip=False, seed=0)
    transform.seen = []
    return transform


@pytest.fixture
def photo_split(tmp_path: Path) -> Split:
    """One JPEG, one PNG, 600 px high and 800 wide, and a JPEG of 31 by 20."""
    coarse = np.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    photo = Image.fromarray(coarse).resize((800, 600), Image.Resampling.BICUBIC)
    photo.save(tmp_path / "a.jpg", quality=90)
    photo.save(tmp_path / "a.png", compress_level=1)
    photo.resize((20, 31)).save(tmp_path / "small.jpg")
    names = ("a.jpg", "a.png", "small.jpg")
    return split_from_names("train", FileImages(tuple(str(tmp_path / name) for name in names)), ["x", "y", "z"])


@pytest.mark.parametrize(
    ("crop", "side", "expected"),
    [
        ("none", 16, (100, 75)),  # an eighth leaves 75 px, 32 are asked for
        ("resize-random-crop", 16, (100, 75)),  # 38
        ("random-resized-crop", 37, (100, 75)),  # 74
        ("random-resized-crop", 38, (200, 150)),  # 76
        ("none", 150, (400, 300)),  # 300
        ("none", 151, (800, 600)),
        ("none", 400, (800, 600)),  # larger than the image
    ],
)
def test_training_reads_a_large_jpeg_at_a_fraction_of_its_size(
    photo_split: Split, crop: str, side: int, expected: tuple[int, int]
) -> None:
    transform = _watched(crop=crop, side=side)
    plan = BatchPlan(3, 3, 3, seed=0)
    (batch,) = training_batches(photo_split, transform, plan, num_workers=0)
    sizes = dict(zip([position for _, position in plan.batch(0)], transform.seen, strict=True))
    assert sizes == {0: expected, 1: (800, 600), 2: (20, 31)}
    assert batch.images.shape == (3, 3, side, side)


def test_training__a_jpeg_read_at_an_eighth_looks_like_the_whole_one(photo_split: Split) -> None:
    small = np.asarray(photo_split.read(0, least_side=32), dtype=np.float64)
    full = np.asarray(photo_split.read(0), dtype=np.float64)
    means = full.reshape(75, 8, 100, 8, 3).mean(axis=(1, 3))
    assert np.abs(small - means).mean() < 1
    assert np.abs(np.roll(small, 1, axis=1) - means).mean() > 5  # a shift by one pixel


def test_evaluation_reads_every_image_in_full(photo_split: Split) -> None:
    transform = EvaluationTransform(PREPROCESSING)
    (batch,) = evaluation_batches(photo_split, transform, batch_size=3, num_workers=0)
    for position, tensor in enumerate(batch):
        with Image.open(photo_split.image_name(position)) as image:
            full = to_rgb(image)
        assert np.array_equal(np.asarray(photo_split.read(position)), np.asarray(full))
        assert torch.equal(tensor, transform(full))
    scaled = transform(photo_split.read(0, least_side=16))
    assert not torch.equal(batch[0], scaled)  # it would have been seen
