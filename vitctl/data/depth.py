"""Images of 16 bits: how bright they are, and which of their values is to be white.

Cameras, microscopes and scanners often write 10 or 12 bits into files of 16: read as they are, 4,096 values become 17
levels of grey.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vitctl.data.images import MOST_OF_16_BITS
from vitctl.data.scan import Scan
from vitctl.errors import SettingError
from vitctl.primitives.decision import Decision
from vitctl.settings.words import AUTO

MOST_OF_A_DARK_SET = MOST_OF_16_BITS // 2  # the brightest value up to which a set is worth a word: a bit is not used


@dataclass(frozen=True)
class Depth:
    """The images of 16 bits among those that were looked at.

    Attributes:
        brightest: The greatest value of each of them, 0-65,535.
    """

    brightest: tuple[int, ...]

    @property
    def num_images(self) -> int:
        """How many there are."""
        return len(self.brightest)

    @property
    def most(self) -> int | None:
        """The greatest value of all; None where there is none."""
        return max(self.brightest, default=None)

    def described(self) -> str:
        """Return a few words for a screen."""
        images = f"{self.num_images:,} image{'s' * (self.num_images != 1)}"
        return f"16-bit, {images}; the brightest value is {self.most or 0:,} of {MOST_OF_16_BITS:,}"


def depth_of(scans: Sequence[Scan]) -> Depth:
    """Return which of the images are of 16 bits."""
    return Depth(tuple(look.brightest for scan in scans for look in scan.looks if look and look.brightest >= 0))


def decide_max_value(given: int | str | None, depth: Depth, *, own: int | None = None) -> Decision[int | None]:
    """Return the value that is to be white, 1-65,535, or None for 65,535; and why.

    Args:
        given: A value, ``auto``, or None.
        depth: Of the training images, whose brightest value is ``auto``.
        own: What the model was trained with.

    Raises:
        SettingError: ``auto`` is asked of images of 8 bits.
    """
    if given == AUTO:
        if depth.most is None:
            raise SettingError(
                "--max-value is 'auto', and no training image has 16 bits; leave it out: 8 bits are read as they are.",
                field="max_value",
            )
        return Decision(max(1, depth.most), "auto: the brightest value of the training images")
    if given is not None:
        return Decision(int(given), "given")
    return Decision(own, "the model's own" if own is not None else "the default")


def doubts_about_range(depth: Depth, max_value: int | None, *, is_given: bool = False) -> list[str]:
    """Return a sentence where images of 16 bits are much darker than white, or brighter; nothing where neither is so.

    Args:
        depth: Of the images.
        max_value: The value that is white; None is 65,535.
        is_given: Whether a person said so, who would like to know that no image has 16 bits; else it is the model's.
    """
    if depth.most is None:
        return [f"--max-value {max_value} changes nothing: no image has 16 bits."] if is_given else []
    if max_value is not None:
        above = sum(value > max_value for value in depth.brightest)
        if not above:
            return []
        white = f"--max-value {max_value}" if is_given else f"{max_value:,}, which the model takes as white"
        return [
            f"{above:,} of {depth.num_images:,} images of 16 bits have values above {white}, up to {depth.most:,}; "
            "those pixels are read as white."
        ]
    if depth.most > MOST_OF_A_DARK_SET:
        return []
    if not depth.most:
        if depth.num_images == 1:
            return ["The image of 16 bits is black: none of its values is above 0."]
        return [f"The {depth.num_images:,} images of 16 bits are black: none of their values is above 0."]
    levels = (depth.most * 255 + MOST_OF_16_BITS // 2) // MOST_OF_16_BITS + 1
    return [
        f"The {depth.num_images:,} images of 16 bits are dark: the brightest value is {depth.most:,} of "
        f"{MOST_OF_16_BITS:,}, so that they are read as {levels} of 256 levels of grey; try --max-value "
        f"{_likely_white(depth.most)}, or auto."
    ]


def _likely_white(brightest: int) -> int:
    """Return the greatest value of as many bits as ``brightest`` needs: 4,095 for 4,000."""
    return max(1, int(2 ** int(brightest).bit_length() - 1))
