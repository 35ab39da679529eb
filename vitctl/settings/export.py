"""Settings of ``vitctl export``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.settings import words
from vitctl.settings.groups import ModelArguments, NamedModel, Threads
from vitctl.settings.option import SHARE, Opt, Settings, between
from vitctl.settings.parsing import listed, names, ordered_names, pixels
from vitctl.settings.words import ALL, EXPORT_FORMATS, GRAPH_FORMATS, MAX_OPSET, MIN_OPSET


@dataclass(frozen=True, kw_only=True)
class _Run(Settings):
    run: Annotated[
        str | None, Opt("Run folder, its best/ or last/, or a folder of timm or transformers.", "RUN", is_argument=True)
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Export(Settings):
    to: Annotated[
        tuple[str, ...],
        Opt(
            f"A list of {', '.join(EXPORT_FORMATS)}; or all that fit the model.",
            "FORMATS",
            choices=(*EXPORT_FORMATS, ALL),
            parse=names,
            spell=listed,
        ),
    ] = ("onnx",)
    out: Annotated[str | None, Opt("Gets one folder per format (default: RUN/exports, or exports/NAME).", "DIR")] = None
    which: Annotated[str, Opt("Weights of a run: best, last or average.", "WHICH", choices=words.WHICH)] = "best"
    image_size: Annotated[
        tuple[int, int] | None,
        Opt("Pixels, height first; else the model's own.", "N|HxW", parse=pixels, spell=format_size),
    ] = None
    pos_embed_interp: Annotated[
        str | None,
        Opt(f"Position embeddings: {', '.join(words.INTERPOLATIONS)}.", "METHOD", choices=words.INTERPOLATIONS),
    ] = None
    dynamic_size: Annotated[bool, Opt("onnx, pt2: take every multiple of the patch.")] = False
    opset: Annotated[
        int,
        Opt(
            f"onnx: operator set, {MIN_OPSET} to {MAX_OPSET}.",
            "N",
            limits=(
                between(MIN_OPSET, MAX_OPSET, f"{MIN_OPSET} to {MAX_OPSET} (18 is the one that most runtimes take)."),
            ),
        ),
    ] = 18
    precision: Annotated[str, Opt(f"onnx: {', '.join(words.PRECISIONS)}.", "WHAT", choices=words.PRECISIONS)] = "fp32"
    embed_preprocess: Annotated[bool, Opt("onnx, pt2: take (batch, height, width, 3) uint8 images of any size.")] = (
        False
    )
    outputs: Annotated[
        tuple[str, ...],
        Opt(
            f"onnx, pt2: {', '.join(words.OUTPUTS)}; the logits always come first.",
            "LIST",
            choices=words.OUTPUTS,
            parse=ordered_names(words.OUTPUTS),
            spell=listed,
        ),
    ] = ("logits",)
    npz_layout: Annotated[str, Opt(f"npz: {', '.join(words.NPZ_LAYOUTS)}.", "NAME", choices=words.NPZ_LAYOUTS)] = (
        "vit_jax"
    )
    verify: Annotated[
        str | None, Opt("Images to verify on; else the run's validation images, else the embedded digits.", "SPEC")
    ] = None
    max_accuracy_drop: Annotated[
        float, Opt("fp16, int8-dynamic: accuracy they may lose, 0 to 1.", "X", limits=(SHARE,))
    ] = 0.02
    benchmark: Annotated[bool, Opt("Measure latency at batch 1 and 8, the source beside the exports.")] = False


@dataclass(frozen=True, kw_only=True)
class ExportConfig(_Run, NamedModel, ModelArguments, _Export, Threads):
    """Settings of ``vitctl export``."""

    def check_together(self) -> None:
        """Check that there is one model, and refuse what would do nothing."""
        super().check_together()
        self.check_one_model(self.run)
        if not set(self.formats) & set(GRAPH_FORMATS):
            self.refuse("dynamic_size", "embed_preprocess", "outputs", why="without --to onnx or pt2")
        if "onnx" not in self.formats:
            self.refuse("opset", "precision", why="without --to onnx")
        if "npz" not in self.formats:
            self.refuse("npz_layout", why="without --to npz")
        if self.precision == "fp32":
            self.refuse("max_accuracy_drop", why="without --precision fp16 or int8-dynamic")
        if self.model is not None:
            self.refuse("which", why="beside --model; it chooses between the weights of a run")
        if self.pos_embed_interp is not None and self.image_size is None and not self.dynamic_size:
            raise SettingError(
                "--pos-embed-interp is given without --image-size; nothing is resampled.", field="pos_embed_interp"
            )
        if self.dynamic_size and self.embed_preprocess:
            raise SettingError(
                "--dynamic-size and --embed-preprocess are both given; expected one: with the preprocessing inside, "
                "the graph takes images of any size and the model sees --image-size.",
                field="dynamic_size",
            )

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats in the order given; ``all`` is every one."""
        return EXPORT_FORMATS if ALL in self.to else self.to

    @property
    def takes_what_fits(self) -> bool:
        """Whether formats that cannot hold the model are left out instead of being an error."""
        return ALL in self.to
