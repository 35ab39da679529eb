"""Every recipe does what its source does: groups, rates and weights, against the source's formulas in plain code.

Two things differ on purpose, and are tested as exactly that: a warm-up, and a drop of the rate, come one step before
the source's (step s of W has s / W of the peak, where the sources have (s - 1) / W, so that no first step is wasted on
a rate of zero); and where a source changes the rate once an epoch, it changes with every step.
"""

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.data.loader import TrainingBatch
from vitctl.data.order import BatchPlan
from vitctl.data.source import Split
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes import list_recipes, load_recipe
from vitctl.training.job import Job
from vitctl.training.loop import train_steps
from vitctl.training.plan import decide_num_images_seen
from vitctl.training.trained import choose_trained
from vitctl.training.trainer import new_state

CIFAR, IMAGENET, PETS, VTAB = 50_000, 1_281_167, 3_680, 1_000
NUM_CLASSES, SEED = 3, 0
PREPROCESSING = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
Groups = dict[str, tuple[float, float]]
"""Factor on the rate and weight decay of each trained parameter, by name."""


# --- the sources' formulas: rates, of step t from 0 ----------------------------------------------------------------


def line(t: float, *, peak: float, warmup: int, start: float = 0.0) -> float:
    """The warm-up of all of them."""
    return start + (peak - start) * t / warmup


def cosine(t: float, *, peak: float, steps: int, warmup: int, final: float = 0.0) -> float:
    """vit_jax/utils.py, big_vision/utils.py (to 0); mae util/lr_sched.py; torch's CosineAnnealingLR."""
    return final + (peak - final) * 0.5 * (1 + math.cos(math.pi * (t - warmup) / (steps - warmup)))


def timms(t: int, *, peak: float, steps: int, warmup: int, final: float) -> float:
    """timm's CosineLRScheduler as its train.py, and DeiT's main.py, build it."""
    from timm.scheduler import CosineLRScheduler

    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    scheduler = CosineLRScheduler(
        optimizer, t_initial=steps, lr_min=final, warmup_t=warmup, warmup_lr_init=1e-6, t_in_epochs=False
    )
    return float(scheduler._get_lr(t)[0])


def bit_stairs(t: int, *, peak: float, supports: tuple[int, ...]) -> float:
    """big_transfer bit_hyperrule.py: divided by 10 behind each of the supports."""
    return peak * 0.1 ** sum(support < t for support in supports)


# --- the sources' parameter groups ---------------------------------------------------------------------------------


def alike(model: nn.Module, weight_decay: float = 0.0) -> Groups:
    """torch.optim.SGD(model.parameters()), optax.sgd: one rate, one decay."""
    return {name: (1.0, weight_decay) for name, _ in model.named_parameters()}


def by_timm(model: nn.Module, weight_decay: float) -> Groups:
    """timm's create_optimizer_v2, which DeiT and CCT use: no decay of vectors, tokens, position embeddings."""
    from timm.optim import create_optimizer_v2

    groups = create_optimizer_v2(model, opt="adamw", lr=1e-3, weight_decay=weight_decay).param_groups
    return by_name(model, groups)


def by_timms_layers(model: nn.Module, weight_decay: float, layer_decay: float) -> Groups:
    from timm.optim import param_groups_layer_decay

    exempt = model.no_weight_decay()  # type: ignore[operator]
    return by_name(model, param_groups_layer_decay(model, weight_decay, exempt, layer_decay=layer_decay))


def by_mae(model: nn.Module, weight_decay: float, layer_decay: float) -> Groups:
    """mae util/lr_decay.py: layer 0 is what makes tokens, i + 1 is block i, the last all that comes after."""
    last = len(cast(nn.ModuleList, model.blocks)) + 1

    def layer(name: str) -> int:
        if name in ("cls_token", "pos_embed") or name.startswith("patch_embed"):
            return 0
        return int(name.split(".")[1]) + 1 if name.startswith("blocks") else last

    return {
        name: (
            layer_decay ** (last - layer(name)),
            0.0 if parameter.ndim == 1 or name in ("cls_token", "pos_embed") else weight_decay,
        )
        for name, parameter in model.named_parameters()
    }


def attention_only(model: nn.Module, weight_decay: float) -> Groups:
    """deit main.py --attn-only."""
    groups = by_timm(model, weight_decay)
    return {
        name: how
        for name, how in groups.items()
        if ".attn." in name or name in ("head.weight", "head.bias", "pos_embed")
    }


def head_only(model: nn.Module) -> Groups:
    """moco-v3 main_lincls.py."""
    return {name: (1.0, 0.0) for name in ("head.weight", "head.bias")}


