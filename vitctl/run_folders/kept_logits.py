"""What a run says of each validation image, kept in its folder: so that runs can be compared without computing again.

``RUN/val-logits.safetensors`` holds what the weights of ``best/`` say. Letters: N images, C classes.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy

from vitctl.errors import DataError
from vitctl.primitives.documents import parse_document
from vitctl.primitives.files import whole_file
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.text_paths import text_path

KEPT = "val-logits.safetensors"
_FORMAT = "vitctl validation logits 1"


@dataclass(frozen=True, eq=False)
class KeptLogits:
    """What a classifier says of images.

    Attributes:
        logits: (N, C) float32.
        labels: (N,) int64, the true classes.
        hashes: N, of the images' content (``vitctl.data.run_lists``); equal for equal images.
        class_names: C.
    """

    logits: np.ndarray
    labels: np.ndarray
    hashes: tuple[str, ...]
    class_names: tuple[str, ...]


def write_logits(run: Path, kept: KeptLogits) -> None:
    """Write what a run says of its validation images into its folder, whole or not at all."""
    tensors: dict[str, np.ndarray] = {
        "logits": np.ascontiguousarray(kept.logits, dtype=np.float32),
        "labels": np.ascontiguousarray(kept.labels, dtype=np.int64),
        "hashes": np.frombuffer(bytes.fromhex("".join(kept.hashes)), dtype=np.uint8).reshape(len(kept.hashes), 16),
    }
    metadata = {_FORMAT: json.dumps(kept.class_names)}  # one key: safetensors writes several in random order
    with whole_file(run / KEPT) as partial:
        partial.write_bytes(safetensors.numpy.save(tensors, metadata=metadata))


def read_logits(run: Path) -> KeptLogits | None:
    """Return what a run says of its validation images; None where it has not kept it (vitctl 0.1.0).

    Raises:
        DataError: The file is damaged, or another one.
    """
    path = run / KEPT
    if not path.is_file():
        return None
    try:
        with text_path(path) as readable, safetensors.safe_open(readable, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in ("logits", "labels", "hashes")}
        classes = tuple(parse_document(metadata[_FORMAT], list[str]))
        kept = KeptLogits(
            tensors["logits"], tensors["labels"], tuple(row.tobytes().hex() for row in tensors["hashes"]), classes
        )
        num_images = len(kept.hashes)
        is_whole = kept.logits.shape == (num_images, len(classes)) and kept.labels.shape == (num_images,)
    except Exception as error:  # whatever a damaged file provokes
        if is_out_of_memory(error):
            raise
        is_whole = False
    if not is_whole:
        raise DataError(
            f"{path} is damaged, or no file of vitctl; expected what a run says of its validation images. Remove it, "
            "and it is computed again."
        )
    return kept
