"""The lists of a run's images: what they hold, how they are read; and the digest of all of them."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.images import open_image, pixel_hash, read_rgb
from vitctl.data.run_images import images_digest
from vitctl.data.run_lists import (
    names_below_root,
    read_listing,
    trained_on,
    validation_document,
    write_training_list,
)
from vitctl.data.scan import look_at
from vitctl.data.training_data import TrainingData, check_training_data, open_training_sources
from vitctl.errors import DataError


def prepare(data: Path, *, seed: int = 0) -> TrainingData:
    sources = open_training_sources(str(data), val=None, val_fraction=0.25)
    return check_training_data(
        sources, val_fraction=0.25, seed=seed, skip_bad=False, num_threads=1, conversation=Conversation()
    )


@pytest.fixture
def data(tmp_path: Path, write_classes: Callable[..., Path]) -> Path:
    return write_classes(tmp_path / "photos", cat=6, dog=6)


@pytest.mark.parametrize(
    ("spec", "image_root", "name", "expected"),
    [
        ("/a/photos", None, "/a/photos/cat/1.png", "cat/1.png"),
        ("/a/photos.zip", None, "/a/photos.zip/cat/1.png", "cat/1.png"),
        ("/a/x-{0..9}.tar", None, "/a/x-3.tar/1.png", "x-3.tar/1.png"),
        ("/a/table.csv", None, "/a/img/1.png", "img/1.png"),
        ("/a/table.csv", "/b", "/b/img/1.png", "img/1.png"),
        ("/a/table.csv", None, "/c/1.png", "/c/1.png"),
        ("/a/photos", None, "cat/1.png", "cat/1.png"),
        ("/a/photos", None, "/a/photos-2/1.png", "photos-2/1.png"),
        ("digits", None, "digits/3", "digits/3"),
        ("/", None, "/a/1.png", "a/1.png"),
    ],
)
def test_names_below_root(spec: str, image_root: str | None, name: str, expected: str) -> None:
    assert names_below_root([name], spec, image_root=image_root) == [expected]


def test_hashes_are_those_of_the_pixels(data: Path) -> None:
    found = prepare(data)
    assert found.val is not None
    for split, hashes in ((found.train, found.hashes), (found.val, found.val_hashes)):
        assert list(hashes) == [pixel_hash(read_rgb(Path(name))) for name in split.image_names()]


def test_hash__one_for_the_same_pixels_in_every_format_and_in_an_array(tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (9, 7), dtype=np.uint8)  # as IDX files hold them
    grey = Image.fromarray(levels)
    for name, image in (("l.png", grey), ("rgb.png", grey.convert("RGB")), ("l.bmp", grey), ("l.tiff", grey)):
        image.save(tmp_path / name)
    hashes = {look_at(open_image(tmp_path / name)).fingerprint for name in ("l.png", "rgb.png", "l.bmp", "l.tiff")}
    assert hashes == {look_at(grey).fingerprint}
    assert look_at(grey.transpose(Image.Transpose.ROTATE_90)).fingerprint not in hashes


def test_lists__odd_names_stay_on_their_line(data: Path, tmp_path: Path) -> None:
    odd = (data / "cat" / "0.png", data / "cat" / 'new\nline " \u2028 \udcff.png')
    odd[0].rename(odd[1])
    found = prepare(data)
    write_training_list(tmp_path, found, image_root=None)
    lines = (tmp_path / "training-images.txt").read_bytes().decode().split("\n")
    names = [json.loads(line[33:]) for line in lines[:-1]]
    assert [str(data / name) for name in names] == found.train.image_names()
    assert [line[:32] for line in lines[:-1]] == list(found.hashes)
    document = validation_document(found, image_root=None)
    assert document is not None
    assert document["hashes"] == list(found.val_hashes)


def test_trained_on(data: Path, tmp_path: Path) -> None:
    found = prepare(data)
    asked = [*found.hashes[:2], *found.val_hashes, "", "f" * 32]
    assert trained_on(tmp_path, asked) is None
    write_training_list(tmp_path, found, image_root=None)
    assert trained_on(tmp_path, asked) == set(found.hashes[:2])


@pytest.mark.parametrize(
    "content", [b"no hash\n", b"0" * 32 + b' "a"', b"0" * 32 + b"\n", b"G" * 32 + b' "a"\n', b"0" * 32 + b" " * 2**17]
)
def test_trained_on__a_damaged_list_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "training-images.txt").write_bytes(b"1" * 32 + b' "a"\n' + content)
    with pytest.raises(DataError, match=r"training-images\.txt cannot be read: line 2 is no content hash and a name;"):
        trained_on(tmp_path, ["0" * 32])
    (tmp_path / "training-images.txt").unlink()
    (tmp_path / "training-images.txt").mkdir()
    with pytest.raises(DataError, match="it is a folder"):
        trained_on(tmp_path, ["0" * 32])


def test_listing__as_many_hashes_as_images(tmp_path: Path) -> None:
    assert read_listing(tmp_path, "Look.") is None
    (tmp_path / "validation.json").write_text('{"data": "digits", "images": ["a", "b"], "hashes": ["0"]}')
    with pytest.raises(DataError, match="has 2 images and 1 hashes"):
        read_listing(tmp_path, "Look.")


def test_digest__is_that_of_the_images_wherever_they_are(data: Path, tmp_path: Path) -> None:
    usual = images_digest(prepare(data))
    assert len(usual) == 32
    shutil.copytree(data, tmp_path / "copy")
    assert images_digest(prepare(tmp_path / "copy")) == usual
    assert images_digest(prepare(data, seed=1)) != usual
    (data / "cat" / "0.png").rename(data / "cat" / "9.png")  # another order
    assert images_digest(prepare(data)) != usual


def test_digest__every_part_counts(data: Path) -> None:
    found = prepare(data)
    assert found.val is not None
    swapped = [found.hashes[1], found.hashes[0], *found.hashes[2:]]
    others = [
        replace(found, hashes=swapped),
        replace(found, val_hashes=[]),
        replace(found, train=replace(found.train, labels=1 - found.train.labels)),
        replace(found, train=replace(found.train, class_names=("cat", "fox"))),
        replace(found, val=replace(found.val, labels=1 - found.val.labels)),
        replace(found, hashes=[*found.hashes, found.val_hashes[0]], val_hashes=found.val_hashes[1:]),
    ]
    assert len({images_digest(one) for one in (found, *others)}) == 7
