"""Image sizes as people write them, height first, and whole patches."""

import pytest

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import check_divisible, format_size, nearest_multiples, parse_image_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("384", (384, 384)),
        ("256x320", (256, 320)),
        ("256X320", (256, 320)),
        ("1", (1, 1)),
        ("65535x1", (65_535, 1)),
    ],
)
def test_parse_image_size_is_height_first(text: str, expected: tuple[int, int]) -> None:
    assert parse_image_size(text) == expected


@pytest.mark.parametrize(
    "text", ["", "x", "x320", "256x", "0", "0x32", "65536", "-16", "+16", "16.0", "1e2", "2x3x4", "256 x 320", "²", "٣"]
)
def test_parse_image_size__anything_else_is_an_error_that_names_the_option(text: str) -> None:
    with pytest.raises(SettingError, match=r"--crop is .*HEIGHTxWIDTH"):
        parse_image_size(text, option="--crop")


@pytest.mark.parametrize("size", [(384, 384), (256, 320), (320, 256), (1, 65_535)])
def test_format_size_is_what_parse_image_size_reads(size: tuple[int, int]) -> None:
    assert parse_image_size(format_size(size)) == size


def test_format_size_of_a_square_is_one_number() -> None:
    assert format_size((384, 384)) == "384"


@pytest.mark.parametrize(
    ("length", "step", "expected"),
    [
        (32, 16, (32,)),
        (33, 16, (32, 48)),
        (47, 16, (32, 48)),
        (5, 16, (16,)),  # never 0
        (16, 16, (16,)),
        (7, 1, (7,)),
    ],
)
def test_nearest_multiples(length: int, step: int, expected: tuple[int, ...]) -> None:
    assert nearest_multiples(length, step) == expected


@pytest.mark.parametrize(
    ("size", "patch"), [((224, 224), (16, 16)), ((256, 320), (16, 32)), ((14, 28), (14, 14)), ((5, 7), (1, 1))]
)
def test_check_divisible__whole_patches_pass(size: tuple[int, int], patch: tuple[int, int]) -> None:
    check_divisible(size, patch, model="m")


@pytest.mark.parametrize(
    ("size", "patch", "nearest"),
    [
        ((225, 225), (16, 16), "224 and 240"),
        ((5, 5), (16, 16), "16"),
        ((250, 330), (16, 16), "240x320 and 256x336"),
        ((256, 330), (16, 16), "256x320 and 256x336"),
        ((250, 320), (16, 16), "240x320 and 256x320"),
        ((100, 100), (16, 32), "96 and 112x128"),
        ((5, 40), (16, 16), "16x32 and 16x48"),
    ],
)
def test_check_divisible__the_error_names_the_nearest_sizes(
    size: tuple[int, int], patch: tuple[int, int], nearest: str
) -> None:
    with pytest.raises(SettingError) as caught:
        check_divisible(size, patch, model="vit_x")
    text = str(caught.value)
    assert text.endswith(f"the nearest that are: {nearest}.")
    assert f"--image-size {format_size(size)} is" in text
    assert "patch of vit_x" in text


def test_check_divisible__the_sizes_it_names_pass() -> None:
    for size in [(225, 225), (5, 5), (250, 330), (100, 100), (1, 999)]:
        with pytest.raises(SettingError) as caught:
            check_divisible(size, (14, 16), model="m")
        named = str(caught.value).rstrip(".").rpartition(": ")[2].split(" and ")
        for text in named:
            check_divisible(parse_image_size(text), (14, 16), model="m")
