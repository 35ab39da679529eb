"""What one GPU does with vitctl: images per second of training and embedding, and whether its promises hold there.

``python tests/benchmarks/gpu.py``, under eight minutes, one GPU, no network, nothing read but this repository. Prints a
table on stderr and one JSON document on stdout; null is what was not measured, for want of time (``--most-s``) or
memory. ``--smoke`` does the same in the small on a CPU, to see that it runs; its figures mean nothing.

Training is ``vitctl.training.loop.train_steps`` in bf16 over images that are on the device already: ViT-S/16 at 224 px
(the shape of most published figures), B/16 and L/16 at 384 px, random weights, eager and compiled. Beside it stands a
loop with what timm's train.py does per step and its fastest flags: ``--amp --amp-dtype bfloat16 --channels-last
--opt adamw --opt-kwargs fused=True --clip-grad 1``, ``--torchcompile``; it is written anew here, as timm's package does
not contain the script. Both are given the same model, images and batch.

Shares are of the matrix products of a step, three times those of a forward pass, against the rate of bf16 products that
the same card reaches (8192 x 8192) and the one in its maker's data sheet.

The promises: a run that went on from its state gives the same bytes with deterministic kernels; micro-batches of a
quarter give the same losses to about 1e-5 in fp32; no step makes Python wait for the card.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load, save
from torch import nn

import vitctl.models  # noqa: F401  # before timm, which it lets be imported beside a CPU build of torch
from vitctl.data.loader import TrainingBatch
from vitctl.evaluation.features import FeatureExtractor, FeatureKey
from vitctl.models.describe import flops_per_image
from vitctl.primitives.compiler_later import keep_compiled_files
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.training.determinism import deterministic_kernels
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.noise_places import install_noise
from vitctl.training.optimizer import build_optimizer, implementation_of, parameter_groups
from vitctl.training.precision import build_scaler
from vitctl.training.state import TrainingState

import timm  # isort: skip
from timm.optim import create_optimizer_v2  # isort: skip

NUM_CLASSES, CLIP_NORM, LR = 1000, 1.0, 1e-4
NUM_WARM_UP, TIMED_S, MOST_STEPS = 5, 3.0, 60
# of bf16 products with sums in fp32, without sparsity, TFLOP/s; the longest name that is in the card's is the card's
DATA_SHEETS = {
    "H100": 989, "H100 PCIe": 756, "H200": 989, "GH200": 989, "B200": 2250, "A100": 312, "A30": 165, "A10": 125,
    "L4": 121, "L40": 181, "L40S": 362, "RTX A6000": 155, "RTX 4090": 165, "RTX 3090": 71,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A model to train: timm's name, px, images per step."""

    name: str
    image_size: int
    batch_size: int
    arguments: tuple[tuple[str, Any], ...] = ()

    def build(self, **others: Any) -> nn.Module:
        """Return the model with random weights, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            arguments = {"img_size": self.image_size, "num_classes": NUM_CLASSES} | dict(self.arguments) | others
            model: nn.Module = timm.create_model(self.name, **arguments)
        return model


CASES = (
    Case("vit_small_patch16_224", 224, 256),
    Case("vit_base_patch16_224", 384, 128),
    Case("vit_large_patch16_224", 384, 64),
)
EMBEDDED = Case("vit_base_patch16_224", 224, 256)
_TINY = (("embed_dim", 32), ("depth", 2), ("num_heads", 2), ("num_classes", 10))
SMALL = tuple(Case(name, 32, 8, _TINY) for name in ("vit_small_patch16_224", "vit_base_patch16_224"))


@dataclass
class Speed:
    """What was measured of a loop; None is what was not."""

    model: str
    image_size: int
    batch_size: int
    loop: str
    is_compiled: bool
    images_per_s: float | None = None
    share_of_measured: float | None = None
    share_of_data_sheet: float | None = None
    peak_memory_bytes: int | None = None
    first_step_s: float | None = None
    why_not: str | None = None


class Bench:
    """One card, and the time that is left.

    Args:
        device: Where to compute.
        most_s: Seconds that all of it may take.
        is_small: Whether it is only to be seen that it runs.
    """

    def __init__(self, device: torch.device, *, most_s: float, is_small: bool) -> None:
        self.device, self.is_small = device, is_small
        self._end = time.perf_counter() + most_s
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision="no")

    def has(self, seconds: float) -> bool:
        """Return whether so many are left."""
        return time.perf_counter() + (0 if self.is_small else seconds) < self._end

    def wait(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()

    def rate(self, act: Callable[[], object]) -> float:
        """Return how often a second ``act`` is done, after a warm-up."""
        for _ in range(NUM_WARM_UP):
            act()
        self.wait()
        start, count, most_s = time.perf_counter(), 0, 0.05 if self.is_small else TIMED_S
        while count < MOST_STEPS and time.perf_counter() - start < most_s:
            act()
            count += 1
        self.wait()
        return count / (time.perf_counter() - start)

    def batch(self, case: Case, step: int = 0) -> TrainingBatch:
        """Return images of noise with random labels, on the device."""
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(case.batch_size, 3, case.image_size, case.image_size, generator=generator)
        labels = torch.randint(10, (case.batch_size,), generator=generator)
        weights, size = torch.ones(case.batch_size), case.batch_size
        return TrainingBatch(images, labels, weights, size, float(size), step=step, micro_batch=size).to(self.device)

    def matrix_rate(self) -> float:
        """Return the FLOP/s of bf16 products of square matrices."""
        size = 256 if self.is_small else 8192
        one, other = (torch.randn(size, size, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        return 2 * size**3 * self.rate(lambda: one @ other)

    def state(self, model: nn.Module, precision: str) -> TrainingState:
        """Return the state before the first step."""
        groups = parameter_groups(model, weight_decay=0.05, layer_decay=0.75)
        optimizer = build_optimizer(groups, name="adamw", lr=LR, betas=(0.9, 0.999), momentum=0.0, device=self.device)
        return TrainingState(model, optimizer, scaler=build_scaler(precision, self.device))

    def steps(
        self, state: TrainingState, batches: Iterator[TrainingBatch], precision: str, *, is_compiled: bool = False
    ) -> Iterator[Any]:
        """Yield vitctl's reports, one per step."""
        model = state.model.to(self.device)
        prepared = self.accelerator.prepare(torch.compile(model, dynamic=False) if is_compiled else model)
        schedule = RateSchedule(num_steps=10**6, num_warmup_steps=0, peak=LR, final=LR)
        return train_steps(
            state,
            prepared,
            batches,
            schedule,
            accelerator=self.accelerator,
            clip_norm=CLIP_NORM,
            precision=precision,
            is_filled=is_compiled,
        )


