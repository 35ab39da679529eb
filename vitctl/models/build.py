"""From the words ``--model`` and ``--weights`` to a timm model with its own weights, size and head.

A model is named by ``demo`` (embedded), a timm name (``vit_base_patch16_224.augreg_in21k``), a run folder
of vitctl, a timm local-dir folder (``config.json`` beside ``model.safetensors``), or ``hf-hub:OWNER/NAME``.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn

from vitctl.errors import ModelError, did_you_mean
from vitctl.models.budget import check_arguments, check_buildable
from vitctl.models.folder_config import FILE, describes_a_model, read_folder_config
from vitctl.models.hub_models import fetch_model, is_on_hub, not_fetched
from vitctl.models.weights import LoadReport, check_sizes, head_names, load_weights_file
from vitctl.models.weights_fit import check_computes, check_finite, unused_in_file
from vitctl.primitives.atomic import recover
from vitctl.primitives.documents import why_unreadable
from vitctl.primitives.files import path_exists, user_path
from vitctl.primitives.hub import hub_access, hub_cache_only
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import torch_randomness
from vitctl.primitives.text_paths import text_path
from vitctl.settings.words import DEMO, PRETRAINED, RANDOM

WEIGHTS = "model.safetensors"
DEMO_FOLDER = Path(__file__).parent.parent / "assets" / "demo"


@dataclass(frozen=True)
class LoadedModel:
    """A model as it was pretrained: its own input size and its own head.

    Attributes:
        model: The timm model, on the CPU, in float32.
        name: What to call it on screen and in files.
        class_names: Names of its outputs, None where they are not known.
        class_descriptions: What a name stands for, where it is a code (ImageNet's synsets).
        licence: Of its weights, None where timm does not know.
        report: What was loaded; None for random weights.
    """

    model: nn.Module
    name: str
    class_names: tuple[str, ...] | None
    class_descriptions: dict[str, str]
    licence: str | None
    report: LoadReport | None

    @property
    def num_classes(self) -> int:
        """C; 0 where the model has no classifier: it has no outputs, or its weights hold no head."""
        is_headless = self.report is not None and bool(self.report.missing)
        return 0 if is_headless else max(0, int(getattr(self.model, "num_classes", 0)))


def model_folder(spec: str) -> Path | None:
    """Return the timm local-dir folder that ``spec`` names, or None where it names none.

    ``demo`` is the embedded folder; a run folder stands for its ``best/`` (``last/`` where an interrupted
    run has no best yet).
    """
    if spec == DEMO:
        return DEMO_FOLDER
    folder = user_path(spec)
    for candidate in (folder, folder / "best", folder / "last"):
        recover(candidate)
        if describes_a_model(candidate):
            return candidate.absolute()
    return None


def check_model_name(name: str) -> None:
    """Check that timm knows ``name`` (a pretrained tag may follow a dot).

    Raises:
        ModelError: It does not; the sentence gives near matches.
    """
    if is_on_hub(name):
        return
    if path_exists(name):
        raise ModelError(
            f"{name} holds no model{_why_not(user_path(name))}; expected a run folder, or a folder with timm's "
            "config.json and model.safetensors."
        )
    architecture, _, tag = name.partition(".")
    if "/" in name or not timm.is_model(architecture):
        known = [DEMO, *timm.list_models()]
        raise ModelError(
            f"{name!r} is neither a folder nor a model of timm.{did_you_mean(architecture, known)} 'vitctl models "
            "PATTERN' searches the names."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"timm has no weights {tag!r} for {architecture}.{did_you_mean(tag, tags)} It has: "
            f"{', '.join(tags) or 'none'}."
        )


def _why_not(folder: Path) -> str:
    """Return in brackets what is wrong with a folder's ``config.json``; nothing where there is none."""
    files = [candidate / FILE for candidate in (folder, folder / "best", folder / "last")]
    return next((f" ({file} cannot be read: {why})" for file in files if (why := why_unreadable(file))), "")


def load_model(
    spec: str, *, weights: str = PRETRAINED, image_size: tuple[int, int] | None = None, seed: int = 0
) -> LoadedModel:
    """Return the model that ``spec`` names, with its weights loaded.

    Args:
        spec: ``demo``, a timm name, a run folder, a timm folder, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none``, or a ``.safetensors``, ``.pth`` or ``.npz`` file.
        image_size: (H, W) px to build at; only with ``none``, where there is nothing to resample.
        seed: For random weights.

    Raises:
        ModelError: The name is unknown; the weights are missing, do not fit, or cannot be fetched.
    """
    folder = model_folder(spec)
    name = DEMO if spec == DEMO else (str(folder) if folder else spec)
    config, own = _files_of(spec, folder, name=name, with_weights=weights == PRETRAINED)
    size = {"img_size": image_size} if image_size and weights == RANDOM else {}
    with text_path(folder) if folder else nullcontext() as readable:
        address = f"local-dir:{readable}" if readable else spec
        if size or (config is not None and folder != DEMO_FOLDER):  # timm's own fit every computer they were made for
            file = own if weights in (PRETRAINED, RANDOM) else user_path(weights)
            with hub_cache_only():
                check_buildable(partial(timm.create_model, address, **size), name=name, weights=file)
        with torch_randomness(seed, "weights"):
            report: LoadReport | None = None
            if weights == PRETRAINED:
                model = _create_pretrained(address, name=name, own=own)
                report = _report_of(model, folder, own, name=name)
            else:
                model = _create(address, name=name, **size)
                if weights != RANDOM:
                    report = load_weights_file(model, user_path(weights), name=name)
    model = model.float()
    if config is not None and folder != DEMO_FOLDER:
        check_computes(model, config)
    if report is not None:
        check_finite(model, source=report.source)
    has_head = report is not None and not report.missing
    class_names, descriptions = (
        _class_names(model, own=weights == PRETRAINED, is_published=folder is None) if has_head else (None, {})
    )
    licence = getattr(model, "pretrained_cfg", {}).get("license") if weights == PRETRAINED else None
    return LoadedModel(model, name, class_names, descriptions, licence, report)


def _files_of(spec: str, folder: Path | None, *, name: str, with_weights: bool) -> tuple[Path | None, Path | None]:
    """Return the ``config.json`` that describes a model and, if wanted, its weights; None for what timm has itself.

    Raises:
        ModelError: There are none, or what they declare cannot be.
    """
    if folder is None:
        check_model_name(spec)
        config, own = fetch_model(spec, with_weights=with_weights) if is_on_hub(spec) else (None, None)
    else:
        # timm reads it again, and believes every word
        check_arguments(read_folder_config(folder).model_args, name=name)
        config, own = folder / FILE, folder / WEIGHTS if with_weights else None
    if own is not None and own.is_file():
        check_sizes(own)
    return config, own


def _create(address: str, *, name: str, **kwargs: Any) -> nn.Module:
    try:
        with hub_cache_only():  # where it is from the hub, its configuration was fetched
            model: nn.Module = timm.create_model(address, pretrained=False, **kwargs)
    except Exception as error:  # the architecture's own code objects to its arguments
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{name} cannot be built: {error}") from error
    return model


def _create_pretrained(address: str, *, name: str, own: Path | None) -> nn.Module:
    """Return a model with its weights; ``own`` is their file, None for those that timm has to fetch."""
    if own is not None and not own.is_file():
        raise ModelError(f"{own.parent} has a config.json but no model.safetensors; --weights FILE names the weights.")
    if own is None and not timm.is_model_pretrained(address):
        raise ModelError(
            f"No pretrained weights of {name} are published; use --weights FILE, or --weights none for random ones."
        )
    try:
        with hub_cache_only() if own is not None else hub_access() as is_reachable:
            model: nn.Module = timm.create_model(address, pretrained=True)
    except Exception as error:  # the hub client's errors have no common base class
        if is_out_of_memory(error):
            raise
        # of torch's, the second line names what is missing or left over
        reason = (" ".join(str(error).split("\n\t")[:2]).strip().splitlines() or [type(error).__name__])[0][:200]
        if own is None:
            raise not_fetched(name, error, is_reachable=is_reachable) from error
        if isinstance(error, SafetensorError):
            raise ModelError(
                f"{own} is damaged ({reason.rstrip('.')}); it may be truncated. Copy it again, or name another folder."
            ) from error
        raise ModelError(f"The weights in {own.parent} do not fit its config.json: {reason}") from error
    return model


def _report_of(model: nn.Module, folder: Path | None, own: Path | None, *, name: str) -> LoadReport:
    """Return what timm has read of the file ``own``, or has fetched itself."""
    is_listed = own is not None and own.suffix == ".safetensors"
    unused = unused_in_file(model, own, name=name) if own is not None and is_listed else ()
    return LoadReport(_source_of(model, folder), len(model.state_dict()), unexpected=unused)


def _source_of(model: nn.Module, folder: Path | None) -> str:
    if folder == DEMO_FOLDER:
        return "embedded"
    if folder is not None:
        return str(folder / WEIGHTS)
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    return str(config.get("hf_hub_id") or config.get("url") or "timm")


def _class_names(model: nn.Module, *, own: bool, is_published: bool) -> tuple[tuple[str, ...] | None, dict[str, str]]:
    """Return names and descriptions of the outputs where the model's files, or timm's ImageNet lists, tell them."""
    config: dict[str, Any] = getattr(model, "pretrained_cfg", {})
    num_classes = int(getattr(model, "num_classes", 0))
    names = config.get("label_names") if own else None
    descriptions: dict[str, str] = {}
    if names is None and is_published and (subset := infer_imagenet_subset(model)):
        info = ImageNetInfo(subset)
        names = info.label_names()
        descriptions = {name: info.label_name_to_description(name) for name in names}
    if not names or len(names) != num_classes:
        return None, {}
    return tuple(names), descriptions


def names_of_outputs(loaded: LoadedModel, spec: str) -> tuple[str, ...]:
    """Return the C class names of a classifier, in the order of its outputs; numbers where they are not known.

    Args:
        loaded: A model.
        spec: What it was loaded by, for the message.

    Raises:
        ModelError: It has no classifier.
    """
    if not loaded.num_classes:
        raise ModelError(
            f"{loaded.name} has no classifier: its weights hold no head. Fine-tune it first: vitctl finetune --model "
            f"{spec}."
        )
    return loaded.class_names or tuple(str(index) for index in range(loaded.num_classes))


def preprocessing_of(model: nn.Module) -> Preprocessing:
    """Return what ``model`` expects of an image, as timm resolves it from the model's configuration."""
    config = resolve_data_config({}, pretrained_cfg=getattr(model, "pretrained_cfg", {}))
    return Preprocessing(
        image_size=tuple(config["input_size"][1:]),
        interpolation=str(config["interpolation"]),
        crop_pct=float(config["crop_pct"]),
        crop_mode=str(config["crop_mode"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def replace_head(model: nn.Module, num_classes: int, *, method: str, seed: int) -> None:
    """Give ``model`` a fresh linear head, in place.

    A linear layer or a 1x1 convolution (BiT); where a norm belongs to the head (LeViT), it keeps its ones.

    Args:
        model: A timm model.
        num_classes: Outputs of the new head.
        method: ``zero`` (arXiv 2010.11929, section 3.2: weights and bias are zero, so training starts from
            equal probabilities) or ``random`` (timm's initialisation).
        seed: For ``random``.
    """
    with torch_randomness(seed, "weights", 1):
        model.reset_classifier(num_classes)  # type: ignore[operator]  # timm's method
    if method == "zero":
        for layer in classifiers(model):
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


def classifiers(model: nn.Module) -> Sequence[nn.Module]:
    """Return the layers whose outputs are the classes: one, or two for a distilled model.

    timm's heads may hold more than that layer, and its configuration may name one that they leave out
    (VOLO's auxiliary head).
    """
    found = model.get_classifier()  # type: ignore[operator]  # timm's method
    heads = list(found) if isinstance(found, (tuple, list)) else [found]
    heads += [module for name, module in model.named_modules() if name in head_names(model)]
    layers = dict.fromkeys(layer for head in heads for layer in head.modules())
    num_classes = getattr(model, "num_classes", None)
    return tuple(
        layer for layer in layers if isinstance(layer, nn.Linear | nn.Conv2d) and layer.weight.shape[0] == num_classes
    )
