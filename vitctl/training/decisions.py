"""What to train with where the user did not say: batch, length, rate, image size; each with its reason.

The numbers come from a recipe; see ``vitctl/recipes``. What stands both there and as an option is decided here: the
option goes before the recipe. Everything here is plain arithmetic.
"""

import math
from typing import Generic, NamedTuple, TypeVar

import numpy as np

from vitctl.primitives.durations import (
    batch_size_for,
    bit_hyperrule_steps,
    images_seen_transfer,
    steps_for_images,
)
from vitctl.recipes import SET, Recipe
from vitctl.settings.words import DEMO

T = TypeVar("T")

PHOTO_SIDE_PX = 460  # from this median short side, 384 px has something to show
SMALL_AREA_PX = 96 * 96  # BiT's rule for small images, arXiv 1912.11370, section 3.3
HIGH_RESOLUTION_PX = 384  # arXiv 2010.11929, section 4.1
DEMO_SIDE_PX = 48  # grid 8x8 to 12x12
CPU_MODEL = "vit_small_patch16_224.augreg_in21k"
GPU_MODEL = "vit_base_patch16_224.augreg_in21k"


class Decision(NamedTuple, Generic[T]):
    """A value and why it is that."""

    value: T
    reason: str


def decide_model(given: str | None, *, has_data: bool, device_type: str) -> Decision[str]:
    """Return the model: the demo where no data are given either, else a pretrained ViT that suits the device."""
    if given is not None:
        return Decision(given, "given")
    if not has_data:
        return Decision(DEMO, "the embedded one: neither --data nor --model is given")
    if device_type == "cpu":
        return Decision(CPU_MODEL, "the small size, as there is no GPU; hours rather than days")
    return Decision(GPU_MODEL, "the ViT paper's family, pretrained on ImageNet-21k, Apache-2.0")


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


def decide_image_size(
    sizes: np.ndarray, pretrained: tuple[int, int], patch: tuple[int, int] | None, *, is_demo: bool
) -> Decision[tuple[int, int]]:
    """Return the size to fine-tune at.

    Args:
        sizes: (N, 2) int64, (H, W) px of the training images, N >= 1.
        pretrained: (H, W) px of the model.
        patch: (H, W) px per token, which divides the size; None where nothing has to.
        is_demo: Whether it is the embedded demo model.
    """
    if is_demo and pretrained[0] < DEMO_SIDE_PX:
        return Decision((DEMO_SIDE_PX, DEMO_SIDE_PX), "the demo's higher resolution")
    median_side = float(np.median(sizes.min(axis=1)))
    median_area = float(np.median(sizes.prod(axis=1)))
    high = tuple(math.ceil(HIGH_RESOLUTION_PX / side) * side for side in patch or (1, 1))
    if median_side >= PHOTO_SIDE_PX and pretrained[0] < high[0] and pretrained[1] < high[1]:
        return Decision((high[0], high[1]), f"the images' median short side is {median_side:.0f} px")
    if median_area < SMALL_AREA_PX:
        return Decision(pretrained, f"the images are small (median area {math.sqrt(median_area):.0f}^2 px)")
    if median_side >= PHOTO_SIDE_PX:
        return Decision(pretrained, "as pretrained, which is high already")
    return Decision(pretrained, f"as pretrained: the images' median short side is only {median_side:.0f} px")


def decide_interpolation(given: str | None, recipe: Recipe, *, weights: str, recipe_name: str) -> Decision[str]:
    """Return how position embeddings are resampled; ``weights`` is the weights spec."""
    if given is not None:
        return Decision(given, "given")
    path = "images.pos_embed_interp"
    if weights.endswith(".npz") and not is_overridden(recipe, path):
        return Decision("paper", "what the authors' code does to .npz weights")
    return Decision(recipe.images.pos_embed_interp, _origin(recipe, path, recipe_name))


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
