"""Sets of images to judge defaults on: ``python tests/benchmarks/sets.py --out DIR [NAME...]``, a minute for each.

Makes ``DIR/NAME/{train,test}/CLASS/*.png``. Digits and Fashion-MNIST are what they are. The others are drawn from
Debian's packages, which are fetched into ``DIR/packages``, and test on a style, a family or a kind that training does
not show: themes of icons, families of fonts, units of a game.

The demo checkpoint was trained on the training images of Fashion-MNIST: with it these sets tell little.
Licences are in each package's own ``usr/share/doc/PACKAGE/copyright``. Nothing of them is part of this project.

No rule may be chosen by the sets of ``report``: they are for the one report once it is frozen. The same packages,
Pillow and NumPy give the same files byte for byte; another Pillow may pack PNG or draw letters otherwise, so each set
is told with a sum over its pixels, and compared with the one that is pinned.
"""

import argparse
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from sets_letters import greek, kana
from sets_packages import PackageError
from sets_pictures import Picture, digits, fashion, icons, sprites

from vitctl.primitives.files import whole_folder

DEVELOPMENT, REPORT = "development", "report"


@dataclass(frozen=True)
class ImageSet:
    """A set of images.

    Attributes:
        use: Whether defaults may be chosen by it.
        pictures: Yields its images, given the folder of packages; training images first.
        pixels: First 16 digits of the SHA-256 over all that it holds.
    """

    use: str
    pictures: Callable[[Path], Iterator[Picture]]
    pixels: str


SETS = {
    "digits": ImageSet(DEVELOPMENT, digits, "85a0d717bd00b01d"),
    "fashion-20": ImageSet(DEVELOPMENT, lambda _: fashion(20), "233b46f3cdcccd6d"),
    "fashion-200": ImageSet(DEVELOPMENT, lambda _: fashion(200), "f99b65facc061ca1"),
    "icons": ImageSet(DEVELOPMENT, icons, "3f34061c7ffd4038"),
    "greek": ImageSet(DEVELOPMENT, greek, "2cb137072c796a5c"),
    "fashion-500": ImageSet(REPORT, lambda _: fashion(500), "7472ec1bf32fbc7e"),
    "sprites": ImageSet(REPORT, sprites, "2dbf15e2e08dcd8e"),
    "kana": ImageSet(REPORT, kana, "631addad32727f9f"),
}


def names_of(use: str) -> list[str]:
    """Return the names of the sets for development, or for the report."""
    return [name for name, each in SETS.items() if each.use == use]


@dataclass(frozen=True)
class Made:
    """What a set has come to.

    Attributes:
        counts: Images by split and class.
        num_left_out: Images equal, pixel by pixel, to an earlier one.
        pixels: As ImageSet has it.
    """

    counts: Counter[tuple[str, str]]
    num_left_out: int
    pixels: str

    def __str__(self) -> str:
        per_class = [count for (split, _), count in self.counts.items() if split == "train"]
        num_test = sum(self.counts.values()) - sum(per_class)
        return (
            f"{len(per_class)} classes, {sum(per_class):,} images to train on ({min(per_class)} to {max(per_class)} of "
            f"a class), {num_test:,} to test, {self.num_left_out} left out as equal to others"
        )


def make(pictures: Iterator[Picture], out: Path) -> Made:
    """Write a set into ``out``, whole or not at all; of equal images the first stays, so none is in both splits."""
    counts: Counter[tuple[str, str]] = Counter()
    seen: set[bytes] = set()
    whole, num_left_out = sha256(), 0
    with whole_folder(out) as folder:
        for split, label, name, image in pictures:
            content = sha256(f"{image.mode} {image.size} ".encode() + image.convert("RGB").tobytes()).digest()
            if content in seen:
                num_left_out += 1
                continue
            seen.add(content)
            path = folder / split / label / f"{name}.png"
            if path.exists():
                raise FileExistsError(f"{path}: two images of this name. Give them names that differ.")
            path.parent.mkdir(parents=True, exist_ok=True)
            image.save(path, compress_level=6)
            counts[split, label] += 1
            whole.update(f"{split}/{label}/{name} ".encode() + content)
    return Made(counts, num_left_out, whole.hexdigest()[:16])


def main(arguments: list[str] | None = None) -> int:
    """Make the sets that are named, all without a name; return 1 if one is not what is pinned, 2 if none can be had."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join([*SETS, DEVELOPMENT, REPORT]))
    args = parser.parse_args(arguments)
    uses = {DEVELOPMENT: names_of(DEVELOPMENT), REPORT: names_of(REPORT)}
    names = [name for given in args.names or SETS for name in uses.get(given, [given])]
    if unknown := [name for name in names if name not in SETS]:
        parser.error(f"{unknown[0]} is no set; expected {', '.join([*SETS, *uses])}.")
    has_other = False
    for name in names:
        begin = time.monotonic()
        try:
            made = make(SETS[name].pictures(args.out / "packages"), args.out / name)
        except (PackageError, OSError) as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 2
        is_pinned = made.pixels == SETS[name].pixels
        has_other |= not is_pinned
        told = "as pinned" if is_pinned else f"pinned are {SETS[name].pixels}: figures of others are not for this set"
        print(f"{name}: {made}; pixels {made.pixels}, {told}; {time.monotonic() - begin:.0f} s", flush=True)
    return int(has_other)


if __name__ == "__main__":
    sys.exit(main())
