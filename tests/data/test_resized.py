"""Training images kept decoded and resized: the right pixels, found again, never used for a score."""

import errno
import io
import json
import os
import pickle
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from vitctl.conversation import Conversation, Progress
from vitctl.data.loader import training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.resized import resized_sizes, resized_split
from vitctl.data.scan import scan_images
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.data.transforms import EvaluationTransform, TrainingTransform
from vitctl.errors import DataError, SettingError
from vitctl.primitives.cache import CacheWarning
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.validation import validation_steps
from vitctl.workflows import evaluate, finetune

ORIENTATION = 0x0112  # EXIF tag
BICUBIC = Image.Resampling.BICUBIC


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of resized images; it does not exist yet."""
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "resized"


@dataclass(frozen=True)
class CountingImages(FileImages):
    """Files that remember which were opened."""

    opened: list[int] = field(default_factory=list)

    def open(self, row: int) -> Image.Image:
        self.opened.append(row)
        return super().open(row)


def held_out_images() -> list[str]:
    """Return the paths of the validation images of the run in ``out``."""
    listing = json.loads(Path("out/validation.json").read_text())
    return [f"{listing['data']}/{name}" for name in listing["images"]]


def _photo(height: int, width: int, *, seed: int) -> Image.Image:
    """Return smooth colours, different for every seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 50 + 2, width // 50 + 2, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), BICUBIC)


@pytest.fixture
def photos(tmp_path: Path) -> list[Path]:
    """Large and small images of several kinds."""
    folder = tmp_path / "photos"
    folder.mkdir()
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    _photo(300, 400, seed=0).save(folder / "wide.jpg")
    _photo(413, 301, seed=1).save(folder / "high.png")
    _photo(300, 450, seed=2).save(folder / "turned.jpg", exif=turned)
    _photo(20, 70, seed=3).save(folder / "small.jpg")
    _photo(200, 64, seed=4).save(folder / "narrow.jpg")
    return [folder / name for name in ("wide.jpg", "high.png", "turned.jpg", "small.jpg", "narrow.jpg")]


def _split(paths: list[Path], *, counting: bool = False) -> Split:
    images = (CountingImages if counting else FileImages)(tuple(map(str, paths)))
    return split_from_names("train", images, ["xy"[index % 2] for index in range(len(paths))])


def _resized(
    split: Split, *, short_side: int = 32, num_threads: int = 2, conversation: Conversation | None = None
) -> tuple[Split, Path]:
    silent = Conversation()
    time.sleep(0.03)  # files that have just changed are not found again
    sizes = scan_images(Split("", FileImages(tuple(split.image_names())), np.arange(len(split)), split.labels, ()),
                        num_threads=2, conversation=silent).sizes  # fmt: skip
    return resized_split(
        split, sizes, short_side=short_side, num_threads=num_threads, conversation=conversation or silent
    )


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((600, 800), 32, (32, 43)),  # 42.67
        ((800, 600), 32, (43, 32)),
        ((864, 1152), 768, (768, 1024)),
        ((3000, 4000), 768, (768, 1024)),
        ((20, 70), 32, (20, 70)),  # none is enlarged
        ((32, 33), 32, (32, 33)),
        ((33, 100), 32, (32, 97)),  # 96.97
        ((200, 3), 2, (133, 2)),
        ((1, 5000), 32, (1, 5000)),
    ],
)
def test_sizes(size: tuple[int, int], short_side: int, expected: tuple[int, int]) -> None:
    kept = resized_sizes(np.array([size, (7, 9)]), short_side)
    assert kept[0].tolist() == list(expected)
    assert kept.dtype == np.int64


@pytest.mark.parametrize("short_side", [32, 100, 1000])
def test_pixels_are_those_of_decoding_and_resizing(cache: Path, photos: list[Path], short_side: int) -> None:
    split, _ = _resized(_split(photos), short_side=short_side)
    wanted = {  # (height, width) for 32, 100 and 1000 px
        "wide.jpg": [(32, 43), (100, 133), (300, 400)],
        "high.png": [(44, 32), (137, 100), (413, 301)],
        "turned.jpg": [(48, 32), (150, 100), (450, 300)],
        "small.jpg": [(20, 70)] * 3,
        "narrow.jpg": [(100, 32), (200, 64), (200, 64)],
    }
    for position, path in enumerate(photos):
        height, width = wanted[path.name][[32, 100, 1000].index(short_side)]
        with Image.open(path) as image:
            image.draft("RGB", (short_side, short_side))
            by_hand = ImageOps.exif_transpose(image)
        if by_hand.size != (width, height):
            by_hand = by_hand.resize((width, height), BICUBIC)
        read = split.read(position)
        assert read.mode == "RGB"
        assert np.array_equal(np.asarray(read), np.asarray(by_hand)), path.name


