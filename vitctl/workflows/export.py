"""``vitctl export``: a model in the formats that others open, each proven to behave like the source."""

import importlib.util
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from vitctl import __version__
from vitctl.conversation import Conversation, Setting
from vitctl.errors import ModelError, SettingError, UnavailableError, VitctlError
from vitctl.exporting.card import card
from vitctl.exporting.formats import (
    FIRST_ATTEMPT,
    FULL_PRECISION_FILE,
    ONNX_FILE,
    PACKAGES,
    Exporter,
    GraphSettings,
)
from vitctl.exporting.graph import GraphModel, InputForm
from vitctl.exporting.latency import Contender, measure_latencies
from vitctl.exporting.npz import reader_args
from vitctl.exporting.opened import OpenedExport, open_onnx, opset_of, run_of_module
from vitctl.exporting.place import Place, find_place, load_source
from vitctl.exporting.source import Source, resolve_outputs
from vitctl.exporting.verification import Verifier
from vitctl.exporting.verification_images import VerificationImages, choose_images
from vitctl.models.geometry import position_table
from vitctl.models.timm_folder import reconstruction_of
from vitctl.primitives.devices import resolve_num_threads
from vitctl.primitives.files import sha256_of, user_path, whole_folders, write_json, write_text
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.results.export import (
    ExportedFile,
    ExportIdentity,
    ExportOptions,
    ExportResult,
    FormatExport,
    FullPrecision,
    Latency,
    NpzVerification,
    RefusedFormat,
    Verification,
)
from vitctl.results.result import plain
from vitctl.settings.export import ExportConfig
from vitctl.settings.words import GRAPH_FORMATS, RANDOM

REPORT, CARD = "export.json", "README.md"
NUM_IMAGES, NUM_IMAGES_FOR_ACCURACY = 200, 1000
VERSIONS_OF = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "pillow", "safetensors")


def run(config: ExportConfig, conversation: Conversation) -> ExportResult:
    """Export, verify, write what passes, and return the figures.

    Raises:
        VitctlError: The model, the images or the output cannot be used, or an export does not behave like its
            source; nothing was written.
    """
    _check_packages([name for name in config.formats if name != "hf" or not config.takes_what_fits])
    _, threads_reason = resolve_num_threads(config.num_threads)
    place = find_place(config.run, config.model, config.which, conversation)
    out = _decide_out(config, place)
    _check_out(out, config)
    conversation.line(f"loading {place.spec}")
    source = load_source(
        place,
        weights=config.weights,
        image_size=config.image_size,
        interpolation=config.pos_embed_interp,
        conversation=conversation,
    )
    exporter = _exporter(source, config)
    formats, refused = _formats_that_fit(exporter, config, conversation)
    most = NUM_IMAGES if config.precision == "fp32" else NUM_IMAGES_FOR_ACCURACY
    images = choose_images(place, source, verify=config.verify, most=most, conversation=conversation)
    conversation.header("vitctl export", _header(exporter, formats, images, config, place, threads_reason, out))
    with writing(out), termination_as_error(), whole_folders(out) as staging:  # if it fails, nothing is left there
        formats = _write(exporter, formats, staging, refused, config, conversation)
        opened = {name: exporter.open(name, staging / name) for name in formats}
        full = _full_precision(staging, config)
        verdicts = _verify(exporter, opened, full, images, config, conversation)
        latencies = _latencies(exporter, opened, full, config, conversation)
        exports = _describe(exporter, formats, staging, verdicts, latencies)
    return ExportResult(
        **vars(_identity(exporter)),
        out=str(out),
        images=images.name,
        accuracy=exports[0].verify.source_accuracy,
        latency_ms=latencies.get("source"),
        exports=tuple(_at(out / export.format, export) for export in exports),
        refused=tuple(refused),
    )