def endlessly(batch: TrainingBatch) -> Iterator[TrainingBatch]:
    """Yield the same images for ever."""
    while True:
        yield batch


def vitctl_loop(bench: Bench, case: Case, *, is_compiled: bool) -> Iterator[Any]:
    """Yield after every step of vitctl's."""
    return bench.steps(bench.state(case.build(), "bf16"), endlessly(bench.batch(case)), "bf16", is_compiled=is_compiled)


def timm_loop(bench: Bench, case: Case, *, is_compiled: bool) -> Iterator[None]:
    """Yield after every step of a loop like train.py's; it reads the loss every 50 steps only."""
    model = case.build().to(device=bench.device, memory_format=torch.channels_last).train()
    parameters = list(model.parameters())
    optimizer = create_optimizer_v2(model, opt="adamw", lr=LR, weight_decay=0.05, layer_decay=0.75, fused=True)
    forward = torch.compile(model, backend="inductor") if is_compiled else model
    batch = bench.batch(case)
    images = batch.images.contiguous(memory_format=torch.channels_last)
    for step in range(10**6):
        with torch.autocast(bench.device.type, torch.bfloat16):
            loss = nn.functional.cross_entropy(forward(images), batch.labels)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            loss.item()
        yield


LOOPS: dict[str, Callable[..., Iterator[Any]]] = {"vitctl": vitctl_loop, "timm": timm_loop}