def test_names_and_labels_are_the_originals(cache: Path, photos: list[Path]) -> None:
    original = _split(photos).select([3, 0, 4])
    split, _ = _resized(original)
    assert split.image_names() == [str(photos[index]) for index in (3, 0, 4)]
    assert split.labels.tolist() == original.labels.tolist() == [1, 0, 0]
    assert (split.class_names, split.name) == (("x", "y"), "train")
    part = split.select([2, 0])
    assert part.image_names() == [str(photos[4]), str(photos[3])]
    assert [part.read(position).size for position in range(2)] == [(32, 100), (70, 20)]


def test_it_pickles(cache: Path, photos: list[Path]) -> None:
    split, _ = _resized(_split(photos))
    again = pickle.loads(pickle.dumps(split))
    assert again.image_names() == split.image_names()
    for position in range(len(split)):
        assert np.array_equal(np.asarray(again.read(position)), np.asarray(split.read(position)))


def test_workers_read_the_same(cache: Path, photos: list[Path]) -> None:
    split, _ = _resized(_split(photos))
    preprocessing = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    transform = TrainingTransform(preprocessing, crop="random-resized-crop", crop_area=(0.5, 1.0), flip=True, seed=0)
    here, there = (
        [batch.images for batch in training_batches(split, transform, BatchPlan(5, 2, 10, 0), num_workers=workers)]
        for workers in (0, 2)
    )
    assert torch.equal(torch.cat(here), torch.cat(there))


def test_any_number_of_threads_writes_the_same(cache: Path, photos: list[Path]) -> None:
    contents = []
    for num_threads in (1, 4):
        _, folder = _resized(_split(photos * 3), num_threads=num_threads)
        contents.append(folder.read_bytes())
        folder.unlink()
    assert contents[0] == contents[1]
    assert len(contents[0]) == 3 * 3 * (32 * 43 + 44 * 32 + 48 * 32 + 20 * 70 + 100 * 32) + 3 * 5 * 4  # a checksum each


def test_the_second_call_decodes_nothing(cache: Path, photos: list[Path]) -> None:
    split = _split(photos, counting=True)
    _, folder = _resized(split)
    assert sorted(split.images.opened) == [0, 1, 2, 3, 4]
    again = _split(photos, counting=True)
    found, same_folder = _resized(again)
    assert [found.read(position).size for position in range(5)] == [(43, 32), (32, 44), (32, 48), (70, 20), (32, 100)]
    assert again.images.opened == []
    assert same_folder == folder
    assert folder.parent == cache
    assert list(cache.iterdir()) == [folder]


