"""The header's row on what is done to training images: all that is on, in that order, and who says so."""

from itertools import groupby

from vitctl.conversation import Setting
from vitctl.data.augmentation import JITTER_OF_THREE
from vitctl.primitives.augment_specs import NONE, THREE, known_as
from vitctl.recipes import SET
from vitctl.recipes.sections import Images
from vitctl.training.plan import is_overridden
from vitctl.training.prepared_run import PreparedRun


def augmentation_setting(run: PreparedRun) -> Setting:
    """Return the row."""
    images, recipe, recipe_name = run.plan.values.images, run.plan.values, run.plan.recipe.value
    named = _named(images)
    reasons = [f"flip: {run.plan.flip.reason}"]
    for is_set, keys in groupby(named, lambda key: is_overridden(recipe, f"images.{key}")):
        reasons.append(f"{', '.join(keys)}: {SET if is_set else f'recipe {recipe_name}'}")
    parts = [images.crop, "flip" if run.job.flip else "no flip", *named.values()]
    return Setting("augmentation", ", ".join(parts), "; ".join(reasons))


def _named(images: Images) -> dict[str, str]:
    """Return what is on beside crop and flip, in words, by its key."""
    own_jitter = f", colour jitter {JITTER_OF_THREE}" if images.augment == THREE and not images.color_jitter else ""
    known = {
        "rotate": f"turns to {images.rotate:g} degrees",
        "translate": f"shifts to {images.translate:g} of a side",
        "zoom": f"zooms to {images.zoom:g}",
        "shear": f"shears to {images.shear:g} degrees",
        "augment": f"{images.augment} ({known_as(images.augment)}{own_jitter})",
        "color_jitter": f"colour jitter {images.color_jitter:g}",
        "erasing": f"erasing {images.erasing:g}",
    }
    return {key: words for key, words in known.items() if getattr(images, key) not in (0, NONE)}