def measure(bench: Bench, case: Case, loop: str, *, is_compiled: bool) -> Speed:
    """Return how fast ``loop`` trains ``case``."""
    found = Speed(case.name, case.image_size, case.batch_size, loop, is_compiled)
    if not bench.has(100 if is_compiled else 15):
        found.why_not = "no time left"
        return found
    if is_compiled:
        torch._dynamo.reset()  # else it counts how often the same code was compiled, and gives up
    if bench.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        steps, start = LOOPS[loop](bench, case, is_compiled=is_compiled), time.perf_counter()
        next(steps)
        bench.wait()
        found.first_step_s = time.perf_counter() - start
        found.images_per_s = case.batch_size * bench.rate(lambda: next(steps))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        found.why_not = "no memory left"
    if bench.device.type == "cuda":
        found.peak_memory_bytes = torch.cuda.max_memory_allocated()
    return found


def embedding_rate(bench: Bench, case: Case) -> float | None:
    """Return images per second of ``vitctl.evaluation.features``, in fp32, images on the device, features off it."""
    if not bench.has(15):
        return None
    extractor = FeatureExtractor(case.build(), (FeatureKey("final", "native"),), device=bench.device, name=case.name)
    images = bench.batch(case).images
    return case.batch_size * bench.rate(lambda: extractor(images))


