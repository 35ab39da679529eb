"""Write a ViT as the folder that transformers' ViTForImageClassification opens, and have transformers read it.

``config.json``, ``model.safetensors`` and ``preprocessor_config.json``. The tensors have the names of
transformers 4, which 5 reads and writes too (its in-memory names differ). Writing needs no transformers; reading,
``transformers_logits`` and ``transformers_pixels``, is transformers: whoever gets the folder runs that code.

Letters: B images, C classes, D width, H W px, T tokens.
"""

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional

from vitctl.data.transforms import without_far_ends
from vitctl.errors import ModelError
from vitctl.exporting import plain_vit
from vitctl.exporting.plain_vit import is_absent
from vitctl.models.anatomy import (
    blocks_of,
    has_class_token,
    norm_after_blocks,
    num_embedded_prefix_tokens,
    num_register_tokens,
)
from vitctl.models.folder_config import FILE as CONFIG_FILE
from vitctl.models.geometry import geometry_of
from vitctl.models.transformers_model import WEIGHTS as WEIGHTS_FILE
from vitctl.models.transformers_names import vit_names
from vitctl.models.transformers_processor import FILE as PREPROCESSOR_FILE
from vitctl.primitives.documents import read_document
from vitctl.primitives.files import write_json
from vitctl.primitives.preprocessing import Preprocessing

_APPROXIMATIONS = {"gelu": "none", "gelu_pytorch_tanh": "tanh"}  # transformers' hidden_act -> torch's approximate


def check_transformers_can_hold(model: nn.Module, *, name: str) -> None:
    """Check that ViTForImageClassification computes what ``model`` does.

    That class has a class token that the classifier reads, a learnt position for every token, blocks that
    normalise first, and nothing else (arXiv 2010.11929).

    Args:
        model: A timm model.
        name: What to call it in messages.

    Raises:
        ModelError: It does not; the sentence has every reason.
    """
    if type(model) is not VisionTransformer:
        found = f"is of type {type(model).__name__}; expected timm's VisionTransformer with a class token"
    elif reasons := _obstacles(model):
        found = f"has {' and '.join(reasons)}"
    else:
        return
    raise ModelError(
        f"transformers' ViTForImageClassification cannot hold {name}, which {found}. Use --to timm: transformers opens "
        "that folder too, as TimmWrapper."
    )


def write_transformers_folder(
    model: nn.Module, folder: Path, *, class_names: Sequence[str], preprocessing: Preprocessing, name: str
) -> None:
    """Write ``config.json``, ``model.safetensors`` (float32) and ``preprocessor_config.json`` into ``folder``.

    Args:
        model: A timm VisionTransformer; not changed.
        folder: An existing folder that is the caller's alone; it is for the caller to put it in its place.
        class_names: One name per output, in order.
        preprocessing: What the weights expect of an image; see ``preprocessor_config`` for what becomes of it.
        name: What to call the model in messages.

    Raises:
        ModelError: ViTForImageClassification cannot hold the model, or the class names are not one per output or
            not all different.
    """
    check_transformers_can_hold(model, name=name)
    vit: Any = model
    _check_class_names(class_names, num_classes=vit.head.out_features, name=name)
    write_json(folder / CONFIG_FILE, _model_config(model, class_names))
    # safetensors' own save_file makes files that only their owner can read
    (folder / WEIGHTS_FILE).write_bytes(save(_classic_tensors(model), metadata={"format": "pt"}))
    write_json(folder / PREPROCESSOR_FILE, preprocessor_config(preprocessing))


def _check_class_names(class_names: Sequence[str], *, num_classes: int, name: str) -> None:
    if len(class_names) != num_classes:
        raise ModelError(f"{name} has {num_classes} outputs and {len(class_names)} class names; expected one for each.")
    repeated = [one for one in dict.fromkeys(class_names) if list(class_names).count(one) > 1]
    if repeated:
        raise ModelError(
            f"{name} has the class name {repeated[0]!r} more than once; expected different names, as transformers' "
            "label2id finds an output by its name. Use --to timm, or rename the class and fine-tune again."
        )


