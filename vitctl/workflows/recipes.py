"""``vitctl recipes check``: what types and ranges do not say about a recipe's values, without a model or images."""

from vitctl.recipes import Recipe
from vitctl.training.optimizer_choice import check_optimizer
from vitctl.training.tuning import TuningOptions


def check_values(recipe: Recipe) -> None:
    """Check what is trained, then the optimiser, which timm knows, as ``vitctl finetune`` does before anything else.

    Raises:
        SettingError: One cannot be used.
    """
    TuningOptions().on(recipe)
    check_optimizer(recipe)
