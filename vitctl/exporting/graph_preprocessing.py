"""The evaluation transform as part of a model: uint8 images of any size in, what the model sees out.

Resize, crop and normalise are arithmetic on tensors alone, so ``torch.export`` and ONNX carry them along. The resize
is matrix products along the width and along the height, each rounded to whole levels, as Pillow does it; the weights
are Pillow's fixed-point numbers, so no sum is rounded differently. Only the rows and columns inside the crop are made.

Letters: B images; H W px of the image, h w px that the model takes.
"""

import math

import PIL
import torch
from torch import Tensor, nn

from vitctl.data.transforms import MAX_ASPECT
from vitctl.errors import ModelError
from vitctl.primitives.interpolation import KERNELS, fixed_point_halves, interpolation_matrix
from vitctl.primitives.preprocessing import Preprocessing

CROP_MODES = ("center", "squash")
HEIGHT_MAY_BE_FIRST = int(PIL.__version__.partition(".")[0]) >= 13
"""Whether the installed Pillow resizes the height before the width where the height loses more than twice as many
pixels (Pillow 13: ``ImagingResampleInner`` in ``Resample.c``). Which pass is first shows, by up to tens of levels,
where bicubic overshoots black or white; a graph then holds both orders and takes the one that Pillow would."""


def check_embeddable(preprocessing: Preprocessing, *, name: str) -> None:
    """Check that ``GraphPreprocessing`` can do what ``preprocessing`` says.

    Args:
        preprocessing: What the model expects of an image.
        name: The model's name, for messages.

    Raises:
        ModelError: It cannot; the sentence says which part.
    """
    for found, embeddable, what in (
        (preprocessing.crop_mode, CROP_MODES, "crop mode"),
        (preprocessing.interpolation, tuple(KERNELS), "interpolation"),
    ):
        if found not in embeddable:
            raise ModelError(
                f"{name} is preprocessed with {what} {found!r}; expected {' or '.join(embeddable)}, which a graph can "
                "hold. Leave out --embed-preprocess and preprocess outside."
            )
    if not 0 < preprocessing.crop_pct <= 1:
        raise ModelError(
            f"{name} is preprocessed with crop_pct {preprocessing.crop_pct}, which pads; expected one above 0 and at "
            "most 1. Leave out --embed-preprocess and preprocess outside."
        )


class GraphPreprocessing(nn.Module):
    """uint8 images to what the model sees: ``vitctl.data.transforms.EvaluationTransform`` within one level of 255.

    bicubic and bilinear are equal to the installed Pillow in every level. All images of a batch have one size, any
    size from 1 x 1 px. What comes before an RGB array (decoding, EXIF rotation, greyscale, alpha) stays outside.

    Args:
        preprocessing: What the model expects of an image.
        name: The model's name, for messages.

    Raises:
        ModelError: It cannot be embedded (``check_embeddable``).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, preprocessing: Preprocessing, *, name: str = "the model") -> None:
        super().__init__()
        check_embeddable(preprocessing, name=name)
        height, width = preprocessing.image_size
        self._size = (height, width)
        self._scale = (math.floor(height / preprocessing.crop_pct), math.floor(width / preprocessing.crop_pct))
        self._kernel = preprocessing.interpolation
        self._is_centred = preprocessing.crop_mode == "center"
        self.register_buffer("mean", torch.tensor(preprocessing.mean).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(preprocessing.std).view(3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return (B, 3, h, w) float32, normalised, of (B, H, W, 3) uint8."""
        return (self.levels(images) / 255 - self.mean) / self.std

    def levels(self, images: Tensor) -> Tensor:
        """Return the resized and cropped (B, 3, h, w) float32, whole levels 0-255, of (B, H, W, 3) uint8."""
        height, width = images.shape[1:3]
        shorter = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
        rows, columns = self._far_end(height, shorter), self._far_end(width, shorter)
        height, width = height - 2 * rows, width - 2 * columns
        new_height, new_width = self._resized_size(height, width)
        down = self._weights(height, new_height, self._size[0], margin=rows, device=images.device)
        across = self._weights(width, new_width, self._size[1], margin=columns, device=images.device)
        pixels = images.permute(0, 3, 1, 2).float()
        width_first = _resize_height(_resize_width(pixels, across), down)
        if not HEIGHT_MAY_BE_FIRST:
            return width_first
        height_first = _resize_width(_resize_height(pixels, down), across)
        lost_rows, lost_columns = torch.full((), height) - new_height, torch.full((), width) - new_width
        return torch.where((lost_rows > 0) & (lost_rows > 2 * lost_columns), height_first, width_first)

    def _far_end(self, length: int, shorter: int) -> int:
        """Return the pixels at either end of a side that a centre crop never shows, as EvaluationTransform has it."""
        if not self._is_centred:
            return 0
        end: int = torch.sym_max(0, (length - MAX_ASPECT * shorter) // 2)  # type: ignore[no-untyped-call]
        return end

    def _resized_size(self, height: int, width: int) -> tuple[int | Tensor, int | Tensor]:
        """Return the size to which the whole image is resized, before the crop, rounded as timm rounds it."""
        if not self._is_centred:
            return self._scale
        if self._scale[0] == self._scale[1]:
            shorter = torch.sym_min(height, width)  # type: ignore[no-untyped-call]
            return self._scale[0] * height // shorter, self._scale[1] * width // shorter
        # a quotient of quotients in double precision, then half to even: ResizeKeepRatio, digit by digit
        sides = [torch.full((), side, dtype=torch.float64) for side in (height, width)]
        ratio = torch.minimum(sides[0] / self._scale[0], sides[1] / self._scale[1])
        resized_height, resized_width = (torch.round(side / ratio).long() for side in sides)
        return resized_height, resized_width

    def _weights(
        self, num_in: int, num_resized: int | Tensor, count: int, *, margin: int, device: torch.device
    ) -> tuple[Tensor, Tensor]:
        weights = interpolation_matrix(
            num_in,
            num_resized,
            first=_crop_offset(num_resized - count),
            count=count,
            margin=margin,
            kernel=self._kernel,
            dtype=torch.float64,
            device=device,
        )
        return fixed_point_halves(weights)


def _crop_offset(num_cut: int | Tensor) -> int | Tensor:
    """Return half of ``num_cut`` >= 0, halves rounded to even: torchvision's CenterCrop."""
    half = num_cut // 2
    return half + (num_cut % 2) * (half % 2)


def _resize_width(pixels: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    coarse, fine = (torch.matmul(pixels, half.transpose(0, 1)) for half in weights)
    return _to_levels(coarse, fine)


def _resize_height(pixels: Tensor, weights: tuple[Tensor, Tensor]) -> Tensor:
    coarse, fine = (torch.matmul(half, pixels) for half in weights)
    return _to_levels(coarse, fine)


def _to_levels(coarse: Tensor, fine: Tensor) -> Tensor:
    """Return the sum of two (B, 3, H, W) as whole levels 0-255, halves rounded up; nothing else is rounded."""
    whole = torch.floor(coarse)
    return (whole + torch.floor(coarse - whole + fine + 0.5)).clamp(0, 255)
