"""The README.md of an export: what it is, its classes, its input, how to run it, what was verified.

The page is ``card.md.jinja``, the Hub's YAML above it huggingface_hub's. Names are strangers' words: Markdown has no
autoescape, so the template puts every one of them through ``_plain``.
"""

import string
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from vitctl import __version__
from vitctl.exporting.source import Source
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.export import FormatExport
from vitctl.shown import shown

TEMPLATE = Path(__file__).with_suffix(".md.jinja")
MOST_CLASSES = 30
TITLES = {
    "onnx": "ONNX",
    "timm": "timm folder",
    "hf": "transformers ViTForImageClassification",
    "npz": "Google's .npz layout",
    "pt2": "torch.export program",
}
_LIBRARIES = {"onnx": "onnx", "timm": "timm", "hf": "transformers", "npz": "timm", "pt2": "pytorch"}


def card(
    source: Source,
    *,
    format_name: str,
    export: FormatExport,
    is_raw: bool,
    is_size_dynamic: bool,
    outputs: Sequence[str],
    architecture: str,
    model_args: Mapping[str, Any],
) -> str:
    """Return the card as Markdown.

    Args:
        source: The model.
        format_name: One of ``TITLES``.
        export: Its files, precision, opset and verification.
        is_raw: Whether the graph takes uint8 images of any size.
        is_size_dynamic: Whether the graph takes every multiple of the patch.
        outputs: In order.
        architecture: timm's name.
        model_args: What ``timm.create_model`` needs beside it.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        library_name=_LIBRARIES[format_name],
        pipeline_tag="image-classification" if source.has_classifier else "image-feature-extraction",
        tags=["vitctl"],
    )
    return _rendered(
        "page",
        format_name=format_name,
        source=source,
        is_raw=is_raw,
        architecture=architecture,
        model_args=model_args,
        front_matter=data.to_yaml(),
        title=TITLES[format_name],
        version=__version__,
        export=export,
        is_size_dynamic=is_size_dynamic,
        outputs=outputs,
        most_classes=MOST_CLASSES,
    )


def snippet(format_name: str, source: Source, *, is_raw: bool, architecture: str, model_args: Mapping[str, Any]) -> str:
    """Return a few lines of Python that run the export in its folder on ``image.jpg``."""
    return _rendered(
        "snippet",
        format_name=format_name,
        source=source,
        is_raw=is_raw,
        architecture=architecture,
        model_args=model_args,
    )


def _rendered(macro: str, *, source: Source, **values: object) -> str:
    """Return what one macro of the template makes of ``values``."""
    module = _template().make_module({"source": source, "resized": resized_size(source.preprocessing), **values})
    return str(getattr(module, macro)())


@cache
def _template() -> Any:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"plain": _plain, "repr": repr, "size": format_size, "bytes": format_bytes}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8"))


def resized_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (H, W) px that an image is resized to, or to cover, before the crop: timm's ``floor(side / crop_pct)``."""
    height, width = (int(side / preprocessing.crop_pct) for side in preprocessing.image_size)
    return height, width


def _plain(name: str) -> str:
    """Return a name, which may be anyone's, as Markdown that shows it: on one line, its punctuation escaped."""
    escaped = "".join(f"\\{letter}" if letter in string.punctuation else letter for letter in shown(name))
    return " ".join(escaped.split()) or '""'
