"""What ``vitctl data`` counts: hand-worked figures, the same for any order of the images."""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.scan import Look, Scan, exact_duplicates, scan_images
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.data.survey import (
    describe_duplicates,
    describe_images,
    describe_imbalance,
    describe_split,
    fingerprint,
    sample_of_each_class,
    strange_shapes,
    thumbnail,
)
from vitctl.results.data import ClassSize, SplitReport


@dataclass(frozen=True)
class Drawn:
    """Images that are handed over as they are, called ``0``, ``1``, ..."""

    pictures: tuple[Image.Image, ...]

    def __len__(self) -> int:
        return len(self.pictures)

    def open(self, row: int) -> Image.Image:
        return self.pictures[row].copy()

    def name(self, row: int) -> str:
        return str(row)

    def stamp(self, row: int) -> str:
        return ""


def split_of(labels: Sequence[str], pictures: Sequence[Image.Image] | None = None, *, name: str = "all") -> Split:
    """Return a split with a class name per image; without pictures, of images that nobody opens."""
    drawn = tuple(pictures) if pictures is not None else (Image.new("L", (1, 1)),) * len(labels)
    return split_from_names(name, Drawn(drawn), labels)


def look(height: int, width: int, *, mode: str = "RGB", kind: str = "PNG", content: str = "") -> Look:
    return Look(height, width, mode, kind, False, content or f"{height} {width}", "00" * 16)


def scan_of(*looks: Look | None) -> Scan:
    return Scan(list(looks), {index: "bad" for index, one in enumerate(looks) if one is None})


def noise(seed: int, size: tuple[int, int] = (6, 4)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8))


# --- splits and images -------------------------------------------------------------------------------------


def test_split__counts_bad_images_too() -> None:
    described = describe_split(split_of(["cat", "dog", "cat", "10", "2"]), scan_of(look(1, 1), None, *[look(2, 2)] * 3))
    assert described.as_json() == {"num_images": 5, "num_bad": 1, "classes": {"2": 1, "10": 1, "cat": 2, "dog": 1}}
    assert list(described.classes) == ["2", "10", "cat", "dog"]


def test_split__counts_groups_where_they_are_known() -> None:
    split = split_of(["a", "b", "a"])
    object.__setattr__(split, "groups", np.array(["x", "y", "x"], dtype=object))
    assert describe_split(split, scan_of(*[look(1, 1)] * 3)).num_groups == 2


def test_images__sizes_modes_and_formats_over_all_splits() -> None:
    first = scan_of(look(10, 40), None, look(30, 20, mode="L", kind="JPEG"))
    second = scan_of(look(50, 5, kind=""), look(10, 40, mode="L"))
    assert describe_images([first, second]).as_json() == {
        "height_px": {"least": 10, "median": 20.0, "greatest": 50},  # 10 10 30 50
        "width_px": {"least": 5, "median": 30.0, "greatest": 40},  # 5 20 40 40
        "short_side_px": {"least": 5, "median": 10.0, "greatest": 20},  # 5 10 10 20
        "num_sizes": 3,
        "modes": {"L": 2, "RGB": 2},
        "num_16_bit": 0,
        "brightest_16_bit": None,
        "formats": {"PNG": 2, "JPEG": 1, "array": 1},
    }


def test_images__frequent_kinds_come_first() -> None:
    images = describe_images([scan_of(look(1, 1, mode="P"), *[look(1, 1, mode="CMYK")] * 2, *[look(1, 1)] * 3)])
    assert list(images.modes.items()) == [("RGB", 3), ("CMYK", 2), ("P", 1)]


@pytest.mark.parametrize("scans", [[], [scan_of()], [scan_of(None), scan_of(None, None)]])
def test_images__none_at_all_is_an_error(scans: list[Scan]) -> None:
    with pytest.raises(ValueError, match="no image decodes"):
        describe_images(scans)


# --- shapes ------------------------------------------------------------------------------------------------


def test_shapes__from_four_to_one_on_either_side() -> None:
    looks = [look(100, 399), look(100, 400), look(400, 100), look(7, 7000), None, look(1, 1)]
    found = strange_shapes({"all": (split_of(["a"] * 6), scan_of(*looks))})
    assert found.as_json() == {
        "from_ratio": 4.0,
        "num_images": 3,
        "worst": [
            {"image": "3", "size": [7, 7000], "ratio": 1000.0},
            {"image": "1", "size": [100, 400], "ratio": 4.0},
            {"image": "2", "size": [400, 100], "ratio": 4.0},
        ],
    }


def test_shapes__the_worst_of_many_over_all_splits() -> None:
    train = split_of(["a"] * 30), scan_of(*[look(1, 10 + index) for index in range(30)])
    test = split_of(["a"], name="test"), scan_of(look(500, 2))
    found = strange_shapes({"train": train, "test": test})
    assert found.num_images == 31
    assert [one.ratio for one in found.worst] == [250.0, *range(39, 20, -1)]


# --- duplicates --------------------------------------------------------------------------------------------