def factors_and_head(model: nn.Module, weight_decay: float) -> Groups:
    """mmpretrain's LoRAModel trains its factors and the head; that factors and vectors do not decay is ours."""
    factors = [name for name, _ in model.named_parameters() if ".lora_" in name]
    assert len(factors) == 2 * 4 * 2  # two of each of four layers of two blocks
    return {"head.weight": (1.0, weight_decay), "head.bias": (1.0, 0.0), **dict.fromkeys(factors, (1.0, 0.0))}


def by_name(model: nn.Module, groups: list[dict[str, Any]]) -> Groups:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]: (group.get("lr_scale", 1.0), group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }


# --- the sources' optimisers: what a step makes of a weight --------------------------------------------------------


def momentum(w: Tensor, g: Tensor, memory: dict[str, Tensor], *, lr: float, weight_decay: float, count: int) -> Tensor:
    """optax.trace, torch.optim.SGD: m <- g + 0.9 m, w <- w - lr m."""
    assert not weight_decay
    memory["m"] = g + 0.9 * memory.get("m", torch.zeros_like(g))
    return w - lr * memory["m"]


def adamw(w: Tensor, g: Tensor, memory: dict[str, Tensor], *, lr: float, weight_decay: float, count: int) -> Tensor:
    """arXiv 1711.05101, algorithm 2, with the decay times the rate, as torch has it."""
    memory["m"] = 0.1 * g + 0.9 * memory.get("m", torch.zeros_like(g))
    memory["v"] = 0.001 * g * g + 0.999 * memory.get("v", torch.zeros_like(g))
    mean, square = memory["m"] / (1 - 0.9**count), memory["v"] / (1 - 0.999**count)
    return w - lr * mean / (square.sqrt() + 1e-8) - lr * weight_decay * w


# --- the table -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Source:
    """What the source of a recipe does.

    Attributes:
        images: Training images of the data set that its numbers are for.
        batch: Its batch.
        steps: Its steps on them.
        warmup: Of these, its warm-up.
        peak: Its rate at that batch.
        start: Rate that its warm-up starts from.
        after: The rate of step t from 0, behind the warm-up.
        groups: Of a model, its parameter groups.
        step: Its optimiser.
        clip: Largest norm of its gradient.
        smoothing: Of its labels.
        model: Arguments of a model as it has them.
    """

    images: int
    batch: int
    steps: int
    warmup: int
    peak: float
    start: float = 0.0
    after: Callable[..., float]
    groups: Callable[[nn.Module], Groups]
    step: Callable[..., Tensor]
    clip: float = math.inf
    smoothing: float = 0.0
    model: Mapping[str, Any] = field(default_factory=dict)


def vit(images: int, steps: int, warmup: int, peak: float, *, clip: float = 1.0) -> Source:
    """vit_jax, big_vision: momentum, norm 1, cosine to zero, no decay."""
    after = partial(cosine, peak=peak, steps=steps, warmup=warmup)
    return Source(
        images=images, batch=512, steps=steps, warmup=warmup, peak=peak, after=after, groups=alike, step=momentum,
        clip=clip,
    )  # fmt: skip


def bit(images: int, supports: tuple[int, ...]) -> Source:
    """bit_hyperrule.py: its supports are the end of the warm-up, three drops, the end."""
    after = partial(bit_stairs, peak=0.003, supports=supports[1:-1])
    return Source(
        images=images, batch=512, steps=supports[-1], warmup=supports[0], peak=0.003, after=after, groups=alike,
        step=momentum,
    )  # fmt: skip


def deit(groups: Callable[..., Groups] = by_timm) -> Source:
    """README_revenge.md at 384 px; 20 epochs, 5 of warm-up."""
    steps = math.ceil(20 * IMAGENET / 512)
    warmup = round(steps / 4)
    return Source(
        images=IMAGENET, batch=512, steps=steps, warmup=warmup, peak=1e-5, start=1e-6,
        after=partial(timms, peak=1e-5, steps=steps, warmup=warmup, final=1e-5),
        groups=partial(groups, weight_decay=0.1), step=adamw, smoothing=0.1,
    )  # fmt: skip


