"""What ``--tune`` can say, and what a run trains by its options and its recipe together.

Rules of a run, in this order: ``freeze``, the mode (both ``vitctl.training.trained``), then the rates: ``lr_scale`` and
layer decay (``vitctl.training.optimizer``).

Sources: head, then all, arXiv 2202.10054; attention and position embeddings, arXiv 2203.09795, section 3; bias,
arXiv 2106.10199 (BitFit); norm, arXiv 2003.00152; lora, arXiv 2106.09685; all of them compared, each at its own rate,
arXiv 2409.16434.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from vitctl.errors import SettingError, did_you_mean
from vitctl.recipes import SET, Recipe
from vitctl.recipes.sections import Tuning


@dataclass(frozen=True)
class Mode:
    """What ``--tune`` can say.

    Attributes:
        number: What the number after the colon is, and its letter and an example; None where it takes none.
        lr_factor: On the rate of a recipe that is meant for all weights, > 0.
        has_layer_decay: Whether the layer decay of such a recipe counts.
        source: Of both. Measured on 2026-11-29, demo, 800 digits at 16 px, 120 steps, of rates x1/3 to x10 of the
            recipe's: all weights are best at x1 (NLL 0.16), lora:8, norm and bias at x10 (0.20, 0.32, 0.34; at x3 0.21,
            0.34, 0.35); head gains little (0.37 at x1, 0.35 at x10, 0.58 at x100).
    """

    number: tuple[str, str, int] | None = None
    lr_factor: float = 1.0
    has_layer_decay: bool = True
    source: str = ""


_DECAY = "optimizer.layer_decay"
_COMPARED = "arXiv 2409.16434: few weights need larger rates"
MODES = {
    "full": Mode(),
    "head": Mode(),
    "attention": Mode(),
    "norm": Mode(lr_factor=10.0, source=_COMPARED),
    "bias": Mode(lr_factor=10.0, source=_COMPARED),
    "last": Mode(("number of blocks", "N", 2)),
    "lora": Mode(
        ("rank", "R", 16),
        lr_factor=10.0,
        has_layer_decay=False,
        source="LoRA Without Regret, thinkingmachines.ai/blog/lora, 2025",
    ),
}
_SYNONYMS = {
    "all": "full", "everything": "full", "linear": "head", "probe": "head", "linear-probe": "head",
    "norms": "norm", "layernorm": "norm", "ln": "norm", "bitfit": "bias", "biases": "bias", "peft": "lora",
    "adapter": "lora", "top": "last",
}  # fmt: skip


def parse_mode(text: str, *, what: str = "--tune", field: str = "tune") -> tuple[str, int | None]:
    """Return the name of a mode and its number, e.g. ``("lora", 16)`` of ``lora:16``.

    Args:
        text: What was given.
        what: Where, for messages.
        field: The setting it came by.

    Raises:
        SettingError: It is no mode, or its number is missing, too much, or not 1 or more.
    """
    name, colon, number = text.partition(":")
    if name not in MODES:
        spelt = ", ".join(key + (f":{mode.number[1]}" if mode.number else "") for key, mode in MODES.items())
        near = did_you_mean(name, MODES, synonyms=_SYNONYMS)
        raise SettingError(f"{what} is {text!r}; it can be {spelt}.{near}", field=field)
    meaning = MODES[name].number
    if meaning is None:
        if colon:
            raise SettingError(f"{what} is {text!r}; {name} takes no number. Try {name}.", field=field)
        return name, None
    if not re.fullmatch("0{0,9}[1-9][0-9]{0,8}", number):  # int() refuses thousands of digits
        raise SettingError(
            f"{what} is {text!r}; expected the {meaning[0]} after a colon, 1 or more, e.g. {name}:{meaning[2]}.",
            field=field,
        )
    return name, int(number)


def parse_scales(texts: Iterable[str]) -> tuple[tuple[str, float], ...]:
    """Return the regular expressions and factors of ``REGEX=X``, in order.

    Raises:
        SettingError: One is not of that form, its expression is not valid, or X is no number above 0.
    """
    return tuple(map(_parse_scale, texts))


def _parse_scale(text: str) -> tuple[str, float]:
    regex, equals, factor = text.rpartition("=")
    if not (equals and regex):
        raise SettingError(f"--lr-scale is {text!r}; expected REGEX=X, e.g. '^head=10'.", field="lr_scale")
    try:
        value = float(factor)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        advice = f" To leave them as they are: --freeze {regex!r}." if value == 0 else ""
        raise SettingError(
            f"--lr-scale {text!r} has {factor!r} after the last =; expected a number above 0.{advice}", field="lr_scale"
        )
    check_regex(regex, option="--lr-scale", field="lr_scale")
    return regex, value


def check_regex(regex: str, *, option: str, field: str) -> None:
    """Check that a regular expression is one.

    Raises:
        SettingError: It is not; the sentence says where it goes wrong.
    """
    try:
        re.compile(regex)
    except re.error as error:
        raise SettingError(
            f"{option} {regex!r} is no regular expression: {error}; expected one as Python has them, e.g. '^blocks.0'.",
            field=field,
        ) from error


@dataclass(frozen=True)
class TuningChoice:
    """What a run trains, and how fast.

    Attributes:
        tuning: As a recipe has it, with what the options say in it.
        layer_decay: Factor on the rate from each layer to the one below it, above 0 to 1.
        is_of_recipe: Whether the recipe's rate was written for the mode.
        reason: Why this mode, for the header; "" for the recipe's.
    """

    tuning: Tuning = Tuning()
    layer_decay: float = 1.0
    is_of_recipe: bool = True
    reason: str = ""

    def scaled(self, lr: float, reason: str) -> tuple[float, str]:
        """Return a recipe's rate, > 0, for this mode, and the reason with the factor in it."""
        name = parse_mode(self.tuning.mode)[0]
        mode = MODES[name]
        if self.is_of_recipe or mode.lr_factor == 1:
            return lr, reason
        return lr * mode.lr_factor, f"{reason}; x{mode.lr_factor:g} for {name} ({mode.source})"

    def resolved(self) -> dict[str, Any]:
        """Return the options that say it, by field; an empty list is None."""
        return {
            "tune": self.tuning.mode,
            "layer_decay": self.layer_decay,
            "lr_scale": self.tuning.lr_scale or None,
            "freeze": self.tuning.freeze or None,
        }


