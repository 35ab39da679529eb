"""From the words ``--model`` and ``--weights`` to a timm model with its own weights, size and head."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import timm
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_data_config
from torch import nn

from vitctl.errors import ModelError
from vitctl.models.adoption import head_names
from vitctl.models.arguments import as_options, check_model_arguments, check_same_shapes
from vitctl.models.budget import check_buildable
from vitctl.models.checkpoints import kind_of
from vitctl.models.hub_models import not_fetched
from vitctl.models.load_report import LoadReport
from vitctl.models.named import DEMO_FOLDER, Named, named
from vitctl.models.weights import load_weights_file
from vitctl.models.weights_fit import check_computes, check_finite, unused_in_file
from vitctl.primitives.files import user_path
from vitctl.primitives.hub import hub_access, hub_cache_only
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import torch_randomness
from vitctl.settings.words import PRETRAINED, RANDOM


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
        max_value: How its files say that images of 16 bits become RGB; see ``Preprocessing``.
        is_pooled_anew: Whether its head was trained on another pooling of its tokens; see ``vitctl.models.pooling``.
    """

    model: nn.Module
    name: str
    class_names: tuple[str, ...] | None
    class_descriptions: dict[str, str]
    licence: str | None
    report: LoadReport | None
    max_value: int | None = None
    is_pooled_anew: bool = False

    @property
    def preprocessing(self) -> Preprocessing:
        """What its files say that it expects of an image."""
        return replace(preprocessing_of(self.model), max_value=self.max_value)

    @property
    def num_classes(self) -> int:
        """C; 0 where the model has no classifier: it has no outputs, or its weights hold no head."""
        is_headless = self.report is not None and bool(self.report.missing)
        return 0 if is_headless else max(0, int(getattr(self.model, "num_classes", 0)))


def load_model(
    spec: str,
    *,
    weights: str = PRETRAINED,
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
    model_args: Mapping[str, Any] | None = None,
    is_saved: bool = False,
) -> LoadedModel:
    """Return the model that ``spec`` names, with its weights loaded.

    Args:
        spec: ``demo``, a timm name, a run folder, a folder of timm or transformers, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none``, or a file; see ``load_weights_file``.
        image_size: (H, W) px to build at; only with ``none``, where there is nothing to resample.
        seed: For random weights.
        model_args: Arguments of timm's class, instead of those that the name stands for.
        is_saved: Whether it will be trained and saved, and so has to be what a timm folder can say.

    Raises:
        ModelError: The name is unknown; the weights are missing, do not fit, or cannot be fetched.
        SettingError: The model takes no such argument.
    """
    size = {"img_size": image_size} if image_size and weights == RANDOM else {}
    with named(spec, with_weights=weights == PRETRAINED) as found:
        given, options = dict(model_args or {}), {**found.options, **size}
        with hub_cache_only():
            if given:
                build = partial(timm.create_model, found.address, **options)
                check_model_arguments(build, given, name=found.name)
                if weights == PRETRAINED and found.weights is None:  # timm would resample them without a word
                    check_same_shapes(build, given, name=found.name)
            options |= given
            if size or found.is_foreign:  # timm's own fit every computer that they were made for
                file = found.weights if weights in (PRETRAINED, RANDOM) else user_path(weights)
                check_buildable(partial(timm.create_model, found.address, **options), name=found.name, weights=file)
        with torch_randomness(seed, "weights"):
            if weights == PRETRAINED and found.is_read_by_timm:
                model = _create_pretrained(found, given)
                report: LoadReport | None = _report_of_timm(model, found)
            else:
                model = _create(found.address, name=found.name, **options)
                file = found.weights if found.weights is not None and weights == PRETRAINED else user_path(weights)
                report = None if weights == RANDOM else load_weights_file(model, file, name=found.name)
    model = model.float()
    if found.blueprint is not None:
        notes = found.blueprint.finish(model, is_saved=is_saved)
        report = report if report is None else replace(report, notes=(*report.notes, *notes))
    if found.is_foreign and found.config is not None:
        check_computes(model, found.config)
    if report is not None:
        check_finite(model, source=report.source)
    has_head = report is not None and not report.missing
    class_names, descriptions = (
        _class_names(model, own=weights == PRETRAINED, is_published=found.folder is None) if has_head else (None, {})
    )
    licence = getattr(model, "pretrained_cfg", {}).get("license") if weights == PRETRAINED else None
    return LoadedModel(model, found.name, class_names, descriptions, licence, report, found.max_value)


