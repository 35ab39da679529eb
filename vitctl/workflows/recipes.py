"""``vitctl recipes check``: what types and ranges do not say about a recipe's values, without a model or images."""

from vitctl.recipes import Recipe
from vitctl.training.optimizer_choice import check_optimizer


def check_values(recipe: Recipe) -> None:
    """Check the values that libraries know the names of, as ``vitctl finetune`` does before anything else.

    Raises:
        SettingError: One cannot be used.
    """
    check_optimizer(recipe)
