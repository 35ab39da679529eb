"""An image that was replaced after it was checked is noticed where it is opened, one that is the same is not."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.checked_images import CheckedImages, good_images
from vitctl.data.loader import evaluation_batches
from vitctl.data.scan import scan_images
from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import DataError
from vitctl.primitives.preprocessing import Preprocessing

TRANSFORM = EvaluationTransform(Preprocessing((8, 8), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3))


@pytest.fixture
def split(tmp_path: Path, write_classes: Callable[..., Path]) -> Split:
    """Images that were checked: two of each class."""
    listed = open_source(str(write_classes(tmp_path / "images", a=2, b=2))).split("all")
    time.sleep(0.03)  # a file that has just changed is compared by its content
    return good_images(listed, scan_images(listed, num_threads=1, conversation=Conversation()))


def _first(split: Split) -> Path:
    return Path(split.image_name(0))


def _other(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return Image.fromarray(255 - np.asarray(image.convert("RGB")))


def _replaced(path: Path) -> None:
    _other(path).save(path.with_name("new.png"))
    shutil.copystat(path, path.with_name("new.png"))
    os.replace(path.with_name("new.png"), path)


def _overwritten(path: Path) -> None:
    status = path.stat()
    _other(path).save(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [_replaced, _overwritten])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_another_image__one_sentence(split: Split, change: Callable[[Path], None], num_workers: int) -> None:
    change(_first(split))
    batches = evaluation_batches(split, TRANSFORM, batch_size=4, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^[^\n]*\.png is not the image that was checked[^\n]*$") as caught:
        list(batches)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "change",
    [
        os.utime,
        lambda path: path.chmod(0o600),
        lambda path: os.link(path, path.with_name("link")),
        lambda path: path.write_bytes(path.read_bytes()),
    ],
)
def test_the_same_image_in_a_file_that_changed__no_error(split: Split, change: Callable[[Path], object]) -> None:
    before = split.images.stamp(0)
    expected = np.asarray(split.read(0))
    change(_first(split))
    assert split.images.stamp(0) != before
    assert np.array_equal(np.asarray(split.read(0)), expected)


def test_unchanged__opened_once(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(split.images, CheckedImages)
    opened = []
    original = type(split.images.original)
    real = original.open
    monkeypatch.setattr(original, "open", lambda self, row: (opened.append(row), real(self, row))[1])
    split.read(0)
    assert opened == [0]


def test_shards_replaced_while_they_are_read(tmp_path: Path, split: Split) -> None:
    import tarfile

    def pack(*, inverted: bool) -> None:
        with tarfile.open(tmp_path / "new.tar", "w") as archive:
            for name in map(Path, split.image_names()):
                if inverted:
                    _other(name).save(name)
                archive.add(name, f"{name.parent.name}/{name.name}")
        os.replace(tmp_path / "new.tar", tmp_path / "a.tar")

    pack(inverted=False)
    time.sleep(0.03)
    listed = open_source(str(tmp_path / "a.tar")).split("all")
    packed = good_images(listed, scan_images(listed, num_threads=1, conversation=Conversation()))
    packed.read(0)
    pack(inverted=True)
    with pytest.raises(DataError, match="not the image that was checked"):
        packed.read(0)


def test_images_in_memory_are_left_as_they_are(drawn_split: Callable[..., Split]) -> None:
    drawn = drawn_split(3)
    good = good_images(drawn, scan_images(drawn, num_threads=1, conversation=Conversation()))
    assert good.images is drawn.images