def losses_of(
    bench: Bench, case: Case, precision: str, *, parts: int = 1, stops: tuple[int, ...] = (6,)
) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Return the losses of some steps and the weights after them, with noise in the model.

    Args:
        bench: The card.
        case: What is trained.
        precision: Of the forward pass.
        parts: Micro-batches of each batch.
        stops: Steps after which all is taken from the state as bytes, and given to a new one.
    """
    losses, before = list[float](), b""
    facts: dict[str, Any] = {}
    state = None
    for stop in stops:
        model = case.build()
        install_noise(model, drop_path=0.2, patch_drop=None, name=case.name)
        state = bench.state(model.to(bench.device), precision)
        if before:
            state.restore(load(before), facts["state"])
            if state.scaler is not None:
                state.scaler.load_state_dict(facts["scaler"])
        batches = (
            bench.batch(case, step)._replace(micro_batch=case.batch_size // parts) for step in range(state.step, stop)
        )
        losses += [report.loss.read() for report in list(bench.steps(state, batches, precision))]
        before = save({name: one.detach().cpu().contiguous().clone() for name, one in state.tensors().items()})
        scaler = None if state.scaler is None else state.scaler.state_dict()
        facts = json.loads(json.dumps({"state": state.facts(), "scaler": scaler}))
    assert state is not None
    return losses, {name: value.detach().cpu() for name, value in state.model.state_dict().items()}


def largest_difference(one: list[float], other: list[float]) -> float:
    """Return the largest between losses, in nats."""
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def promises(bench: Bench, case: Case) -> dict[str, Any]:
    """Return how far runs that should be equal are from it; None for what there was no time for."""

    def is_equal(precision: str) -> bool:
        with deterministic_kernels(True):
            whole, weights = losses_of(bench, case, precision)
            resumed, others = losses_of(bench, case, precision, stops=(2, 6))
        return whole == resumed and all(torch.equal(weights[name], others[name]) for name in weights)

    def differ(precision: str, *parts: int) -> float:
        one, other = (losses_of(bench, case, precision, parts=number)[0] for number in parts)
        return largest_difference(one, other)

    asked: dict[str, Callable[[], Any]] = {
        "resumed_run_is_equal_bf16": lambda: is_equal("bf16"),
        "resumed_run_is_equal_fp16": lambda: is_equal("fp16"),
        "same_run_differs_without_deterministic": lambda: differ("bf16", 1, 1),
        "micro_batches_differ_fp32": lambda: differ("fp32", 1, 4),
        "optimizer_implementation": lambda: implementation_of(bench.state(case.build(), "fp32").optimizer),
    }
    if bench.device.type == "cuda":
        asked |= {
            "waits_for_the_card_bf16": lambda: waits(bench, case, "bf16"),
            "waits_for_the_card_fp16": lambda: waits(bench, case, "fp16"),
        }
    return {name: ask() if bench.has(10) else None for name, ask in asked.items()}


def waits(bench: Bench, case: Case, precision: str) -> str:
    """Return where a step makes Python wait for the card, in torch's words; "nowhere" where it does not."""
    model = case.build()
    install_noise(model, drop_path=0.2, patch_drop=None, name=case.name)
    steps = bench.steps(bench.state(model, precision), endlessly(bench.batch(case)), precision)
    next(steps)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            next(steps)
    except RuntimeError as error:
        return str(error).splitlines()[0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return "nowhere"


def data_sheet_rate(name: str) -> float | None:
    """Return the FLOP/s that the maker of the card says; None of one that is not in the table."""
    known = [card for card in DATA_SHEETS if card in name]
    return 1e12 * DATA_SHEETS[max(known, key=len)] if known else None


def table(speeds: list[Speed]) -> str:
    """Return a line for each."""
    lines = [
        f"{'model':<24}{'px':>5}{'batch':>7}  {'loop':<18}{'images/s':>10}{'of card':>9}{'of sheet':>9}{'memory':>10}"
    ]
    for one in speeds:
        loop = f"{one.loop}{', compiled' if one.is_compiled else ''}"
        shares = [f"{share:.1%}" if share else "-" for share in (one.share_of_measured, one.share_of_data_sheet)]
        memory = f"{one.peak_memory_bytes / 2**30:.1f} GiB" if one.peak_memory_bytes else "-"
        rate = f"{one.images_per_s:.1f}" if one.images_per_s else one.why_not or "-"
        lines.append(
            f"{one.model:<24}{one.image_size:>5}{one.batch_size:>7}  {loop:<18}{rate:>10}{shares[0]:>9}{shares[1]:>9}"
            f"{memory:>10}"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, most important first; print the table and the document."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="tiny models, on a CPU too: does it run?")
    parser.add_argument("--no-compile", action="store_true", help="leave out what has to be compiled")
    parser.add_argument("--most-s", type=float, default=440, metavar="S", help="seconds in all (default: 440)")
    given = parser.parse_args()
    if not given.smoke and not torch.cuda.is_available():
        print("no CUDA device here; --smoke runs without one", file=sys.stderr)
        return 5
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    keep_compiled_files()
    bench = Bench(device, most_s=given.most_s, is_small=given.smoke)
    card = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    cases, embedded = (SMALL, SMALL[0]) if given.smoke else (CASES, EMBEDDED)
    measured, sheet = bench.matrix_rate(), data_sheet_rate(card)
    speeds = [measure(bench, case, loop, is_compiled=False) for case in cases for loop in LOOPS]
    images_per_s = embedding_rate(bench, embedded)
    kept = promises(bench, SMALL[0] if given.smoke else Case("vit_small_patch16_224", 224, 32))
    if not given.no_compile:
        speeds += [measure(bench, case, loop, is_compiled=True) for case in cases for loop in LOOPS]
    flops = {case: 3 * flops_per_image(case.build(), (case.image_size, case.image_size)) for case in cases}
    for one in speeds:
        if one.images_per_s:
            case = next(case for case in cases if (case.name, case.image_size) == (one.model, one.image_size))
            one.share_of_measured = one.images_per_s * flops[case] / measured
            one.share_of_data_sheet = one.images_per_s * flops[case] / sheet if sheet else None
    document = {
        "card": card,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "measured_bf16_flops_per_s": measured,
        "data_sheet_bf16_flops_per_s": sheet,
        "training": [asdict(one) for one in speeds],
        "embedding": {"model": embedded.name, "image_size": embedded.image_size, "images_per_s": images_per_s},
        "promises": kept,
    }
    print(f"{card}: {measured / 1e12:.1f} TFLOP/s in bf16 products", table(speeds), sep="\n", file=sys.stderr)
    embedding = "-" if images_per_s is None else f"{images_per_s:.1f}"
    print(f"embedding: {embedding} images/s; {kept}", file=sys.stderr)
    print(json.dumps(document, indent=2, allow_nan=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
