"""How fast vitctl trains, against a bare loop of torch in the same run; exits 1 below the floor.

``python tests/benchmarks/training.py``, three minutes. The bare loop is what one would write by hand: the same model,
optimiser, batch, images and random crops, no more. The two take turns, step by step, within one process of one thread:
whenever vitctl has shown a step, the bare loop takes one. Images are read in the process itself, so that nobody works
while the other's step is timed.

A step of vitctl is all that lies between two of them: the batch, its figures in the run folder, the progress bar (that
of a conversation that shows nothing). Figures are processor seconds, which count what a step takes and not what else
the machine does; the ratio is the median over the pairs of neighbouring steps, and its interval that of 1,000
resampled sets of pairs (95 %): what is noise. The floor must lie below the interval's upper end.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from vitctl.conversation import Conversation, Progress
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.job import Job
from vitctl.workflows import finetune

from torchvision import transforms  # isort: skip  # after vitctl, which lets it be imported beside a CPU build of torch

FLOOR = 0.97  # of the bare loop's images per second
NUM_WARM_UP = 3  # steps that are not counted
BATCH = 32
JPEG_SIZE, NUM_JPEGS = (500, 375), 128  # (width, height) px: that of common data sets of photos


class BareLoop:
    """A training loop of torch and torchvision, for the model and the images of ``job``.

    Args:
        job: Whose model is copied, and whose recipe says how to crop and to step.
        read: Returns the RGB image at a position.
    """

    def __init__(self, job: Job, read: Callable[[int], Image.Image]) -> None:
        self._model, self._read, self._labels = deepcopy(job.model), read, torch.from_numpy(job.train.labels).long()
        how, images, size = job.recipe.optimizer, job.recipe.images, job.preprocessing.image_size
        mode = transforms.InterpolationMode(job.preprocessing.interpolation)
        crops = {
            "random-resized-crop": [transforms.RandomResizedCrop(size, scale=images.crop_area, interpolation=mode)],
            "pad-random-crop": [
                transforms.Resize(size, interpolation=mode),
                transforms.RandomCrop(size, padding=[size[1] // 8, size[0] // 8]),
            ],
        }
        self._transform = transforms.Compose([
            *crops[images.crop],
            *([transforms.RandomHorizontalFlip()] if job.flip else []),
            transforms.ToTensor(),
            transforms.Normalize(job.preprocessing.mean, job.preprocessing.std),
        ])  # fmt: skip
        self._optimizer = torch.optim.AdamW(
            self._model.parameters(), lr=job.lr, betas=how.betas, weight_decay=how.weight_decay
        )
        self._clip_norm, self._batch_size = how.clip_norm, job.batches.batch_size
        self._order = self._positions()

    def _positions(self) -> Iterator[int]:
        while True:
            yield from torch.randperm(len(self._labels)).tolist()

    def step(self) -> float:
        """Train on one batch; return its loss."""
        self._model.train()
        positions = [next(self._order) for _ in range(self._batch_size)]
        images = torch.stack([self._transform(self._read(position)) for position in positions])  # (B, 3, H, W)
        loss = torch.nn.functional.cross_entropy(self._model(images), self._labels[positions])
        loss.backward()
        if self._clip_norm:
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self._optimizer.step()
        self._optimizer.zero_grad()
        return loss.item()


class TakingTurns(Conversation):
    """Lets ``other`` take a step whenever vitctl has taken one, and times both.

    Attributes:
        ours_s: Processor seconds of vitctl's steps.
        other_s: Those of the other's.
    """

    def __init__(self, other: Callable[[], object]) -> None:
        self._other = other
        self.ours_s: list[float] = []
        self.other_s: list[float] = []

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        """Return a bar that times training, and shows nothing."""
        outer = self

        class Bar(Progress):
            since = time.process_time()

            def advance(self, amount: int = 1, **facts: str) -> None:
                """Note how long the step took, and that of the other."""
                start = time.process_time()
                outer.ours_s.append(start - self.since)
                outer._other()
                self.since = time.process_time()
                outer.other_s.append(self.since - start)

        yield Bar() if description == "training" else Progress()


def compared(config: FinetuneConfig, read_by: Callable[[Job], Callable[[int], Image.Image]]) -> TakingTurns:
    """Run ``config`` and the bare loop, whose images ``read_by`` reads, in turns; return their times."""
    job = finetune.prepare(config, Conversation()).job
    turns = TakingTurns(BareLoop(job, read_by(job)).step)
    finetune.run(config, turns)
    return turns


def in_memory(job: Job) -> Callable[[int], Image.Image]:
    """Return a look-up of images that are in memory."""
    images = [job.train.read(position) for position in range(len(job.train))]
    return images.__getitem__


def from_files(job: Job) -> Callable[[int], Image.Image]:
    """Return a reader of image files that lets libjpeg make them smaller, as vitctl does and a careful hand would."""
    paths = job.train.image_names()
    least_side = job.training_transform().least_side

    def read(position: int) -> Image.Image:
        with Image.open(paths[position]) as image:
            image.draft("RGB", (least_side, least_side))
            return image.convert("RGB")

    return read


def write_photos(folder: Path) -> Path:
    """Write JPEGs of two classes: parts of scikit-learn's two photos, from another corner each; return ``folder``."""
    rng = np.random.default_rng(0)
    width, height = JPEG_SIZE
    for number in range(NUM_JPEGS):
        path = folder / "ab"[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        photo = load_sample_images().images[number % 2]  # 427x640 px
        top, left = int(rng.integers(427 - height)), int(rng.integers(640 - width))
        Image.fromarray(photo[top : top + height, left : left + width]).save(path, quality=90)
    return folder


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % interval of the median of ``ratios``, by resampling them."""
    rng = np.random.default_rng(0)
    medians = np.median(rng.choice(ratios, size=(1000, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


def main() -> int:
    """Print the table; return 1 where vitctl is slower than the floor."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-steps", type=int, default=60, metavar="N", help="of each, per row (default: 60)")
    num_steps = parser.parse_args().num_steps + NUM_WARM_UP
    is_fast = True
    print(f"demo model at 48 px, batch {BATCH}, one thread; images per processor second, medians over the steps")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["VITCTL_CACHE"] = str(Path(folder, "cache"))
        photos = str(write_photos(Path(folder, "photos")))
        rows = {
            "in memory": (FinetuneConfig(), in_memory),
            "JPEG files": (FinetuneConfig(data=photos, recipe="transfer"), from_files),
        }
        for number, (name, (config, read_by)) in enumerate(rows.items()):
            settings = {
                "data": config.data, "recipe": config.recipe, "model": "demo", "head": "zero", "val_fraction": 0.0,
                "image_size": "48", "batch_size": BATCH, "steps": num_steps, "num_workers": 0, "num_threads": 1,
                "device": "cpu", "set": ("evaluation.validations=1",), "out": str(Path(folder, f"run{number}")),
            }  # fmt: skip
            turns = compared(FinetuneConfig(**settings), read_by)
            ours, bare = np.array(turns.ours_s[NUM_WARM_UP:]), np.array(turns.other_s[NUM_WARM_UP:])
            low, high = interval(bare / ours)
            print(f"{name:<12}vitctl {BATCH / np.median(ours):6.1f}   bare loop {BATCH / np.median(bare):6.1f}", end="")
            print(f"   {np.median(bare / ours):6.3f}x (95 % interval {low:.3f} to {high:.3f}, {len(ours)} pairs)")
            if high < FLOOR:
                is_fast = False
                print(f"{name}: vitctl trains {high:.3f}x as fast as the bare loop at most; the floor is {FLOOR}x")
    return 0 if is_fast else 1


if __name__ == "__main__":
    sys.exit(main())
