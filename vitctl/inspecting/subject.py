"""What an analysis looks at: a model at its size, and images as that model is shown them.

Letters: B images in a batch, I pictures, H W px.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.data.loader import evaluation_batches
from vitctl.data.pixels import PixelTransform
from vitctl.data.source import Split
from vitctl.errors import SettingError, did_you_mean
from vitctl.models.block_anatomy import is_attention
from vitctl.models.geometry import Geometry
from vitctl.models.layers import Layer, layer_names
from vitctl.primitives.preprocessing import Preprocessing


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Attributes:
        model: A timm model in evaluation mode, on ``device``, float32. Analyses leave it as they found it.
        name: Short, for screens, titles and messages.
        geometry: Its image size, patch size, grid and prefix tokens.
        device: Where it computes.
    """

    model: nn.Module
    name: str
    geometry: Geometry
    device: torch.device

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens before the patches."""
        return self.geometry.num_prefix_tokens

    @property
    def kind(self) -> str:
        """``attention``, ``convolutions`` or ``other`` (an MLP-Mixer), by the modules it is made of."""
        modules = list(self.model.modules())
        if any(map(is_attention, modules)):
            return "attention"
        return "convolutions" if sum(isinstance(module, nn.Conv2d) for module in modules) > 1 else "other"


@dataclass(frozen=True)
class ImageStream:
    """Images in a fixed order, preprocessed for one model, as often as they are wanted.

    Attributes:
        split: Which images, in order.
        transform: From an RGB image to what the model sees.
        preprocessing: What ``transform`` does, for showing its results.
        batch_size: Images at a time; no result depends on it but where an analysis says so.
        num_workers: Processes that read images.
    """

    split: Split
    transform: PixelTransform
    preprocessing: Preprocessing
    batch_size: int
    num_workers: int

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batch_size: int | None = None) -> Iterator[Tensor]:
        """Yield (B, 3, H, W) float32 batches on the CPU, in order; the last may be short.

        Raises:
            DataError: An image cannot be read any more.
        """
        loader: Any = evaluation_batches(
            self.split, self.transform, batch_size=batch_size or self.batch_size, num_workers=self.num_workers
        )
        yield from loader

    def first(self, count: int) -> "ImageStream":
        """Return the first ``count`` of the images (all, where there are fewer)."""
        return replace(self, split=self.split.select(range(min(count, len(self.split)))))

    def names(self) -> list[str]:
        """Return what identifies each image to a person."""
        return self.split.image_names()

    def pictures(self, images: Tensor) -> np.ndarray:
        """Return preprocessed images as they look, (I, H, W, 3) uint8, from (I, 3, H, W) float32."""
        mean = torch.tensor(self.preprocessing.mean)[:, None, None]
        std = torch.tensor(self.preprocessing.std)[:, None, None]
        levels = ((images.cpu() * std + mean).clamp(0, 1) * 255).round().to(torch.uint8)
        return levels.movedim(1, -1).numpy()


def find_layer(layer: Layer, subject: Subject) -> Layer:
    """Return ``layer`` as the model's layers are named, a block as int.

    Raises:
        SettingError: There is none of that name; the sentence lists those there are.
    """
    known = {str(name): name for name in layer_names(subject.model)}
    if str(layer) not in known:
        last = len(known) - 3
        listed = f"embed, 0 to {last}, final" if len(known) > 1 else "final only (its blocks are not known)"
        raise SettingError(
            f"--layer {str(layer)!r} is no layer of {subject.name}; it has {listed}.{did_you_mean(str(layer), known)}",
            field="layer",
        )
    return known[str(layer)]
