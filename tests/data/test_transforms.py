"""What the model sees: timm's own transform in evaluation, keyed randomness in training."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from torch import Tensor
from torchvision.transforms import RandomCrop, RandomResizedCrop

from vitctl.data.transforms import CROPS, EvaluationTransform, TrainingTransform
from vitctl.errors import SettingError
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import global_randomness

SIZES = [(16, 16), (12, 24), (24, 12)]


def _preprocessing(size: tuple[int, int] = (16, 16), *, interpolation: str = "bicubic") -> Preprocessing:
    return Preprocessing(size, interpolation, 1.0, "center", (0.0,) * 3, (1.0,) * 3)


def _training(
    size: tuple[int, int] = (16, 16),
    *,
    crop: str = "random-resized-crop",
    crop_area: tuple[float, float] = (0.2, 1.0),
    flip: bool = True,
    seed: int = 0,
    interpolation: str = "bicubic",
) -> TrainingTransform:
    preprocessing = _preprocessing(size, interpolation=interpolation)
    return TrainingTransform(preprocessing, crop=crop, crop_area=crop_area, flip=flip, seed=seed)


def _noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _coordinates(height: int, width: int) -> Image.Image:
    """Return an image whose pixels say where they are: red the row, green the column; blue is 255."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([rows, columns, np.full_like(rows, 255)], axis=-1).astype(np.uint8))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("crop_mode", "crop_pct"), [("center", 0.9), ("center", 1.0), ("squash", 0.875), ("border", 1.0)]
)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_evaluation_is_timms_own_transform(
    size: tuple[int, int], crop_mode: str, crop_pct: float, interpolation: str
) -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    ours = EvaluationTransform(Preprocessing(size, interpolation, crop_pct, crop_mode, mean, std))
    theirs = create_transform(
        (3, *size), interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode, mean=mean, std=std
    )
    image = _noise(30, 20)
    tensor = ours(image)
    assert tensor.shape == (3, *size)
    assert tensor.dtype == torch.float32
    assert torch.equal(tensor, theirs(image))


def test_evaluation__an_image_of_the_right_size_is_only_normalised() -> None:
    mean, std = (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)
    image = _noise(16, 16)
    tensor = EvaluationTransform(Preprocessing((16, 16), "bicubic", 1.0, "center", mean, std))(image)
    expected = (np.asarray(image) / 255 - mean) / std
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_evaluation__crop_pct_cuts_out_the_centre() -> None:
    image = _coordinates(32, 40)
    tensor = EvaluationTransform(Preprocessing((16, 16), "bicubic", 0.5, "center", (0.0,) * 3, (1.0,) * 3))(image)
    expected = np.asarray(image)[8:24, 12:28] / 255  # already 16 / 0.5 px high
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("crop", CROPS)
def test_every_crop_gives_the_size_of_the_model(size: tuple[int, int], crop: str) -> None:
    transform = _training(size, crop=crop)
    for height, width in [(30, 20), (5, 40), (1, 1), (200, 3)]:
        tensor = transform(_noise(height, width), view=0, position=0)
        assert tensor.shape == (3, *size)
        assert tensor.dtype == torch.float32
        assert tensor.is_contiguous()


@pytest.mark.parametrize("crop", [crop for crop in CROPS if crop != "none"])
def test_training_depends_on_seed_view_and_position_alone(crop: str) -> None:
    image = _noise(40, 30)
    keys = list(itertools.product((0, 1), (0, 1, 2), (0, 1, 2)))

    def seen(seed: int, view: int, position: int) -> bytes:
        return _training(crop=crop, seed=seed)(image, view=view, position=position).numpy().tobytes()

    first = {key: seen(*key) for key in keys}
    torch.rand(7)
    assert {key: seen(*key) for key in reversed(keys)} == first
    assert len(set(first.values())) > len(keys) // 2  # small images: a few crops coincide


def test_training__one_transform_gives_the_same_in_any_order() -> None:
    transform, image = _training(), _noise(40, 30)
    first = [transform(image, view=1, position=position) for position in range(4)]
    for position in (2, 0, 3, 1):
        assert torch.equal(transform(image, view=1, position=position), first[position])


