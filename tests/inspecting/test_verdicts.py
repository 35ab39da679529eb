"""Verdicts on findings that were planted: trends over all layers, and what random weights show as well."""

import itertools
from typing import Any

import numpy as np
import pytest
from scipy.stats import kendalltau

from vitctl.inspecting.catalogue import catalogue
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.verdicts import (
    LEAST_LAYERS,
    NO,
    PARTLY,
    STRONG,
    UNKNOWN,
    YES,
    everywhere,
    more_than_random,
    rises,
    trend,
)
from vitctl.results.inspect_model import Verdict


def found(arrays: dict[str, Any] | None = None, **facts: Any) -> Findings:
    held = {name: np.asarray(array) for name, array in (arrays or {}).items()}
    return Findings(held, dict.fromkeys(held, "an array"), facts, (), ())


def judged(analysis: str, model: Findings, control: Findings | None = None) -> list[Verdict]:
    return catalogue()[analysis].verdicts(model, control)


def said(analysis: str, model: Findings, control: Findings | None = None) -> list[str]:
    return [verdict.verdict for verdict in judged(analysis, model, control)]


# --- trends --------------------------------------------------------------------------------------------------

FLAT = np.full(6, 5.0)
CURVES: dict[str, tuple[list[float], str]] = {
    "rises": ([1, 2, 3, 4, 5, 6], YES),
    "rises, but for two neighbours": ([1, 3, 2, 4, 5, 6], YES),
    "rises by leaps": ([1, 1.1, 1.2, 9, 90, 900], YES),
    "peaks in the middle": ([0.292, 0.438, 0.604, 0.625, 0.542, 0.458], PARTLY),
    "rises and turns at the end": ([1, 2, 3, 4, 6, 5], PARTLY),
    "rises only at its ends": ([1, 4, 2, 5, 3, 6], PARTLY),
    "last above first, all others fall": ([1, 6, 5, 4, 3, 2], NO),
    "up and down": ([1, 3, 1, 3, 1, 1.1], NO),
    "falls": ([6, 5, 4, 3, 2, 1], NO),
    "flat": ([5] * 6, UNKNOWN),
    "too few layers": ([1, 2, 3], UNKNOWN),
    "one layer has no value": ([1, 2, float("nan"), 4, 5, 6], YES),
}


@pytest.mark.parametrize("name", CURVES)
def test_trend__over_all_layers(name: str) -> None:
    curve, expected = CURVES[name]
    values = np.asarray(curve, dtype=float)
    random = np.full(len(values), 5.0)
    assert rises("it rises", "px", values, random).verdict == expected
    assert rises("it falls", "px", -values, random, falls=True).verdict == expected


def test_trend__is_scipys_with_the_median_slope() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=9) + np.arange(9)
    one = trend(values)
    assert one is not None
    assert one.tau == pytest.approx(kendalltau(np.arange(9), values).statistic)
    pairs = list(itertools.combinations(range(9), 2))
    in_order = sum(1 if values[j] > values[i] else -1 for i, j in pairs)
    assert one.tau == pytest.approx(in_order / len(pairs))
    assert one.change == pytest.approx(8 * np.median([(values[j] - values[i]) / (j - i) for i, j in pairs]))


@pytest.mark.parametrize("num_layers", [*range(LEAST_LAYERS, 7), pytest.param(7, marks=pytest.mark.slow)])
def test_trend__a_strong_one_is_rarely_chance(num_layers: int) -> None:
    """Counted over every order of the layers; of three layers it would be one case of six."""
    taus = [kendalltau(range(num_layers), order).statistic for order in itertools.permutations(range(num_layers))]
    assert np.mean(np.asarray(taus) >= STRONG) < 0.05
    assert kendalltau(range(3), range(3)).statistic >= STRONG


def test_trend__that_random_weights_have_as_well_is_not_of_training() -> None:
    values = np.arange(6.0)
    assert rises("it rises", "px", values, values).verdict == PARTLY
    assert rises("it rises", "px", values, 2 * values).verdict == PARTLY
    assert rises("it rises", "px", values, values / 2).verdict == YES
    assert rises("it rises", "px", values, -values).verdict == YES
    assert rises("it rises", "px", values, values / 100, margin=0.1).verdict == YES  # too flat to be one
    assert rises("it rises", "px", -values, values).verdict == NO


def test_trend__without_a_control_only_what_is_not_there_can_be_said() -> None:
    values = np.arange(6.0)
    assert rises("it rises", "px", values, None).verdict == UNKNOWN
    assert rises("it rises", "px", -values, None).verdict == NO
    assert rises("it rises", "px", values, None).numbers == "0 to 5 px (tau 1.00); random weights not defined"


def test_trend__within_the_margin_nothing_can_be_said_and_a_small_turn_is_none() -> None:
    values = np.array([1, 2, 3, 4, 6, 5.9])
    assert rises("it rises", "px", values, FLAT, margin=0.2).verdict == YES
    assert rises("it rises", "px", values, FLAT, margin=0.05).verdict == PARTLY
    assert rises("it rises", "px", values / 100, FLAT, margin=0.2).verdict == UNKNOWN


