"""A folder that transformers wrote, as what timm needs to build the same model. transformers itself is not needed.

Its ``config.json`` names the model: ViT, DeiT, DINOv2 and DINOv2 with registers are read; the others that timm knows
too have other names for their tensors.

Letters: C classes, D width, H W px.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from vitctl.errors import ModelError
from vitctl.models.folder_config import FILE as CONFIG
from vitctl.models.transformers_processor import read_processor
from vitctl.primitives.documents import peek_document, read_document
from vitctl.primitives.files import path_exists
from vitctl.primitives.schemas import Count, Name, Positive, Schema

WEIGHTS, PICKLED = "model.safetensors", "pytorch_model.bin"
READ = ("vit", "deit", "dinov2", "dinov2_with_registers")
_ADVICE = "expected transformers' config.json of a ViT, as save_pretrained writes it"
_ACTIVATIONS = {
    "gelu": None, "gelu_python": None, "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "quick_gelu": "quick_gelu", "relu": "relu", "silu": "silu", "swish": "silu",
}  # fmt: skip
_TIMMS_EPS = 1e-6  # timm.layers.LayerNorm's own
_WITH_TEACHER = "DeiTForImageClassificationWithTeacher"
_SIZES = {192: "tiny", 384: "small", 768: "base", 1024: "large"}  # D of timm's names

Sides = Count | Annotated[list[Count], Field(min_length=2, max_length=2)]


class ModelConfig(Schema):
    """The keys that are read; the defaults are transformers' own."""

    model_type: str
    architectures: list[str] | None = None
    hidden_size: Count = 768
    num_hidden_layers: Count = 12
    num_attention_heads: Count = 12
    intermediate_size: Count | None = None
    mlp_ratio: Positive = 4.0
    hidden_act: str = "gelu"
    layer_norm_eps: Positive | None = None
    image_size: Sides = 224
    patch_size: Sides | None = None
    num_channels: Count = 3
    qkv_bias: bool = True
    use_swiglu_ffn: bool = False
    num_register_tokens: Annotated[int, Field(ge=0, lt=2**16)] = 4
    id2label: dict[str, Name] | None = None


@dataclass(frozen=True)
class Blueprint:
    """What ``timm.create_model`` is told to build a transformers model, and what it cannot be told.

    Attributes:
        architecture: timm's name.
        arguments: Of timm's class.
        overlay: What timm calls ``pretrained_cfg``: size, preprocessing, names of the outputs.
        eps: Of its LayerNorms, which no argument of timm's says.
        notes: Sentences the user should see.
    """

    architecture: str
    arguments: Mapping[str, Any]
    overlay: Mapping[str, Any]
    eps: float
    notes: tuple[str, ...] = field(default=())

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of ``timm.create_model``."""
        return {**self.arguments, "pretrained_cfg_overlay": dict(self.overlay)}

    def finish(self, model: nn.Module, *, is_saved: bool) -> tuple[str, ...]:
        """Give the norms of the built model their eps; return what the user should know of it.

        Args:
            model: Changed in place.
            is_saved: Whether it will be trained, and saved as a timm folder, which has no word for it.
        """
        if self.eps == _TIMMS_EPS:
            return self.notes
        if is_saved:
            note = (
                f"The LayerNorms of the folder add {self.eps:g} to the variance; a run is saved as a timm "
                f"folder, and is trained with timm's {_TIMMS_EPS:g}."
            )
            return (*self.notes, note)
        for module in model.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = self.eps
        return self.notes


def is_transformers_folder(folder: Path) -> bool:
    """Return whether ``folder`` has a ``config.json`` of transformers' own models (its TimmWrapper's is timm's)."""
    document = peek_document(folder / CONFIG)
    return "model_type" in document and "architecture" not in document


def weights_of(folder: Path) -> Path:
    """Return the file of tensors in a folder that transformers wrote.

    Raises:
        ModelError: There is none, or several.
    """
    found = next((folder / name for name in (WEIGHTS, PICKLED) if path_exists(str(folder / name))), None)
    if found is not None:
        return found
    if path_exists(str(folder / "adapter_config.json")):
        raise ModelError(adapter_sentence(folder))
    if path_exists(str(folder / f"{WEIGHTS}.index.json")) or path_exists(str(folder / f"{PICKLED}.index.json")):
        raise ModelError(
            f"{folder} has its weights in several files; expected one. Save them as one: "
            "model.save_pretrained(FOLDER, max_shard_size='100GB')."
        )
    raise ModelError(
        f"{folder} holds no {WEIGHTS} or {PICKLED}; expected one of them. (A run folder is named with --model, not "
        "with --weights.)"
    )


