"""The learning rate at a step: up in a line, then down as half a cosine, in a line, in drops, or not at all.

Source: google-research/vision_transformer ``vit_jax/utils.py`` (``create_learning_rate_schedule``). Two
things differ: steps count from 1, so the first update is not wasted on a rate of zero, and the warm-up is
a straight line to the peak (there it is multiplied with the cosine).
"""

import math
from collections.abc import Sequence


def learning_rate(
    step: int,
    *,
    num_steps: int,
    num_warmup_steps: int,
    peak: float,
    final: float,
    schedule: str = "cosine",
    warmup_start: float = 0.0,
    decay_from: str = "warmup-end",
    drop_at: Sequence[float] = (),
    drop_factor: float = 0.1,
) -> float:
    """Return the rate used by optimiser step ``step``; it is never above ``peak``.

    With t = 0 in the first step after the warm-up (of ``decay_from`` start: in the first of all), of T that are left,
    a cosine is final + (peak - final) (1 + cos(pi t / T)) / 2 (arXiv 1608.03983, equation 5, without restarts), a line
    final + (peak - final) (1 - t / T).

    Args:
        step: 1..num_steps.
        num_steps: Length of the run in optimiser steps, >= 1.
        num_warmup_steps: Steps over which the rate rises in a straight line, 0..num_steps.
        peak: Rate at the end of the warm-up, > 0.
        final: Of cosine and linear: rate after the last step, >= 0 (the last step itself uses a rate just above it);
            one above ``peak`` counts as ``peak``, so that the rate never rises after the warm-up.
        schedule: ``cosine``, ``linear``, ``constant`` or ``step``.
        warmup_start: Rate that the warm-up starts above, >= 0; one above ``peak`` counts as ``peak``.
        decay_from: ``warmup-end``, or ``start``: the decay has begun beneath the warm-up, so that the rate falls after
            it at once to where it would be without one, as in timm's schedulers.
        drop_at: Of step: shares of the steps, 0-1, after which (rounded up to whole steps) the rate drops.
        drop_factor: Of step: what the rate is multiplied by in each drop, above 0 to below 1.

    Example:
        >>> [round(learning_rate(s, num_steps=4, num_warmup_steps=2, peak=1.0, final=0.0), 3)
        ...  for s in (1, 2, 3, 4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step <= num_warmup_steps:
        lowest = min(warmup_start, peak)
        return lowest + (peak - lowest) * step / num_warmup_steps
    if schedule == "constant":
        return peak
    if schedule == "step":
        return peak * drop_factor ** sum(step > last for last in drop_steps(drop_at, num_steps))
    final, first = min(final, peak), num_warmup_steps if decay_from == "warmup-end" else 0
    progress = (step - 1 - first) / max(1, num_steps - first)
    if schedule == "linear":
        return final + (peak - final) * (1.0 - progress)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))


def drop_steps(shares: Sequence[float], num_steps: int) -> list[int]:
    """Return the steps, 0..num_steps, that are the last before each drop: ``shares`` of the run, rounded up.

    Example:
        >>> drop_steps([0.29, 0.5], 100), drop_steps([0.5], 1)
        ([29, 50], [1])
    """
    # a share times the steps may be a hair above the whole number that it is
    return [math.ceil(share * num_steps - 1e-9 * num_steps) for share in shares]
