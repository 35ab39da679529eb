"""What ``--model-arg`` says: arguments of timm's models, held against what the model takes before it is built."""

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vitctl.errors import ModelError, SettingError, did_you_mean
from vitctl.models.budget import check_arguments, check_buildable
from vitctl.models.load_report import some
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.documents import reason_of
from vitctl.primitives.out_of_memory import is_out_of_memory

_SAID_ELSEWHERE = {
    "img_size": "--image-size says it",
    "num_classes": "the data and the weights say it",
    "in_chans": "images have three channels here",
}
# of timm.create_model and build_model_with_cfg, not of a model: they read files, or give back something else
_OF_TIMM = (
    "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir", "scriptable",
    "exportable", "no_jit", "features_only", "feature_cfg", "feature_cls", "out_indices", "output_fmt", "pruned",
    "kwargs_filter", "pretrained_strict", "pretrained_filter_fn", "pretrained_model_args", "model_cfg", "model_cls",
    "variant", "device", "dtype", "cfg",
)  # fmt: skip
_UNKNOWN = re.compile(r"unexpected keyword argument '(\w+)'")
FIELD = "model_arg"


def as_options(arguments: Mapping[str, Any]) -> str:
    """Return arguments as the command line has them."""
    return " ".join(f"--model-arg {key}={value}" for key, value in arguments.items())


def check_model_arguments(build: Callable[..., nn.Module], arguments: Mapping[str, Any], *, name: str) -> None:
    """Check that a model takes ``arguments``, and that it can be built with them; nothing is computed.

    Args:
        build: Makes the model, with keyword arguments besides.
        arguments: Those of ``--model-arg``.
        name: The model's name, for messages.

    Raises:
        SettingError: It does not take one, or not that value, or becomes too large.
    """
    for key, value in arguments.items():
        _check_is_an_argument(key, value)
        try:
            check_arguments(value, name=name, where=f"--model-arg {key}")
        except ModelError as error:
            raise SettingError(str(error).partition(" Is it ")[0], field=FIELD) from error
    try:
        check_buildable(lambda: build(**arguments), name=name, weights=None)
    except ModelError as error:
        raise SettingError(f"{str(error).partition(' Correct ')[0]} ({as_options(arguments)})", field=FIELD) from error
    _try(build, arguments, name)


@compiler_later()
def check_same_shapes(build: Callable[..., nn.Module], arguments: Mapping[str, Any], *, name: str) -> None:
    """Check that published weights fit a model with ``arguments`` as they are; both are built on the meta device.

    Args:
        build: Makes the model, with keyword arguments besides.
        arguments: Those of ``--model-arg``, which the model takes.
        name: The model's name, for messages.

    Raises:
        SettingError: A tensor has another shape with them.
    """
    with torch.device("meta"):
        plain, changed = build().state_dict(), build(**arguments).state_dict()
    other = [key for key in plain if key in changed and plain[key].shape != changed[key].shape]
    if other:
        raise SettingError(
            f"The pretrained weights of {name} do not fit it with {as_options(arguments)}: {other[0]} would be "
            f"{tuple(changed[other[0]].shape)}, and theirs is {tuple(plain[other[0]].shape)}; expected arguments that "
            "leave shapes as they are, or --weights none.",
            field=FIELD,
        )


def _check_is_an_argument(key: str, value: Any) -> None:
    if key in _SAID_ELSEWHERE:
        raise SettingError(f"--model-arg {key}={value} cannot be used: {_SAID_ELSEWHERE[key]}.", field=FIELD)
    if key in _OF_TIMM:
        raise SettingError(
            f"--model-arg {key}={value} cannot be used: it is no argument of a model but of timm's loader; "
            "expected one like global_pool, init_values, class_token, reg_tokens.",
            field=FIELD,
        )


@compiler_later()  # random numbers on the meta device ask for it
def _try(build: Callable[..., nn.Module], arguments: Mapping[str, Any], name: str) -> None:
    """Build on the meta device, after it was seen not to be too large, to hear what the architecture objects to."""
    try:
        with torch.device("meta"):
            build(**arguments)
    except Exception as error:  # the architecture's own code objects to its arguments
        if is_out_of_memory(error):
            raise
        unknown = _UNKNOWN.search(str(error))
        if isinstance(error, TypeError) and unknown is not None and unknown[1] in arguments:
            known = _parameters_of(build)
            raise SettingError(
                f"{name} takes no argument {unknown[1]!r} (--model-arg {unknown[1]}={arguments[unknown[1]]})."
                + (did_you_mean(unknown[1], known) or f" Expected one of its class in timm, like {some(known)}."),
                field=FIELD,
            ) from error
        raise SettingError(
            f"{name} cannot be built with {as_options(arguments)}: {reason_of(error)}; expected values that its class "
            "in timm takes.",
            field=FIELD,
        ) from error


def _parameters_of(build: Callable[..., nn.Module]) -> list[str]:
    with torch.device("meta"):
        kind = type(build())
    names = list(inspect.signature(kind).parameters)
    return [name for name in names if name not in (*_OF_TIMM, *_SAID_ELSEWHERE, "kwargs", "args")]