def adapter_sentence(folder: Path) -> str:
    """Return what to say of a folder that peft wrote."""
    return (
        f"{folder} holds an adapter of peft (adapter_config.json), not a model; expected a whole one. Merge it with "
        "peft: model = model.merge_and_unload(), then model.save_pretrained(FOLDER)."
    )


def read_blueprint(folder: Path) -> Blueprint:
    """Return how timm builds what transformers wrote into ``folder``.

    Raises:
        ModelError: Its files cannot be read, or it is a model that is not read.
    """
    path = folder / CONFIG
    kind = peek_document(path).get("model_type")
    if kind not in READ:
        raise ModelError(
            f"{path} is of transformers' {kind!r}, which is not read; expected one of {', '.join(READ)}. Save the same "
            "weights with timm, or name timm's model with --model NAME."
        )
    config = read_document(path, ModelConfig, error=ModelError, advice=_ADVICE)
    if config.num_channels != 3:
        raise ModelError(f"{path} has num_channels {config.num_channels}; expected 3, as images are RGB.")
    if config.hidden_act not in _ACTIVATIONS:
        raise ModelError(
            f"{path} has hidden_act {json.dumps(config.hidden_act)}; expected one of {', '.join(_ACTIVATIONS)}."
        )
    image_size = _pair(config.image_size)
    expected = read_processor(folder, image_size)
    data = expected.preprocessing.data_config()
    eps = config.layer_norm_eps or (_TIMMS_EPS if config.model_type.startswith("dinov2") else 1e-12)
    names = _class_names(config.id2label)
    return Blueprint(
        _architecture(config),
        _arguments(config, len(names)),
        {**data, "label_names": names or None, "license": None, "test_input_size": None, "pool_size": None},
        eps,
        expected.notes,
    )


def _pair(size: int | Sequence[int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


def _class_names(labels: Mapping[str, str] | None) -> list[str]:
    """Return the names of the outputs in order, those that stand twice with their number; [] where one is missing."""
    labels = labels or {}
    names = [labels.get(str(index)) for index in range(len(labels))]
    if None in names:
        return []
    counts = Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else str(name) for index, name in enumerate(names)]


def _architecture(config: ModelConfig) -> str:
    size = _SIZES.get(config.hidden_size, "base")
    if config.model_type.startswith("dinov2"):
        registers = "_reg4" if config.model_type == "dinov2_with_registers" else ""
        size = "giant" if config.use_swiglu_ffn else size.replace("tiny", "small")
        return f"vit_{size}_patch14{registers}_dinov2"
    if _WITH_TEACHER in (config.architectures or ()):
        return f"deit_{size.replace('large', 'base')}_distilled_patch16_224"
    return f"vit_{size}_patch16_224"


def _arguments(config: ModelConfig, num_classes: int) -> dict[str, Any]:
    """Return the arguments of timm's VisionTransformer; those of its name are all said again."""
    width, is_dinov2 = config.hidden_size, config.model_type.startswith("dinov2")
    patch = config.patch_size or (14 if is_dinov2 else 16)
    found: dict[str, Any] = {
        "img_size": list(_pair(config.image_size)),
        "patch_size": patch if isinstance(patch, int) else list(patch),
        "embed_dim": width,
        "depth": config.num_hidden_layers,
        "num_heads": config.num_attention_heads,
        "mlp_ratio": _ratio(_mlp_width(config), width),
        "qkv_bias": config.qkv_bias,
    }
    activation = _ACTIVATIONS[config.hidden_act]
    if activation is not None and not config.use_swiglu_ffn:
        found["act_layer"] = activation
    if config.model_type == "dinov2_with_registers":
        found |= {"reg_tokens": config.num_register_tokens, "no_embed_class": True}
    if is_dinov2:
        return found | {"init_values": 1e-5, "num_classes": 0}  # its classifier reads two features, timm's one
    if config.model_type == "deit" and _WITH_TEACHER not in (config.architectures or ()):
        found["reg_tokens"] = 1  # the distillation token, which has a row of positions and is not read
    has_head = any("ForImageClassification" in name for name in config.architectures or ())
    return found | ({"num_classes": num_classes or 2} if has_head else {"num_classes": 0})


def _mlp_width(config: ModelConfig) -> int:
    """Return how wide timm calls the MLP: of SwiGLU both halves (``modeling_dinov2.py``, Dinov2SwiGLUFFN)."""
    if not config.model_type.startswith("dinov2"):
        return config.intermediate_size or 3072
    hidden = int(config.hidden_size * config.mlp_ratio)
    return 2 * ((int(hidden * 2 / 3) + 7) // 8 * 8) if config.use_swiglu_ffn else hidden


def _ratio(hidden: int, width: int) -> float:
    """Return the ratio by which timm, which rounds down, comes to ``hidden``."""
    ratio = hidden / width
    return ratio if int(width * ratio) == hidden else (hidden + 0.5) / width
