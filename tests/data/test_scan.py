"""Every bad image is found before training, with its reason, and nothing is changed on disk."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation, Progress
from vitctl.data.images import pixel_hash
from vitctl.data.scan import Scan, check_bad_images, scan_images
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError


def _file_split(*paths: Path) -> Split:
    return split_from_names("train", FileImages(tuple(map(str, paths))), [path.parent.name for path in paths])


def _scan(split: Split, *, num_threads: int = 2) -> Scan:
    return scan_images(split, num_threads=num_threads, conversation=Conversation())


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
    assert [bool(digest) for digest in scan.pixel_hashes] == [True, False, False, False, False, True]


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
    assert scan.pixel_hashes == [pixel_hash(split.read(position)) for position in range(600)]
    assert scan.sizes.tolist() == [[6, 5]] * 600
    assert scan.bad == {}


def test_scan_of_a_part_numbers_its_own_positions(broken_files: dict[str, Path]) -> None:
    split = _file_split(*broken_files.values()).select([3, 0])
    assert list(_scan(split).bad) == [0]


def test_scan__no_images(drawn_split: Callable[..., Split]) -> None:
    scan = _scan(drawn_split(4).select([]))
    assert scan.sizes.shape == (0, 2)
    assert scan.good.tolist() == []


def test_scan_hashes_exact_duplicates_alike_whatever_their_format(tmp_path: Path) -> None:
    paths = [tmp_path / "a.png", tmp_path / "b.bmp", tmp_path / "c.png"]
    for path in paths:
        Image.new("RGB", (4, 4), "red" if path.name < "c" else "blue").save(path)
    first, second, third = _scan(_file_split(*paths)).pixel_hashes
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
    sizes = np.array([[0, 0] if position in bad else [6, 5] for position in range(len(split))], dtype=np.int64)
    return Scan(sizes, ["" if position in bad else "x" for position in range(len(split))], dict.fromkeys(bad, "broken"))


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
