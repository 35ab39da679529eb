"""What to train with where the user did not say: batch, length, rate; each with its reason.

The numbers come from a recipe; see ``vitctl/recipes``. What stands both there and as an option is decided here: the
option goes before the recipe. Everything here is plain arithmetic.
"""

from vitctl.models import choices
from vitctl.primitives.decision import Decision
from vitctl.primitives.durations import (
    batch_size_for,
    bit_hyperrule_steps,
    images_seen_transfer,
    steps_for_images,
)
from vitctl.recipes import SET, Recipe


def is_overridden(recipe: Recipe, path: str) -> bool:
    """Return whether the value of a recipe at ``SECTION.KEY`` is from ``--set``."""
    return recipe.sources.get(path) == SET


def _origin(recipe: Recipe, path: str, recipe_name: str) -> str:
    return f"{SET} {path}" if is_overridden(recipe, path) else f"recipe {recipe_name}"


def decide_batch_size(given: int | None, recipe: Recipe, num_train: int, *, recipe_name: str) -> Decision[int]:
    """Return the global batch."""
    if given is not None:
        return Decision(given, "given")
    length, origin = recipe.length, _origin(recipe, "length.batch_size", recipe_name)
    if length.batch_rule == "fixed":
        return Decision(length.batch_size, origin)
    size = batch_size_for(num_train, largest=length.batch_size)
    why = "" if size == length.batch_size else ", at most a quarter of the images"
    return Decision(size, f"{origin}{why}")


def decide_num_images_seen(
    steps: int | None,
    epochs: float | None,
    recipe: Recipe,
    num_train: int,
    batch_size: int,
    *,
    recipe_name: str,
) -> Decision[int]:
    """Return how many images the run shows, repeats counted; steps are that over the batch, rounded up."""
    if steps is not None:
        return Decision(steps * batch_size, "given")
    if epochs is not None:
        seen = max(1, round(epochs * num_train))
        short = seen % batch_size
        return Decision(seen, f"{epochs:g} epochs" + (f"; the last batch holds {short}" if short else ""))
    if recipe.length.steps_rule == "images-seen":
        wanted = images_seen_transfer(num_train)
        num_steps = steps_for_images(wanted, batch_size=batch_size)
        return Decision(num_steps * batch_size, f"recipe {recipe_name}: {wanted:,} images seen")
    if recipe.length.steps_rule == "bit-hyperrule":
        return Decision(bit_hyperrule_steps(num_train) * batch_size, f"BiT-HyperRule for {num_train:,} images")
    return Decision(recipe.length.steps * batch_size, _origin(recipe, "length.steps", recipe_name))


def decide_lr(given: float | None, recipe: Recipe, batch_size: int, *, recipe_name: str) -> Decision[float]:
    """Return the peak learning rate; a given one is used as it is, the recipe's (``--set`` too) follows the batch."""
    if given is not None:
        return Decision(given, "given, used as it is")
    rate, origin = recipe.rate, _origin(recipe, "rate.lr", recipe_name)
    lr = rate.peak_lr(batch_size)
    if batch_size == rate.lr_at_batch or rate.lr_scaling == "none":
        return Decision(lr, origin)
    why = f"{origin}: {rate.lr:g} at batch {rate.lr_at_batch}, {rate.lr_scaling} scaling"
    return Decision(lr, why + ("; --lr is used as it is" if is_overridden(recipe, "rate.lr") else ""))


def decide_interpolation(given: str | None, recipe: Recipe, *, weights: str, recipe_name: str) -> Decision[str]:
    """Return how position embeddings are resampled; ``weights`` is the weights spec."""
    path = "images.pos_embed_interp"
    by_recipe = Decision[str](recipe.images.pos_embed_interp, _origin(recipe, path, recipe_name))
    if given is None and is_overridden(recipe, path):
        return by_recipe
    return choices.decide_interpolation(given, weights=weights, otherwise=by_recipe)


def decide_flip(given: bool | None, recipe: Recipe, *, is_flippable: bool, recipe_name: str) -> Decision[bool]:
    """Return whether half of the training images are mirrored."""
    if given is not None:
        return Decision(given, "given")
    if recipe.images.flip and not is_flippable and not is_overridden(recipe, "images.flip"):
        return Decision(False, "the images seem to show digits or letters; --flip overrules")
    return Decision(recipe.images.flip, _origin(recipe, "images.flip", recipe_name))


def decide_head_start(given: str | None, recipe: Recipe) -> str:
    """Return how a new head starts: zero, random or ridge."""
    return given or recipe.head.init


def validation_steps(num_steps: int, num_validations: int) -> list[int]:
    """Return the steps after which to validate: evenly spaced, the last step among them.

    Example:
        >>> validation_steps(10, 3)
        [3, 7, 10]
    """
    return sorted({max(1, round(index * num_steps / num_validations)) for index in range(1, num_validations + 1)})
