"""A thousand damaged files: every reader comes to the verdict of a full decode, sees the same pixels, changes nothing.

The damage is seeded: cut files, runs of random bytes, zeros to the end, extensions of other formats.
"""

import hashlib
import io
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.endings import EXTENSIONS
from vitctl.data.files import list_images, read_batches
from vitctl.data.images import pixel_hash, to_rgb
from vitctl.data.loader import evaluation_batches
from vitctl.data.scan import Scan, exact_duplicates, scan_images
from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import evaluate, finetune

# Pillow's warnings are no verdict; what a user sees of them is a test of its own
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

NUM_FILES = 1_000
FORMATS = {"jpg": "jpeg", "jp2": "jpeg2000", "pgm": "ppm", "pbm": "ppm"}
TRANSFORM = EvaluationTransform(Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3))


def _photo(height: int, width: int) -> Image.Image:
    """Return smooth colours with a little noise."""
    rng = np.random.default_rng(height)
    coarse = rng.integers(0, 256, (height // 24 + 2, width // 24 + 2, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    return Image.fromarray((smooth + rng.integers(-6, 7, smooth.shape)).clip(0, 255).astype(np.uint8))


def _good_files() -> list[tuple[str, bytes]]:
    """Return (extension, content) of good images, small ones and some that the scan reads at 1/8."""
    small, large = _photo(45, 67), _photo(265, 330)
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation
    exif[0x010F] = "a camera"
    clear = small.convert("RGBA")
    clear.putalpha(small.convert("L"))
    frames = [small.rotate(angle).convert("P") for angle in (90, 180)]
    deep = Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
    kinds: list[tuple[str, Image.Image, dict[str, object]]] = [
        ("jpg", small, {}),
        ("jpg", small, {"progressive": True, "exif": exif}),
        ("jpg", small.convert("L"), {"restart_marker_blocks": 2}),
        ("jpg", large, {}),
        ("jpg", large, {"progressive": True}),
        ("jpg", large, {"subsampling": 0, "exif": exif}),
        ("jpg", large.convert("CMYK"), {"quality": 50}),
        ("png", small, {}),
        ("png", clear, {"exif": exif}),
        ("png", small.convert("P"), {"transparency": 3}),
        ("png", deep, {}),
        ("gif", small.convert("P"), {}),
        ("gif", small.convert("P"), {"save_all": True, "append_images": frames}),
        ("bmp", small, {}),
        ("bmp", small.convert("P"), {}),
        ("tiff", small, {}),
        ("tiff", small, {"compression": "tiff_lzw"}),
        ("tiff", clear, {"compression": "tiff_adobe_deflate"}),
        ("tiff", small, {"compression": "jpeg"}),
        ("tiff", small.convert("1"), {"compression": "group4"}),
        ("webp", small, {"quality": 80, "exif": exif}),
        ("webp", clear, {"lossless": True}),
        ("webp", large, {}),
        ("jp2", small, {}),
        ("ppm", small, {}),
        ("pgm", deep, {}),
        ("pbm", small.convert("1"), {}),
    ]
    files = []
    for extension, image, options in kinds:
        buffer = io.BytesIO()
        image.save(buffer, FORMATS.get(extension, extension), **options)
        files.append((extension, buffer.getvalue()))
    return files


def _damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Return ``content``, hurt in one of five ways, or whole."""
    # the beginning, where headers are, is hurt as often as all the rest
    place = int(rng.integers(min(len(content), 200) if rng.random() < 0.5 else len(content)))
    kind = rng.integers(6)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes(len(content) - place)
    if kind == 2:
        return content[: len(content) - int(rng.integers(1, 40))]  # the last bytes only
    if kind in (3, 4):
        run = rng.bytes(int(rng.integers(1, 4 if kind == 3 else 200)))
        return (content[:place] + run + content[place + len(run) :])[: len(content)]
    return content


@dataclass(frozen=True)
class Storm:
    """The folder, and what a full decode says of each file.

    Attributes:
        folder: Of class folders.
        hashes: Of the pixels, by path; "" where the image cannot be decoded.
        tensors: What a model sees of the good ones.
    """

    folder: Path
    hashes: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def rejected(self) -> set[str]:
        return {path for path, digest in self.hashes.items() if not digest}


@pytest.fixture(scope="module")
def storm(tmp_path_factory: pytest.TempPathFactory) -> Storm:
    folder = tmp_path_factory.mktemp("storm") / "images"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
    files = _good_files()
    hashes, tensors = {}, {}
    for number in range(NUM_FILES):
        rng = np.random.default_rng(number)
        extension, content = files[number % len(files)]
        suffix = rng.choice(EXTENSIONS) if rng.random() < 0.2 else f".{extension}"
        path = folder / "ab"[number // len(files) % 2] / f"{number}{suffix}"
        path.write_bytes(_damaged(content, rng))
        hashes[str(path)] = ""
        try:
            with Image.open(path) as image:
                image.load()
                pixels = to_rgb(image)
        except Exception:  # Pillow raises anything
            continue
        hashes[str(path)] = pixel_hash(pixels)
        tensors[str(path)] = TRANSFORM(pixels)
    return Storm(folder, hashes, tensors)


@pytest.fixture(autouse=True)
def _files_stay_as_they_are(storm: Storm) -> Iterator[None]:
    def state() -> dict[str, tuple[int, bytes]]:
        paths = sorted(path for path in storm.folder.rglob("*") if path.is_file())
        return {str(path): (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).digest()) for path in paths}

    before = state()
    assert len(before) == NUM_FILES
    yield
    assert state() == before


@pytest.fixture
def split(storm: Storm) -> Split:
    return open_source(str(storm.folder)).split("all")


def _scan(split: Split) -> Scan:
    return scan_images(split, num_threads=2, conversation=Conversation())


def test_storm__is_a_fair_one(storm: Storm) -> None:
    assert NUM_FILES // 4 < len(storm.rejected) < NUM_FILES * 3 // 4
    endings = {Path(path).suffix for path in storm.rejected}
    assert {".jpg", ".png", ".gif", ".bmp", ".tiff", ".webp", ".jp2", ".ppm", ".pgm"} <= endings
    assert {Path(path).suffix for path in storm.tensors} == set(EXTENSIONS)
    untouched = {hashlib.sha256(content).digest() for _, content in _good_files()}
    hurt = [path for path in storm.tensors if hashlib.sha256(Path(path).read_bytes()).digest() not in untouched]
    assert len(hurt) > 50  # hurt, and yet they decode


def test_scan__the_verdict_of_a_full_decode(storm: Storm, split: Split) -> None:
    scan = _scan(split)
    bad = {split.image_name(position) for position in scan.bad}
    assert sorted(bad - storm.rejected) == []
    assert sorted(storm.rejected - bad) == []
    assert any(look and look.is_scaled for look in scan.looks)
    for position in scan.good.tolist():
        look, pixels = scan.looks[position], split.read(position)
        assert look is not None
        assert (look.height, look.width) == (pixels.height, pixels.width)
        is_deep = look.brightest >= 0  # of 16 bits, whose own values are hashed
        assert look.is_scaled or is_deep or look.fingerprint == storm.hashes[split.image_name(position)]
    for reason in scan.bad.values():
        assert reason
        assert "\n" not in reason
        assert str(storm.folder) not in reason


def test_duplicates__are_those_of_a_full_decode(storm: Storm, split: Split) -> None:
    scan = _scan(split)
    (found,) = exact_duplicates([(split, scan)], num_threads=2, conversation=Conversation())
    groups: dict[str, set[str]] = {}
    expected: dict[str, set[str]] = {}
    for position, text in enumerate(found):
        name = split.image_name(position)
        if text or storm.hashes[name]:
            groups.setdefault(text, set()).add(name)
            expected.setdefault(storm.hashes[name], set()).add(name)
    assert sorted(map(sorted, groups.values())) == sorted(map(sorted, expected.values()))


def test_pixels__are_the_same_three_ways(storm: Storm, split: Split) -> None:
    good = split.select([position for position in range(len(split)) if split.image_name(position) in storm.tensors])
    names = good.image_names()
    assert [pixel_hash(good.read(position)) for position in range(len(good))] == [storm.hashes[name] for name in names]
    expected = torch.stack([storm.tensors[name] for name in names])
    batches = evaluation_batches(good, TRANSFORM, batch_size=50, num_workers=2)
    assert torch.equal(torch.cat(list(batches)), expected)
    listed, _ = list_images(str(storm.folder))
    assert sorted(listed) == sorted(storm.hashes)
    predicted = dict(item for batch in read_batches(listed, TRANSFORM, batch_size=50) for item in batch)
    assert {path for path, item in predicted.items() if isinstance(item, str)} == storm.rejected
    assert all(torch.equal(predicted[name], storm.tensors[name]) for name in names)


@pytest.mark.parametrize("least_side", [5, 32, 64, 128])
def test_training_reads__have_the_same_verdict_at_every_scale(storm: Storm, split: Split, least_side: int) -> None:
    for position, name in enumerate(split.image_names()):
        try:
            scaled = split.read(position, least_side=least_side)
        except Exception:  # Pillow raises anything
            assert name in storm.rejected
            continue
        assert name in storm.tensors
        full = split.read(position)
        if scaled.size == full.size:
            assert pixel_hash(scaled) == storm.hashes[name]
        else:
            assert min(scaled.size) >= least_side
            assert scaled.width / full.width == pytest.approx(scaled.height / full.height, abs=1 / least_side)


class _Ears(Conversation):
    def __init__(self) -> None:
        self.left_out: list[str] = []

    def warn(self, text: str) -> None:
        if text.startswith("left out: "):
            self.left_out.append(text.removeprefix("left out: ").split(": ")[0])


@pytest.mark.parametrize("cache", ["none", "resized"])
def test_finetune_and_evaluate__leave_out_what_a_full_decode_rejects(
    storm: Storm, tiny_model_folder: Path, cache: str
) -> None:
    ears = _Ears()
    settings = FinetuneConfig(
        data=str(storm.folder), model=str(tiny_model_folder), image_size="16", steps=1, batch_size=NUM_FILES,
        on_bad_image="skip", cache=cache, out="out",
    )  # fmt: skip
    summary = finetune.run(settings, ears)
    assert sorted(ears.left_out) == sorted(storm.rejected)
    assert summary.num_train + summary.num_val == len(storm.tensors)
    assert summary.num_val > 0

    ears = _Ears()
    report = evaluate.run(
        EvaluateConfig(run="out", data=str(storm.folder), split="all", on_bad_image="skip"),
        ears,
    )
    assert sorted(ears.left_out) == sorted(storm.rejected)
    assert report.num_skipped == len(storm.rejected)
    assert report.num_images == len(storm.tensors)


def test_command_line__no_warning_of_pillows_reaches_the_user(
    storm: Storm, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """In a process of its own, where no test says what happens to warnings. (libtiff's own words do come through.)"""
    options = ["--data", storm.folder, "--model", tiny_model_folder, "--image-size", 16, "--steps", 1]
    done = subprocess.run(
        [sys.executable, "-W", "default", "-m", "vitctl", "finetune", *map(str, options)]
        + ["--batch-size", "100", "--on-bad-image", "skip", "--device", "cpu", "--out", "out"],
        capture_output=True,
        text=True,
        env=os.environ | {"VITCTL_CACHE": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    lines = done.stderr.splitlines()
    assert sum(line.startswith("warning: left out: ") for line in lines) == len(storm.rejected)
    assert [line for line in lines if "Warning:" in line or "warnings.warn" in line or "Traceback" in line] == []
