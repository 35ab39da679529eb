"""A model at the size it is used at: the one way to open one, with its weights, its interpolation and the reason.

Letters: C classes, H W px.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from vitctl.models.build import LoadedModel, load_model, names_of_outputs
from vitctl.models.choices import decide_interpolation
from vitctl.models.geometry import Geometry, Resolution, change_resolution, geometry_of, slow_note
from vitctl.models.run_folders import stopped_note
from vitctl.models.weights_fit import unused_note
from vitctl.primitives.decision import Decision
from vitctl.primitives.image_sizes import check_divisible
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.words import PRETRAINED


@dataclass(frozen=True)
class PreparedModel:
    """A model at the size it is used at.

    Attributes:
        loaded: The model, on the CPU, in evaluation mode, and what its files say of it.
        spec: What it was opened by.
        weights: ``pretrained``, ``none``, or a file.
        seed: Of random weights.
        interpolation: How its position embeddings are resampled, and why so.
        model_args: Arguments of timm's class, instead of those that the name stands for.
        is_saved: Whether it will be trained and saved; see ``load_model``.
        resolution: What changing the size did; None before, and for random weights, which are built at their size.
    """

    loaded: LoadedModel
    spec: str
    weights: str
    seed: int
    interpolation: Decision[str]
    model_args: Mapping[str, Any] = field(default_factory=dict)
    is_saved: bool = False
    resolution: Resolution | None = None

    @property
    def model(self) -> nn.Module:
        """The timm model."""
        return self.loaded.model

    @property
    def name(self) -> str:
        """What to call it on screen and in files."""
        return self.loaded.name

    @cached_property
    def geometry(self) -> Geometry:
        """Its image size, patch, grid and prefix tokens."""
        return geometry_of(self.model)

    @property
    def image_size(self) -> tuple[int, int]:
        """(H, W) px."""
        return self.geometry.image_size

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """Sentences that its user should not miss: of its weights, of a stopped run, of a size that takes long."""
        stopped, report = stopped_note(self.spec) if self.weights == PRETRAINED else None, self.loaded.report
        unused = unused_note(report.unexpected, source=report.source) if report is not None else None
        slow = slow_note(self.geometry, name=self.name)
        told = (*(report.notes if report is not None else ()), unused, stopped, slow)
        return tuple(note for note in told if note is not None)

    @property
    def class_names(self) -> tuple[str, ...]:
        """C names in the order of its outputs; numbers where they are not known.

        Raises:
            ModelError: It has no classifier.
        """
        return names_of_outputs(self.loaded, self.spec)

    @property
    def preprocessing(self) -> Preprocessing:
        """What it expects of an image: its files' word, at its size (which a weights file may have changed)."""
        return self.loaded.preprocessing.at(self.image_size)

    def at(self, image_size: tuple[int, int], *, interpolation: Decision[str] | None = None) -> "PreparedModel":
        """Return the model at another size.

        Pretrained weights are changed in place; see ``change_resolution``. Random weights of a model with a grid of
        patches are drawn anew at the size instead, as there is nothing to resample.

        Args:
            image_size: (H, W) px wanted.
            interpolation: Of the position embeddings, where it was settled later.

        Raises:
            SettingError: The model cannot take the size.
            ModelError: Its size cannot change.
        """
        how, own, is_random = interpolation or self.interpolation, self.geometry, self.loaded.report is None
        if not is_random or own.grid is None:
            resolution = change_resolution(self.model, image_size, method=how.value, name=self.name)
            return replace(self, interpolation=how, resolution=None if is_random else resolution)
        if image_size == own.image_size:
            return self
        if own.patch_size is not None:
            check_divisible(image_size, own.patch_size, model=self.name)
        loaded = load_model(
            self.spec,
            weights=self.weights,
            image_size=image_size,
            seed=self.seed,
            model_args=self.model_args,
            is_saved=self.is_saved,
        )
        loaded.model.eval()
        return replace(self, loaded=loaded)


def open_model(
    spec: str,
    *,
    weights: str = PRETRAINED,
    image_size: tuple[int, int] | None = None,
    interpolation: str | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    is_saved: bool = False,
) -> PreparedModel:
    """Return the model that ``spec`` names, with its weights loaded, at the image size it is to be used at.

    Args:
        spec: A run folder, a folder of timm or transformers, ``demo``, a timm name, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none``, or a file; see ``load_weights_file``.
        image_size: (H, W) px; None is its own.
        interpolation: Of the position embeddings; None is that of ``decide_interpolation``.
        seed: For random weights.
        model_args: Arguments of timm's class, instead of those that the name stands for.
        is_saved: Whether it will be trained and saved; see ``load_model``.

    Raises:
        ModelError: It cannot be loaded, or its size cannot change.
        SettingError: It cannot take the size, or an argument.
    """
    arguments = dict(model_args or {})
    loaded = load_model(spec, weights=weights, seed=seed, model_args=arguments, is_saved=is_saved)
    loaded.model.eval()
    how = decide_interpolation(interpolation, weights=weights)
    opened = PreparedModel(loaded, spec, weights, seed, how, arguments, is_saved)
    return opened.at(image_size or opened.image_size)
