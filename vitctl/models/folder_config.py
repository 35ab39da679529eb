"""The ``config.json`` of a timm folder: the keys that timm and vitctl read, with their types.

Other keys may hold anything.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from vitctl.errors import ModelError
from vitctl.primitives.documents import peek_document, read_document
from vitctl.primitives.schemas import Count, Name, Names, Positive, Schema

FILE = "config.json"
_ADVICE = "expected timm's config.json, as save_for_hf and vitctl write it"

InputSize = Annotated[list[Count], Field(min_length=3, max_length=3)]  # channels, height, width
PerChannel = Annotated[list[float], Field(min_length=3, max_length=3)]
Number = Annotated[int, Field(ge=0, lt=2**31)]


class PretrainedCfg(Schema):
    """What timm calls ``pretrained_cfg``: what the weights are of, and what they expect of an image."""

    input_size: InputSize | None = None
    test_input_size: InputSize | None = None
    min_input_size: InputSize | None = None
    fixed_input_size: bool | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "box", "hamming", "lanczos"] | None = None
    crop_pct: Positive | None = None
    test_crop_pct: Positive | None = None
    crop_mode: Literal["center", "squash", "border"] | None = None
    mean: PerChannel | None = None
    std: Annotated[list[Positive], Field(min_length=3, max_length=3)] | None = None
    num_classes: Number | None = None
    label_offset: Number | None = None
    label_names: Names | None = None
    label_descriptions: dict[Name, Name] | None = None
    pool_size: list[int] | None = None
    classifier: str | list[str] | None = None
    first_conv: str | list[str] | None = None
    license: str | None = None


class FolderConfig(Schema):
    """The document; what stands at its top goes before ``pretrained_cfg``."""

    architecture: str
    model_args: dict[str, Any] | None = None
    num_classes: Number | None = None
    label_names: Names | None = None
    pretrained_cfg: PretrainedCfg | None = None
    base_model: object = None
    max_value: Annotated[int, Field(ge=1, le=65_535)] | None = None


class FlatConfig(PretrainedCfg):
    """The document of older folders, which has the keys of ``pretrained_cfg`` at its top."""

    labels: Names | None = None


def read_folder_config(folder: Path) -> FolderConfig:
    """Return the ``config.json`` of a timm folder.

    Raises:
        ModelError: It is not there, or a key that is read is of another type.
    """
    config = read_document(folder / FILE, FolderConfig, error=ModelError, advice=_ADVICE)
    if config.pretrained_cfg is None:
        read_document(folder / FILE, FlatConfig, error=ModelError, advice=_ADVICE)
    return config


def describes_a_model(folder: Path) -> bool:
    """Return whether ``folder`` has a ``config.json`` of timm's or of transformers, whatever else it holds."""
    return not {"architecture", "model_type"}.isdisjoint(peek_document(folder / FILE))