BY_RECIPE = TuningChoice()
"""All weights, as a recipe that says nothing else."""


@dataclass(frozen=True)
class TuningOptions:
    """What is said beside a recipe, by options or by the run that a new one starts from; None where nothing is."""

    tune: str | None = None
    layer_decay: float | None = None
    lr_scale: tuple[str, ...] | None = None
    freeze: tuple[str, ...] | None = None

    def before(self, others: "TuningOptions") -> "TuningOptions":
        """Return these, and those of ``others`` where they say nothing; with another mode nothing of ``others``."""
        if self.tune not in (None, others.tune):
            return self
        said = {name: value for name, value in vars(self).items() if value is not None}
        return replace(others, **said)

    def unless_changed(self, now: Recipe, then: Recipe) -> "TuningOptions":
        """Return these, said beside the recipe ``then``, without what ``now`` says anew; none with another mode."""

        def is_said(path: str) -> bool:
            section, key = path.split(".")
            mine, theirs = (getattr(getattr(recipe, section), key) for recipe in (now, then))
            return mine != theirs or (now.sources.get(path) == SET != then.sources.get(path))

        if is_said("tuning.mode"):
            return TuningOptions()
        return TuningOptions(
            self.tune,
            None if is_said(_DECAY) else self.layer_decay,
            None if is_said("tuning.lr_scale") else self.lr_scale,
            None if is_said("tuning.freeze") else self.freeze,
        )

    def on(self, recipe: Recipe) -> TuningChoice:
        """Return what a recipe and these say together; an option goes before the recipe.

        Raises:
            SettingError: A mode or an expression cannot be read.
        """
        own, layer_decay = recipe.tuning, recipe.optimizer.layer_decay
        is_set = recipe.sources.get("tuning.mode") == SET
        if self.tune is None:
            name, _ = parse_mode(own.mode, what="tuning.mode", field="set" if is_set else "recipe")
        else:
            name, _ = parse_mode(self.tune)
        is_of_recipe = not is_set and name == own.mode.partition(":")[0]
        tuning = replace(
            own,
            mode=own.mode if self.tune is None else self.tune,
            lr_scale=own.lr_scale if self.lr_scale is None else self.lr_scale,
            freeze=own.freeze if self.freeze is None else self.freeze,
        )
        parse_scales(tuning.lr_scale)
        for regex in tuning.freeze:
            check_regex(regex, option="--freeze", field="freeze")
        if self.layer_decay is not None:
            layer_decay = self.layer_decay
        elif not (is_of_recipe or recipe.sources.get(_DECAY) == SET or MODES[name].has_layer_decay):
            layer_decay = 1.0
        return TuningChoice(tuning, layer_decay, is_of_recipe)
