"""Every analysis of ``vitctl inspect`` by name: which models and images it gets, and what it makes of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.run_images import data_of_run
from vitctl.data.source import SourceOptions
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.analyses import ANALYSES
from vitctl.inspecting.attention_maps import attention
from vitctl.inspecting.attention_tap import AttentionTap, check_attention
from vitctl.inspecting.cka import cka
from vitctl.inspecting.distance import distance
from vitctl.inspecting.equivariance import equivariance
from vitctl.inspecting.features import features
from vitctl.inspecting.filters import filters
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.heads_vs_cnn import heads_vs_cnn
from vitctl.inspecting.localisation import localisation
from vitctl.inspecting.norm_ratio import norm_ratio
from vitctl.inspecting.position import pos_embed
from vitctl.inspecting.receptive_field import receptive_field
from vitctl.inspecting.rollout import rollout
from vitctl.inspecting.subject import ImageStream, find_layer
from vitctl.models.layers import Layer
from vitctl.primitives.files import user_path
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.settings.inspect_model import InspectConfig
from vitctl.settings.words import ALL_ANALYSES
from vitctl.workflows.inspect_probe import probe
from vitctl.workflows.inspect_subjects import (
    NUM_IMAGES,
    NUM_OF_GRADIENTS,
    NUM_PICTURES,
    LoadedSubject,
    ModelChoice,
    ShownImages,
    choose_images,
    load_subject,
    run_of,
)

_FEWER_IMAGES = {"receptive-field": NUM_OF_GRADIENTS, "equivariance": NUM_OF_GRADIENTS, "rollout": NUM_PICTURES}


def num_images_of(analysis: str, config: InspectConfig) -> int:
    """Return how many images an analysis looks at."""
    if analysis == "rollout" and config.analysis == ALL_ANALYSES:
        return min(NUM_PICTURES, config.num_images or NUM_PICTURES)
    return config.num_images or _FEWER_IMAGES.get(analysis, NUM_IMAGES)


class Inspection:
    """Models and images, each loaded when it is first wanted.

    Args:
        config: What was asked for.
        models: In order.
        device: Where they compute.
        conversation: Shows progress.
    """

    def __init__(
        self,
        config: InspectConfig,
        models: Sequence[ModelChoice],
        *,
        device: torch.device,
        conversation: Conversation,
    ) -> None:
        self.config, self.models, self.device, self.conversation = config, tuple(models), device, conversation
        self._images: ShownImages | None = None

    def of_models(self, models: Sequence[ModelChoice]) -> "Inspection":
        """Return the inspection of other models with the same images."""
        other = Inspection(self.config, models, device=self.device, conversation=self.conversation)
        other._images = self.images
        return other

    def _load(self, image_size: tuple[int, int] | None) -> tuple[LoadedSubject, ...]:
        return tuple(
            load_subject(
                model,
                image_size=image_size,
                method=self.config.pos_embed_interp,
                seed=self.config.seed,
                device=self.device,
                conversation=self.conversation,
            )
            for model in self.models
        )

    @cached_property
    def loaded(self) -> tuple[LoadedSubject, ...]:
        """The models at the size asked for."""
        return self._load(self.config.image_size)

    @cached_property
    def at_own_size(self) -> tuple[LoadedSubject, ...]:
        """The models at their own size."""
        return self.loaded if self.config.image_size is None else self._load(None)

    @property
    def images(self) -> ShownImages:
        """The images, read once to see that they can be."""
        if self._images is None:
            everything = (num_images_of(name, self.config) for name in ("distance", *_FEWER_IMAGES))
            most = (
                max(everything)
                if self.config.analysis == ALL_ANALYSES
                else num_images_of(self.config.analysis, self.config)
            )
            self._images = choose_images(self.config, most, self.conversation)
        return self._images

    def stream(self, loaded: LoadedSubject, analysis: str) -> ImageStream:
        """Return the images that an analysis shows to a model."""
        count = None if self.config.image is not None else num_images_of(analysis, self.config)
        return loaded.stream(self.images, self.config, count=count)


@dataclass(frozen=True)
class Named:
    """Findings, and whose they are.

    Attributes:
        name: Of the model, or of both of a pair.
        models: The models, one or two.
        findings: What was found.
    """

    name: str
    models: tuple[LoadedSubject, ...]
    findings: Findings


def run_analysis(analysis: str, inspection: Inspection) -> list[Named]:
    """Return what ``analysis`` finds: for every model, or once for a pair.

    Raises:
        VitctlError: A model, an option or the images do not fit it.
    """
    if analysis in _PAIRS:
        return [_PAIRS[analysis](inspection)]
    if analysis == "probe":
        return _probe(inspection)
    models = inspection.at_own_size if analysis in ("pos-embed", "filters") else inspection.loaded
    for one in models:
        _check(analysis, inspection, one)
    return [_of_model(analysis, inspection, one) for one in models]


def run_what_fits(analysis: str, inspection: Inspection) -> tuple[list[Named], list[tuple[LoadedSubject, str]]]:
    """Return what ``analysis`` finds for the models that it takes, and the others with the reason.

    Raises:
        VitctlError: It takes none of them.
    """
    if analysis in _PAIRS or analysis == "probe":
        return run_analysis(analysis, inspection), []
    models = inspection.at_own_size if analysis in ("pos-embed", "filters") else inspection.loaded
    found: list[Named] = []
    refused: list[tuple[LoadedSubject, str]] = []
    for one in models:
        try:
            _check(analysis, inspection, one)
            found.append(_of_model(analysis, inspection, one))
        except (ModelError, SettingError, DataError) as error:
            if len(models) == 1 or len(refused) + 1 == len(models):
                raise
            refused.append((one, str(error)))
    return found, refused


def _of_model(analysis: str, inspection: Inspection, one: LoadedSubject) -> Named:
    return Named(one.choice.name, (one,), _OF_MODEL[analysis](inspection, one))


def _check(analysis: str, inspection: Inspection, one: LoadedSubject) -> None:
    """Check what can be known of a model before it is shown images.

    Raises:
        VitctlError: The analysis does not take it, or an option does not fit it.
    """
    config = inspection.config
    if ANALYSES[analysis].needs_attention:
        check_attention(one.subject)
        if config.query is not None:
            AttentionTap(one.subject).position(config.query)
    elif config.layer is not None:
        find_layer(_layer(config.layer) or config.layer, one.subject)


def _filters(inspection: Inspection, one: LoadedSubject) -> Findings:
    return filters(one.subject, components=inspection.config.components)


def _pos_embed(inspection: Inspection, one: LoadedSubject) -> Findings:
    config = inspection.config
    return pos_embed(one.subject, image_size=config.image_size, method=one.interpolation)


def _attention(inspection: Inspection, one: LoadedSubject) -> Findings:
    config, stream = inspection.config, inspection.stream(one, "attention")
    pictures = _pictures(inspection, stream)
    found = attention(
        one.subject,
        stream,
        pictures,
        query=config.query,
        layer=_block(config.layer),
        head=config.head,
        conversation=inspection.conversation,
    )
    return _with_pictures(found, stream, pictures)


def _rollout(inspection: Inspection, one: LoadedSubject) -> Findings:
    config, stream = inspection.config, inspection.stream(one, "rollout")
    pictures = torch.cat(list(stream.batches()))
    found = rollout(
        one.subject,
        pictures,
        fusion=config.fusion,
        discard=config.discard,
        residual=config.residual,
        query=config.query,
        conversation=inspection.conversation,
    )
    return _with_pictures(found, stream, pictures)


def _distance(inspection: Inspection, one: LoadedSubject) -> Findings:
    stream = inspection.stream(one, "distance")
    return distance(
        one.subject, stream, renormalise=inspection.config.renormalise, conversation=inspection.conversation
    )


def _norm_ratio(inspection: Inspection, one: LoadedSubject) -> Findings:
    return norm_ratio(one.subject, inspection.stream(one, "norm-ratio"), conversation=inspection.conversation)


def _localisation(inspection: Inspection, one: LoadedSubject) -> Findings:
    return localisation(
        one.subject,
        inspection.stream(one, "localisation"),
        layer=_layer(inspection.config.layer),
        minibatch=inspection.config.minibatch,
        conversation=inspection.conversation,
    )


def _features(inspection: Inspection, one: LoadedSubject) -> Findings:
    config, stream = inspection.config, inspection.stream(one, "features")
    pictures = _pictures(inspection, stream)
    found = features(
        one.subject,
        stream,
        pictures,
        layer=_layer(config.layer),
        query=_patch_query(config),
        conversation=inspection.conversation,
    )
    return _with_pictures(found, stream, pictures)


def _receptive_field(inspection: Inspection, one: LoadedSubject) -> Findings:
    return receptive_field(
        one.subject,
        inspection.stream(one, "receptive-field"),
        where=inspection.config.where,
        query=_patch_query(inspection.config),
        conversation=inspection.conversation,
    )


def _equivariance(inspection: Inspection, one: LoadedSubject) -> Findings:
    return equivariance(
        one.subject,
        inspection.stream(one, "equivariance"),
        seed=inspection.config.seed,
        conversation=inspection.conversation,
    )


_OF_MODEL: Mapping[str, Callable[[Inspection, LoadedSubject], Findings]] = {
    "filters": _filters,
    "pos-embed": _pos_embed,
    "attention": _attention,
    "rollout": _rollout,
    "distance": _distance,
    "norm-ratio": _norm_ratio,
    "localisation": _localisation,
    "features": _features,
    "receptive-field": _receptive_field,
    "equivariance": _equivariance,
}


def _cka(inspection: Inspection) -> Named:
    models, config = inspection.loaded[:2], inspection.config
    found = cka(
        [one.subject for one in models],
        [inspection.stream(one, "cka") for one in models],
        granularity=config.granularity,
        tokens=config.tokens,
        minibatch=config.minibatch,
        diagonal=config.diagonal,
        conversation=inspection.conversation,
    )
    return Named(" and ".join(one.choice.name for one in models), models, found)


def _heads_vs_cnn(inspection: Inspection) -> Named:
    if len(inspection.models) < 2:
        raise SettingError("heads-vs-cnn compares a ViT with a CNN; name one with --model, e.g. --model resnet50.")
    models, config = inspection.loaded[:2], inspection.config
    if models[0].subject.kind != "attention" and models[1].subject.kind == "attention":
        raise SettingError(f"heads-vs-cnn takes the ViT first, and {models[0].choice.name} is none; swap the two.")
    layer = _block(config.layer)
    found = heads_vs_cnn(
        models[0].subject,
        models[1].subject,
        [inspection.stream(one, "heads-vs-cnn") for one in models],
        **({} if layer is None else {"layer": layer}),
        subset=config.subset,
        minibatch=config.minibatch,
        conversation=inspection.conversation,
    )
    return Named(" and ".join(one.choice.name for one in models), models, found)


_PAIRS: Mapping[str, Callable[[Inspection], Named]] = {"cka": _cka, "heads-vs-cnn": _heads_vs_cnn}


def _probe(inspection: Inspection) -> list[Named]:
    """Return the probes of every model, by the code of ``vitctl fewshot-eval``."""
    config = inspection.config
    options = SourceOptions(config.image_root, config.image_column, config.label_column)
    data: str | None = config.data
    run = run_of(config)
    if data is None and run is not None:
        data, options = data_of_run(user_path(run))
    fewshot = FewshotEvalConfig(
        model=tuple(model.spec for model in inspection.models),
        weights=tuple(model.weights for model in inspection.models),
        data=None if data is None else (data,),
        image_root=options.image_root,
        image_column=options.image_column,
        label_column=options.label_column,
        group_column=options.group_column,
        on_bad_image=config.on_bad_image,
        shots=(config.shots,),
        seeds=config.seeds,
        l2=(config.l2,),
        layers=("all",),
        image_size=config.image_size,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        device=config.device,
    )
    found = probe(
        fewshot,
        num_test_images=num_images_of("probe", config),
        seed=config.seed,
        method=config.pos_embed_interp,
        names=[model.name for model in inspection.models],
        conversation=inspection.conversation,
    )
    return [Named(one.choice.name, (one,), findings) for one, findings in zip(inspection.loaded, found, strict=True)]


def _block(text: str | None) -> int | None:
    """Return ``--layer`` as the number of a block."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 9):
        raise SettingError(f"--layer is {text!r}; expected the number of a block, from 0.", field="layer")
    return int(text)


def _layer(text: str | None) -> Layer | None:
    """Return ``--layer`` as a layer's name; None is the analysis's own choice."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 9 else text


def _patch_query(config: InspectConfig) -> tuple[int, int] | None:
    """Return ``--query`` as a patch."""
    query = config.query
    if isinstance(query, str):
        raise SettingError(
            f"--query is {query}; {config.analysis} starts at a patch: expected ROW,COL, e.g. 3,5.", field="query"
        )
    return query


def _pictures(inspection: Inspection, stream: ImageStream) -> Tensor:
    """Return the images to show, preprocessed: all that were given, else the first few."""
    count = len(stream) if inspection.config.image is not None else NUM_PICTURES
    return torch.cat(list(stream.first(count).batches()))


def _with_pictures(findings: Findings, stream: ImageStream, pictures: Tensor) -> Findings:
    """Return the findings with the pictures that they are about."""
    names = np.array(stream.first(len(pictures)).names())
    arrays = {**findings.arrays, "pictures": stream.pictures(pictures), "picture_names": names}
    meanings = {
        **findings.meanings,
        "pictures": "(I, H, W, 3) uint8, the images as the model was shown them",
        "picture_names": "(I,) their names",
    }
    return replace(findings, arrays=arrays, meanings=meanings)
