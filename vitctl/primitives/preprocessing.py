"""What a checkpoint expects of an image, as plain values.

Letters: H W px.
"""

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Preprocessing:
    """What happens to an image before the model sees it, in timm's words.

    The same object serves validation, ``evaluate`` and ``predict``, and its fields are what a checkpoint's
    ``config.json`` holds, so timm's own ``create_transform`` rebuilds it.
    ``vitctl.data.transforms.EvaluationTransform`` turns it into a function of an image.

    Attributes:
        image_size: (H, W) px that the model takes.
        interpolation: ``bicubic``, ``bilinear``...; always with antialias, as Pillow does it.
        crop_pct: The image is resized to ``image_size / crop_pct``, then the centre is cut out. 0-1.
        crop_mode: ``center`` keeps the aspect ratio; ``squash`` does not; ``border`` pads.
        mean: Per channel, of pixel values 0-1.
        std: Per channel, > 0.
        max_value: The value of a 16-bit image that is white, as are those above it, 1-65,535; None is 65,535. No part
            of timm's configuration: it says how a file becomes the RGB image that all of the above is done to.
    """

    image_size: tuple[int, int]
    interpolation: str
    crop_pct: float
    crop_mode: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    max_value: int | None = None

    def data_config(self) -> dict[str, Any]:
        """Return the fields under the names of timm's ``data_config``."""
        return {
            "input_size": (3, *self.image_size),
            "interpolation": self.interpolation,
            "crop_pct": self.crop_pct,
            "crop_mode": self.crop_mode,
            "mean": self.mean,
            "std": self.std,
        }

    def at(self, image_size: tuple[int, int]) -> "Preprocessing":
        """Return the same for a model that takes ``image_size``, (H, W) px."""
        return replace(self, image_size=image_size)

    def cropped(self, crop: str) -> "Preprocessing":
        """Return the same for ``model``; for ``squash`` images are resized whatever their aspect, nothing is cut."""
        return replace(self, crop_pct=1.0, crop_mode="squash") if crop == "squash" else self
