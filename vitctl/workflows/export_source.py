"""What ``vitctl export`` starts from: the model that a run folder or a name stands for, and images to verify on."""

import json
from dataclasses import dataclass
from pathlib import Path

from vitctl.conversation import Conversation
from vitctl.data.scan import check_bad_images, num_scan_threads, scan_images
from vitctl.data.source import SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.exporting.source import Source, hash_weights
from vitctl.exporting.verification import RealImages, real_images
from vitctl.models.prepared import open_model
from vitctl.models.run_folders import is_run_folder, stopped_note
from vitctl.primitives.files import user_path
from vitctl.primitives.seeds import random_generator
from vitctl.settings.export import ExportConfig
from vitctl.settings.words import DEMO, DIGITS
from vitctl.workflows.run_images import images_of_run, preferred_split

NUM_IMAGES, NUM_IMAGES_FOR_ACCURACY = 200, 1000


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


def find_place(config: ExportConfig, conversation: Conversation) -> Place:
    """Return where the model comes from.

    Raises:
        SettingError: ``--which last`` beside a folder that is no run.
        ModelError: The run has no weights.
    """
    if config.run is None:
        return Place(str(config.model), None, str(config.model), None)
    folder = user_path(config.run).absolute()
    if not is_run_folder(folder):
        if config.which != "best":
            raise SettingError(
                f"--which {config.which} is given beside {config.run}, which is no run folder; leave it out.",
                field="which",
            )
        run = folder.parent if is_run_folder(folder.parent) and folder.name in ("best", "last") else None
        name = f"{folder.parent.name}-{folder.name}" if run is not None else folder.name
        return Place(config.run, run, name, folder)
    which = config.which
    note = None if (folder / "best").is_dir() else stopped_note(config.run)  # a damaged best/ is an error below
    if which == "best" and note is not None:
        conversation.warn(note)
        which = "last"
    chosen = folder / which
    if not (chosen / "model.safetensors").is_file():
        raise ModelError(
            f"The run {config.run} has no weights in {which}/; expected {which}/model.safetensors. Finish the run with "
            "vitctl finetune, or name another folder."
        )
    return Place(str(chosen), folder, folder.name if which == "best" else f"{folder.name}-{which}", chosen)


def load_source(place: Place, config: ExportConfig, conversation: Conversation) -> Source:
    """Return the model to export, at the image size asked for.

    Raises:
        ModelError: It cannot be loaded.
        SettingError: It cannot take ``--image-size``.
    """
    opened = open_model(place.spec, weights=config.weights, interpolation=config.pos_embed_interp)
    loaded = opened.loaded
    for note in opened.notes:
        conversation.warn(note)
    if loaded.report is not None and loaded.report.missing:
        opened.model.reset_classifier(0)  # type: ignore[operator]  # timm's method; the weights hold no head
    digest = hash_weights(opened.model)  # before the size changes: it tells which weights these are
    if config.image_size is not None:
        opened = opened.at(config.image_size)
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
    if place.folder is not None:
        found = json.loads((place.folder / "config.json").read_text(encoding="utf-8")).get("base_model")
        if isinstance(found, dict) and isinstance(found.get("name"), str):
            return _without_folders(found["name"]), found.get("license")
        return place.name, licence
    return name, licence


def _without_folders(name: str) -> str:
    """Return a path's last part, a name as it is: what is exported may be published."""
    return Path(name).name if Path(name).is_absolute() else name


@dataclass(frozen=True)
class VerificationImages:
    """Images to verify on.

    Attributes:
        images: Where to read them.
        name: What to call them.
        reason: Why these.
    """

    images: RealImages
    name: str
    reason: str


def choose_images(place: Place, source: Source, config: ExportConfig, conversation: Conversation) -> VerificationImages:
    """Return the images to verify on: those asked for, the run's validation images, or the embedded digits.

    Raises:
        DataError: ``--verify`` names no images.
    """
    most = NUM_IMAGES if config.precision == "fp32" else NUM_IMAGES_FOR_ACCURACY
    if config.verify is not None:
        opened = open_source(config.verify, SourceOptions())
        split_name = preferred_split(opened)
        split = opened.split(split_name)
        labelled = _labelled(split, source, place)
        if labelled is None and source.has_classifier:
            conversation.line("The classes of the images are not the model's, so accuracy is not measured.")
        return _chosen(
            labelled or split, labelled is not None, most, opened.spec, f"given, split {split_name}", conversation
        )
    if place.run is not None:
        try:
            found = images_of_run(place.run, None, advice="Name others with --verify SPEC.")
            labelled = _labelled(found.split, source, place)
            return _chosen(
                labelled or found.split,
                labelled is not None,
                most,
                found.spec,
                "the run's own validation images",
                conversation,
            )
        except DataError as error:
            conversation.warn(str(error))
            conversation.line("Verifying on the embedded digits instead.")
    split = open_source(DIGITS, SourceOptions()).split("test")
    return _chosen(split, False, most, DIGITS, "the embedded images; --verify names others", conversation)


def _labelled(split: Split, source: Source, place: Place) -> Split | None:
    """Return ``split`` with labels that are the model's classes; None where its classes are others."""
    if place.spec == DEMO or not source.has_classifier:  # the demo's classes are numbers that stand for clothes
        return None
    try:
        return align_classes(split, source.class_names, where=split.name)
    except DataError:
        return None


def _chosen(
    split: Split, is_labelled: bool, most: int, spec: str, reason: str, conversation: Conversation
) -> VerificationImages:
    """Return a seeded draw of at most ``most`` images, less those that cannot be read."""
    generator = random_generator(0, "verification")
    positions = tuple(sorted(generator.permutation(len(split))[:most].tolist()))
    chosen = split.select(positions)
    scan = scan_images(chosen, num_threads=num_scan_threads(), conversation=conversation)
    for line in check_bad_images(chosen, scan, allow=True, needs_every_class=False):
        conversation.warn(f"left out: {line}")
    reason += "" if is_labelled else ", labels not used"
    images = real_images(chosen, scan.good.tolist(), use_labels=is_labelled)
    return VerificationImages(
        images, f"{len(scan.good):,} image{'s' * (len(scan.good) > 1)} of {_without_folders(spec)}", reason
    )
