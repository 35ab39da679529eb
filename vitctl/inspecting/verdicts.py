"""Whether a model shows what the papers found, in that direction, beside the same model with random weights.

The papers' figures are of large models and much data; here only directions are judged. V is arXiv 2010.11929, R is
arXiv 2108.08810.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from vitctl.inspecting.findings import Findings
from vitctl.results.inspect_model import Verdict

NOTICEABLE = 0.02  # of the larger value: what is closer together than that cannot be told apart; a guess
PEAKED = 0.9  # share of position embeddings most like themselves (or a neighbour's); a guess
CORRELATED = 0.2  # between similarity and nearness; a guess: random weights stay within 0.05, the demo shows 0.5


def judge(analysis: str, found: Findings, control: Findings | None) -> list[Verdict]:
    """Return the verdicts on an analysis, none where the papers claim nothing that numbers could decide.

    Args:
        analysis: Its name.
        found: Of the model.
        control: Of the same model with random weights, None where it was not made.
    """
    judges = _JUDGES.get(analysis)
    return [] if judges is None else judges(found, control)


def _verdict(analysis: str, claim: str, values: Mapping[str, float | None], holds: Callable[..., bool]) -> Verdict:
    """Return a verdict; it cannot be said where a value is missing or not finite."""
    numbers = ", ".join(f"{name} {_number(value)}" for name, value in values.items())
    known = [value for value in values.values() if value is not None and np.isfinite(value)]
    is_known = len(known) == len(values)
    return Verdict(analysis, claim, bool(holds(*known)) if is_known else None, numbers)


def _larger(
    analysis: str,
    claim: str,
    large: tuple[str, float | None],
    small: tuple[str, float | None],
    *,
    margin: float | None = None,
) -> Verdict:
    """Return the verdict that one value is larger than another; closer than ``margin`` it cannot be said.

    Args:
        analysis: Its name.
        claim: What is claimed.
        large: Name and value of what the claim says is larger.
        small: Likewise of what it says is smaller.
        margin: In the unit of the values; None is ``NOTICEABLE`` of the larger one.
    """
    verdict = _verdict(analysis, claim, dict([large, small]), lambda first, second: first > second)
    if verdict.holds is None or large[1] is None or small[1] is None:
        return verdict
    least = NOTICEABLE * max(abs(large[1]), abs(small[1])) if margin is None else margin
    return replace(verdict, holds=None) if abs(large[1] - small[1]) <= least else verdict


def _number(value: float | None) -> str:
    return "not defined" if value is None or not np.isfinite(value) else f"{value:.3g}"


def _fact(findings: Findings | None, name: str) -> float | None:
    value: Any = None if findings is None else findings.facts.get(name)
    return None if value is None else float(value)


def _filters(found: Findings, control: Findings | None) -> list[Verdict]:
    return [
        _larger(
            "filters",
            "few components explain most of the filters, fewer than of random ones",
            ("effective rank with random weights", _fact(control, "effective_rank")),
            ("of these", _fact(found, "effective_rank")),
        ),
        _larger(
            "filters",
            "the filters are smooth: neighbouring pixels agree more than in random ones",
            ("correlation", _fact(found, "smoothness")),
            ("random weights", _fact(control, "smoothness")),
            margin=0.05,
        ),
    ]


def _pos_embed(found: Findings, control: Findings | None) -> list[Verdict]:
    return [
        _verdict(
            "pos-embed",
            "a position embedding is most similar to itself",
            {"share of positions": _fact(found, "peak_is_self")},
            lambda share: share >= PEAKED,
        ),
        _verdict(
            "pos-embed",
            "similarity falls with distance, which it does not for random weights",
            {
                "correlation with nearness": _fact(found, "correlation_with_distance"),
                "random weights": _fact(control, "correlation_with_distance"),
            },
            lambda trained, random: trained > CORRELATED and trained > 2 * random,
        ),
        _larger(
            "pos-embed",
            "patches of one row or column are more alike than others as far apart",
            ("excess", _fact(found, "row_column_excess")),
            ("random weights", _fact(control, "row_column_excess")),
            margin=0.02,
        ),
    ]


def _distance(found: Findings, control: Findings | None) -> list[Verdict]:
    px, uniform = found.arrays["distance_px"], float(found.facts["uniform_px"])
    third = max(1, len(px) // 3)
    spread = px.max(axis=1) - px.min(axis=1)
    random = None if control is None else float(np.abs(control.arrays["distance_px"] - uniform).mean())
    margin = 0.01 * uniform
    return [
        _larger(
            "distance",
            "the lowest block mixes local and global heads more than the highest",
            ("spread of block 0 in px", float(spread[0])),
            ("of the last block", float(spread[-1])),
            margin=margin,
        ),
        _larger(
            "distance",
            "distance grows with depth",
            ("mean of the last third in px", float(px[-third:].mean())),
            ("of the first third", float(px[:third].mean())),
            margin=margin,
        ),
        _larger(
            "distance",
            "heads leave even attention, at which random weights stay",
            ("mean departure from it in px", float(np.abs(px - uniform).mean())),
            ("random weights", random),
            margin=margin,
        ),
    ]


def _cka(found: Findings, control: Findings | None) -> list[Verdict]:
    claims = []
    if found.facts.get("kinds") == ["attention", "convolutions"] and "cka_self_1" in found.arrays:
        first, second = (_off_diagonal(found.arrays[name]) for name in ("cka_self_1", "cka_self_2"))
        claims.append(
            _larger(
                "cka",
                "the layers of a ViT are more alike than those of a CNN",
                ("mean CKA between layers", first),
                ("of the CNN", second),
            )
        )
    own = found.arrays.get("cka_self_1", found.arrays["cka"])
    if control is not None and own.ndim == 2 and own.shape[0] == own.shape[1]:
        claims.append(
            _larger(
                "cka",
                "training moves the layers apart: with random weights all are alike",
                ("mean CKA between layers with random weights", _off_diagonal(control.arrays["cka"])),
                ("of these", _off_diagonal(own)),
            )
        )
    return claims


def _off_diagonal(similarities: np.ndarray) -> float:
    others = ~np.eye(len(similarities), dtype=bool)
    values = similarities[others]
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")


def _norm_ratio(found: Findings, control: Findings | None) -> list[Verdict]:
    if not found.facts.get("has_class_token"):
        return []
    claims = []
    for column, tokens, sign in ((0, "class token", 1), (1, "patches", -1)):
        first, last = _halves(found, column)
        random_first, random_last = (None, None) if control is None else _halves(control, column)
        halves = (("mean ratio of the first half", first), ("mean ratio of the second half", last))
        verdict = _larger(
            "norm-ratio",
            f"{tokens}: the skip connection dominates in the {'first' if sign > 0 else 'second'} half",
            *(halves if sign > 0 else halves[::-1]),
        )
        beside = f", random weights {_number(random_first)} and {_number(random_last)}" if control is not None else ""
        claims.append(replace(verdict, numbers=verdict.numbers + beside))
    return claims


def _halves(findings: Findings, column: int) -> tuple[float, float]:
    """Return the mean ratio of the first and of the second half of the blocks, for one kind of token."""
    ratio = findings.arrays["ratio"][:, :, column]
    half = max(1, len(ratio) // 2)
    first, last = ratio[:half], ratio[-half:]
    return tuple(  # type: ignore[return-value]  # two of them
        float(part[np.isfinite(part)].mean()) if np.isfinite(part).any() else float("nan") for part in (first, last)
    )


def _localisation(found: Findings, control: Findings | None) -> list[Verdict]:
    chance = _fact(found, "chance")
    if chance is not None and 2 * chance >= 1:
        return []  # a map of one or two places
    verdict = _verdict(
        "localisation",
        "a token of the last layer is most similar to its own patch, more often than by chance",
        {"share of tokens": _fact(found, "argmax_accuracy"), "chance": chance},
        lambda share, chance: share > 2 * chance,
    )
    beside = "" if control is None else f", random weights {_number(_fact(control, 'argmax_accuracy'))}"
    return [
        replace(verdict, numbers=verdict.numbers + beside),
    ]


def _receptive_field(found: Findings, control: Findings | None) -> list[Verdict]:
    extent = _extent(found)
    if len(extent) < 2:
        return []
    verdict = _larger(
        "receptive-field",
        "the receptive field grows with depth",
        ("extent after the last block in px", float(extent[-1])),
        ("after the first", float(extent[0])),
    )
    random = None if control is None else _extent(control)
    beside = "" if random is None else f", random weights {_number(random[-1])} and {_number(random[0])}"
    return [replace(verdict, numbers=verdict.numbers + beside)]


def _extent(findings: Findings) -> np.ndarray:
    """Return the extent after every block, (L,) px."""
    extent: np.ndarray = findings.arrays["extent_px"][findings.arrays["layers"] != "embed"]
    return extent


def _probe(found: Findings, control: Findings | None) -> list[Verdict]:
    accuracy, pools = found.arrays["accuracy"], [str(pool) for pool in found.arrays["pools"]]
    if "native" not in pools:
        return []
    is_after_block = found.arrays["layers"] != "embed"  # there a class token has seen nothing
    own = accuracy[is_after_block, pools.index("native")]
    random = None if control is None else float(control.arrays["accuracy"][-1, pools.index("native")])
    margin = _fact(found, "interval_half_width") or 0.0
    return [
        _larger(
            "probe",
            "accuracy rises with depth",
            ("last layer", float(own[-1])),
            ("after the first block", float(own[0])),
            margin=margin,
        ),
        _larger(
            "probe",
            "the last layer is better than that of random weights",
            ("last layer", float(own[-1])),
            ("random weights", random),
            margin=margin,
        ),
    ]


def _equivariance(found: Findings, _control: Findings | None) -> list[Verdict]:
    excess = found.arrays["neighbour_similarity"] - found.arrays["random_similarity"]
    excess = excess[np.isfinite(excess)]
    return [
        _verdict(
            "equivariance",
            "neighbouring patches are more alike than random ones in every layer",
            {"smallest excess": float(excess.min()) if len(excess) else None},
            lambda excess: excess > 0,
        ),
        _verdict(
            "equivariance",
            "the output of an image does not depend on the batch",
            {"largest relative difference": _fact(found, "batch_invariance_eval")},
            lambda difference: difference < 1e-4,
        ),
    ]


_JUDGES: dict[str, Callable[[Findings, Findings | None], list[Verdict]]] = {
    "filters": _filters,
    "pos-embed": _pos_embed,
    "distance": _distance,
    "cka": _cka,
    "norm-ratio": _norm_ratio,
    "localisation": _localisation,
    "receptive-field": _receptive_field,
    "probe": _probe,
    "equivariance": _equivariance,
}
CONTROLLED = ("filters", "pos-embed", "distance", "cka", "norm-ratio", "localisation", "receptive-field", "probe")
"""The analyses of ``vitctl inspect all`` that are made of random weights as well."""