def test_duplicates__groups_and_what_they_cross() -> None:
    train = split_of(["cat", "cat", "dog", "dog", "cat", "cat"], name="train")
    test = split_of(["cat", "dog"], name="test")
    scanned = {"train": (train, scan_of(*[look(1, 1)] * 6)), "test": (test, scan_of(*[look(1, 1)] * 2))}
    hashes = {"train": ["a", "a", "a", "b", "", ""], "test": ["b", "c"]}  # "" are bad images, equal to nothing
    found = describe_duplicates(scanned, hashes, np.array(["train", "train", "train", "val", "train", "train"]))
    assert found.as_json() == {
        "num_groups": 2,
        "num_extra": 3,  # two of a, one of b
        "num_across_splits": 1,  # b: held out and tested on
        "num_across_classes": 2,  # each is a cat here and a dog there
        "groups": [
            [
                {"image": "0", "split": "train", "class": "cat", "kept_in": "train"},
                {"image": "1", "split": "train", "class": "cat", "kept_in": "train"},
                {"image": "2", "split": "train", "class": "dog", "kept_in": "train"},
            ],
            [
                {"image": "3", "split": "train", "class": "dog", "kept_in": "val"},
                {"image": "0", "split": "test", "class": "cat", "kept_in": "test"},
            ],
        ],
    }


def test_duplicates__of_given_splits_are_where_they_were_put() -> None:
    scanned = {name: (split_of(["a", "b"], name=name), scan_of(look(1, 1), look(2, 2))) for name in ("train", "val")}
    found = describe_duplicates(scanned, {"train": ["x", "y"], "val": ["x", "z"]}, None)
    assert [[one.kept_in for one in group] for group in found.groups] == [["train", "val"]]
    assert (found.num_across_splits, found.num_across_classes) == (1, 0)


def test_duplicates__held_out_images_of_a_source_without_splits() -> None:
    split = split_of(["a", "a", "b"])
    found = describe_duplicates(
        {"all": (split, scan_of(*[look(1, 1)] * 3))}, {"all": ["x", "x", "y"]}, np.array(["val", "val", "train"])
    )
    assert [one.kept_in for one in found.groups[0]] == ["val", "val"]
    assert found.num_across_splits == 0


# --- imbalance ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("counts", "ratio"), [((5, 5), 1.0), ((299, 100), 2.99), ((7, 3), 2.333)])
def test_imbalance__nothing_to_say_below_three(counts: tuple[int, int], ratio: float) -> None:
    found = describe_imbalance(split_of(["a"] * counts[0] + ["b"] * counts[1]))
    assert (found.ratio, found.advice) == (ratio, None)


def test_imbalance__says_which_classes_and_what_helps() -> None:
    found = describe_imbalance(split_of(["b"] * 2 + ["a"] * 9 + ["c"] * 3))
    assert found.ratio == 4.5
    assert found.largest == ClassSize("a", 9)
    assert found.smallest == ClassSize("b", 2)
    for words in ("'a' has 4.5 times the images of 'b'", "--class-weights balanced", "--sampler balanced"):
        assert words in (found.advice or "")


def test_imbalance__a_class_that_a_split_lacks_is_not_the_smallest() -> None:
    split = split_of(["a"] * 6 + ["b"] * 2 + ["c"]).select(range(8))
    found = describe_imbalance(split)
    assert found.smallest == ClassSize("b", 2)
    assert found.ratio == 3.0
    assert found.advice is not None


# --- the fingerprint ---------------------------------------------------------------------------------------


def test_fingerprint__by_hand() -> None:
    split = split_of(["dog", "cat", "cat"])
    scanned = {"all": (split, scan_of(look(2, 3, content="ff"), None, look(4, 5, content="aa")))}
    text = "cat\0" + "4x5\0aa\n" + "dog\0" + "2x3\0ff"
    assert fingerprint(scanned) == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_fingerprint__ignores_order_and_splits_but_not_how_often() -> None:
    labels = ["a", "b", "a", "c"]
    looks = [look(1, 1), look(2, 2), look(3, 3), look(4, 4)]
    usual = fingerprint({"all": (split_of(labels), scan_of(*looks))})
    turned = fingerprint({"all": (split_of(labels[::-1]), scan_of(*looks[::-1]))})
    divided = fingerprint(
        {
            "train": (split_of(labels[:1], name="train"), scan_of(*looks[:1])),
            "test": (split_of(labels[1:], name="test"), scan_of(*looks[1:])),
        }
    )
    twice = fingerprint({"all": (split_of([*labels, "a"]), scan_of(*looks, looks[0]))})
    swapped = fingerprint({"all": (split_of(["b", "a", "a", "c"]), scan_of(*looks))})
    assert usual == turned == divided
    assert len({usual, twice, swapped}) == 3


def test_fingerprint__class_names_of_any_bytes() -> None:
    scanned = {"all": (split_of(["caf\udce9"]), scan_of(look(1, 1)))}
    assert len(fingerprint(scanned)) == 32


