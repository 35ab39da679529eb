"""By which ``--model-arg`` a model would become that of a file whose tensors it has no place for. Names only."""

from collections.abc import Iterator, Mapping
from typing import Any

from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from vitctl.models.anatomy import num_embedded_prefix_tokens


def advice(model: nn.Module, state: Mapping[str, Any]) -> str:
    """Return a sentence with a space before it, or nothing.

    Args:
        model: What the weights were to be loaded into.
        state: The file's tensors by timm's names.
    """
    if not isinstance(model, VisionTransformer) or not _is_alike(model.state_dict(), state):
        return ""
    arguments = list(_arguments(model, state))
    if not arguments:
        return ""
    return f" Try {' '.join(f'--model-arg {one}' for one in arguments)}, which the names in the file speak for."


def _arguments(model: nn.Module, state: Mapping[str, Any]) -> Iterator[str]:
    own = model.state_dict()
    if _lacks(own, state, "fc_norm.weight"):
        yield "global_pool=avg"  # MAE, fine-tuned: the norm comes after the pooling
    elif _lacks(own, state, "norm.weight") and "fc_norm.weight" in own:
        yield "global_pool=token"
    if _lacks(own, state, "reg_token"):
        registers = state["reg_token"]
        yield f"reg_tokens={registers.shape[1] if isinstance(registers, Tensor) and registers.ndim == 3 else 'N'}"
        if num_embedded_prefix_tokens(model):
            yield "no_embed_class=true"
    if _lacks(own, state, "blocks.0.ls1.gamma"):
        yield "init_values=1e-5"
    if _lacks(own, state, "blocks.0.attn.q_norm.weight"):
        yield "qk_norm=true"
    if _lacks(own, state, "norm_pre.weight"):
        yield "pre_norm=true"
    if "cls_token" in own and "cls_token" not in state:
        yield "class_token=false"
        if not _lacks(own, state, "fc_norm.weight") and getattr(model, "global_pool", "") == "token":
            yield "global_pool=avg"
    if _lacks(state, own, "blocks.0.attn.qkv.bias") and "blocks.0.attn.qkv.weight" in state:
        yield "qkv_bias=false"


def _is_alike(own: Mapping[str, Any], state: Mapping[str, Any]) -> bool:
    """Return whether most names are the model's: of another architecture no argument makes it this one."""
    return sum(key in state for key in own) > len(own) / 2


def _lacks(where: Mapping[str, Any], other: Mapping[str, Any], key: str) -> bool:
    return key in other and key not in where
