"""The images of a run, found again: those it trained on, those it validated on, the other splits of its data."""

import contextlib
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from vitctl.data.own_images import Look, OwnImages, names_of
from vitctl.data.run_lists import read_listing
from vitctl.data.run_places import beside_as_before
from vitctl.data.source import Source, SourceOptions, Split
from vitctl.data.sources import open_source
from vitctl.data.training_data import TrainingData
from vitctl.errors import DataError
from vitctl.primitives.documents import read_document
from vitctl.primitives.schemas import Name, Schema

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


@dataclass(frozen=True)
class Images:
    """Images to show to a classifier.

    Attributes:
        spec: The data spec.
        split_name: For the output folder.
        split: The images, labels in the classifier's order.
        source: Where they come from.
        reason: Why these.
        notes: Sentences the user should see, besides those of the source.
    """

    spec: str
    split_name: str
    split: Split
    source: Source
    reason: str
    notes: tuple[str, ...] = ()


def preferred_split(source: Source) -> str:
    """Return the name of the split to measure on: the first of test, val, all, train that there is."""
    return next(name for name in SPLIT_PREFERENCE if name in source.splits)


def named_images(
    spec: str, split_name: str | None, options: SourceOptions, *, run: Path | None, look: Look | None = None
) -> Images:
    """Return a split of images that somebody names, to show to a model of ``run``.

    With ``look`` the run's own images are found among them: ``val``, where the source has no such split, is what the
    run validated on; ``train`` has none of those, nor of those it left untouched or out; and of images that are all the
    run's own the default is ``val``.

    Args:
        spec: The data spec.
        split_name: One of its splits; None is ``preferred_split``.
        options: How to read it. Where they name no level of class folders it is the run's, if images lie there.
        run: A run folder; None where the model is of no run.
        look: Looks at images.

    Raises:
        DataError: There are no such images.
    """
    source = _open_named(spec, split_name, options, run)
    if run is not None and look is not None and (own := _own_in(source, split_name, run, look)) is not None:
        return own
    return _named(source, split_name)


def _open_named(spec: str, split_name: str | None, options: SourceOptions, run: Path | None) -> Source:
    depth = _class_depth(run) if run is not None and options.class_depth is None else None
    if depth is not None:
        with contextlib.suppress(DataError):  # folders of other levels than the run's, which names of classes will tell
            source = open_source(spec, options, otherwise=SourceOptions(class_depth=depth))
            source.split(split_name if split_name and split_name in source.splits else preferred_split(source))
            return source
    return open_source(spec, options)


def _own_in(source: Source, split_name: str | None, run: Path, look: Look) -> Images | None:
    """Return images of ``run`` in data that somebody names; None where a split of these is meant as it is."""
    has_training_images = not {"train", "all"}.isdisjoint(source.splits)
    listing = read_listing(run, "Name another --split.") if has_training_images else None
    if listing is None:
        return None
    own = OwnImages(run, listing, image_root=_image_root(run), advice="")
    everything = source.training_split()
    uses = ((listing.untouched, "left untouched"), (listing.left_out, "left out by --clean"))
    others = [what for one, what in uses if one is not None]
    if split_name == "val" and "val" not in source.splits:
        found = own.find(everything, source, look)
        why = f"the run's own {listing.called} images, found {found.how}"
        return Images(source.spec, "val", found.split, source, why)
    if split_name == "train":
        rest, num_left_out = own.without_them(everything, source, look)
        if not num_left_out:
            return None
        also = "".join(f" or {what}" for what in others)
        why = f"split train: given; {num_left_out:,} that the run validated on{also} are left out"
        return Images(source.spec, "train", rest, source, why)
    if split_name is None and preferred_split(source) in ("all", "train") and own.make_up(everything, look):
        found = own.find(everything, source, look)
        also = "".join(f", or {what}" for what in others)
        why = f"the run's own {listing.called} images, found {found.how}; the others are its training images{also}"
        return Images(source.spec, "val", found.split, source, why)
    return None


