"""A model as one analysis is shown it: at its size, with the images and the pictures that it looks at.

Letters: I pictures, H W px.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.prepared import PreparedModel


@dataclass(frozen=True)
class View:
    """A model, and images to show it.

    Attributes:
        subject: The model.
        opened: The same model with what its files say of it.
        open_images: Returns the images, in order, as the model is shown them.
        num_pictures: How many of them figures show; None is all.
    """

    subject: Subject
    opened: PreparedModel
    open_images: Callable[[], ImageStream]
    num_pictures: int | None

    @cached_property
    def images(self) -> ImageStream:
        """The images; read when they are first wanted."""
        return self.open_images()

    @property
    def pictures(self) -> Tensor:
        """Those that figures show, preprocessed, (I, 3, H, W)."""
        shown = self.images if self.num_pictures is None else self.images.first(self.num_pictures)
        return torch.cat(list(shown.batches()))

    @property
    def all_pictures(self) -> Tensor:
        """All images, preprocessed, (I, 3, H, W)."""
        return torch.cat(list(self.images.batches()))

    def with_pictures(self, findings: Findings, pictures: Tensor) -> Findings:
        """Return the findings with the first images, (I, 3, H, W) as preprocessed, which they are about."""
        names = np.array(self.images.first(len(pictures)).names())
        arrays = {**findings.arrays, "pictures": self.images.pictures(pictures), "picture_names": names}
        meanings = {
            **findings.meanings,
            "pictures": "(I, H, W, 3) uint8, the images as the model was shown them",
            "picture_names": "(I,) their names",
        }
        return replace(findings, arrays=arrays, meanings=meanings)
