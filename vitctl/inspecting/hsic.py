"""Linear CKA from minibatches: centring, Gram matrices, U-centring, the unbiased HSIC and its sums.

CKA is HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) (arXiv 1905.00414). HSIC is estimated without bias from each minibatch
(Song et al., "Feature selection via dependence maximization", JMLR 2012, equation 4), and numerators and denominators
are summed over minibatches before they are divided (arXiv 2010.15327, equation 3).

Letters: N images in a minibatch, F features, M = N (N - 1) / 2 pairs of images, A B layers.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

LEAST_IMAGES = 4  # below, the unbiased estimator is not defined
_CHUNK_BYTES = 2**26  # of centred features at a time: a guess
_ROUNDINGS = 8  # features that vary by fewer roundings of their own size are constant: a guess


def gram_matrix(features: Tensor) -> Tensor:
    """Return the inner products of the images' features, centred over the images.

    The unbiased HSIC does not change with the features' mean, but in float32 a mean far from zero leaves no digits for
    the rest. Features that are the same for every image, up to rounding, give zeros.

    Args:
        features: (N, F), or layers of them (A, N, F), of any floating type, on any device; half precision is computed
            in float32.

    Returns:
        (N, N) or (A, N, N) float64 on the CPU.
    """
    values = features if features.dtype == torch.float64 else features.float()
    num_images = values.shape[-2]
    gram = torch.zeros(*values.shape[:-1], num_images, dtype=torch.float64)
    energy = torch.zeros(values.shape[:-2], dtype=torch.float64)
    bytes_per_feature = max(values[..., :1].numel() * values.element_size(), 1)
    for part in torch.split(values, max(_CHUNK_BYTES // bytes_per_feature, 1), dim=-1):
        centred = part - part.mean(dim=-2, keepdim=True)
        gram += (centred @ centred.mT).cpu().double()
        energy += part.square().sum(dim=(-2, -1)).cpu().double()
    rounding = (_ROUNDINGS * torch.finfo(values.dtype).eps) ** 2
    is_constant = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1) <= rounding * energy
    return gram.masked_fill(is_constant[..., None, None], 0.0)


def u_centred(gram: Tensor) -> Tensor:
    """Return Gram matrices with a zero diagonal and zero row sums, whose products give the unbiased HSIC.

    Székely and Rizzo, "Partial distance correlation with methods for dissimilarities", 2014, definition 2.

    Args:
        gram: (N, N) or (A, N, N) symmetric, N >= 4.

    Returns:
        (N, N) or (A, N, N) float64.
    """
    num_images = gram.shape[-1]
    hollow = _hollow(gram.double())
    means = hollow.sum(dim=-1) / (num_images - 2)
    means = means - means.sum(dim=-1, keepdim=True) / (2 * (num_images - 1))
    return _hollow(hollow - means[..., :, None] - means[..., None, :])


def _hollow(matrix: Tensor) -> Tensor:
    return matrix - torch.diag_embed(matrix.diagonal(dim1=-2, dim2=-1))


def pair_vectors(gram: Tensor) -> Tensor:
    """Return U-centred Gram matrices as vectors whose dot product is N (N - 3) times the unbiased HSIC.

    They are linear in the Gram matrix: that of several heads side by side is the sum of theirs.

    Args:
        gram: (N, N) or (A, N, N) symmetric, N >= 4.

    Returns:
        (M,) or (A, M) float64: what is above the diagonal, times the square root of 2.
    """
    first, second = torch.triu_indices(gram.shape[-1], gram.shape[-1], offset=1)
    return u_centred(gram)[..., first, second] * 2**0.5


def unbiased_hsic(first: Tensor, second: Tensor, *, num_images: int) -> Tensor:
    """Return the unbiased HSIC of every pair, (A, B) float64, from their pair vectors.

    Args:
        first: (A, M).
        second: (B, M).
        num_images: N.
    """
    return first @ second.mT / (num_images * (num_images - 3))


def ratio(cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return CKA, NaN where a layer does not vary (or is not finite); nothing is clamped.

    As HSIC is an inner product of pair vectors, all minibatches end to end, CKA is -1 to 1; chance makes it negative.

    Args:
        cross: HSIC between the two, any shape (A, ...).
        first: HSIC of the first with itself, of a shape that broadcasts against ``cross``.
        second: HSIC of the second with itself, likewise.
    """
    is_defined = (first > 0) & (second > 0)
    norms = np.sqrt(np.where(is_defined, first, 1.0)) * np.sqrt(np.where(is_defined, second, 1.0))
    return np.where(is_defined, cross / norms, np.nan)


@dataclass
class CkaSums:
    """HSIC between two lists of layers, summed over minibatches.

    Attributes:
        is_paired: Compares only layers of the same position.
        cross: Sum of HSIC(K, L), (A, B) float64, or (A,) if paired; None before the first minibatch.
        first: Sum of HSIC(K, K), (A,) float64.
        second: Sum of HSIC(L, L), (B,) float64.
    """

    is_paired: bool = False
    cross: np.ndarray | None = None
    first: np.ndarray = field(default_factory=lambda: np.zeros(1))
    second: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, first: Tensor, second: Tensor, *, num_images: int) -> np.ndarray:
        """Add a minibatch and return its own CKA.

        Args:
            first: Pair vectors, (A, M).
            second: Pair vectors, (B, M); the same object as ``first`` where layers are compared with themselves.
            num_images: N.

        Returns:
            (A, B) float64, or (A,) if paired.
        """
        scale = 1 / (num_images * (num_images - 3))
        if self.is_paired:
            cross = scale * (first * second).sum(dim=1).numpy()
        else:
            cross = unbiased_hsic(first, second, num_images=num_images).numpy()
        own_first = scale * first.square().sum(dim=1).numpy()
        own_second = own_first if second is first else scale * second.square().sum(dim=1).numpy()
        self.cross = cross if self.cross is None else self.cross + cross
        self.first = self.first + own_first
        self.second = self.second + own_second
        return self._ratio(cross, own_first, own_second)

    @property
    def cka(self) -> np.ndarray:
        """CKA over all minibatches, (A, B) float64, or (A,) if paired."""
        if self.cross is None:
            raise AssertionError("no minibatch was added")
        return self._ratio(self.cross, self.first, self.second)

    def _ratio(self, cross: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        return ratio(cross, first if self.is_paired else first[:, None], second)


@dataclass
class Spread:
    """Standard deviation over minibatches, one value at a time (Welford's sums); NaN values do not count."""

    count: np.ndarray = field(default_factory=lambda: np.zeros(1))
    mean: np.ndarray = field(default_factory=lambda: np.zeros(1))
    squares: np.ndarray = field(default_factory=lambda: np.zeros(1))

    def add(self, values: np.ndarray) -> None:
        """Add a minibatch's values, of the same shape (A, ...) every time."""
        is_defined = ~np.isnan(values)
        self.count = self.count + is_defined
        delta = np.where(is_defined, values, self.mean) - self.mean
        self.mean = self.mean + delta / np.maximum(self.count, 1)
        self.squares = self.squares + delta * (np.where(is_defined, values, self.mean) - self.mean)

    @property
    def deviation(self) -> np.ndarray:
        """Standard deviation (of a sample), (A, ...) float64; NaN for fewer than two minibatches."""
        return np.where(self.count > 1, np.sqrt(self.squares / np.maximum(self.count - 1, 1)), np.nan)
