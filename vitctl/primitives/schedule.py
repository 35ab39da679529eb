"""The learning rate at a step: linear warm-up, then half a cosine.

Source: google-research/vision_transformer ``vit_jax/utils.py`` (``create_learning_rate_schedule``). Two
things differ: steps count from 1, so the first update is not wasted on a rate of zero, and the warm-up is
a straight line to the peak (there it is multiplied with the cosine).
"""

import math


def learning_rate(step: int, *, num_steps: int, num_warmup_steps: int, peak: float, final: float) -> float:
    """Return the rate used by optimiser step ``step``.

    Args:
        step: 1..num_steps.
        num_steps: Length of the run in optimiser steps, >= 1.
        num_warmup_steps: Steps over which the rate rises in a straight line, 0..num_steps.
        peak: Rate at the end of the warm-up, > 0.
        final: Rate after the last step, >= 0 (the last step itself uses a rate just above it); one above
            ``peak`` counts as ``peak``, so that the rate never rises after the warm-up.

    Example:
        >>> [round(learning_rate(s, num_steps=4, num_warmup_steps=2, peak=1.0, final=0.0), 3)
        ...  for s in (1, 2, 3, 4)]
        [0.5, 1.0, 1.0, 0.5]
    """
    if step <= num_warmup_steps:
        return peak * step / num_warmup_steps
    final = min(final, peak)
    progress = (step - 1 - num_warmup_steps) / max(1, num_steps - num_warmup_steps)
    return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * progress))
