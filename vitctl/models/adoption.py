"""A model takes the patch grid and the head of the weights it will be filled with, so that nothing is resampled."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.anatomy import num_embedded_prefix_tokens
from vitctl.models.geometry import MOST_PLACES, geometry_of, position_table
from vitctl.primitives.memory import check_fits


def head_names(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the classifier layers, as timm's configuration of the model has them."""
    classifier = getattr(model, "pretrained_cfg", {}).get("classifier") or ()
    return (classifier,) if isinstance(classifier, str) else tuple(classifier)


def is_head(model: nn.Module, key: str) -> bool:
    """Return whether the tensor ``key`` is of a classifier layer."""
    return any(key.startswith(f"{head}.") for head in head_names(model))


def adopt_head(model: nn.Module, state: Mapping[str, Any]) -> None:
    """Give ``model`` as many outputs as the head in ``state`` has, if there is one."""
    weight = next((state.get(f"{head}.weight") for head in head_names(model)), None)
    if isinstance(weight, Tensor) and (weight.ndim == 2 or weight.shape[2:] == (1, 1)):  # linear, or a 1x1 convolution
        what = f"A head of {weight.shape[0]:,} outputs"
        check_fits(4 * weight.numel(), what=what, error=ModelError, advice="The file may be damaged")
        adopt_num_classes(model, weight.shape[0])


def adopt_num_classes(model: nn.Module, num_classes: int) -> None:
    """Give ``model`` a new head where it has another number of outputs."""
    if num_classes != getattr(model, "num_classes", None):
        model.reset_classifier(num_classes)  # type: ignore[operator]  # timm's method


def adopt_grid(model: nn.Module, *, num_tokens: int, path: Path, name: str, advice: str = "") -> None:
    """Give ``model`` the patch grid that ``num_tokens`` position embeddings stand for, if its grid can change.

    Args:
        model: A timm model.
        num_tokens: Rows of the file's table.
        path: The file, for messages.
        name: The model's name, for messages.
        advice: What to try where they stand for none: a sentence with a space before it.

    Raises:
        ModelError: They are those of no square grid, or of one of too many places.
    """
    table, patch = position_table(model), geometry_of(model).patch_size
    if table is None or table.shape[1] == num_tokens or patch is None or not hasattr(model, "set_input_size"):
        return
    num_patches = num_tokens - num_embedded_prefix_tokens(model)
    side = math.isqrt(max(num_patches, 0))
    if not side or side * side != num_patches:
        raise ModelError(
            f"{path} has {num_tokens} position embeddings; {name} has {num_embedded_prefix_tokens(model)} prefix "
            f"tokens among them, and the {num_patches} left are no square grid."
            + (advice or " Give a rectangular grid as a timm folder (config.json beside the weights).")
        )
    if side > MOST_PLACES:
        raise ModelError(
            f"{path} has position embeddings of {side}x{side} places; expected at most {MOST_PLACES}x{MOST_PLACES}, as "
            f"every place is compared with every other. Are they those of {name}?"
        )
    model.set_input_size(img_size=(side * patch[0], side * patch[1]))  # type: ignore[operator]
