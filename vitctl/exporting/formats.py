"""The formats by name: what each refuses, writes and reads back.

Letters: B images, H W px.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from torch import nn
from torch.export import ExportedProgram

from vitctl.errors import ModelError
from vitctl.exporting import npz, opened, to_torch, transformers_folder
from vitctl.exporting.dynamic_size import make_size_dynamic
from vitctl.exporting.graph import GraphModel, InputForm, first_line, first_that_works, trace, with_plain_attention
from vitctl.exporting.graph_preprocessing import GraphPreprocessing
from vitctl.exporting.opened import NPZ_FILE, NPZ_METADATA_FILE, OpenedExport
from vitctl.exporting.source import Source
from vitctl.exporting.verification import Candidate
from vitctl.models.geometry import geometry_of
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.files import write_json
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.settings.words import GRAPH_FORMATS

CNN_STEP_PX = 32
PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "hf": ("transformers",)}
"""What a format needs that is not installed with vitctl, but with ``vitctl[FORMAT]``."""
ONNX_FILE, FULL_PRECISION_FILE = "model.onnx", "model.fp32.onnx"
FIRST_ATTEMPT = "as it is"
_ATTENTIONS: dict[str, Callable[[nn.Module], nn.Module]] = {
    FIRST_ATTEMPT: lambda module: module,
    "with plain attention": with_plain_attention,
}


@dataclass(frozen=True)
class GraphSettings:
    """What ``onnx`` and ``pt2`` are told.

    Attributes:
        outputs: In order, the first decides verification.
        is_raw: Takes (B, H, W, 3) uint8 images of any size.
        is_size_dynamic: Takes every multiple of the patch.
        opset: Of ONNX.
        precision: Of ONNX: ``fp32``, ``fp16``, ``int8-dynamic``.
    """

    outputs: tuple[str, ...]
    is_raw: bool
    is_size_dynamic: bool
    opset: int
    precision: str


class Exporter:
    """Writes and opens a source in any of ``EXPORT_FORMATS``; ``onnx`` and ``pt2`` share one traced graph.

    Args:
        source: What to export.
        settings: Of the graphs.
        npz_layout: One of ``NPZ_LAYOUTS``.
    """

    def __init__(self, source: Source, settings: GraphSettings, *, npz_layout: str) -> None:
        self.source, self.settings, self.npz_layout = source, settings, npz_layout
        self.patch_size = geometry_of(source.model).patch_size
        self.form = InputForm(
            source.preprocessing.image_size,
            is_raw=settings.is_raw,
            is_size_dynamic=settings.is_size_dynamic,
            patch_size=self.patch_size,
        )
        self._traced = cache(self._trace)

    @property
    def metadata(self) -> dict[str, Any]:
        """What a graph's file says about itself."""
        return self.source.metadata(outputs=self.settings.outputs, is_preprocessing_inside=self.settings.is_raw)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """(H, W) px to verify at: the model's own, and where sizes may vary another, not square, larger and smaller."""
        height, width = self.source.preprocessing.image_size
        if not self.settings.is_size_dynamic:
            return ((height, width),)
        step = self.patch_size or (CNN_STEP_PX, CNN_STEP_PX)
        rows, columns = height // step[0], width // step[1]
        other = (rows + max(1, rows // 4)) * step[0], max(1, columns - max(1, columns // 4)) * step[1]
        return ((height, width), other)

    def candidate(self, format_name: str, opened_export: OpenedExport) -> Candidate:
        """Return what is to be verified of an opened export."""
        is_graph = format_name in GRAPH_FORMATS
        is_raw = is_graph and self.settings.is_raw
        is_size_dynamic = is_graph and self.settings.is_size_dynamic
        height, width = self.source.preprocessing.image_size
        steps = self.patch_size if is_size_dynamic and self.patch_size is not None else (1, 1)
        others = ((height + 1, width), (height, width + 1))
        return Candidate(
            format=format_name,
            precision=self.settings.precision if format_name == "onnx" else "fp32",
            opened=opened_export,
            sizes=self.sizes if is_size_dynamic else self.sizes[:1],
            raw_twin=self.graph_module if is_raw else None,
            must_refuse=tuple(size for size, step in zip(others, steps, strict=True) if step > 1),
            has_every_output=is_graph,
        )

    def check(self, format_name: str) -> None:
        """Check that the format can hold the model.

        Raises:
            ModelError: It cannot; the sentence has the reason and an alternative.
        """
        if format_name == "hf":
            transformers_folder.check_transformers_can_hold(self.source.model, name=self.source.name)
        elif format_name == "npz":
            npz.check_npz_can_hold(self.source.model, name=self.source.name)
        elif format_name in GRAPH_FORMATS:
            _ = self.graph_module

    @cached_property
    def graph_module(self) -> GraphModel:
        """Return the module that is traced.

        Raises:
            ModelError: Its size cannot vary, or its preprocessing cannot be put into a graph.
        """
        model, name = self.source.model, self.source.name
        if self.settings.is_size_dynamic:
            model = make_size_dynamic(model, name=name, method=self.source.interpolation.value)
        preprocessing = None
        if self.settings.is_raw:
            preprocessing = GraphPreprocessing(self.source.preprocessing, name=name)
        return GraphModel(model, self.settings.outputs, preprocessing).eval()

    def _trace(self, attention: str) -> ExportedProgram:
        return trace(_ATTENTIONS[attention](self.graph_module), self.form)

    def write(self, format_name: str, folder: Path) -> str:
        """Fill ``folder``, which exists and is empty; return how, for the log.

        Raises:
            ModelError: No way of exporting the graph works.
            OSError: Writing failed.
        """
        how = ""
        if format_name == "timm":
            self._write_timm(folder)
        elif format_name == "hf":
            transformers_folder.write_transformers_folder(
                self.source.model,
                folder,
                class_names=self.source.labels,
                preprocessing=self.source.preprocessing,
                name=self.source.name,
            )
        elif format_name == "npz":
            npz.write_npz(self.source.model, folder / NPZ_FILE, layout=self.npz_layout, name=self.source.name)
            metadata = self.source.metadata(outputs=self.settings.outputs[:1], is_preprocessing_inside=False)
            write_json(folder / NPZ_METADATA_FILE, metadata | {"layout": self.npz_layout})
        elif format_name == "pt2":
            how = self._write_graph(
                lambda traced: to_torch.write_pt2(traced, folder / to_torch.FILE, metadata=self.metadata), what="pt2"
            )
        else:
            how = self._write_onnx(folder)
        return how

    def _write_timm(self, folder: Path) -> None:
        save_timm_folder(
            self.source.model,
            folder,
            class_names=self.source.class_names,
            preprocessing=self.source.preprocessing,
            base_model=self.source.base_model,
            base_licence=self.source.base_licence,
        )

    def _write_onnx(self, folder: Path) -> str:
        from vitctl.exporting.to_onnx import open_session, reduce_precision, write_onnx

        path = folder / (ONNX_FILE if self.settings.precision == "fp32" else FULL_PRECISION_FILE)

        def convert(traced: ExportedProgram) -> None:
            write_onnx(
                traced,
                path,
                form=self.form,
                outputs=self.settings.outputs,
                opset=self.settings.opset,
                patch_size=self.patch_size,
                metadata=self.metadata,
            )
            open_session(path)

        how = self._write_graph(convert, what="ONNX")
        if self.settings.precision != "fp32":
            try:
                reduce_precision(path, folder / ONNX_FILE, precision=self.settings.precision)
            except OSError:
                raise
            except Exception as error:  # the converters raise whatever the graph provokes
                if is_out_of_memory(error):
                    raise
                raise ModelError(
                    f"{self.source.name} cannot be written in {self.settings.precision} ({first_line(error)}); use "
                    "--precision fp32."
                ) from error
        return how

    def _write_graph(self, write: Callable[[ExportedProgram], None], *, what: str) -> str:
        attempts = [(name, lambda name=name: write(self._traced(name))) for name in _ATTENTIONS]
        how, _ = first_that_works(attempts, what=f"Exporting {self.source.name} to {what}")
        return how

    def open(self, format_name: str, folder: Path) -> OpenedExport:
        """Open what ``write`` wrote, from its files alone.

        Raises:
            ModelError: The files cannot be read.
        """
        first = self.settings.outputs[0]
        try:
            if format_name == "timm":
                return opened.open_timm(folder, first_output=first)
            if format_name == "hf":
                return opened.open_transformers(folder, self.source, first_output=first)
            if format_name == "npz":
                return opened.open_npz(folder, self.source.model, name=self.source.name, first_output=first)
            if format_name == "pt2":
                return opened.open_pt2(folder)
            return opened.open_onnx(folder / ONNX_FILE, precision=self.settings.precision)
        except Exception as error:  # readers raise whatever damaged files provoke
            if is_out_of_memory(error):
                raise
            raise ModelError(
                f"The {format_name} export of {self.source.name} cannot be read back ({first_line(error)}); nothing "
                "was written."
            ) from error
