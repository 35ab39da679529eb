"""Maps, entropy and similarity of heads against numpy on timm's unfused attention, and against even attention."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.attention_maps import attention
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.primitives.preprocessing import Preprocessing

_VIT = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 18, "depth": 2, "num_heads": 3}
FAMILIES: dict[str, dict[str, Any]] = {
    "registers": {"reg_tokens": 2},
    "average pooling": {"class_token": False, "global_pool": "avg"},
}
NUM_PREFIX = {"registers": 3, "average pooling": 0}


def _subject(family: str, **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **{**_VIT, **FAMILIES[family], **arguments}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Subject(model, "it", geometry_of(model), torch.device("cpu"))


def _stream(folder: Path, *, count: int = 5, batch_size: int = 2) -> ImageStream:
    preprocessing = Preprocessing((32, 48), "bicubic", 1.0, "squash", (0.5,) * 3, (0.5,) * 3)
    split = open_source(str(folder), SourceOptions()).split("all")
    return ImageStream(split, EvaluationTransform(preprocessing), preprocessing, batch_size, 0).first(count)


def _pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 48, generator=torch.Generator().manual_seed(2))


def _attention(subject: Subject, stream: ImageStream, pictures: Tensor, **options: Any) -> Findings:
    options = {"query": None, "layer": None, "head": None, **options}
    return attention(subject, stream, pictures, **options, conversation=Conversation())


def _unfused_maps(subject: Subject, images: Tensor) -> np.ndarray:
    """Return (B, L, H, N, N) float64 as timm's unfused code has it."""
    model: Any = subject.model
    maps: list[np.ndarray] = []
    handles = []
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(
            block.attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0].double().numpy()))
        )
    with torch.no_grad():
        model(images)
    for block, handle in zip(model.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    return np.stack(maps, axis=1)


@pytest.mark.parametrize(
    ("family", "query", "token", "said"),
    [
        ("registers", None, 0, "cls"),
        ("registers", "cls", 0, "cls"),
        ("registers", (1, 4), 3 + 10, [1, 4]),
        ("average pooling", None, 15, [2, 3]),
        ("average pooling", (0, 0), 0, [0, 0]),
    ],
)
def test_maps(image_folder: Path, family: str, query: Any, token: int, said: Any) -> None:
    subject, pictures, num_prefix = _subject(family), _pictures(), NUM_PREFIX[family]
    found = _attention(subject, _stream(image_folder, count=1), pictures, query=query)
    rows = _unfused_maps(subject, pictures)[:, :, :, token]
    maps, prefix = found.arrays["maps"], found.arrays["prefix_attention"]
    np.testing.assert_allclose(maps, rows[..., num_prefix:].reshape(3, 2, 3, 4, 6), atol=1e-6)
    np.testing.assert_allclose(prefix, rows[..., :num_prefix].sum(axis=-1), atol=1e-6)
    np.testing.assert_allclose(maps.sum(axis=(3, 4)) + prefix, np.ones((3, 2, 3)), atol=1e-6)
    assert maps.dtype == np.float32
    assert found.facts["query"] == said


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics(image_folder: Path, family: str) -> None:
    subject, stream, num_prefix = _subject(family), _stream(image_folder), NUM_PREFIX[family]
    found = _attention(subject, stream, _pictures(1), layer=1, head=2)
    maps = _unfused_maps(subject, torch.cat(list(stream.batches())))
    entropy = -(maps * np.log(maps)).sum(axis=-1).mean(axis=(0, 3))
    np.testing.assert_allclose(found.arrays["entropy"], entropy, rtol=1e-5)
    flat = maps[:, :, :, num_prefix:].reshape(5, 2, 3, -1)
    flat /= np.linalg.norm(flat, axis=-1, keepdims=True)
    similarity = np.einsum("blhx,blkx->lhk", flat, flat) / 5
    np.testing.assert_allclose(found.arrays["head_similarity"], similarity, rtol=1e-5)
    others = [(block.sum() - 3) / 6 for block in similarity]
    assert found.facts["mean_head_similarity"] == pytest.approx(others, rel=1e-5)
    assert found.facts["mean_entropy"] == pytest.approx(entropy.mean(axis=1).tolist(), rel=1e-5)
    assert found.facts["max_entropy"] == pytest.approx(math.log(24 + num_prefix))
    assert (found.facts["layer"], found.facts["head"]) == (1, 2)
    assert found.arrays["row_sum_error"].shape == (2,)
    assert found.arrays["row_sum_error"].max() < 1e-5
    assert [row[0] for row in found.rows] == ["0", "1"]
    assert all(len(row) == len(found.header) for row in found.rows)


def test_statistics__several_chunks(image_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject, stream = _subject("registers"), _stream(image_folder)
    whole = _attention(subject, stream, _pictures(1))
    monkeypatch.setattr("vitctl.inspecting.attention_tap.CHUNK_BYTES", 4 * 2 * 3 * 27 * 2)  # 2 rows; P is 3
    parts = _attention(subject, stream, _pictures(1))
    for name in whole.arrays:
        np.testing.assert_allclose(parts.arrays[name], whole.arrays[name], rtol=1e-5, atol=1e-6)


def test_even_attention(image_folder: Path) -> None:
    subject = _subject("registers")
    model: Any = subject.model
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:36] = 0
            block.attn.qkv.bias[:36] = 0
    found = _attention(subject, _stream(image_folder), _pictures())
    np.testing.assert_allclose(found.arrays["entropy"], np.full((2, 3), math.log(27)), rtol=1e-6)
    np.testing.assert_allclose(found.arrays["head_similarity"], np.ones((2, 3, 3)), rtol=1e-6)
    np.testing.assert_allclose(found.arrays["maps"], np.full((3, 2, 3, 4, 6), 1 / 27), rtol=1e-6)
    np.testing.assert_allclose(found.arrays["prefix_attention"], np.full((3, 2, 3), 3 / 27), rtol=1e-6)


def test_batch_sizes_agree(image_folder: Path) -> None:
    subject = _subject("registers")
    one, two, five = (
        _attention(subject, _stream(image_folder, batch_size=size), _pictures()).arrays for size in (1, 2, 5)
    )
    for name in one:
        np.testing.assert_allclose(one[name], five[name], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(two[name], five[name], rtol=1e-5, atol=1e-6)


def test_one_head_has_no_other_to_be_like(image_folder: Path) -> None:
    found = _attention(_subject("registers", num_heads=1), _stream(image_folder, count=1), _pictures(1))
    assert found.facts["mean_head_similarity"] == [None, None]
    assert [row[2] for row in found.rows] == ["-", "-"]


@pytest.mark.parametrize(
    ("family", "options", "said"),
    [
        ("registers", {"layer": 2}, "--layer is 2; expected one of the 2 blocks of it. Try 0 to 1."),
        ("registers", {"head": 3}, "--head is 3; expected one of the 3 heads of it. Try 0 to 2."),
        ("registers", {"query": (0, 6)}, "--query 0,6 is outside of the grid of it; it has rows 0 to 3"),
        ("average pooling", {"query": "cls"}, "it has no class token to look from; expected --query ROW,COLUMN"),
    ],
)
def test_bad_options(image_folder: Path, family: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        _attention(_subject(family), _stream(image_folder), _pictures(), **options)
    assert str(caught.value).startswith(said)


def test_a_cnn_is_refused(image_folder: Path) -> None:
    model = timm.create_model("resnet18").eval()
    subject = Subject(model, "resnet18", geometry_of(model), torch.device("cpu"))
    with pytest.raises(ModelError, match="resnet18 has no attention"):
        _attention(subject, _stream(image_folder), _pictures())
