"""Resizing along one axis as a matrix product: the weights of Pillow's resize, computed from the two lengths.

Two such products resize an image, so a graph needs no Resize operator, which several runtimes get wrong.

Letters: N pixels in, M pixels out that are computed.

Sources: the kernels and the window are those of Pillow's ``src/libImaging/Resample.c``, which torch's
``interpolate(antialias=True)`` follows for ``bilinear`` and ``bicubic`` (Keys, IEEE TASSP 29, 1981, with
a = -0.5). Unlike there, the positions are whole numbers up to one division, so no window depends on rounding.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from vitctl.errors import check_choice

_HAMMING = (0.5400000214576721, 0.46000000834465027)  # 0.54 and 0.46 in single precision, as Pillow has them


def _bilinear(x: Tensor) -> Tensor:
    return (1 - x.abs()).clamp(min=0)


def _hamming(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 1, _sinc(x) * (_HAMMING[0] + _HAMMING[1] * torch.cos(math.pi * x)), 0.0)


def _bicubic(x: Tensor) -> Tensor:
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(x: Tensor) -> Tensor:
    return torch.where(x.abs() < 3, _sinc(x) * _sinc(x / 3), 0.0)


def _sinc(x: Tensor) -> Tensor:
    radians = math.pi * torch.where(x == 0, 1.0, x)
    return torch.where(x == 0, 1.0, torch.sin(radians) / radians)


KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "bilinear": _bilinear,
    "hamming": _hamming,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
}
"""Weight of a pixel by its distance, in pixels of the input or, when shrinking, of the output; timm's names.

``box`` and ``nearest`` are left out: which pixel they take is decided by how Pillow's own arithmetic rounds."""


def interpolation_matrix(
    num_in: int,
    num_out: int | Tensor,
    *,
    first: int | Tensor = 0,
    count: int | None = None,
    margin: int = 0,
    kernel: str = "bicubic",
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
) -> Tensor:
    """Return the weights that resize ``num_in`` pixels to ``num_out``, antialiased as Pillow does it.

    Lengths may be symbolic (``torch.export``); what is computed does not depend on which they are.

    Args:
        num_in: Pixels that are resized, > 0.
        num_out: Pixels that come out of the whole resize, > 0; a scalar int64 tensor if it is computed as one.
        first: First of them that is wanted, from 0; likewise.
        count: M, how many are wanted; by default all, which takes a ``num_out`` that is no tensor.
        margin: Pixels before and as many after those that are resized, which are not looked at.
        kernel: One of ``KERNELS``.
        dtype: Precision of the computation and of the result.
        device: Where the matrix is made.

    Returns:
        (M, N) with N = ``margin`` + ``num_in`` + ``margin``; each row sums to 1. Equal lengths give the identity.

    Raises:
        SettingError: An unknown kernel.
        ValueError: ``num_out`` is a tensor, and there is no ``count``.
    """
    check_choice(kernel, KERNELS, what="the interpolation")
    if count is None:
        if isinstance(num_out, Tensor):
            raise ValueError("count is needed where num_out is a tensor")
        count = num_out
    inputs = torch.arange(num_in + 2 * margin, device=device) - margin
    outputs = (torch.arange(count, device=device) + first).unsqueeze(1)
    distance = (2 * inputs + 1) * num_out - (2 * outputs + 1) * num_in  # 2 num_in num_out times that on an axis 0-1
    weights = KERNELS[kernel](distance.to(dtype) / (2 * _larger(num_in, num_out)))
    weights = torch.where((inputs >= 0) & (inputs < num_in), weights, 0.0)
    return weights / weights.sum(dim=1, keepdim=True)


def _larger(num_in: int, num_out: int | Tensor) -> int | Tensor:
    if isinstance(num_out, Tensor):
        return num_out.clamp(min=num_in)
    larger: int = torch.sym_max(num_in, num_out)  # type: ignore[no-untyped-call]
    return larger


def fixed_point_halves(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``weights`` as Pillow uses them for 8-bit images, rounded to 22 binary digits, in two exact summands.

    A product of a pixel 0-255 and the weight takes more digits than a float32 has, one of a pixel and a summand
    does not; the summands have 11 digits, which is what TF32 keeps as well.

    Args:
        weights: (M, N) float64, absolute values below 2.

    Returns:
        Two (M, N) float32: multiples of 2**-10, and multiples of 2**-22 up to 2**-11 in absolute value.
    """
    fixed = torch.floor(weights.abs() * 2**22 + 0.5) * torch.sign(weights)
    coarse = torch.floor(fixed / 2**12 + 0.5)
    fine = fixed - coarse * 2**12
    return coarse.float() / 2**10, fine.float() / 2**22
