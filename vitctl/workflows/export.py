"""``vitctl export``: a model in the formats that others open, each proven to behave like the source."""

import re
from dataclasses import replace
from pathlib import Path

import torch

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.exporting.fitting import Refusals, check_packages, formats_that_fit, write_formats
from vitctl.exporting.formats import Exporter, GraphSettings
from vitctl.exporting.header import header_settings
from vitctl.exporting.place import Place, find_place, load_source
from vitctl.exporting.proof import measure_exports, open_full_precision, verify_exports
from vitctl.exporting.report import describe_exports, identity_of
from vitctl.exporting.source import resolve_outputs
from vitctl.exporting.verification_images import choose_images
from vitctl.primitives.devices import enough_memory, resolve_num_threads
from vitctl.primitives.files import user_path, whole_folders
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.outputs import check_elsewhere, check_writable, writing
from vitctl.results.export import ExportResult, FormatExport
from vitctl.settings.export import ExportConfig
from vitctl.settings.words import GRAPH_FORMATS, RANDOM

CPU = torch.device("cpu")  # where a model is exported, and verified
NUM_IMAGES, NUM_IMAGES_FOR_ACCURACY = 200, 1000


def run(config: ExportConfig, conversation: Conversation) -> ExportResult:
    """Export, verify, write what passes, and return the figures.

    Raises:
        VitctlError: The model, the images or the output cannot be used, or an export does not behave like its
            source; nothing was written.
    """
    check_packages([name for name in config.formats if name != "hf" or not config.takes_what_fits])
    _, threads_reason = resolve_num_threads(config.num_threads)
    place = find_place(config.run, config.model, config.which, conversation)
    out = _decide_out(config, place)
    _check_out(out, config)
    with enough_memory(CPU, None, "--image-size"):
        exporter = _open(config, place, conversation)
        refusals = Refusals(config.takes_what_fits, conversation)
        formats = formats_that_fit(exporter, config.formats, refusals)
        most = NUM_IMAGES if config.precision == "fp32" else NUM_IMAGES_FOR_ACCURACY
        images = choose_images(place, exporter.source, verify=config.verify, most=most, conversation=conversation)
        settings = header_settings(
            exporter,
            formats,
            images,
            place,
            out,
            is_size_given=config.image_size is not None,
            has_random_weights=config.weights == RANDOM,
            threads_reason=threads_reason,
        )
        conversation.header("vitctl export", settings)
        with writing(out), termination_as_error(), whole_folders(out) as staging:  # if it fails, nothing is left there
            formats = write_formats(exporter, formats, staging, refusals, conversation)
            opened = {name: exporter.open(name, staging / name) for name in formats}
            full = open_full_precision(exporter, staging)
            verified = verify_exports(
                exporter, opened, full, images, max_accuracy_drop=config.max_accuracy_drop, conversation=conversation
            )
            is_timed = config.benchmark or full is not None
            latencies = measure_exports(exporter, opened, full, conversation) if is_timed else {}
            exports = describe_exports(exporter, formats, staging, verified, latencies)
    return ExportResult(
        **vars(identity_of(exporter)),
        out=str(out),
        images=images.name,
        accuracy=exports[0].verify.source_accuracy,
        latency_ms=latencies.get("source"),
        exports=tuple(_at(out / export.format, export) for export in exports),
        refused=tuple(refusals.found),
    )


def _decide_out(config: ExportConfig, place: Place) -> Path:
    if config.out is not None:
        return user_path(config.out).absolute()
    if config.run is not None and place.folder is not None:
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


def _open(config: ExportConfig, place: Place, conversation: Conversation) -> Exporter:
    """Load the model, and settle what the formats are told of it."""
    conversation.line(f"loading {place.spec}")
    source = load_source(
        place,
        weights=config.weights,
        model_args=config.model_args,
        image_size=config.image_size,
        interpolation=config.pos_embed_interp,
        conversation=conversation,
    )
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


def _at(folder: Path, export: FormatExport) -> FormatExport:
    """Return the export with its files by their paths in ``folder``."""
    return replace(export, files=tuple(replace(file, path=str(folder / file.path)) for file in export.files))
