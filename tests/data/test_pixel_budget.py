"""Images take turns by their pixels, not by the number of threads; a full memory is no fault of an image."""

import multiprocessing
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from PIL import Image
from PIL import _imaging as core

from vitctl.conversation import Conversation
from vitctl.data import given, images, workers
from vitctl.data.files import read_batches, split_of_files
from vitctl.data.loader import evaluation_batches, training_batches
from vitctl.data.order import BatchPlan
from vitctl.data.pixel_budget import LEAST_IN_FLIGHT, PixelBudget, SharedPixelBudget
from vitctl.data.resized import resized_split
from vitctl.data.scan import scan_images
from vitctl.data.source import Split

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


class Size:
    """Stands in for a transform."""

    max_value = None

    def __call__(self, rgb: Image.Image) -> torch.Tensor:
        return torch.tensor(rgb.size)


def _predict(paths: list[str]) -> None:
    list(read_batches(paths, cast(Any, Size()), batch_size=6))


def _predict_arrays(paths: list[str]) -> None:
    list(read_batches([np.asarray(Image.open(path)) for path in paths], cast(Any, Size()), batch_size=6))


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


class Watching(SharedPixelBudget):
    """A budget of two images and a half that remembers the most it ever had in flight, and how many images."""

    def __init__(self, context: Any, num_processes: int) -> None:
        super().__init__(context, num_processes, most=round(Watching.images_at_once * SIDE * SIDE))
        self.peak, self.images = context.Value("q", 0), context.Value("q", 0)
        Watching.last = self

    images_at_once = 2.5
    last: "Watching"

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        with super().hold(pixels):
            with self.peak.get_lock():
                self.images.value += 1
                self.peak.value = max(self.peak.value, self._held.value)
            yield


class Slowly:
    """Stands in for a transform, and takes a while, in which others could decode."""

    least_side = max_value = None

    def pixels(self, rgb: Image.Image, **_key: int) -> torch.Tensor:
        threading.Event().wait(0.01)
        return torch.from_numpy(np.asarray(rgb).copy())

    def finished(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


def _evaluate(split: Split) -> list[torch.Tensor]:
    return list(evaluation_batches(split, cast(Any, Slowly()), batch_size=2, num_workers=3))


def _train(split: Split) -> list[torch.Tensor]:
    plan = BatchPlan(len(split), batch_size=2, num_images_seen=len(split), seed=0)
    return [batch.images for batch in training_batches(split, cast(Any, Slowly()), plan, num_workers=3)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a small machine
@pytest.mark.parametrize("work", [_evaluate, _train])
@pytest.mark.parametrize(("images_at_once", "most"), [(2.5, 2), (0.1, 1)])
def test_processes_take_turns_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, images_at_once: float, most: int
) -> None:
    monkeypatch.setattr(workers, "SharedPixelBudget", Watching)
    monkeypatch.setattr(Watching, "images_at_once", images_at_once)
    found = work(split_of_files(_files(tmp_path, 12)))
    assert sum(map(len, found)) == 12
    assert Watching.last.images.value == 12
    assert SIDE * SIDE <= Watching.last.peak.value <= most * SIDE * SIDE
    assert Watching.last._held.value == 0


def test_shared_budget__small_images_need_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setattr("vitctl.data.pixel_budget.free_bytes", lambda: 2**40)
    budget = SharedPixelBudget(multiprocessing.get_context(), 4)  # 2**33 px, half of them this process's
    with budget.hold(2**27):
        assert budget._held.value == 0
    with budget.hold(2**27 + 1):
        assert budget._held.value == 2**27 + 1
    assert budget._room + 4 * 2**27 == 2**32


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
@pytest.mark.parametrize("transparent", [None, 777])
def test_16_bit_images_are_scaled_in_strips(
    monkeypatch: pytest.MonkeyPatch, mode: str, transparent: int | None
) -> None:
    values = np.random.default_rng(0).integers(0, 65_536, (23, 37), dtype=np.uint16)
    values[5, 6] = 777
    kinds = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}
    image = Image.frombytes(mode, (37, 23), values.astype(kinds[mode]).tobytes())
    if transparent is not None:
        image.info["transparency"] = transparent
    expected = ((values.astype(np.int64) * 255 + 32_767) // 65_535).astype(np.uint8)
    if transparent is not None:
        expected[values == transparent] = 255
    for strip_px in (1, 37 * 5, 10**6):
        monkeypatch.setattr(images, "STRIP_PX", strip_px)
        found = np.asarray(images.to_rgb(image.copy()))
        assert np.array_equal(found, np.repeat(expected[..., None], 3, axis=2)), strip_px


def test_16_bit_images_take_a_strip_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "STRIP_PX", 2**16)
    image = Image.new("I;16", (3000, 1000), 40_000)
    tracemalloc.start()
    try:
        images.to_rgb(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3000 * 1000  # of numpy's; in one piece it is ten times that


@pytest.mark.parametrize("work", [_predict, _scan, _resize])
@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_full_memory_is_no_fault_of_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: Any, error: Exception
) -> None:
    def full(_image: Image.Image, **_how: object) -> Image.Image:
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
