"""An export as whoever receives it sees it: opened from its files alone.

Letters: B images, C classes, D width, T tokens, H W px.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.data.transforms import EvaluationTransform, ImageTransform
from vitctl.errors import ModelError
from vitctl.exporting import npz, to_torch, transformers_folder
from vitctl.exporting.source import Source, preprocessing_from
from vitctl.models.build import load_model
from vitctl.models.weights import load_weights_file
from vitctl.primitives.documents import read_document
from vitctl.primitives.preprocessing import Preprocessing

_ADVICE = "expected what vitctl writes"
NPZ_FILE, NPZ_METADATA_FILE = "model.npz", "vitctl.json"

Run = Callable[[Tensor], dict[str, np.ndarray]]
"""From (B, 3, H, W) float32 or (B, H, W, 3) uint8 images to arrays by name, (B, C), (B, D) or (B, T, D)."""


@dataclass(frozen=True)
class OpenedExport:
    """What the files of an export hold.

    Attributes:
        run: The model, outputs by name in order.
        class_names: One per logit; empty where there are none.
        preprocessing: What the files say the model expects; None where they say it in transformers' words.
        transform_at: From (H, W) px to the function of an image that the files describe.
        misdescription: What the files say that is not so; None where nothing was found.
        intermediates: Of a graph in 16 bits, everything that its nodes hand to each other, by name.
    """

    run: Run
    class_names: tuple[str, ...]
    preprocessing: Preprocessing | None
    transform_at: Callable[[tuple[int, int]], ImageTransform]
    misdescription: str | None = None
    intermediates: Run | None = None


def open_timm(folder: Path, *, first_output: str) -> OpenedExport:
    """Open a timm local-dir folder with timm."""
    loaded = load_model(str(folder))
    preprocessing = loaded.preprocessing
    return OpenedExport(
        run_of_module(loaded.model.eval(), (first_output,)),
        loaded.class_names or (),
        preprocessing,
        _transforms_of(preprocessing),
    )


def open_npz(folder: Path, model: nn.Module, *, name: str, first_output: str) -> OpenedExport:
    """Open Google's ``.npz`` with timm's reader, into a copy of ``model`` without its weights."""
    metadata = read_document(folder / NPZ_METADATA_FILE, dict[str, Any], error=ModelError, advice=_ADVICE)
    reader = npz.reader_of(model, layout=metadata["layout"])
    load_weights_file(reader, folder / NPZ_FILE, name=name)
    preprocessing = preprocessing_from(metadata["preprocessing"], metadata.get("max_value"))
    return OpenedExport(
        run_of_module(reader.eval(), (first_output,)),
        tuple(metadata["class_names"]),
        preprocessing,
        _transforms_of(preprocessing),
    )


def open_transformers(folder: Path, source: Source, *, first_output: str) -> OpenedExport:
    """Open a ViTForImageClassification folder with transformers."""
    logits, pixels = transformers_folder.transformers_logits(folder), transformers_folder.transformers_pixels(folder)
    config = read_document(folder / "config.json", dict[str, Any], error=ModelError, advice=_ADVICE)
    names = tuple(config["id2label"][str(index)] for index in range(len(config["id2label"])))

    def _run(images: Tensor) -> dict[str, np.ndarray]:
        return {first_output: logits(images).numpy()}

    wrong = transformers_folder.misdescription(folder, preprocessing=source.preprocessing, class_names=source.labels)
    return OpenedExport(_run, names, None, lambda _: pixels, wrong)


def open_pt2(folder: Path) -> OpenedExport:
    """Open a ``.pt2`` file with torch.export."""
    module, metadata = to_torch.read_pt2(folder / to_torch.FILE)
    preprocessing = preprocessing_from(metadata["preprocessing"], metadata.get("max_value"))
    return OpenedExport(
        run_of_module(module, tuple(metadata["outputs"])),
        tuple(metadata["class_names"]),
        preprocessing,
        _transforms_of(preprocessing),
    )


def open_onnx(path: Path, *, precision: str = "fp32") -> OpenedExport:
    """Open an ONNX file with onnxruntime on the CPU."""
    from vitctl.exporting.to_onnx import open_session, run_intermediates, session_metadata

    session = open_session(path)
    metadata = session_metadata(session)
    names = [output.name for output in session.get_outputs()]
    feed = session.get_inputs()[0].name
    preprocessing = preprocessing_from(metadata["preprocessing"], metadata.get("max_value"))

    def _run(images: Tensor) -> dict[str, np.ndarray]:
        return dict(zip(names, session.run(None, {feed: images.numpy()}), strict=True))

    return OpenedExport(
        _run,
        tuple(metadata["class_names"]),
        preprocessing,
        _transforms_of(preprocessing),
        intermediates=(lambda images: run_intermediates(path, images.numpy())) if precision == "fp16" else None,
    )


def opset_of(path: Path) -> int:
    """Return the ONNX operator set that a file says it uses."""
    from vitctl.exporting import to_onnx

    return to_onnx.opset_of(path)


def run_of_module(module: nn.Module, names: tuple[str, ...]) -> Run:
    """Return ``module``, which gives a tensor or a tuple of them, as a function to arrays called ``names``."""

    def _run(images: Tensor) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            found = module(images)
        tensors = found if isinstance(found, (tuple, list)) else (found,)
        return {name: tensor.numpy() for name, tensor in zip(names, tensors, strict=True)}

    return _run


def _transforms_of(preprocessing: Preprocessing) -> Callable[[tuple[int, int]], ImageTransform]:
    return lambda size: EvaluationTransform(preprocessing.at(size))
