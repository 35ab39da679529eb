"""Features kept between runs, as safetensors, one file per images, weights, preprocessing, layer and pooling.

Letters: N images, T tokens, D width.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import nn

from vitctl.conversation import Conversation
from vitctl.evaluation.features import FeatureKey
from vitctl.primitives.files import whole_file
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.outputs import writing
from vitctl.primitives.text_paths import text_path

_FORMAT = 1  # counts up when features of the same name would be other numbers


def hash_of_weights(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of the model's parameters and buffers and of its modules' plain settings.

    The settings tell models apart that have the same weights and compute something else with them: another number
    of heads, another activation.
    """
    digest = hashlib.sha256()
    for name, module in sorted(model.named_modules(), key=lambda pair: pair[0]):
        plain = {key: value for key, value in vars(module).items() if isinstance(value, (bool, int, float, str))}
        plain.pop("training", None)
        digest.update(f"{name} {type(module).__name__} {sorted(plain.items())}\n".encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def hash_of_images(fingerprints: Sequence[str]) -> str:
    """Return the SHA-256 of a list of images, given by fingerprints of their pixels, in hexadecimal."""
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()


class FeatureCache:
    """A folder of features.

    Args:
        folder: Made when something is saved.
        conversation: Hears of damaged files.
    """

    def __init__(self, folder: Path, conversation: Conversation) -> None:
        self._folder, self._conversation = folder, conversation
        self._is_damaged = False

    def load(self, identity: Mapping[str, Any], key: FeatureKey, *, num_images: int) -> np.ndarray | None:
        """Return the features, (N, D) or (T, N, D) float32, or None where they are not there whole.

        Args:
            identity: What they depend on besides ``key``: hashes of weights and images, preprocessing, versions.
            key: Layer and pooling.
            num_images: N.
        """
        name, path = self._place(identity, key)
        if not os.path.isfile(path):  # False also where the folder may not be looked into
            return None
        try:
            with text_path(path) as readable, safetensors.safe_open(readable, framework="numpy") as file:
                metadata, features = file.metadata(), file.get_tensor("features")
            is_whole = (
                metadata.get("identity") == name
                and metadata.get("sha256") == hashlib.sha256(features.data).hexdigest()
                and features.dtype == np.float32
                and features.ndim in (2, 3)
                and features.shape[-2] == num_images
            )
        except Exception as error:  # whatever a damaged file provokes
            if is_out_of_memory(error):
                raise
            is_whole = False
        if not is_whole:
            if not self._is_damaged:
                self._conversation.warn(f"{path} is damaged: these features are computed again.")
            self._is_damaged = True
            return None
        result: np.ndarray = features
        return result

    def save(self, identity: Mapping[str, Any], key: FeatureKey, features: np.ndarray) -> None:
        """Keep ``features``, (N, D) or (T, N, D) float32.

        Raises:
            SettingError: The folder cannot be written.
        """
        name, path = self._place(identity, key)
        features = np.ascontiguousarray(features)
        metadata = {"identity": name, "sha256": hashlib.sha256(features.data).hexdigest()}
        with writing(self._folder, option="--cache"), whole_file(path) as partial:
            partial.write_bytes(safetensors.numpy.save({"features": features}, metadata=metadata))

    def _place(self, identity: Mapping[str, Any], key: FeatureKey) -> tuple[str, Path]:
        document = {"format": _FORMAT, **identity, "layer": key.layer, "pool": key.pool}
        name = json.dumps(document, sort_keys=True)
        return name, self._folder / f"{hashlib.sha256(name.encode()).hexdigest()}.safetensors"
