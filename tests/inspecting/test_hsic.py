"""Unbiased HSIC and CKA against Song's formula in a float64 loop, invariances, other estimators and another package."""

import math

import numpy as np
import pytest
import torch
from cka import cka_from_features
from torch import Tensor

from vitctl.inspecting.hsic import CkaSums, Spread, gram_matrix, pair_vectors, u_centred, unbiased_hsic


def _features(num_images: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_images, width, generator=generator, dtype=torch.float64)


def _related(features: Tensor, width: int, seed: int = 7) -> Tensor:
    """Return a nonlinear function of the features, so that CKA is neither 0 nor 1."""
    return (features @ _features(features.shape[1], width, seed)).tanh() + 0.3 * _features(len(features), width, 8)


def _cka(first: Tensor, second: Tensor) -> float:
    vectors = [pair_vectors(gram_matrix(features))[None] for features in (first, second)]
    sums = CkaSums()
    sums.add(vectors[0], vectors[1], num_images=len(first))
    return float(sums.cka[0, 0])


def _hsic_by_song(first: np.ndarray, second: np.ndarray) -> float:
    """Return Song's equation 4 as it is written: (tr(KL) + 1'K1 1'L1 / ... - 2 / (n - 2) 1'KL1) / n (n - 3)."""
    num_images = len(first)
    one, other = first @ first.T, second @ second.T
    np.fill_diagonal(one, 0.0)
    np.fill_diagonal(other, 0.0)
    ones = np.ones(num_images)
    middle = (ones @ one @ ones) * (ones @ other @ ones) / ((num_images - 1) * (num_images - 2))
    last = 2 / (num_images - 2) * (ones @ one @ other @ ones)
    return float((np.trace(one @ other) + middle - last) / (num_images * (num_images - 3)))


def _cka_by_song(first: Tensor, second: Tensor) -> float:
    one, other = first.double().numpy(), second.double().numpy()
    return _hsic_by_song(one, other) / math.sqrt(_hsic_by_song(one, one) * _hsic_by_song(other, other))


def _biased_cka(first: Tensor, second: Tensor) -> float:
    one, other = (features - features.mean(0) for features in (first, second))
    gram, others = one @ one.T, other @ other.T
    return float((gram * others).sum() / (gram.norm() * others.norm()))


def test_hsic__is_songs() -> None:
    first = _features(20, 6)
    second = _related(first, 9)
    vectors = [pair_vectors(gram_matrix(features))[None] for features in (first, second)]
    for one, other, features in ((0, 0, (first, first)), (0, 1, (first, second)), (1, 1, (second, second))):
        expected = _hsic_by_song(features[0].numpy(), features[1].numpy())
        assert float(unbiased_hsic(vectors[one], vectors[other], num_images=20)) == pytest.approx(expected, rel=1e-11)


def test_hsic__of_four_images_by_hand() -> None:
    """On a line at 0, 0, 1, 1 the centred products off the diagonal are 1/4 within and -1/4 across the pairs."""
    vectors = pair_vectors(gram_matrix(torch.tensor([[0.0], [0.0], [1.0], [1.0]])))[None]
    # row sums -1/4, means -1/8 + 1/12 = -1/24: entries 1/4 + 1/12 = 1/3 (twice), -1/4 + 1/12 = -1/6 (four times)
    assert float(unbiased_hsic(vectors, vectors, num_images=4)) == pytest.approx(2 * (2 / 9 + 4 / 36) / 4)


def test_u_centred__has_zero_rows_and_diagonal() -> None:
    centred = u_centred(gram_matrix(_features(9, 4) + 3))
    assert float(centred.sum(dim=1).abs().max()) < 1e-12
    assert float(centred.diagonal().abs().max()) == 0


def test_cka__of_features_with_themselves_is_one() -> None:
    assert _cka(_features(16, 5), _features(16, 5)) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("change", ["orthogonal", "scale", "shift", "one feature more"])
def test_cka__does_not_change_with(change: str) -> None:
    first = _features(24, 12)
    second = _related(first, 10)
    changed = {
        "orthogonal": first @ torch.linalg.qr(_features(12, 12, 3)).Q,
        "scale": 1e-4 * first,
        "shift": first + 1000 * _features(1, 12, 4),
        "one feature more": torch.cat([first, torch.full((24, 1), 5.0, dtype=torch.float64)], dim=1),
    }[change]
    assert _cka(changed, second) == pytest.approx(_cka(first, second), abs=1e-9)
    assert 0.1 < _cka(first, second) < 0.99


def test_cka__changes_with_an_invertible_map() -> None:
    first = _features(24, 12)
    second = _related(first, 10)
    assert abs(_cka(first @ _features(12, 12, 3), second) - _cka(first, second)) > 0.02


def test_cka__of_independent_features_is_near_zero_where_the_biased_one_is_near_one() -> None:
    pairs = [(_features(16, 4096, 2 * seed), _features(16, 4096, 2 * seed + 1)) for seed in range(8)]
    assert abs(np.mean([_cka(*pair) for pair in pairs])) < 0.1
    assert min(_biased_cka(*pair) for pair in pairs) > 0.98


