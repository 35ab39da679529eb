"""Image sizes that a recipe asks for: one to train at, or several, each for an equal share of the steps.

Sources: small images first, arXiv 2104.00298 (EfficientNetV2), which makes the augmentation stronger with the size, and
arXiv 1906.06423 (FixRes), which trains the head and norms alone at the last; neither is done here.
"""

from vitctl.errors import SettingError
from vitctl.models.other_sizes import check_other_sizes
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.decision import Decision
from vitctl.primitives.image_sizes import check_divisible, format_size
from vitctl.training.plan import GIVEN


def check_sizes(opened: PreparedModel, wanted: Decision[tuple[int, int]] | None, sizes: tuple[int, ...]) -> None:
    """Check that a model can be trained at what is wanted, before images are read.

    Args:
        opened: The model.
        wanted: (H, W) px to train at; None where that is the model's own, or follows from the images.
        sizes: px of the recipe's ``length.sizes``.

    Raises:
        SettingError: The patch does not divide a size, the model takes images of one size only, or ``sizes`` ends at
            another size than the one to train at.
    """
    own = opened.geometry
    if wanted is not None and own.patch_size is not None and wanted.value != own.image_size:
        is_given = wanted.reason == GIVEN
        check_divisible(
            wanted.value,
            own.patch_size,
            model=opened.name,
            what="--image-size" if is_given else "images.size",
            field="image_size" if is_given else "set",
        )
    if not sizes:
        return
    last = own.image_size if wanted is None else wanted.value
    if last != (sizes[-1], sizes[-1]):
        why = f" ({wanted.reason})" if wanted is not None else ", as the model's run was"
        raise SettingError(
            f"length.sizes ends at {sizes[-1]} px, but the image size is {format_size(last)}{why}; expected the same. "
            f"Try --set length.sizes=[..., {format_size(last)}], or leave one of the two out.",
            field="image_size",
        )
    if len(sizes) > 1:
        check_other_sizes(opened.model, sizes, name=opened.name)


def check_steps(sizes: tuple[int, ...], num_steps: int) -> None:
    """Check that there is a step for every size.

    Raises:
        SettingError: There are fewer steps than ``sizes``, px.
    """
    if len(sizes) > num_steps:
        raise SettingError(
            f"length.sizes has {len(sizes)} sizes, but the run has {num_steps} step{'s' * (num_steps > 1)}; expected "
            "a step or more for each. Try fewer sizes, or more --steps.",
            field="steps",
        )
