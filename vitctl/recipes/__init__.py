"""Recipes: how to train, as data files with a citation beside every value.

``NAME.toml`` in this folder; ``--recipe FILE`` reads one of your own. Each setting is
``{ value = ..., source = "where from" }``. Plain Python: help and listing need no torch.
"""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from vitctl.errors import SettingError, check_choice, did_you_mean
from vitctl.settings import words

FOLDER = Path(__file__).parent

_CHOICES: dict[str, tuple[str, ...]] = {
    "optimizer": words.OPTIMIZERS,
    "lr_scaling": words.LR_SCALINGS,
    "batch_rule": words.BATCH_RULES,
    "steps_rule": words.STEPS_RULES,
    "crop": words.CROPS,
    "evaluation_crop": words.EVALUATION_CROPS,
    "pos_embed_interp": words.INTERPOLATIONS,
    "head": words.HEAD_STARTS,
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """The settings of a recipe; ``sources`` says where each comes from.

    Rates are per optimiser step, sizes in images of the global batch, fractions 0-1.
    """

    about: str
    optimizer: str
    """adamw or sgd."""
    betas: tuple[float, float]
    momentum: float
    weight_decay: float
    clip_norm: float
    """Largest global norm of the gradient; 0 clips nothing."""
    layer_decay: float
    """Factor on the rate from each layer to the one below it, 0-1; 1 is none."""
    lr: float
    """Peak learning rate at batch ``lr_at_batch``."""
    lr_at_batch: int
    lr_scaling: str
    """How the rate follows the batch: none, sqrt, linear."""
    final_lr: float
    warmup_fraction: float
    """Share of the steps over which the rate rises."""
    batch_size: int
    batch_rule: str
    """fixed, or quarter: at most a quarter of the images, down to a power of two."""
    steps: int
    steps_rule: str
    """fixed (``steps``), images-seen, bit-hyperrule."""
    crop: str
    crop_area: tuple[float, float]
    flip: bool
    evaluation_crop: str
    """model: the crop the weights came with; squash: resize to the size, aspect not kept."""
    pos_embed_interp: str
    head: str
    validations: int
    """Validations during the run, the one after the last step included."""
    select_best_from: int
    """Validation images from which best/ is chosen by NLL; below, best/ is the last step."""
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for key, allowed in _CHOICES.items():
            check_choice(getattr(self, key), allowed, what=f"recipe setting {key}")
        positive = ("lr", "lr_at_batch", "batch_size", "validations")
        not_negative = ("momentum", "weight_decay", "clip_norm", "final_lr", "steps", "select_best_from")
        for key in positive:
            if getattr(self, key) <= 0:
                raise SettingError(f"recipe setting {key} is {getattr(self, key)}; expected a number above 0.")
        for key in not_negative:
            if getattr(self, key) < 0:
                raise SettingError(f"recipe setting {key} is {getattr(self, key)}; expected 0 or more.")
        if not 0 < self.layer_decay <= 1 or not 0 <= self.warmup_fraction <= 1:
            raise SettingError("recipe settings layer_decay and warmup_fraction are fractions, 0 to 1.")
        if not 0 < self.crop_area[0] <= self.crop_area[1] <= 1:
            raise SettingError(f"recipe setting crop_area is {list(self.crop_area)}; expected [least, most], 0 to 1.")
        if self.steps_rule == "fixed" and not self.steps:
            raise SettingError("recipe setting steps is 0 but steps_rule is 'fixed'; expected a number of steps.")

    def peak_lr(self, batch_size: int) -> float:
        """Return the peak rate at ``batch_size``, scaled as the recipe says."""
        ratio = batch_size / self.lr_at_batch
        factors = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}
        return self.lr * factors[self.lr_scaling]

    def as_settings(self) -> dict[str, Any]:
        """Return the settings without their sources, as JSON can hold them."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "sources"}
        return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


def list_recipes() -> list[str]:
    """Return the names of the recipes in the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def recipe_path(name: str) -> Path:
    """Return the file of a recipe: one of the package by name, else a file by path.

    Raises:
        SettingError: There is neither.
    """
    if name in list_recipes():
        return FOLDER / f"{name}.toml"
    try:
        path = Path(name).expanduser()
        if path.is_file():
            return path.absolute()
    except (OSError, RuntimeError) as error:
        raise SettingError(f"Recipe {name} cannot be read: {error}.") from error
    known = list_recipes()
    raise SettingError(
        f"There is no recipe {name!r}, nor a file of that name.{did_you_mean(name, known)} The recipes are "
        f"{', '.join(known)}."
    )


def load_recipe(name: str) -> Recipe:
    """Return the recipe called ``name``, or the one in the file ``name``.

    Raises:
        SettingError: There is none, it is not TOML, or a setting is unknown, missing or out of range.
    """
    path = recipe_path(name)
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"Recipe {path} cannot be read: {error}.") from error
    settings: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for key, entry in _entries(document):
        if not isinstance(entry, dict) or "value" not in entry:
            raise SettingError(f"{key} in recipe {path} is {entry!r}; expected {{ value = ..., source = '...' }}.")
        settings[key], sources[key] = entry["value"], str(entry.get("source", ""))
    return recipe_from_settings(settings, sources=sources, where=f"recipe {path}")


def _entries(document: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return (setting, entry) pairs; tables without a value are headings."""
    pairs: list[tuple[str, Any]] = []
    for key, value in document.items():
        pairs += value.items() if isinstance(value, dict) and "value" not in value else [(key, value)]
    return pairs


def recipe_from_settings(settings: Mapping[str, Any], *, sources: Mapping[str, str], where: str) -> Recipe:
    """Return the recipe with these settings.

    Raises:
        SettingError: A setting is unknown, missing, of the wrong type or out of range.
    """
    types = {f.name: f.type for f in fields(Recipe) if f.name != "sources"}
    for key in settings:
        if key not in types:
            raise SettingError(f"{where} has an unknown setting {key!r}.{did_you_mean(key, types)}")
    missing = [key for key in types if key not in settings]
    if missing:
        raise SettingError(f"{where} lacks {', '.join(missing)}; 'vitctl recipes show transfer' has all settings.")
    values = {key: _typed(key, settings[key], str(types[key]), where=where) for key in types}
    return Recipe(**values, sources=dict(sources))


def _typed(key: str, value: Any, kind: str, *, where: str) -> Any:
    kind = kind.removeprefix("<class '").removesuffix("'>")
    if kind == "float" and isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if kind == "int" and isinstance(value, int) and not isinstance(value, bool):
        return value
    if kind == "bool" and isinstance(value, bool):
        return value
    if kind == "str" and isinstance(value, str):
        return value
    if kind.startswith("tuple") and isinstance(value, list) and len(value) == 2:
        return tuple(_typed(key, item, "float", where=where) for item in value)
    raise SettingError(f"{key} in {where} is {value!r}; expected {kind.replace('tuple', 'a list, ')}.")
