"""What to tune: accuracy, time, memory of every ``--tune`` mode from the demo weights; the table of the guide finetune.

``python tests/benchmarks/tuning.py --out runs/tuning --photos FOLDER --jobs 2``, a quarter of an hour on two cores for
two sets of images and three seeds, half as much again with photos of your own.
Every run is a folder below ``--out``: what is there is not trained again, so it can be stopped and started.

Digits are scikit-learn's; of Fashion-MNIST 2,000 training and 2,000 test images are taken, as many of each class.
Seconds are the processor's, of a training as a whole, scan and closed-form head included, imports not: they count what
it takes and not what else the machine does. Memory is the most that its process held, Python and torch included.
"""

import argparse
import gzip
import json
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch; processes that are forked have no threads to lose

import numpy as np
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import evaluate, finetune

MODES = ("full", "head", "attention", "norm", "bias", "last:2", "lora:8")
FASHION = "/usr/share/datasets/fashion-mnist"
NUM_OF_A_CLASS = 200  # of Fashion-MNIST's, for training and for testing


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        data: Name of the images.
        spec: Where they are.
        mode: What is tuned.
        seed: Of the run.
        options: The rest of the settings.
    """

    data: str
    spec: str
    mode: str
    seed: int
    options: dict[str, Any]

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.data}-{self.mode.replace(':', '')}-{self.seed}"


def write_fashion(source: Path, target: Path) -> None:
    """Write the first 200 images of each class of Fashion-MNIST's two parts as PNG files, ``PART/CLASS/N.png``."""
    for part, name in (("train", "train"), ("test", "t10k")):
        pixels = np.frombuffer(
            gzip.decompress((source / f"{name}-images-idx3-ubyte.gz").read_bytes()), np.uint8, -1, 16
        )
        labels = np.frombuffer(gzip.decompress((source / f"{name}-labels-idx1-ubyte.gz").read_bytes()), np.uint8, -1, 8)
        for label in range(10):
            folder = target / part / str(label)
            folder.mkdir(parents=True, exist_ok=True)
            for place in np.flatnonzero(labels == label)[:NUM_OF_A_CLASS]:
                Image.fromarray(pixels.reshape(-1, 28, 28)[place]).save(folder / f"{place}.png")


def train(cell: Cell, out: Path) -> dict[str, float]:
    """Train and test one cell, or read what it came to before; for a process of its own."""
    run, told = out / cell.name, out / f"{cell.name}.json"
    if told.is_file():
        return json.loads(told.read_text())  # type: ignore[no-any-return]
    begun = time.process_time()
    config = FinetuneConfig(
        data=cell.spec, model="demo", out=str(run), overwrite=True, tune=cell.mode, seed=cell.seed, num_workers=0,
        num_threads=1, **cell.options,
    )  # fmt: skip
    summary = finetune.run(config, Conversation())
    assert isinstance(summary, FinetuneResult)
    seconds = time.process_time() - begun
    usage = resource.getrusage(resource.RUSAGE_SELF)
    tested = evaluate.run(EvaluateConfig(run=str(run), split="test", num_workers=0), Conversation())
    found = {
        "top1": tested.top1,
        "seconds": seconds,
        "memory_mb": usage.ru_maxrss / 1000,
        "num_trained_parameters": float(summary.num_trained_parameters),
    }
    told.write_text(json.dumps(found))
    print(f"{cell.name}: {found['top1']:.2%}, {found['seconds']:.0f} s", file=sys.stderr, flush=True)
    return found


def rows(names: list[str], seeds: int, found: dict[str, dict[str, float]], num_parameters: float) -> Iterator[str]:
    """Yield the lines of the table."""
    yield "| images | `--tune` | test accuracy: mean (each seed) | trained | seconds | memory |"
    yield "|---|---|---|---|---|---|"
    for data, mode in product(names, MODES):
        cells = [found[f"{data}-{mode.replace(':', '')}-{seed}"] for seed in range(seeds)]
        tops = [100 * one["top1"] for one in cells]
        each = ", ".join(f"{top:.1f}" for top in tops)
        seconds, memory = (np.mean([one[key] for one in cells]) for key in ("seconds", "memory_mb"))
        share = cells[0]["num_trained_parameters"] / num_parameters
        yield (
            f"| {data} | `{mode}` | {np.mean(tops):.1f} % ({each}) | {share:.2%} | {seconds:.0f} | {memory:,.0f} MB |"
        )


def main() -> None:
    """Train what is missing, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--photos", type=Path, help="a third set of images, with a split test")
    parser.add_argument("--fashion", type=Path, default=Path(FASHION), help="the four IDX files of Fashion-MNIST")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--size", type=int, default=32, help="px")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not (given.out / "fashion" / "test").is_dir():
        write_fashion(given.fashion, given.out / "fashion")
    data = {"digits": "digits", "fashion": str(given.out / "fashion")}
    if given.photos is not None:
        data["photos"] = str(given.photos)
    options = {"steps": given.steps, "image_size": given.size, "set": ("evaluation.validations=1",)}
    seeds = range(given.seeds)
    # a seed of everything first, so that a table can be drawn early
    cells = [Cell(name, data[name], mode, seed, options) for seed, name, mode in product(seeds, data, MODES)]
    # forked, so that Python and torch are imported once; one training in each process, whose memory is then its own
    with multiprocessing.get_context("fork").Pool(given.jobs, maxtasksperchild=1) as pool:
        results = pool.starmap(train, [(cell, given.out) for cell in cells], chunksize=1)
    found = dict(zip((cell.name for cell in cells), results, strict=True))
    whole = found[f"{next(iter(data))}-full-0"]["num_trained_parameters"]
    print("\n".join(rows(list(data), given.seeds, found, whole)))


if __name__ == "__main__":
    main()
