"""Fit a loaded model to the task: its resolution, its head, its preprocessing.

Letters: H W px.
"""

from dataclasses import replace

from vitctl.models.build import LoadedModel, load_model, preprocessing_of, replace_head
from vitctl.models.geometry import Resolution, change_resolution, geometry_of
from vitctl.primitives.image_sizes import check_divisible
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.words import DEMO, PRETRAINED, RANDOM


def interpolation_for(weights: str) -> str:
    """Return how position embeddings are resampled unless told: as the authors' code does to ``.npz`` weights."""
    return "paper" if weights.endswith(".npz") else "bicubic-aa"


def load_at_size(
    spec: str,
    *,
    weights: str = PRETRAINED,
    image_size: tuple[int, int] | None = None,
    method: str | None = None,
    seed: int = 0,
) -> LoadedModel:
    """Return the model that ``spec`` names, with its weights loaded, at the image size it is to be used at.

    Args:
        spec: For ``load_model``.
        weights: ``pretrained``, ``none``, or a file.
        image_size: (H, W) px; None is its own.
        method: Interpolation of the position embeddings; None is that of ``interpolation_for``.
        seed: For random weights.

    Raises:
        ModelError: It cannot be loaded, or its size cannot change.
        SettingError: It cannot take the size.
    """
    loaded = load_model(spec, weights=weights, seed=seed)
    if image_size is not None:
        method = method or interpolation_for(weights)
        loaded, _ = fit_resolution(loaded, image_size, spec=spec, method=method, seed=seed)
    return loaded


def fit_resolution(
    loaded: LoadedModel, image_size: tuple[int, int], *, spec: str, method: str, seed: int
) -> tuple[LoadedModel, Resolution | None]:
    """Return the model at ``image_size``, and what that did to it.

    Pretrained weights are changed in place; see ``change_resolution``. Random weights of a model with a grid
    of patches are drawn anew at the size instead, as there is nothing to resample. With random weights there is
    no ``Resolution`` to report.

    Args:
        loaded: A model at the size it was pretrained at.
        image_size: (H, W) px wanted.
        spec: What ``loaded`` was loaded by, to build random weights again.
        method: Interpolation of the position embeddings.
        seed: For random weights.

    Raises:
        SettingError: The model cannot take the size.
        ModelError: Its size cannot change.
    """
    own = geometry_of(loaded.model)
    if loaded.report is not None or own.grid is None:
        resolution = change_resolution(loaded.model, image_size, method=method, name=loaded.name)
        return loaded, resolution if loaded.report is not None else None
    if image_size == own.image_size:
        return loaded, None
    if own.patch_size is not None:
        check_divisible(image_size, own.patch_size, model=loaded.name)
    return load_model(spec, weights=RANDOM, image_size=image_size, seed=seed), None


def fit_head(
    loaded: LoadedModel, class_names: tuple[str, ...], *, method: str, seed: int, is_given: bool = False
) -> tuple[str, str]:
    """Give the model a head for ``class_names`` unless it has one; return what was done, and why.

    A run or timm folder whose classes are these keeps its head. The demo model's never is: its classes are
    numbers that stand for clothes.

    Args:
        loaded: The model; changed in place.
        class_names: Outputs wanted, in order.
        method: ``zero`` or ``random``, see ``replace_head``; ``ridge`` starts as zeros, to be filled in later.
        seed: For ``random``.
        is_given: The user asked for the method, so that no head is kept.
    """
    if loaded.class_names == class_names and loaded.name != DEMO and not is_given:
        return "kept", f"its {len(class_names)} classes are these"
    replace_head(loaded.model, len(class_names), method="zero" if method == "ridge" else method, seed=seed)
    why = "random weights" if loaded.report is None else "the pretrained classes are others"
    how = "closed form (ridge)" if method == "ridge" else f"{method} initialisation"
    return f"new, {how}, {len(class_names)} outputs", "given" if is_given else why


def fit_preprocessing(loaded: LoadedModel, image_size: tuple[int, int], *, crop: str) -> Preprocessing:
    """Return the model's own preprocessing at ``image_size``.

    Args:
        loaded: The model.
        image_size: (H, W) px.
        crop: ``model`` keeps its crop; ``squash`` resizes to the size without regard to the aspect ratio.
    """
    own = replace(preprocessing_of(loaded.model), image_size=image_size)
    return replace(own, crop_pct=1.0, crop_mode="squash") if crop == "squash" else own