def _obstacles(vit: Any) -> list[str]:
    """Return what of a VisionTransformer has no place in ViTForImageClassification, as words that follow "has"."""
    found = _obstacles_outside_blocks(vit) + plain_vit.obstacles_of(vit)
    if plain_vit.has_plain_parts(vit):
        found += _obstacles_inside(vit)
    return found or [f"a tensor {key} of unknown use" for key in vit.state_dict() if not vit_names(key)]


def _obstacles_outside_blocks(vit: Any) -> list[str]:
    found = {
        "no class token": not has_class_token(vit),
        f"{num_register_tokens(vit)} register tokens": num_register_tokens(vit) > 0,
        f"pooling {vit.global_pool!r} in place of the class token's": vit.global_pool != "token",
        "no position embeddings": vit.pos_embed is None,
        "no norm after the blocks": norm_after_blocks(vit) is None,
        "no classifier": is_absent(vit.head),
    }
    return plain_vit.reasons_in(found)


def _obstacles_inside(vit: Any) -> list[str]:
    eps = sorted({norm.eps for norm in plain_vit.layer_norms_of(vit)})
    blocks = blocks_of(vit)
    inner_norms = [norm for block in blocks for norm in plain_vit.inner_norms_of(block)]
    found = {
        "a patch embedding without a bias": not plain_vit.is_biased(vit.patch_embed.proj),
        "a norm within attention or MLP": not all(map(is_absent, inner_norms)),
        "linear layers without a bias": not all(map(plain_vit.has_biases, blocks)),
        f"LayerNorms of different eps ({', '.join(map(str, eps))})": len(eps) > 1,
    }
    return plain_vit.reasons_in(found)


def _model_config(model: nn.Module, class_names: Sequence[str]) -> dict[str, Any]:
    vit: Any = model
    geometry, blocks, last_norm = geometry_of(model), blocks_of(model), plain_vit.layer_norms_of(vit)[-1]
    num_heads, intermediate_size, has_qkv_bias, form = plain_vit.block_settings(blocks[0])
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "image_size": _one_or_two(geometry.image_size),
        "patch_size": _one_or_two(vit.patch_embed.patch_size),
        "num_channels": vit.patch_embed.proj.in_channels,
        "hidden_size": vit.embed_dim,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": num_heads,
        "intermediate_size": intermediate_size,
        "hidden_act": next(name for name, known in _APPROXIMATIONS.items() if known == form),
        "layer_norm_eps": last_norm.eps,
        "qkv_bias": has_qkv_bias,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "id2label": {str(index): name for index, name in enumerate(class_names)},
        "label2id": {name: index for index, name in enumerate(class_names)},
        "dtype": "float32",
    }


def _one_or_two(size: Iterable[int]) -> int | list[int]:
    """Return (H, W) as transformers writes it: one number for a square."""
    height, width = size
    return height if height == width else [height, width]


def _classic_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a model that passed ``check_transformers_can_hold`` under transformers' names."""
    tensors = {}
    lacks_row = not num_embedded_prefix_tokens(model)  # of positions, for the class token
    for key, value in model.state_dict().items():
        whole = value.detach().to("cpu", torch.float32)
        if key == "pos_embed" and lacks_row:  # (1, T - 1, D): a zero for the class token changes nothing
            whole = functional.pad(whole, (0, 0, 1, 0))
        names = vit_names(key)
        for classic, part in zip(names, whole.chunk(len(names)), strict=True):
            tensors[classic] = part.clone(memory_format=torch.contiguous_format)
    return tensors


