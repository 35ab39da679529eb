"""Which model, at which size, resampled how, where the user did not say; each with its reason. Plain arithmetic.

Letters: N images, H W px.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vitctl.primitives.decision import Decision
from vitctl.settings.words import DEFAULT_INTERPOLATION, DEMO, PRETRAINED

PHOTO_SIDE_PX = 460  # from this median short side, 384 px has something to show
SMALL_AREA_PX = 96 * 96  # BiT's rule for small images, arXiv 1912.11370, section 3.3
HIGH_RESOLUTION_PX = 384  # arXiv 2010.11929, section 4.1
DEMO_SIDE_PX = 48  # grid 8x8 to 12x12
CPU_MODEL = "vit_small_patch16_224.augreg_in21k"
GPU_MODEL = "vit_base_patch16_224.augreg_in21k"
AS_TIMM = Decision[str](DEFAULT_INTERPOLATION, "as timm does")


def decide_model(given: str | None, *, has_data: bool, device_type: str) -> Decision[str]:
    """Return the model: the demo where no data are given either, else a pretrained ViT that suits the device."""
    if given is not None:
        return Decision(given, "given")
    if not has_data:
        return Decision(DEMO, "the embedded one: neither --data nor --model is given")
    if device_type == "cpu":
        return Decision(CPU_MODEL, "the small size, as there is no GPU; hours rather than days")
    return Decision(GPU_MODEL, "the ViT paper's family, pretrained on ImageNet-21k, Apache-2.0")


def decide_image_size(
    sizes: np.ndarray,
    pretrained: tuple[int, int],
    patch: tuple[int, int] | None,
    *,
    is_demo: bool,
    as_trained: str | None = None,
) -> Decision[tuple[int, int]]:
    """Return the size to fine-tune at.

    Args:
        sizes: (N, 2) int64, (H, W) px of the training images, N >= 1.
        pretrained: (H, W) px of the model.
        patch: (H, W) px per token, which divides the size; None where nothing has to.
        is_demo: Whether it is the embedded demo model.
        as_trained: Of a model that a run has brought to its size: the reason to keep it.
    """
    if as_trained is not None:
        return Decision(pretrained, as_trained)
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


def decide_interpolation(given: str | None, *, weights: str, otherwise: Decision[str] = AS_TIMM) -> Decision[str]:
    """Return how position embeddings are resampled.

    Args:
        given: What the user said.
        weights: ``pretrained``, ``none``, or a file: ``.npz`` is resampled as the authors' code does it.
        otherwise: For other weights.
    """
    if given is not None:
        return Decision(given, "given")
    return Decision("paper", "what the authors' code does to .npz weights") if weights.endswith(".npz") else otherwise


@dataclass(frozen=True)
class NamedModel:
    """A model to compare with others.

    Attributes:
        name: In results; with its weights where the same model is there twice.
        spec: For ``open_model``, and why this model.
        weights: ``pretrained``, ``none``, or a file.
    """

    name: str
    spec: Decision[str]
    weights: str


def name_models(
    given: Sequence[str] | None, weights: Sequence[str] | None, *, has_data: bool, device_type: str
) -> list[NamedModel]:
    """Return the models in order.

    Args:
        given: Their specs; None is one model, that of ``decide_model``.
        weights: None (pretrained), one for all of them, or one for each.
        has_data: See ``decide_model``.
        device_type: See ``decide_model``.
    """
    weights = tuple(weights or (PRETRAINED,))
    if given is None:
        model = decide_model(None, has_data=has_data, device_type=device_type)
        return [NamedModel(model.value, model, weights[0])]
    return [
        NamedModel(f"{spec} ({own})" if given.count(spec) > 1 else spec, Decision(spec, "given"), own)
        for spec, own in zip(given, weights if len(weights) > 1 else weights * len(given), strict=True)
    ]
