"""How a recipe names what is done to whole images at random, and which of these names mean something.

The spellings of RandAugment, AugMix and AutoAugment are timm's (``timm/data/auto_augment.py``). timm passes over parts
that it does not know (``rand-inc``) and clips magnitudes without a word; here both are refused.
"""

import re
from typing import NamedTuple

from vitctl.errors import SettingError, did_you_mean

NONE, TRIVIAL, THREE = "none", "trivial", "three"
POLICIES = ("original", "originalr", "v0", "v0r", "3a")
"""timm's AutoAugment; ``3a`` is 3-Augment without its colour jitter."""
OPERATION_SETS = ("weights", "3a", "3aw")
EXAMPLES = ("rand-m9-mstd0.5-inc1", "augmix-m3-w3", "original-mstd0.5")
MOST_LAYERS = 14  # as many as the smallest weighted set has operations: timm draws those without putting back
HIGHEST_MAGNITUDE = 10  # timm's, where mmax says no other

_SYNONYMS = {
    "trivialaugment": TRIVIAL, "trivialaugmentwide": TRIVIAL, "ta": TRIVIAL, "ta_wide": TRIVIAL,
    "3-augment": THREE, "3augment": THREE, "three-augment": THREE, "threeaugment": THREE, "deit3": THREE,
    "randaugment": EXAMPLES[0], "randaug": EXAMPLES[0], "ra": EXAMPLES[0], "autoaugment": "original", "aa": "original",
    "off": NONE, "no": NONE, "false": NONE,
}  # fmt: skip


class _Kind(NamedTuple):
    """A number behind some letters: its least and most, and how many decimals it may have."""

    least: float
    most: float
    is_whole: bool = False

    @property
    def words(self) -> str:
        return f"a {'whole ' * self.is_whole}number, {self.least:g} to {self.most:g}"

    def read(self, text: str) -> float | None:
        """Return the number that ``text`` gives, or None if that is none of this kind."""
        match = re.fullmatch(r"\d+" if self.is_whole else r"\d+(\.\d+)?", text)
        return float(text) if match and self.least <= float(text) <= self.most else None


_SWITCH, _SPREAD = _Kind(0, 1, True), _Kind(0, 1000)
_OF_RAND = {
    "m": _Kind(0, 100, True), "n": _Kind(1, MOST_LAYERS, True), "p": _Kind(0, 1), "mstd": _SPREAD,
    "mmax": _Kind(1, 100, True), "inc": _SWITCH,
}  # fmt: skip
_OF_AUGMIX = {
    "m": _Kind(0, HIGHEST_MAGNITUDE, True), "w": _Kind(1, 20, True), "d": _Kind(1, 20, True), "a": _Kind(0.01, 100),
    "b": _SWITCH, "mstd": _SPREAD,
}  # fmt: skip
_OF_POLICY = {"mstd": _SPREAD}


def known_as(spec: str) -> str:
    """Return what a usable ``spec`` other than none is called in papers."""
    known = {TRIVIAL: "TrivialAugment", THREE: "3-Augment", "rand": "RandAugment", "augmix": "AugMix"}
    return known.get(spec.partition("-")[0], "AutoAugment")


def check_augment(spec: str, *, what: str) -> None:
    """Check that ``spec`` says how to augment images: none, trivial, three, or a spelling of timm's.

    Args:
        spec: What was given.
        what: The setting, as the user writes it.

    Raises:
        SettingError: It says nothing, or something that timm would pass over.
    """
    first, *parts = spec.split("-")
    if spec in (NONE, TRIVIAL, THREE):
        return
    known = {"rand": _OF_RAND, "augmix": _OF_AUGMIX, **dict.fromkeys(POLICIES, _OF_POLICY)}
    if first not in known:
        names = (NONE, TRIVIAL, THREE, *EXAMPLES, *POLICIES)
        raise SettingError(
            f"{what} is {spec!r}; it can be {NONE}, {TRIVIAL}, {THREE}, or as timm spells it, e.g. "
            f"{', '.join(EXAMPLES)}.{did_you_mean(spec, names, most=1, synonyms=_SYNONYMS)}"
        )
    numbers: dict[str, float] = {}
    for part in parts:
        if first == "rand" and part.startswith("t"):
            if part[1:] not in OPERATION_SETS:
                expected = ", ".join(f"t{name}" for name in OPERATION_SETS)
                raise SettingError(f"{what} is {spec!r}: {part!r} names no set of operations; expected {expected}.")
            continue
        letters, number = _checked(part, known[first], f"{what} is {spec!r}")
        if letters in numbers:
            raise SettingError(f"{what} is {spec!r}: {letters!r} stands there twice; keep one.")
        numbers[letters] = number
    highest = numbers.get("mmax", HIGHEST_MAGNITUDE)
    if numbers.get("m", 0) > highest:
        raise SettingError(
            f"{what} is {spec!r}: magnitude {numbers['m']:g} is above {highest:g}, which magnitudes are clipped to. "
            f"Give a lower one, or mmax{numbers['m']:g} beside it."
        )


def _checked(part: str, known: dict[str, _Kind], found: str) -> tuple[str, float]:
    """Return the letters and the number of a part, e.g. of ``m9``.

    Raises:
        SettingError: There are no such letters, or the number is out of their range.
    """
    match = re.fullmatch(r"([a-z]+)(.*)", part)
    letters, text = match.groups() if match else (part, "")
    if letters not in known:
        raise SettingError(f"{found}: {part!r} is no part of it; the parts are {', '.join(known)}, each with a number.")
    number = known[letters].read(text)
    if number is None:
        raise SettingError(f"{found}: {letters} has {text!r}; expected {known[letters].words}, e.g. {letters}1.")
    return letters, number
