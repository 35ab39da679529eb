"""Write a model as a timm local-dir folder: ``model.safetensors`` and ``config.json``.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` opens it unchanged, and so does transformers'
TimmWrapper. Differs from ``timm.models.save_for_hf`` in what that leaves wrong for fine-tuned weights: the
number of classes stands once (TimmWrapper refuses it in ``model_args``), class names are a list, and the
source's tag, licence and papers are not claimed for the new weights.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from timm.models._hub import save_config_for_hf
from timm.models._input import get_model_args
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.checkpoints import write_tensors
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import whole_folder, write_json
from vitctl.primitives.preprocessing import Preprocessing

_NOT_OURS = ("tag", "license", "paper_ids", "paper_name", "origin_url", "notes", "description", "label_names")


def save_timm_folder(
    model: nn.Module,
    folder: Path,
    *,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    base_model: str,
    base_licence: str | None,
    licence: str | None = None,
    dtype: torch.dtype = torch.float32,
    weights: Mapping[str, Tensor] | None = None,
    add: Callable[[Path], None] | None = None,
) -> None:
    """Write ``folder``, whole or not at all, in the place of what stands there.

    Args:
        model: A timm model; its weights are not changed.
        folder: Where to write.
        class_names: One name per output, in order.
        preprocessing: What the weights expect of an image.
        base_model: What it was fine-tuned from, for the record.
        base_licence: Licence of those weights, where known.
        licence: Licence of the weights written, where their owner has chosen one.
        dtype: Of the floating-point tensors in the file.
        weights: Tensors in the place of those of ``model``, by the same names and of the same shapes, e.g. (C, D).
        add: Writes what else belongs into the folder that it is given.
    """
    with whole_folder(folder) as partial:
        if add is not None:
            add(partial)
        tensors = {
            key: value.detach().to("cpu", dtype if value.is_floating_point() else value.dtype).contiguous()
            for key, value in (model.state_dict() if weights is None else weights).items()
        }
        write_tensors(partial / "model.safetensors", tensors)
        save_config_for_hf(
            model,
            str(partial / "config.json"),
            model_config={"label_names": list(class_names)},
            data_config=preprocessing.data_config(),
        )
        config = _corrected(partial / "config.json", base_model, base_licence, licence)
        if preprocessing.max_value is not None:  # at the top, as timm refuses a pretrained_cfg with keys of others
            config["max_value"] = preprocessing.max_value
        write_json(partial / "config.json", config)


def _corrected(path: Path, base_model: str, base_licence: str | None, licence: str | None) -> dict[str, Any]:
    config = read_document(path, dict[str, Any], error=ModelError, advice="expected what timm writes")
    config.get("model_args", {}).pop("num_classes", None)
    for key in _NOT_OURS:
        config["pretrained_cfg"].pop(key, None)
    config["pretrained_cfg"]["tag"] = "vitctl"
    if licence is not None:
        config["pretrained_cfg"]["license"] = licence
    config["base_model"] = {"name": base_model, "license": base_licence}
    return config


def reconstruction_of(model: nn.Module) -> tuple[str, dict[str, Any]]:
    """Return timm's name of the architecture, and what ``timm.create_model`` needs beside it but ``num_classes``."""
    config: Any = getattr(model, "pretrained_cfg", {})
    arguments = {key: value for key, value in get_model_args(model, {}).items() if key != "num_classes"}
    return str(config["architecture"]), arguments