def test_trend__numbers_name_ends_peak_and_tau() -> None:
    one = rises("it rises", "top-1", np.array([0.292, 0.438, 0.604, 0.625, 0.542, 0.458]), FLAT)
    assert one.numbers == "0.292 to 0.458 top-1, highest 0.625 (tau 0.33); random weights 5 to 5 top-1 (tau 0.00)"
    two = rises("it falls", "px", np.array([5.0, 1.0, 2.0]), None, falls=True)
    assert two.numbers.startswith("5 to 2 px (3 layers, too few for a trend)")


# --- single values -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "random", "expected"),
    [
        (0.92, 0.41, YES),
        (0.41, 0.92, PARTLY),  # found, but training took from it
        (0.41, 0.41, PARTLY),
        (0.01, 0.0, NO),
        (0.01, None, NO),
        (0.41, None, UNKNOWN),
        (None, 0.9, UNKNOWN),
        (float("nan"), 0.9, UNKNOWN),
    ],
)
def test_more_than_random(own: float | None, random: float | None, expected: str) -> None:
    assert more_than_random("it is there", ("share", own), random, least=0.02).verdict == expected


def test_everywhere__counts_layers_and_looks_at_the_lowest() -> None:
    low = np.array([0.1, 0.1, np.nan])
    assert everywhere("above", "excess", np.array([0.3, 0.4, np.nan]), low).verdict == YES
    assert everywhere("above", "excess", np.array([0.3, 0.1, 0.2]), low).verdict == PARTLY
    mixed = everywhere("above", "excess", np.array([0.3, -0.1, 0.2]), low)
    assert (mixed.verdict, mixed.numbers) == (PARTLY, "2 of 3 layers, smallest excess -0.1, random weights 0.1")
    assert everywhere("above", "excess", np.array([-0.3, -0.1]), low).verdict == NO
    assert everywhere("above", "excess", np.array([0.3]), None).verdict == UNKNOWN
    assert everywhere("above", "excess", np.array([np.nan]), low).verdict == UNKNOWN


@pytest.mark.parametrize(("verdict", "holds"), [(YES, True), (PARTLY, None), (NO, False), (UNKNOWN, None)])
def test_holds__is_yes_or_no_and_none_between(verdict: str, holds: bool | None) -> None:
    assert Verdict("cka", "a claim", verdict, "1").as_json() == {
        "analysis": "cka", "claim": "a claim", "holds": holds, "verdict": verdict, "numbers": "1",
    }  # fmt: skip


# --- analyses ------------------------------------------------------------------------------------------------


def test_position_embeddings_must_fall_unlike_random_ones() -> None:
    learnt = found(peak_is_self=1.0, correlation_with_distance=0.5, row_column_excess=0.2)
    random = found(peak_is_self=1.0, correlation_with_distance=0.01, row_column_excess=0.0)
    assert said("pos-embed", learnt, random) == [PARTLY, YES, YES]  # random ones are like themselves, too
    assert said("pos-embed", random, random) == [PARTLY, NO, UNKNOWN]
    blurred = found(peak_is_self=0.5, correlation_with_distance=0.5, row_column_excess=-0.1)
    assert said("pos-embed", blurred, random) == [NO, YES, NO]
    assert said("pos-embed", learnt) == [UNKNOWN] * 3
    assert judged("pos-embed", learnt)[1].numbers == "correlation with nearness 0.5, random weights not defined"


def test_filters_must_be_fewer_and_smoother_than_random_ones() -> None:
    random = found(effective_rank=37.0, smoothness=-0.01)
    assert said("filters", found(effective_rank=18.0, smoothness=0.2), random) == [YES, YES]
    assert said("filters", found(effective_rank=38.0, smoothness=-0.2), random) == [NO, NO]
    assert said("filters", found(effective_rank=36.9, smoothness=0.03), random) == [UNKNOWN, UNKNOWN]  # too close


def test_distance_reads_every_block() -> None:
    grows = np.array([[10, 60], [30, 60], [50, 55], [58, 62], [70, 71], [72, 72.2]])
    even = found({"distance_px": np.full((6, 2), 50.1)}, uniform_px=50.0)
    assert said("distance", found({"distance_px": grows}, uniform_px=50.0), even) == [YES, YES, YES]
    assert said("distance", found({"distance_px": grows[::-1]}, uniform_px=50.0), even) == [NO, NO, YES]
    assert said("distance", even, even) == [UNKNOWN] * 3
    # two ends that say so, and four blocks that do not
    ends = np.array([[10, 60], [50, 51], [50, 52], [50, 56], [50, 59], [72, 90]])
    assert said("distance", found({"distance_px": ends}, uniform_px=50.0), even)[0] == NO


def test_cka_compares_means_beside_the_diagonal() -> None:
    apart = np.full((3, 3), 0.5) + 0.5 * np.eye(3)
    alike = np.full((3, 3), 0.99) + 0.01 * np.eye(3)
    assert said("cka", found({"cka": apart}), found({"cka": alike})) == [YES]
    assert said("cka", found({"cka": alike}), found({"cka": apart})) == [NO]
    maps = {"cka": np.ones((3, 2)), "cka_self_1": alike, "cka_self_2": apart[:2, :2]}
    pair = found(maps, kinds=["attention", "convolutions"])
    assert said("cka", pair, found({"cka": alike})) == [YES, UNKNOWN]  # as alike as random ones
    assert judged("cka", pair)[0].numbers == "mean CKA between layers 0.99, of the CNN 0.5"
    assert judged("cka", found(maps, kinds=["attention", "attention"])) == []