def test_a_changed_file_or_side_or_order_gets_a_folder_of_its_own(cache: Path, photos: list[Path]) -> None:
    split = _split(photos)
    folders = [_resized(split)[1], _resized(split, short_side=33)[1], _resized(split.select([1, 0, 2, 3, 4]))[1]]
    folders.append(_resized(split.select([0, 1, 2, 3]))[1])
    status = photos[0].stat()
    os.utime(photos[0], ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    folders.append(_resized(split)[1])
    with photos[0].open("ab") as file:
        file.write(b"\0")
    os.utime(photos[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    folders.append(_resized(split)[1])
    assert len(set(folders)) == 6
    assert set(cache.iterdir()) == set(folders)


def test_a_replaced_image_is_seen(cache: Path, photos: list[Path]) -> None:
    before = np.asarray(_resized(_split(photos))[0].read(0))
    _photo(300, 400, seed=9).save(photos[0])
    after = np.asarray(_resized(_split(photos))[0].read(0))
    assert not np.array_equal(before, after)


def _turn_a_bit(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 4
    path.write_bytes(content)


_DAMAGES = {
    "cut": lambda path: os.truncate(path, 100),
    "a bit of the first image": lambda path: _turn_a_bit(path, 0),
    "a bit of the last image": lambda path: _turn_a_bit(path, -5 * 4 - 1),
    "a bit of a checksum": lambda path: _turn_a_bit(path, -1),
}


@pytest.mark.parametrize("damage", ["gone", *_DAMAGES])
def test_a_folder_that_lost_its_pixels_is_made_again(cache: Path, photos: list[Path], damage: str) -> None:
    split, folder = _resized(_split(photos))
    expected = [np.asarray(split.read(position)) for position in range(5)]
    if damage == "gone":  # what cleans caches removes old files, not always their folders
        folder.unlink()
        split, _ = _resized(_split(photos))
    else:
        _DAMAGES[damage](folder)
        with pytest.warns(CacheWarning, match="resized is damaged, so it is made anew"):
            split, _ = _resized(_split(photos))
    assert all(np.array_equal(split.read(position), pixels) for position, pixels in enumerate(expected))


class _Stopping(Conversation):
    """Is interrupted while the third image is written."""

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        assert (description, total, unit) == ("resizing training images", 5, "images")

        class Bar(Progress):
            done = 0

            def advance(self, amount: int = 1, **facts: str) -> None:
                self.done += amount
                if self.done == 3:
                    raise KeyboardInterrupt

        yield Bar()


def test_interrupted_writing_leaves_nothing(cache: Path, photos: list[Path]) -> None:
    with pytest.raises(KeyboardInterrupt):
        _resized(_split(photos), conversation=_Stopping())
    assert list(cache.iterdir()) == []
    assert len(_resized(_split(photos))[0]) == 5


def test_a_file_that_vanished_is_one_sentence_and_leaves_nothing(cache: Path, photos: list[Path]) -> None:
    class Vanishing(CountingImages):
        def open(self, row: int) -> Image.Image:
            return super().open(row) if row != 3 else Image.open(f"{self.paths[row]} is gone")

    split = split_from_names("train", Vanishing(tuple(map(str, photos))), list("xyxyx"))
    with pytest.raises(DataError, match=r"^[^\n]*small\.jpg cannot be read any more: no such file\.$"):
        _resized(split)
    assert list(cache.iterdir()) == []


def test_a_file_that_vanished_before_the_cache_was_looked_for_is_the_same_sentence(
    cache: Path, photos: list[Path]
) -> None:
    sizes = scan_images(_split(photos), num_threads=2, conversation=Conversation()).sizes
    photos[3].unlink()
    with pytest.raises(DataError, match=r"^[^\n]*small\.jpg cannot be read any more: no such file\.$"):
        resized_split(_split(photos), sizes, short_side=32, num_threads=2, conversation=Conversation())


def test_a_full_disk_is_said_before_anything_is_written(
    cache: Path, photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(photos[0].parent)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage._replace(free=3000))
    split = _split(photos, counting=True)  # 26,760 bytes, 26.1 KiB
    with pytest.raises(SettingError, match=r"--cache resized needs 26\.1 KiB in .*resized, where 2\.93 KiB are free"):
        _resized(split)
    assert split.images.opened == []
    assert list(cache.iterdir()) == []


# --- whole runs --------------------------------------------------------------------------------------------


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Two classes of 6 JPEGs of 600 px each."""
    for label, name in enumerate(("day", "night")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(6):
            _photo(600, 600, seed=10 * label + index).save(tmp_path / "images" / name / f"{index}.jpg")
    return tmp_path / "images"


@pytest.fixture
def settings(photo_folder: Path, tiny_model_folder: Path) -> dict[str, object]:
    return {
        "data": str(photo_folder), "model": str(tiny_model_folder), "image_size": "16", "steps": 6, "batch_size": 4,
        "val_fraction": 0.34, "num_workers": 0, "cache": "resized", "out": "out", "overwrite": True, "head": "zero",
    }  # fmt: skip


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each image file was opened; and that validation got it whole."""
    counts: Counter[str] = Counter()
    really = FileImages.open

    def count(self: FileImages, row: int) -> Image.Image:
        counts[self.paths[row]] += 1
        return really(self, row)

    monkeypatch.setattr(FileImages, "open", count)
    return counts


@pytest.mark.usefixtures("no_rendering")
def test_run__twice_the_same_weights_and_the_second_opens_validation_images_only(
    cache: Path, settings: dict[str, object], opened: Counter[str]
) -> None:
    config = FinetuneConfig(**settings)
    first = finetune.run(config, Conversation())
    assert len(opened) == 12
    opened.clear()
    assert finetune.run(config, Conversation()).weights_sha256 == first.weights_sha256
    held_out = held_out_images()
    num_validations = len(validation_steps(6, 10))
    assert dict(opened) == dict.fromkeys(held_out, num_validations)
    assert len(held_out) == 4


@pytest.mark.usefixtures("no_rendering")
def test_run__validation_and_evaluate_read_the_originals(
    cache: Path, settings: dict[str, object], opened: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune.run(FinetuneConfig(**settings), Conversation())
    held_out = held_out_images()
    shutil.rmtree(cache)
    opened.clear()
    seen, pixels = [], EvaluationTransform.pixels
    monkeypatch.setattr(
        EvaluationTransform, "pixels", lambda self, image: (seen.append(image.size), pixels(self, image))[1]
    )
    report = evaluate.run(EvaluateConfig(run="out", num_workers=0), Conversation())
    assert set(opened) == set(held_out)
    assert seen == [(600, 600)] * 4
    summary = json.loads(Path("out/summary.json").read_text())
    assert report.nll == pytest.approx(summary["best"]["loss"], abs=1e-6)
    assert not cache.exists()


@pytest.mark.usefixtures("no_rendering")
def test_run__the_cache_holds_the_training_images_alone_at_twice_the_size(
    cache: Path, settings: dict[str, object], opened: Counter[str]
) -> None:
    finetune.run(FinetuneConfig(**settings), Conversation())
    (folder,) = cache.iterdir()
    # 8 training images; the transfer recipe cuts out 0.3 of the area at least, the model sees 16 px
    num_bytes = folder.stat().st_size - 8 * 4  # of checksums
    side = round((num_bytes / (8 * 3)) ** 0.5)
    assert num_bytes == 8 * 3 * side**2
    assert 32 <= side <= 40
    held_out = held_out_images()
    num_validations = len(validation_steps(6, 10))
    for path, times in opened.items():  # looked at, and resized or validated
        assert times >= 1 + (num_validations if path in held_out else 1)


def test_run__a_cache_in_memory_is_of_no_use() -> None:
    with pytest.raises(SettingError, match="--cache resized is of no use for digits: its images are in memory"):
        finetune.run(FinetuneConfig(cache="resized", out="out"), Conversation())
    assert not Path("out").exists()


class _FullDisk(io.BytesIO):
    def write(self, _content: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_run__a_disk_that_fills_up_is_one_sentence(
    cache: Path, settings: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    really = Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, *args, **kw: _FullDisk() if ".bin." in path.name else really(path, *args, **kw)
    )
    with pytest.raises(SettingError, match="VITCTL_CACHE"):
        finetune.run(FinetuneConfig(**settings), Conversation())
    assert list(cache.iterdir()) == []
    assert not Path("out").exists()


def test_run__a_cache_folder_that_cannot_be_written_is_one_sentence(
    settings: dict[str, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "file"))
    with pytest.raises(SettingError, match=r"file.*VITCTL_CACHE"):
        finetune.run(FinetuneConfig(**settings), Conversation())
    assert not Path("out").exists()


@pytest.mark.usefixtures("no_rendering")
def test_cli__header_config_and_repeat(
    run_cli: Callable, cache: Path, photo_folder: Path, tiny_model_folder: Path
) -> None:
    arguments = ["finetune", "--data", photo_folder, "--model", tiny_model_folder, "--image-size", 16, "--steps", 2]
    arguments += ["--num-workers", 0]
    first = run_cli(*arguments, "--cache", "resized", "--out", "a", "--json")
    assert first.exit_code == 0
    (row,) = (line for line in first.stderr.splitlines() if line.startswith("image cache"))
    # 10 squares of 32 px, 3 bytes a pixel: 30 KiB; a few more where small parts are cut out
    assert first.json["num_train"] == 10
    num_kib = re.fullmatch(r"image cache +resized, ([0-9.]+) KiB +short side up to 3[2-9] px, in .*", row)
    assert num_kib
    assert 30 <= float(num_kib[1]) < 47
    assert "".join(str(cache.parent).split("/")) in re.sub(r"[\s/]", "", first.stderr)  # over two lines
    assert json.loads(Path("a/config.json").read_text())["cache"] == "resized"
    (folder,) = cache.iterdir()
    changed = folder.stat().st_mtime_ns

    again = run_cli("finetune", "--config", "a/config.json", "--out", "b", "--json")
    assert again.json["weights_sha256"] == first.json["weights_sha256"]
    assert json.loads(Path("b/config.json").read_text())["cache"] == "resized"
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [changed]

    config = merge(config_from_file(Path("a/config.json")), {"cache": "none", "out": "c"})
    assert "image cache" not in run_cli(*arguments, "--dry-run").stderr
    assert finetune.run(config, Conversation()).weights_sha256 != first.json["weights_sha256"]


def test_cli__a_dry_run_writes_no_pixels(
    run_cli: Callable, cache: Path, photo_folder: Path, tiny_model_folder: Path
) -> None:
    result = run_cli(
        *("finetune", "--data", photo_folder, "--model", tiny_model_folder, "--image-size", 16),
        *("--cache", "resized", "--dry-run"),
    )
    assert result.exit_code == 0
    assert "image cache" in result.stderr
    assert not cache.exists()
