"""The same images through every kind of source: the same classes, labels, pixels and sizes, in the same order."""

import csv
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from PIL import ExifTags, Image

from vitctl.conversation import Conversation
from vitctl.data.images import read_rgb
from vitctl.data.scan import scan_images
from vitctl.data.source import Split
from vitctl.data.sources import open_source

CLASSES = ("2", "10", "zebra")
# height, width in px as stored; the third is a JPEG that the scan decodes at 1/8, turned by its EXIF
SIZES = ((5, 7), (12, 9), (300, 272), (1, 3))


def _write_images(folder: Path) -> None:
    rng = np.random.default_rng(1)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for number, size in enumerate(SIZES):
            coarse = rng.integers(0, 256, (-(-size[0] // 16), -(-size[1] // 16), 3), dtype=np.uint8)
            pixels = coarse.repeat(16, axis=0).repeat(16, axis=1)[: size[0], : size[1]]
            exif = Image.Exif()
            if number == 2:
                exif[ExifTags.Base.Orientation] = 6
            suffix = "jpg" if number % 2 == 0 else "png"
            Image.fromarray(pixels).save(folder / name / f"{number}.{suffix}", exif=exif)


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The same 3 x 4 images as every kind of source, by kind."""
    root = tmp_path_factory.mktemp("agree")
    folder = root / "images"
    _write_images(folder)
    paths = [Path(name) for name in open_source(str(folder)).split("all").image_names()]
    rows = [(str(path.relative_to(folder)), path.parent.name) for path in paths]
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file_name", "label"), *rows])
    lines = [json.dumps({"image": image, "label": label}) for image, label in rows]
    (folder / "table.jsonl").write_text("\n".join(lines))
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["zebra", "2", "10"])})
    dataset = Dataset.from_dict(
        {"image": list(map(str, paths)), "label": [label for _, label in rows]}, features=features
    )
    dataset.to_parquet(str(root / "table.parquet"))
    dataset.save_to_disk(root / "saved")
    with tarfile.open(root / "shard.tar", "w") as archive:
        for path, (image, _) in zip(paths, rows, strict=True):
            archive.add(path, arcname=image)
    places = {"folder": folder, "csv": folder / "table.csv", "jsonl": folder / "table.jsonl"}
    places |= {"parquet": root / "table.parquet", "saved": root / "saved", "tar": root / "shard.tar"}
    return {kind: str(place) for kind, place in places.items()}


@pytest.fixture(scope="module")
def splits(specs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Split]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VITCTL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield {kind: open_source(spec).split("all") for kind, spec in specs.items()}


KINDS = ["folder", "csv", "jsonl", "parquet", "saved", "tar"]


@pytest.mark.parametrize("kind", KINDS)
def test_classes_and_labels_agree(splits: dict[str, Split], kind: str) -> None:
    assert splits[kind].class_names == CLASSES
    assert splits[kind].labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert splits[kind].counts().tolist() == [4, 4, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_agree_in_order(splits: dict[str, Split], specs: dict[str, str], kind: str) -> None:
    names = [f"{label}/{number}.{'png' if number % 2 else 'jpg'}" for label in CLASSES for number in range(4)]
    expected = [np.asarray(read_rgb(Path(specs["folder"], name))) for name in names]
    assert len({one.tobytes() for one in expected}) == 12  # no two alike, so an exchange would show
    for position, pixels in enumerate(expected):
        np.testing.assert_array_equal(np.asarray(splits[kind].read(position)), pixels)


@pytest.mark.parametrize("kind", KINDS)
def test_scans_agree(splits: dict[str, Split], kind: str) -> None:
    scan = scan_images(splits[kind], num_threads=2, conversation=Conversation())
    assert scan.bad == {}
    assert scan.sizes.tolist() == [[5, 7], [12, 9], [272, 300], [1, 3]] * 3
    assert scan.looks == scan_images(splits["folder"], num_threads=2, conversation=Conversation()).looks
    assert [look.is_scaled for look in scan.looks if look] == [False, False, True, False] * 3
