"""Names in the order a person expects: 2 before 10."""

import re


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key by which runs of digits compare as numbers, letters without regard to case.

    Unlike timm's key of this name it never ties for different texts, so an order does not depend on the
    file system, and it takes every text (timm's fails on a superscript digit).

    Example:
        >>> sorted(["b10", "B2", "a"], key=natural_key)
        ['a', 'B2', 'b10']
    """
    parts = re.split(r"([0-9]+)", text.casefold())
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), text
