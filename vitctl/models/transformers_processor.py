"""The ``preprocessor_config.json`` of transformers' image processors, as timm says what a model expects of an image.

Letters: H W px.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from vitctl.errors import ModelError
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import path_exists
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.schemas import Count, Positive, Schema

FILE = "preprocessor_config.json"
_ADVICE = "expected transformers' preprocessor_config.json, as save_pretrained writes it"
_HALF = (0.5, 0.5, 0.5)  # ViTImageProcessor's, DeiTImageProcessor's: what they take where nothing is said
_FILTERS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")  # by Pillow's numbers
_BILINEAR = 2

Channels = Annotated[list[float], Field(min_length=3, max_length=3)]
Sides = Count | dict[str, Count | None] | None


class Processor(Schema):
    """The keys that are read."""

    do_resize: bool = True
    size: Sides = None
    resample: Annotated[int, Field(ge=0, lt=len(_FILTERS))] | None = None
    do_center_crop: bool | None = None
    crop_size: Sides = None
    do_rescale: bool = True
    rescale_factor: Positive = 1 / 255
    do_normalize: bool = True
    image_mean: Channels | None = None
    image_std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None


@dataclass(frozen=True)
class Expected:
    """What a model expects of an image.

    Attributes:
        preprocessing: In timm's words.
        notes: What of the file is otherwise here, in sentences.
    """

    preprocessing: Preprocessing
    notes: tuple[str, ...] = ()


def read_processor(folder: Path, image_size: tuple[int, int]) -> Expected:
    """Return what the processor beside a model does to an image.

    Args:
        folder: Of the model.
        image_size: (H, W) px of the model.

    Raises:
        ModelError: The file is none, or scales pixels to another range than 0 to 1 before it normalises.
    """
    path = folder / FILE
    if not path_exists(str(path)):
        found = Preprocessing(image_size, _FILTERS[_BILINEAR], 1.0, "squash", _HALF, _HALF)
        return Expected(found, (f"{folder} has no {FILE}; images are prepared as ViTImageProcessor does by itself.",))
    said = read_document(path, Processor, error=ModelError, advice=_ADVICE)
    if not said.do_rescale or not math.isclose(said.rescale_factor, 1 / 255, rel_tol=1e-3):
        raise ModelError(
            f"{path} has the rescale_factor {said.rescale_factor if said.do_rescale else 'of no rescaling'}; expected "
            "1/255, which brings pixels to 0 to 1. Name the weights with --model NAME --weights instead."
        )
    crop_pct, crop_mode, output = _geometry(said, image_size)
    notes = []
    if output != image_size:
        notes.append(
            f"{path} cuts images to {format_size(output)} px, and the model's positions are for "
            f"{format_size(image_size)}, which is used; --image-size {format_size(output)} is what transformers does."
        )
    if not said.do_resize:
        notes.append(f"{path} says do_resize false; images are resized to the model's {format_size(image_size)} px.")
    mean = tuple(said.image_mean or _HALF) if said.do_normalize else (0.0, 0.0, 0.0)
    std = tuple(said.image_std or _HALF) if said.do_normalize else (1.0, 1.0, 1.0)
    resample = _BILINEAR if said.resample is None else said.resample
    found = Preprocessing(image_size, _FILTERS[resample], crop_pct, crop_mode, _three(mean), _three(std))
    return Expected(found, tuple(notes))


def _three(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def _geometry(said: Processor, image_size: tuple[int, int]) -> tuple[float, str, tuple[int, int]]:
    """Return timm's share and manner of the cut, and the (H, W) px that come out of the processor."""
    is_cropped = said.do_center_crop if said.do_center_crop is not None else said.crop_size is not None
    if isinstance(said.size, dict) and "max_height" in said.size:
        return 1.0, "border", _pair(said.crop_size) or image_size
    if isinstance(said.size, dict) and said.size.get("shortest_edge"):
        edge = int(said.size["shortest_edge"] or 0)
        output = (_pair(said.crop_size) if is_cropped else None) or (edge, edge)
        return _share(min(output), edge), "center", output
    scaled = _pair(said.size) or image_size
    output = (_pair(said.crop_size) if is_cropped else None) or scaled
    return _share(output[0], scaled[0]), "squash", output


def _pair(size: Any) -> tuple[int, int] | None:
    """Return (H, W) of a size as transformers writes it; None where it says none."""
    if isinstance(size, dict):
        height, width = size.get("height"), size.get("width")
        return None if height is None or width is None else (height, width)
    return None if size is None else (size, size)


def _share(output: int, scaled: int) -> float:
    """Return the share of the resized side that is kept, so that timm, which rounds down, resizes to ``scaled``."""
    share = output / scaled
    if share >= 1 or math.floor(output / share) == scaled:
        return min(share, 1.0)
    return output / (scaled + 0.5)
