"""Weights of other programs under timm's names: transformers, torchvision, and DINOv2 with registers as Meta wrote it.

What else timm knows (DeiT, MAE, CLIP, BEiT, Swin...) its own ``checkpoint_filter_fn`` renames, after these.

Letters: C classes, D width, R registers, T tokens.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models import transformers_names
from vitctl.models.anatomy import has_distillation_token
from vitctl.models.load_report import some

_ADAPTER = re.compile(r"\.(lora_[A-Za-z]+|ia3_l|hada_w\d_a|oft_R|vera_lambda_[bd])(\.|$)")
_FACTORS = (".lora_a", ".lora_b")  # what a run of vitctl calls them; peft has capitals
_TORCHVISION = {
    "class_token": "cls_token",
    "conv_proj.weight": "patch_embed.proj.weight",
    "conv_proj.bias": "patch_embed.proj.bias",
    "encoder.pos_embedding": "pos_embed",
    "encoder.ln.weight": "norm.weight",
    "encoder.ln.bias": "norm.bias",
    "heads.head.weight": "head.weight",
    "heads.head.bias": "head.bias",
}
_TORCHVISION_BLOCK = {
    "ln_1.": "norm1.",
    "self_attention.in_proj_": "attn.qkv.",
    "self_attention.out_proj.": "attn.proj.",
    "ln_2.": "norm2.",
    "mlp.0.": "mlp.fc1.",
    "mlp.3.": "mlp.fc2.",
    "mlp.linear_1.": "mlp.fc1.",  # before torchvision 0.12
    "mlp.linear_2.": "mlp.fc2.",
}
_TORCHVISION_LAYER = re.compile(r"encoder\.layers\.encoder_layer_(\d+)\.(.+\.|.+in_proj_)(weight|bias)")


@dataclass(frozen=True)
class Renamed:
    """Weights under names that timm knows.

    Attributes:
        tensors: By name.
        layout: Whose names they had, for people; None where they are left as they were.
        left_out: Names of the file that no timm model has a place for, and were left out.
        why_headless: Why the head is among those, where it is.
    """

    tensors: dict[str, Any]
    layout: str | None = None
    left_out: tuple[str, ...] = ()
    why_headless: str | None = None


def renamed(tensors: dict[str, Any], model: nn.Module, *, path: Path) -> Renamed:
    """Return the tensors of a file under timm's names, where it is of a layout that timm does not rename.

    Args:
        tensors: By the file's names.
        model: The timm model they are for.
        path: The file, for messages.

    Raises:
        ModelError: They are an adapter's (LoRA), or of a model that timm's do not compute.
    """
    _refuse_adapters(tensors, path)
    if transformers_names.is_transformers(tensors):
        return _of_transformers(tensors, model)
    if "conv_proj.weight" in tensors and "class_token" in tensors:
        return _of_torchvision(tensors, path)
    if "register_tokens" in tensors:
        return Renamed(_with_folded_class_row(tensors), "DINOv2 with registers")
    return Renamed(tensors)


def _refuse_adapters(tensors: dict[str, Any], path: Path) -> None:
    found = [key for key in tensors if _ADAPTER.search(key)]
    if found or path.name.startswith("adapter_model."):
        how = "Merge it with peft where the model is: model = model.merge_and_unload(), then save model.state_dict()."
        if found and all(key.endswith(_FACTORS) for key in tensors):
            how = f"A run of vitctl has them in the weights beside it: {path.with_name('model.safetensors')}."
        raise ModelError(
            f"{path} holds an adapter that is not merged ({some(found or list(tensors), 1)}); expected the weights of "
            f"a whole model. {how}"
        )


def _of_transformers(tensors: dict[str, Any], model: nn.Module) -> Renamed:
    found = transformers_names.to_timm(tensors)
    if "register_tokens" in found:
        found = _with_folded_class_row(found)
    if "dist_token" in found and not has_distillation_token(model):
        found["reg_token"] = found.pop("dist_token")  # DeiT without its teacher's head: a token that nothing reads
    head, table = found.get("head.weight"), found.get("cls_token")
    is_double = isinstance(head, Tensor) and isinstance(table, Tensor) and head.shape[-1] == 2 * table.shape[-1]
    if not is_double:
        return Renamed(found, "transformers")
    for key in ("head.weight", "head.bias"):
        found.pop(key, None)
    why = (
        "the head of Dinov2ForImageClassification was left out, as it reads the class token and the mean of the "
        "patches side by side, and timm's models read one of them"
    )
    return Renamed(found, "transformers", ("classifier.weight", "classifier.bias"), why)


def _with_folded_class_row(tensors: dict[str, Any]) -> dict[str, Any]:
    """Return the tensors of DINOv2 with registers, (1, R, D), as timm has them: positions of patches only.

    The class token's row of the table, (1, T, D), is added to the token, which comes to the same (timm's
    ``_convert_dinov2``, ``timm/models/vision_transformer.py``).
    """
    token, table = tensors.get("cls_token"), tensors.get("pos_embed")
    if not (isinstance(token, Tensor) and isinstance(table, Tensor) and token.ndim == table.ndim == 3):
        return tensors
    if token.shape[2] != table.shape[2] or not table.shape[1]:
        return tensors
    found = {key: value for key, value in tensors.items() if key != "register_tokens"}
    return found | {
        "reg_token": tensors["register_tokens"],
        "cls_token": token + table[:, :1],
        "pos_embed": table[:, 1:],
    }


def _of_torchvision(tensors: dict[str, Any], path: Path) -> Renamed:
    """Return the tensors of torchvision's ``VisionTransformer`` (``torchvision/models/vision_transformer.py``)."""
    if "heads.pre_logits.weight" in tensors:
        raise ModelError(
            f"{path} is of torchvision with a representation layer (heads.pre_logits), which no ViT of timm has; "
            "expected weights without one."
        )
    return Renamed({_torchvision_name(key): value for key, value in tensors.items()}, "torchvision")


def _torchvision_name(key: str) -> str:
    layer = _TORCHVISION_LAYER.fullmatch(key)
    if layer is None or layer[2] not in _TORCHVISION_BLOCK:
        return _TORCHVISION.get(key, key)
    return f"blocks.{layer[1]}.{_TORCHVISION_BLOCK[layer[2]]}{layer[3]}"
