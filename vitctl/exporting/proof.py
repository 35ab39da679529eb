"""Exports held against their source, opened from their files: that they behave like it, and how fast they are."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.errors import ModelError
from vitctl.exporting.formats import FULL_PRECISION_FILE, Exporter
from vitctl.exporting.graph import GraphModel, InputForm
from vitctl.exporting.latency import Contender, measure_latencies
from vitctl.exporting.opened import OpenedExport, open_onnx, run_of_module
from vitctl.exporting.verification import Verifier
from vitctl.exporting.verification_images import VerificationImages
from vitctl.results.export import Latency, NpzVerification, Verification
from vitctl.settings.words import GRAPH_FORMATS


def open_full_precision(exporter: Exporter, staging: Path) -> OpenedExport | None:
    """Return the float32 file that a reduced precision was made from, to be held beside it; None where none was."""
    path = staging / "onnx" / FULL_PRECISION_FILE
    return open_onnx(path) if exporter.settings.precision != "fp32" and path.exists() else None


def verify_exports(
    exporter: Exporter,
    opened: Mapping[str, OpenedExport],
    full: OpenedExport | None,
    images: VerificationImages,
    *,
    max_accuracy_drop: float,
    conversation: Conversation,
) -> dict[str, Verification]:
    """Return what verification found, by format (``fp32`` for ``full``).

    Args:
        exporter: Wrote them.
        opened: By format.
        full: The float32 file beside a reduced precision.
        images: What is shown.
        max_accuracy_drop: Of a reduced precision, 0-1; see ``Verifier.verify``.
        conversation: Shows progress.

    Raises:
        ModelError: An export does not behave like its source.
    """
    candidates = {name: exporter.candidate(name, one) for name, one in opened.items()}
    if full is not None:
        candidates["fp32"] = replace(exporter.candidate("onnx", full), precision="fp32")
    verifier = Verifier(exporter.source, exporter.settings.outputs, exporter.sizes)
    verdicts = verifier.verify(
        list(candidates.values()), images.images, max_accuracy_drop=max_accuracy_drop, conversation=conversation
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


def measure_exports(
    exporter: Exporter, opened: Mapping[str, OpenedExport], full: OpenedExport | None, conversation: Conversation
) -> dict[str, Latency]:
    """Return latencies by format, ``source`` and ``fp32`` (for ``full``); the arguments are ``verify_exports``'."""
    plain = InputForm(exporter.source.preprocessing.image_size)
    outputs = exporter.settings.outputs
    source = run_of_module(GraphModel(exporter.source.model, outputs).eval(), outputs)
    contenders = {"source": Contender(source, plain.batch)}
    for name, one in opened.items():
        if name != "hf":  # how fast transformers is, is not for an export to say
            contenders[name] = Contender(one.run, exporter.form.batch if name in GRAPH_FORMATS else plain.batch)
    if full is not None:
        contenders["fp32"] = Contender(full.run, exporter.form.batch)
    return measure_latencies(contenders, conversation=conversation)
