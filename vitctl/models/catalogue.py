"""timm's models by name: input size, patch, grid, parameters, pretrained weights and their licences.

Letters: H W px, h w patches.
"""

import fnmatch

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from vitctl.errors import ModelError, did_you_mean
from vitctl.models.build import DEMO_FOLDER
from vitctl.models.folder_config import read_folder_config
from vitctl.models.geometry import geometry_of
from vitctl.results.models import ModelEntry, Tag
from vitctl.settings.words import DEMO


def model_names(pattern: str | None = None) -> list[str]:
    """Return the names that ``--model`` takes, the embedded demo first.

    Args:
        pattern: Part of a name, or a pattern with ``*`` and ``?``; None gives all.

    Raises:
        ModelError: Nothing matches.
    """
    names = [DEMO, *timm.list_models()]
    if pattern is None:
        return names
    glob = pattern if any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    found = fnmatch.filter(names, glob)
    if not found:
        raise ModelError(f"No model matches {pattern!r}.{did_you_mean(pattern, names)}")
    return found


def describe_model(name: str) -> ModelEntry:
    """Return what timm knows of the architecture ``name``; it is built without weights or memory."""
    model = _build_empty(name)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    geometry = geometry_of(model)
    return ModelEntry(
        name,
        geometry.image_size,
        geometry.patch_size,
        geometry.grid,
        geometry.num_tokens,
        parameters,
        _tags(name),
    )


def _build_empty(name: str) -> nn.Module:
    address = f"local-dir:{DEMO_FOLDER}" if name == DEMO else name
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(address)
    except (NotImplementedError, RuntimeError):  # some constructors read values, which meta tensors lack
        model = timm.create_model(address)
    return model


def _tags(name: str) -> tuple[Tag, ...]:
    if name == DEMO:
        config = read_folder_config(DEMO_FOLDER).pretrained_cfg
        return (Tag("embedded", config.license if config is not None else None),)
    full_names = timm.list_pretrained(f"{name}.*")
    return tuple(Tag(full.partition(".")[2], _licence(full)) for full in full_names)


def _licence(full_name: str) -> str | None:
    config = get_pretrained_cfg(full_name)
    return config.license if config is not None else None
