"""The contract of a data source: splits of labelled images.

A source is one file in ``vitctl/data/sources/`` with two functions::

    recognises(spec: str) -> bool       # is this spec written for me? looks, reads nothing big
    open_source(spec: str, options: SourceOptions) -> Source    # or DataError with one sentence

the tuple ``OPTIONS`` of the fields of ``SourceOptions`` it understands, and a place in the tuple ``SOURCES``
there. Everything after it (class map, scan, split, transforms,
batches, run folder) knows only the classes below.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Protocol

import numpy as np
from PIL import Image

from vitctl.data.images import decode, decoding, reason_of
from vitctl.errors import DataError
from vitctl.primitives.natural_order import natural_key


class Images(Protocol):
    """Random access to a source's images. Instances travel to worker processes, so they pickle."""

    def __len__(self) -> int:
        """Return the number of images."""

    def open(self, row: int) -> Image.Image:
        """Return image ``row`` as Pillow opens it, not decoded yet; raises what Pillow raises."""

    def name(self, row: int) -> str:
        """Return what identifies image ``row`` to a person: a path, or a name like ``digits/12``."""

    def stamp(self, row: int) -> str:
        """Return a text that changes when image ``row`` may have; "" where decoding costs next to nothing."""


@dataclass(frozen=True)
class SourceOptions:
    """How to read a data spec, where the spec alone does not say.

    Attributes:
        image_root: Folder that a table's relative paths start from; None is the table's own.
        image_column: Column of images or paths; None finds it.
        label_column: Column of classes; None finds it.
        group_column: Column whose equal values stay on one side of a split.
        class_depth: Level of the folder that names the class, >= 1; None is 1.
    """

    image_root: str | None = None
    image_column: str | None = None
    label_column: str | None = None
    group_column: str | None = None
    class_depth: int | None = None

    @classmethod
    def of(cls, settings: object) -> "SourceOptions":
        """Return what the settings of a command (or of a run) say of it; what they do not know is None."""
        return cls(**{one.name: getattr(settings, one.name, None) for one in fields(cls)})

    def given(self) -> dict[str, Any]:
        """Return the options that are not None."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Split:
    """Labelled images: a split of a source, or a part of one.

    Attributes:
        name: ``train``, ``val``, ``test`` or ``all``.
        images: Where the pixels are.
        rows: (N,) int64, rows of ``images``.
        labels: (N,) int64, positions in ``class_names``.
        class_names: Names of the classes, in natural order (2 before 10).
        empty_classes: Class folders without an image; no class of the split, but worth a word in training.
        groups: (N,) str, images with the same one belong together (a patient, a video); None where unknown.
        left_out: Files of other kinds that lie among the images and are not read, by ending (``.heic``).
        notes: Sentences the user should see.
    """

    name: str
    images: Images
    rows: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    empty_classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def open(self, position: int) -> Image.Image:
        """Return the image at ``position`` (0..N-1) as Pillow opens it, not decoded yet."""
        return self.images.open(int(self.rows[position]))

    def read(self, position: int, *, least_side: int | None = None, max_value: int | None = None) -> Image.Image:
        """Return the image at ``position`` (0..N-1) as 8-bit RGB; the others are those of ``decode``."""
        with self.open(position) as image:
            return decode(image, least_side=least_side, max_value=max_value)

    @contextmanager
    def reading(
        self, position: int, *, least_side: int | None = None, max_value: int | None = None
    ) -> Iterator[Image.Image]:
        """Read as ``read`` does, in one of several threads: the image's pixels are in flight until the block ends."""
        with self.open(position) as image, decoding(image, least_side=least_side, max_value=max_value) as rgb:
            yield rgb

    def image_name(self, position: int) -> str:
        """Return what identifies the image at ``position`` to a person."""
        return self.images.name(int(self.rows[position]))

    def image_names(self) -> list[str]:
        """Return the names of all images, in order."""
        return [self.image_name(position) for position in range(len(self))]

    def select(self, positions: Sequence[int] | np.ndarray, *, name: str | None = None) -> "Split":
        """Return the split that holds only ``positions``, (N,) int64 or a sequence, in that order."""
        chosen = np.asarray(positions, dtype=np.int64)
        groups = None if self.groups is None else self.groups[chosen]
        return replace(self, name=name or self.name, rows=self.rows[chosen], labels=self.labels[chosen], groups=groups)

    def counts(self) -> np.ndarray:
        """Return the number of images of each class, (C,) int64."""
        return np.bincount(self.labels, minlength=len(self.class_names))


class LazySplits(Mapping[str, Split]):
    """Splits by name, each read when it is first asked for: training never opens the test images."""

    def __init__(self, readers: Mapping[str, Callable[[], Split]]) -> None:
        self._readers = dict(readers)
        self._read: dict[str, Split] = {}

    def __getitem__(self, name: str) -> Split:
        if name not in self._read:
            try:
                self._read[name] = self._readers[name]()
            except OSError as error:
                raise DataError(
                    f"{error.filename} cannot be read: {error.strerror}; expected data that you may read."
                ) from error
        return self._read[name]

    def __contains__(self, name: object) -> bool:
        return name in self._readers

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


