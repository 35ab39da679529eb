"""From an RGB image to the tensor a model sees: one object for evaluation, a random one for training.

Letters: H W px.
"""

import math
from collections.abc import Callable
from typing import Any

from PIL import Image
from torch import Tensor

from vitctl.data.augmentation import OFF, Augmentation, Augmenter
from vitctl.data.pixels import levels_of, normalised
from vitctl.errors import check_choice
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import global_randomness
from vitctl.settings.words import CROPS

with compiler_later():
    from timm.data import create_transform
    from timm.data.transforms import ResizeKeepRatio, str_to_interp_mode
    from torchvision import transforms

MAX_ASPECT = 16  # a centre crop of timm's never shows more than the model's own aspect, with room for rectangles


ImageTransform = Callable[[Image.Image], Tensor]
"""From an RGB image to the (3, H, W) float32 tensor that a model sees, always the same."""


class EvaluationTransform:
    """RGB image to (3, H, W) float32, the same for every caller."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        timms = create_transform(**preprocessing.data_config(), is_training=False, normalize=False)
        self._shown_part = transforms.Compose(timms.transforms[:-1])  # the last makes a tensor
        self._preprocessing = preprocessing

    @property
    def max_value(self) -> int | None:
        """How images of 16 bits are to become RGB before: see ``vitctl.data.images.to_rgb``."""
        return self._preprocessing.max_value

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the (3, H, W) float32 tensor of ``image``."""
        return self.finished(self.pixels(image))

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the (3, H, W) uint8 levels of the part of ``image`` that is shown."""
        is_centred = self._preprocessing.crop_mode == "center"
        return levels_of(self._shown_part(without_far_ends(image) if is_centred else image))

    def finished(self, pixels: Tensor) -> Tensor:
        """Return (..., 3, H, W) uint8 ``pixels``, on any device, as float32."""
        return normalised(pixels, self._preprocessing.mean, self._preprocessing.std)


def without_far_ends(image: Image.Image) -> Image.Image:
    """Return ``image``, of one much longer than wide its middle part, which holds all that a centre crop can show.

    Before the crop the short side is resized to the model's size: a strip of 20,000 x 1 px would take gigabytes.
    """
    width, height = image.size
    longest = MAX_ASPECT * min(width, height)
    if max(width, height) <= longest:
        return image
    left, top = max(0, (width - longest) // 2), max(0, (height - longest) // 2)
    return image.crop((left, top, width - left, height - top))


class TrainingTransform:
    """RGB image to (3, H, W) float32 with random cropping, flipping and what else is asked for.

    The randomness is keyed by (seed, view, image), so it does not depend on which worker process handles an
    image, nor on what was drawn before.

    Args:
        preprocessing: Size, interpolation, mean and std; its crop is for evaluation only.
        crop: ``random-resized-crop`` (Inception: a random part of the image, by area, aspect 3/4 to 4/3),
            ``resize-random-crop`` (BiT, arXiv 1912.11370: squash to 7/6 of the size, cut out a random part),
            ``resize-small-random-crop`` (big_vision ``configs/transfer.py``, ``resmall_crop``: resize to cover 7/6 of
            the size, aspect kept, cut out a random part; of a strip longer than 16 times its width the middle),
            ``pad-random-crop`` (CIFAR: resize, pad by an eighth, cut out a random part), ``none`` (squash).
        crop_area: (least, most) fraction of the area, for ``random-resized-crop``.
        flip: Mirror half of the images left to right.
        seed: The run's seed.
        augmentation: What follows at the size of the model.
    """

    def __init__(
        self,
        preprocessing: Preprocessing,
        *,
        crop: str,
        crop_area: tuple[float, float],
        flip: bool,
        seed: int,
        augmentation: Augmentation = OFF,
    ) -> None:
        check_choice(crop, CROPS, what="crop")
        size = preprocessing.image_size
        larger = (round(size[0] * 7 / 6), round(size[1] * 7 / 6))  # 448 px for 384
        mode = str_to_interp_mode(preprocessing.interpolation)
        squash = transforms.Resize(size, interpolation=mode)
        steps: list[Any]
        if crop == "random-resized-crop":
            steps = [transforms.RandomResizedCrop(size, scale=crop_area, interpolation=mode)]
        elif crop == "resize-random-crop":
            steps = [transforms.Resize(larger, interpolation=mode), transforms.RandomCrop(size)]
        elif crop == "resize-small-random-crop":
            cover = ResizeKeepRatio(larger, interpolation=preprocessing.interpolation)
            steps = [without_far_ends, cover, transforms.RandomCrop(size)]
        elif crop == "pad-random-crop":
            padding = [max(1, size[1] // 8), max(1, size[0] // 8)]
            steps = [squash, transforms.RandomCrop(size, padding=padding)]
        else:
            steps = [squash]
        if flip:
            steps.append(transforms.RandomHorizontalFlip())
        self._shown_part = transforms.Compose(steps)
        self._preprocessing, self._seed = preprocessing, seed
        self._augmenter = Augmenter(
            augmentation,
            image_size=size,
            interpolation=preprocessing.interpolation,
            mean=preprocessing.mean,
            std=preprocessing.std,
        )
        narrowest = 3 / 4  # torchvision's RandomResizedCrop cuts out parts of aspect 3/4 to 4/3
        smallest_crop = math.sqrt(narrowest * crop_area[0]) if crop == "random-resized-crop" else 1.0
        resized = larger if crop in ("resize-random-crop", "resize-small-random-crop") else size
        self.least_side = math.ceil(max(resized) * max(2, 1 / smallest_crop))
        """px: a JPEG may be decoded at a fraction of its size that leaves both sides this long, twice the target's
        and enough that no crop is enlarged for it."""

    @property
    def max_value(self) -> int | None:
        """How images of 16 bits are to become RGB before: see ``vitctl.data.images.to_rgb``."""
        return self._preprocessing.max_value

    def __call__(self, image: Image.Image, *, view: int, position: int) -> Tensor:
        """Return the (3, H, W) float32 tensor of ``image`` at its ``view``-th showing, from 0."""
        return self.finished(self.pixels(image, view=view, position=position))

    def pixels(self, image: Image.Image, *, view: int, position: int) -> Tensor:
        """Return the (3, H, W) uint8 levels of the part of ``image`` that is shown at its ``view``-th showing."""
        with global_randomness(self._seed, "augment", view, position):
            shown = self._augmenter.drawn_on(self._shown_part(image))
            return self._augmenter.erased(levels_of(shown))

    def finished(self, pixels: Tensor) -> Tensor:
        """Return (..., 3, H, W) uint8 ``pixels``, on any device, as float32."""
        return normalised(pixels, self._preprocessing.mean, self._preprocessing.std)


class UnvaryingTransform:
    """A training transform that draws nothing, as one that shows every image in one way: its first view is all views.

    Args:
        transform: Without a crop, flip or anything else that is random.
    """

    def __init__(self, transform: TrainingTransform) -> None:
        self._transform = transform
        self.least_side, self.max_value = transform.least_side, transform.max_value

    def pixels(self, image: Image.Image) -> Tensor:
        """Return the (3, H, W) uint8 levels of ``image``."""
        return self._transform.pixels(image, view=0, position=0)

    def finished(self, pixels: Tensor) -> Tensor:
        """Return (..., 3, H, W) uint8 ``pixels``, on any device, as float32."""
        return self._transform.finished(pixels)
