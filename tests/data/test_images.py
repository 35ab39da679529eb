"""Any image becomes the 8-bit RGB that a person sees; nothing is written."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, UnidentifiedImageError

from vitctl.data.endings import EXTENSIONS
from vitctl.data.images import decode, pixel_hash, read_rgb, reason_of, to_rgb

ORIENTATION = 0x0112  # EXIF tag


def _saved(path: Path, image: Image.Image, **options: object) -> list[tuple[int, int, int]]:
    """Save ``image``, read it back with ``read_rgb`` and return its pixels in reading order."""
    image.save(path, **options)
    read = read_rgb(path)
    assert read.mode == "RGB"
    assert read.size == image.size
    return [tuple(pixel) for pixel in np.asarray(read).reshape(-1, 3).tolist()]


def _row(mode: str, *pixels: object) -> Image.Image:
    """Return an image of ``mode``, one pixel high."""
    image = Image.new(mode, (len(pixels), 1))
    image.putdata(pixels)
    return image


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm"])
def test_16_bit_greyscale_is_scaled_not_clipped(tmp_path: Path, suffix: str) -> None:
    values = np.array([[0, 127, 257, 32_768, 65_534, 65_535]], dtype=np.uint16)
    pixels = _saved(tmp_path / f"a{suffix}", Image.fromarray(values))
    # 65,535 / 255 = 257: 127 and 65,534 are nearer to 0 and 255 than to their neighbours
    assert [red for red, _, _ in pixels] == [0, 0, 1, 128, 255, 255]
    assert all(red == green == blue for red, green, blue in pixels)


def test_16_bit_scaling_rounds_to_the_nearest_for_every_value() -> None:
    values = np.arange(65_536, dtype=np.uint16).reshape(256, 256)
    ours = np.asarray(to_rgb(Image.fromarray(values)))[..., 0]
    np.testing.assert_array_equal(ours, np.rint(values / 257).astype(np.uint8))


def test_every_8_bit_value_survives_the_way_over_16_bits() -> None:
    values = np.arange(256, dtype=np.uint16).reshape(16, 16)
    ours = np.asarray(to_rgb(Image.fromarray(values * 257)))[..., 0]
    np.testing.assert_array_equal(ours, values)


def test_32_bit_integers_that_fit_16_bits_are_scaled() -> None:
    assert np.asarray(to_rgb(_row("I", 0, 65_535)))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("image", [_row("I", 0, 65_536), _row("I", -1, 3), _row("F", 0.0, 1.0)])
def test_values_of_unknown_range_are_rejected(image: Image.Image) -> None:
    with pytest.raises(ValueError, match=rf"mode {image.mode} with values of unknown range"):
        to_rgb(image)


# where the four corners (top left, top right, bottom left, bottom right) of the stored image are seen
@pytest.mark.parametrize(
    ("orientation", "seen"),
    [
        (1, "ABCD"), (2, "BADC"), (3, "DCBA"), (4, "CDAB"), (5, "ACBD"), (6, "CADB"), (7, "DBCA"), (8, "BDAC"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, seen: str, suffix: str) -> None:
    levels = {"A": 0, "B": 80, "C": 160, "D": 240}
    stored = np.kron(np.array([[0, 80], [160, 240]], dtype=np.uint8), np.ones((16, 32), dtype=np.uint8))  # 32 x 64
    image = Image.fromarray(stored).convert("RGB")
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / f"a{suffix}", exif=exif, quality=95)
    pixels = np.asarray(read_rgb(tmp_path / f"a{suffix}"))[..., 0].astype(int)
    assert pixels.shape == ((32, 64) if orientation <= 4 else (64, 32))
    corners = [pixels[4, 4], pixels[4, -5], pixels[-5, 4], pixels[-5, -5]]
    assert corners == pytest.approx([levels[letter] for letter in seen], abs=12)  # JPEG and WebP lose a little


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_rgba_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    image = _row("RGBA", (255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 0), (0, 0, 0, 51))
    assert _saved(tmp_path / f"a{suffix}", image) == [
        (255, 0, 0),
        (255, 255, 255),
        (255, 255, 255),
        (204, 204, 204),  # a fifth of black: 255 - 51
    ]


def test_greyscale_with_alpha_is_laid_over_white(tmp_path: Path) -> None:
    assert _saved(tmp_path / "a.png", _row("LA", (100, 255), (0, 0), (0, 51))) == [(g,) * 3 for g in (100, 255, 204)]


@pytest.mark.parametrize("suffix", [".png", ".gif"])
def test_a_transparent_palette_entry_is_laid_over_white(tmp_path: Path, suffix: str) -> None:
    image = _row("P", 0, 1, 2)
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    pixels = _saved(tmp_path / f"a{suffix}", image, transparency=1)
    assert pixels == [(255, 0, 0), (255, 255, 255), (0, 0, 255)]


def test_a_palette_with_partial_transparency_is_laid_over_white(tmp_path: Path) -> None:
    image = _row("P", 0, 1)
    image.putpalette([0, 0, 0, 0, 0, 0])
    assert _saved(tmp_path / "a.png", image, transparency=bytes([255, 51])) == [(0, 0, 0), (204, 204, 204)]


@pytest.mark.parametrize(
    ("image", "transparency"),
    [(_row("RGB", (9, 8, 7), (0, 0, 0)), (9, 8, 7)), (_row("L", 9, 0), 9), (_row("1", 255, 0), 1)],
    ids=["RGB", "L", "1"],
)
def test_a_transparent_colour_is_laid_over_white(
    tmp_path: Path, image: Image.Image, transparency: int | tuple[int, int, int]
) -> None:
    assert _saved(tmp_path / "a.png", image, transparency=transparency) == [(255, 255, 255), (0, 0, 0)]


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_shows_its_colours_not_their_negative(tmp_path: Path, suffix: str) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))  # magenta and yellow ink: red
    red, green, blue = _saved(tmp_path / f"a{suffix}", image)[0]
    assert red > 240
    assert max(green, blue) < 15


def test_greyscale_is_copied_to_three_channels(tmp_path: Path) -> None:
    assert _saved(tmp_path / "a.png", _row("L", 0, 77, 255)) == [(0,) * 3, (77,) * 3, (255,) * 3]


def test_1_bit_is_black_and_white(tmp_path: Path) -> None:
    assert _saved(tmp_path / "a.png", _row("1", 0, 255)) == [(0, 0, 0), (255, 255, 255)]


def test_rgb_is_left_as_it_is(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, size=(9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(np.asarray(read_rgb(tmp_path / "a.png")), pixels)


def test_an_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert read_rgb(tmp_path / "a.gif").getpixel((0, 0)) == (255, 0, 0)


def test_the_content_decides_not_the_name(tmp_path: Path) -> None:
    Image.new("RGB", (2, 2), (1, 2, 3)).save(tmp_path / "a.jpg", format="png")
    assert read_rgb(tmp_path / "a.jpg").getpixel((0, 0)) == (1, 2, 3)


def test_pillow_opens_every_extension_without_a_further_program(tmp_path: Path) -> None:
    for suffix in EXTENSIONS:
        if suffix != ".jfif":
            Image.new("L", (4, 4), 200).convert("1" if suffix == ".pbm" else "L").save(tmp_path / f"a{suffix}")
            assert read_rgb(tmp_path / f"a{suffix}").size == (4, 4)
    assert list(EXTENSIONS) == sorted(set(EXTENSIONS))


def test_reading_leaves_the_file_and_the_image_as_they_were(tmp_path: Path) -> None:
    image = Image.new("RGBA", (6, 4), (255, 0, 0, 0))
    exif = image.getexif()
    exif[ORIENTATION] = 6
    path = tmp_path / "a.png"
    image.save(path, exif=exif)
    path.chmod(0o444)
    before = (path.read_bytes(), path.stat().st_mtime_ns)
    with Image.open(path) as opened:
        seen = to_rgb(opened)
        assert (opened.mode, opened.size) == ("RGBA", (6, 4))
    assert seen.size == (4, 6)
    read_rgb(path)
    assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [found.name for found in tmp_path.iterdir()] == ["a.png"]


def test_pixel_hash_is_equal_for_equal_pixels_in_different_files(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    image.save(tmp_path / "a.png")
    image.save(tmp_path / "b.bmp")
    assert pixel_hash(read_rgb(tmp_path / "a.png")) == pixel_hash(read_rgb(tmp_path / "b.bmp"))


def test_pixel_hash_tells_one_pixel_and_the_shape() -> None:
    image = Image.fromarray(np.zeros((4, 6, 3), dtype=np.uint8))
    other = image.copy()
    other.putpixel((5, 3), (0, 0, 1))
    assert len({pixel_hash(one) for one in (image, other, image.transpose(Image.Transpose.ROTATE_90))}) == 3


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (FileNotFoundError(2, "No such file or directory", "/secret/a.png"), "no such file"),
        (IsADirectoryError(21, "Is a directory", "/secret/a.png"), "is a folder"),
        (PermissionError(13, "Permission denied", "/secret/a.png"), "permission denied"),
        (OSError("Broken\n  file"), "broken file"),
        (ValueError(), "valueError"),
    ],
)
def test_reason_of_is_one_line_without_the_path(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected


def test_reason_of_a_file_that_is_no_image_has_no_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_text("hello")
    with pytest.raises(OSError, match="cannot identify") as caught:
        read_rgb(tmp_path / "a.png")
    assert reason_of(caught.value) == "not an image that Pillow knows"


def test_16_bit_transparent_value_is_white(tmp_path: Path) -> None:
    values = np.array([[0, 300], [65_535, 30_000]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "t.png", transparency=300)
    assert np.asarray(read_rgb(tmp_path / "t.png"))[..., 0].tolist() == [[0, 255], [255, 117]]


def _smooth(height: int, width: int) -> Image.Image:
    """Return colours that change slowly, none near black or white."""
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / 37 + y / 91), np.cos(y / 53 - x / 79), np.sin((x + y) / 61)]
    return Image.fromarray(np.rint(128 + 80 * np.stack(waves, axis=-1)).astype(np.uint8))


def _opened(image: Image.Image, kind: str = "jpeg", **options: object) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return Image.open(io.BytesIO(buffer.getvalue()))


def _full(image: Image.Image, kind: str = "jpeg", **options: object) -> np.ndarray:
    with _opened(image, kind, **options) as opened:
        return np.asarray(decode(opened), dtype=np.int64)


@pytest.mark.parametrize(
    ("size", "least_side", "expected"),
    [
        ((512, 640), 512, (512, 640)),  # half of it would be too small
        ((512, 640), 257, (512, 640)),
        ((512, 640), 256, (256, 320)),
        ((512, 640), 129, (256, 320)),
        ((512, 640), 128, (128, 160)),
        ((512, 640), 64, (64, 80)),
        ((512, 640), 16, (64, 80)),  # an eighth at most
        ((513, 643), 256, (257, 322)),  # rounded up
        ((515, 643), 64, (65, 81)),
        ((300, 1_200), 200, (300, 1_200)),  # the short side decides
        ((1_200, 300), 150, (600, 150)),
        ((60, 80), 100, (60, 80)),  # too small as it is
        ((3, 5), 1, (2, 3)),
    ],
)
def test_decode__a_jpeg_is_scaled_to_no_less_than_the_least_side(
    size: tuple[int, int], least_side: int, expected: tuple[int, int]
) -> None:
    with _opened(_smooth(*size)) as image:
        decoded = decode(image, least_side=least_side)
    assert (decoded.height, decoded.width) == expected
    assert decoded.mode == "RGB"


def test_decode__whatever_the_size_both_sides_suffice_and_none_grows() -> None:
    rng = np.random.default_rng(0)
    scales = set()
    for _ in range(60):
        height, width, least_side = (int(number) for number in rng.integers(1, 300, size=3))
        with _opened(Image.new("RGB", (width, height))) as image:
            decoded = decode(image, least_side=least_side)
        assert min(height, least_side) <= decoded.height <= height
        assert min(width, least_side) <= decoded.width <= width
        scale = next(s for s in (8, 4, 2, 1) if s == 1 or min(height, width) >= s * least_side)
        assert (decoded.height, decoded.width) == (-(-height // scale), -(-width // scale))
        scales.add(scale)
    assert scales == {1, 2, 4, 8}


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("scale", [2, 4, 8])
def test_decode__a_scaled_jpeg_of_smooth_colours_is_nearly_the_scaled_full_one(
    scale: int, mode: str, options: dict[str, object]
) -> None:
    image = _smooth(384, 512).convert(mode)
    with _opened(image, quality=90, **options) as opened:
        scaled = np.asarray(decode(opened, least_side=384 // scale), dtype=np.float64)
    full = _full(image, quality=90, **options)
    means = full.reshape(384 // scale, scale, 512 // scale, scale, 3).mean(axis=(1, 3))
    assert scaled.shape == means.shape
    error = np.abs(scaled - means)
    assert error.max() <= 3  # levels; real photos differ by more at their edges
    assert error.mean() < 0.6
    assert np.ptp(means) > 100


@pytest.mark.parametrize("least_side", [300, 151, 1_000, None])
def test_decode__equal_to_a_full_decode_where_nothing_can_be_scaled(least_side: int | None) -> None:
    with _opened(_smooth(300, 400)) as image:
        decoded = decode(image, least_side=least_side)
    np.testing.assert_array_equal(np.asarray(decoded), _full(_smooth(300, 400)))


@pytest.mark.parametrize("kind", ["png", "bmp", "webp", "tiff"])
def test_decode__only_jpegs_are_scaled(kind: str) -> None:
    with _opened(_smooth(300, 400), kind) as image:
        decoded = decode(image, least_side=20)
    np.testing.assert_array_equal(np.asarray(decoded), _full(_smooth(300, 400), kind))


def test_decode__an_array_is_left_in_its_size() -> None:
    image = _smooth(300, 400)
    np.testing.assert_array_equal(np.asarray(decode(image, least_side=20)), np.asarray(image))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode__a_scaled_jpeg_is_upright(orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    with _opened(_smooth(256, 384), quality=95, exif=exif) as image:
        decoded = np.asarray(decode(image, least_side=64), dtype=np.float64)
    assert decoded.shape == ((64, 96, 3) if orientation <= 4 else (96, 64, 3))
    full = _full(_smooth(256, 384), quality=95, exif=exif)
    height, width = decoded.shape[:2]
    np.testing.assert_allclose(decoded, full.reshape(height, 4, width, 4, 3).mean(axis=(1, 3)), atol=2.5)


def test_a_format_that_would_start_another_program_is_no_image(tmp_path: Path) -> None:
    header = "%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "photo.jpg").write_text(header)
    with Image.open(tmp_path / "photo.jpg") as image:
        assert image.format == "EPS"  # Pillow itself would call Ghostscript
    with pytest.raises(UnidentifiedImageError):
        read_rgb(tmp_path / "photo.jpg")
