"""The weights of a resize: worked by hand, equal to torch's antialiased resize and to Pillow's."""

from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from vitctl.errors import SettingError
from vitctl.primitives.interpolation import KERNELS, fixed_point_halves, interpolation_matrix

LENGTHS = [(4, 9), (9, 4), (7, 7), (1, 5), (5, 1), (14, 24), (24, 14), (32, 16), (100, 33), (3, 64), (211, 10)]
PILLOW = {
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def test_bilinear__to_half_the_length_by_hand() -> None:
    matrix = interpolation_matrix(4, 2, kernel="bilinear")
    expected = torch.tensor([[3.0, 3.0, 1.0, 0.0], [0.0, 1.0, 3.0, 3.0]]) / 7  # 1/4, 1/4, 3/4 and 5/4 of a pixel away
    torch.testing.assert_close(matrix, expected, rtol=0, atol=1e-7)


def test_bicubic__to_twice_the_length_by_hand() -> None:
    row = interpolation_matrix(8, 16)[7]  # its centre is 1/4 of a pixel after that of pixel 3
    taps = torch.tensor([-0.0703125, 0.8671875, 0.2265625, -0.0234375])  # Keys, a = -0.5, at 5/4, 1/4, 3/4, 7/4
    torch.testing.assert_close(row, torch.cat([torch.zeros(2), taps, torch.zeros(2)]), rtol=0, atol=1e-7)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize(("num_in", "num_out"), LENGTHS)
def test_equals_torchs_antialiased_resize(num_in: int, num_out: int, kernel: str) -> None:
    pixels = torch.eye(num_in)[None, None]  # one column of weights per pixel
    expected = F.interpolate(pixels, size=(num_out, num_in), mode=kernel, antialias=True)[0, 0]
    torch.testing.assert_close(interpolation_matrix(num_in, num_out, kernel=kernel), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("num_in", "num_out"), LENGTHS)
def test_equals_pillow(num_in: int, num_out: int, kernel: str) -> None:
    resized = Image.fromarray(np.eye(num_in, dtype=np.float32)).resize((num_in, num_out), PILLOW[kernel])
    matrix = interpolation_matrix(num_in, num_out, kernel=kernel, dtype=torch.float64)
    np.testing.assert_allclose(matrix.numpy(), np.asarray(resized), rtol=0, atol=1e-7)


def test_every_kernel_is_compared_with_pillow() -> None:
    assert set(PILLOW) == set(KERNELS)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize("length", [1, 2, 14, 37])
def test_the_same_length__is_the_identity_bit_for_bit(length: int, kernel: str) -> None:
    assert torch.equal(interpolation_matrix(length, length, kernel=kernel), torch.eye(length))


@pytest.mark.parametrize(("num_in", "num_out"), [(24, 14), (5, 16)])
def test_first_and_count__are_rows_of_the_whole(num_in: int, num_out: int) -> None:
    whole = interpolation_matrix(num_in, num_out)
    assert torch.equal(interpolation_matrix(num_in, num_out, first=3, count=7), whole[3:10])


def test_margin__is_not_looked_at() -> None:
    matrix = interpolation_matrix(9, 4, margin=5)
    torch.testing.assert_close(matrix, F.pad(interpolation_matrix(9, 4), (5, 5)), rtol=0, atol=1e-7)
    assert not matrix[:, :5].any()
    assert not matrix[:, -5:].any()


@pytest.mark.parametrize(("num_in", "num_out"), [(24, 14), (5, 16)])
def test_lengths_as_tensors__give_the_same(num_in: int, num_out: int) -> None:
    matrix = interpolation_matrix(num_in, torch.tensor(num_out), first=torch.tensor(2), count=6)
    assert torch.equal(matrix, interpolation_matrix(num_in, num_out, first=2, count=6))


def test_a_length_as_a_tensor__needs_a_count() -> None:
    with pytest.raises(ValueError, match="count is needed"):
        interpolation_matrix(4, torch.tensor(2))


def test_an_unknown_kernel__is_refused() -> None:
    with pytest.raises(SettingError, match="the interpolation is 'cubic'.*Did you mean 'bicubic'"):
        interpolation_matrix(4, 2, kernel="cubic")


def _pillows_rounding(weight: float) -> int:
    """Return the weight in units of 2**-22, halves away from zero."""
    scaled = abs(Fraction(weight)) * 2**22
    return int(scaled + Fraction(1, 2)) * (1 if weight >= 0 else -1)


def _weights() -> Tensor:
    drawn = torch.rand(6, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2.6 - 1.3
    halves = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 2**22, 0.0, 2**21 + 0.5, 3.25]], dtype=torch.float64)
    return torch.cat([drawn, F.pad(halves / 2**22, (0, 40))])


def test_fixed_point_halves__add_up_to_the_weight_in_22_digits() -> None:
    weights = _weights()
    coarse, fine = fixed_point_halves(weights)
    total = (coarse.double() + fine.double()) * 2**22
    expected = [[_pillows_rounding(weight) for weight in row] for row in weights.tolist()]
    assert total.long().tolist() == expected
    assert torch.equal(total, total.round())


def test_fixed_point_halves__have_eleven_digits_each() -> None:
    coarse, fine = fixed_point_halves(_weights())
    for half, unit in ((coarse, 2.0**-10), (fine, 2.0**-22)):
        assert half.dtype == torch.float32
        whole = half.double() / unit
        assert torch.equal(whole, whole.round())
        assert whole.abs().max() <= 2**11
