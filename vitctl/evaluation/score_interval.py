"""Intervals of a proportion, and of a difference of two paired ones, that keep their width where nothing varies.

Letters: N images, which need not be a whole number: as many as have the variance that was found.
"""

import math

NUM_HALVINGS = 60  # of an interval that holds an end: to the last bits of a float64


def wilson_ends(share: float, num_images: float, reach: float) -> tuple[float, float]:
    """Return the Wilson score interval of a proportion, without continuity correction (1927, JASA 22:209).

    Args:
        share: 0-1.
        num_images: N, > 0.
        reach: Standard errors to either side, e.g. 1.96.
    """
    scale = 2 * (num_images + reach**2)
    centre = (2 * num_images * share + reach**2) / scale
    half = reach / scale * math.sqrt(4 * num_images * share * (1 - share) + reach**2)
    # the ends that are 0 and 1 exactly, whatever rounding makes of them
    return (0.0 if share == 0 else centre - half, 1.0 if share == 1 else centre + half)


def paired_ends(difference: float, moved: float, num_images: float, reach: float) -> tuple[float, float]:
    """Return Tango's score interval of a difference of two paired proportions (1998, Statistics in Medicine 17:891).

    It is McNemar's test (without continuity correction) turned round; where no image moved it is as wide as Wilson's:
    reach^2 / (N + reach^2) to either side.

    Args:
        difference: Share of images that b alone has right, less that of images that a alone has right, -1 to 1.
        moved: Sum of both shares, 0-1.
        num_images: N, > 0.
        reach: Standard errors to either side, e.g. 1.96.
    """

    def end(outer: float) -> float:
        inner = difference
        for _ in range(NUM_HALVINGS):
            middle = (inner + outer) / 2
            distance = (difference - middle) ** 2 * num_images
            is_inside = distance <= reach**2 * _variance(difference, moved, middle)
            inner, outer = (middle, outer) if is_inside else (inner, middle)
        return inner

    return (-1.0 if difference == -1 else end(-1.0), 1.0 if difference == 1 else end(1.0))


def paired_distance(difference: float, moved: float, num_images: float) -> float:
    """Return how many standard errors, as they are if the truth is 0, a difference is from 0: McNemar's statistic."""
    return difference / math.sqrt(moved / num_images) if moved > 0 else 0.0


def _variance(difference: float, moved: float, truth: float) -> float:
    """Return the variance of one image's difference were ``truth`` the true one: likelihood's best guess of the rest.

    Tango's equation for the share that a alone has right, q: 2 q^2 + B q + C = 0.
    """
    linear = (2 - difference) * truth - moved
    constant = -(moved - difference) / 2 * truth * (1 - truth)
    share = (math.sqrt(max(0.0, linear**2 - 8 * constant)) - linear) / 4
    return max(0.0, 2 * share + truth * (1 - truth))
