"""``vitctl export RUN`` on the command line."""

from typing import Annotated

import typer

from vitctl.cli.options import JsonOption, NumThreadsOption
from vitctl.cli.output import print_columns, print_json, print_pairs
from vitctl.cli.screen import Screen
from vitctl.config import EXPORT_FORMATS, MAX_OPSET, MIN_OPSET, NPZ_LAYOUTS, OUTPUTS, PRECISIONS, ExportConfig
from vitctl.primitives.formatting import format_bytes
from vitctl.results.export import ExportResult, FormatExport, Latency, NpzVerification

EXAMPLES = """\
Examples:

\b
  vitctl export runs/photos                              to ONNX, in runs/photos/exports/onnx
  vitctl export runs/photos --to all --benchmark --out exports/
  vitctl export runs/photos --embed-preprocess --outputs probabilities
  vitctl export runs/photos --precision int8-dynamic --verify test-photos/
  vitctl export --model vit_base_patch16_224.augreg2_in21k_ft_in1k --to onnx,pt2
"""


def export(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run folder, its best/ or last/, or a timm folder.", show_default=False),
    ] = ExportConfig.run,
    model: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Instead of RUN: demo or a timm name.", show_default=False),
    ] = ExportConfig.model,
    weights: Annotated[
        str, typer.Option(metavar="SPEC", help="With --model: pretrained, none, or a weights file.")
    ] = ExportConfig.weights,
    to: Annotated[
        str, typer.Option(metavar="FORMATS", help=f"A list of {', '.join(EXPORT_FORMATS)}; or all that fit the model.")
    ] = ExportConfig.to,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Gets one folder per format (default: RUN/exports, or exports/NAME).",
            show_default=False,
        ),
    ] = ExportConfig.out,
    which: Annotated[str, typer.Option(metavar="WHICH", help="Weights of a run: best or last.")] = ExportConfig.which,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help="Pixels, height first; else the model's own.", show_default=False),
    ] = ExportConfig.image_size,
    dynamic_size: Annotated[
        bool, typer.Option("--dynamic-size", help="onnx, pt2: take every multiple of the patch.")
    ] = ExportConfig.dynamic_size,
    opset: Annotated[
        int, typer.Option(metavar="N", help=f"onnx: operator set, {MIN_OPSET} to {MAX_OPSET}.")
    ] = ExportConfig.opset,
    precision: Annotated[
        str, typer.Option(metavar="WHAT", help=f"onnx: {', '.join(PRECISIONS)}.")
    ] = ExportConfig.precision,
    embed_preprocess: Annotated[
        bool,
        typer.Option("--embed-preprocess", help="onnx, pt2: take (batch, height, width, 3) uint8 images of any size."),
    ] = ExportConfig.embed_preprocess,
    outputs: Annotated[
        str,
        typer.Option(metavar="LIST", help=f"onnx, pt2: {', '.join(OUTPUTS)}; the logits always come first."),
    ] = ExportConfig.outputs,
    npz_layout: Annotated[
        str, typer.Option(metavar="NAME", help=f"npz: {', '.join(NPZ_LAYOUTS)}.")
    ] = ExportConfig.npz_layout,
    verify: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Images to verify on; else the run's validation images, else the embedded digits.",
            show_default=False,
        ),
    ] = ExportConfig.verify,
    max_accuracy_drop: Annotated[
        float, typer.Option(metavar="X", help="fp16, int8-dynamic: accuracy they may lose, 0 to 1.")
    ] = ExportConfig.max_accuracy_drop,
    benchmark: Annotated[
        bool, typer.Option("--benchmark", help="Measure latency at batch 1 and 8, the source beside the exports.")
    ] = ExportConfig.benchmark,
    num_threads: NumThreadsOption = ExportConfig.num_threads,
    as_json: JsonOption = False,
) -> None:
    """Write a model in formats that other programs open, and prove that each behaves like it.

    Every export is opened from its files, shown real images at several batch sizes and
    compared with the source; one that differs is not written (exit 4). Each folder gets
    export.json (what was measured) and a README.md (how to run it).
    """
    config = ExportConfig(
        run=run,
        model=model,
        weights=weights,
        to=to,
        out=out,
        which=which,
        image_size=image_size,
        dynamic_size=dynamic_size,
        opset=opset,
        precision=precision,
        embed_preprocess=embed_preprocess,
        outputs=outputs,
        npz_layout=npz_layout,
        verify=verify,
        max_accuracy_drop=max_accuracy_drop,
        benchmark=benchmark,
        num_threads=num_threads,
    )
    screen = Screen()
    with screen.waiting("starting: loading torch and timm"):
        from vitctl.workflows import export as workflow
    report = workflow.run(config, screen)
    if as_json:
        print_json(report)
    else:
        _print_report(report)


def _print_report(report: ExportResult) -> None:
    header = ["format", "precision", "size", "largest difference", "same top-1", "accuracy"]
    timed = report.latency_ms is not None
    if timed:
        header += ["ms, batch 1", "ms, batch 8", "images/s, batch 8"]
    source = ["source", "fp32", "", "", "", _share(report.accuracy)]
    rows = [source + _times(report.latency_ms)] if timed else [source]
    for export in report.exports:
        verify, full = export.verify, export.fp32
        if full is not None:
            row = [export.format, "fp32 (not kept)", format_bytes(full.bytes), "", "", _share(full.accuracy)]
            rows.append(row + _times(full.latency_ms) if timed else row)
        row = [
            export.format,
            export.precision,
            format_bytes(sum(file.bytes for file in export.files)),
            f"{verify.max_abs:.1e}",
            _share(verify.top1_agreement),
            _share(verify.accuracy),
        ]
        rows.append(row + _times(export.latency_ms) if timed else row)
    print_columns(header, rows)
    typer.echo("")
    pairs = [("verified", f"on {report.images} and noise, at batch 1 and 3, read back from the files")]
    pairs += [(note, text) for export in report.exports for note, text in _notes(export)]
    print_pairs([*pairs, ("files", report.out)])


def _notes(export: FormatExport) -> list[tuple[str, str]]:
    """Return what a user of one export should know beside the figures."""
    verify, notes = export.verify, []
    if verify.preprocessing_levels_max > 0.01:
        text = (
            f"its preprocessing is off the model's by at most {verify.preprocessing_levels_max:.1f} levels of 255, "
            f"{verify.preprocessing_levels_mean:.2f} on average"
        )
        if verify.preprocessing_top1_agreement is not None:
            text += f"; {verify.preprocessing_top1_agreement:.2%} of the answers are the same"
        notes.append((export.format, text))
    if isinstance(verify, NpzVerification) and verify.tanh_gelu_max_abs is not None:
        gap = verify.tanh_gelu_max_abs
        notes.append((export.format, f"under the tanh GELU of Google's Flax models the logits differ by {gap:.1e}"))
    return notes


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _times(latency: Latency | None) -> list[str]:
    if latency is None:
        return ["-", "-", "-"]
    one, eight = latency.batch_1, latency.batch_8
    return [
        f"{one.p50:.3g} (p95 {one.p95:.3g})",
        f"{eight.p50:.3g} (p95 {eight.p95:.3g})",
        f"{eight.images_per_s:.0f}",
    ]
