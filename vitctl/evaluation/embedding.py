"""Features of images by a frozen model: what it is shown, what is kept of it, the cache, and what all that cost.

Letters: N images, T patch tokens, D width, H W px.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from vitctl.conversation import Conversation
from vitctl.data.big_vision import BigVisionTransform
from vitctl.data.loader import evaluation_batches
from vitctl.data.pixels import PixelTransform
from vitctl.data.source import Split
from vitctl.data.transforms import EvaluationTransform
from vitctl.data.workers import batch_bytes, resolve_num_workers
from vitctl.errors import SettingError
from vitctl.evaluation.feature_cache import FeatureCache, hash_of_images, hash_of_weights
from vitctl.evaluation.features import FeatureExtractor, FeatureKey, collect_features, stream_features
from vitctl.models.layers import Layer
from vitctl.models.prepared import PreparedModel
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.processes import ALONE, Processes
from vitctl.results.fewshot_eval import FewshotCost

_PACKAGES = ("torch", "timm", "torchvision")


@dataclass(frozen=True)
class FeatureChoice:
    """Which features of a model are kept.

    Attributes:
        keys: Layers and poolings.
        positions: By layer, which of its patch tokens, (T,) int64; all of a layer that is not named.
    """

    keys: tuple[FeatureKey, ...]
    positions: Mapping[Layer, np.ndarray] = field(default_factory=dict)


@dataclass
class Cost:
    """What an evaluation takes, added up on the way.

    Attributes:
        images_embedded: Images that models were shown, each model counted.
        images_skipped: Images that no draw uses, or whose features were in the cache.
        embed_s: Seconds of embedding.
        solve_s: Seconds of fitting and scoring classifiers.
    """

    images_embedded: int = 0
    images_skipped: int = 0
    embed_s: float = 0.0
    solve_s: float = 0.0

    def result(self) -> FewshotCost:
        """Return it with seconds to the millisecond."""
        return FewshotCost(
            images_embedded=self.images_embedded,
            images_skipped=self.images_skipped,
            embed_s=round(self.embed_s, 3),
            solve_s=round(self.solve_s, 3),
        )

    @contextmanager
    def embedding(self) -> Iterator[None]:
        """Add the seconds that the block takes to those of embedding."""
        started = time.perf_counter()
        yield
        self.embed_s += time.perf_counter() - started

    @contextmanager
    def solving(self) -> Iterator[None]:
        """Add the seconds that the block takes to those of solving."""
        started = time.perf_counter()
        yield
        self.solve_s += time.perf_counter() - started


class Embedder:
    """A model that features are taken of; it stays where it is until it is moved.

    Several processes share the images out: all of them call the methods, and the first gets the features.

    Args:
        opened: The model.
        choice: What to keep of it.
        preprocess: One of ``PREPROCESSINGS``.
        batch_size: Images at a time; no feature depends on it.
        num_workers: Processes that read images; None is as many as suit the device.
        cache: Keeps features for the next time; None keeps none.
        cost: Gets what embedding takes.
        conversation: Shows progress.
        processes: Who shares the images out.

    Attributes:
        opened: The model.
        has_features: Whether this process gets them.
        shapes: Of every feature of one image: (D,), or (T, D) for ``tokens``.

    Raises:
        SettingError: The model has no such layer or pooling, or images are not as ``preprocess`` makes them.
    """

    def __init__(
        self,
        opened: PreparedModel,
        choice: FeatureChoice,
        *,
        preprocess: str = "model",
        batch_size: int,
        num_workers: int | None,
        cache: FeatureCache | None = None,
        cost: Cost | None = None,
        conversation: Conversation,
        processes: Processes = ALONE,
    ) -> None:
        self.opened = opened
        self.has_features, self._processes = processes.is_first, processes
        self._batch_size, self._num_workers = batch_size, num_workers
        self._cache, self._cost, self._conversation = cache, cost or Cost(), conversation
        self._transform, described = _transform_of(opened, preprocess, conversation)
        self._identity = {
            "architecture": type(opened.model).__name__,
            "weights": hash_of_weights(opened.model) if cache is not None and processes.is_first else "",
            "preprocessing": described,
            "versions": {package: version(package) for package in _PACKAGES},
        }
        device = next(opened.model.parameters()).device
        self._extractor = FeatureExtractor(
            opened.model, choice.keys, device=device, name=opened.name, positions=choice.positions
        )
        self.shapes = self._extractor.shapes(opened.image_size)

    def to(self, device: torch.device) -> None:
        """Move the model to ``device``."""
        self._extractor.to(device)

    @property
    def bytes_of_an_image(self) -> int:
        """What the features of one image take."""
        return 4 * sum(int(np.prod(shape)) for shape in self.shapes.values())

    def embed(
        self, split: Split, hashes: Sequence[str], *, is_in_memory: bool, keys: Sequence[FeatureKey] | None = None
    ) -> dict[FeatureKey, np.ndarray]:
        """Return the features of ``split``, (N, D) or (T, N, D) float32, from the cache where they are there.

        Of several processes the first looks there; the others return none.

        Args:
            split: The N images.
            hashes: Of their pixels, for the cache.
            is_in_memory: Whether reading one costs next to nothing.
            keys: Some of the layers and poolings; None is all.
        """
        keys = self._extractor.keys if keys is None else keys
        with self._cost.embedding():
            identity = {**self._identity, "images": hash_of_images(hashes)}
            found = dict[FeatureKey, np.ndarray]()

            def missing_keys() -> list[int]:
                if self._cache is not None:
                    kept = ((key, self._cache.load(identity, key, num_images=len(split))) for key in keys)
                    found.update({key: features for key, features in kept if features is not None})
                return [number for number, key in enumerate(keys) if key not in found]

            missing = [keys[number] for number in self._processes.document(missing_keys)]
            if missing:
                extractor = self._extractor.only(missing)
                made = collect_features(extractor, self._batches(split, is_in_memory), **self._told(split))
                for key, features in made.items():
                    found[key] = features
                    if self._cache is not None:
                        self._cache.save(identity, key, features)
        if missing:
            self._cost.images_embedded += len(split)
        else:
            self._cost.images_skipped += len(split)
        return {key: found[key] for key in keys if key in found}

    def stream(self, split: Split, *, is_in_memory: bool) -> Iterator[dict[FeatureKey, np.ndarray]]:
        """Yield the features of each batch, (B, D) or (B, T, D) float32, past the cache; none of them is held.

        Of several processes the others than the first yield nothing, and do their share on the way.

        The seconds are for the caller to count (``Cost.embedding``): they are also those of what it does with a batch.
        """
        yield from stream_features(self._extractor, self._batches(split, is_in_memory), **self._told(split))
        self._cost.images_embedded += len(split)

    def _batches(self, split: Split, is_in_memory: bool) -> Any:
        device = self._extractor.device
        workers = resolve_num_workers(
            self._num_workers,
            is_in_memory=is_in_memory,
            device_type=device.type,
            batch_bytes=batch_bytes(self._batch_size, self.opened.image_size),
        )
        if workers.is_reduced:
            self._conversation.line(workers.sentence())
        if self._processes.count > 1:
            split = split.select(self._processes.positions(len(split), self._batch_size))
        return evaluation_batches(
            split, self._transform, batch_size=self._batch_size, num_workers=workers.number, device=device
        )

    def _told(self, split: Split) -> dict[str, Any]:
        return {
            "num_images": len(split),
            "description": f"embedding {split.name}",
            "conversation": self._conversation,
            "num_batches": -(-len(split) // self._batch_size),
            "processes": self._processes,
        }


def _transform_of(
    opened: PreparedModel, preprocess: str, conversation: Conversation
) -> tuple[PixelTransform, dict[str, Any]]:
    """Return what makes of an RGB image what the model sees, and its description for the cache."""
    preprocessing, size = opened.preprocessing, opened.image_size
    if preprocess == "model":
        return EvaluationTransform(preprocessing), _with_range(preprocessing.data_config(), preprocessing.max_value)
    if size[0] != size[1]:
        raise SettingError(
            f"--preprocess big_vision makes squares, and {opened.name} takes {format_size(size)} px; give a square "
            "--image-size.",
            field="preprocess",
        )
    if set(preprocessing.mean) | set(preprocessing.std) != {0.5}:
        conversation.warn(
            f"{opened.name} was trained with mean {preprocessing.mean} and std {preprocessing.std}; big_vision's "
            "preprocessing gives it values from -1 to 1 instead."
        )
    transform = BigVisionTransform(size[0], max_value=preprocessing.max_value)
    return transform, _with_range(transform.describe(), preprocessing.max_value)


def _with_range(described: Mapping[str, Any], max_value: int | None) -> dict[str, Any]:
    """Return a description with how images of 16 bits become RGB, where that is not as ever: older ones stay valid."""
    return dict(described) | ({} if max_value is None else {"max_value": max_value})