@dataclass(frozen=True)
class Source:
    """What a data spec stands for.

    Attributes:
        spec: The spec, with absolute paths: opening it again gives the same images.
        description: A few words for the header, e.g. "a folder of class folders".
        splits: By name. A source without splits has the single split ``all``.
        is_flippable: False where a mirrored image means something else (digits, letters); None where only
            the names of the classes can tell.
        is_in_memory: True where reading an image costs next to nothing.
        notes: Sentences the user should see.
        options: How the spec was read, columns that were found included.
    """

    spec: str
    description: str
    splits: Mapping[str, Split]
    is_flippable: bool | None = None
    is_in_memory: bool = False
    notes: tuple[str, ...] = field(default=())
    options: SourceOptions = SourceOptions()

    def split(self, name: str) -> Split:
        """Return the split called ``name``.

        Raises:
            DataError: There is none; the sentence lists those there are.
        """
        if name not in self.splits:
            if set(self.splits) == {"all"}:
                raise DataError(f"{self.spec} has no splits, so no {name!r}; its images together are the split 'all'.")
            raise DataError(f"{self.spec} has no split {name!r}; it has {', '.join(self.splits)}.")
        return self.splits[name]

    def may_flip(self, class_names: Sequence[str]) -> bool:
        """Return whether mirrored images keep their class, as far as the source or its class names tell."""
        if self.is_flippable is not None:
            return self.is_flippable
        return not all(len(name) == 1 and name.isalnum() for name in class_names)

    def told_split(self, name: str) -> Split:
        """Return a split that tells what its source has to say as well."""
        split = self.split(name)
        return replace(split, notes=(*self.notes, *split.notes))

    def sentences(self, *splits: Split) -> list[str]:
        """Return what a user of ``splits`` should be told of them and of the source, each sentence once."""
        return list(dict.fromkeys([*self.notes, *(note for split in splits for note in split.notes)]))

    def training_split(self) -> Split:
        """Return the images to train on: split ``train``, or all of a source without splits.

        Raises:
            DataError: There are other splits only.
        """
        for name in ("train", "all"):
            if name in self.splits:
                return self.splits[name]
        raise DataError(f"{self.spec} has no training images, only the split {', '.join(self.splits)}.")


def lost_image(split: Split, position: int, error: Exception) -> DataError:
    """Return the error for an image that could be read when it was checked, and no longer can."""
    if isinstance(error, DataError):
        return error
    return DataError(f"{split.image_name(position)} cannot be read any more: {reason_of(error)}.")


def split_from_names(name: str, images: Images, label_names: Sequence[str]) -> Split:
    """Return a split whose classes are the distinct ``label_names`` (one per image), in natural order.

    Names that differ in how Unicode composes their letters only (macOS takes ``é`` apart) are one class.
    """
    composed = {label: composed_name(label) for label in dict.fromkeys(label_names)}
    class_names = tuple(sorted(set(composed.values()), key=natural_key))
    position = {class_name: index for index, class_name in enumerate(class_names)}
    labels = np.array([position[composed[label]] for label in label_names], dtype=np.int64)
    rows = np.arange(len(labels), dtype=np.int64)
    return Split(name, images, rows, labels, class_names, notes=_on_spelling(composed))


def composed_name(class_name: str) -> str:
    """Return the name of a class with composed letters (Unicode's NFC), as Linux and Windows write them."""
    return unicodedata.normalize("NFC", class_name)


def _on_spelling(composed: Mapping[str, str]) -> tuple[str, ...]:
    taken_apart = [name for given, name in composed.items() if given != name]
    if not taken_apart:
        return ()
    number = "1 class is" if len(taken_apart) == 1 else f"{len(taken_apart)} classes are"
    return (
        f"{number} spelt with letters taken apart (Unicode NFD, as macOS does), {taken_apart[0]!r} first; both "
        "spellings count as one class, with composed letters (NFC).",
    )


def align_classes(
    split: Split, class_names: Sequence[str], *, where: str, advice: str = "Rename or remove them."
) -> Split:
    """Return ``split`` with labels that are positions in ``class_names``, matched by name.

    A class that ``split`` lacks shifts nothing. Names in the map may have decomposed letters (NFD), as in older runs.

    Args:
        split: Any split.
        class_names: The class map to use, from the training split.
        where: How to call ``split`` in the message.
        advice: What the message tells to try.

    Raises:
        DataError: ``split`` has images of classes that the map lacks; the sentence lists them.
    """
    known = {composed_name(class_name): index for index, class_name in enumerate(class_names)}
    known |= {class_name: index for index, class_name in enumerate(class_names)}
    present = [split.class_names[label] for label in np.unique(split.labels)]
    extra = [class_name for class_name in present if class_name not in known]
    if extra:
        listed = ", ".join(repr(class_name) for class_name in extra[:10]) + (", ..." if len(extra) > 10 else "")
        some = ", ".join(list(class_names)[:5]) + (" and others" if len(class_names) > 5 else "")
        raise DataError(
            f"{where} has {len(extra)} class{'es' * (len(extra) > 1)} unknown in training: {listed}; the "
            f"{len(class_names)} known are {some}. {advice}"
        )
    table = np.array([known.get(class_name, -1) for class_name in split.class_names], dtype=np.int64)
    return replace(split, labels=table[split.labels], class_names=tuple(class_names))