def test_figures_of_real_images__do_not_depend_on_their_order(tmp_path: Path) -> None:
    labels, paths = [], []
    for index in range(12):
        image = noise(index % 9, (4 + index % 3, 4 + 20 * (index % 2)))  # some strange, none equal by chance
        paths.append(tmp_path / f"{index}.png")
        labels.append("abc"[index % 3])
        image.save(paths[-1])
    paths[11].write_bytes(paths[2].read_bytes())
    paths[5].write_bytes(b"")

    def figures(order: Sequence[int]) -> list[object]:
        split = split_from_names(
            "all", FileImages(tuple(str(paths[index]) for index in order)), [labels[i] for i in order]
        )
        scan = scan_images(split, num_threads=2, conversation=Conversation())
        scanned = {"all": (split, scan)}
        (hashes,) = exact_duplicates([(split, scan)], num_threads=2, conversation=Conversation())
        duplicates = describe_duplicates(scanned, {"all": hashes}, None)
        return [
            describe_split(split, scan),
            describe_images([scan]),
            describe_imbalance(split),
            strange_shapes(scanned),
            fingerprint(scanned),
            [sorted(one.image for one in group) for group in duplicates.groups],
            replace(duplicates, groups=()),
        ]

    usual = figures(range(12))
    assert usual[0] == SplitReport(num_images=12, num_bad=1, classes={"a": 4, "b": 4, "c": 4})
    assert usual[5] == [[str(paths[11]), str(paths[2])]]
    for seed in range(3):
        assert figures(np.random.default_rng(seed).permutation(12).tolist()) == usual


# --- the contact sheet -------------------------------------------------------------------------------------


def test_sample__is_spread_over_each_class_and_skips_bad_images() -> None:
    split = split_of(["a", "b"] * 10)  # a that decodes: 2 4 ... 16; b: 1 3 ... 19
    looks: list[Look | None] = [look(1, 1)] * 20
    looks[0] = looks[18] = None
    assert sample_of_each_class(split, scan_of(*looks), most_classes=5, each=3) == [[2, 10, 16], [1, 9, 19]]


def test_sample__fewer_images_than_places_fewer_classes_than_there_are() -> None:
    split = split_of(["a", "b", "b", "c", "d"])
    looks = [None, *[look(1, 1)] * 4]
    assert sample_of_each_class(split, scan_of(*looks), most_classes=3, each=8) == [[], [1, 2], [3]]
    assert sample_of_each_class(split, scan_of(*looks), most_classes=9, each=1) == [[], [1], [3], [4]]


@pytest.mark.parametrize(("size", "box"), [((40, 80), (0, 24, 96, 72)), ((80, 40), (24, 0, 72, 96)), ((9, 9), None)])
def test_thumbnail__the_whole_image_in_a_grey_square(size: tuple[int, int], box: tuple[int, ...] | None) -> None:
    """``size`` is (H, W); ``box`` left, top, right, bottom of the image in the square."""
    left, top, right, bottom = box or (0, 0, 96, 96)
    pixels = thumbnail(split_of(["a"], [Image.new("RGB", size[::-1], (200, 10, 30))]), 0, side=96)
    assert (pixels.shape, pixels.dtype) == ((96, 96, 3), np.uint8)
    expected = np.full((96, 96, 3), 232, dtype=np.uint8)
    expected[top:bottom, left:right] = (200, 10, 30)
    np.testing.assert_array_equal(pixels, expected)


def test_thumbnail__small_images_keep_their_pixels_sharp() -> None:
    image = noise(0, (8, 8))
    pixels = thumbnail(split_of(["a"], [image]), 0, side=96)
    np.testing.assert_array_equal(pixels, np.kron(np.asarray(image), np.ones((12, 12, 1), dtype=np.uint8)))


def test_thumbnail__a_strip_still_has_a_row() -> None:
    pixels = thumbnail(split_of(["a"], [Image.new("RGB", (20_000, 9), "red")]), 0, side=96)
    assert pixels.shape == (96, 96, 3)
    assert 1 <= int((pixels == (255, 0, 0)).all(axis=2).any(axis=1).sum()) <= 2


def test_thumbnail__shows_a_large_photo_upright(tmp_path: Path) -> None:
    """A JPEG much larger than the thumbnail is decoded at a part of its size; it looks the same."""
    coarse = Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 5, 3), dtype=np.uint8))
    photo = coarse.resize((900, 600), Image.Resampling.BICUBIC)
    exif = Image.Exif()
    exif[0x0112] = 6  # stored lying on its side
    buffer = io.BytesIO()
    photo.save(buffer, "JPEG", quality=95, exif=exif)
    (tmp_path / "1.jpg").write_bytes(buffer.getvalue())
    split = split_from_names("all", FileImages((str(tmp_path / "1.jpg"),)), ["a"])
    pixels = thumbnail(split, 0, side=96).astype(int)
    upright = photo.transpose(Image.Transpose.ROTATE_270).resize((64, 96), Image.Resampling.BICUBIC)
    assert np.abs(pixels[:, 16:80] - np.asarray(upright).astype(int)).mean() < 3
    assert (pixels[:, :16] == 232).all()
