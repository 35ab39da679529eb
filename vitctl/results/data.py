"""What ``vitctl data`` returns: what images there are, and what is wrong with them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import Result, key, left_out_if_none


@dataclass(frozen=True, repr=False, kw_only=True)
class SplitReport(Result):
    """One split."""

    num_images: int
    """Images, those that cannot be read included."""
    num_bad: int
    """Images that cannot be read."""
    num_groups: int | None = field(default=None, metadata=left_out_if_none())
    """Groups (patients, videos) that stay on one side; None where no groups are given."""
    classes: Mapping[str, int]
    """Images by class, in the source's order."""


@dataclass(frozen=True, repr=False)
class ValidationReport(Result):
    """The images that ``finetune`` would validate on."""

    num_images: int
    """How many."""
    reason: str
    """Which, and why."""
    classes_without_images: tuple[str, ...]
    """Classes that would be trained on and never validated."""


@dataclass(frozen=True, repr=False)
class Spread(Result):
    """Lengths of many images, px."""

    least: int
    """The shortest."""
    median: float
    """Half are no longer."""
    greatest: int
    """The longest."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ImagesReport(Result):
    """The images that decode, of all splits."""

    height_px: Spread
    """Of their heights."""
    width_px: Spread
    """Of their widths."""
    short_side_px: Spread
    """Of the shorter of the two."""
    num_sizes: int
    """Different sizes, >= 1."""
    modes: Mapping[str, int]
    """Images by Pillow's mode (RGB, L...), most frequent first."""
    formats: Mapping[str, int]
    """Images by file format, most frequent first; ``array`` for those in memory."""
    num_16_bit: int
    """Images of 16 bits."""
    brightest_16_bit: int | None
    """The greatest value of those, 0-65,535; None where there is none."""


@dataclass(frozen=True, repr=False)
class SuggestedSize(Result):
    """The image size that ``finetune`` would choose for a ViT of 224 px."""

    image_size: tuple[int, int]
    """(H, W) px."""
    reason: str
    """Why."""


@dataclass(frozen=True, repr=False)
class BadImage(Result):
    """An image that cannot be read."""

    image: str
    """Its name."""
    split: str
    """Where it is."""
    reason: str
    """What is wrong with it."""


@dataclass(frozen=True, repr=False, kw_only=True)
class DuplicateImage(Result):
    """One of several images whose pixels are equal, or nearly so."""

    image: str
    """Its name."""
    split: str
    """Where it is."""
    class_name: str = field(metadata=key("class"))
    """Its class."""
    kept_in: str
    """Where ``finetune`` would put it: its split, or train or val."""


@dataclass(frozen=True, repr=False, kw_only=True)
class DuplicatesReport(Result):
    """The images whose pixels are equal."""

    num_groups: int
    """Groups of equal images."""
    num_extra: int
    """Images beyond the first of each group."""
    num_across_splits: int
    """Groups that ``finetune`` would have in several splits."""
    num_across_classes: int
    """Groups with several classes."""
    groups: tuple[tuple[DuplicateImage, ...], ...]
    """Every group, two images or more each."""


@dataclass(frozen=True, repr=False, kw_only=True)
class NearCopiesReport(Result):
    """The images that are nearly equal: the same picture, encoded anew or resized."""

    num_groups: int
    """Groups of near copies; of each some images differ."""
    num_extra: int
    """Images beyond the first of each group, exact duplicates included."""
    num_across_splits: int
    """Groups that ``finetune`` would have in several splits."""
    num_across_classes: int
    """Groups with several classes."""
    groups: tuple[tuple[DuplicateImage, ...], ...]
    """Every group, two images or more each."""


@dataclass(frozen=True, repr=False)
class ClassSize(Result):
    """A class and how many images it has."""

    class_name: str = field(metadata=key("class"))
    """The class."""
    num_images: int
    """Its images."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ImbalanceReport(Result):
    """How uneven the classes are."""

    ratio: float
    """Images of the largest class over those of the smallest, >= 1."""
    largest: ClassSize
    """The class with most images."""
    smallest: ClassSize
    """The class with fewest, of those that have any."""
    advice: str | None
    """What to try; None where the ratio is small."""


@dataclass(frozen=True, repr=False)
class StrangeShape(Result):
    """A very long or wide image."""

    image: str
    """Its name."""
    size: tuple[int, int]
    """(H, W) px."""
    ratio: float
    """Longer side over shorter one, >= 1."""


@dataclass(frozen=True, repr=False, kw_only=True)
class ShapesReport(Result):
    """The images that a squash or a centre crop to a square would destroy."""

    from_ratio: float
    """Longer side over shorter one from which an image is counted."""
    num_images: int
    """How many there are."""
    worst: tuple[StrangeShape, ...]
    """The longest, at most 20."""


@dataclass(frozen=True, repr=False, kw_only=True)
class SuspiciousLabel(Result):
    """An image whose label the other images do not bear out."""

    image: str
    """Its name."""
    class_name: str = field(metadata=key("class"))
    """Its class, as the data have it."""
    probability: float
    """Of that class, 0-1, by a probe that did not know the image."""
    suggested: str
    """The most probable class; of an image that is not flagged perhaps its own."""
    suggested_probability: float
    """Of that one, 0-1."""
    is_flagged: bool
    """Whether the label is probably wrong: the suggested class is as probable as it is for its own images."""
    copies: int
    """Other images that were left out with it: duplicates and near copies of it."""


@dataclass(frozen=True, repr=False, kw_only=True)
class DataReport(Result):
    """What was found: the content of ``report.json``."""

    data: str
    """The data spec."""
    description: str
    """What it was taken for."""
    num_classes: int
    """Classes of the split that training would use, >= 1."""
    class_names: tuple[str, ...]
    """Their names, in order."""
    splits: Mapping[str, SplitReport]
    """By name: all, or train, val, test."""
    validation: ValidationReport | None
    """Which images ``finetune`` would validate on; None where no split is for training."""
    images: ImagesReport
    """Sizes and kinds."""
    suggested_image_size: SuggestedSize
    """Of the split that training would use."""
    bad: tuple[BadImage, ...]
    """Images that cannot be read."""
    duplicates: DuplicatesReport
    """Images whose pixels are equal."""
    near_copies: NearCopiesReport
    """Images that are the same picture, encoded anew or resized."""
    imbalance: ImbalanceReport
    """Of the split that training would use."""
    aspect_ratios: ShapesReport
    """Images of strange shape."""
    warnings: tuple[str, ...]
    """What else a person should look at, a sentence each."""
    fingerprint: str
    """Of all images and their classes; the same in any order and container."""
    out: str
    """Folder of the files, absolute."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
    model: str | None = field(default=None, metadata=left_out_if_none())
    """What the labels were judged by; None where no ``model`` was given."""
    probe_top1: float | None = field(default=None, metadata=left_out_if_none("model"))
    """Share, 0-1, of the training images whose label a probe on the others finds; None where it can judge none."""
    num_suspicious: int | None = field(default=None, metadata=left_out_if_none("model"))
    """Images whose label is probably wrong."""
    suspicious: tuple[SuspiciousLabel, ...] | None = field(default=None, metadata=left_out_if_none("model"))
    """These, and the hundredth of all images with the least probable labels; least probable first."""
