"""What a name of a model stands for: timm's own, a folder, or one of the hub; looked through before anything is built.

A model is named by ``demo`` (embedded), a timm name (``vit_base_patch16_224.augreg_in21k``), a run folder of vitctl, a
folder of timm or transformers (``config.json`` beside the weights), or ``hf-hub:OWNER/NAME``.
"""

import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import timm

from vitctl.errors import ModelError, did_you_mean
from vitctl.models.budget import check_arguments
from vitctl.models.checkpoints import check_sizes
from vitctl.models.folder_config import FILE, describes_a_model, read_folder_config
from vitctl.models.hub_models import fetch_model, is_on_hub
from vitctl.models.transformers_model import (
    WEIGHTS,
    Blueprint,
    adapter_sentence,
    is_transformers_folder,
    read_blueprint,
    weights_of,
)
from vitctl.primitives.atomic import recover
from vitctl.primitives.documents import peek_document, why_unreadable
from vitctl.primitives.files import path_exists, user_path
from vitctl.primitives.text_paths import text_path
from vitctl.settings.words import DEMO

DEMO_FOLDER = Path(__file__).parent.parent / "assets" / "demo"


def model_folder(spec: str) -> Path | None:
    """Return the timm local-dir folder that ``spec`` names, or None where it names none.

    ``demo`` is the embedded folder; a run folder stands for its ``best/`` (``last/`` where an interrupted
    run has no best yet).
    """
    if spec == DEMO:
        return DEMO_FOLDER
    folder = user_path(spec)
    for candidate in (folder, folder / "best", folder / "last"):
        recover(candidate)
        if describes_a_model(candidate):
            return candidate.absolute()
    return None


def stopped_too_early(run: str) -> str:
    """Return the sentence on a run folder that holds no weights yet."""
    return (
        f"The run {run} was stopped before it had weights to use; expected best/ or last/ in it. Go on with: vitctl "
        f"finetune --resume {shlex.quote(run)}"
    )


def check_model_name(name: str) -> None:
    """Check that timm knows ``name`` (a pretrained tag may follow a dot).

    Raises:
        ModelError: It does not; the sentence gives near matches.
    """
    if is_on_hub(name):
        return
    if path_exists(name):
        if (user_path(name) / "adapter_config.json").exists():
            raise ModelError(adapter_sentence(user_path(name)))
        if "vitctl" in peek_document(user_path(name) / "config.json"):
            raise ModelError(stopped_too_early(name))
        raise ModelError(
            f"{name} holds no model{_why_not(user_path(name))}; expected a run folder, or a folder with timm's or "
            "transformers' config.json and model.safetensors."
        )
    architecture, _, tag = name.partition(".")
    if "/" in name or not timm.is_model(architecture):
        known = [DEMO, *timm.list_models()]
        raise ModelError(
            f"{name!r} is neither a folder nor a model of timm.{did_you_mean(architecture, known)} 'vitctl models "
            "PATTERN' searches the names."
        )
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ModelError(
            f"timm has no weights {tag!r} for {architecture}.{did_you_mean(tag, tags)} It has: "
            f"{', '.join(tags) or 'none'}."
        )


def _why_not(folder: Path) -> str:
    """Return in brackets what is wrong with a folder's ``config.json``; nothing where there is none."""
    files = [candidate / FILE for candidate in (folder, folder / "best", folder / "last")]
    return next((f" ({file} cannot be read: {why})" for file in files if (why := why_unreadable(file))), "")


@dataclass(frozen=True)
class Named:
    """What a spec stands for.

    Attributes:
        name: For messages.
        address: For ``timm.create_model``.
        folder: Of a folder, which.
        config: The ``config.json`` that describes it; None of what timm has itself.
        weights: Their file, where they are wanted; None of those that timm has to fetch.
        blueprint: Of a transformers folder.
        max_value: As the folder says, or None.
    """

    name: str
    address: str
    folder: Path | None = None
    config: Path | None = None
    weights: Path | None = None
    blueprint: Blueprint | None = None
    max_value: int | None = None

    @property
    def is_foreign(self) -> bool:
        """Whether anyone may have written it."""
        return self.config is not None and self.folder != DEMO_FOLDER

    @property
    def is_read_by_timm(self) -> bool:
        """Whether timm reads its weights itself, which can then be held against the model by their names."""
        return self.blueprint is None and (self.weights is None or self.weights.suffix == ".safetensors")

    @property
    def options(self) -> Mapping[str, Any]:
        """Arguments for ``timm.create_model`` beside the address."""
        return self.blueprint.options if self.blueprint is not None else {}


@contextmanager
def named(spec: str, *, with_weights: bool) -> Iterator[Named]:
    """Yield what ``_find`` returns, with an address that timm can read for as long as the block runs."""
    found = _find(spec, with_weights=with_weights)
    if found.folder is None or found.blueprint is not None:
        yield found
        return
    with text_path(found.folder) as readable:
        yield replace(found, address=f"local-dir:{readable}")


def _find(spec: str, *, with_weights: bool) -> Named:
    """Return what ``spec`` stands for; a model of the hub is fetched.

    Raises:
        ModelError: There is none, or what it declares cannot be.
    """
    folder = model_folder(spec)
    name = DEMO if spec == DEMO else (str(folder) if folder else spec)
    if folder is None:
        check_model_name(spec)
        config, weights = fetch_model(spec, with_weights=with_weights) if is_on_hub(spec) else (None, None)
        found = Named(name, spec, None, config, weights)
    elif is_transformers_folder(folder):
        blueprint = read_blueprint(folder)
        check_arguments(blueprint.arguments, name=name)
        weights = weights_of(folder) if with_weights else None
        found = Named(name, blueprint.architecture, folder, folder / FILE, weights, blueprint)
    else:
        document = read_folder_config(folder)
        check_arguments(document.model_args, name=name)  # timm reads them again, and believes every word
        weights = folder / WEIGHTS if with_weights else None
        found = Named(name, f"local-dir:{folder}", folder, folder / FILE, weights, max_value=document.max_value)
    if weights is not None and weights.is_file():
        check_sizes(weights)
    return found
