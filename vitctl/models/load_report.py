"""What was read into a model, and how its sentences name things."""

from collections.abc import Sequence
from dataclasses import dataclass

from safetensors import SafetensorError


@dataclass(frozen=True)
class LoadReport:
    """What was read into a model.

    Attributes:
        source: Where from, for the log.
        num_loaded: Tensors of the model that now hold the file's values.
        missing: Tensors of the model that the file lacks; only those of the head are allowed.
        unexpected: Entries of the file that the model has no place for.
        notes: Sentences the user should see.
        why_headless: Why a head that the file has was left out; None where it has none, or it was read.
    """

    source: str
    num_loaded: int
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    why_headless: str | None = None


def some(items: Sequence[str], most: int = 3) -> str:
    """Return the first names of a list, and how many more there are."""
    return ", ".join(items[:most]) + (f" and {len(items) - most} more" if len(items) > most else "")


def first_line(error: BaseException) -> str:
    """Return the first line of what a reader of weights says, without its full stop."""
    if isinstance(error, KeyError):
        return f"there is no {str(error.args[0]).removesuffix(' is not a file in the archive')!r}"
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".") if not isinstance(error, SafetensorError) else f"damaged file, {lines[0]}"
