"""``vitctl export RUN`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line, print_pairs
from vitctl.primitives.formatting import format_bytes
from vitctl.results.export import ExportResult, FormatExport, Latency, NpzVerification
from vitctl.settings.export import ExportConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl export runs/photos                              to ONNX, in runs/photos/exports/onnx
  vitctl export runs/photos --to all --benchmark --out exports/
  vitctl export runs/photos --embed-preprocess --outputs probabilities
  vitctl export runs/photos --precision int8-dynamic --verify test-photos/
  vitctl export --model vit_base_patch16_224.augreg2_in21k_ft_in1k --to onnx,pt2
"""


@takes(ExportConfig)
def export(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Write a model in formats that other programs open, and prove that each behaves like it.

    Every export is opened from its files, shown real images at several batch sizes and
    compared with the source; one that differs is not written (exit 4). Each folder gets
    export.json (what was measured) and a README.md (how to run it).
    """
    report = run("export", settings_of(ExportConfig, given))
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
    print_line()
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
    return [f"{one.p50:.3g} (p95 {one.p95:.3g})", f"{eight.p50:.3g} (p95 {eight.p95:.3g})", f"{eight.images_per_s:.0f}"]