@pytest.mark.parametrize("crop", CROPS)
def test_training_does_not_disturb_the_global_generator(crop: str) -> None:
    before = torch.random.get_rng_state()
    _training(crop=crop)(_noise(20, 20), view=0, position=0)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_training__none_is_the_whole_image_squashed() -> None:
    image = _noise(30, 20)
    tensor = _training(crop="none", flip=False)(image, view=3, position=5)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC)) / 255
    np.testing.assert_allclose(tensor.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_training_normalises_with_mean_and_std() -> None:
    image = _noise(16, 16)
    preprocessing = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    transform = TrainingTransform(preprocessing, crop="none", crop_area=(1.0, 1.0), flip=False, seed=0)
    assert torch.allclose(transform(image, view=0, position=0), EvaluationTransform(preprocessing)(image), atol=1e-6)


def test_training__flip_mirrors_half_of_the_images_left_to_right() -> None:
    image = _noise(16, 16)
    plain = _training(crop="none", flip=False)(image, view=0, position=0)
    transform = _training(crop="none", flip=True)
    num_mirrored = 0
    for position in range(400):
        tensor = transform(image, view=0, position=position)
        is_mirrored = torch.equal(tensor, plain.flip(2))
        assert is_mirrored or torch.equal(tensor, plain)
        num_mirrored += is_mirrored
    assert abs(num_mirrored - 200) < 5 * 10  # standard deviation 10


def _windows(
    transform: TrainingTransform, image: Image.Image, size: tuple[int, int], padding: tuple[int, int]
) -> set[tuple[int, int]]:
    """Return the corners (row, column) of the parts of the padded image that 1,000 draws show, whole pixels only."""
    padded = np.pad(np.asarray(image), [(padding[0],) * 2, (padding[1],) * 2, (0, 0)])
    corners = {}
    for row, column in np.ndindex(padded.shape[0] - size[0] + 1, padded.shape[1] - size[1] + 1):
        corners[padded[row : row + size[0], column : column + size[1]].tobytes()] = (row, column)
    found = set()
    for position in range(1000):
        tensor: Tensor = transform(image, view=0, position=position)
        pixels = (tensor.permute(1, 2, 0) * 255).round().to(torch.uint8).contiguous()
        found.add(corners[pixels.numpy().tobytes()])  # a KeyError: it is not a part of the image
    return found


@pytest.mark.parametrize(("size", "larger"), [((24, 24), (28, 28)), ((12, 24), (14, 28)), ((24, 12), (28, 14))])
def test_resize_random_crop_cuts_any_part_out_of_seven_sixths(size: tuple[int, int], larger: tuple[int, int]) -> None:
    transform = _training(size, crop="resize-random-crop", flip=False)
    found = _windows(transform, _coordinates(*larger), size, (0, 0))
    assert found == set(np.ndindex(larger[0] - size[0] + 1, larger[1] - size[1] + 1))


@pytest.mark.parametrize(
    ("size", "shape", "resized"),
    [
        ((24, 24), (28, 33), (28, 33)),
        ((12, 24), (20, 28), (20, 28)),
        ((24, 24), (14, 16), (28, 32)),
    ],
)
def test_resize_small_random_crop__cuts_any_part_out_of_what_covers_seven_sixths(
    size: tuple[int, int], shape: tuple[int, int], resized: tuple[int, int]
) -> None:
    transform = _training(size, crop="resize-small-random-crop", flip=False)
    if shape == resized:
        found = _windows(transform, _coordinates(*shape), size, (0, 0))
        assert found == set(np.ndindex(resized[0] - size[0] + 1, resized[1] - size[1] + 1))
        return
    # timm's resizing keeps the aspect: a part of it is that of Pillow's image of that size
    whole = _noise(*shape).resize(resized[::-1], Image.Resampling.BICUBIC)
    with global_randomness(0, "augment", 0, 0):
        expected = RandomCrop(size)(whole)
    assert transform.pixels(_noise(*shape), view=0, position=0).permute(1, 2, 0).numpy().tobytes() == expected.tobytes()


@pytest.mark.parametrize(("size", "padding"), [((16, 16), (2, 2)), ((8, 24), (1, 3)), ((4, 4), (1, 1))])
def test_pad_random_crop_pads_an_eighth_with_black(size: tuple[int, int], padding: tuple[int, int]) -> None:
    transform = _training(size, crop="pad-random-crop", flip=False)
    found = _windows(transform, _coordinates(*size), size, padding)
    assert found == set(np.ndindex(2 * padding[0] + 1, 2 * padding[1] + 1))


def test_random_resized_crop_shows_parts_of_the_area_asked_for() -> None:
    transform = _training((50, 50), crop_area=(0.2, 0.4), flip=False, interpolation="nearest")
    image = _coordinates(200, 200)
    shares, shapes = [], []
    for position in range(200):
        red, green, _ = transform(image, view=0, position=position) * 255
        height, width = (float(channel.max() - channel.min()) * 50 / 49 for channel in (red, green))
        shares.append(height * width / 200**2)
        shapes.append(width / height)
    # sides are found to about two of at least 77 px
    assert 0.2 * 0.93 < min(shares) < 0.22
    assert 0.38 < max(shares) < 0.4 * 1.07
    assert 3 / 4 * 0.93 < min(shapes) < 0.8
    assert 1.25 < max(shapes) < 4 / 3 * 1.07


def test_random_resized_crop_of_the_whole_area_is_the_whole_image() -> None:
    image = _noise(32, 32)
    whole = _training(crop="none", flip=False)(image, view=0, position=0)
    transform = _training(crop_area=(1.0, 1.0), flip=False)
    for position in range(10):
        assert torch.equal(transform(image, view=0, position=position), whole)


def test_an_unknown_crop_is_an_error() -> None:
    with pytest.raises(SettingError, match="crop is 'random-resize-crop'.*Did you mean 'random-resized-crop'"):
        _training(crop="random-resize-crop")


@pytest.mark.parametrize(
    ("crop", "crop_area", "size", "expected"),
    [
        ("none", (0.01, 1.0), (16, 16), 32),  # twice the target; no part is cut out of it
        ("none", (1.0, 1.0), (12, 24), 48),  # of the longer side
        ("pad-random-crop", (0.01, 1.0), (16, 16), 32),  # what is added is black
        ("resize-random-crop", (0.01, 1.0), (384, 384), 896),  # twice 448
        ("resize-random-crop", (1.0, 1.0), (24, 12), 56),  # twice 28
        ("resize-small-random-crop", (0.01, 1.0), (384, 384), 896),
        ("random-resized-crop", (1.0, 1.0), (16, 16), 32),
        ("random-resized-crop", (0.5, 1.0), (384, 224), 768),
    ],
)
def test_least_side(crop: str, crop_area: tuple[float, float], size: tuple[int, int], expected: int) -> None:
    assert _training(size, crop=crop, crop_area=crop_area).least_side == expected


@pytest.mark.parametrize("least_area", [1.0, 0.5, 0.3, 0.2, 0.05])
def test_least_side__no_part_that_is_cut_out_is_enlarged(least_area: float) -> None:
    least_side = _training((48, 48), crop_area=(least_area, 1.0)).least_side
    image = Image.new("RGB", (least_side, least_side))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        drawn = [RandomResizedCrop.get_params(image, [least_area, least_area], [3 / 4, 4 / 3]) for _ in range(500)]
    assert min(min(height, width) for _, _, height, width in drawn) >= 48


@pytest.mark.parametrize("size", [(16, 16), (12, 24), (24, 12)])
@pytest.mark.parametrize("shape", [(8, 200), (200, 8), (9, 333), (7, 128)])
def test_evaluation__the_far_ends_of_a_strip_make_no_difference(size: tuple[int, int], shape: tuple[int, int]) -> None:
    preprocessing = _preprocessing(size)
    rows, columns = np.mgrid[: shape[0], : shape[1]]
    waves = 0.5 + 0.5 * np.cos((rows + columns) * np.pi / (2 * min(shape)))  # four short sides long
    image = Image.fromarray(np.rint(255 * waves).astype(np.uint8)).convert("RGB")
    in_full = create_transform(**preprocessing.data_config(), is_training=False)(image)
    # the middle of a strip of a whole number of pixels may be found half a pixel beside that of its part
    assert (EvaluationTransform(preprocessing)(image) - in_full).abs().max() < 0.05


@pytest.mark.parametrize("is_training", [False, True])
def test_a_strip_of_one_pixel_takes_no_gigabytes(is_training: bool) -> None:
    peaks = []
    resize = Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], *args: object, **kwargs: object) -> Image.Image:
        peaks.append(size[0] * size[1])
        return resize(image, size, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image.Image, "resize", noted)
        strip, preprocessing = Image.new("RGB", (20_000, 1), "red"), _preprocessing((384, 384))
        if is_training:
            tensor = _training((384, 384), crop="resize-small-random-crop")(strip, view=0, position=0)
        else:
            tensor = EvaluationTransform(preprocessing)(strip)
    assert tensor[:, 0, 0].tolist() == [1, 0, 0]
    assert max(peaks) <= 448 * 448 * 18
