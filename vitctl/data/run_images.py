"""The images of a run, found again: those it trained on, those it validated on, the other splits of its data."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source
from vitctl.data.training_data import find_images
from vitctl.errors import DataError
from vitctl.primitives.documents import read_document
from vitctl.primitives.memory import most_listing_bytes
from vitctl.primitives.schemas import Name, Names, Schema

SPLIT_PREFERENCE = ("test", "val", "all", "train")


class _Settings(Schema):
    """What a run's ``config.json`` says of its data; runs of older versions do not name columns."""

    data: Name
    val: Name | None = None
    image_root: Name | None = None
    image_column: Name | None = None
    label_column: Name | None = None
    group_column: Name | None = None
    class_depth: Annotated[int, Field(ge=1)] | None = None

    @property
    def options(self) -> SourceOptions:
        """How the data were read."""
        return SourceOptions.of(self)


class _Listing(Schema):
    """A run's ``validation.json``: the spec of its validation images, and their names in order."""

    data: Name
    images: Annotated[Names, Field(min_length=1)]


@dataclass(frozen=True)
class Images:
    """Images to show to a classifier.

    Attributes:
        spec: The data spec.
        split_name: For the output folder.
        split: The images, labels in the classifier's order.
        source: Where they come from.
        reason: Why these.
    """

    spec: str
    split_name: str
    split: Split
    source: Source
    reason: str


def preferred_split(source: Source) -> str:
    """Return the name of the split to measure on: the first of test, val, all, train that there is."""
    return next(name for name in SPLIT_PREFERENCE if name in source.splits)


def named_images(spec: str, split_name: str | None, options: SourceOptions, *, run: Path | None) -> Images:
    """Return a split of images that somebody names, to show to a model of ``run``.

    Args:
        spec: The data spec.
        split_name: One of its splits; None is ``preferred_split``.
        options: How to read it. Where they name no level of class folders it is the run's, if images lie there.
        run: A run folder; None where the model is of no run.

    Raises:
        DataError: There are no such images.
    """
    depth = _class_depth(run) if run is not None and options.class_depth is None else None
    if depth is not None:
        with contextlib.suppress(DataError):  # folders of other levels than the run's, which names of classes will tell
            return _named(open_source(spec, options, otherwise=SourceOptions(class_depth=depth)), split_name)
    return _named(open_source(spec, options), split_name)


def _class_depth(run: Path) -> int | None:
    try:
        return _settings_of(run, "").class_depth
    except DataError:  # the images are named, so the run's own settings are not needed
        return None


def _named(source: Source, split_name: str | None) -> Images:
    name = split_name or preferred_split(source)
    splits = "it has no splits" if name == "all" else f"it has the splits {', '.join(source.splits)}"
    why = "given" if split_name else splits
    return Images(source.spec, name, source.split(name), source, f"split {name}: {why}")


def images_of_run(run: Path, split_name: str | None, *, advice: str) -> Images:
    """Return a split of the data that ``run`` was made with; ``val`` and ``train`` as the run divided them.

    Args:
        run: A run folder.
        split_name: ``val``, ``test``, ``train``, ``all``; None is ``val``.
        advice: What a message tells to try.

    Raises:
        DataError: There are no such images, or not where the run found them.
    """
    settings = _settings_of(run, advice)
    listing = run / "validation.json"
    held_out = _read_listing(listing, advice) if listing.is_file() else None
    if split_name in (None, "val"):
        if held_out is None:
            raise DataError(f"{run} was made without validation images. {advice}")
        source = open_source(held_out.data, settings.options, is_strict=False)
        return Images(
            source.spec,
            "val",
            find_images(_all_images(source, held_out.images), held_out.images, where=str(listing), advice=advice),
            source,
            "the run's own validation images",
        )
    source = open_source(settings.data, settings.options)
    if split_name == "train":
        names = set(held_out.images) if held_out and held_out.data == settings.data else set()
        everything = source.training_split()
        kept = [position for position, name in enumerate(everything.image_names()) if name not in names]
        return Images(source.spec, "train", everything.select(kept, name="train"), source, "the run's training images")
    return Images(source.spec, str(split_name), source.split(str(split_name)), source, "split of the run's data")


def specs_of_run(run: Path) -> list[str]:
    """Return the data specs that ``run`` was made with: its training images, and its validation images if others."""
    settings = _settings_of(run, "Name images with --data SPEC.")
    return [spec for spec in (settings.data, settings.val) if spec is not None]


def data_of_run(run: Path) -> tuple[str, SourceOptions]:
    """Return the data spec that ``run`` was made with, and how it was read."""
    settings = _settings_of(run, "Name images with --data SPEC.")
    return settings.data, settings.options


def _settings_of(run: Path, advice: str) -> _Settings:
    advice = f"expected the config.json of a run. {advice.rstrip('.')}"
    return read_document(run / "config.json", _Settings, error=DataError, advice=advice)


def _read_listing(path: Path, advice: str) -> _Listing:
    return read_document(
        path,
        _Listing,
        error=DataError,
        advice=f"expected the validation images of a run. {advice.rstrip('.')}",
        most_bytes=most_listing_bytes(),
    )


def _all_images(source: Source, names: Sequence[str]) -> Split:
    """Return the split of ``source`` that holds the first of ``names``; a run's list comes from one split."""
    for split in source.splits.values():
        if names and names[0] in set(split.image_names()):
            return split
    return source.training_split()
