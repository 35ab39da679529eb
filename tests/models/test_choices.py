"""Which model and size are taken where the user did not say, with the reason shown."""

import numpy as np
import pytest

from vitctl.models.choices import decide_image_size, name_models


def sizes(height: int, width: int) -> np.ndarray:
    return np.array([[height, width]] * 3, dtype=np.int64)


@pytest.mark.parametrize(
    ("image", "pretrained", "patch", "expected", "reason"),
    [
        ((480, 640), (224, 224), (16, 16), (384, 384), "median short side is 480 px"),
        ((480, 640), (224, 224), (14, 14), (392, 392), "median short side is 480 px"),  # 28 patches, not 27.4
        ((480, 640), (384, 384), (16, 16), (384, 384), "high already"),
        ((480, 640), (512, 512), (16, 16), (512, 512), "high already"),
        ((459, 640), (224, 224), (16, 16), (224, 224), "median short side is only 459 px"),
        ((32, 32), (224, 224), (16, 16), (224, 224), "the images are small"),
        ((480, 640), (225, 225), None, (384, 384), "median short side is 480 px"),  # a CNN: nothing is rounded
        ((459, 640), (225, 225), None, (225, 225), "median short side is only 459 px"),
    ],
)
def test_image_size__follows_the_images(
    image: tuple[int, int],
    pretrained: tuple[int, int],
    patch: tuple[int, int] | None,
    expected: tuple[int, int],
    reason: str,
) -> None:
    decision = decide_image_size(sizes(*image), pretrained, patch, is_demo=False)
    assert decision.value == expected
    assert reason in decision.reason


def test_image_size__one_huge_image_does_not_decide() -> None:
    images = np.array([[100, 100], [100, 100], [4000, 4000]], dtype=np.int64)
    assert decide_image_size(images, (224, 224), (16, 16), is_demo=False).value == (224, 224)


def test_image_size__the_demo_goes_to_its_higher_resolution_once() -> None:
    assert decide_image_size(sizes(8, 8), (32, 32), (4, 4), is_demo=True).value == (48, 48)
    assert decide_image_size(sizes(8, 8), (48, 48), (4, 4), is_demo=True).value == (48, 48)


@pytest.mark.parametrize(
    ("models", "weights", "expected"),
    [
        (("a", "b"), None, [("a", "a", "pretrained"), ("b", "b", "pretrained")]),
        (("a", "b"), ("none",), [("a", "a", "none"), ("b", "b", "none")]),
        (("a", "a"), ("x.npz", "none"), [("a (x.npz)", "a", "x.npz"), ("a (none)", "a", "none")]),
        (None, ("none",), [("demo", "demo", "none")]),
    ],
)
def test_models__are_named_apart(
    models: tuple[str, ...] | None, weights: tuple[str, ...] | None, expected: list[tuple[str, str, str]]
) -> None:
    found = name_models(models, weights, has_data=False, device_type="cpu")
    assert [(one.name, one.spec.value, one.weights) for one in found] == expected
