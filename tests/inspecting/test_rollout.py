"""Rollout against a plain loop over timm's unfused maps, and against closed forms through real models."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.rollout import FUSIONS, add_skip, discard_lowest, fuse_heads, rollout
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import geometry_of

_VIT = {"img_size": (32, 48), "patch_size": 8, "embed_dim": 16, "depth": 3, "num_heads": 2}
FAMILIES: dict[str, dict[str, Any]] = {
    "class token": {},
    "registers": {"reg_tokens": 2},
    "average pooling": {"class_token": False, "reg_tokens": 2, "global_pool": "avg"},
}
NUM_PREFIX = {"class token": 1, "registers": 3, "average pooling": 2}


def _subject(family: str, **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **{**_VIT, **FAMILIES[family], **arguments}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return Subject(model, "it", geometry_of(model), torch.device("cpu"))


def _pictures(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 32, 48, generator=torch.Generator().manual_seed(2))


def _rollout(subject: Subject, pictures: Tensor, **options: Any) -> Findings:
    return rollout(subject, pictures, **options, conversation=Conversation())


def _unfused_maps(subject: Subject, pictures: Tensor) -> list[np.ndarray]:
    model: Any = subject.model
    maps: list[np.ndarray] = []
    handles = []
    for block in model.blocks:
        block.attn.fused_attn = False
        handles.append(
            block.attn.attn_drop.register_forward_pre_hook(lambda _, args: maps.append(args[0].double().numpy()))
        )
    with torch.no_grad():
        model(pictures)
    for block, handle in zip(model.blocks, handles, strict=True):
        block.attn.fused_attn = True
        handle.remove()
    return maps


def _plain_loop(
    maps: Sequence[np.ndarray], *, fusion: str, discard: float, residual: float, num_prefix: int
) -> list[np.ndarray]:
    """The definition, one image and one block at a time: J_l of every block l, (B, N, N) float64."""
    products: list[np.ndarray] = []
    for block in maps:
        per_image = []
        for image, heads in enumerate(block):
            fused = {"mean": np.mean, "max": np.max, "min": np.min}[fusion](heads, axis=0)
            lowest = np.argsort(fused, axis=None)[: int(discard * fused.size)]
            for row, column in zip(*np.unravel_index(lowest, fused.shape), strict=True):
                if column >= num_prefix:
                    fused[row, column] = 0
            mixed = (1 - residual) * fused + residual * np.eye(len(fused))
            mixed = mixed / mixed.sum(axis=1)[:, None]
            per_image.append(mixed @ products[-1][image] if products else mixed)
        products.append(np.stack(per_image))
    return products


# --- against the definition


@pytest.mark.parametrize("residual", [0, 0.3, 0.5])
@pytest.mark.parametrize("discard", [0, 0.3])
@pytest.mark.parametrize("fusion", FUSIONS)
def test_rollout_is_the_plain_loop(fusion: str, discard: float, residual: float) -> None:
    subject, pictures = _subject("registers"), _pictures()
    maps = _unfused_maps(subject, pictures)
    products = _plain_loop(maps, fusion=fusion, discard=discard, residual=residual, num_prefix=3)
    expected = np.stack([product[:, 0, 3:].reshape(3, 4, 6) for product in products], axis=1)
    found = _rollout(subject, pictures, fusion=fusion, discard=discard, residual=residual)
    np.testing.assert_allclose(found.arrays["per_layer"], expected, atol=1e-6)
    last = expected[:, -1]
    np.testing.assert_allclose(found.arrays["rollout"], last / last.max(axis=(1, 2), keepdims=True), atol=1e-5)
    assert found.facts["row_sum_error"] < 1e-5
    assert (found.facts["fusion"], found.facts["discard"], found.facts["residual"]) == (fusion, discard, residual)


@pytest.mark.parametrize(
    ("family", "query", "target"),
    [
        ("class token", None, "cls"),
        ("class token", "cls", "cls"),
        ("class token", (1, 2), [1, 2]),
        ("average pooling", None, "mean over patches"),
        ("average pooling", (3, 5), [3, 5]),
    ],
)
def test_target(family: str, query: Any, target: Any) -> None:
    subject, pictures, num_prefix = _subject(family), _pictures(), NUM_PREFIX[family]
    maps = _unfused_maps(subject, pictures)
    last = _plain_loop(maps, fusion="mean", discard=0, residual=0.5, num_prefix=num_prefix)[-1][:, :, num_prefix:]
    if target == "cls":
        expected = last[:, 0]
    elif isinstance(target, str):
        expected = last[:, num_prefix:].mean(axis=1)
    else:
        expected = last[:, num_prefix + target[0] * 6 + target[1]]
    found = _rollout(subject, pictures, query=query)
    np.testing.assert_allclose(found.arrays["per_layer"][:, -1], expected.reshape(3, 4, 6), atol=1e-6)
    assert found.facts["target"] == target


# --- closed forms


def _attend_evenly(subject: Subject) -> None:
    model: Any = subject.model
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight[:32] = 0
            block.attn.qkv.bias[:32] = 0


def test_even_attention() -> None:
    subject = _subject("class token")
    _attend_evenly(subject)
    found = _rollout(subject, _pictures(1), query=(2, 1)).arrays["per_layer"]
    for layer in range(3):
        kept = 0.5 ** (layer + 1)
        expected = np.full((4, 6), (1 - kept) / 25)
        expected[2, 1] += kept
        np.testing.assert_allclose(found[0, layer], expected, atol=1e-7)


def test_attention_to_oneself_stays_where_it_is() -> None:
    subject = _subject("average pooling", embed_dim=26, num_heads=1, reg_tokens=2, qkv_bias=False, init_values=1.0)
    model: Any = subject.model
    with torch.no_grad():
        for parameter in (*model.patch_embed.parameters(), *model.blocks.parameters()):
            parameter.zero_()
        model.pos_embed.copy_(torch.eye(26)[None])  # the patches' one-hot places; 2 registers come before
        model.reg_token.zero_()
        for block in model.blocks:
            block.norm1 = torch.nn.Identity()
            block.attn.qkv.weight[:52] = 100 * torch.eye(26).repeat(2, 1)
    found = _rollout(subject, _pictures(2), query=(1, 3))
    expected = np.zeros((2, 3, 4, 6))
    expected[:, :, 1, 3] = 1
    assert np.array_equal(found.arrays["per_layer"], expected)
    assert np.array_equal(found.arrays["rollout"], expected[:, 0])


# --- the pure steps


def test_fuse_heads() -> None:
    maps = torch.tensor([[[[0.2, 0.8]], [[0.6, 0.4]]]])
    assert fuse_heads(maps, "mean").tolist() == [[[pytest.approx(0.4), pytest.approx(0.6)]]]
    assert torch.equal(fuse_heads(maps, "max"), torch.tensor([[[0.6, 0.8]]]))
    assert torch.equal(fuse_heads(maps, "min"), torch.tensor([[[0.2, 0.4]]]))


def test_discard_lowest__by_hand() -> None:
    fused = torch.tensor([[[0.1, 0.2, 0.7], [0.3, 0.3, 0.4], [0.05, 0.15, 0.8]]])
    lower = discard_lowest(fused, 0.5, num_prefix=1)  # the 4 lowest: .05 and .1 are spared, .15 and .2 go
    assert torch.equal(lower, torch.tensor([[[0.1, 0.0, 0.7], [0.3, 0.3, 0.4], [0.05, 0.0, 0.8]]]))
    assert torch.equal(discard_lowest(fused, 0.11, num_prefix=0), fused)  # 0.99 entries
    assert discard_lowest(fused, 0.12, num_prefix=0)[0, 2, 0] == 0
    assert fused[0, 2, 0] == 0.05  # not changed in place


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_discard_lowest__never_prefix_columns(share: float) -> None:
    fused = torch.rand(2, 12, 12, generator=torch.Generator().manual_seed(0))
    fused[:, :, :3] *= 1e-3  # these are the lowest
    found = discard_lowest(fused, share, num_prefix=3)
    assert torch.equal(found[:, :, :3], fused[:, :, :3])
    count = int(share * 144)
    assert (found[:, :, 3:] == 0).sum(dim=(1, 2)).tolist() == [max(0, count - 36)] * 2


def test_discard_lowest__each_image_has_its_own_lowest() -> None:
    fused = torch.rand(2, 6, 6, generator=torch.Generator().manual_seed(0))
    both = torch.stack([fused[0], fused[1] + 5])
    assert (discard_lowest(both, 0.5, num_prefix=0) == 0).sum(dim=(1, 2)).tolist() == [18, 18]


def test_discard_lowest__equal_entries() -> None:
    assert (discard_lowest(torch.full((1, 5, 5), 0.2), 0.4, num_prefix=0) == 0).sum() == 10


@pytest.mark.parametrize("residual", [0.0, 0.3, 0.5])
def test_add_skip_rows_sum_to_1(residual: float) -> None:
    fused = torch.rand(2, 7, 7, generator=torch.Generator().manual_seed(0))
    found = add_skip(fused, residual)
    torch.testing.assert_close(found.sum(dim=-1), torch.ones(2, 7))
    expected = (1 - residual) * fused + residual * torch.eye(7)
    torch.testing.assert_close(found, expected / expected.sum(dim=-1)[:, :, None])


# --- the rest


def test_every_picture_alone_gives_the_same() -> None:
    subject, pictures = _subject("class token"), _pictures(5)
    together = _rollout(subject, pictures, fusion="max", discard=0.5)
    alone = [_rollout(subject, one[None], fusion="max", discard=0.5) for one in pictures]
    for name in ("per_layer", "rollout"):
        expected = np.concatenate([found.arrays[name] for found in alone])
        np.testing.assert_allclose(together.arrays[name], expected, atol=1e-6)


def test_many_pictures_go_in_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitctl.inspecting.rollout._MOST_PICTURES", 2)
    subject, pictures = _subject("class token"), _pictures(5)
    batched = _rollout(subject, pictures).arrays["per_layer"]
    monkeypatch.undo()
    np.testing.assert_allclose(batched, _rollout(subject, pictures).arrays["per_layer"], atol=1e-6)


def test_table() -> None:
    found = _rollout(_subject("class token"), _pictures())
    assert [row[0] for row in found.rows] == ["0 to 0", "0 to 1", "0 to 2"]
    assert all(len(row) == len(found.header) for row in found.rows)
    shares = found.arrays["per_layer"].sum(axis=(2, 3)).mean(axis=0)
    assert [float(row[1]) for row in found.rows] == pytest.approx(shares, abs=6e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fusion": "median"}, "--fusion is 'median'; it can be mean, max, min."),
        ({"discard": 1.0}, "--discard is 1.0; expected a share from 0 to below 1. Try 0.5."),
        ({"residual": -0.1}, "--residual is -0.1; expected a share from 0 to below 1. Try 0.5."),
        ({"query": (4, 0)}, "--query 4,0 is outside of the grid of it; it has rows 0 to 3"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError) as caught:
        _rollout(_subject("class token"), _pictures(1), **options)
    assert str(caught.value).startswith(said)


def test_rows_without_anything_left() -> None:
    subject = _subject("average pooling", reg_tokens=0)
    with pytest.raises(SettingError, match="--discard leaves tokens that attend to nothing"):
        _rollout(subject, _pictures(1), discard=0.999, residual=0)
    assert _rollout(subject, _pictures(1), discard=0.999).facts["row_sum_error"] < 1e-6


def test_a_hierarchical_model_is_refused() -> None:
    arguments = {"img_size": 32, "window_size": 2, "depths": (1, 1, 1, 1), "embed_dim": 12, "num_heads": (1, 1, 2, 2)}
    model = timm.create_model("swin_tiny_patch4_window7_224", **arguments).eval()
    subject = Subject(model, "swin", geometry_of(model), torch.device("cpu"))
    with pytest.raises(ModelError, match=r"swin merges patches: its stages have 8x8, 4x4, 2x2 and 1x1 tokens; "):
        _rollout(subject, torch.zeros(1, 3, 32, 32))
