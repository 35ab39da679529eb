"""What each command can be told: one frozen dataclass per command, checked when it is made.

A field, its command-line option and its key in a run's ``config.json`` are the same word. ``None`` means
"decide for me", and the header says what was decided and why. Plain Python: no torch behind ``--help``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from vitctl.errors import SettingError, check_choice, did_you_mean

BAD_IMAGE = ("fail", "skip")
CACHES = ("none", "resized")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLERS = ("shuffle", "balanced")
INTERPOLATIONS = ("paper", "bicubic", "bicubic-aa")
SPLITS = ("val", "test", "train", "all")
MAX_LR = 1000.0
DEVICES = ("auto", "cpu", "cuda", "mps")


def option_of(field_name: str) -> str:
    """Return the command-line spelling of a field: ``image_size`` is ``--image-size``, the argument ``run`` RUN."""
    if field_name in ("run", "pattern"):
        return field_name.upper()
    return "--" + field_name.replace("_", "-")


def _check_at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise SettingError(f"{option_of(name)} is {value}; expected {least} or more.")


def _check_not_empty(config: object) -> None:
    for field in fields(config):  # type: ignore[arg-type]  # every caller is a dataclass
        if getattr(config, field.name) == "":
            raise SettingError(f"{option_of(field.name)} is empty; give it a value, or leave it out.")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise SettingError(f"{option_of(name)} is {value}; expected a number above 0.")


def _check_seed(seed: int) -> None:
    if seed >= 2**63:
        raise SettingError(f"--seed is {seed}; expected less than 2^63.")


def _check_fraction(val_fraction: float | None) -> None:
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise SettingError(f"--val-fraction is {val_fraction}; expected a fraction, 0 to below 1.")


def _check_one_grouping(column: str | None, pattern: str | None) -> None:
    if column is not None and pattern is not None:
        raise SettingError("--group-column and --group-pattern are both given; expected one way to tell groups.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of ``vitctl finetune``."""

    data: str | None = None
    """Training images: ``digits``, a folder of class folders or of splits or of IDX files, a table, a saved data set,
    tar shards, ``hub:OWNER/NAME``."""
    image_root: str | None = None
    """Folder that a table's relative paths start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths; None finds it."""
    label_column: str | None = None
    """Column of classes; None finds it."""
    group_column: str | None = None
    """Column whose equal values (a patient, a video) stay on one side of the validation split."""
    group_pattern: str | None = None
    """The same, from the images' paths: a pattern with ``{group}``, e.g. ``{group}/*``."""
    val: str | None = None
    """Validation images, likewise; None takes the source's own split, or holds some out."""
    val_fraction: float | None = None
    """Share of the training images to hold out, 0 (none) to below 1."""
    model: str | None = None
    """``demo``, a timm name, a run folder, a timm folder."""
    weights: str = "pretrained"
    """``pretrained``, ``none``, or a .safetensors, .pth or .npz file."""
    image_size: str | None = None
    """px, ``N`` or ``HxW``."""
    pos_embed_interp: str | None = None
    """How position embeddings are resampled: paper, bicubic, bicubic-aa."""
    recipe: str | None = None
    """Name of a recipe, or a file."""
    steps: int | None = None
    """Optimiser steps, >= 1."""
    epochs: float | None = None
    """Passes over the training images, > 0; not together with ``steps``."""
    batch_size: int | None = None
    """Images per optimiser step over all processes, >= 1."""
    lr: float | None = None
    """Peak learning rate as used; never rescaled."""
    flip: bool | None = None
    """Mirror half of the training images."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out the training images that cannot be read."""
    cache: str = "none"
    """none, or resized: keep the training images decoded, at about twice the size trained at."""
    class_weights: str = "none"
    """none, or balanced: in the loss every class counts as much as any other."""
    sampler: str = "shuffle"
    """shuffle: every image once per epoch; balanced: every class equally often."""
    seed: int = 0
    """Of the split, the order, the augmentation and random weights, >= 0."""
    num_workers: int | None = None
    """Processes that read images, >= 0; the result does not depend on it."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1; the last bits of the result depend on it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """Run folder to write."""
    overwrite: bool = False
    """Replace the run folder that stands at ``out``."""
    dry_run: bool = False
    """Show what would be done, with cost, and write nothing."""
    recipe_settings: Mapping[str, Any] | None = None
    """The recipe's settings, as a run's config.json holds them; not an option."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        if self.steps is not None and self.epochs is not None:
            raise SettingError("--steps and --epochs are both given; they say the same thing. Keep one.")
        if self.val is not None and self.val_fraction is not None:
            raise SettingError("--val and --val-fraction are both given; expected one source of validation images.")
        _check_fraction(self.val_fraction)
        _check_one_grouping(self.group_column, self.group_pattern)
        check_choice(self.on_bad_image, BAD_IMAGE, what="--on-bad-image")
        check_choice(self.cache, CACHES, what="--cache")
        check_choice(self.class_weights, CLASS_WEIGHTS, what="--class-weights")
        check_choice(self.sampler, SAMPLERS, what="--sampler")
        if self.class_weights == self.sampler == "balanced":
            raise SettingError(
                "--class-weights balanced and --sampler balanced are both given; either alone makes the classes count "
                "equally. Keep one."
            )
        check_choice(self.device, DEVICES, what="--device")
        if self.pos_embed_interp is not None:
            check_choice(self.pos_embed_interp, INTERPOLATIONS, what="--pos-embed-interp")
        _check_at_least(self, 1, "steps", "batch_size", "num_threads")
        _check_at_least(self, 0, "seed", "num_workers")
        _check_positive(self, "epochs", "lr")
        _check_seed(self.seed)
        if self.lr is not None and self.lr > MAX_LR:
            raise SettingError(f"--lr is {self.lr:g}; expected at most {MAX_LR:g}. Usual rates are 1e-5 to 1e-1.")


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of ``vitctl evaluate``."""

    run: str | None = None
    """A run folder (its best/ is used) or a timm folder."""
    model: str | None = None
    """Instead of ``run``: ``demo`` or a timm name."""
    weights: str = "pretrained"
    """With ``model``: pretrained, none, or a file."""
    data: str | None = None
    """Images to evaluate on; None takes the run's own."""
    image_root: str | None = None
    """Folder that the relative paths of a table given with ``data`` start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths in ``data``; None finds it."""
    label_column: str | None = None
    """Column of classes in ``data``; None finds it."""
    split: str | None = None
    """Which split of them: val, test, train or all."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out images that cannot be read, and count them."""
    batch_size: int = 64
    """Images at a time, >= 1; the result does not depend on it."""
    num_workers: int | None = None
    """Processes that read images, >= 0."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """Folder for predictions and confusion matrix."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        _check_model_choice(self.run, self.model, self.weights)
        for name in ("image_root", "image_column", "label_column"):
            if getattr(self, name) is not None and self.data is None:
                raise SettingError(f"{option_of(name)} is given without --data; the run's own data know theirs.")
        if self.split is not None:
            check_choice(self.split, SPLITS, what="--split")
        check_choice(self.on_bad_image, BAD_IMAGE, what="--on-bad-image")
        check_choice(self.device, DEVICES, what="--device")
        _check_at_least(self, 1, "batch_size", "num_threads")
        _check_at_least(self, 0, "num_workers")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Settings of ``vitctl predict``."""

    run: str | None = None
    """A run folder (its best/ is used) or a timm folder."""
    images: tuple[str, ...] = ()
    """Image files and folders, in the order of the answer."""
    model: str | None = None
    """Instead of ``run``: ``demo`` or a timm name."""
    weights: str = "pretrained"
    """With ``model``: pretrained, none, or a file."""
    top_k: int = 5
    """Classes per image, most probable first, >= 1."""
    batch_size: int = 64
    """Images at a time, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        _check_model_choice(self.run, self.model, self.weights)
        if not self.images:
            raise SettingError("No image is given; expected image files or folders after the run.")
        check_choice(self.device, DEVICES, what="--device")
        _check_at_least(self, 1, "top_k", "batch_size")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings of ``vitctl data``."""

    data: str | None = None
    """What to look at: anything that ``finetune --data`` takes."""
    image_root: str | None = None
    """Folder that a table's relative paths start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths; None finds it."""
    label_column: str | None = None
    """Column of classes; None finds it."""
    group_column: str | None = None
    """Column whose equal values stay on one side of the validation split."""
    group_pattern: str | None = None
    """The same, from the images' paths: a pattern with ``{group}``."""
    val_fraction: float | None = None
    """Share of the training images that ``finetune`` would hold out, 0 to below 1."""
    seed: int = 0
    """Of that split, >= 0."""
    out: str | None = None
    """Folder for the report and the contact sheet."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        if self.data is None:
            raise SettingError("No data are given; expected e.g. vitctl data photos/")
        _check_fraction(self.val_fraction)
        _check_one_grouping(self.group_column, self.group_pattern)
        _check_at_least(self, 0, "seed")
        _check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Settings of ``vitctl models``."""

    pattern: str | None = None
    """Part of a name, or a pattern with ``*``; None lists every name."""

    def __post_init__(self) -> None:
        _check_not_empty(self)


