"""Which runs may be averaged: they ended as planned, and began as one (arXiv 2203.05482, section 2)."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vitctl.errors import DataError, SettingError
from vitctl.recipes import load_recipe, override, recipe_from_settings
from vitctl.run_folders.kept_logits import KeptLogits
from vitctl.run_folders.seen import FINISHED, SeenRun
from vitctl.settings.option import option_of
from vitctl.settings.words import RANDOM
from vitctl.sweeping.scores import said_by

_ONE_START = (
    "data", "val", "val_fraction", "dev_fraction", "split_seed", "image_column", "label_column", "class_depth",
    "group_column", "group_pattern", "max_value", "model", "weights", "model_arg", "image_size", "pos_embed_interp",
    "pool", "head", "tune", "freeze",
)  # fmt: skip
_OF_THE_RECIPE = ("head.init", "head.pool", "images.size", "tuning.mode", "tuning.freeze")
_MAY_END_EARLY = ("time_limit", "patience")
_DRAWN_HEAD, _DRAWN_POOL = "random", "map"  # weights of these are drawn, by the seed
_ANY_RECIPE = "transfer"  # of the default recipes none draws a head


def check_may_be_averaged(base: Mapping[str, Any], settings: Sequence[Mapping[str, Any]], *, num_seeds: int) -> None:
    """Refuse a soup of which the settings tell that its runs cannot be averaged, before anything is trained.

    Args:
        base: What was given for all runs, by field.
        settings: Of each cell what differs from others, by KEY of the grid.
        num_seeds: Of each cell.

    Raises:
        SettingError: They end early, or do not begin as one.
    """
    keys = {key for one in settings for key in one}
    for name in _MAY_END_EARLY:
        if base.get(name) is not None or name in keys:
            raise SettingError(
                f"--soup and {option_of(name)} are both given; only runs of full length are averaged. Keep one.",
                field="soup",
            )
    differing = sorted(keys.intersection((*_ONE_START, *_OF_THE_RECIPE)))
    if differing:
        raise SettingError(
            f"--soup is given, and the grid has {differing[0]}; only runs of one start are averaged: of one model, head"
            " and pooling, on the same images. Leave one of them out.",
            field="soup",
        )
    drawn = _drawn_by(base) if num_seeds > 1 else None
    if drawn is not None:
        raise SettingError(
            f"--soup is given, and {drawn}, which every seed draws otherwise; only runs of one start are averaged. "
            "Give one seed, or another start.",
            field="soup",
        )


def _drawn_by(base: Mapping[str, Any]) -> str | None:
    """Return what of the start of runs with these settings is drawn by their seed; None where nothing is."""
    if base.get("weights") == RANDOM:
        return f"--weights {RANDOM}"
    head = override(load_recipe(base.get("recipe") or _ANY_RECIPE), base.get("set") or ()).head
    if (base.get("head") or head.init) == _DRAWN_HEAD:
        return f"a {_DRAWN_HEAD} head"
    return "attention pooling" if (base.get("pool") or head.pool) == _DRAWN_POOL else None


def check_ingredients(runs: Sequence[SeenRun]) -> KeptLogits:
    """Return what the first of the runs says of the development images, after checking that they may be averaged.

    Raises:
        SettingError: One ended early, or began otherwise than the first.
        DataError: A run's images are not known, or are others than the first's.
    """
    first = runs[0]
    for run in runs:
        _check_length(run)
        for name in _ONE_START:
            if run.config.get(name) != first.config.get(name):
                raise SettingError(_other_start(first, run, option_of(name)), field="soup")
    heads = [_head_start(run) for run in runs]
    for run, head in zip(runs, heads, strict=True):
        is_head_drawn = head[0] == _DRAWN_HEAD or head[1] == _DRAWN_POOL
        is_drawn = is_head_drawn or run.config.get("weights") == RANDOM
        if head != heads[0] or (is_drawn and run.config.get("seed") != first.config.get("seed")):
            what = "the start of its head" if head != heads[0] or is_head_drawn else "its random weights"
            raise SettingError(_other_start(first, run, what), field="soup")
    kept = [_images_of(run.path) for run in runs]
    for run, one in zip(runs, kept, strict=True):
        if (one.hashes, one.class_names) != (kept[0].hashes, kept[0].class_names):
            raise DataError(
                f"{run.path} was judged on other images, or other classes, than {first.path}; a soup needs the same."
            )
    return kept[0]


def _head_start(run: SeenRun) -> tuple[str, str]:
    """Return how a run's head starts, and what it sees of the tokens."""
    settings = run.config.get("recipe_settings") or {}
    head = recipe_from_settings(settings, where=f"recipe_settings of {run.path / 'config.json'}").head
    return str(run.config.get("head") or head.init), str(run.config.get("pool") or head.pool)


def _check_length(run: SeenRun) -> None:
    taken, planned = run.summary.get("last", {}).get("step"), run.summary.get("steps")
    if run.state != FINISHED:
        raise SettingError(f"{run.path} is {run.state}; a soup needs finished runs.", field="soup")
    if run.config.get("time_limit") is not None or taken != planned:
        how = f"took {taken} of {planned} steps" if taken != planned else "was as long as --time-limit allowed"
        raise SettingError(
            f"{run.path} {how}; only runs of full length are averaged. Leave out --soup, or what ends a run early.",
            field="soup",
        )


def _other_start(first: SeenRun, other: SeenRun, what: str) -> str:
    return (
        f"{other.path} differs from {first.path} in {what}; only runs of one start are averaged. Leave out --soup, or "
        "what differs."
    )


def _images_of(path: Path) -> KeptLogits:
    kept = said_by(path)
    if kept is None:
        raise DataError(f"{path} keeps nothing of the images that it was judged on; a soup needs development images.")
    return kept
