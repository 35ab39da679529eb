"""A trained model in a program's hands: classes, probabilities and features of images.

Letters: N images, C classes, T patch tokens, D width, H W px.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.files import read_batches
from vitctl.data.given import ImageLike, list_given, unreadable
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import SettingError, check_choice
from vitctl.evaluation.classify import predict_logits, probabilities
from vitctl.evaluation.features import FeatureExtractor, FeatureKey, check_memory, collect_features
from vitctl.models.layers import Layer, choose_layers
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.primitives.devices import enough_memory, resolve_device
from vitctl.primitives.image_sizes import format_size
from vitctl.settings.words import POOLS, PRETRAINED

Given = ImageLike | Iterable[ImageLike]
"""One image or many: paths, Pillow images, arrays (H, W, 3) or (H, W) uint8."""

_CLASSES_SHOWN = 3


class Classifier:
    """A model to show images to; ``vitctl.load`` makes one.

    Images are given one or many: paths of files (``str`` or ``Path``; no folders), Pillow images of any mode, arrays
    (H, W, 3) or (H, W) of uint8, or one array (N, H, W, 3). All become what ``vitctl predict`` makes of a file: the
    camera's orientation is applied, 16-bit values are scaled, transparency is laid over white. One image is N = 1.
    Results come in the order of the images. ``batch_size``, like the other images, changes only the speed and the
    last bits of float32 sums.

    No gradients are kept, and neither seeds nor torch's threads are touched.

    Args:
        opened: A model at the image size it is used at; it is moved to ``device``.
        device: Where it computes.
        conversation: Shows progress.

    Attributes:
        module: The timm model.
        transform: From an 8-bit RGB Pillow image to what the model sees, (3, H, W) float32.
        image_size: (H, W) px that the model takes.
        class_names: C names in the order of the outputs (numbers where they are not known); () without a classifier.
        class_descriptions: What a name stands for, where it is a code (ImageNet's synsets).

    Example:
        >>> import vitctl
        >>> classifier = vitctl.load("runs/photos")  # doctest: +SKIP
        >>> classifier.predict(["cat.jpg", "dog.jpg"])  # doctest: +SKIP
        ['cat', 'dog']
        >>> classifier.predict_proba("cat.jpg")  # doctest: +SKIP
        array([[0.97, 0.03]], dtype=float32)
        >>> classifier.embed("cat.jpg", layer=11, pool="cls").shape  # doctest: +SKIP
        (1, 768)
    """

    def __init__(
        self, opened: PreparedModel, *, device: torch.device, conversation: Conversation | None = None
    ) -> None:
        self._opened = opened
        self._conversation = conversation or Conversation()
        self._shapes: dict[FeatureKey, tuple[int, ...]] = {}
        self.module: nn.Module = opened.model.to(device)
        self.image_size = opened.image_size
        self.transform = EvaluationTransform(opened.preprocessing)
        self.class_names = opened.class_names if opened.loaded.num_classes else ()
        self.class_descriptions = opened.loaded.class_descriptions

    @property
    def device(self) -> torch.device:
        """Where the model is, and computes."""
        return next(self.module.parameters()).device

    def __repr__(self) -> str:
        """Return one line: name, architecture, classes, image size, device."""
        shown = ", ".join(self.class_names[:_CLASSES_SHOWN]) + ", ..." * (len(self.class_names) > _CLASSES_SHOWN)
        classes = f"{len(self.class_names)} classes ({shown})" if self.class_names else "no classifier"
        facts = (type(self.module).__name__, classes, f"{format_size(self.image_size)} px", str(self.device))
        return f"<vitctl.Classifier {self._opened.name}: {', '.join(facts)}>"

    def predict(self, images: Given, *, batch_size: int = 64) -> list[str]:
        """Return the most probable class of each image, as ``vitctl predict`` shows it.

        A class whose name is a code is described (``tabby, tabby cat`` for ImageNet's ``n02123045``).

        Args:
            images: One or many.
            batch_size: Images at a time, >= 1.

        Raises:
            DataError: An image cannot be read; the sentence says which.
            ModelError: The model has no classifier.
            SettingError: ``batch_size`` is below 1.
        """
        names = [self.class_names[index] for index in self._shares(images, batch_size).argmax(axis=1)]
        return [self.class_descriptions.get(name, name) for name in names]

    def predict_proba(self, images: Given, *, batch_size: int = 64) -> np.ndarray:
        """Return the probability of every class, (N, C) float32, columns in the order of ``class_names``.

        Arguments and errors are those of ``predict``. Each row sums to 1, but for rounding.
        """
        return self._shares(images, batch_size).astype(np.float32)

    def embed(
        self, images: Given, layer: int | str = "final", pool: str = "native", *, batch_size: int = 64
    ) -> np.ndarray:
        """Return features of images: what ``vitctl fewshot-eval`` trains its linear classifiers on.

        Args:
            images: One or many.
            layer: ``embed`` (what enters the first block), 0 to L-1 (after that block; of a CNN or a hierarchical
                model, stage) or ``final`` (after the last norm).
            pool: From a layer's tokens to one vector. ``native``: the model's own pooling, which of the layer
                ``final`` is what its classifier sees; ``cls``: the class token; ``mean``: of the patch tokens;
                ``cls+mean``: both, side by side; ``mean-all``: of all tokens; ``first``: the first patch token.
                ``tokens`` does not pool.
            batch_size: Images at a time, >= 1.

        Returns:
            (N, D) float32; for ``tokens`` (N, T, D), the T patch tokens or places row by row.

        Raises:
            DataError: An image cannot be read; the sentence says which.
            ModelError: The layer gives no tokens, or numbers that are not finite.
            SettingError: The model has no such layer or pooling, ``batch_size`` is below 1, or the features would
                not fit into memory.
        """
        given = list_given(images)
        key = FeatureKey(self._layer(layer), check_choice(pool, POOLS, what="pool"))
        extractor = FeatureExtractor(self.module, [key], device=self.device, name=self._opened.name)
        if key not in self._shapes:
            self._shapes |= extractor.shapes(self.image_size)
        shape = self._shapes[key]
        check_memory(4 * len(given) * int(np.prod(shape)))
        batches = self._batches(given, batch_size)
        if not given:
            return np.zeros((0, *shape), dtype=np.float32)
        with enough_memory(self.device, batch_size):
            features = collect_features(
                extractor, batches, num_images=len(given), description="embedding", conversation=self._conversation
            )[key]
        return np.ascontiguousarray(np.moveaxis(features, 0, 1)) if pool == "tokens" else features

    def _layer(self, layer: int | str) -> Layer:
        chosen = choose_layers(str(layer).split(","), self.module, name=self._opened.name)
        if len(chosen) != 1:
            raise SettingError(f"layer is {layer!r}; expected one layer: embed, a block's number, or final.")
        return chosen[0]

    def _shares(self, images: Given, batch_size: int) -> np.ndarray:
        """Return the probability of every class, (N, C) float64."""
        _ = self._opened.class_names  # or the model has no classifier
        given = list_given(images)
        batches = self._batches(given, batch_size)
        if not given:
            return np.zeros((0, len(self.class_names)))
        with enough_memory(self.device, batch_size):
            logits = predict_logits(
                self.module,
                batches,
                device=self.device,
                num_images=len(given),
                description="predicting",
                conversation=self._conversation,
            )
        return probabilities(logits)

    def _batches(self, given: list[ImageLike], batch_size: int) -> Iterator[Tensor]:
        """Return the images as batches (B, 3, H, W) float32, each read when it is asked for."""
        if batch_size < 1:
            raise SettingError(f"batch_size is {batch_size}; expected 1 or more.")
        return self._read(given, batch_size)

    def _read(self, given: list[ImageLike], batch_size: int) -> Iterator[Tensor]:
        done = 0
        for batch in read_batches(given, self.transform, batch_size=batch_size):
            tensors = []
            for index, (image, tensor) in enumerate(batch, start=done):
                if isinstance(tensor, str):
                    raise unreadable(image, index, tensor)
                tensors.append(tensor)
            done += len(batch)
            yield torch.stack(tensors)


def open_classifier(
    spec: str,
    *,
    weights: str = PRETRAINED,
    model_args: Mapping[str, Any] | None = None,
    image_size: tuple[int, int] | None = None,
    device: str = "auto",
    conversation: Conversation,
) -> Classifier:
    """Return the model that ``spec`` names, ready to be shown images.

    Args:
        spec: A run folder, a timm folder, ``demo``, a timm name, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none``, or a file.
        model_args: Arguments of timm's class, instead of those that the name stands for.
        image_size: (H, W) px; None is the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        conversation: Says what is loaded, and later shows progress.

    Raises:
        VitctlError: See ``vitctl.load``.
    """
    target, _ = resolve_device(device)
    conversation.line(f"loading {spec}")
    opened = open_model(spec, weights=weights, image_size=image_size, model_args=model_args)
    for note in opened.notes:
        conversation.warn(note)
    return Classifier(opened, device=target, conversation=conversation)
