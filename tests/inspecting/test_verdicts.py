from typing import Any

import numpy as np
import pytest

from vitctl.inspecting.findings import Findings
from vitctl.inspecting.verdicts import judge


def found(arrays: dict[str, Any] | None = None, **facts: Any) -> Findings:
    held = {name: np.asarray(array) for name, array in (arrays or {}).items()}
    return Findings(held, dict.fromkeys(held, "an array"), facts, (), ())


def holds(analysis: str, model: Findings, control: Findings | None = None) -> list[bool | None]:
    return [verdict.holds for verdict in judge(analysis, model, control)]


def test_position_embeddings_must_peak_at_themselves_and_fall_unlike_random_ones() -> None:
    learnt = found(peak_is_self=1.0, correlation_with_distance=0.5, row_column_excess=0.2)
    random = found(peak_is_self=1.0, correlation_with_distance=0.01, row_column_excess=0.0)
    assert holds("pos-embed", learnt, random) == [True, True, True]
    assert holds("pos-embed", random, random) == [True, False, None]
    near = found(peak_is_self=1.0, correlation_with_distance=0.3, row_column_excess=0.0)
    assert holds("pos-embed", learnt, near) == [True, False, True]
    blurred = found(peak_is_self=0.5, correlation_with_distance=0.5, row_column_excess=-0.1)
    assert holds("pos-embed", blurred, random) == [False, True, False]


def test_without_a_control_what_needs_it_cannot_be_said() -> None:
    learnt = found(peak_is_self=1.0, correlation_with_distance=0.5, row_column_excess=0.2)
    assert holds("pos-embed", learnt) == [True, None, None]
    verdict = judge("pos-embed", learnt, None)[1]
    assert verdict.numbers == "correlation with nearness 0.5, random weights not defined"


def test_filters_must_be_fewer_and_smoother_than_random_ones() -> None:
    random = found(effective_rank=37.0, smoothness=-0.01)
    assert holds("filters", found(effective_rank=18.0, smoothness=0.2), random) == [True, True]
    assert holds("filters", found(effective_rank=38.0, smoothness=-0.2), random) == [False, False]
    assert holds("filters", found(effective_rank=36.9, smoothness=0.03), random) == [None, None]  # too close to say


def test_distance_reads_the_spread_of_the_ends_and_the_means_of_the_thirds() -> None:
    grows = [[10, 60], [30, 60], [50, 55], [58, 62], [70, 71], [72, 73]]
    even = found({"distance_px": np.full((6, 2), 50.1)}, uniform_px=50.0)
    first, second, third = judge("distance", found({"distance_px": grows}, uniform_px=50.0), even)
    assert (first.holds, second.holds, third.holds) == (True, True, True)
    assert first.numbers == "spread of block 0 in px 50, of the last block 1"
    assert second.numbers == "mean of the last third in px 71.5, of the first third 40"
    assert third.numbers.endswith("random weights 0.1")
    assert holds("distance", found({"distance_px": grows[::-1]}, uniform_px=50.0), even) == [False, False, True]
    assert holds("distance", even, even) == [None, None, None]


def test_cka_compares_means_beside_the_diagonal() -> None:
    apart = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    alike = np.full((3, 3), 0.99) + 0.01 * np.eye(3)
    assert holds("cka", found({"cka": apart}), found({"cka": alike})) == [True]
    assert holds("cka", found({"cka": alike}), found({"cka": apart})) == [False]
    maps = {"cka": np.ones((3, 2)), "cka_self_1": alike, "cka_self_2": apart[:2, :2]}
    pair = found(maps, kinds=["attention", "convolutions"])
    assert holds("cka", pair, found({"cka": alike})) == [True, None]  # as alike as random ones
    verdict = judge("cka", pair, None)[0]
    assert verdict.numbers == "mean CKA between layers 0.99, of the CNN 0.5"
    assert judge("cka", found(maps, kinds=["attention", "attention"]), None) == []


