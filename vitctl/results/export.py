"""What ``vitctl export`` returns: the files of every format, and what verification and timing found."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import Result, left_out_if_none


@dataclass(frozen=True, repr=False, kw_only=True)
class Verification(Result):
    """What was seen of an export beside its source; None stands for what is no number or was not measured."""

    max_abs: float | None
    """Largest difference of the first output."""
    max_rel: float | None
    """Largest difference over the image's largest magnitude."""
    cosine_min: float
    """Least cosine between an image's first output and the source's, -1 to 1."""
    top1_agreement: float | None
    """Share of real images with the same answer, near-ties apart, 0-1; None for an encoder."""
    num_near_ties: int | None
    """Real images whose two best logits float32 may swap; None for an encoder."""
    num_images: int
    """Real images shown."""
    num_noise_images: int
    """Images of noise shown."""
    batch_sizes: tuple[int, ...]
    """Images shown together."""
    sizes: tuple[tuple[int, int], ...]
    """(H, W) px shown, the model's own first."""
    max_abs_per_output: Mapping[str, float | None]
    """Largest difference by output."""
    largest_output: float | None
    """Largest magnitude of the source's first output."""
    tolerance: float | None
    """Difference allowed, times max(1, ``largest_output``); None where accuracy decides."""
    preprocessing_levels_max: float
    """Largest difference of preprocessed images, levels of 255."""
    preprocessing_levels_mean: float
    """Mean difference of preprocessed images, levels of 255."""
    preprocessing_top1_agreement: float | None
    """Share of images with the same answer under the format's own preprocessing, 0-1."""
    accuracy: float | None
    """Of the export on the real images, 0-1; None where they have no labels."""
    source_accuracy: float | None
    """Of the source on them, 0-1; None where they have no labels."""
    passed: bool = True
    """Whether the export behaves like its source; only such exports are written."""
    images: str = ""
    """What it was verified on."""


@dataclass(frozen=True, repr=False, kw_only=True)
class NpzVerification(Verification):
    """What was seen of a Google .npz file, which Flax models with another GELU may read."""

    tanh_gelu_max_abs: float | None
    """By how much the first output changes under the tanh form of GELU; None where the source has no erf GELU."""


@dataclass(frozen=True, repr=False)
class Timing(Result):
    """What one forward pass of one batch takes."""

    p50: float
    """Median, ms."""
    p95: float
    """95th percentile, ms."""
    images_per_s: float
    """At the median."""


@dataclass(frozen=True, repr=False)
class Latency(Result):
    """What one forward pass takes, by size of the batch."""

    batch_1: Timing
    """One image."""
    batch_8: Timing
    """Eight images."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FullPrecision(Result):
    """The float32 file that a reduced precision was made from, and that was not kept."""

    bytes: int
    """Its size."""
    accuracy: float | None
    """On the real images, 0-1; None where they have no labels."""
    latency_ms: Latency | None
    """What a pass takes."""


@dataclass(frozen=True, repr=False)
class ExportedFile(Result):
    """A file of an export."""

    path: str
    """Absolute; in ``export.json`` its name."""
    bytes: int
    """Its size."""
    sha256: str
    """Of its bytes, in hexadecimal."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FormatExport(Result):
    """The export to one format."""

    format: str
    """onnx, timm, hf, npz or pt2."""
    precision: str
    """fp32, fp16 or int8-dynamic."""
    files: tuple[ExportedFile, ...]
    """Without ``export.json`` and the card."""
    opset: int | None
    """ONNX operator set; None for other formats."""
    verify: Verification
    """How it behaves beside its source."""
    latency_ms: Latency | None
    """What a pass takes; None where it was not measured."""
    fp32: FullPrecision | None = field(default=None, metadata=left_out_if_none())
    """What a reduced precision was made from; None, without a key, for full precision."""


@dataclass(frozen=True, repr=False)
class RefusedFormat(Result):
    """A format of ``--to all`` that cannot hold the model, or that nothing here could verify."""

    format: str
    """Its name."""
    reason: str
    """Why."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ExportOptions(Result):
    """What was asked of the formats."""

    outputs: tuple[str, ...]
    """Of the graphs, in order."""
    embed_preprocess: bool
    """Whether the graphs take uint8 images of any size."""
    dynamic_size: bool
    """Whether the graphs take every multiple of the patch."""
    opset: int
    """Of onnx."""
    precision: str
    """Of onnx."""
    npz_layout: str
    """Of npz."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ExportIdentity(Result):
    """What was exported, how and with which packages: how ``export.json`` begins."""

    model: str
    """The source."""
    weights_sha256: str
    """Of the source's weights as float32 safetensors, in hexadecimal."""
    image_size: tuple[int, int]
    """(H, W) px exported."""
    options: ExportOptions
    """What was asked for."""
    vitctl: str
    """Version."""
    versions: Mapping[str, str | None]
    """Of python and the packages that matter; None for one that is not installed."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ExportResult(ExportIdentity):
    """Every export, verified and written."""

    out: str
    """Holds a folder per format, absolute."""
    images: str
    """What the exports were verified on."""
    accuracy: float | None
    """Of the source on those images, 0-1; None where they have no labels."""
    latency_ms: Latency | None
    """What a pass of the source takes; None where it was not measured."""
    exports: tuple[FormatExport, ...]
    """By format, in the order asked for; at least one."""
    refused: tuple[RefusedFormat, ...]
    """What ``--to all`` left out."""
