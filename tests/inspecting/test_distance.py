"""Attention distance: closed forms on the pure functions and through real models whose attention is known."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from scipy.spatial.distance import cdist

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.inspecting.distance import distance, patch_distances, uniform_distance
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.primitives.preprocessing import Preprocessing

# grid, patch (px), mean distance of even attention (px): V's and R's sizes, and a rectangle
UNIFORM = [
    ((7, 7), 32, 115.5029),
    ((14, 14), 16, 116.4922),
    ((16, 16), 14, 116.5651),
    ((28, 28), 8, 116.7216),
    ((24, 24), 16, 200.0480),
    ((37, 37), 14, 269.9919),
    ((16, 8), 16, 102.6403),
]


def _subject(grid: tuple[int, int], patch: int, **arguments: Any) -> Subject:
    size = (grid[0] * patch, grid[1] * patch)
    arguments = {"embed_dim": 16, "depth": 2, "num_heads": 2, **arguments}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", img_size=size, patch_size=patch, **arguments).eval()
    return Subject(model, "it", geometry_of(model), torch.device("cpu"))


def _stream(folder: Path, subject: Subject, *, count: int = 1, batch_size: int = 2) -> ImageStream:
    preprocessing = Preprocessing(subject.geometry.image_size, "bicubic", 1.0, "squash", (0.5,) * 3, (0.5,) * 3)
    split = open_source(str(folder), SourceOptions()).split("all")
    return ImageStream(split, EvaluationTransform(preprocessing), preprocessing, batch_size, 0).first(count)


def _attend_evenly(subject: Subject) -> None:
    model: Any = subject.model
    for block in model.blocks:
        width = block.attn.qkv.in_features
        with torch.no_grad():
            block.attn.qkv.weight[: 2 * width] = 0
            block.attn.qkv.bias[: 2 * width] = 0


def _distance(folder: Path, subject: Subject, *, renormalise: bool = False, **options: int) -> Findings:
    stream = _stream(folder, subject, **options)
    return distance(subject, stream, renormalise=renormalise, conversation=Conversation())


# --- pure


def test_patch_distances_are_scipys() -> None:
    places = [(16 * row, 8 * column) for row in range(3) for column in range(5)]
    found = patch_distances((3, 5), (16, 8)).numpy()
    np.testing.assert_allclose(found, cdist(places, places), rtol=1e-14)


@pytest.mark.parametrize(("grid", "patch", "expected"), UNIFORM)
def test_uniform_distance(grid: tuple[int, int], patch: int, expected: float) -> None:
    assert uniform_distance(grid, (patch, patch)) == pytest.approx(expected, abs=5e-5)
    assert uniform_distance(grid, (patch, patch)) == pytest.approx(float(patch_distances(grid, (patch, patch)).mean()))


def test_uniform_distance__prefix_tokens_count_as_distance_0() -> None:
    assert uniform_distance((14, 14), (16, 16), num_prefix=1) == pytest.approx(115.9009, abs=5e-5)


def test_uniform_distance__limit_of_small_patches() -> None:
    # mean distance of two points in a unit square: (2 + sqrt 2 + 5 asinh 1) / 15
    square = (2 + np.sqrt(2) + 5 * np.arcsinh(1)) / 15
    assert uniform_distance((224, 224), (1, 1)) == pytest.approx(224 * square, rel=1e-4)


# --- through real models


@pytest.mark.parametrize(("grid", "patch", "expected"), UNIFORM)
def test_even_attention(image_folder: Path, grid: tuple[int, int], patch: int, expected: float) -> None:
    subject = _subject(grid, patch, depth=1, class_token=False, global_pool="avg")
    _attend_evenly(subject)
    found = _distance(image_folder, subject)
    np.testing.assert_allclose(found.arrays["distance_px"], np.full((1, 2), expected), atol=2e-4)
    np.testing.assert_allclose(found.arrays["prefix_mass"], np.zeros((1, 2)))
    assert found.facts["uniform_px"] == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("renormalise", "expected"), [(False, 115.9009), (True, 116.4922)])
def test_even_attention__class_token(image_folder: Path, renormalise: bool, expected: float) -> None:
    subject = _subject((14, 14), 16)
    _attend_evenly(subject)
    found = _distance(image_folder, subject, renormalise=renormalise)
    np.testing.assert_allclose(found.arrays["distance_px"], np.full((2, 2), expected), atol=2e-4)
    np.testing.assert_allclose(found.arrays["prefix_mass"], np.full((2, 2), 1 / 197), rtol=1e-5)
    assert found.facts["uniform_px"] == pytest.approx(expected, abs=5e-5)
    assert found.facts["is_renormalised"] is renormalise


def _attend_to(subject: Subject, targets: list[list[int]]) -> None:
    """Make head k of the only block send patch i to ``targets[k][i]`` alone: tokens are their one-hot positions."""
    model: Any = subject.model
    num_tokens = len(targets[0])
    embeddings = torch.eye(num_tokens).repeat(1, len(targets))[None]
    queries = torch.eye(num_tokens * len(targets)) * 100
    keys = torch.block_diag(*(torch.eye(num_tokens)[torch.tensor(target)].T * 100 for target in targets))
    block = model.blocks[0]
    block.norm1 = torch.nn.Identity()
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), *block.attn.qkv.parameters()):
            parameter.zero_()
        model.pos_embed.copy_(embeddings)
        # (i one-hot) W_q and (j one-hot) W_k agree where j is the target of i; Linear computes x W^T
        block.attn.qkv.weight[: 2 * len(queries)] = torch.cat([queries, keys.T])


def test_attention_to_oneself_is_0_and_to_a_neighbour_one_patch(image_folder: Path) -> None:
    oneself = list(range(15))
    below = [place + 5 if place < 10 else place - 5 for place in oneself]  # on a grid of 3x5; the last row looks up
    right = [place + 1 if place % 5 < 4 else place - 1 for place in oneself]
    corner = [0] * 15
    subject = _subject(
        (3, 5), 16, embed_dim=60, num_heads=4, depth=1, class_token=False, global_pool="avg", qkv_bias=False
    )
    _attend_to(subject, [oneself, below, right, corner])
    found = _distance(image_folder, subject, count=3)
    to_corner = np.hypot(*np.divmod(np.arange(15), 5)).mean() * 16
    np.testing.assert_allclose(found.arrays["distance_px"], [[0, 16, 16, to_corner]], rtol=1e-6)
    assert found.arrays["distance_px"][0, :3].tolist() == [0.0, 16.0, 16.0]
    assert found.arrays["per_image_px"].shape == (3, 1, 4)


@pytest.mark.parametrize("renormalise", [False, True])
def test_the_authors_formula(image_folder: Path, renormalise: bool) -> None:
    subject = _subject((4, 6), 8, reg_tokens=2)
    model: Any = subject.model
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=0.3)
    found = _distance(image_folder, subject, renormalise=renormalise, count=5)
    (images,) = _stream(image_folder, subject, count=5, batch_size=5).batches()
    maps: list[np.ndarray] = []
    for block in model.blocks:
        block.attn.fused_attn = False
        block.attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0].double().numpy()))
    with torch.no_grad():
        model(images)
    stacked = np.stack(maps, axis=1)[:, :, :, 3:]  # (B, L, H, patches, N)
    weights = stacked[..., 3:]
    if renormalise:
        weights = weights / weights.sum(axis=-1, keepdims=True)
    places = [(8 * row, 8 * column) for row in range(4) for column in range(6)]
    per_image = (weights * cdist(places, places)).sum(axis=-1).mean(axis=-1)
    np.testing.assert_allclose(found.arrays["per_image_px"], per_image, rtol=1e-5)
    np.testing.assert_allclose(found.arrays["distance_px"], per_image.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found.arrays["prefix_mass"], stacked[..., :3].sum(axis=-1).mean(axis=(0, 3)), rtol=1e-5)
    heads = per_image.mean(axis=0)
    assert found.facts["mean_per_layer"] == pytest.approx(heads.mean(axis=1).tolist(), rel=1e-5)
    assert found.facts["head_spread_per_layer"] == pytest.approx(np.ptp(heads, axis=1).tolist(), rel=1e-4)
    assert (found.facts["num_images"], found.facts["patch_size"]) == (5, [8, 8])
    assert [row[0] for row in found.rows] == ["0", "1", "even attention"]
    assert all(len(row) == len(found.header) for row in found.rows)


def test_batch_sizes_agree(image_folder: Path) -> None:
    subject = _subject((4, 4), 8)
    one, two, five = (_distance(image_folder, subject, count=5, batch_size=size) for size in (1, 2, 5))
    for name in one.arrays:
        np.testing.assert_allclose(one.arrays[name], five.arrays[name], rtol=1e-5)
        np.testing.assert_allclose(two.arrays[name], five.arrays[name], rtol=1e-5)


def test_a_cnn_is_refused(image_folder: Path) -> None:
    model = timm.create_model("resnet18").eval()
    subject = Subject(model, "resnet18", geometry_of(model), torch.device("cpu"))
    with pytest.raises(ModelError, match="resnet18 has no attention; .*receptive-field, probe or equivariance"):
        _distance(image_folder, subject)


_MEMORY = """
import resource
import sys

import torch
import vitctl.models
import timm

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.inspecting.distance import distance
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.primitives.preprocessing import Preprocessing

peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
model = timm.create_model("vit_small_patch16_224", img_size=512).eval()
preprocessing = Preprocessing((512, 512), "bicubic", 1.0, "squash", (0.5,) * 3, (0.5,) * 3)
split = open_source(sys.argv[1], SourceOptions()).split("all")
stream = ImageStream(split, EvaluationTransform(preprocessing), preprocessing, 2, 0).first(2)
(images,) = stream.batches()
with torch.no_grad():
    model.forward_features(images)
plain = peak()
distance(Subject(model, "it", geometry_of(model), torch.device("cpu")), stream, conversation=Conversation())
print(peak() - plain)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss is in KiB on Linux only")
def test_memory_stays_near_that_of_a_forward_pass(image_folder: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-c", _MEMORY, str(image_folder)], capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stderr
    assert float(run.stdout) < 40  # MiB above; the maps of one block are 48 MiB, of all 577
