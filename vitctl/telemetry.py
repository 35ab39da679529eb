"""Keeps the packages that vitctl uses from reporting that they are used."""

import os

VARIABLES = {
    # 1.32 for Linux writes a device id below ~/.cache/Microsoft at import, and seconds later calls its collector
    "ORT_DISABLE_TELEMETRY": "1",
    # also what transformers goes by, and what the hub is told about torch and the calling program
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # wandb, for 'vitctl log', sends its own errors to its makers
    "WANDB_ERROR_REPORTING": "false",
}
"""Each is read once, when its package is imported: onnxruntime, huggingface_hub, wandb. DO_NOT_TRACK is read by the
second alone, which has been told. accelerate, matplotlib, tensorboard, timm and torch report nothing; ``datasets``
counts downloads, which ``vitctl.data.sources.hub`` turns off."""


def switch_off() -> None:
    """Set every variable of ``VARIABLES`` for this process and its children.

    A value that is already there is replaced: onnxruntime takes ``0``, and even an empty text, for consent, and vitctl
    promises that it reports nothing. Too late for a package that was imported before vitctl.
    """
    os.environ.update(VARIABLES)
