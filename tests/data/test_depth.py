"""Images of 16 bits: what the scan sees of them, what is white, what is worth a word."""

import io

import numpy as np
import pytest
from PIL import Image

from vitctl.data.depth import Depth, decide_max_value, depth_of, doubts_about_range
from vitctl.data.images import to_rgb
from vitctl.data.scan import Scan, look_at
from vitctl.errors import SettingError


def stored(values: np.ndarray, *, kind: str = "png", **options: object) -> Image.Image:
    file = io.BytesIO()
    Image.fromarray(values).save(file, kind, **options)
    return Image.open(file)


@pytest.mark.parametrize("max_value", [1, 255, 1023, 4095, 4096, 65_535])
def test_to_rgb__every_value_of_16_bits_rounded_to_the_nearest_and_cut_off_at_white(max_value: int) -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    expected = np.floor(np.minimum(values.astype(np.float64) / max_value, 1) * 255 + 0.5)
    for image in (Image.fromarray(values), Image.fromarray(values.astype(np.int32))):
        found = np.asarray(to_rgb(image, max_value=max_value))
        np.testing.assert_array_equal(found, np.repeat(expected[..., None], 3, axis=2))


def test_to_rgb__without_a_value_65535_is_white_and_8_bits_are_never_touched() -> None:
    values = np.arange(0, 65_536, 13, dtype=np.uint16)[None]
    deep, plain = Image.fromarray(values), Image.fromarray((values >> 8).astype(np.uint8))
    np.testing.assert_array_equal(np.asarray(to_rgb(deep)), np.asarray(to_rgb(deep, max_value=65_535)))
    np.testing.assert_array_equal(np.asarray(to_rgb(plain)), np.asarray(to_rgb(plain, max_value=9)))


@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_look__has_the_brightest_value_of_16_bits_and_none_of_8(kind: str) -> None:
    values = np.full((5, 4), 17, dtype=np.uint16)
    values[3, 2] = 4095
    assert look_at(stored(values, kind=kind)).brightest == 4095
    assert look_at(stored(np.zeros((5, 4), dtype=np.uint16), kind=kind)).brightest == 0
    assert look_at(stored(np.full((5, 4), 200, dtype=np.uint8), kind=kind)).brightest == -1


def test_look__what_is_transparent_is_not_bright() -> None:
    values = np.array([[7, 65_535]], dtype=np.uint16)
    assert look_at(stored(values, transparency=65_535)).brightest == 7


def test_look__tells_images_apart_that_are_alike_in_8_bits() -> None:
    dark = [stored(np.full((6, 6), value, dtype=np.uint16)) for value in (3, 4, 3)]
    first, second, third = (look_at(image).fingerprint for image in dark)
    assert first == third != second
    assert look_at(stored(np.full((6, 6), 3, dtype=np.uint16), kind="tiff")).fingerprint == first


def test_depth__of_those_images_that_have_16_bits_and_decode() -> None:
    looks = [look_at(stored(np.full((3, 3), value, dtype=np.uint16))) for value in (5, 900)]
    plain = look_at(stored(np.zeros((3, 3), dtype=np.uint8)))
    depth = depth_of([Scan([looks[0], None], {1: "no"}), Scan([plain, looks[1]], {})])
    assert (depth.brightest, depth.num_images, depth.most) == ((5, 900), 2, 900)
    assert depth.described() == "16-bit, 2 images; the brightest value is 900 of 65,535"
    assert depth_of([Scan([plain], {})]).most is None


def test_decide_max_value() -> None:
    depth = Depth((4000, 12))
    assert decide_max_value(None, depth).value is None
    assert decide_max_value(None, depth, own=1023).value == 1023
    assert decide_max_value(4095, depth, own=1023).value == 4095
    assert decide_max_value("auto", depth).value == 4000
    assert decide_max_value("auto", Depth((0,))).value == 1
    with pytest.raises(SettingError, match="no training image has 16 bits"):
        decide_max_value("auto", Depth(()))


@pytest.mark.parametrize(
    ("brightest", "levels", "advice"), [(4095, 17, 4095), (4000, 17, 4095), (255, 2, 255), (32_767, 128, 32_767)]
)
def test_doubts__dark_images_and_what_would_be_white(brightest: int, levels: int, advice: int) -> None:
    (sentence,) = doubts_about_range(Depth((3, brightest)), None)
    assert (
        f"the brightest value is {brightest:,} of 65,535, so that they are read as {levels} of 256 levels" in sentence
    )
    assert f"try --max-value {advice}, or auto" in sentence
    values = np.arange(brightest + 1, dtype=np.uint16)[None]
    assert len(np.unique(np.asarray(to_rgb(Image.fromarray(values))))) == levels


def test_doubts__a_value_for_images_of_8_bits_is_of_no_use_to_who_gave_it() -> None:
    (sentence,) = doubts_about_range(Depth(()), 4095, is_given=True)
    assert sentence == "--max-value 4095 changes nothing: no image has 16 bits."


def test_doubts__images_brighter_than_white_are_counted() -> None:
    depth, above = Depth((4095, 4096, 60_000)), "2 of 3 images of 16 bits have values above "
    (sentence,) = doubts_about_range(depth, 4095, is_given=True)
    assert sentence.startswith(above + "--max-value 4095, up to 60,000")
    (sentence,) = doubts_about_range(depth, 4095)
    assert sentence.startswith(above + "4,095, which the model takes as white, up to 60,000")


def test_doubts__black_images_are_not_told_a_value() -> None:
    (sentence,) = doubts_about_range(Depth((0, 0)), None)
    assert sentence == "The 2 images of 16 bits are black: none of their values is above 0."


@pytest.mark.parametrize(("brightest", "white"), [((40_000,), None), ((), None), ((), 5), ((4095, 7), 4095)])
def test_doubts__none(brightest: tuple[int, ...], white: int | None) -> None:
    assert doubts_about_range(Depth(brightest), white) == []
