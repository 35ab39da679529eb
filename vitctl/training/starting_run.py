"""The run whose weights a new training starts from: how it was trained, which the new one keeps where nothing is said.

Kept are the recipe with what was ``--set``, the batch, the size of the model, which weights are trained, and a rate
that was given beside the recipe. Not kept are ``--steps`` and ``--epochs``: they were the length of that training,
which is over, and the recipe says how long a new one is. What belongs to the images (``flip``, ``max_value``) is
decided by the images.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.errors import SettingError
from vitctl.models.run_folders import run_of
from vitctl.primitives.decision import Decision
from vitctl.primitives.documents import read_document
from vitctl.primitives.durations import batch_size_for
from vitctl.primitives.schemas import Count, Name, Positive, Schema
from vitctl.recipes import SET, Recipe, load_recipe, override, recipe_from_settings
from vitctl.training.tuning import BY_RECIPE, TuningChoice, TuningOptions


class _Settings(Schema):
    """What counts here of a run's ``config.json``; 0.1.0 says nothing of what was ``--set``, nor of what is trained."""

    recipe: Name
    recipe_settings: dict[str, Any] | None = None
    set: list[Name] | None = None
    batch_size: Count
    lr: Positive | None = None
    tune: Name | None = None
    layer_decay: Positive | None = None
    lr_scale: list[Name] | None = None
    freeze: list[Name] | None = None


@dataclass(frozen=True)
class StartingRun:
    """How a run was trained.

    Attributes:
        reason: For the header.
        recipe_name: Name or path of its recipe.
        recipe: Its values, with those of ``--set``.
        batch_size: Images per step.
        lr: Peak rate, where it was given beside the recipe; None where it is the recipe's.
        options: What was trained, said beside the recipe.
        tuning: What was trained, by both.
    """

    reason: str
    recipe_name: str
    recipe: Recipe
    batch_size: int
    lr: float | None
    options: TuningOptions = TuningOptions()
    tuning: TuningChoice = BY_RECIPE

    def batch(self, recipe: Recipe, num_train: int) -> Decision[int] | None:
        """Return the batch to keep, for ``num_train`` images; None where ``recipe`` has another rule for it."""
        own, now = self.recipe.length, recipe.length
        if (own.batch_size, own.batch_rule) != (now.batch_size, now.batch_rule):
            return None
        if self.batch_size <= num_train:
            return Decision(self.batch_size, self.reason)
        size = batch_size_for(num_train, largest=self.batch_size)
        return Decision(size, f"{self.reason} with {self.batch_size}, here at most a quarter of the images")

    def rate(self, recipe: Recipe, batch_size: int, tuning: TuningChoice) -> Decision[float] | None:
        """Return the peak rate to keep; None where it is the recipe's, or that, the batch or the mode is another."""
        if self.lr is None or (recipe.rate, batch_size) != (self.recipe.rate, self.batch_size):
            return None
        if tuning.tuning.mode != self.tuning.tuning.mode:
            return None
        return Decision(self.lr, f"{self.reason}, used as it is")


def starting_run(model: str) -> StartingRun | None:
    """Return how the run was trained that ``model`` names, itself or by its best/ or last/; None where it names none.

    Raises:
        SettingError: Its ``config.json`` cannot be used.
    """
    run = run_of(model)
    if run is None:
        return None
    path = run / "config.json"
    found = read_document(
        path,
        _Settings,
        error=_refusal,
        advice="expected the config.json of a run. --image-size, --recipe and --batch-size together say what it would",
    )
    return _trained_as(found, path, f"as {model} was trained")


def _trained_as(found: _Settings, path: Path, reason: str) -> StartingRun:
    if found.recipe_settings is None:
        recipe = load_recipe(found.recipe)
    else:
        recipe = recipe_from_settings(found.recipe_settings, where=f"recipe_settings of {path}")
    recipe = override(recipe, found.set or ())
    lists = (None if said is None else tuple(said) for said in (found.lr_scale, found.freeze))
    options = TuningOptions(found.tune, found.layer_decay, *lists)
    tuning, of_recipe = options.on(recipe), recipe.rate.peak_lr(found.batch_size)
    if recipe.sources.get("rate.lr") != SET:
        of_recipe, _ = tuning.scaled(of_recipe, "")
    lr = None if found.lr is None or math.isclose(found.lr, of_recipe) else found.lr
    return StartingRun(reason, found.recipe, recipe, found.batch_size, lr, options, tuning)


def _refusal(sentence: str) -> SettingError:
    return SettingError(sentence, field="model")
