"""What ``vitctl inspect`` looks at: the models it was told, each at its size, and the images to show them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.endings import left_out_sentence
from vitctl.data.files import split_of_files
from vitctl.data.scan import check_bad_images, num_scan_threads, scan_images
from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.data.workers import Workers, batch_bytes, resolve_num_workers
from vitctl.errors import DataError
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.primitives.files import user_path
from vitctl.primitives.seeds import random_generator
from vitctl.settings.inspect_model import InspectConfig, OnImages
from vitctl.settings.words import DIGITS, RANDOM

SPLIT_PREFERENCE = ("val", "test", "all", "train")


@dataclass(frozen=True)
class ModelChoice:
    """A model to look into.

    Attributes:
        name: On screens and in files.
        spec: For ``open_model``.
        weights: pretrained, none, or a file.
        model_args: Arguments of timm's class, instead of those that the name stands for.
    """

    name: str
    spec: str
    weights: str
    model_args: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_random(self) -> bool:
        """Whether its weights are random."""
        return self.weights == RANDOM

    @property
    def with_random_weights(self) -> "ModelChoice":
        """The same architecture with random weights."""
        return ModelChoice(f"{self.name}, random weights", self.spec, RANDOM, self.model_args)


def choose_models(config: InspectConfig) -> tuple[ModelChoice, ...]:
    """Return the models in order: RUN, then each ``--model``."""
    specs = [spec for spec, _ in config.named]
    return tuple(
        ModelChoice(
            f"{spec} ({weights})"
            if specs.count(spec) > 1
            else f"{spec}, random weights"
            if weights == RANDOM
            else spec,
            spec,
            weights,
            config.model_args if position or config.run is None else {},
        )
        for position, (spec, weights) in enumerate(config.named)
    )


@dataclass(frozen=True)
class LoadedSubject:
    """A subject, and what it was opened as.

    Attributes:
        choice: What it was loaded by.
        subject: The model at its size.
        opened: The same model with what its files say of it: classes, preprocessing, notes.
    """

    choice: ModelChoice
    subject: Subject
    opened: PreparedModel

    def stream(self, images: "ShownImages", config: OnImages, *, count: int | None = None) -> ImageStream:
        """Return (the first ``count`` of) the images as this model is shown them."""
        workers = self.workers(images, config)
        split = images.split if count is None else images.split.select(range(min(count, len(images.split))))
        preprocessing = self.opened.preprocessing
        return ImageStream(split, EvaluationTransform(preprocessing), preprocessing, config.batch_size, workers.number)

    def workers(self, images: "ShownImages", config: OnImages) -> Workers:
        """Return how many processes read the images."""
        return resolve_num_workers(
            config.num_workers,
            is_in_memory=images.is_in_memory,
            device_type=self.subject.device.type,
            batch_bytes=batch_bytes(config.batch_size, self.subject.geometry.image_size),
        )


def load_subject(
    choice: ModelChoice,
    *,
    image_size: tuple[int, int] | None,
    method: str | None,
    seed: int,
    device: torch.device,
    conversation: Conversation,
) -> LoadedSubject:
    """Load a model and bring it to its size.

    Args:
        choice: Which.
        image_size: (H, W) px; None is the model's own.
        method: Interpolation of position embeddings; None is timm's, and the authors' for ``.npz`` weights.
        seed: For random weights.
        device: Where it computes.
        conversation: Says what is loaded.

    Raises:
        ModelError: It cannot be loaded.
        SettingError: It cannot take the size.
    """
    conversation.line(f"loading {choice.name}")
    opened = open_model(
        choice.spec,
        weights=choice.weights,
        image_size=image_size,
        interpolation=method,
        seed=seed,
        model_args=choice.model_args,
    )
    model = opened.model.to(device)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    subject = Subject(model, choice.name, opened.geometry, device)
    return LoadedSubject(choice, subject, opened)


@dataclass(frozen=True)
class ShownImages:
    """Images to show to models.

    Attributes:
        split: Which, in order.
        spec: The data spec, or the files.
        reason: Why these.
        num_available: How many there would be.
        is_in_memory: Whether reading one costs next to nothing.
    """

    split: Split
    spec: str
    reason: str
    num_available: int
    is_in_memory: bool


def choose_images(
    config: OnImages,
    most: int,
    conversation: Conversation,
    *,
    of_run: tuple[Split, Source, str] | None = None,
) -> ShownImages:
    """Return the images to show, looked at: files given, or the first ``most`` of a seeded order of a split.

    Args:
        config: Files, data, and the seed.
        most: How many are wanted.
        conversation: Says which are left out.
        of_run: A run's own images, their source, and why these; None is the first of val, test, all, train that there
            is of ``--data``, else of the embedded digits.

    Raises:
        DataError: There are none, or one cannot be read.
    """
    if config.files is not None:
        for path in config.files:
            if user_path(path).is_dir():
                raise DataError(f"--image {path} is a folder; expected an image file. (--data takes folders.)")
            if config.on_bad_image == "fail" and not user_path(path).exists():
                raise DataError(f"--image {path} is not there; expected an image file.")
        split, spec, reason, in_memory = split_of_files(config.files), ", ".join(config.files), "given", False
        order = list(range(len(split)))
    else:
        split, source, reason = of_run or _of_data(config)
        for sentence in (*source.sentences(split), *filter(None, [left_out_sentence(split.left_out)])):
            conversation.warn(sentence)
        spec, in_memory = source.spec, source.is_in_memory
        order = random_generator(config.seed, "inspection").permutation(len(split))[:most].tolist()
    chosen = split.select(order, name="chosen")
    scan = scan_images(chosen, num_threads=num_scan_threads(), conversation=conversation)
    allow = config.on_bad_image == "skip"
    is_listed = config.files is None
    for line in check_bad_images(chosen, scan, allow=allow, needs_every_class=False, may_be_elsewhere=is_listed):
        conversation.warn(f"left out: {line}")
    return ShownImages(good_images(chosen, scan), spec, reason, len(split), in_memory)


def _of_data(config: OnImages) -> tuple[Split, Source, str]:
    source = open_source(config.data or DIGITS, SourceOptions.of(config))
    name = next(name for name in SPLIT_PREFERENCE if name in source.splits)
    why = f"split {name}" if config.data is not None else f"the embedded ones, split {name}: no --data is given"
    return source.split(name), source, why
