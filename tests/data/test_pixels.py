"""Levels that travel become the floats of torchvision and timm, bit for bit."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from vitctl.data.big_vision import BigVisionTransform, resize_bilinear
from vitctl.data.loader import evaluation_batches, training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.pixels import levels_of, normalised
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform, TrainingTransform
from vitctl.primitives.preprocessing import Preprocessing

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
EVERY_LEVEL = np.stack([np.arange(256, dtype=np.uint8).reshape(16, 16)] * 3, axis=-1)
PREPROCESSING = Preprocessing((8, 8), "bicubic", 1.0, "center", *IMAGENET)


@pytest.mark.parametrize(("mean", "std"), [IMAGENET, CLIP, ((0.5,) * 3, (0.5,) * 3), ((0.0,) * 3, (1.0,) * 3)])
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_normalised__bits_of_torchvision(
    mean: tuple[float, float, float], std: tuple[float, float, float], device: str
) -> None:
    theirs = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(Image.fromarray(EVERY_LEVEL))
    ours = normalised(levels_of(Image.fromarray(EVERY_LEVEL)).to(device), mean, std).cpu()
    assert ours.dtype == torch.float32
    assert torch.equal(ours, theirs)


def test_big_vision__bits_of_numpy() -> None:
    transform = BigVisionTransform(14)
    image = Image.fromarray(EVERY_LEVEL)
    squashed = resize_bilinear(EVERY_LEVEL, size=16)[1:15, 1:15].astype(np.float32)
    expected = squashed / np.float32(255) * np.float32(2) - np.float32(1)
    assert np.array_equal(transform(image).numpy(), expected.transpose(2, 0, 1))


def test_levels_of__contiguous_and_writable() -> None:
    levels = levels_of(Image.new("RGB", (5, 3), (1, 2, 3)))
    assert levels.shape == (3, 3, 5)
    assert levels.is_contiguous()
    assert levels[:, 0, 0].tolist() == [1, 2, 3]
    levels += 1  # an array of Pillow's own memory would warn


def test_batches_travel_as_bytes(drawn_split: Callable[..., Split], monkeypatch: pytest.MonkeyPatch) -> None:
    from vitctl.data import loader

    seen: list[torch.dtype] = []

    def watched(batches: object) -> object:
        for batch in taken(batches):  # type: ignore[arg-type]
            seen.append(batch.images.dtype if hasattr(batch, "images") else batch.dtype)
            yield batch

    taken = loader.taken
    monkeypatch.setattr(loader, "taken", watched)
    split = drawn_split(4)
    training = TrainingTransform(PREPROCESSING, crop="none", crop_area=(1.0, 1.0), flip=True, seed=0)
    (batch,) = training_batches(split, training, BatchPlan(4, 4, 4, seed=0), num_workers=0)
    (images,) = evaluation_batches(split, EvaluationTransform(PREPROCESSING), batch_size=4, num_workers=0)
    assert seen == [torch.uint8, torch.uint8]
    assert batch.images.dtype == images.dtype == torch.float32
