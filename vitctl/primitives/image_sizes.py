"""Image sizes as people write them ("384", "256x320"), height first, and whether a patch divides them.

Letters: H W px; h w patches.
"""

import re
from collections.abc import Sequence

from vitctl.errors import SettingError


def parse_image_size(text: str, *, option: str = "--image-size") -> tuple[int, int]:
    """Return (H, W) in px from ``"N"`` or ``"HxW"``.

    Raises:
        SettingError: It is neither, or a side is not between 1 and 65,535 px.

    Example:
        >>> parse_image_size("256x320")
        (256, 320)
    """
    sides = text.lower().split("x")
    if len(sides) in (1, 2) and all(re.fullmatch(r"[0-9]{1,5}", side) for side in sides):
        height, width = int(sides[0]), int(sides[-1])
        if 1 <= height <= 65_535 and 1 <= width <= 65_535:
            return height, width
    raise SettingError(
        f"{option} is {text!r}; it takes pixels, one number for a square (384) or HEIGHTxWIDTH (256x320)."
    )


def image_size_of(given: int | str | Sequence[int], *, option: str = "image_size") -> tuple[int, int]:
    """Return (H, W) in px from what a program gives: ``384``, ``"256x320"`` or ``(256, 320)``.

    Raises:
        SettingError: It is none of these, or a side is not between 1 and 65,535 px.
    """
    text = "x".join(map(str, given)) if isinstance(given, tuple | list) else str(given)
    return parse_image_size(text, option=option)


def format_size(size: tuple[int, int]) -> str:
    """Return ``"384"`` for a square, ``"256x320"`` (height first) for a rectangle."""
    return str(size[0]) if size[0] == size[1] else f"{size[0]}x{size[1]}"


def nearest_multiples(length: int, step: int) -> tuple[int, ...]:
    """Return the positive multiples of ``step`` just below and just above ``length`` (itself if it is one)."""
    below = length // step * step
    if below == length:
        return (length,)
    return (below, below + step) if below else (step,)


def check_divisible(
    size: tuple[int, int],
    patch: tuple[int, int],
    *,
    model: str,
    what: str = "--image-size",
    field: str = "image_size",
) -> None:
    """Check that every patch is whole.

    Args:
        size: (H, W) px.
        patch: (H, W) px that one token covers.
        model: Name to show.
        what: Where the size stands, for the message.
        field: The setting that it is of.

    Raises:
        SettingError: A side is not a multiple; the sentence names the two nearest sizes.
    """
    if size[0] % patch[0] == 0 and size[1] % patch[1] == 0:
        return
    heights, widths = nearest_multiples(size[0], patch[0]), nearest_multiples(size[1], patch[1])
    if size[0] == size[1] and patch[0] == patch[1]:
        nearest = [format_size((side, side)) for side in heights]
    else:
        nearest = [format_size((heights[0], widths[0])), format_size((heights[-1], widths[-1]))]
    raise SettingError(
        f"{what} {format_size(size)} is not a multiple of the patch of {model} "
        f"({format_size(patch)} px); the nearest that are: {' and '.join(dict.fromkeys(nearest))}.",
        field=field,
    )