def test_a_constant_layer_is_left_out_of_the_mean() -> None:
    holey = np.full((3, 3), 0.5)
    holey[0] = holey[:, 0] = np.nan
    assert "of these 0.5" in judge("cka", found({"cka": holey}), found({"cka": holey}))[0].numbers


def ratios(cls: list[float], patches: list[float]) -> np.ndarray:
    """(L, 2, 2): the same for attention and MLP."""
    return np.stack([np.stack([[a, b], [a, b]]) for a, b in zip(cls, patches, strict=True)])


def test_norm_ratio_wants_the_class_token_early_and_the_patches_late() -> None:
    paper = found({"ratio": ratios([9, 8, 2, 1], [1, 2, 8, 9])}, has_class_token=True)
    control = found({"ratio": ratios([1, 1, 2, 2], [9, 9, 9, 9])}, has_class_token=True)
    assert holds("norm-ratio", paper, control) == [True, True]
    first, second = judge("norm-ratio", paper, control)
    assert first.numbers == (
        "mean ratio of the first half 8.5, mean ratio of the second half 1.5, random weights 1 and 2"
    )
    assert second.numbers.startswith("mean ratio of the second half 8.5, mean ratio of the first half 1.5")
    assert second.numbers.endswith("random weights 9 and 9")
    assert holds("norm-ratio", found({"ratio": ratios([1, 2, 8, 9], [9, 8, 2, 1])}, has_class_token=True)) == [
        False,
        False,
    ]
    odd = found({"ratio": ratios([9, 9, 0, 1, 1], [1, 1, 99, 9, 9])}, has_class_token=True)  # the middle is in neither
    assert [verdict.numbers for verdict in judge("norm-ratio", odd, None)] == [
        "mean ratio of the first half 9, mean ratio of the second half 1",
        "mean ratio of the second half 9, mean ratio of the first half 1",
    ]
    assert holds("norm-ratio", found({"ratio": np.ones((4, 1, 1))}, has_class_token=False)) == []


def test_receptive_field_is_measured_after_blocks_not_at_the_embedding() -> None:
    layers = ["embed", "0", "1"]
    assert holds("receptive-field", found({"layers": layers, "extent_px": [1.0, 9.0, 8.0]})) == [False]
    assert holds("receptive-field", found({"layers": layers, "extent_px": [1.0, 8.0, 9.0]})) == [True]
    assert holds("receptive-field", found({"layers": ["0"], "extent_px": [8.0]})) == []


def test_probe_reads_the_models_own_pooling() -> None:
    arrays: dict[str, Any] = {
        "accuracy": [[0.9, 0.2], [0.1, 0.6]],
        "pools": ["mean", "native"],
        "layers": ["0", "final"],
    }
    random = found({"accuracy": [[0.9, 0.3], [0.9, 0.4]], "pools": ["mean", "native"], "layers": ["0", "final"]})
    assert holds("probe", found(arrays), random) == [True, True]
    assert judge("probe", found(arrays), random)[1].numbers == "last layer 0.6, random weights 0.4"
    assert holds("probe", found(arrays, interval_half_width=0.3), random) == [True, None]


def test_equivariance_ignores_layers_without_neighbours() -> None:
    arrays = {"neighbour_similarity": [0.9, np.nan], "random_similarity": [0.1, np.nan]}
    assert holds("equivariance", found(arrays, batch_invariance_eval=1e-7)) == [True, True]
    assert holds("equivariance", found(arrays, batch_invariance_eval=0.1)) == [True, False]


def test_localisation_is_held_against_chance() -> None:
    assert holds("localisation", found(argmax_accuracy=0.4, chance=0.1)) == [True]
    assert holds("localisation", found(argmax_accuracy=0.12, chance=0.1)) == [False]
    assert holds("localisation", found(argmax_accuracy=1.0, chance=1.0)) == []


@pytest.mark.parametrize("analysis", ["attention", "rollout", "features", "heads-vs-cnn"])
def test_pictures_are_not_judged(analysis: str) -> None:
    assert judge(analysis, found(), None) == []
