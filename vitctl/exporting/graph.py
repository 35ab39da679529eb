"""The model as a graph: which outputs, which sizes may vary, and how torch.export is brought to take it.

Letters: B images, C classes, D width, T tokens, H W px.
"""

import copy
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from vitctl.errors import ModelError
from vitctl.primitives.out_of_memory import is_out_of_memory

INPUT = "image"
EXAMPLE_BATCH = 2
T = TypeVar("T")


class GraphModel(nn.Module):
    """A timm model with named outputs, in the order that ``outputs`` gives, as a tuple.

    Args:
        model: A timm model.
        outputs: ``logits`` (B, C), ``probabilities`` (B, C), ``embedding`` (B, D; what the head's last layer
            sees), ``tokens`` (B, T, D; after the final norm, prefix tokens first).
        preprocessing: Turns (B, H, W, 3) uint8 into what ``model`` takes; None takes (B, 3, H, W) float32.
    """

    def __init__(self, model: nn.Module, outputs: Sequence[str], preprocessing: nn.Module | None = None) -> None:
        super().__init__()
        self.preprocessing = preprocessing
        self.model = model
        self.outputs = tuple(outputs)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs for (B, 3, H, W) float32 images, or (B, H, W, 3) uint8 with preprocessing."""
        image = self.preprocess(image)
        model: Any = self.model
        found: dict[str, Tensor] = {}
        if set(self.outputs) & {"embedding", "tokens"}:
            features = model.forward_features(image)
            found["tokens"] = features
            found["embedding"] = model.forward_head(features, pre_logits=True)
            if "logits" in self.outputs:
                found["logits"] = model.forward_head(features)
        else:
            found["logits"] = model(image)
        if "probabilities" in self.outputs:
            found["probabilities"] = found["logits"].softmax(dim=-1)
        return tuple(found[name] for name in self.outputs)

    def preprocess(self, image: Tensor) -> Tensor:
        """Return what the model itself takes: (B, 3, H, W) float32, from what ``forward`` takes."""
        if self.preprocessing is None:
            return image
        pixels: Tensor = self.preprocessing(image)
        return pixels


@dataclass(frozen=True)
class InputForm:
    """What a graph takes.

    Attributes:
        image_size: (H, W) px of the example.
        is_raw: (B, H, W, 3) uint8 of any size instead of (B, 3, H, W) float32.
        is_size_dynamic: Whether H and W may vary.
        patch_size: (H, W) px that they must be multiples of; None without patches.
    """

    image_size: tuple[int, int]
    is_raw: bool = False
    is_size_dynamic: bool = False
    patch_size: tuple[int, int] | None = None

    @property
    def dim_names(self) -> tuple[str | int, ...]:
        """The input's dimensions: names of those that vary, numbers of the rest."""
        if self.is_raw:
            return ("batch", "height", "width", 3)
        sides: tuple[str | int, ...] = ("height", "width") if self.is_size_dynamic else self.image_size
        return ("batch", 3, *sides)

    def batch(self, num_images: int) -> Tensor:
        """Return noise in this form: (B, H, W, 3) uint8 or (B, 3, H, W) float32."""
        generator = torch.Generator().manual_seed(0)
        height, width = self.image_size
        if self.is_raw:  # neither square nor the model's own size, so that nothing is tied to either
            shape = (num_images, height + 13, width + 29, 3)
            return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        return torch.randn(num_images, 3, height, width, generator=generator)

    def dynamic_shapes(self) -> dict[str, dict[int, Any]]:
        """Return what ``torch.export`` is told of the sizes that vary; a graph refuses what is no multiple."""
        shapes: dict[int, Any] = {}
        for index, name in enumerate(self.dim_names):
            if name == "batch":
                shapes[index] = Dim(name)
            elif isinstance(name, str):
                is_in_patches = self.patch_size is not None and not self.is_raw
                step = self.patch_size[index - 2] if self.patch_size is not None else 1
                shapes[index] = step * Dim(f"{name}_in_patches") if is_in_patches and step > 1 else Dim.DYNAMIC
        return {INPUT: shapes}


@contextmanager
def quiet_exporters() -> Iterator[None]:
    """Keep torch's and onnxscript's remarks for their own developers off the user's screen inside the block."""
    names = ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir", "onnx_ir.passes.common", "root")
    loggers = [logging.getLogger(None if name == "root" else name) for name in names]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def trace(module: nn.Module, form: InputForm) -> ExportedProgram:
    """Return ``module`` as torch.export sees it, its batch (and what else ``form`` names) free."""
    with torch.no_grad(), quiet_exporters():
        return torch.export.export(
            module.eval(), (form.batch(EXAMPLE_BATCH),), dynamic_shapes=form.dynamic_shapes(), strict=False
        )


def with_plain_attention(module: nn.Module) -> nn.Module:
    """Return a copy of ``module`` whose attention is written as matrix products instead of torch's fused call.

    timm reads its switch for that when a layer is made, so it is set on the layers.
    """
    plain = copy.deepcopy(module)
    layers: Iterable[Any] = plain.modules()
    for layer in layers:
        if getattr(layer, "fused_attn", None):
            layer.fused_attn = False
    return plain


def first_that_works(attempts: Sequence[tuple[str, Callable[[], T]]], *, what: str) -> tuple[str, T]:
    """Return the name and the result of the first attempt that raises nothing.

    Args:
        attempts: Names and functions, best first.
        what: For the message, e.g. ``demo to ONNX``.

    Raises:
        ModelError: All failed; the sentence has the reason of the last.
        OSError: Writing failed, which no other attempt mends.
        Exception: Memory is full, which none mends either.
    """
    reason = ""
    for name, attempt in attempts:
        try:
            return name, attempt()
        except OSError:
            raise
        except Exception as error:  # exporters raise whatever the graph provokes
            if is_out_of_memory(error):
                raise
            reason = f"{type(_root(error)).__name__}: {first_line(error)}"
    raise ModelError(
        f"{what} failed in every way tried ({', '.join(name for name, _ in attempts)}): {reason}. Other formats may "
        "hold it (--to timm), or a newer operator set of ONNX (--opset 23)."
    )


def first_line(error: BaseException) -> str:
    """Return what an error, or its cause, says: its first two lines as one, without a full stop."""
    lines = [line.strip() for line in str(_root(error)).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Please")]  # onnxruntime's, to its own users
    return " ".join(lines[:2] or [type(_root(error)).__name__])[:200].rstrip(". ")


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
