"""A step is the same however its batch is divided: with all noise, mixing, augmentation and weights at once."""

import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from vitctl.data.augmentation import Augmentation
from vitctl.data.loader import TrainingBatch, training_batches
from vitctl.data.mixing import PairMixing
from vitctl.data.order import BatchPlan
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.digits import ArrayImages
from vitctl.data.transforms import TrainingTransform
from vitctl.primitives.compiler_later import compiler_later
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.recipes.sections import Tuning
from vitctl.training.frozen import set_training
from vitctl.training.noise_places import install_noise
from vitctl.training.step import add_gradients
from vitctl.training.trained import choose_trained

PREPROCESSING = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
TRANSFORM = TrainingTransform(
    PREPROCESSING,
    crop="random-resized-crop",
    crop_area=(0.3, 1.0),
    flip=True,
    seed=3,
    augmentation=Augmentation(augment="rand-m9-mstd0.5-inc1", color_jitter=0.3, rotate=10, erasing=0.5),
)
CLASS_WEIGHTS = np.array([0.3, 1.0, 3.0])
VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 4, "num_heads": 2, "num_classes": 3}
NUM_IMAGES = 33  # two batches of 16, and one left over


def drawn_split() -> Split:
    pixels = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 20, 20), dtype=np.uint8)
    return split_from_names("train", ArrayImages("noise", pixels), [("a", "b", "c")[i * i % 3] for i in range(33)])


def new_model(*, drop_path: float = 0.2, patch_drop: float = 0.25, name: str = "", **arguments: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name:
            model = timm.create_model(name, **arguments)
        else:
            model = timm.create_model("vit_tiny_patch16_224", **VIT)
        nn.init.normal_(model.get_classifier().weight, std=0.5)
    install_noise(model, drop_path=drop_path, patch_drop=patch_drop, name="tiny")
    return model.train()


def few_trained(mode: str) -> nn.Module:
    """Return the same model of which a part is trained."""
    model = new_model()
    choose_trained(model, Tuning(mode=mode), seed=0, name="tiny")
    for name, parameter in model.named_parameters():
        if name.endswith("lora_b"):
            nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
    return set_training(model)


def batches_of(step: int, *, process_index: int = 0, num_processes: int = 1, **plan: Any) -> Iterator[TrainingBatch]:
    """Return a process's shares of the batches from a step on."""
    split = drawn_split()
    return training_batches(
        split,
        TRANSFORM,
        BatchPlan(len(split), 16, NUM_IMAGES, seed=3, **{"mixing": PairMixing(0.2, 1.0)} | plan),
        num_workers=0,
        class_weights=CLASS_WEIGHTS,
        first_step=step,
        process_index=process_index,
        num_processes=num_processes,
    )


def step_of(
    model: nn.Module, step: int, *, micro_batch: int, label_smoothing: float = 0.1, **plan: Any
) -> tuple[Tensor, float]:
    """Return the gradient that a process adds in a step, all parameters in a row, and its part of the loss."""
    batches = batches_of(step, **plan)
    model.zero_grad()
    accelerator = Accelerator(cpu=True)
    how = {"accelerator": accelerator, "precision": "fp32", "label_smoothing": label_smoothing}
    loss = add_gradients(model, next(batches), micro_batch, **how)
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None]), float(loss)


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("patch_drop", [0.0, 0.25])
def test_micro_batches__16_is_2_times_8_and_4_times_4_and_8_times_2(patch_drop: float) -> None:
    """Also 5 at a time, which divides pairs: they are mixed before."""
    model = new_model(patch_drop=patch_drop)
    whole, loss = step_of(model, 1, micro_batch=16)
    for micro_batch in (8, 4, 2, 5):
        gradient, parts = step_of(model, 1, micro_batch=micro_batch)
        assert difference(gradient, whole) < 1e-6
        assert parts == pytest.approx(loss, abs=1e-5)
    others = [step_of(model, 0, micro_batch=16), step_of(new_model(drop_path=0.0), 1, micro_batch=16)]
    others.append(step_of(model, 1, micro_batch=16, mixing=None))
    others.append(step_of(model, 1, micro_batch=16, label_smoothing=0.0))
    assert min(difference(gradient, whole) for gradient, _ in others) > 0.01  # each of these is of effect


@pytest.mark.parametrize("mode", ["last:2", "lora:4"])
def test_micro_batches__of_few_weights_too(mode: str) -> None:
    model = few_trained(mode)
    whole, loss = step_of(model, 1, micro_batch=16)
    for micro_batch in (8, 4, 5):
        gradient, parts = step_of(model, 1, micro_batch=micro_batch)
        assert difference(gradient, whole) < 1e-6
        assert parts == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("num_processes", [2, 3, 4])
