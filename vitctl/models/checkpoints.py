"""Files of weights, told by their content and not by their names: their kind, and what torch's and safetensors' hold.

No pickled code is ever run: ``torch.load`` is called with ``weights_only=True`` alone.
"""

import argparse
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from vitctl.errors import ModelError
from vitctl.primitives.archives import check_archive
from vitctl.primitives.documents import foreign, reason_of
from vitctl.primitives.memory import check_fits
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.primitives.text_paths import text_path

Kind = Literal["npz", "safetensors", "torch"]
SUFFIXES: dict[str, Kind] = {
    ".safetensors": "safetensors", ".pth": "torch", ".pt": "torch", ".bin": "torch", ".ckpt": "torch", ".tar": "torch",
    ".npz": "npz",
}  # fmt: skip
READ = ".safetensors .pth .pt .bin .ckpt .pth.tar .npz"
_STATE = "a safetensors file, or one saved with torch.save that holds tensors only"
_HEAD_BYTES = 512
_MOST_HEADER_BYTES = 100_000_000  # of safetensors; their own reader's limit
_UNSAFE = re.compile(r"[Uu]nsupported (?:global: GLOBAL|class) (\S+)")
_UNPICKLER = re.compile(r"WeightsUnpickler error: *(.*)")

# argparse.Namespace is what train.py of timm, MAE, DeiT and DINO keep their options in, beside the weights. It is safe
# to make one: its class runs no code of the file's, it only keeps values by name, themselves of allowed types.
_PLAIN_CLASSES = (argparse.Namespace,)


def kind_of(path: Path) -> Kind:
    """Return which reader a file is for, by its content; by its ending where that tells nothing.

    Raises:
        ModelError: It is none that can be read; of what is often met in the place of weights the sentence says what it
            is, and what to do.
    """
    with foreign(path, ModelError, expected="a file of weights", kind="weights"):
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                return _kind_of_archive(archive.namelist(), path)
    _refuse_known(head, path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _MOST_HEADER_BYTES:
        return "safetensors"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):  # a pickle: torch's format before 1.6
        return "torch"
    kind = SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise ModelError(f"{path} is no weights file that vitctl reads{_words(head)}; expected one of {READ}.")
    return kind


def _kind_of_archive(names: list[str], path: Path) -> Kind:
    inner = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inner:
        raise ModelError(
            f"{path} is a TorchScript program, which is code and is not read; expected tensors. Save those of the "
            "model it was made of: torch.save(model.state_dict(), 'weights.pth')."
        )
    if "data.pkl" in inner:
        return "torch"
    return "npz" if any(name.endswith(".npy") for name in names) else SUFFIXES.get(path.suffix.lower(), "torch")


def _refuse_known(head: bytes, path: Path) -> None:
    """Refuse what stands where weights were expected, and is known by its first bytes."""
    text = head.lstrip().lower()
    if head.startswith(b"version https://git-lfs.github.com/spec"):
        raise ModelError(
            f"{path} is a git-lfs pointer, {len(head):,} bytes of text in place of the weights; fetch them with git "
            "lfs pull in that repository, or download the file itself."
        )
    if text.startswith((b"<!doctype html", b"<html")):
        raise ModelError(
            f"{path} is a web page, not weights: the page was saved in place of the file. Download it again, from the "
            "link to the file itself (at the Hugging Face hub /resolve/ in place of /blob/)."
        )
    if text.startswith(b"{") and (b"weight_map" in head or path.name.endswith(".index.json")):
        raise ModelError(
            f"{path} is the index of weights in several files; expected one file. Save them as one: "
            "model.save_pretrained(FOLDER, max_shard_size='100GB')."
        )
    if head[257:262] == b"ustar" or head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ")):
        raise ModelError(f"{path} is packed (tar, gzip, bzip2 or xz); expected the file of weights in it. Unpack it.")


def _words(head: bytes) -> str:
    """Return in brackets how a file of text begins; nothing of any other file."""
    line = head.split(b"\n")[0][:60].decode("ascii", "replace").strip()
    return f" (it begins with {line!r})" if len(line) > 3 and line.isascii() and line.isprintable() else ""


def check_sizes(path: Path) -> None:
    """Check that what a file of weights holds fits into the memory, and is no more than it can hold.

    Raises:
        ModelError: It is not so, or the file is a damaged archive.
    """
    with foreign(path, ModelError, expected=_STATE, kind="weights"):
        check_archive(path, error=ModelError)  # torch.save writes one
        check_fits(path.stat().st_size, what=f"What {path} holds", error=ModelError, advice="Use a smaller model")


def read_checkpoint(path: Path, kind: Kind) -> Any:
    """Return what a file of safetensors or of ``torch.save`` holds; tensors on the CPU.

    Raises:
        ModelError: It is damaged, does not fit into memory, or holds objects of classes, which may be code.
    """
    check_sizes(path)
    with foreign(path, ModelError, expected=_STATE, kind="weights"):
        if kind == "safetensors":
            with text_path(path) as readable:
                return load_file(readable, device="cpu")
        return _load_with_torch(path)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a file of safetensors: contiguous tensors on the CPU, each of its own shape, e.g. (C, D).

    Args:
        path: Where to.
        tensors: By name.
        metadata: At most one entry, instead of the one that says that torch wrote it: of several safetensors chooses
            the order at random, and the bytes would differ.

    Raises:
        OSError: It cannot be written.
    """
    # safetensors' own save_file makes files that only their owner can read
    path.write_bytes(save(dict(tensors), metadata=dict(metadata or {"format": "pt"})))


def _load_with_torch(path: Path) -> Any:
    try:
        # an open file, as torch reads a path that ends in .safetensors as that
        with path.open("rb") as file, torch.serialization.safe_globals(list(_PLAIN_CLASSES)):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's own sentence advises to read without weights_only: it is not shown
        if is_out_of_memory(error):
            raise
        text = str(error)
        if (found := _UNSAFE.search(text)) is not None:
            raise ModelError(
                f"{path} holds more than tensors: an object of the class {found[1].rstrip('.,:')}, which may be code "
                "and is not read; expected tensors by name. Save those alone where the file is from: "
                "torch.save(model.state_dict(), 'weights.pth')."
            ) from error
        if (inner := _UNPICKLER.search(text)) is not None:
            raise ValueError(inner[1].strip() or "a damaged pickle") from None
        reason = reason_of(error)
        raise ValueError("it is no file of tensors" if "weights_only" in reason else reason) from None
