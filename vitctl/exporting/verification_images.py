"""The images that exports are verified on."""

from dataclasses import dataclass

from vitctl.conversation import Conversation
from vitctl.data.run_images import images_of_run, named_images
from vitctl.data.scan import check_bad_images, num_scan_threads, scan_images
from vitctl.data.source import SourceOptions, Split, align_classes
from vitctl.data.sources import open_source
from vitctl.errors import DataError
from vitctl.exporting.place import Place, without_folders
from vitctl.exporting.source import Source
from vitctl.exporting.verification import RealImages, real_images
from vitctl.primitives.seeds import random_generator
from vitctl.settings.words import DEMO, DIGITS


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


def choose_images(
    place: Place, source: Source, *, verify: str | None, most: int, conversation: Conversation
) -> VerificationImages:
    """Return the images to verify on: those asked for, the run's validation images, or the embedded digits.

    Args:
        place: Where the model comes from.
        source: The model.
        verify: A data spec.
        most: How many at most.
        conversation: Hears of images that cannot be used.

    Raises:
        DataError: ``--verify`` names no images.
    """
    if verify is not None:
        named = named_images(verify, None, SourceOptions(), run=place.run)
        split = named.split
        for sentence in named.source.sentences(split):
            conversation.warn(sentence)
        labelled = _labelled(split, source, place)
        if labelled is None and source.has_classifier:
            conversation.line("The classes of the images are not the model's, so accuracy is not measured.")
        return _chosen(
            labelled or split,
            labelled is not None,
            most,
            named.spec,
            f"given, split {named.split_name}",
            conversation,
            max_value=source.preprocessing.max_value,
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
                max_value=source.preprocessing.max_value,
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
    split: Split,
    is_labelled: bool,
    most: int,
    spec: str,
    reason: str,
    conversation: Conversation,
    *,
    max_value: int | None = None,
) -> VerificationImages:
    """Return a seeded draw of at most ``most`` images, less those that cannot be read."""
    generator = random_generator(0, "verification")
    positions = tuple(sorted(generator.permutation(len(split))[:most].tolist()))
    chosen = split.select(positions)
    scan = scan_images(chosen, num_threads=num_scan_threads(), conversation=conversation)
    for line in check_bad_images(chosen, scan, allow=True, needs_every_class=False):
        conversation.warn(f"left out: {line}")
    reason += "" if is_labelled else ", labels not used"
    images = real_images(chosen, scan.good.tolist(), use_labels=is_labelled, max_value=max_value)
    return VerificationImages(
        images, f"{len(scan.good):,} image{'s' * (len(scan.good) > 1)} of {without_folders(spec)}", reason
    )
