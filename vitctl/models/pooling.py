"""What the head of a ViT sees of its tokens: the class token, the mean of the patches, or what attention makes of them.

A model is built anew with the pooling among timm's arguments and filled with its own weights, so that what is saved of
it says the same to timm. The last norm keeps its pretrained weights and its place: before the pooling, unless it stands
behind it already; what pools by attention always reads normed tokens.

Sources: the mean of normed tokens and the attention ("MAP") head, big_vision ``models/vit.py`` (``pool_type`` gap,
map); the class token, arXiv 2010.11929, which has both train equally well at different rates (appendix D.3). What
differs: MAE (``models_vit.py``) and timm's own default for ``avg`` put a norm behind the mean, which frozen features
did not gain by: accuracy of a ridge probe with the demo model on 898 digits 0.939 behind, 0.944 before, on 1,500
photos of clothes 0.852 and 0.857 (measured 2026-11-29).

Letters: D width.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import timm
import torch
from torch import nn

from vitctl.errors import SettingError
from vitctl.models.anatomy import (
    has_class_token,
    has_distillation_token,
    is_of_attention_pooling,
    norm_after_blocks,
    norm_after_pooling,
    pooling_arguments,
    with_moved_norm,
)
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.models.timm_folder import reconstruction_of
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.seeds import torch_randomness

MODEL = "model"
"""As the model has it: of ``HEAD_POOLS`` the one that changes nothing."""
_SAYS_IT = "global_pool"  # what --model-arg calls it


def pooling_of(model: nn.Module) -> str:
    """Return timm's word for how a model pools its tokens or places; empty where it has none."""
    found = getattr(model, "global_pool", "")
    return found if isinstance(found, str) else ""


def described_pooling(model: nn.Module) -> str:
    """Return in words how a ViT pools, and where its last norm stands."""
    words = {"token": "the class token", "avg": "the mean of the patches", "map": "attention over the tokens"}
    pool = pooling_of(model)
    norm = "normed after it" if norm_after_pooling(model) is not None else "normed before it"
    return f"{pool}: {words.get(pool, pool)}, {norm}"


def with_pooling(opened: PreparedModel, pool: str) -> PreparedModel:
    """Return the model with another pooling before its head; itself where it has that one.

    Args:
        opened: The model, at the size it was pretrained at; its weights may be taken over.
        pool: One of ``HEAD_POOLS``: model (its own), token, avg, or map, whose attention has random weights, keyed by
            the model's seed, unless the model pools by attention already.

    Raises:
        SettingError: ``--model-arg`` says another, or the model has no choice, or not this one.
    """
    if pool == MODEL:
        return opened
    said = opened.model_args.get(_SAYS_IT, pool)
    if said != pool:
        raise SettingError(
            f"--pool {pool} and --model-arg {_SAYS_IT}={said} say different things; expected one of them. Leave one "
            "out (a recipe says it as head.pool).",
            field="pool",
        )
    has_norm_after = norm_after_pooling(opened.model) is not None and pool != "map"
    arguments = _checked_arguments(opened.model, pool, has_norm_after=has_norm_after, name=opened.name)
    if pooling_of(opened.model) == pool:
        return opened
    merged = {**opened.model_args, **arguments}
    if opened.loaded.report is None:  # random weights are those of a model that was made so
        return open_model(
            opened.spec, weights=opened.weights, seed=opened.seed, model_args=merged, is_saved=opened.is_saved
        )
    model = _rebuilt(opened.model, arguments, seed=opened.seed)
    loaded = replace(opened.loaded, model=model, is_pooled_anew=True)
    return replace(opened, loaded=loaded, model_args=merged)


def _checked_arguments(model: nn.Module, pool: str, *, has_norm_after: bool, name: str) -> dict[str, Any]:
    """Return timm's arguments for ``pool``.

    Raises:
        SettingError: The model cannot have it.
    """
    asked = f"--pool {pool}"
    arguments = pooling_arguments(model, pool, has_norm_after=has_norm_after)
    if arguments is None or has_distillation_token(model):
        why = "two heads read a token each" if has_distillation_token(model) else "timm builds it with one pooling only"
        raise SettingError(
            f"{asked} cannot be had of {name}: {why}; expected a plain ViT (ViT, DeiT III, BEiT, EVA, DINO). Leave it "
            "out, and the head sees what it saw in pretraining.",
            field="pool",
        )
    if pool == "token" and not has_class_token(model):
        raise SettingError(
            f"{asked}: {name} has no class token; expected a ViT with one. Try --pool avg.", field="pool"
        )
    architecture, own = reconstruction_of(model)
    try:
        _on_meta(partial(timm.create_model, architecture, **{**own, **arguments}))
    except (AssertionError, TypeError, ValueError) as error:
        raise SettingError(
            f"{asked} cannot be had of {name}: {str(error).rstrip('.')}. Try --pool avg.", field="pool"
        ) from error
    return arguments


@compiler_later()  # random numbers on the meta device ask for it
def _on_meta(build: Any) -> None:
    with torch.device("meta"):
        build()


def _rebuilt(model: nn.Module, arguments: Mapping[str, Any], *, seed: int) -> nn.Module:
    """Return a model of the same weights, on the CPU in evaluation mode, that was made with other arguments.

    Args:
        model: A timm model.
        arguments: Of its pooling.
        seed: Of what has no weights yet.
    """
    architecture, own = reconstruction_of(model)
    with torch_randomness(seed, "weights", 2):
        made: nn.Module = timm.create_model(
            architecture, **{**own, **arguments}, num_classes=getattr(model, "num_classes", 0)
        )
    tensors, wanted = dict(model.state_dict()), made.state_dict()
    new = {name: value for name, value in wanted.items() if is_of_attention_pooling(name)}
    if not wanted.keys() - new.keys() <= tensors.keys():
        tensors = with_moved_norm(tensors, is_after=norm_after_blocks(made) is None)
    made.load_state_dict(new | {name: tensors[name] for name in wanted.keys() - new.keys()})
    made.pretrained_cfg = model.pretrained_cfg
    made.default_cfg = model.pretrained_cfg  # timm's older word for the same
    return made.float().eval()
