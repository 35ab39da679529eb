"""timm's models by name: input size, pretrained weights, their licences; of one that is built also its parts.

Letters: H W px, h w patches.
"""

import fnmatch
import re
from collections.abc import Sequence

import timm
import torch
from timm.models import get_pretrained_cfg
from torch import nn

from vitctl.errors import ModelError, did_you_mean
from vitctl.models.folder_config import read_folder_config
from vitctl.models.geometry import geometry_of
from vitctl.models.named import DEMO_FOLDER
from vitctl.primitives.compiler_later import compiler_later
from vitctl.results.models import ModelEntry, Tag
from vitctl.settings.words import DEMO


def find_models(pattern: str | None = None) -> list[ModelEntry]:
    """Return what is known without building a model: names, the demo first; with a pattern also sizes and weights.

    Args:
        pattern: A whole name, which finds that model alone; part of ``NAME`` or of ``NAME.TAG``; or a pattern with
            ``*`` and ``?`` for the whole of one of them. Where it is a tag that matches, the entry lists those tags
            alone. None gives all names.

    Raises:
        ModelError: Nothing matches; the sentence has near names.
    """
    names = [DEMO, *timm.list_models()]
    if pattern is None:
        return list(map(ModelEntry, names))
    tags = _tags_by_name()
    glob = pattern if pattern in names or any(sign in pattern for sign in "*?[") else f"*{pattern}*"
    full_names = [f"{name}.{tag.tag}" for name in names for tag in tags.get(name, ())]
    matches = set(fnmatch.filter([*names, *full_names], glob))
    found = []
    for name in names:
        own = tags.get(name, ())
        shown = own if name in matches else tuple(tag for tag in own if f"{name}.{tag.tag}" in matches)
        if name in matches or shown:
            found.append(ModelEntry(name, image_size=_image_size(name), pretrained=shown))
    if not found:
        raise ModelError(f"No model matches {pattern!r}.{_near(pattern, names, full_names)}")
    return found


def build_entry(entry: ModelEntry) -> ModelEntry:
    """Return ``entry`` with what only the architecture itself tells; it is built without weights or memory."""
    model = _build_empty(entry.name)
    geometry = geometry_of(model)
    return ModelEntry(
        entry.name,
        geometry.image_size,
        geometry.patch_size,
        geometry.grid,
        geometry.num_tokens,
        sum(parameter.numel() for parameter in model.parameters()),
        entry.pretrained,
    )


@compiler_later()
def _build_empty(name: str) -> nn.Module:
    address = f"local-dir:{DEMO_FOLDER}" if name == DEMO else name
    try:
        with torch.device("meta"):
            model: nn.Module = timm.create_model(address)
    except (NotImplementedError, RuntimeError):  # some constructors read values, which meta tensors lack
        model = timm.create_model(address)
    return model


def _tags_by_name() -> dict[str, tuple[Tag, ...]]:
    tags: dict[str, list[Tag]] = {}
    for full_name in timm.list_pretrained():
        name, _, tag = full_name.partition(".")
        tags.setdefault(name, []).append(Tag(tag, _licence(full_name)))
    config = read_folder_config(DEMO_FOLDER).pretrained_cfg
    tags[DEMO] = [Tag("embedded", config.license if config is not None else None)]
    return {name: tuple(own) for name, own in tags.items()}


def _image_size(name: str) -> tuple[int, int] | None:
    if name == DEMO:
        demo = read_folder_config(DEMO_FOLDER).pretrained_cfg
        size: Sequence[int] | None = demo.input_size if demo is not None else None
    else:
        config = get_pretrained_cfg(name)
        size = config.input_size if config is not None else None
    return (size[1], size[2]) if size is not None else None


def _near(pattern: str, names: Sequence[str], full_names: Sequence[str]) -> str:
    """Return near names; where there are none, near words of names and tags (``siglip2`` is near ``siglip``)."""
    words = {word for name in (*names, *full_names) for word in re.split("[._]", name) if len(word) > 2}
    return did_you_mean(pattern, names) or did_you_mean(pattern, sorted(words))


def _licence(full_name: str) -> str | None:
    config = get_pretrained_cfg(full_name)
    return config.license if config is not None else None
