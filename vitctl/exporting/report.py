"""What every folder of an export says of itself: ``export.json`` and the card, from what was written and verified."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vitctl import __version__
from vitctl.exporting.card import card
from vitctl.exporting.formats import FULL_PRECISION_FILE, ONNX_FILE, Exporter
from vitctl.exporting.npz import reader_args
from vitctl.exporting.opened import opset_of
from vitctl.models.timm_folder import reconstruction_of
from vitctl.primitives.files import sha256_of, write_json, write_text
from vitctl.results.export import (
    ExportedFile,
    ExportIdentity,
    ExportOptions,
    FormatExport,
    FullPrecision,
    Latency,
    Verification,
)
from vitctl.results.result import plain
from vitctl.settings.words import GRAPH_FORMATS

REPORT, CARD = "export.json", "README.md"
VERSIONS_OF = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow", "safetensors")


def describe_exports(
    exporter: Exporter,
    formats: Sequence[str],
    staging: Path,
    verified: Mapping[str, Verification],
    latencies: Mapping[str, Latency],
) -> list[FormatExport]:
    """Write ``export.json`` and the card into every folder; return what the former says, files by their names.

    Args:
        exporter: Wrote the formats.
        formats: Those that were written.
        staging: Holds a folder per format. The float32 file that a reduced precision was made from is removed.
        verified: By format, ``fp32`` for that file.
        latencies: By format, ``source`` and ``fp32``; empty where nothing was measured.
    """
    exports = []
    for name in formats:
        folder = staging / name
        is_onnx = name == "onnx"
        full = None
        if "fp32" in verified and is_onnx:
            full = _take_full_precision(folder, verified["fp32"], latencies.get("fp32"))
        export = FormatExport(
            format=name,
            precision=exporter.settings.precision if is_onnx else "fp32",
            files=tuple(
                ExportedFile(path.name, path.stat().st_size, sha256_of(path)) for path in sorted(folder.iterdir())
            ),
            opset=opset_of(folder / ONNX_FILE) if is_onnx else None,
            verify=verified[name],
            latency_ms=latencies.get(name),
            fp32=full,
        )
        write_text(folder / CARD, _card(exporter, export))
        own = {"class_names": exporter.source.class_names, "source_latency_ms": plain(latencies.get("source"))}
        write_json(folder / REPORT, identity_of(exporter).as_json() | export.as_json() | own)
        exports.append(export)
    return exports


def _take_full_precision(folder: Path, verified: Verification, latency: Latency | None) -> FullPrecision:
    """Remove the float32 file that a reduced precision was made from; return what was seen of it."""
    paths = [path for path in folder.iterdir() if path.name.startswith(FULL_PRECISION_FILE)]
    num_bytes = sum(path.stat().st_size for path in paths)
    for path in paths:
        path.unlink()
    return FullPrecision(bytes=num_bytes, accuracy=verified.accuracy, latency_ms=latency)


def _card(exporter: Exporter, export: FormatExport) -> str:
    name, settings = export.format, exporter.settings
    is_graph = name in GRAPH_FORMATS
    architecture, model_args = reconstruction_of(exporter.source.model)
    return card(
        exporter.source,
        format_name=name,
        export=export,
        is_raw=is_graph and settings.is_raw,
        is_size_dynamic=is_graph and settings.is_size_dynamic,
        outputs=settings.outputs if is_graph else settings.outputs[:1],
        architecture=architecture,
        model_args=reader_args(model_args, layout=exporter.npz_layout) if name == "npz" else model_args,
    )


def identity_of(exporter: Exporter) -> ExportIdentity:
    """Return what was exported, how and with which packages."""
    settings = exporter.settings
    return ExportIdentity(
        model=exporter.source.name,
        weights_sha256=exporter.source.weights_sha256,
        image_size=exporter.source.preprocessing.image_size,
        options=ExportOptions(
            outputs=settings.outputs,
            embed_preprocess=settings.is_raw,
            dynamic_size=settings.is_size_dynamic,
            opset=settings.opset,
            precision=settings.precision,
            npz_layout=exporter.npz_layout,
        ),
        vitctl=__version__,
        versions={"python": platform.python_version()} | {name: _version(name) for name in VERSIONS_OF},
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
