"""Where a model to export comes from: a run folder, a timm folder or a name; and the model itself, at its size.

Letters: H W px.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.exporting.source import Source, hash_weights
from vitctl.models.folder_config import read_folder_config
from vitctl.models.named import stopped_too_early
from vitctl.models.prepared import open_model
from vitctl.models.run_folders import is_run_folder, run_of, stopped_note
from vitctl.models.transformers_model import is_transformers_folder
from vitctl.primitives.files import path_exists, user_path
from vitctl.settings.words import DEMO


@dataclass(frozen=True)
class Place:
    """Where a model comes from.

    Attributes:
        spec: For ``open_model``.
        run: The run folder it belongs to, None where there is none.
        name: A short name for cards and screens.
        folder: The timm folder, None for a timm name.
    """

    spec: str
    run: Path | None
    name: str
    folder: Path | None


def find_place(run: str | None, model: str | None, which: str, conversation: Conversation) -> Place:
    """Return where the model comes from.

    Args:
        run: A run folder, its ``best/`` or ``last/``, or a timm folder; None where there is a ``model``. The name of a
            model stands there too, as it does for ``evaluate`` and ``predict``.
        model: Its name.
        which: The weights of a run: ``best``, ``last`` or ``average``.
        conversation: Hears of a run that was stopped.

    Raises:
        SettingError: ``--which`` beside a folder that is no run.
        ModelError: The run has no weights.
    """
    if run is None or (run == DEMO and which == "best"):
        return Place(run or str(model), None, run or str(model), None)
    folder = user_path(run).absolute()
    if not is_run_folder(folder):
        if which == "best" and not path_exists(run):
            return Place(run, None, run, None)
        if which != "best":
            raise SettingError(
                f"--which {which} is given beside {run}, which is no run folder; leave it out.",
                field="which",
            )
        whole = run_of(run)
        name = folder.name if whole is None else f"{whole.name}-{folder.name}"
        return Place(run, whole, name, folder)
    note = None if (folder / "best").is_dir() else stopped_note(run)  # a damaged best/ is an error below
    if which == "best" and note is not None:
        conversation.warn(note)
        which = "last"
    chosen = folder / which
    if not any((folder / name).is_dir() for name in ("best", "last")):
        raise ModelError(stopped_too_early(run))
    if not (chosen / "model.safetensors").is_file():
        advice = "Finish the run with vitctl finetune, or name another folder."
        if which == "average":
            advice = "A run has them where its recipe says averaging.method; --which last has those it ended with."
        raise ModelError(f"The run {run} has no weights in {which}/; expected {which}/model.safetensors. {advice}")
    return Place(str(chosen), folder, folder.name if which == "best" else f"{folder.name}-{which}", chosen)


def load_source(
    place: Place,
    *,
    weights: str,
    model_args: Mapping[str, Any],
    image_size: tuple[int, int] | None,
    interpolation: str | None,
    conversation: Conversation,
) -> Source:
    """Return the model to export, at the image size asked for.

    Args:
        place: Where it comes from.
        weights: ``pretrained``, ``none``, or a file.
        model_args: Arguments of timm's class, instead of those that the name stands for.
        image_size: (H, W) px; None is its own.
        interpolation: See ``open_model``.
        conversation: Hears of what is odd about the weights.

    Raises:
        ModelError: It cannot be loaded.
        SettingError: It cannot take ``--image-size``.
    """
    opened = open_model(place.spec, weights=weights, interpolation=interpolation, model_args=model_args)
    loaded = opened.loaded
    for note in opened.notes:
        conversation.warn(note)
    if loaded.report is not None and loaded.report.missing:
        opened.model.reset_classifier(0)  # type: ignore[operator]  # timm's method; the weights hold no head
    digest = hash_weights(opened.model)  # before the size changes: it tells which weights these are
    if image_size is not None:
        opened = opened.at(image_size)
    opened.model.requires_grad_(False)
    base_model, base_licence = _origin(place, opened.name, loaded.licence)
    return Source(
        model=opened.model,
        name=place.name,
        class_names=opened.class_names if loaded.num_classes else (),
        class_descriptions=loaded.class_descriptions,
        preprocessing=opened.preprocessing,
        base_model=base_model,
        base_licence=base_licence,
        weights_sha256=digest,
        interpolation=opened.interpolation,
    )


def _origin(place: Place, name: str, licence: str | None) -> tuple[str, str | None]:
    """Return what the weights were made from, and its licence, as the folder's config.json has it."""
    if place.folder is not None and not is_transformers_folder(place.folder):
        found = read_folder_config(place.folder).base_model
        if isinstance(found, dict) and isinstance(found.get("name"), str):
            known = found.get("license")
            return without_folders(found["name"]), known if isinstance(known, str) else None
        return place.name, licence
    return (name if place.folder is None else place.name), licence


def without_folders(name: str) -> str:
    """Return a path's last part, a name as it is: what is exported may be published."""
    return Path(name).name if Path(name).is_absolute() else name
