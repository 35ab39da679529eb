"""Frozen features of images: every layer and pooling that is asked for, from one forward pass.

Letters: N images, B in a batch, T patch tokens, D width.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.evaluation.lone_image import never_alone
from vitctl.models.anatomy import final_norm, has_class_token, norm_after_pooling
from vitctl.models.batch_memory import batch_bytes_told
from vitctl.models.layers import Layer, LayerTap, Tokens, pooled_by_model
from vitctl.primitives.memory import check_fits
from vitctl.primitives.processes import ALONE, Processes
from vitctl.settings.words import EMBED, FINAL


class FeatureKey(NamedTuple):
    """Which features.

    Attributes:
        layer: ``embed``, 0 to L-1 or ``final``.
        pool: ``native``: the model's own pooling (before the last layer its plain part: the class token, or the
            mean); ``cls``; ``mean`` of the patch tokens or places; ``cls+mean``, side by side; ``mean-all``: of prefix
            and patch tokens; ``first``: the first patch token alone; ``tokens``: each patch token alone.
    """

    layer: Layer
    pool: str


class FeatureExtractor:
    """From images to features.

    Args:
        model: A timm model; put into evaluation mode.
        keys: What to keep.
        device: Where to compute.
        name: The model's name, for messages.
        positions: By layer, which patch tokens ``tokens`` keeps, (T,) int64; all of a layer that is not named.
    """

    def __init__(
        self,
        model: nn.Module,
        keys: Sequence[FeatureKey],
        *,
        device: torch.device,
        name: str,
        positions: Mapping[Layer, np.ndarray] | None = None,
    ) -> None:
        self._model, self.device, self._name = model.to(device).eval(), device, name
        self._positions = dict(positions or {})
        self.keys = tuple(keys)
        layers = tuple(dict.fromkeys(key.layer for key in keys if key != (FINAL, "native")))
        self._tap = LayerTap(self._model, layers, name=name)

    def to(self, device: torch.device) -> None:
        """Move the model to ``device``."""
        self._model.to(device)
        self.device = device

    def only(self, keys: Sequence[FeatureKey]) -> "FeatureExtractor":
        """Return the extractor of some of the keys."""
        return FeatureExtractor(self._model, keys, device=self.device, name=self._name, positions=self._positions)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> dict[FeatureKey, Tensor]:
        """Return the features of ``images`` (B, 3, H, W), of each whatever others there are.

        Returns:
            (B, D) float32 each, (B, T, D) for ``tokens``.

        Raises:
            SettingError: The model has no class token where one is asked for.
            ModelError: A layer gives something else than tokens or a feature map, or numbers that are not finite.
        """
        images = images.to(self.device)
        with batch_bytes_told(self._model, images):
            tokens, features = self._tap(never_alone(images))
        found = {key: self._pooled(key, tokens, features)[: len(images)].float().cpu() for key in self.keys}
        for key, values in found.items():
            if not bool(values.isfinite().all()):
                raise ModelError(
                    f"Layer {key.layer} of {self._name} gives numbers that are not finite; expected weights that work. "
                    "Is the file damaged?"
                )
        return found

    def _pooled(self, key: FeatureKey, tokens: dict[Layer, Tokens], features: Tensor) -> Tensor:
        if key == (FINAL, "native"):
            return pooled_by_model(self._model, features)
        found = tokens[key.layer]
        pool = key.pool
        if pool == "native" and key.layer == EMBED:
            pool = "mean"  # the class token has seen nothing yet
        elif pool == "native":
            pool = "cls" if getattr(self._model, "global_pool", "") == "token" and found.prefix.shape[1] else "mean"
        if pool == "tokens":
            chosen = self._positions.get(key.layer)
            return self._normed(key.layer, found.patches if chosen is None else found.patches[:, chosen])
        if pool == "first":
            return self._normed(key.layer, found.patches[:, 0])
        if pool == "mean-all":
            return self._normed(key.layer, torch.cat([found.prefix, found.patches], dim=1).mean(dim=1))
        parts = []
        if pool in ("cls", "cls+mean"):
            if key.layer == EMBED:
                raise SettingError(
                    f"--pool {pool}: at layer embed the class token is the same for every image; leave out embed, or "
                    "use --pool mean.",
                    field="pool",
                )
            if not has_class_token(self._model) or not found.prefix.shape[1]:
                raise SettingError(
                    f"--pool {pool}: layer {key.layer} of {self._name} has no class token; try --pool mean or native.",
                    field="pool",
                )
            parts.append(self._normed(key.layer, found.prefix[:, 0]))
        if pool in ("mean", "cls+mean"):
            parts.append(self._normed(key.layer, found.patches.mean(dim=1)))
        return torch.cat(parts, dim=1)

    def _normed(self, layer: Layer, values: Tensor) -> Tensor:
        """Apply the last norm, where the model keeps it behind its pooling, to the final layer."""
        norm = norm_after_pooling(self._model)
        if layer != FINAL or norm is None or norm is not final_norm(self._model):
            return values
        normed: Tensor = norm(values)
        return normed

    def shapes(self, image_size: tuple[int, int]) -> dict[FeatureKey, tuple[int, ...]]:
        """Return each feature's shape for one image, (D,) or (T, D), found by showing the model an empty one.

        Args:
            image_size: (H, W) px.
        """
        return {key: tuple(values.shape[1:]) for key, values in self(torch.zeros(1, 3, *image_size)).items()}


def collect_features(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    *,
    num_images: int,
    description: str,
    conversation: Conversation,
    num_batches: int | None = None,
    processes: Processes = ALONE,
) -> dict[FeatureKey, np.ndarray]:
    """Return the features of all images, in order: (N, D) float32 each, (T, N, D) for ``tokens``.

    Several processes share the images out; the first returns the features, the others none.

    Args:
        extractor: Gives them.
        batches: (B, 3, H, W) each, together N images; of several processes this one's, ``Processes.positions``.
        num_images: N.
        description: For the progress bar.
        conversation: Shows it.
        num_batches: Of all processes; None of one that is alone: as many as there are.
        processes: Who shares the images out.
    """
    found: dict[FeatureKey, np.ndarray] = {}
    done = 0
    for features in stream_features(
        extractor,
        batches,
        num_images=num_images,
        description=description,
        conversation=conversation,
        num_batches=num_batches,
        processes=processes,
    ):
        for key, values in features.items():
            if key not in found:
                *tokens, width = values.shape[1:]
                found[key] = np.empty((*tokens, num_images, width), dtype=np.float32)
            found[key][..., done : done + len(values), :] = np.moveaxis(values, 0, -2)
        done += len(next(iter(features.values())))
    return found


def stream_features(
    extractor: FeatureExtractor,
    batches: Iterable[Tensor],
    *,
    num_images: int,
    description: str,
    conversation: Conversation,
    num_batches: int | None = None,
    processes: Processes = ALONE,
) -> Iterator[dict[FeatureKey, np.ndarray]]:
    """Yield the features of each batch, (B, D) or (B, T, D) float32; the arguments are ``collect_features``'.

    Of several processes the first yields them; the others, which do their share meanwhile, yield nothing.
    """
    names = {str(number): key for number, key in enumerate(dict.fromkeys(extractor.keys))}
    made = (
        {name: values.numpy() for name, values in zip(names, extractor(batch).values(), strict=True)}
        for batch in batches
    )
    with conversation.progress(description, num_images, "images") as bar:
        for features in processes.in_turns(made, num_batches, is_for_all=False):
            yield {key: features[name] for name, key in names.items()}
            bar.advance(len(next(iter(features.values()))))


def check_memory(num_bytes: int) -> None:
    """Check that features of ``num_bytes`` fit into the memory that is free.

    Raises:
        SettingError: They do not.
    """
    advice = "Ask for fewer --layers or --seeds, or leave out --pool tokens"
    check_fits(num_bytes, what="The features", error=SettingError, advice=advice)
