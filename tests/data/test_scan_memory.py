"""What was seen once is not decoded again, what changed is, and a broken memory costs nothing but time."""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import PIL
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data import scan_memory
from vitctl.data.scan import Scan, exact_duplicates, scan_images, thumbnails
from vitctl.data.scan_memory import ScanMemory
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.data.training_data import check_training_data, open_training_sources
from vitctl.primitives.cache import CacheWarning, cache_folder

T = TypeVar("T")
NUM = 12
SETTLED_S = 0.03  # after that a file counts as unchanged by its times


class Ears(Conversation):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


@dataclass(frozen=True)
class CountingImages(FileImages):
    """Files that remember which were opened."""

    opened: list[int] = field(default_factory=list)

    def open(self, row: int) -> Image.Image:
        self.opened.append(row)
        return super().open(row)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache folder, which does not exist yet."""
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """Twelve image files, no two alike."""
    rng = np.random.default_rng(0)
    (tmp_path / "data" / "cat").mkdir(parents=True)
    found = [tmp_path / "data" / "cat" / f"{number}.png" for number in range(NUM)]
    for number, path in enumerate(found):
        Image.fromarray(rng.integers(0, 256, size=(5, 3 + number, 3), dtype=np.uint8)).save(path)
    return found


def _split(paths: Iterable[Path]) -> Split:
    """Return a split of files; a new one, as another run would have it."""
    names = tuple(map(str, paths))
    return split_from_names("train", CountingImages(names), ["cat"] * len(names))


def _opened(split: Split) -> list[int]:
    assert isinstance(split.images, CountingImages)
    return sorted(split.images.opened)


def _scan(split: Split, conversation: Conversation | None = None) -> Scan:
    time.sleep(SETTLED_S)
    return scan_images(split, num_threads=2, conversation=conversation or Conversation())


def _rescan(paths: Iterable[Path]) -> tuple[Scan, list[int]]:
    """Scan as a new run would; return what it saw, and which files it opened."""
    split, ears = _split(paths), Ears()
    scan = _scan(split, ears)
    assert ears.warnings == []
    return scan, _opened(split)


def _state(folder: Path) -> dict[str, tuple[int, int, bytes | None]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.read_bytes() if path.is_file() else None)
        for path in (folder, *folder.rglob("*"))
    }


def test_a_second_scan_decodes_nothing_and_says_the_same(paths: list[Path]) -> None:
    first, opened = _rescan(paths)
    assert opened == list(range(NUM))
    assert first.sizes.tolist() == [[5, 3 + number] for number in range(NUM)]
    second, opened = _rescan(paths)
    assert opened == []
    assert second == first


def test_the_order_and_choice_of_images_is_the_splits_own(paths: list[Path]) -> None:
    _rescan(paths)
    scan, opened = _rescan([paths[7], paths[2]])
    assert opened == []
    assert scan.sizes.tolist() == [[5, 10], [5, 5]]
    part = _split(paths).select([4, 11, 0])
    assert _scan(part).sizes.tolist() == [[5, 7], [5, 14], [5, 3]]
    assert _opened(part) == []


def test_an_image_that_occurs_twice_is_recalled_twice(paths: list[Path]) -> None:
    _rescan(paths)
    twice = _split([paths[3], paths[3], paths[5]])
    assert _scan(twice).sizes.tolist() == [[5, 6], [5, 6], [5, 8]]
    assert _opened(twice) == []


def test_new_files_alone_are_looked_at(paths: list[Path]) -> None:
    _rescan(paths[:8])
    assert _rescan(paths)[1] == [8, 9, 10, 11]


def test_a_file_of_another_size_is_looked_at_again(paths: list[Path]) -> None:
    _rescan(paths)
    status = paths[4].stat()
    Image.new("L", (50, 40)).save(paths[4])
    os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert paths[4].stat().st_size != status.st_size
    scan, opened = _rescan(paths)
    assert opened == [4]
    assert scan.sizes[4].tolist() == [40, 50]
    assert _rescan(paths)[1] == []


def test_a_file_of_another_time_is_looked_at_again(paths: list[Path], tmp_path: Path) -> None:
    first, _ = _rescan(paths)
    for path, colour in ((tmp_path / "black.bmp", 0), (tmp_path / "white.bmp", 255)):
        Image.new("RGB", (4, 4), (colour,) * 3).save(path)  # as many bytes each
    paths[4].write_bytes((tmp_path / "black.bmp").read_bytes())
    black, _ = _rescan(paths)
    status = paths[4].stat()
    paths[4].write_bytes((tmp_path / "white.bmp").read_bytes())
    os.utime(paths[4], ns=(status.st_atime_ns, status.st_mtime_ns + 1_000))
    assert paths[4].stat().st_size == status.st_size
    white, opened = _rescan(paths)
    assert opened == [4]
    looks = [scan.looks[4] for scan in (first, black, white)]
    assert len({look.fingerprint for look in looks if look}) == 3
    assert looks[2] is not None
    assert (thumbnails([looks[2]]) == 255).all()


def test_a_file_that_changes_while_it_is_looked_at_is_looked_at_again(paths: list[Path]) -> None:
    class Changing(CountingImages):
        def open(self, row: int) -> Image.Image:
            image = super().open(row)
            image.load()
            if row == 4:
                Image.new("L", (50, 40)).save(self.paths[row])
            return image

    names = tuple(map(str, paths))
    _scan(split_from_names("train", Changing(names), ["cat"] * NUM))
    scan, opened = _rescan(paths)
    assert opened == [4]
    assert scan.sizes[4].tolist() == [40, 50]


def test_a_removed_file_is_bad_however_well_remembered(paths: list[Path]) -> None:
    _rescan(paths)
    content, status = paths[6].read_bytes(), paths[6].stat()
    paths[6].unlink()
    scan, opened = _rescan(paths)
    assert scan.bad == {6: "no such file"}
    assert opened == [6]
    paths[6].write_bytes(content)
    os.utime(paths[6], ns=(status.st_atime_ns, status.st_mtime_ns))
    scan, opened = _rescan(paths)
    assert (scan.bad, opened) == ({}, [6])  # another file, whatever its name, size and time
    assert _rescan(paths)[1] == []


def test_bad_images_are_not_remembered_so_a_repaired_one_is_seen(paths: list[Path]) -> None:
    content = paths[2].read_bytes()
    paths[2].write_bytes(bytes(len(content)))
    status = paths[2].stat()
    for _ in range(2):
        scan, _ = _rescan(paths)
        assert scan.bad == {2: "not an image that Pillow knows"}
    assert _rescan(paths)[1] == [2]
    paths[2].write_bytes(content)
    os.utime(paths[2], ns=(status.st_atime_ns, status.st_mtime_ns))  # size and time as before
    scan, opened = _rescan(paths)
    assert (scan.bad, opened) == ({}, [2])
    assert scan.sizes[2].tolist() == [5, 5]


def test_another_pillow_looks_again(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    _rescan(paths)
    monkeypatch.setattr(PIL, "__version__", PIL.__version__ + ".post1")
    assert _rescan(paths)[1] == list(range(NUM))
    assert _rescan(paths)[1] == []


def _database(cache: Path) -> Path:
    (found,) = cache.iterdir()
    return found


def _entries(cache: Path) -> list[tuple[str, bytes]]:
    connection = sqlite3.connect(_database(cache))
    try:
        return connection.execute("SELECT what, name FROM seen ORDER BY name").fetchall()
    finally:
        connection.close()


def test_images_in_memory_are_not_stored(drawn_split: Callable[..., Split], paths: list[Path], cache: Path) -> None:
    _rescan(paths[:2])
    first, second = _scan(drawn_split(9)), _scan(drawn_split(9))
    assert first == second
    assert first.sizes.tolist() == [[6, 5]] * 9
    assert _entries(cache) == [("look", os.fsencode(path)) for path in paths[:2]]


def test_a_name_that_is_not_utf_8_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = Path(os.fsdecode(os.fsencode(tmp_path / "data") + b"/caf\xe9.png"))
    try:
        Image.new("L", (7, 5)).save(path)
    except OSError:
        pytest.skip("this file system has UTF-8 names only")
    assert _rescan([path])[1] == [0]
    scan, opened = _rescan([path])
    assert opened == []
    assert scan.sizes.tolist() == [[5, 7]]


def test_nothing_is_written_beside_the_images(paths: list[Path], tmp_path: Path, cache: Path) -> None:
    before = _state(tmp_path / "data")
    _rescan(paths)
    _rescan(paths)
    assert _state(tmp_path / "data") == before
    assert {path.name for path in tmp_path.iterdir()} == {"data", "cache"}
    assert len(list(cache.iterdir())) == 1


class _Stops(Conversation):
    """A conversation that breaks off after five images."""

    def track(self, items: Iterable[T], description: str, total: int, unit: str) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == 5:
                raise RuntimeError("the lights went out")
            yield item


def test_an_interrupted_scan_keeps_what_it_saw(paths: list[Path]) -> None:
    with pytest.raises(RuntimeError, match="the lights went out"):
        _scan(_split(paths), _Stops())
    scan, opened = _rescan(paths)
    assert opened == list(range(5, NUM))
    assert len(scan.good) == NUM


def test_a_scan_interrupted_from_the_keyboard_keeps_what_it_saw(paths: list[Path]) -> None:
    class Interrupted(CountingImages):
        def open(self, row: int) -> Image.Image:
            if row == 5:
                raise KeyboardInterrupt
            return super().open(row)

    names = tuple(map(str, paths))
    with pytest.raises(KeyboardInterrupt):
        _scan(split_from_names("train", Interrupted(names), ["cat"] * NUM))
    assert _rescan(paths)[1] == list(range(5, NUM))


def test_full_hashes_of_look_alikes_are_remembered_too(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.jpg", tmp_path / "b.jpg"
    Image.effect_noise((256, 256), 60).save(path)
    copy.write_bytes(path.read_bytes())
    texts, counts = [], []
    for _ in range(2):
        split = _split([path, copy])
        texts.append(exact_duplicates([(split, _scan(split))], num_threads=1, conversation=Conversation()))
        counts.append(_opened(split))
    assert counts == [[0, 0, 1, 1], []]
    assert texts[0] == texts[1]
    assert texts[0][0][0] == texts[0][0][1]


def _overwritten(content: bytes, start: int, stop: int) -> bytes:
    return content[:start] + b"\x55" * (stop - start) + content[stop:]


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda content: b"", id="empty"),
        pytest.param(lambda content: b"hello" * 2_000, id="text"),
        pytest.param(lambda content: content[:50], id="cut in the first line"),
        pytest.param(lambda content: content[: len(content) // 2], id="cut in the middle"),
        pytest.param(lambda content: _overwritten(content, 0, 100), id="no header"),
        pytest.param(lambda content: _overwritten(content, 4_096, len(content)), id="broken pages"),
        pytest.param(lambda content: _overwritten(content, 100, 4_096), id="broken first page"),
    ],
)
def test_a_damaged_memory_is_replaced(paths: list[Path], cache: Path, damage: Callable[[bytes], bytes]) -> None:
    first, _ = _rescan(paths)
    _database(cache).write_bytes(damage(_database(cache).read_bytes()))
    split = _split(paths)
    assert _scan(split, Ears()) == first  # with a warning or without
    assert _opened(split) == list(range(NUM))
    _scan(_split(paths), Ears())
    again, opened = _rescan(paths)
    assert again == first
    assert opened == []


def test_a_cache_that_cannot_be_written_gives_one_warning_and_a_right_scan(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right, _ = _rescan(paths)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "file" / "cache"))
    ears, split = Ears(), _split(paths)
    assert _scan(split, ears) == right
    assert _opened(split) == list(range(NUM))
    (warning,) = ears.warnings
    assert str(tmp_path / "file" / "cache") in warning
    assert "checks all images again" in warning


def test_a_memory_that_takes_nothing_new_is_still_read_and_gives_one_warning(paths: list[Path], cache: Path) -> None:
    _rescan(paths[:8])
    connection = sqlite3.connect(_database(cache))
    connection.executescript(
        "CREATE TRIGGER refuse BEFORE INSERT ON seen BEGIN SELECT RAISE(ABORT, 'attempt to write'); END"
    )
    connection.close()
    ears, split = Ears(), _split(paths)
    assert len(_scan(split, ears).good) == NUM
    assert _opened(split) == [8, 9, 10, 11]
    assert len(ears.warnings) == 1


def test_a_cache_that_cannot_be_written_gives_one_warning_per_run(
    tmp_path: Path, write_classes: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_classes(tmp_path / "pets" / "train", cat=5, dog=5)
    write_classes(tmp_path / "pets" / "val", cat=2, dog=2, first=1)
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "file" / "cache"))
    ears = Ears()
    sources = open_training_sources(str(tmp_path / "pets"), val=None, val_fraction=None)
    data = check_training_data(sources, val_fraction=None, seed=0, skip_bad=False, num_threads=1, conversation=ears)
    assert len(data.sizes) == 10
    assert len(ears.warnings) == 1


def test_the_cache_folder_is_the_one_the_environment_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, paths: list[Path]
) -> None:
    def used(folder: Path) -> bool:
        """Return whether a scan writes its memory there."""
        assert cache_folder() == folder
        assert not folder.exists()
        assert _rescan(paths)[1] == list(range(NUM))
        return [path.suffix for path in folder.iterdir()] == [".sqlite"]

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert used(tmp_path / "cache")  # VITCTL_CACHE
    monkeypatch.setenv("VITCTL_CACHE", "~/mine")
    assert used(tmp_path / "home" / "mine")
    monkeypatch.setenv("VITCTL_CACHE", "")
    assert used(tmp_path / "xdg" / "vitctl")
    monkeypatch.delenv("VITCTL_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert used(tmp_path / "home" / ".cache" / "vitctl")


@dataclass(frozen=True)
class _Stamped:
    """As many names and stamps as needed, without a file."""

    number: int

    def __len__(self) -> int:
        return self.number

    def open(self, row: int) -> Image.Image:
        raise AssertionError("nothing needs to be opened")

    def name(self, row: int) -> str:
        return f"image {row}"

    def stamp(self, row: int) -> str:
        return f"stamp {row}"


def test_many_entries_are_written_in_between_and_all_recalled() -> None:
    number = 12_001
    split = split_from_names("train", _Stamped(number), ["cat"] * number)
    with ScanMemory(Ears()) as memory:
        assert memory.recall("look", split, range(number)) == {}
        for position in range(number):
            memory.keep("look", split, position, f"text {position}")
        with ScanMemory(Ears()) as other:  # another process, while the first is at work
            early = other.recall("look", split, range(number))
        assert 5_000 <= len(early) < number
    with ScanMemory(Ears()) as memory:
        late = memory.recall("look", split, range(number))
        assert late == {position: f"text {position}" for position in range(number)}
        assert memory.recall("pixels", split, range(number)) == {}
        assert memory.recall("look", split, [7, 3]) == {7: "text 7", 3: "text 3"}


def test_what_is_kept_again_takes_the_place_of_the_old() -> None:
    split = split_from_names("train", _Stamped(2), ["cat"] * 2)
    for text in ("old", "new"):
        with ScanMemory(Ears()) as memory:
            memory.recall("look", split, [1])
            memory.keep("look", split, 1, text)
            memory.keep("pixels", split, 1, f"{text} pixels")
    with ScanMemory(Ears()) as memory:
        assert memory.recall("look", split, [0, 1]) == {1: "new"}
        assert memory.recall("pixels", split, [0, 1]) == {1: "new pixels"}


@pytest.mark.parametrize(
    "text",
    [
        "{", "[]", "5", '["a", 3, "RGB", "PNG", false, "00", "00"]', '[5, true, "RGB", "PNG", false, "00", "00"]',
        '[5, 3, "RGB", "PNG", 0, "00", "00"]', "[" * 100_000, "9" * 6000, b"\xff", None, 7,
    ],
)  # fmt: skip
def test_an_entry_that_is_not_ours_is_unknown(paths: list[Path], cache: Path, text: object) -> None:
    right, _ = _rescan(paths)
    connection = sqlite3.connect(_database(cache))
    with connection:
        connection.execute("UPDATE seen SET text = ?", (text,))
        rows = (
            connection.execute("SELECT what, name, stamp, text FROM seen").fetchall() if isinstance(text, str) else []
        )
        for what, name, stamp, _ in rows:  # whole, and yet nothing that we wrote
            digest = scan_memory._checksum(what, name, stamp, text)
            connection.execute("UPDATE seen SET checksum = ? WHERE name = ?", (digest, name))
    connection.close()
    ears, split = Ears(), _split(paths)
    assert _scan(split, ears) == right
    assert _opened(split) == list(range(NUM))
    assert len(ears.warnings) == (not isinstance(text, str))


@pytest.mark.parametrize(
    ("statement", "doubtful"),
    [
        ("UPDATE seen SET text = replace(text, 'RGB', 'L') WHERE CAST(name AS TEXT) LIKE '%/4.png'", [4]),
        ("UPDATE seen SET stamp = 'x' || stamp", list(range(NUM))),
        ("UPDATE seen SET checksum = checksum + 1 WHERE CAST(name AS TEXT) LIKE '%/1.png'", [1]),
        ("UPDATE seen SET text = X'FF00', checksum = NULL WHERE CAST(name AS TEXT) LIKE '%/2.png'", [2]),
        ("UPDATE seen SET text = CAST(X'FFFE' AS TEXT) WHERE CAST(name AS TEXT) LIKE '%/3.png'", [3]),
        ("DROP TABLE seen; CREATE TABLE seen (colour TEXT)", list(range(NUM))),
    ],
)
def test_an_entry_that_does_not_verify_is_looked_at_again_and_said_once(
    paths: list[Path], cache: Path, statement: str, doubtful: list[int]
) -> None:
    first, _ = _rescan(paths)
    connection = sqlite3.connect(_database(cache))
    connection.executescript(statement)
    connection.close()
    ears, split = Ears(), _split(paths)
    assert _scan(split, ears) == first
    assert _opened(split) == doubtful
    assert len(ears.warnings) == 1
    assert "is damaged" in ears.warnings[0]
    _scan(_split(paths), Ears())  # a table of another shape is made anew first
    assert _rescan(paths)[1] == []


def test_a_file_that_has_just_changed_is_not_believed_later(paths: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    now = max(path.stat().st_ctime_ns for path in paths) + 1_000_000
    monkeypatch.setattr("time.time_ns", lambda: now)
    _rescan(paths)
    monkeypatch.undo()
    assert _rescan(paths)[1] != []  # those of the last 20 ms before that moment
    assert _rescan(paths)[1] == []


def test_without_a_home_nothing_is_remembered_and_nothing_made(
    paths: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VITCTL_CACHE")
    monkeypatch.setenv("HOME", "")
    with pytest.warns(CacheWarning, match="no home folder"):
        scan, opened = _rescan(paths)
    assert (len(scan.good), len(opened)) == (NUM, NUM)
    assert list(Path.cwd().iterdir()) == []


def test_what_earlier_versions_kept_is_cleared(paths: list[Path], cache: Path) -> None:
    cache.mkdir()
    stay = {"scan-1.sqlite3", "scan-10.sqlite", "my-scan-1.sqlite", "scan-1.sqlite-journal.txt"}
    for name in ("scan-1.sqlite", "scan-1.sqlite-journal", *stay):
        (cache / name).write_bytes(b"old")
    _scan(_split(paths))
    assert {path.name for path in cache.iterdir()} == {*stay, f"scan-{scan_memory.VERSION}.sqlite"}