@pytest.mark.parametrize("offset", [10.0, 1000.0])
def test_gram_matrix__float32_features_far_from_zero_keep_their_digits(offset: float) -> None:
    first = _features(32, 300).float()
    second = _related(first.double(), 200).float()
    assert _cka(first, second) == pytest.approx(_cka_by_song(first, second), abs=1e-6)
    # the offset rounds the features; what is left is compared with float64 arithmetic on the same numbers
    rounded = (first + offset).double() - offset
    assert _cka(first + offset, second) == pytest.approx(_cka_by_song(rounded, second), abs=1e-6)
    assert _cka(first + offset, second) == pytest.approx(_cka(first, second), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gram_matrix__half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    features = (_features(8, 5000) + 20).to(dtype)
    centred = features.double() - features.double().mean(0)
    assert torch.allclose(gram_matrix(features), centred @ centred.T, rtol=1e-4, atol=1e-2)


def test_gram_matrix__many_features_are_taken_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    features = _features(6, 1001).expand(3, 6, 1001).float()
    whole = gram_matrix(features)
    monkeypatch.setattr("vitctl.inspecting.hsic._CHUNK_BYTES", 4 * 18 * 100)
    assert torch.allclose(gram_matrix(features), whole, rtol=1e-5, atol=1e-3)


def test_gram_matrix__does_not_change_what_it_is_given() -> None:
    features = _features(6, 10)
    before = features.clone()
    gram_matrix(features)
    assert torch.equal(features, before)


@pytest.mark.parametrize("value", [0.0, 1.0, 1000.1, 1e-20])
def test_constant_features__have_no_cka(value: float) -> None:
    constant = torch.full((8, 50), value) * torch.arange(1, 51)
    assert float(gram_matrix(constant).abs().max()) == 0
    assert math.isnan(_cka(constant, _features(8, 5)))
    assert math.isnan(_cka(_features(8, 5), constant))


def test_features_that_vary_little__are_not_constant() -> None:
    features = _features(8, 50)
    assert _cka((1 + 1e-4 * features).float(), features) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("width", [30, 500])
def test_minibatches__numerators_and_denominators_are_summed(width: int) -> None:
    first = _features(60, width)
    second = _related(first, 40)
    sums = CkaSums()
    parts = []
    for one, other in zip(first.split(12), second.split(12), strict=True):
        sums.add(pair_vectors(gram_matrix(one))[None], pair_vectors(gram_matrix(other))[None], num_images=12)
        parts.append([_hsic_by_song(a.numpy(), b.numpy()) for a, b in ((one, other), (one, one), (other, other))])
    cross, own, others = np.sum(parts, axis=0)
    assert float(sums.cka[0, 0]) == pytest.approx(cross / math.sqrt(own * others), abs=1e-12)
    mean_of_ratios = np.mean([a / math.sqrt(b * c) for a, b, c in parts])
    assert abs(float(sums.cka[0, 0]) - mean_of_ratios) > 1e-5


def test_minibatches__agree_with_the_full_batch_where_biased_ones_do_not() -> None:
    first = _features(1536, 16)
    second = _related(first, 16)
    full = _cka_by_song(first, second)
    sums = CkaSums()
    biased = []
    for one, other in zip(first.split(16), second.split(16), strict=True):
        sums.add(pair_vectors(gram_matrix(one))[None], pair_vectors(gram_matrix(other))[None], num_images=16)
        biased.append(_biased_cka(one, other))
    assert float(sums.cka[0, 0]) == pytest.approx(full, abs=0.02)
    assert np.mean(biased) > full + 0.1


def test_agrees_with_pytorch_cka() -> None:
    first = [_features(40, width, width).float() for width in (10, 300)]
    second = [_related(first[0].double(), 20).float(), _related(first[1].double(), 50).float(), first[1]]
    sums = CkaSums()
    vectors = [torch.stack([pair_vectors(gram_matrix(one)) for one in each]) for each in (first, second)]
    sums.add(*vectors, num_images=40)
    assert np.allclose(sums.cka.clip(0, 1), cka_from_features(first, second).numpy(), atol=1e-4)


def test_paired__is_the_diagonal() -> None:
    vectors = torch.stack([pair_vectors(gram_matrix(_features(10, 4, seed))) for seed in range(3)])
    others = torch.stack([pair_vectors(gram_matrix(_related(_features(10, 4, seed), 6))) for seed in range(3)])
    every, paired = CkaSums(), CkaSums(is_paired=True)
    for sums in (every, paired):
        sums.add(vectors, others, num_images=10)
    assert np.allclose(paired.cka, every.cka.diagonal(), atol=1e-12)


def test_pair_vectors__of_features_side_by_side_are_the_sum() -> None:
    first, second = _features(10, 4), _features(10, 6, 1)
    together = pair_vectors(gram_matrix(torch.cat([first, second], dim=1)))
    assert torch.allclose(together, pair_vectors(gram_matrix(first)) + pair_vectors(gram_matrix(second)), atol=1e-12)


def test_spread__is_numpys_standard_deviation_without_nan() -> None:
    values = _features(7, 3).numpy()
    values[2, 1] = np.nan
    values[:, 2] = np.nan
    spread = Spread()
    for row in values:
        spread.add(row)
    assert spread.deviation[:2] == pytest.approx([values[:, 0].std(ddof=1), np.nanstd(values[:, 1], ddof=1)])
    assert math.isnan(spread.deviation[2])


def test_spread__of_one_minibatch_is_not_defined() -> None:
    spread = Spread()
    spread.add(np.ones(2))
    assert np.isnan(spread.deviation).all()