def _check_packages(formats: Sequence[str]) -> None:
    for name in formats:
        missing = [package for package in PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
        if missing:
            raise UnavailableError(
                f"--to {name} needs {' and '.join(missing)}, not installed here; try: pip install 'vitctl[{name}]'"
            )


def _decide_out(config: ExportConfig, place: Place) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    if config.run is not None:
        return user_path(config.run).absolute() / "exports"
    return (Path("exports") / re.sub(r"[^A-Za-z0-9._-]+", "-", place.spec)).absolute()


def _check_out(out: Path, config: ExportConfig) -> None:
    """Check that nothing stands where the exports will; changes nothing."""
    if out.exists() and not out.is_dir():
        raise SettingError(f"--out {out} is a file; expected a folder, or none yet.", field="out")
    for name in config.formats:
        if (out / name).exists():
            raise SettingError(
                f"{out / name} exists already; remove it, or give another folder with --out. Nothing is replaced.",
                field="out",
            )
    check_writable(out)
    if config.verify is not None:
        check_elsewhere(out, [str(user_path(config.verify).absolute())])


def _exporter(source: Source, config: ExportConfig) -> Exporter:
    is_graph = bool(set(config.formats) & set(GRAPH_FORMATS))
    asked = config.outputs if is_graph or source.has_classifier else ("embedding",)
    settings = GraphSettings(
        outputs=resolve_outputs(source, asked),
        is_raw=config.embed_preprocess,
        is_size_dynamic=config.dynamic_size,
        opset=config.opset,
        precision=config.precision,
    )
    return Exporter(source, settings, npz_layout=config.npz_layout)


def _formats_that_fit(
    exporter: Exporter, config: ExportConfig, conversation: Conversation
) -> tuple[list[str], list[RefusedFormat]]:
    """Return the formats that can hold the model, and of ``--to all`` what the others object to."""
    formats, refused = [], list[RefusedFormat]()
    for name in config.formats:
        try:
            exporter.check(name)
            _check_packages([name])  # of --to all, hf alone is left out where it could not be verified
            formats.append(name)
        except (ModelError, UnavailableError) as error:
            _refuse(name, error, refused, config, conversation)
    return formats, refused


def _refuse(
    name: str, error: VitctlError, refused: list[RefusedFormat], config: ExportConfig, conversation: Conversation
) -> None:
    if not config.takes_what_fits:
        raise error
    refused.append(RefusedFormat(name, str(error)))
    conversation.warn(f"left out {name}: {error}")


def _header(
    exporter: Exporter,
    formats: Sequence[str],
    images: VerificationImages,
    config: ExportConfig,
    place: Place,
    threads_reason: str,
    out: Path,
) -> list[Setting]:
    source, size = exporter.source, exporter.source.preprocessing.image_size
    classes = f"{len(source.class_names):,}" if source.has_classifier else "none: features only"
    size_reason = "asked for" if config.image_size else "the model's own"
    if config.dynamic_size:
        size_reason += "; the graph takes others too"
    if config.embed_preprocess:
        size_reason += "; the graph takes uint8 images of any size"
    is_fitted = config.image_size is not None and config.weights != RANDOM  # random ones are drawn at the size
    is_resampled = position_table(source.model) is not None and (is_fitted or config.dynamic_size)
    precision = "" if config.precision == "fp32" else f"onnx in {config.precision}"
    return [
        Setting("model", source.name, place.spec),
        Setting("classes", classes),
        Setting("image size", f"{format_size(size)} px", size_reason),
        *([Setting("position embeddings", *source.interpolation)] if is_resampled else []),
        Setting("formats", ", ".join(formats), precision),
        Setting("outputs", ", ".join(exporter.settings.outputs), "in this order"),
        Setting("verified on", images.name, images.reason),
        Setting("threads", str(torch.get_num_threads()), threads_reason),
        Setting("files", str(out)),
    ]


def _write(
    exporter: Exporter,
    formats: Sequence[str],
    staging: Path,
    refused: list[RefusedFormat],
    config: ExportConfig,
    conversation: Conversation,
) -> list[str]:
    """Write every format into its folder in ``staging``; return those that came about."""
    written = []
    with conversation.progress("exporting", len(formats), "formats") as bar:
        for name in formats:
            (staging / name).mkdir()
            try:
                how = exporter.write(name, staging / name)
                written.append(name)
                if how not in ("", FIRST_ATTEMPT):
                    conversation.line(f"{name}: exported {how}")
            except ModelError as error:
                shutil.rmtree(staging / name)
                _refuse(name, error, refused, config, conversation)
            bar.advance(format=name)
    if not written:
        raise ModelError(f"No format can hold {exporter.source.name}; nothing was written.")
    return written


def _full_precision(staging: Path, config: ExportConfig) -> OpenedExport | None:
    """Return the float32 file that a reduced precision was made from, to be measured beside it."""
    path = staging / "onnx" / FULL_PRECISION_FILE
    return open_onnx(path) if config.precision != "fp32" and path.exists() else None


def _verify(
    exporter: Exporter,
    opened: Mapping[str, OpenedExport],
    full: OpenedExport | None,
    images: VerificationImages,
    config: ExportConfig,
    conversation: Conversation,
) -> dict[str, Verification]:
    """Return what verification found, by format (``fp32`` for ``full``).

    Raises:
        ModelError: An export does not behave like its source.
    """
    candidates = {name: exporter.candidate(name, one) for name, one in opened.items()}
    if full is not None:
        candidates["fp32"] = replace(exporter.candidate("onnx", full), precision="fp32")
    verifier = Verifier(exporter.source, exporter.settings.outputs, exporter.sizes)
    verdicts = verifier.verify(
        list(candidates.values()),
        images.images,
        max_accuracy_drop=config.max_accuracy_drop,
        conversation=conversation,
    )
    seen = {}
    for name, verdict in zip(candidates, verdicts, strict=True):
        if verdict.complaint is not None:
            raise ModelError(
                f"The {'onnx' if name == 'fp32' else name} export of {exporter.source.name} does not behave like its "
                f"source: {verdict.complaint}. Nothing was written."
            )
        if verdict.verification is None:
            raise AssertionError("an export passes that was shown nothing")
        seen[name] = replace(verdict.verification, images=images.name)
    if "npz" in seen:
        gap = verifier.tanh_gelu_gap(images.images)
        seen["npz"] = NpzVerification(**vars(seen["npz"]), tanh_gelu_max_abs=gap)
    return seen


def _latencies(
    exporter: Exporter,
    opened: Mapping[str, OpenedExport],
    full: OpenedExport | None,
    config: ExportConfig,
    conversation: Conversation,
) -> dict[str, Latency]:
    """Return latencies by format, ``source`` and ``fp32``; empty where nothing is to be measured."""
    if not config.benchmark and full is None:
        return {}
    size = exporter.source.preprocessing.image_size
    plain = InputForm(size)
    source = run_of_module(
        GraphModel(exporter.source.model, exporter.settings.outputs).eval(), exporter.settings.outputs
    )
    contenders = {"source": Contender(source, plain.batch)}
    for name, one in opened.items():
        if name != "hf":  # how fast transformers is, is not for an export to say
            contenders[name] = Contender(one.run, exporter.form.batch if name in GRAPH_FORMATS else plain.batch)
    if full is not None:
        contenders["fp32"] = Contender(full.run, exporter.form.batch)
    return measure_latencies(contenders, conversation=conversation)


def _describe(
    exporter: Exporter,
    formats: Sequence[str],
    staging: Path,
    verified: Mapping[str, Verification],
    latencies: Mapping[str, Latency],
) -> list[FormatExport]:
    """Write ``export.json`` and the card into every folder; return what the former says, files by their names."""
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
        write_json(folder / REPORT, _identity(exporter).as_json() | export.as_json() | own)
        exports.append(export)
    return exports


def _at(folder: Path, export: FormatExport) -> FormatExport:
    """Return the export with its files by their paths in ``folder``."""
    return replace(export, files=tuple(replace(file, path=str(folder / file.path)) for file in export.files))


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


def _identity(exporter: Exporter) -> ExportIdentity:
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