@pytest.mark.parametrize("step", [1, 2])  # the last has one image, which the first process takes
def test_processes__what_they_add_is_what_one_would(step: int, num_processes: int) -> None:
    """The accelerator is of one process, so nothing is averaged."""
    model = new_model()
    whole, loss = step_of(model, step, micro_batch=16)
    shares = [
        step_of(model, step, micro_batch=3, process_index=index, num_processes=num_processes)
        for index in range(num_processes)
    ]
    assert difference(torch.stack([gradient for gradient, _ in shares]).sum(dim=0), whole) < 1e-6
    assert sum(part for _, part in shares) == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "patch_drop"),
    [
        ("tnt_s_legacy_patch16_224", {"img_size": 16, "patch_size": 8, "inner_dim": 8, "embed_dim": 16, "depth": 3,
                                      "num_heads_inner": 2, "num_heads_outer": 2, "num_classes": 3}, 0.0),
        ("vit_small_patch16_dinov3", {**VIT, "rope_rescale_coords": None}, 0.25),
        ("vit_small_patch16_18x2_224", VIT, 0.25),
    ],
)  # fmt: skip
def test_other_architectures(name: str, arguments: dict[str, Any], patch_drop: float) -> None:
    """TNT folds patches into the batch, DINOv3 turns queries by places."""
    model = new_model(name=name, patch_drop=patch_drop, **arguments)
    whole, _ = step_of(model, 1, micro_batch=16)
    assert difference(step_of(model, 1, micro_batch=4)[0], whole) < 2e-6
    assert difference(step_of(model, 0, micro_batch=16)[0], whole) > 0.05


@compiler_later()
def test_checkpointing__draws_the_same_again() -> None:
    """Bit for bit: what is computed again is what was computed before."""
    model, light = new_model(), new_model()
    light.set_grad_checkpointing()
    plain, checkpointed = (step_of(one, 1, micro_batch=8) for one in (model, light))
    assert torch.equal(plain[0], checkpointed[0])
    assert plain[1] == checkpointed[1]


WORKER = """
import pickle, sys
import vitctl.models
import torch
from accelerate import Accelerator
from tests.training.test_layouts import new_model, step_of

accelerator = Accelerator(cpu=True)
torch.set_num_threads(1)
wrapped = accelerator.prepare(new_model())
assert accelerator.num_processes == 2 and type(wrapped).__name__ == "DistributedDataParallel"
found = step_of(wrapped, 1, micro_batch=4, process_index=accelerator.process_index, num_processes=2)
pickle.dump((found[0].numpy(), found[1]), open(f"{sys.argv[1]}/{accelerator.process_index}", "wb"))
accelerator.end_training()
"""


FEW_WORKER = WORKER.replace("import new_model, step_of", "import few_trained, step_of").replace(
    "new_model()", "few_trained(sys.argv[1].rpartition('/')[2])"
)


FULL_WORKER = """
import pickle, sys
import vitctl.models
import torch
from accelerate import Accelerator
from tests.training.test_layouts import batches_of, new_model
from vitctl.training.loop import RateSchedule, train_steps
from vitctl.training.optimizer import build_optimizer, parameter_groups
from vitctl.training.state import TrainingState

accelerator = Accelerator(cpu=True)
torch.set_num_threads(1)
model = new_model()
if accelerator.process_index == 1:  # it has less memory
    def full(module, inputs):
        if len(inputs[0]) > 3:
            torch.empty(2**60)
    model.register_forward_pre_hook(full)
groups = parameter_groups(model, weight_decay=0.0, layer_decay=1.0)
state = TrainingState(model, build_optimizer(groups, name="sgd", lr=0.1, betas=(0.9, 0.9), momentum=0.0))
batches = batches_of(0, process_index=accelerator.process_index, num_processes=2)
steps = train_steps(
    state, accelerator.prepare(model), batches, RateSchedule(3, 0, 0.1, 0.1), accelerator=accelerator, clip_norm=0.0
)
losses = [report.loss.read() for report in steps]
pickle.dump((state.micro_batch, losses), open(f"{sys.argv[1]}/{accelerator.process_index}", "wb"))
accelerator.end_training()
"""


def in_two_processes(script: str, folder: Path) -> list[Any]:
    """Return what the script leaves in a file of each of two gloo processes."""
    environment = os.environ | {
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29517",
        "GLOO_SOCKET_IFNAME": "lo", "ACCELERATE_USE_CPU": "1", "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
    }  # fmt: skip
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    workers = [subprocess.Popen([sys.executable, "-c", script, str(folder)], env=environment | rank) for rank in ranks]
    assert [worker.wait() for worker in workers] == [0, 0]
    return [pickle.loads((folder / str(rank)).read_bytes()) for rank in range(2)]


@pytest.mark.slow
def test_two_gloo_processes_times_2_times_4__average_to_the_gradient_of_16(tmp_path: Path) -> None:
    whole, loss = step_of(new_model(), 1, micro_batch=16)
    found = in_two_processes(WORKER, tmp_path)
    for gradient, _ in found:
        assert difference(torch.from_numpy(gradient), whole) < 1e-6
    assert sum(part for _, part in found) == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["last:2", "lora:4", "head"])
def test_two_gloo_processes__of_few_weights_too(mode: str, tmp_path: Path) -> None:
    whole, loss = step_of(few_trained(mode), 1, micro_batch=16)
    (tmp_path / mode).mkdir()
    found = in_two_processes(FEW_WORKER, tmp_path / mode)
    for gradient, _ in found:
        assert difference(torch.from_numpy(gradient), whole) < 1e-6
    assert sum(part for _, part in found) == pytest.approx(loss, abs=1e-5)


@pytest.mark.slow
def test_two_gloo_processes__agree_on_what_fits_the_smaller_memory(tmp_path: Path) -> None:
    (first, losses), (second, others) = in_two_processes(FULL_WORKER, tmp_path)
    assert (first, second) == (2, 2)
    assert losses == others
    expected = [step_of(new_model(), 0, micro_batch=16, label_smoothing=0.0)[1]]
    assert losses[:1] == pytest.approx(expected, abs=1e-5)