def _report_of_timm(model: nn.Module, found: Named) -> LoadReport:
    """Return what timm has loaded, and what of the file it has passed over."""
    unused = () if found.weights is None else unused_in_file(model, found.weights, name=found.name)
    if found.is_foreign:
        _check_declared_classes(model, found)
    return LoadReport(_source_of(model, found), len(model.state_dict()), unexpected=unused)


def _check_declared_classes(model: nn.Module, found: Named) -> None:
    """Refuse a ``config.json`` that says two numbers of classes: timm would leave the head out, and all that it misses.

    Raises:
        ModelError: It does.
    """
    own, declared = getattr(model, "num_classes", 0), getattr(model, "pretrained_cfg", {}).get("num_classes")
    if own and declared and own != declared:
        raise ModelError(
            f"{found.config} says {declared} classes, and {own} among the arguments of its model; expected one number, "
            "that of the head. Correct it."
        )


def _create(address: str, *, name: str, **kwargs: Any) -> nn.Module:
    try:
        with hub_cache_only():  # where it is from the hub, its configuration was fetched
            model: nn.Module = timm.create_model(address, pretrained=False, **kwargs)
    except Exception as error:  # the architecture's own code objects to its arguments
        if is_out_of_memory(error):
            raise
        raise ModelError(f"{name} cannot be built: {error}") from error
    return model


def _create_pretrained(found: Named, given: Mapping[str, Any]) -> nn.Module:
    """Return a model with the weights that timm reads from its folder, or fetches.

    Args:
        found: What it is.
        given: Arguments of its class that take the place of its own.

    Raises:
        ModelError: There are none, or they do not fit.
    """
    name, file = found.name, found.weights
    if file is not None and not file.is_file():
        raise ModelError(f"{file.parent} has a config.json but no model.safetensors; --weights FILE names the weights.")
    if file is None and not timm.is_model_pretrained(found.address):
        raise ModelError(
            f"No pretrained weights of {name} are published; use --weights FILE, or --weights none for random ones."
        )
    if found.folder is not None and file is not None:
        kind_of(file)  # a pointer of git-lfs, or a web page, where the weights should be
    try:
        with hub_cache_only() if file is not None else hub_access() as is_reachable:
            model: nn.Module = timm.create_model(found.address, pretrained=True, **given)
    except Exception as error:  # the hub client's errors have no common base class
        if is_out_of_memory(error):
            raise
        # of torch's, the second line names what is missing or left over
        reason = (" ".join(str(error).split("\n\t")[:2]).strip().splitlines() or [type(error).__name__])[0][:200]
        if file is None:
            raise not_fetched(name, error, is_reachable=is_reachable) from error
        if isinstance(error, SafetensorError):
            raise ModelError(
                f"{file} is damaged ({reason.rstrip('.')}); it may be truncated. Copy it again, or name another folder."
            ) from error
        if given and (found.folder is not None or "loading state_dict" in reason):
            raise ModelError(f"The weights of {name} do not fit it with {as_options(given)}: {reason}") from error
        raise ModelError(f"The weights in {file.parent} do not fit its config.json: {reason}") from error
    return model


def _source_of(model: nn.Module, found: Named) -> str:
    if found.folder == DEMO_FOLDER:
        return "embedded"
    if found.folder is not None:
        return str(found.weights)
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
        why = (loaded.report.why_headless if loaded.report is not None else None) or "its weights hold no head"
        raise ModelError(f"{loaded.name} has no classifier: {why}. Fine-tune it first: vitctl finetune --model {spec}.")
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