def test_a_constant_layer_is_left_out_of_the_mean() -> None:
    holey = np.full((3, 3), 0.5)
    holey[0] = holey[:, 0] = np.nan
    assert "of these 0.5" in judged("cka", found({"cka": holey}), found({"cka": holey}))[0].numbers


def ratios(cls: list[float], patches: list[float]) -> np.ndarray:
    """(L, 2, 2): attention, which has no value in the first block, and MLP."""
    array = np.stack([np.stack([[a, b], [a, b]]) for a, b in zip(cls, patches, strict=True)]).astype(float)
    array[0, 0] = np.nan
    return array


def test_norm_ratio_wants_the_class_token_early_and_the_patches_late() -> None:
    paper = found({"ratio": ratios([9, 8, 4, 2, 1], [1, 2, 3, 8, 9])}, has_class_token=True)
    control = found({"ratio": ratios([1, 1, 1, 2, 2], [9, 9, 9, 9, 9])}, has_class_token=True)
    assert said("norm-ratio", paper, control) == [YES, YES]
    assert [one.numbers for one in judged("norm-ratio", paper, control)] == [
        "9 to 1 x (tau -1.00); random weights 1 to 2 x (tau 0.77)",
        "1 to 9 x (tau 1.00); random weights 9 to 9 x (tau 0.00)",
    ]
    other = found({"ratio": ratios([1, 2, 3, 8, 9], [9, 8, 4, 2, 1])}, has_class_token=True)
    assert said("norm-ratio", other, control) == [NO, NO]
    assert said("norm-ratio", found({"ratio": np.ones((4, 1, 1))}, has_class_token=False)) == []


def test_receptive_field_is_measured_after_blocks_not_at_the_embedding() -> None:
    def of(*extents: float) -> Findings:
        return found({"layers": ["embed", "0", "1", "2", "3"], "extent_px": extents})

    random = of(9, 1, 1, 1, 1)
    assert said("receptive-field", of(99, 5, 6, 7, 8), random) == [YES]
    assert said("receptive-field", of(1, 8, 7, 6, 5), random) == [NO]
    assert said("receptive-field", of(1, 5, 6, 7, 8), of(1, 1, 5, 9, 13)) == [PARTLY]


def test_probe_reads_the_models_own_pooling_in_every_layer() -> None:
    def of(native: list[float]) -> Findings:
        rows = [[0.9, value] for value in (0.99, *native)]
        layers = ["embed", "0", "1", "2", "3", "4", "5", "final"]
        return found({"accuracy": rows, "pools": ["mean", "native"], "layers": layers}, interval_half_width=0.01)

    random = of([0.25, 0.27, 0.25, 0.25, 0.23, 0.29, 0.29])
    assert said("probe", of([0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.8]), random) == [YES, YES]
    peaks = of([0.29, 0.44, 0.60, 0.63, 0.54, 0.46, 0.48])  # the last is above the first
    assert said("probe", peaks, random) == [PARTLY, YES]
    assert judged("probe", peaks, random)[1].numbers == "last layer 0.48, random weights 0.29"
    assert said("probe", random, random) == [PARTLY, UNKNOWN]


def test_equivariance_ignores_layers_without_neighbours() -> None:
    arrays = {"neighbour_similarity": [0.9, np.nan], "random_similarity": [0.1, np.nan]}
    random = found({"neighbour_similarity": [0.3, np.nan], "random_similarity": [0.1, np.nan]})
    assert said("equivariance", found(arrays, batch_invariance_eval=1e-7), random) == [YES, YES]
    assert said("equivariance", found(arrays, batch_invariance_eval=0.1), found(arrays)) == [PARTLY, NO]


def test_localisation_is_held_against_chance_and_random_weights() -> None:
    random = found(argmax_accuracy=0.92, chance=0.1)
    assert said("localisation", found(argmax_accuracy=0.41, chance=0.1), random) == [PARTLY]
    assert said("localisation", found(argmax_accuracy=0.99, chance=0.1), random) == [YES]
    assert said("localisation", found(argmax_accuracy=0.12, chance=0.1), random) == [NO]
    assert said("localisation", found(argmax_accuracy=1.0, chance=1.0), random) == []
    verdict = judged("localisation", found(argmax_accuracy=0.41, chance=0.1), random)[0]
    assert verdict.numbers == "share of tokens 0.41, chance 0.1, random weights 0.92"


def test_analyses_that_pictures_decide_are_neither_judged_nor_made_of_random_weights() -> None:
    pictures = [name for name, one in catalogue().items() if not one.words.is_controlled]
    assert pictures == ["attention", "rollout", "heads-vs-cnn", "features"]
    assert [judged(name, found()) for name in pictures] == [[]] * 4