def _check_model_choice(run: str | None, model: str | None, weights: str) -> None:
    if (run is None) == (model is None):
        found = "neither" if run is None else "both"
        raise SettingError(f"Expected a run folder or --model NAME, one of them; found {found}.")
    if run is not None and weights != "pretrained":
        raise SettingError(
            f"--weights is {weights!r} beside a run folder, which has its own; expected --model with it."
        )


ConfigT = TypeVar("ConfigT")


def config_from_file(path: Path) -> FinetuneConfig:
    """Return the settings in a run's ``config.json`` (its ``vitctl`` and ``versions`` are not settings).

    Raises:
        SettingError: The file cannot be read, or holds an unknown or unusable setting.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"--config {path} cannot be read ({error}); expected the config.json of a run.") from error
    if not isinstance(document, dict):
        raise SettingError(f"--config {path} holds no settings; expected the config.json of a run.")
    known = {field.name: str(field.type) for field in fields(FinetuneConfig)}
    settings = {key: value for key, value in document.items() if key not in ("vitctl", "versions", "command")}
    for key, value in settings.items():
        if key not in known:
            raise SettingError(f"--config {path} has an unknown setting {key!r}.{did_you_mean(key, known)}")
        _check_type(key, value, known[key], path)
    return FinetuneConfig(**settings)


def _check_type(key: str, value: Any, kind: str, path: Path) -> None:
    allowed: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "None": (type(None),),
        "table": (dict,),
    }
    kinds = ["table" if "Mapping" in part else part.strip(" '<>").removeprefix("class '") for part in kind.split("|")]
    types = tuple(one for part in kinds for one in allowed[part])
    if not isinstance(value, types) or (isinstance(value, bool) and "bool" not in kinds):
        raise SettingError(f"{key} in --config {path} is {value!r}; expected {' or '.join(kinds)}.")


# what a file says of these was decided for another value of the option, or is contradicted by it
_FORGOTTEN = {
    "steps": ("epochs",),
    "epochs": ("steps",),
    "val": ("val_fraction",),
    "val_fraction": ("val",),
    "data": ("val", "flip", "image_root", "image_column", "label_column", "group_column", "group_pattern"),
    "group_column": ("group_pattern",),
    "group_pattern": ("group_column",),
    "class_weights": ("sampler",),
    "sampler": ("class_weights",),
    "model": ("weights", "image_size"),
    "recipe": ("recipe_settings", "lr", "batch_size", "steps", "epochs", "flip", "pos_embed_interp"),
}


def merge(base: FinetuneConfig, given: Mapping[str, Any]) -> FinetuneConfig:
    """Return ``base`` with the values ``given`` on the command line, which come first.

    What the file decided for another recipe, data or model than the one given is decided anew, and so is
    what a given value contradicts (``--epochs`` against the file's ``steps``).
    """
    defaults: dict[str, Any] = {field.name: field.default for field in fields(FinetuneConfig)}
    forgotten = {key for option in given if given[option] != defaults[option] for key in _FORGOTTEN.get(option, ())}
    return replace(base, **{key: defaults[key] for key in forgotten - set(given)}, **given)
