"""Images take turns by their pixels, not by the number of threads; a full memory is no fault of an image."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from PIL import _imaging as core

from vitctl.conversation import Conversation
from vitctl.data import given, images
from vitctl.data.files import read_batches, split_of_files
from vitctl.data.pixel_budget import LEAST_IN_FLIGHT, PixelBudget
from vitctl.data.resized import resized_split
from vitctl.data.scan import scan_images

SIDE = 40  # px


class Counting(PixelBudget):
    """A budget that remembers the most it ever had in flight, and how many images."""

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self.peak = self.images = 0

    def hold(self, size: tuple[int, int]) -> Any:
        self.images += 1
        return super().hold(size)

    @property
    def _held(self) -> int:
        return self._now

    @_held.setter
    def _held(self, value: int) -> None:
        self._now = value
        self.peak = max(getattr(self, "peak", 0), value)


def _hold_all(budget: PixelBudget, sizes: list[tuple[int, int]]) -> None:
    def work(size: tuple[int, int]) -> None:
        with budget.hold(size):
            threading.Event().wait(0.001)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, sizes))


def test_pixel_budget__is_never_exceeded() -> None:
    budget = Counting(100)
    _hold_all(budget, [(10, index % 7 + 1) for index in range(100)])
    assert 60 < budget.peak <= 100
    assert budget._held == 0


def test_pixel_budget__an_image_above_it_is_alone() -> None:
    budget = Counting(100)
    _hold_all(budget, [(20, 20), (1, 1)] * 20)
    assert budget.peak == 400
    assert budget._held == 0


def test_pixel_budget__room_comes_back_after_an_error() -> None:
    budget = PixelBudget(100)
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), budget.hold((10, 10)):
            _ = 1 / 0
    with budget.hold((10, 10)):
        pass


def test_pixel_budget__is_a_share_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    for free, room in ((None, LEAST_IN_FLIGHT), (2**30, LEAST_IN_FLIGHT), (2**40, 2**33)):
        monkeypatch.setattr("vitctl.data.pixel_budget.free_bytes", lambda free=free: free)
        assert PixelBudget()._room() == room


def _files(folder: Path, count: int) -> list[str]:
    pixels = np.random.default_rng(0).integers(0, 256, (count, SIDE, SIDE, 3), dtype=np.uint8)
    for index in range(count):
        Image.fromarray(pixels[index]).save(folder / f"{index}.png")
    return [str(folder / f"{index}.png") for index in range(count)]


def _size(rgb: Image.Image) -> Any:
    """Stand in for a transform."""
    return torch.tensor(rgb.size)


_size.max_value = None  # type: ignore[attr-defined]  # a transform has one


def _predict(paths: list[str]) -> None:
    list(read_batches(paths, cast(Any, _size), batch_size=6))


def _predict_arrays(paths: list[str]) -> None:
    list(read_batches([np.asarray(Image.open(path)) for path in paths], cast(Any, _size), batch_size=6))


def _scan(paths: list[str]) -> None:
    scan_images(split_of_files(paths), num_threads=6, conversation=Conversation())


def _resize(paths: list[str]) -> None:
    sizes = np.full((len(paths), 2), SIDE)
    resized_split(split_of_files(paths), sizes, short_side=8, num_threads=6, conversation=Conversation())


@pytest.mark.parametrize("work", [_predict, _predict_arrays, _scan, _resize])
def test_every_reader_in_threads_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any) -> None:
    budget = Counting(2 * SIDE * SIDE)
    monkeypatch.setattr(images, "IN_FLIGHT", budget)
    monkeypatch.setattr(given, "IN_FLIGHT", budget)
    work(_files(tmp_path, 12))
    assert budget.images == 12
    assert SIDE * SIDE <= budget.peak <= 2 * SIDE * SIDE


@pytest.mark.parametrize("work", [_predict, _scan, _resize])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, error: Exception
) -> None:
    def full(_image: Image.Image, **_options: object) -> Image.Image:
        raise error

    monkeypatch.setattr(images, "to_rgb", full)
    with pytest.raises(type(error)) as caught:
        work(_files(tmp_path, 3))
    assert caught.value is error


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
@pytest.mark.parametrize("strip_px", [1, 37 * 5, 10**6])
def test_transparent_images_are_laid_over_white_in_strips(
    monkeypatch: pytest.MonkeyPatch, mode: str, strip_px: int
) -> None:
    monkeypatch.setattr(images, "STRIP_PX", strip_px)
    values = np.random.default_rng(0).integers(0, 256, (23, 37, 4), dtype=np.uint8)
    image = Image.fromarray(values)
    image = image.quantize(50) if mode == "P" else image.convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(0, 250, 5))
    rgba = np.asarray(image.convert("RGBA"), dtype=np.float64)
    share = rgba[..., 3:] / 255
    expected = rgba[..., :3] * share + 255 * (1 - share)
    found = images.to_rgb(image)
    assert (found.mode, found.size) == ("RGB", image.size)
    assert np.abs(np.asarray(found) - expected).max() <= 1  # Pillow computes in whole numbers


def test_what_a_large_image_took_goes_back_to_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    largest_kept = 32 * 2**20  # malloc(3): DEFAULT_MMAP_THRESHOLD_MAX on 64-bit systems
    before = core.get_block_size()
    try:
        _predict(_files(tmp_path, 1))
        assert core.get_block_size() == before
        monkeypatch.setattr(images, "LARGE_PX", SIDE * SIDE - 1)
        _predict(_files(tmp_path, 1))
        assert core.get_block_size() > largest_kept
    finally:
        core.set_block_size(before)