def preprocessor_config(preprocessing: Preprocessing) -> dict[str, Any]:
    """Return the ``preprocessor_config.json`` whose pixels are nearest to timm's evaluation transform.

    Exact but for rounding: ``squash``, and ``center`` for squares, where what is cut off is even. Otherwise:

    - cut off is odd: half of these crops are one pixel off (transformers rounds the offset down, torchvision to even);
    - ``center`` for rectangles: squashed, which is right for images of the rectangle's aspect; transformers resizes by
      the shortest edge only, which would leave black bars on the others, or cut into these;
    - ``border``: the border is black, not the mean (from transformers 5 on; 4 refuses the size).

    Args:
        preprocessing: What the weights expect of an image.
    """
    height, width = preprocessing.image_size
    scaled = tuple(math.floor(side / preprocessing.crop_pct) for side in (height, width))  # as timm rounds
    document = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": _resized_to(scaled, crop_mode=preprocessing.crop_mode),
        "resample": int(Image.Resampling[preprocessing.interpolation.upper()]),
        "do_center_crop": True,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(preprocessing.mean),
        "image_std": list(preprocessing.std),
    }
    if document["size"] == document["crop_size"]:  # nothing is cut off, and ViT's own processor does no more
        del document["do_center_crop"], document["crop_size"]
        document["image_processor_type"] = "ViTImageProcessor"
    return document


def _resized_to(scaled: tuple[int, ...], *, crop_mode: str) -> dict[str, int]:
    """Return transformers' ``size`` for an image resized to, within or around (H, W)."""
    height, width = scaled
    if crop_mode == "border":
        return {"max_height": height, "max_width": width}
    if crop_mode == "squash" or height != width:
        return {"height": height, "width": width}
    return {"shortest_edge": height}


def misdescription(folder: Path, *, preprocessing: Preprocessing, class_names: Sequence[str]) -> str | None:
    """Return what the files of a written folder say that is not so, None if nothing was found.

    It goes by the files and the source alone, so that a mistake of ``write_transformers_folder`` shows. How much is cut
    off around the output is not compared: transformers cannot say all that timm does, see ``preprocessor_config``.

    Args:
        folder: With ``config.json``, ``model.safetensors`` and ``preprocessor_config.json``.
        preprocessing: What the exported model expects of an image.
        class_names: One per output of the exported model, in order.

    Returns:
        Complaints such as "its config.json has no image_size, the model's is [16, 16]", joined by "and".

    Raises:
        OSError: A file is missing.
        KeyError: The patch embedding is missing.
    """
    config, processor = (_document(folder / name) for name in (CONFIG_FILE, PREPROCESSOR_FILE))
    with safe_open(folder / WEIGHTS_FILE, framework="numpy") as file:
        shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118  # no dict
    found = [
        *_complaints(PREPROCESSOR_FILE, _processor_facts(processor, preprocessing)),
        *_complaints(CONFIG_FILE, _config_facts(config, shapes, image_size=preprocessing.image_size)),
        *_misnamed(config, class_names),
    ]
    return " and ".join(found) or None


def _document(path: Path) -> dict[str, Any]:
    return read_document(path, dict[str, Any], error=ModelError, advice="expected what vitctl writes")


def _complaints(file: str, facts: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """Return a phrase for each of ``facts``, (what the file has, what is so) by name, that differs."""
    return [
        f"its {file} has {f'the {fact} {json.dumps(has)}' if has is not None else f'no {fact}'}, the model's is "
        f"{json.dumps(is_so)}"
        for fact, (has, is_so) in facts.items()
        if has != is_so
    ]


def _processor_facts(processor: Mapping[str, Any], preprocessing: Preprocessing) -> dict[str, tuple[Any, Any]]:
    numbers = {one.name.lower(): int(one) for one in Image.Resampling}
    is_cropped = "crop_size" in processor
    output = processor["crop_size"] if is_cropped else processor.get("size", {})
    steps = ["do_resize", "do_rescale", "do_normalize"] + ["do_center_crop"] * is_cropped
    return {
        "mean": (processor.get("image_mean"), list(preprocessing.mean)),
        "standard deviation": (processor.get("image_std"), list(preprocessing.std)),
        "rescale_factor": (processor.get("rescale_factor"), 1 / 255),
        "resample": (processor.get("resample"), numbers[preprocessing.interpolation]),
        "output size": ([output.get("height"), output.get("width")], list(preprocessing.image_size)),
        **{step: (processor.get(step), True) for step in steps},
    }


def _config_facts(
    config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], *, image_size: tuple[int, int]
) -> dict[str, tuple[Any, Any]]:
    _, num_channels, *patch_size = shapes["vit.embeddings.patch_embeddings.projection.weight"]
    return {
        "model_type": (config.get("model_type"), "vit"),
        "architectures": (config.get("architectures"), ["ViTForImageClassification"]),
        "image_size": (_height_and_width(config.get("image_size")), list(image_size)),
        "patch_size": (_height_and_width(config.get("patch_size")), patch_size),
        "num_channels": (config.get("num_channels"), num_channels),
    }


