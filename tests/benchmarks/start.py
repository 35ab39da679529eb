"""How much more than ``import torch`` a command costs to start, and than a bare loop to hold; exits 1 above the bounds.

``python tests/benchmarks/start.py``, two minutes. CPU seconds (user and system) of whole processes that take turns, one
torch thread each; each figure is the least of the repeats, as other work on the machine can only add to it. The
one-step ``finetune`` is of the embedded model on 32 small images, with its closed-form head, validations and pictures.

The bare loop is what one would write by hand with torch and timm: it decodes the same photos, and trains the same
model in the same batches. Memory is the largest resident set of the process.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

PEER = "import torch"
PREDICT, FINETUNE, HELP = "vitctl predict, one image", "vitctl finetune, one step", "vitctl --help"
MOST_CPU = {PREDICT: 2.0, FINETUNE: 2.7}  # times the CPU seconds of PEER
MOST_MEMORY = 1.1  # times the memory of the bare loop
NUM_REPEATS = 5
MODEL, SIZE, BATCH, STEPS = "vit_small_patch16_224", 224, 16, 3  # SIZE in px

BARE_LOOP = f"""
import sys
from pathlib import Path
from vitctl.primitives.torchvision_operators import declare_missing_operators
declare_missing_operators()  # else timm cannot be imported beside a CPU build of torch
import timm, torch
from PIL import Image
from torchvision import transforms

torch.manual_seed(0)
paths = sorted(Path(sys.argv[1]).glob("*/*.jpg"))
steps = [transforms.RandomResizedCrop({SIZE}), transforms.ToTensor(), transforms.Normalize((0.5,) * 3, (0.5,) * 3)]
transform = transforms.Compose(steps)
model = timm.create_model("{MODEL}", num_classes=2)
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
for step in range({STEPS}):
    batch = [paths[(step * {BATCH} + index) % len(paths)] for index in range({BATCH})]
    images = torch.stack([transform(Image.open(path).convert("RGB")) for path in batch])
    labels = torch.tensor([int(path.parent.name == "b") for path in batch])
    torch.nn.functional.cross_entropy(model(images), labels).backward()
    optimizer.step()
    optimizer.zero_grad()
"""


class Spent(NamedTuple):
    """What a process took: CPU seconds, and the largest resident set in bytes."""

    cpu_s: float
    memory_bytes: int


def spent(*args: object) -> Spent:
    """Run Python with ``args`` to its end, and return what it took."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as said:
        child = subprocess.Popen(
            [sys.executable, *map(str, args)], stdout=subprocess.DEVNULL, stderr=said, env=environment
        )
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            said.seek(0)
            raise SystemExit(f"{child.args} failed:\n{said.read().decode()}")
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss, in bytes
    return Spent(usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit)


def vitctl(*args: object) -> tuple[object, ...]:
    """Return the arguments of Python that run ``vitctl`` with ``args``."""
    return ("-m", "vitctl", *args)


def write_images(folder: Path, num_images: int, *, width: int, height: int) -> Path:
    """Write JPEGs of soft noise, half of them of each of two classes; return ``folder``."""
    rng = np.random.default_rng(0)
    for index in range(num_images):
        path = folder / "ab"[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(256, size=(height // 16, width // 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((width, height)).save(path)
    return folder


def cpu_table(folder: Path, num_repeats: int) -> dict[str, float]:
    """Print what each command costs, and return it as multiples of PEER."""
    small = write_images(folder / "small", 32, width=32, height=32)
    image = next(small.glob("*/*.jpg"))
    out = folder / "run"
    commands = {
        PEER: ("-c", PEER),
        HELP: vitctl("--help"),
        PREDICT: vitctl("predict", "--model", "demo", image),
        FINETUNE: vitctl("finetune", "--data", small, "--model", "demo", "--steps", 1, "--out", out, "--overwrite"),
    }
    for args in commands.values():
        spent(*args)  # reads files into the page cache
    repeats = [{name: spent(*args).cpu_s for name, args in commands.items()} for _ in range(num_repeats)]
    least = {name: min(repeat[name] for repeat in repeats) for name in commands}
    factors = {name: least[name] / least[PEER] for name in commands}
    for name in commands:
        print(f"{name:<28}{least[name]:>8.2f} s of CPU{factors[name]:>8.2f}x")
    return factors


def memory_factor(folder: Path) -> float:
    """Print what a run and the bare loop hold, and return how many times as much the run does."""
    photos = write_images(folder / "photos", 96, width=1024, height=768)
    settings = ("--image-size", SIZE, "--batch-size", BATCH, "--steps", STEPS, "--num-workers", 0)
    run = vitctl(
        "finetune", "--data", photos, "--model", MODEL, "--weights", "none", *settings, "--out", folder / "big"
    )
    ours, bare = (spent(*args).memory_bytes for args in (run, ("-c", BARE_LOOP, photos)))
    print(f"vitctl finetune of image files, {MODEL}: {ours / 1e6:.0f} MB; bare loop: {bare / 1e6:.0f} MB", end="")
    print(f"{ours / bare:>8.2f}x")
    return ours / bare


def main() -> int:
    """Print the tables; return 1 where something costs more than its bound."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--num-repeats", type=int, default=NUM_REPEATS, metavar="N", help="default: 5")
    num_repeats = parser.parse_args().num_repeats
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["VITCTL_CACHE"] = str(folder / "cache")
        factors = cpu_table(folder, num_repeats)
        memory = memory_factor(folder)
    above = [
        f"{name}: {factors[name]:.2f}x; at most {most}x" for name, most in MOST_CPU.items() if factors[name] > most
    ]
    above += [f"memory: {memory:.2f}x; at most {MOST_MEMORY}x"] if memory > MOST_MEMORY else []
    print("\n".join(above), end="\n" if above else "")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
