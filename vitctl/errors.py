"""What can go wrong, as exceptions; each knows the exit code of the command it ends.

The tree::

    VitctlError            1  never raised itself
    +-- SettingError       2  an option or configuration value that cannot be used
    +-- DataError          3  images, labels, data specs
    +-- ModelError         4  model names, weights
    +-- UnavailableError   5  a device or an optional package that is not here
    +-- InterruptedRun   130  Ctrl-C (or 143: SIGTERM), after everything was saved
    +-- FailedElsewhere       what another process of the run has said already; the code is that one's

A message is one sentence for the person at the keyboard: what was found (with the path), what was
expected, what to try; lines of a list may follow. Any other exception is a bug of ours and keeps its
traceback (exit code 1).
"""

import difflib
from collections.abc import Iterable, Mapping

from vitctl.shown import shown

SYNONYMS = {
    "gpu": "cuda", "nvidia": "cuda", "metal": "mps", "apple": "mps",
    "huggingface": "hf", "transformers": "hf", "pytorch": "pt2", "torchscript": "pt2", "jax": "npz",
    "float32": "fp32", "float": "fp32", "float16": "fp16", "half": "fp16", "quantized": "int8-dynamic",
    "validation": "val", "valid": "val", "dev": "val", "average": "mean", "avg": "mean", "gap": "mean",
    "prototypes": "centroid", "nearest": "knn", "head": "logits", "features": "embedding",
}  # fmt: skip
"""Words that people use for a value of an option -> the value, where it is one."""


class VitctlError(Exception):
    """An expected failure: its text is shown without a traceback.

    Args:
        message: One sentence. Names in it may be anyone's: of line breaks and the like in them only escapes are seen.
        lines: What stands below it, a line each, e.g. one for every file.

    Attributes:
        is_of_one_process: Whether of several processes only this one knows of it, and must say it.
    """

    exit_code = 1
    is_of_one_process = False

    def __init__(self, message: str, *lines: str) -> None:
        super().__init__(message, *lines)

    def __str__(self) -> str:
        """Return the lines as a person sees them."""
        return "\n".join(shown(line) for line in self.args)


class SettingError(VitctlError):
    """An option or a configuration value cannot be used (exit code 2).

    Attributes:
        field: The setting it is about, as Python and JSON spell it (``image_size``), where it is about one; the
            sentence has the command line's spelling.
    """

    exit_code = 2

    def __init__(self, message: str, *lines: str, field: str | None = None) -> None:
        super().__init__(message, *lines)
        self.field = field


class DataError(VitctlError):
    """Images or labels are missing, unreadable or inconsistent (exit code 3)."""

    exit_code = 3


class ModelError(VitctlError):
    """A model name is unknown, or weights are missing or do not fit (exit code 4)."""

    exit_code = 4


class UnavailableError(VitctlError):
    """A device or an optional package is not available (exit code 5)."""

    exit_code = 5


class InterruptedRun(VitctlError):
    """The user stopped the run; what was done is saved (exit code 130, or 143 for SIGTERM)."""

    def __init__(self, message: str, *, exit_code: int = 130) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class FailedElsewhere(VitctlError):
    """Another process of the same run has failed and says why; this one ends with its exit code, silently."""

    def __init__(self, exit_code: int) -> None:
        super().__init__("Another process of this run has failed and said why.")
        self.exit_code = exit_code


class SaidWarning(UserWarning):
    """Something that a person should know and that ends nothing. The command line says each sentence once."""


def did_you_mean(word: str, known: Iterable[str], *, most: int = 3, synonyms: Mapping[str, str] = SYNONYMS) -> str:
    """Return ``" Did you mean 'a' or 'b'?"`` for the names nearest to ``word``, or an empty string.

    ``word`` itself in small letters, or what ``synonyms`` has for that, is nearer than any that is spelt alike.
    """
    known, meant = list(known), synonyms.get(word.lower(), word.lower())
    near = [meant] if meant in known else difflib.get_close_matches(word, known, n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""


def check_choice(value: str, allowed: Iterable[str], *, what: str, field: str | None = None) -> str:
    """Return ``value`` when it is one of ``allowed``.

    Args:
        value: What was given.
        allowed: Every value that can be used.
        what: The option or setting, as the user writes it.
        field: The setting's name, for the error.

    Raises:
        SettingError: It is not; the sentence lists the allowed values and the nearest.
    """
    allowed = list(allowed)
    if value not in allowed:
        listed = ", ".join(allowed)
        raise SettingError(f"{what} is {value!r}; it can be {listed}.{did_you_mean(str(value), allowed)}", field=field)
    return value
