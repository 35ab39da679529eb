"""Models of the Hugging Face hub, ``hf-hub:OWNER/NAME[@REVISION]``: fetched first, then opened like any folder.

What is fetched is what timm would read (``timm/models/_hub.py``), so that it can be looked through before timm does.
"""

from pathlib import Path
from typing import Any

from timm.models._hub import HF_WEIGHTS_NAME, _get_safe_alternatives, download_from_hf

from vitctl.errors import ModelError
from vitctl.models.budget import check_arguments
from vitctl.models.folder_config import FILE, read_folder_config
from vitctl.primitives.documents import peek_document
from vitctl.primitives.hub import NotThereError, hub_access
from vitctl.primitives.out_of_memory import is_out_of_memory

PREFIX = "hf-hub:"


def is_on_hub(spec: str) -> bool:
    """Return whether ``spec`` names a model of the hub."""
    return spec.startswith(PREFIX)


def fetch_model(spec: str, *, with_weights: bool) -> tuple[Path, Path | None]:
    """Return where the hub's cache holds the ``config.json`` of a model and, if they are wanted, its weights.

    Raises:
        ModelError: They are neither there nor can be fetched, or no model can have the sizes in the ``config.json``.
    """
    with hub_access() as is_reachable:
        try:
            config = Path(download_from_hf(spec.removeprefix(PREFIX), FILE))
        except Exception as error:  # the hub client's errors have no common base class
            if is_out_of_memory(error):
                raise
            raise (not_fetched if with_weights else _not_configured)(spec, error, is_reachable=is_reachable) from error
        check_arguments(read_folder_config(config.parent).model_args, name=spec)
        if not with_weights:
            return config, None
        try:
            return config, _weights(spec.removeprefix(PREFIX), config)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            raise not_fetched(spec, error, is_reachable=is_reachable) from error


def _weights(model_id: str, config: Path) -> Path:
    """Return the file that timm would read: safetensors in the place of the file that is named, where there are."""
    document = peek_document(config)
    settings: Any = document.get("pretrained_cfg", document)  # of older ones it is the whole document
    named = str(settings.get("hf_hub_filename") or HF_WEIGHTS_NAME)
    for name in _get_safe_alternatives(named):
        try:
            return Path(download_from_hf(model_id, name))
        except NotThereError:
            continue
    return Path(download_from_hf(model_id, named))


def not_fetched(name: str, error: Exception, *, is_reachable: bool) -> ModelError:
    """Return the error of weights that are neither in the hub's cache nor could be fetched.

    Args:
        name: The model's.
        error: What the hub's client, or timm, said.
        is_reachable: Whether the hub is.
    """
    reason = (str(error).strip().splitlines() or [""])[0][:200]
    found = ": ".join(filter(None, (type(error).__name__, reason)))
    found = found if is_reachable else "the Hugging Face hub cannot be reached"
    return ModelError(
        f"The pretrained weights of {name} could not be fetched ({found}) and are not in the hub's cache. Either "
        "run this once where there is a network and bring the cache along ($HF_HOME), or download the weights "
        "and name them with --weights FILE. (--model demo needs no network.)"
    )


def _not_configured(name: str, error: Exception, *, is_reachable: bool) -> ModelError:
    if is_reachable:
        return ModelError(f"{name} cannot be built: {error}")
    return ModelError(
        f"The configuration of {name} is not in the hub's cache and the Hugging Face hub cannot be reached. "
        "Either run this once where there is a network and bring the cache along ($HF_HOME), or name a timm "
        "model or folder with --model."
    )
