"""What a program calls: ``import vitctl; vitctl.load(...)``. Importing it imports no torch.

Every function is silent unless ``verbose`` is set, but for warnings, which are Python's. Errors are ``VitctlError``s,
with the sentences that the commands show.
"""

import inspect
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from vitctl.conversation import Conversation

if TYPE_CHECKING:
    from vitctl.classifier import Classifier

_PACKAGE = str(Path(__file__).parent) + os.sep


def load(
    run_or_model: str | os.PathLike[str],
    *,
    weights: str | os.PathLike[str] = "pretrained",
    image_size: int | str | tuple[int, int] | None = None,
    device: str = "auto",
    verbose: bool = False,
) -> "Classifier":
    """Return a trained model, ready to be shown images.

    Args:
        run_or_model: A run folder (its ``best/``, or with a warning the ``last/`` of a run that was stopped), its
            ``best/`` or ``last/``, a timm folder, ``demo``, a timm name, ``hf-hub:OWNER/NAME``.
        weights: ``pretrained``, ``none`` for random ones, or a ``.safetensors``, ``.pth`` or ``.npz`` file.
        image_size: px: ``384``, ``"256x320"`` or ``(256, 320)``, height first; None is the model's own.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        verbose: Say on stderr what is done, and show progress.

    Raises:
        ModelError: There is no such model; its weights are missing, do not fit or cannot be fetched; or its size
            cannot change.
        SettingError: It cannot take the image size, or the device has another name.
        UnavailableError: The device is not here.

    Example:
        >>> import vitctl
        >>> classifier = vitctl.load("demo", device="cpu")
        >>> classifier.image_size
        (32, 32)
        >>> classifier.predict_proba("shirt.png").shape  # doctest: +SKIP
        (1, 10)
    """
    talk = conversation(verbose=verbose)
    from vitctl.classifier import open_classifier
    from vitctl.primitives.image_sizes import image_size_of

    return open_classifier(
        os.fspath(run_or_model),
        weights=os.fspath(weights),
        image_size=None if image_size is None else image_size_of(image_size),
        device=device,
        conversation=talk,
    )


def conversation(*, verbose: bool) -> Conversation:
    """Return how a function of the library talks: on stderr as the commands do, or by Python's warnings alone."""
    if not verbose:
        return _Warnings()
    from vitctl.cli.screen import Screen

    return Screen()


class _Warnings(Conversation):
    """Silent, but for warnings: they are Python's, of the line outside of this package that led to them."""

    def warn(self, text: str) -> None:
        """Issue a ``UserWarning``."""
        level, frame = 1, inspect.currentframe()
        while frame is not None and frame.f_code.co_filename.startswith(_PACKAGE):
            level, frame = level + 1, frame.f_back
        warnings.warn(text, UserWarning, stacklevel=level)
