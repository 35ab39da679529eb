"""Augmentation: what timm and torchvision make of the same draws; ground that is plain; noise on levels of a byte."""

import random
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.random_erasing import RandomErasing
from timm.data.transforms_factory import transforms_imagenet_train
from torchvision import transforms

from vitctl.data.augmentation import Augmentation, Augmenter, NoiseRectangle, _timms_policy, colour_around
from vitctl.data.transforms import TrainingTransform
from vitctl.errors import SettingError
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import global_randomness

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MEAN_COLOUR = (124, 116, 104)
SIZE = (24, 24)
ALL_ON = Augmentation(
    augment="rand-m9-n3-mstd1-inc1", color_jitter=0.3, rotate=20, translate=0.1, zoom=0.2, shear=10, erasing=0.5
)


def picture(seed: int = 0, size: tuple[int, int] = SIZE) -> Image.Image:
    """Return noise: no plain ground."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


def on_ground(colour: tuple[int, int, int]) -> Image.Image:
    """Return a square of noise in the middle of a plain ground."""
    image = Image.new("RGB", SIZE, colour)
    image.paste(picture(size=(12, 12)), (6, 6))
    return image


def augmenter(how: Augmentation) -> Augmenter:
    return Augmenter(how, image_size=SIZE, interpolation="bicubic", mean=MEAN, std=STD)


def drawn(transform: Any, image: Image.Image, position: int) -> bytes:
    with global_randomness(0, "augment", 0, position):
        return bytes(transform(image).tobytes())


@pytest.mark.parametrize(
    ("how", "timms"),
    [
        (Augmentation(augment="rand-m9-mstd0.5-inc1"), {"auto_augment": "rand-m9-mstd0.5-inc1"}),
        (Augmentation(augment="rand-m9-mmax30-n4-p0.9-t3aw"), {"auto_augment": "rand-m9-mmax30-n4-p0.9-t3aw"}),
        (Augmentation(augment="augmix-m5-w2-d2-mstd1"), {"auto_augment": "augmix-m5-w2-d2-mstd1"}),
        (Augmentation(augment="original-mstd0.5"), {"auto_augment": "original-mstd0.5"}),
        (Augmentation(augment="v0r"), {"auto_augment": "v0r"}),
        (Augmentation(augment="3a"), {"auto_augment": "3a"}),
        (Augmentation(augment="three"), {"auto_augment": "3a", "color_jitter": 0.3}),
        (Augmentation(augment="three", color_jitter=0.5), {"auto_augment": "3a", "color_jitter": 0.5}),
        (Augmentation(color_jitter=0.4), {"color_jitter": 0.4}),
        (
            Augmentation(augment="rand", color_jitter=0.4),
            {"auto_augment": "rand", "color_jitter": 0.4, "force_color_jitter": True},
        ),
    ],
    ids=str,
)
def test_policies__are_timms_with_the_parameters_that_timm_gives_them(how: Augmentation, timms: dict[str, Any]) -> None:
    ours, image = augmenter(how), picture()
    theirs = transforms_imagenet_train(
        SIZE, separate=True, interpolation="bicubic", mean=MEAN, std=STD, **{"color_jitter": None} | timms
    )[1]
    results = [(drawn(ours.drawn_on, image, position), drawn(theirs, image, position)) for position in range(20)]
    assert all(one == other for one, other in results)
    assert len({one for one, _ in results}) > 5


@pytest.mark.parametrize("augment", ["rand-m10-n14-p1-inc1", "rand-m30-mmax30-n14-p1-inc1", "rand-m1-n14-p1", "v0"])
def test_posterising__leaves_a_bit_where_timm_would_leave_none(augment: str) -> None:
    """Pillow refuses to keep none."""
    ours = augmenter(Augmentation(augment=augment))
    assert len({drawn(ours.drawn_on, picture(), position) for position in range(20)}) > 5
    one_bit = bytes(np.asarray(picture()) & 128)
    policy = _timms_policy(augment, SIZE, "bicubic", MEAN_COLOUR)
    operations = getattr(policy, "ops", None) or [one for few in policy.policy for one in few]
    posterise = [one for one in operations if one.name.startswith("Posterize") and one.magnitude != 6]
    assert posterise
    for operation in posterise:
        operation.prob = 1
        assert operation(picture()).tobytes() == one_bit


def test_trivial_and_affine__are_torchvisions() -> None:
    bicubic, fill = transforms.InterpolationMode.BICUBIC, list(MEAN_COLOUR)
    affine = transforms.RandomAffine(
        20, translate=(0.1, 0.1), scale=(0.7, 1.3), shear=(-5, 5, -5, 5), interpolation=bicubic, fill=fill
    )
    trivial = transforms.TrivialAugmentWide(interpolation=bicubic, fill=fill)
    cases = [
        (Augmentation(augment="trivial"), trivial),
        (Augmentation(rotate=20, translate=0.1, zoom=0.3, shear=5), affine),
        (
            Augmentation(rotate=20, translate=0.1, zoom=0.3, shear=5, augment="trivial"),
            transforms.Compose([affine, trivial]),
        ),
    ]
    for how, theirs in cases:
        ours, image = augmenter(how), picture()
        for position in range(20):
            assert drawn(ours.drawn_on, image, position) == drawn(theirs, image, position)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear", "nearest", "lanczos"])
def test_warps__work_with_any_interpolation_of_a_model(interpolation: str) -> None:
    preprocessing = Preprocessing((8, 16), interpolation, 1.0, "center", MEAN, STD)
    transform = TrainingTransform(preprocessing, crop="none", crop_area=(1, 1), flip=False, seed=0, augmentation=ALL_ON)
    assert transform.pixels(picture(), view=0, position=0).shape == (3, 8, 16)


@pytest.mark.parametrize("what", [{}, {"erasing": 1.0}, {"rotate": 30.0}, {"augment": "rand"}])
def test_training_transform__crop_and_flip_are_those_without_augmentation(what: dict[str, Any]) -> None:
    """What comes later draws later: a patch in the middle shows the same part of the image."""
    preprocessing = Preprocessing(SIZE, "bicubic", 1.0, "center", MEAN, STD)
    how = {"crop": "random-resized-crop", "crop_area": (0.3, 1.0), "flip": True, "seed": 1}
    image, size = picture(size=(40, 30)), list(SIZE)
    by_hand = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale=(0.3, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
        ]
    )
    for position in range(5):
        transform = TrainingTransform(preprocessing, **how, augmentation=Augmentation(**what))
        with global_randomness(1, "augment", 2, position):
            cropped = by_hand(image)
            expected = augmenter(Augmentation(**what)).drawn_on(cropped)
            levels = augmenter(Augmentation(**what)).erased(transforms.functional.pil_to_tensor(expected))
        assert torch.equal(transform.pixels(image, view=2, position=position), levels)
        if not what:
            assert expected is cropped


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (on_ground((0, 0, 0)), (0, 0, 0)),
        (on_ground((250, 240, 10)), (250, 240, 10)),
        (picture(), MEAN_COLOUR),
        (Image.new("RGB", (1, 1), (7, 8, 9)), (7, 8, 9)),
        (Image.new("RGB", (1, 5), (7, 8, 9)), (7, 8, 9)),
    ],
)
def test_colour_around(image: Image.Image, expected: tuple[int, int, int]) -> None:
    assert colour_around(image, otherwise=MEAN_COLOUR) == expected


@pytest.mark.parametrize(("num_grey", "expected"), [(12, (200, 200, 200)), (11, MEAN_COLOUR)])
def test_colour_around__is_of_a_third_of_the_edge(num_grey: int, expected: tuple[int, int, int]) -> None:
    """Of 36 pixels, some grey ones with the noise of JPEG; all others of colours of their own."""
    grey = 200 + np.resize([0, 0, 7, -8, 0], num_grey)
    edge = np.concatenate([grey, np.arange(36 - num_grey) * 7])
    edge = np.stack([edge, edge, np.where(np.arange(36) < num_grey, edge, 255 - edge)], axis=1)
    image = np.full((10, 10, 3), 128, np.uint8)
    image[0], image[9], image[1:9, 0], image[1:9, 9] = edge[:10], edge[10:20], edge[20:28], edge[28:]
    assert colour_around(Image.fromarray(image), otherwise=MEAN_COLOUR) == expected


@pytest.mark.parametrize(
    "how", [Augmentation(rotate=45.0), Augmentation(translate=0.4), Augmentation(zoom=0.5)], ids=str
)
@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255)])
def test_warps__a_plain_ground_stays_plain(how: Augmentation, ground: tuple[int, int, int]) -> None:
    plain = Image.new("RGB", SIZE, ground)
    assert all(drawn(augmenter(how).drawn_on, plain, position) == plain.tobytes() for position in range(10))


# --- erasing


def test_erasing__is_timms_on_the_normalised_image_up_to_black_and_white() -> None:
    """Where timm's noise is no colour of a screen, ours is the nearest that is one."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    ours, theirs = NoiseRectangle(0.5, mean=MEAN, std=STD), RandomErasing(0.5, mode="pixel", device="cpu")
    num_erased, clipped = 0, 0.0
    for position in range(40):
        levels = torch.full((3, 32, 32), 100, dtype=torch.uint8)
        normalised = (levels / 255 - mean) / std
        with global_randomness(0, "augment", 0, position):
            expected = theirs(normalised.clone()) * std + mean
        with global_randomness(0, "augment", 0, position):
            found = ours(levels.clone())
        assert float((found / 255 - expected.clamp(0, 1)).abs().max()) <= 0.5 / 255 + 1e-5
        is_erased = ~torch.isclose(expected, levels / 255, atol=1e-6)
        assert torch.equal(found[~is_erased], levels[~is_erased])
        num_erased += bool(is_erased.any())
        clipped += float(((expected < 0) | (expected > 1)).float().mean())
    assert 10 < num_erased < 30  # 20 expected, standard deviation 3.2
    assert clipped > 0


def test_all_on__the_global_generators_are_as_before_and_any_order_gives_the_same() -> None:
    preprocessing = Preprocessing(SIZE, "bicubic", 1.0, "center", MEAN, STD)
    transform = TrainingTransform(
        preprocessing, crop="resize-small-random-crop", crop_area=(0.3, 1), flip=True, seed=0, augmentation=ALL_ON
    )
    before = random.getstate(), torch.random.get_rng_state()
    np.random.seed(3)
    after = np.random.RandomState(3).rand()
    first = [transform.pixels(picture(), view=1, position=position) for position in range(6)]
    again = [transform.pixels(picture(), view=1, position=position) for position in reversed(range(6))]
    assert all(torch.equal(one, other) for one, other in zip(first, reversed(again), strict=True))
    assert len({one.numpy().tobytes() for one in first}) == 6
    assert random.getstate() == before[0]
    assert torch.equal(torch.random.get_rng_state(), before[1])
    assert np.random.rand() == after


def test_unknown_augment__is_an_error() -> None:
    with pytest.raises(SettingError, match="augment is 'randaugment'.*Did you mean 'rand-m9"):
        Augmentation(augment="randaugment")
