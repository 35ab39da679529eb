"""Every bad image is found before training, with its reason, and nothing is changed on disk."""

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation, Progress
from vitctl.data.images import decode, pixel_hash, read_rgb
from vitctl.data.scan import Look, Place, Scan, _coarse, check_bad_images, exact_duplicates, look_at, scan_images
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError

ORIENTATION = 0x0112  # EXIF tag


@dataclass(frozen=True)
class CountingImages(FileImages):
    """Files that remember which were opened."""

    opened: list[int] = field(default_factory=list)

    def open(self, row: int) -> Image.Image:
        self.opened.append(row)
        return super().open(row)


def _file_split(*paths: Path) -> Split:
    return split_from_names("train", FileImages(tuple(map(str, paths))), [path.parent.name for path in paths])


def _scan(split: Split, *, num_threads: int = 2) -> Scan:
    return scan_images(split, num_threads=num_threads, conversation=Conversation())


def _duplicates(*splits: Split) -> list[list[str]]:
    return exact_duplicates([(split, _scan(split)) for split in splits], num_threads=2, conversation=Conversation())


def _photo(height: int, width: int, *, seed: int = 0) -> Image.Image:
    """Return smooth colours with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, size=(height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def _jpeg(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "jpeg", **options)
    return buffer.getvalue()


def _look(content: bytes) -> Look:
    with Image.open(io.BytesIO(content)) as image:
        return look_at(image)


@pytest.fixture
def broken_files(tmp_path: Path) -> dict[str, Path]:
    """Files that cannot be decoded, and some that can although they look odd."""
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), dtype=np.uint8))
    paths = {name: tmp_path / "cat" / name for name in ("good.jpg", "cut.jpg", "cut.png", "zero.png", "text.jpg")}
    paths["1x1.png"] = tmp_path / "cat" / "1x1.png"
    (tmp_path / "cat").mkdir()
    noise.save(paths["good.jpg"])
    for name in ("cut.jpg", "cut.png"):
        noise.save(paths[name])
        paths[name].write_bytes(paths[name].read_bytes()[: paths[name].stat().st_size // 2])
    paths["zero.png"].write_bytes(b"")
    paths["text.jpg"].write_text("this is not a photo")
    Image.new("L", (1, 1)).save(paths["1x1.png"])
    return paths


def test_scan_finds_the_files_that_cannot_be_decoded_and_says_why(broken_files: dict[str, Path]) -> None:
    paths = list(broken_files.values())
    scan = _scan(_file_split(*paths, paths[0].parent / "gone.png"))
    reasons = {name: scan.bad.get(position) for position, name in enumerate([*broken_files, "gone.png"])}
    assert "truncated" in str(reasons.pop("cut.jpg"))
    assert "truncated" in str(reasons.pop("cut.png"))
    assert reasons == {
        "good.jpg": None,
        "zero.png": "not an image that Pillow knows",
        "text.jpg": "not an image that Pillow knows",
        "1x1.png": None,
        "gone.png": "no such file",
    }


def test_scan_gives_sizes_height_first_and_zeros_for_bad_files(broken_files: dict[str, Path]) -> None:
    scan = _scan(_file_split(*broken_files.values()))
    assert scan.sizes.tolist() == [[64, 48], [0, 0], [0, 0], [0, 0], [0, 0], [1, 1]]
    assert scan.sizes.dtype == np.int64
    assert scan.good.tolist() == [0, 5]
    assert [look is not None for look in scan.looks] == [True, False, False, False, False, True]


def test_scan_leaves_every_file_as_it_was(broken_files: dict[str, Path]) -> None:
    def state() -> dict[str, tuple[bytes, int]]:
        folder = broken_files["good.jpg"].parent
        return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}

    before = state()
    _scan(_file_split(*broken_files.values()))
    assert state() == before


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_scan_is_in_order_whatever_the_threads(drawn_split: Callable[..., Split], num_threads: int) -> None:
    split = drawn_split(600)  # more than two blocks
    scan = _scan(split, num_threads=num_threads)
    assert [look and look.fingerprint for look in scan.looks] == [pixel_hash(split.read(p)) for p in range(600)]
    assert scan.sizes.tolist() == [[6, 5]] * 600
    assert scan.bad == {}


def test_scan_of_a_part_numbers_its_own_positions(broken_files: dict[str, Path]) -> None:
    split = _file_split(*broken_files.values()).select([3, 0])
    assert list(_scan(split).bad) == [0]


def test_scan__no_images(drawn_split: Callable[..., Split]) -> None:
    scan = _scan(drawn_split(4).select([]))
    assert scan.sizes.shape == (0, 2)
    assert scan.good.tolist() == []


def test_exact_duplicates_are_found_whatever_their_format(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.bmp", tmp_path / "c.png"]
    for path in paths:
        Image.new("RGB", (4, 4), "red" if path.name < "c" else "blue").save(path)
    first, second, third = _duplicates(_file_split(*paths))[0]
    assert first == second != third


def test_scan_shows_its_progress(drawn_split: Callable[..., Split]) -> None:
    class Counting(Conversation):
        total = done = 0

        @contextmanager
        def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
            outer = self

            class Bar(Progress):
                def advance(self, amount: int = 1, **facts: str) -> None:
                    outer.done += amount

            self.total = total
            yield Bar()

    counting = Counting()
    scan_images(drawn_split(7), num_threads=2, conversation=counting)
    assert (counting.total, counting.done) == (7, 7)


def _with_bad(split: Split, *bad: int) -> Scan:
    look = Look(6, 5, "L", "", False, "x", "00" * 16)
    return Scan([None if position in bad else look for position in range(len(split))], dict.fromkeys(bad, "broken"))


def test_check__no_bad_images(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(4)
    assert check_bad_images(split, _with_bad(split), allow=False) == []


def test_check__not_allowed_is_an_error_that_lists_them(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(6)
    with pytest.raises(DataError, match=r"2 of 6 train images cannot be read.*--on-bad-image skip") as caught:
        check_bad_images(split, _with_bad(split, 1, 4), allow=False)
    assert str(caught.value).splitlines()[1:] == ["  drawn/1: broken", "  drawn/4: broken"]


def test_check__a_long_list_is_cut_at_twenty(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(60)
    with pytest.raises(DataError) as caught:
        check_bad_images(split, _with_bad(split, *range(23)), allow=False)
    lines = str(caught.value).splitlines()
    assert len(lines) == 1 + 20 + 1
    assert lines[-1] == "  ... and 3 more"
    assert len(check_bad_images(split, _with_bad(split, *range(23)), allow=True)) == 23


def test_check__allowed_gives_one_line_each(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(6)
    assert check_bad_images(split, _with_bad(split, 4, 1), allow=True) == ["drawn/4: broken", "drawn/1: broken"]


def test_check__all_bad_is_an_error_even_if_allowed(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(3)
    with pytest.raises(DataError, match="None of the 3 train images can be read"):
        check_bad_images(split, _with_bad(split, 0, 1, 2), allow=True)


def test_check__a_class_that_loses_all_images_is_an_error_even_if_allowed(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(6, 3)  # class 1 has positions 1 and 4
    with pytest.raises(DataError, match="train has no image of class class 1; repair them"):
        check_bad_images(split, _with_bad(split, 1, 4), allow=True)


def test_check__a_class_that_had_no_images_is_not_lost(drawn_split: Callable[..., Split]) -> None:
    split = drawn_split(6, 3).select([0, 2, 3])  # class 1 is in the map only
    assert check_bad_images(split, _with_bad(split, 0), allow=True) == ["drawn/0: broken"]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("height", "width"), [(256, 264), (257, 391)])
def test_look__a_large_jpeg_has_the_size_it_is_shown_at(orientation: int, height: int, width: int) -> None:
    image = _photo(height, width)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    content = _jpeg(image, exif=exif)
    look = _look(content)
    assert look.is_scaled
    assert (look.height, look.width) == ((height, width) if orientation <= 4 else (width, height))
    with Image.open(io.BytesIO(content)) as opened:
        assert decode(opened).size == (look.width, look.height)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_look__the_thumbnail_is_upright_and_as_of_the_full_image(tmp_path: Path, orientation: int) -> None:
    image = _photo(256, 320)
    exif = image.getexif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    look = _look((tmp_path / "a.jpg").read_bytes())
    grey = np.asarray(read_rgb(tmp_path / "a.jpg").convert("L"), dtype=np.float64)
    cells = grey.reshape(4, grey.shape[0] // 4, 4, grey.shape[1] // 4).mean(axis=(1, 3))
    np.testing.assert_allclose(_coarse([Place(0, 0)], {Place(0, 0): look})[0], cells.ravel(), atol=3)
    assert np.ptp(cells) > 20  # not a picture whose thumbnail is the same whichever way up


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {}),
        ("RGB", {"progressive": True}),
        ("RGB", {"subsampling": 0}),
        ("RGB", {"restart_marker_blocks": 3}),
        ("L", {}),
        ("L", {"progressive": True}),
        ("CMYK", {}),
    ],
)
def test_look__every_kind_of_jpeg(mode: str, options: dict[str, object]) -> None:
    image = _photo(271, 259).convert(mode)
    look = _look(_jpeg(image, **options))
    assert (look.height, look.width, look.mode, look.format, look.is_scaled) == (271, 259, mode, "JPEG", True)


def test_look__a_phones_jpeg_of_several_pictures() -> None:
    buffer = io.BytesIO()
    _photo(300, 410).save(buffer, "mpo", save_all=True, append_images=[_photo(64, 64)])
    look = _look(buffer.getvalue())
    assert (look.height, look.width, look.format, look.is_scaled) == (300, 410, "MPO", True)


@pytest.mark.parametrize(
    ("name", "size", "is_scaled"),
    [("a.jpg", (256, 256), True), ("a.jpg", (255, 400), False), ("a.jpg", (9, 3), False), ("a.png", (300, 300), False)],
)
def test_look__only_large_jpegs_are_scaled(tmp_path: Path, name: str, size: tuple[int, int], is_scaled: bool) -> None:
    _photo(*size).save(tmp_path / name)
    look = _look((tmp_path / name).read_bytes())
    full = pixel_hash(read_rgb(tmp_path / name))
    assert look.is_scaled == is_scaled
    assert (look.fingerprint != full) == is_scaled
    assert (look.height, look.width) == size


def _decodes(content: bytes, *, in_full: bool) -> bool:
    try:
        with Image.open(io.BytesIO(content)) as image:
            decode(image) if in_full else look_at(image)
    except Exception:  # Pillow raises anything
        return False
    return True


@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 4}, {"optimize": True, "quality": 30}],
    ids=str,
)
def test_look__a_cut_jpeg_fails_exactly_where_a_full_decode_fails(options: dict[str, object]) -> None:
    content = _jpeg(_photo(257, 263), **options)
    assert _look(content).is_scaled
    cuts = {*range(0, len(content), len(content) // 24), *range(len(content) - 24, len(content) + 1)}
    verdicts = {cut: _decodes(content[:cut], in_full=False) for cut in sorted(cuts)}
    assert verdicts == {cut: _decodes(content[:cut], in_full=True) for cut in sorted(cuts)}
    assert verdicts[len(content)]
    assert sum(verdicts.values()) < 10  # nearly every cut is seen


@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=str)
def test_look__a_damaged_jpeg_fails_exactly_where_a_full_decode_fails(options: dict[str, object]) -> None:
    content = _jpeg(_photo(257, 263), **options)
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(40):
        damaged = bytearray(content)
        for place in (*rng.integers(2, 700, size=2), rng.integers(2, len(content))):
            damaged[place] = rng.integers(256)
        verdicts.append((_decodes(bytes(damaged), in_full=False), _decodes(bytes(damaged), in_full=True)))
    assert [scaled for scaled, _ in verdicts] == [full for _, full in verdicts]
    assert {scaled for scaled, _ in verdicts} == {True, False}


@pytest.mark.parametrize("name", ["nul\0byte.png", "lone\ud800surrogate.png"], ids=["nul", "surrogate"])
def test_scan__a_name_that_no_file_can_have_is_a_bad_image(tmp_path: Path, name: str) -> None:
    _photo(8, 8).save(tmp_path / "good.png")
    scan = _scan(_file_split(tmp_path / "good.png", tmp_path / name))
    assert list(scan.bad) == [1]


def test_duplicates__byte_equal_jpegs_and_the_png_of_their_pixels(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in ("a.jpg", "other.jpg", "b.jpg", "a.png")]
    _photo(264, 320).save(paths[0])
    _photo(264, 320, seed=1).save(paths[1])
    paths[2].write_bytes(paths[0].read_bytes())
    read_rgb(paths[0]).save(paths[3])
    (found,) = _duplicates(_file_split(*paths))
    assert found[0] == found[2] == found[3] != found[1]


def test_duplicates__across_splits_and_with_bad_images(tmp_path: Path) -> None:
    names = ["a.jpg", "bad.jpg", "b.jpg", "copy of b.jpg", "b.png", "text.png", "c.jpg"]
    for seed, name in enumerate(("a.jpg", "b.jpg", "c.jpg")):
        _photo(256, 264, seed=seed).save(tmp_path / name)
    (tmp_path / "copy of b.jpg").write_bytes((tmp_path / "b.jpg").read_bytes())
    (tmp_path / "bad.jpg").write_bytes((tmp_path / "b.jpg").read_bytes()[:-500])
    (tmp_path / "text.png").write_text("hello")
    read_rgb(tmp_path / "b.jpg").save(tmp_path / "b.png")
    paths = [tmp_path / name for name in names]
    first, second = _duplicates(_file_split(*paths[:3]), _file_split(*paths[3:]))
    assert first[1] == second[2] == ""  # bad
    assert first[2] == second[0] == second[1] != ""  # b
    assert len({first[0], first[2], second[3]}) == 3  # a, b, c


def _specks(height: int, width: int) -> Image.Image:
    """Return white paper with black specks."""
    return Image.fromarray(np.where(np.random.default_rng(0).random((height, width)) < 0.1, 0, 255).astype(np.uint8))


def _bar(height: int, width: int) -> Image.Image:
    """Return a black bar on white, just right of three fourths of the width."""
    pixels = np.full((height, width), 255, dtype=np.uint8)
    pixels[:, width * 3 // 4 :][:, :8] = 0
    return Image.fromarray(pixels)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        pytest.param(_photo(256, 256), {}, id="photo"),
        pytest.param(_photo(257, 257), {}, id="photo of odd size"),
        pytest.param(_photo(259, 345, seed=3), {}, id="photo of other odd size"),
        pytest.param(_photo(264, 320), {"progressive": True}, id="progressive"),
        pytest.param(_photo(264, 320), {"quality": 5}, id="low quality"),
        pytest.param(_photo(264, 320).convert("L"), {}, id="grey"),
        pytest.param(_photo(264, 320).convert("CMYK"), {}, id="CMYK"),
        pytest.param(_bar(264, 264), {}, id="bar"),
        pytest.param(_bar(257, 257), {}, id="bar of odd size"),
        pytest.param(_bar(261, 263), {}, id="bar of other odd size"),
        pytest.param(_specks(256, 256), {"quality": 75}, id="specks"),
        pytest.param(_specks(256, 256), {"quality": 30}, id="specks, low quality"),
    ],
)
@pytest.mark.parametrize("orientation", [1, 8])
def test_duplicates__a_jpeg_and_the_png_of_its_pixels(
    tmp_path: Path, image: Image.Image, options: dict[str, object], orientation: int
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    image.save(tmp_path / "a.jpg", exif=exif, **options)
    read_rgb(tmp_path / "a.jpg").save(tmp_path / "a.png")
    jpeg, png = _duplicates(_file_split(tmp_path / "a.jpg", tmp_path / "a.png"))[0]
    assert jpeg == png != ""


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_duplicates__jpegs_that_differ_within_their_8x8_blocks_only_are_none(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    means = np.kron(rng.integers(60, 196, size=(32, 33)), np.ones((8, 8), dtype=np.int64))
    step = np.tile(np.repeat([20, -20], 4), 33)  # as much up as down in every block
    for name, sign in (("a.jpg", 1), ("b.jpg", -1), ("c.jpg", 1)):
        Image.fromarray((means + sign * step).astype(np.uint8)).convert(mode).save(tmp_path / name, quality=90)
    split = _file_split(*(tmp_path / name for name in ("a.jpg", "b.jpg", "c.jpg")))
    scan = _scan(split)
    assert len({look and look.fingerprint for look in scan.looks}) == 1  # alike at 1/8
    assert not np.array_equal(np.asarray(split.read(0)), np.asarray(split.read(1)))
    (found,) = _duplicates(split)
    assert found[0] == found[2] != found[1]


def test_duplicates__a_png_that_is_off_by_one_pixel_is_none(tmp_path: Path) -> None:
    _photo(256, 256).save(tmp_path / "a.jpg")
    pixels = np.array(read_rgb(tmp_path / "a.jpg"))
    pixels[100, 7, 1] ^= 1
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert len(set(_duplicates(_file_split(tmp_path / "a.jpg", tmp_path / "a.png"))[0])) == 2


def test_duplicates__plain_jpegs_of_different_sizes_are_none(tmp_path: Path) -> None:
    sizes = [(297, 304), (298, 304), (304, 304), (304, 297)]  # at 1/8 all are 38 x 38
    for number, (height, width) in enumerate(sizes):
        Image.new("RGB", (width, height), (10, 20, 30)).save(tmp_path / f"{number}.jpg")
    split = _file_split(*(tmp_path / f"{number}.jpg" for number in range(4)))
    assert _scan(split).sizes.tolist() == [list(size) for size in sizes]
    assert len(set(_duplicates(split)[0])) == 4


def test_duplicates__only_look_alikes_are_decoded_in_full(tmp_path: Path) -> None:
    for number in range(4):
        _photo(256, 256, seed=number).save(tmp_path / f"{number}.jpg")
    (tmp_path / "4.jpg").write_bytes((tmp_path / "2.jpg").read_bytes())
    images = CountingImages(tuple(str(tmp_path / f"{number}.jpg") for number in range(5)))
    split = split_from_names("train", images, ["a"] * 5)
    scan = _scan(split)
    images.opened.clear()
    (found,) = exact_duplicates([(split, scan)], num_threads=2, conversation=Conversation())
    assert sorted(images.opened) == [2, 4]
    assert [found.index(text) for text in found] == [0, 1, 2, 3, 2]


def test_duplicates__a_file_that_changed_since_the_scan_is_an_error(tmp_path: Path) -> None:
    paths = [tmp_path / "a.jpg", tmp_path / "b.jpg"]
    _photo(256, 256).save(paths[0])
    paths[1].write_bytes(paths[0].read_bytes())
    split = _file_split(*paths)
    scan = _scan(split)
    paths[1].unlink()
    with pytest.raises(DataError, match=r"b\.jpg cannot be read any more: no such file\."):
        exact_duplicates([(split, scan)], num_threads=1, conversation=Conversation())


def _partition(texts: Sequence[str]) -> set[frozenset[int]]:
    return {frozenset(p for p, other in enumerate(texts) if other == text) for text in set(texts)}


def test_duplicates__the_same_as_comparing_all_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paths: list[Path] = []
    for number in range(30):
        path = tmp_path / f"{number}.{'jpg' if number < 18 else 'png'}"
        size = [(256, 256), (256, 264), (40, 50)][rng.integers(3)]
        image = _photo(*size, seed=int(rng.integers(3)))
        if rng.random() < 0.5:
            image = Image.open(io.BytesIO(_jpeg(image)))  # the pixels of a JPEG, saved as whatever
        image.save(path, **({"quality": 75} if number < 18 else {}))
        paths.append(path)
    (found,) = _duplicates(_file_split(*paths))
    pixels = [pixel_hash(read_rgb(path)) for path in paths]
    assert _partition(found) == _partition(pixels)
    assert 5 < len(set(pixels)) < 25


@pytest.mark.parametrize("orientation", range(1, 9))
def test_look__the_thumbnail_of_a_scaled_jpeg_shows_what_the_full_image_shows(tmp_path: Path, orientation: int) -> None:
    rows, columns = np.mgrid[:257, :265]  # 1/8 of it is rounded up by most of a pixel, at the stored right and bottom
    ramp = np.minimum((rows % 65) * 3.9, 255) * 0.5 + np.minimum((columns % 67) * 3.8, 255) * 0.5
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(np.rint(ramp).astype(np.uint8)).save(tmp_path / "a.jpg", quality=95, exif=exif)
    with Image.open(tmp_path / "a.jpg") as image:
        look = look_at(image)
    assert look.is_scaled
    in_full = look_at(read_rgb(tmp_path / "a.jpg"))
    scaled, full = (_coarse([Place(0, 0)], {Place(0, 0): one})[0].astype(int) for one in (look, in_full))
    assert np.abs(scaled - full).max() <= 4  # 2 seen; 7 or more where the wrong part is taken