def _height_and_width(size: int | list[int] | None) -> list[int] | None:
    return [size, size] if isinstance(size, int) else size


def _misnamed(config: Mapping[str, Any], class_names: Sequence[str]) -> list[str]:
    """Return a phrase for the first class that goes by another name, and one for names that lead elsewhere."""
    names, indices = config.get("id2label", {}), config.get("label2id", {})
    expected = {str(index): name for index, name in enumerate(class_names)}
    found = [
        f"its {CONFIG_FILE} has {names.get(key)!r} for class {key} in id2label, the model {expected.get(key)!r}"
        for key in expected | names
        if names.get(key) != expected.get(key)
    ][:1]
    if indices != {name: index for index, name in enumerate(class_names)}:
        found.append(f"its {CONFIG_FILE} has a label2id that is not the inverse of the model's class names")
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep transformers from drawing progress bars and from logging what ``transformers_logits`` says itself."""
    from transformers.utils import logging

    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bars:
            logging.enable_progress_bar()


def transformers_logits(folder: Path) -> Callable[[Tensor], Tensor]:
    """Return what transformers' ViTForImageClassification computes from the files in ``folder``, on the CPU.

    Args:
        folder: With ``config.json`` and ``model.safetensors``.

    Returns:
        A function from images, (B, 3, H, W) float32, normalised, to logits, (B, C) float32.

    Raises:
        ModelError: A tensor is missing, of another shape, or not of that class.
        OSError: A file is missing or no such file.
    """
    from transformers import ViTForImageClassification

    with _quiet():
        model, report = ViTForImageClassification.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
    for kind, found in report.items():  # transformers would draw what is missing at random
        if found:
            raise ModelError(
                f"transformers finds {kind.replace('_', ' ')} in {WEIGHTS_FILE}: {sorted(map(str, found))}"
            )

    @torch.no_grad()
    def logits(images: Tensor) -> Tensor:
        """Return (B, C) for (B, 3, H, W)."""
        found: Tensor = model.eval()(images).logits
        return found

    return logits


def transformers_pixels(folder: Path) -> Callable[[Image.Image], Tensor]:
    """Return what transformers' image processor makes of an image by the file in ``folder``.

    The processor that works on Pillow images; the resize of the one that works on tensors is up to a level of 255 off
    (measured, torchvision 0.28, bicubic). Where the aspect ratio is kept, images of an aspect above 16 lose their far
    ends first (``without_far_ends``), and their middle may then be found half a pixel beside.

    Args:
        folder: With a ``preprocessor_config.json`` of ``preprocessor_config``'s.

    Returns:
        A function from an RGB image to its pixels, (3, H, W) float32, normalised.

    Raises:
        OSError: The file is missing.
    """
    from transformers import AutoImageProcessor

    with _quiet():
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    keeps_aspect = "shortest_edge" in _document(folder / PREPROCESSOR_FILE)["size"]

    def pixels(image: Image.Image) -> Tensor:
        """Return the pixels (3, H, W) of an RGB image."""
        found: Tensor = processor(without_far_ends(image) if keeps_aspect else image, return_tensors="pt").pixel_values[
            0
        ]
        return found

    return pixels
