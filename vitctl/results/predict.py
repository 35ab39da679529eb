"""What ``vitctl predict`` returns: the most probable classes of each image."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import Result, key


@dataclass(frozen=True, repr=False)
class ClassProbability(Result):
    """A class and how probable it is."""

    class_name: str = field(metadata=key("class"))
    """The class; of a code (ImageNet's synsets) what it stands for."""
    probability: float
    """0-1."""


@dataclass(frozen=True, repr=False)
class Prediction(Result):
    """What one image shows."""

    image: str
    """Its file, as given or as found in a folder that was."""
    top: tuple[ClassProbability, ...]
    """Most probable first, at least one."""


@dataclass(frozen=True, repr=False)
class SkippedImage(Result):
    """An image without a prediction."""

    image: str
    """Its file, or a folder that holds no image."""
    reason: str
    """Why, in a few words."""


@dataclass(frozen=True, repr=False, kw_only=True)
class PredictResult(Result):
    """What the images show."""

    predictions: tuple[Prediction, ...]
    """In the order given."""
    skipped: tuple[SkippedImage, ...]
    """What could not be read."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
