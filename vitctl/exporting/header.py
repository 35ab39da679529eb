"""The header of ``vitctl export``: what is exported, how, and what it is verified on."""

from collections.abc import Sequence
from pathlib import Path

import torch

from vitctl.conversation import Setting
from vitctl.exporting.formats import Exporter
from vitctl.exporting.place import Place
from vitctl.exporting.verification_images import VerificationImages
from vitctl.models.geometry import position_table
from vitctl.primitives.image_sizes import format_size


def header_settings(
    exporter: Exporter,
    formats: Sequence[str],
    images: VerificationImages,
    place: Place,
    out: Path,
    *,
    is_size_given: bool,
    has_random_weights: bool,
    threads_reason: str,
) -> list[Setting]:
    """Return the header.

    Args:
        exporter: Writes the formats.
        formats: Those that hold the model.
        images: What they are verified on.
        place: Where the model comes from.
        out: Where the exports go.
        is_size_given: Whether the image size was asked for.
        has_random_weights: Whether the model was built at its size.
        threads_reason: Why there are as many threads.
    """
    source, settings = exporter.source, exporter.settings
    classes = f"{len(source.class_names):,}" if source.has_classifier else "none: features only"
    size_reason = "asked for" if is_size_given else "the model's own"
    if settings.is_size_dynamic:
        size_reason += "; the graph takes others too"
    if settings.is_raw:
        size_reason += "; the graph takes uint8 images of any size"
    is_fitted = is_size_given and not has_random_weights  # random ones are drawn at the size
    is_resampled = position_table(source.model) is not None and (is_fitted or settings.is_size_dynamic)
    return [
        Setting("model", source.name, place.spec),
        Setting("classes", classes),
        Setting("image size", f"{format_size(source.preprocessing.image_size)} px", size_reason),
        *([Setting("position embeddings", *source.interpolation)] if is_resampled else []),
        Setting("formats", ", ".join(formats), "" if settings.precision == "fp32" else f"onnx in {settings.precision}"),
        Setting("outputs", ", ".join(settings.outputs), "in this order"),
        Setting("verified on", images.name, images.reason),
        Setting("threads", str(torch.get_num_threads()), threads_reason),
        Setting("files", str(out)),
    ]