def mae(blr: float, decay: float, epochs: int) -> Source:
    """FINETUNE.md: lr = blr * 1024 / 256; 5 epochs of warm-up, to 1e-6."""
    steps, peak = math.ceil(epochs * IMAGENET / 1024), blr * 1024 / 256
    warmup = round(steps * 5 / epochs)
    return Source(
        images=IMAGENET, batch=1024, steps=steps, warmup=warmup, peak=peak,
        after=partial(cosine, peak=peak, steps=steps, warmup=warmup, final=1e-6),
        groups=partial(by_mae, weight_decay=0.05, layer_decay=decay), step=adamw, smoothing=0.1,
        model={"global_pool": "avg"},
    )  # fmt: skip


def cct(peak: float, start: float) -> Source:
    """configs/datasets/cifar*.yml of Compact-Transformers: 300 epochs, 10 of warm-up, to 1e-5."""
    steps = math.ceil(300 * CIFAR / 128)
    warmup = round(steps / 30)
    return Source(
        images=CIFAR, batch=128, steps=steps, warmup=warmup, peak=peak, start=start,
        after=partial(timms, peak=peak, steps=steps, warmup=warmup, final=1e-5),
        groups=partial(by_timm, weight_decay=0.06), step=adamw, smoothing=0.1,
    )  # fmt: skip


def moco() -> Source:
    steps = math.ceil(90 * IMAGENET / 1024)
    after = partial(cosine, peak=12.0, steps=steps, warmup=0)
    return Source(
        images=IMAGENET, batch=1024, steps=steps, warmup=0, peak=12.0, after=after, groups=head_only, step=momentum
    )


def mmpretrain() -> Source:
    steps = math.ceil(50 * IMAGENET / 512)
    warmup = round(steps / 10)
    return Source(
        images=IMAGENET, batch=512, steps=steps, warmup=warmup, peak=3e-3, start=3e-7,
        after=partial(cosine, peak=3e-3, steps=steps, warmup=warmup, final=1e-6),
        groups=partial(factors_and_head, weight_decay=0.3), step=adamw, clip=1.0, smoothing=0.1,
    )  # fmt: skip


def ours(images: int, batch: int, steps: int, warmup: float, peak: float, final: float, decay: float) -> Source:
    """The recipes that are vitctl's own: timm's layer decay, AdamW, norm 1, cosine."""
    num_warmup = round(warmup * steps)
    return Source(
        images=images, batch=batch, steps=steps, warmup=num_warmup, peak=peak,
        after=partial(cosine, peak=peak, steps=steps, warmup=num_warmup, final=final),
        groups=partial(by_timms_layers, weight_decay=0.05, layer_decay=decay), step=adamw, clip=1.0,
    )  # fmt: skip


SOURCES = {
    "vit-paper": vit(CIFAR, 10_000, 500, 0.01),
    "vit-paper:cifar100": vit(CIFAR, 10_000, 500, 0.03),
    "vit-paper:pets": vit(PETS, 500, 100, 0.003),
    "vit-paper:imagenet-512": vit(IMAGENET, 20_000, 500, 0.03),
    "vit-paper:cifar10-500": vit(CIFAR, 500, 50, 0.01),
    "augreg-transfer": vit(PETS, 500, 100, 0.03),
    "augreg-transfer:imagenet": vit(IMAGENET, 20_000, 500, 0.03),
    "big-vision-transfer": vit(CIFAR, 10_000, 500, 0.01),
    "big-vision-transfer:flowers": vit(1_020, 500, 100, 0.003),
    "big-vision-transfer:imagenet": vit(IMAGENET, 20_000, 500, 0.03),
    "vtab-1k": vit(VTAB, 2_500, 0, 0.01),
    "bit-hyperrule": bit(PETS, (100, 200, 300, 400, 500)),
    "bit-hyperrule:medium": bit(CIFAR, (500, 3_000, 6_000, 9_000, 10_000)),
    "bit-hyperrule:large": bit(IMAGENET, (500, 6_000, 12_000, 18_000, 20_000)),
    "deit3-384": deit(),
    "attention-only": deit(attention_only),
    "mae-finetune": mae(5e-4, 0.65, 100),
    "mae-finetune:large": mae(1e-3, 0.75, 50),
    "linear-probe": moco(),
    "lora": mmpretrain(),
    "scratch-small": cct(6e-4, 1e-6),
    "scratch-small:cifar10": cct(55e-5, 1e-5),
    "transfer": ours(CIFAR, 128, math.ceil(500_000 / 128), 0.1, 1e-4, 1e-6, 0.75),
    "demo": ours(VTAB, 32, 390, 0.1, 1.5e-3, 1e-6, 1.0),
    "demo-pretrain": ours(CIFAR, 64, 16_000, 0.05, 1.5e-3, 1e-5, 1.0),
}


def test_table__has_every_recipe() -> None:
    assert {name.partition(":")[0] for name in SOURCES} == set(list_recipes())