def _image_root(run: Path) -> str | None:
    try:
        return _settings_of(run, "").image_root
    except DataError:
        return None


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


def images_of_run(run: Path, split_name: str | None, *, advice: str, look: Look | None = None) -> Images:
    """Return a split of the data that ``run`` was made with; ``val`` and ``train`` as the run divided them.

    Data that moved together with the run, so that they lie beside it as before, are found.

    Args:
        run: A run folder.
        split_name: ``val``, ``test``, ``train``, ``all``; None is ``val``.
        advice: What a message tells to try.
        look: Looks at images, to find those that have other names now; None finds them by name only.

    Raises:
        DataError: There are no such images, or not where the run found them.
    """
    settings = _settings_of(run, advice)
    listing = read_listing(run, advice)
    own = None if listing is None else OwnImages(run, listing, image_root=settings.image_root, advice=advice)
    if split_name in (None, "val"):
        if own is None:
            raise DataError(f"{run} was made without validation images. {advice}")
        source, moved = _open_own(own.listing.data, run, settings.options, advice, is_strict=False)
        found = own.find_where_they_were(_all_images(source, own.names), source, look)
        how = f", found {found.how}" if found.how else ""
        return Images(
            source.spec,
            "val",
            found.split,
            source,
            f"the run's own {own.listing.called} images{how}{moved}",
            found.notes,
        )
    source, moved = _open_own(settings.data, run, settings.options, advice)
    if split_name == "train":
        split = source.training_split()
        if own is not None:
            split, _ = own.without_them(split, source, look, data=settings.data)
        split = split.select(range(len(split)), name="train")
        return Images(source.spec, "train", split, source, f"the run's training images{moved}")
    return Images(
        source.spec, str(split_name), source.split(str(split_name)), source, f"split of the run's data{moved}"
    )


def _open_own(
    spec: str, run: Path, options: SourceOptions, advice: str, *, is_strict: bool = True
) -> tuple[Source, str]:
    """Return the run's data, from beside the run as before where both have moved, and what to say of that."""
    is_gone, moved = os.path.isabs(spec) and not os.path.exists(spec), ""
    if (there := beside_as_before(spec, run)) is not None:
        spec, moved = there, f"; {spec} is gone, and this lies beside the run as that did"
    try:
        return open_source(spec, options, is_strict=is_strict), moved
    except DataError as error:
        if is_gone and not moved and not set(spec) & set("*?[{"):  # those are names of several files
            raise DataError(f"There is nothing at {spec}, where {run} found its images. {advice}") from error
        raise


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


def _all_images(source: Source, names: Sequence[str]) -> Split:
    """Return the split of ``source`` that holds the first of ``names``; a run's list comes from one split."""
    for split in source.splits.values():
        if names[0] in set(names_of(split, source)):
            return split
    return source.splits["val"] if "val" in source.splits else source.training_split()


def images_digest(data: TrainingData) -> str:
    """Return 32 hexadecimal digits that stand for the images of a run: content, order, classes, what each is for.

    Names and places count for nothing, so it is the same where the data were moved or packed. A run goes on exactly
    where it is the same: what an image is shown as depends on its position.
    """
    digest = hashlib.blake2b(digest_size=16)
    digest.update(json.dumps(data.train.class_names).encode())
    parts: list[tuple[Split | None, Sequence[str]]] = [(data.train, data.hashes), (data.val, data.val_hashes)]
    if data.untouched is not None:  # a run without is what it was before there were any
        parts.append((data.untouched.split, data.untouched.hashes))
    for split, hashes in parts:
        labels = np.zeros(0, dtype="<i8") if split is None else split.labels.astype("<i8")
        digest.update(f"\n{len(hashes)} images\n".encode())
        digest.update("".join(hashes).encode())
        digest.update(labels.tobytes())
    return digest.hexdigest()