def small_vit(**changes: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model: nn.Module = timm.create_model(
            "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=24, depth=2, num_heads=2,
            num_classes=NUM_CLASSES, **changes,
        )  # fmt: skip
    return model.double()  # AdamW makes as much of the noise in a gradient that should be zero as of any other


def job_of(name: str, source: Source) -> Job:
    """Return the job of a recipe on as many images as its source had, with a small model; without its noise."""
    recipe, model = load_recipe(name), small_vit(**source.model)
    choose_trained(model, recipe.tuning, seed=SEED, name="small")
    batch = recipe.length.batch_size
    seen = decide_num_images_seen(None, None, recipe, source.images, batch, recipe_name=name).value
    return Job(
        model=model,
        train=cast(Split, None),  # batches are made by hand
        val=None,
        preprocessing=PREPROCESSING,
        recipe=recipe,
        batches=BatchPlan(source.images, batch, seen, SEED),
        lr=recipe.rate.peak_lr(batch),
        flip=False,
        num_workers=0,
        accelerator=Accelerator(cpu=True),
        precision="fp32",
    )


def batches(smoothing: float) -> list[TrainingBatch]:
    generator = torch.Generator().manual_seed(1)
    return [
        TrainingBatch(
            images=torch.randn(4, 3, 16, 16, generator=generator, dtype=torch.float64),
            labels=torch.randint(NUM_CLASSES, (4,), generator=generator),
            weights=torch.ones(4, dtype=torch.float64),
            num_global=4,
            weight_global=4.0,
        )
        for _ in range(2)
    ]


VARIANTS_ARE_SLOW = [pytest.param(name, marks=[pytest.mark.slow] * (":" in name)) for name in SOURCES]


@pytest.mark.parametrize("name", VARIANTS_ARE_SLOW)
def test_recipe__groups_rates_and_weights_are_its_sources(name: str) -> None:
    source = SOURCES[name]
    job = job_of(name, source)
    by_hand, before = copy.deepcopy(job.model), copy.deepcopy(job.model)

    state = new_state(job)
    expected = source.groups(by_hand)
    groups = by_name(job.model, state.optimizer.param_groups)
    assert groups == {key: pytest.approx(how) for key, how in expected.items()}

    schedule, first = job.schedule, source.warmup + 1
    assert (job.batches.batch_size, schedule.num_steps) == (source.batch, source.steps)
    for step in {1, max(1, source.warmup), first, (first + source.steps) // 2, source.steps}:
        if step <= source.warmup:
            rate = line(step, peak=source.peak, warmup=source.warmup, start=source.start)
        elif name.startswith("bit"):
            rate = source.after(step)
        else:
            rate = source.after(step - 1)
        assert schedule.at(step) == pytest.approx(rate, rel=1e-9), step

    state.step = source.warmup  # at the top, where a step is long enough to see
    run = train_steps(
        state,
        job.accelerator.prepare(job.model),
        batches(source.smoothing),
        schedule,
        accelerator=job.accelerator,
        clip_norm=job.recipe.optimizer.clip_norm,
        label_smoothing=job.recipe.loss.label_smoothing,
    )
    rates = [report.lr for report in run]
    train_by_hand(by_hand, source, rates, expected)
    trained = dict(job.model.named_parameters())
    for (key, weight), start in zip(by_hand.named_parameters(), before.parameters(), strict=True):
        change, wanted = (trained[key] - start).detach(), (weight - start).detach()
        torch.testing.assert_close(change, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()), msg=key)
        assert bool(wanted.any()) <= (key in expected)


def train_by_hand(model: nn.Module, source: Source, rates: list[float], groups: Groups) -> None:
    parameters, memories = dict(model.named_parameters()), {key: dict[str, Tensor]() for key in groups}
    model.train()
    for count, (batch, rate) in enumerate(zip(batches(source.smoothing), rates, strict=True), start=1):
        loss = F.cross_entropy(model(batch.images), batch.labels, label_smoothing=source.smoothing)
        gradients = torch.autograd.grad(loss, [parameters[key] for key in groups])
        norm = math.sqrt(sum(float(gradient.pow(2).sum()) for gradient in gradients))
        for (key, (scale, decay)), gradient in zip(groups.items(), gradients, strict=True):
            shrunk = gradient * min(1.0, source.clip / norm)
            weight = parameters[key].detach()
            how = {"lr": rate * scale, "weight_decay": decay, "count": count}
            parameters[key].data = source.step(weight, shrunk, memories[key], **how)
