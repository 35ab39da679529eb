"""Symmetries that hold exactly, those that do not against a second computation, and a model that stays untouched."""

import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.data.sources.digits import ArrayImages
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import DataError, ModelError
from vitctl.inspecting.equivariance import equivariance
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.primitives.seeds import random_generator

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}
_RESNET = {"channels": (12, 16, 20, 24), "layers": (1, 1, 1, 1)}


def stream_of(height: int, width: int, *, count: int = 4, batch_size: int = 64, is_smooth: bool = False) -> ImageStream:
    """Return a stream of noise, or of slow waves."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    if is_smooth:
        places = np.add.outer(np.arange(height), np.arange(width))[None, :, :, None]
        waves = np.sin(2 * np.pi * places / (height + width) + rng.uniform(0, 6, (count, 1, 1, 3)))
        pixels = np.rint(127 + 120 * waves).astype(np.uint8)
    labels = np.zeros(count, dtype=np.int64)
    split = Split("all", ArrayImages("noise", pixels), np.arange(count), labels, ("noise",))
    preprocessing = Preprocessing((height, width), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return ImageStream(split, EvaluationTransform(preprocessing), preprocessing, batch_size, 0)


def images_of(stream: ImageStream) -> Tensor:
    return torch.cat(list(stream.batches()))


def build(name: str, **arguments: Any) -> Any:
    """Return the model with every parameter and statistic somewhere else than where it starts (ones, zeros)."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments)
        for value in (*model.parameters(), *model.buffers()):
            if value.is_floating_point():
                value.add_(0.1 * torch.rand_like(value))
    return model.eval()


def vit(**arguments: Any) -> Any:
    return build("vit_tiny_patch16_224", **{**_VIT, **arguments})


def look(model: Any, stream: ImageStream, *, seed: int = 0) -> Findings:
    subject = Subject(model.eval(), "it", geometry_of(model), torch.device("cpu"))
    return equivariance(subject, stream, seed=seed, conversation=Conversation())


def errors_of(found: Findings, layer: str) -> np.ndarray:
    errors: np.ndarray = found.arrays["translation_error"][found.arrays["layers"].tolist().index(layer)]
    return errors


class Stack(nn.Module):
    """Convolutions, one a stage."""

    def __init__(self, *stages: nn.Module) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.output_fmt = "NCHW"

    def forward_features(self, images: Tensor) -> Tensor:
        for stage in self.stages:
            images = stage(images)
        return images


class Flat(nn.Module):
    """A model without blocks that gives one vector per image."""

    def forward_features(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


# --- translation


def test_patch_embedding_commutes_with_shifts_exactly() -> None:
    found = look(vit(), stream_of(32, 32))
    assert found.facts["patch_embed_shift_error"] == 0
    assert found.facts["patch"] == [8, 8]
    assert found.arrays["shifts"].tolist() == [[0, 1], [1, 0], [1, 1], [2, 2]]  # 4 rows leave no room for 4
    assert found.arrays["layers"].tolist() == ["pixels", "embed", "0", "1", "final"]
    assert not errors_of(found, "pixels").any()
    assert (found.arrays["translation_error"][1:] > 1e-3).all()  # positions
    hybrid = build("vit_tiny_r_s16_p8_224", img_size=64, embed_dim=16, depth=1, num_heads=2)
    assert look(hybrid, stream_of(64, 64)).facts["patch_embed_shift_error"] > 1e-4  # borders of its CNN


def test_without_positions_a_vit_commutes_with_shifts() -> None:
    model = vit(img_size=(32, 64))
    nn.init.zeros_(model.pos_embed)
    found = look(model, stream_of(32, 64))
    assert found.arrays["translation_error"].max() < 1e-5  # a roll by patches is a permutation of the tokens
    assert found.facts["permutation_error_with_pos"] < 1e-5


def test_convolutions__with_circular_padding_commute_and_with_zeros_do_not() -> None:
    def stack(padding_mode: str) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return Stack(
                nn.Conv2d(3, 6, 3, stride=2, padding=1, padding_mode=padding_mode),
                nn.Conv2d(6, 6, 3, padding=1, padding_mode=padding_mode),
            )

    found = look(stack("circular"), stream_of(16, 16))
    assert found.facts["patch"] == [2, 2]
    assert len(found.arrays["shifts"]) == 5
    assert found.arrays["translation_error"].max() < 1e-5
    assert found.facts["patch_embed_shift_error"] is None
    bordered = look(stack("zeros"), stream_of(16, 16))
    assert errors_of(bordered, "embed").max() == 0
    assert errors_of(bordered, "0").min() > 1e-2
    assert (errors_of(bordered, "1") > errors_of(bordered, "0")).all()


def test_translation_error__by_hand() -> None:
    model, stream = vit(), stream_of(32, 32)
    found, images = look(model, stream), images_of(stream)

    def places(one: Tensor) -> np.ndarray:
        with torch.no_grad():
            maps: Tensor = model.forward_intermediates(one, [0], norm=False, intermediates_only=True)[0]
        return maps.double().numpy()  # (B, D, h, w)

    for index, (rows, columns) in enumerate(found.arrays["shifts"].tolist()):
        before = places(images)
        after = places(torch.roll(images, (8 * rows, 8 * columns), (2, 3)))
        expected = []
        for one, moved in zip(before, after, strict=True):
            differences, values = [], []
            for row in range(rows, 4):
                for column in range(columns, 4):
                    values.append(one[:, row - rows, column - columns])
                    differences.append(values[-1] - moved[:, row, column])
            expected.append(np.linalg.norm(differences) / np.linalg.norm(values))
        assert errors_of(found, "0")[index] == pytest.approx(np.mean(expected), rel=1e-5)


def test_cnn__shifts_are_multiples_of_its_total_stride() -> None:
    model, stream = build("resnet18", **_RESNET), stream_of(96, 128)
    found = look(model, stream)
    assert found.facts["patch"] == [32, 32]
    assert found.arrays["layers"].tolist() == ["pixels", "embed", "0", "1", "2", "3", "final"]
    assert found.arrays["shifts"].tolist() == [[0, 1], [1, 0], [1, 1], [2, 2]]
    assert np.isfinite(found.arrays["translation_error"]).all()
    assert found.facts["permutation_error_without_pos"] is None
    assert "no single grid of patch tokens" in found.notes[0]
    images = images_of(stream)
    with torch.no_grad():
        stage, moved = (
            model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(one)))))
            for one in (images, torch.roll(images, 32, 3))
        )
    difference = (stage[..., :-8] - moved[..., 8:]).double().flatten(1).norm(dim=1)
    expected = difference / stage[..., :-8].double().flatten(1).norm(dim=1)
    assert errors_of(found, "0")[0] == pytest.approx(float(expected.mean()), rel=1e-5)


def test_cnn__a_size_that_strides_do_not_divide_is_said() -> None:
    found = look(build("resnet18", **_RESNET), stream_of(72, 72))
    assert found.facts["patch"] == [8, 8]
    assert np.isnan(errors_of(found, "3")).all()
    assert np.isfinite(errors_of(found, "1")).all()
    assert any("strides of layer 2, 3, final do not divide the image of 72x72 px" in note for note in found.notes)
    small = look(build("resnet18", **_RESNET), stream_of(32, 32))
    assert small.arrays["translation_error"].shape == (7, 0)
    assert any("leaves no room for a shift" in note for note in small.notes)
    assert np.isnan(small.arrays["neighbour_similarity"]).tolist() == [*[False] * 5, True, True]


# --- permutation


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {"img_size": (32, 64)}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}),
        ("vit_tiny_patch16_224", {"reg_tokens": 2, "no_embed_class": True}),
        ("vit_tiny_patch16_224", {"pre_norm": True}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("cait_xxs24_224", {"depth_token_only": 1, "init_values": 0.5}),
    ],
)
def test_permutation__equals_that_of_an_image_cut_into_patches(name: str, arguments: dict[str, Any]) -> None:
    model = build(name, **{**_VIT, **arguments})
    height, width = geometry_of(model).image_size
    stream = stream_of(height, width)
    found, images = look(model, stream, seed=3), images_of(stream)
    order = random_generator(3, "inspection", 1).permutation(height * width // 64)
    num_patches = len(order)
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8)  # (B, 3, h, w, 8, 8)
    shuffled = blocks.flatten(2, 3)[:, :, order].reshape(blocks.shape)
    puzzle = shuffled.permute(0, 1, 2, 4, 3, 5).reshape(images.shape)

    def error() -> float:
        with torch.no_grad():
            plain, permuted = model.forward_features(images), model.forward_features(puzzle)
        patches = plain[:, -num_patches:][:, order]
        expected = torch.cat([plain[:, :-num_patches], patches], dim=1).flatten(1)
        return float(((expected - permuted.flatten(1)).norm(dim=1) / expected.norm(dim=1)).mean())

    assert found.facts["permutation_error_with_pos"] == pytest.approx(error(), rel=1e-3)
    assert found.facts["permutation_error_with_pos"] > 1e-3
    assert found.facts["permutation_error_without_pos"] < 1e-5
    with torch.no_grad():
        model.pos_embed.zero_()
    assert error() < 1e-5


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("eva02_tiny_patch14_224", _VIT, "positions inside of its attention (rope"),
        ("beit_base_patch16_224", _VIT, "positions inside of its attention (blocks.0.attn.relative_position"),
        ("vit_relpos_small_patch16_224", _VIT, "positions inside of its attention"),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1)},
            "no single grid of patch tokens",
        ),
    ],
)
def test_permutation__where_positions_cannot_be_taken_out(name: str, arguments: dict[str, Any], reason: str) -> None:
    found = look(build(name, **arguments), stream_of(32, 32))
    assert found.facts["permutation_error_without_pos"] is None
    assert found.facts["permutation_error_with_pos"] is None
    assert reason in found.notes[-1]


def test_permutation__without_a_table_nothing_is_taken_out() -> None:
    found = look(vit(pos_embed="none"), stream_of(32, 32))
    assert found.facts["permutation_error_without_pos"] < 1e-5
    assert found.facts["permutation_error_with_pos"] is None
    assert found.notes == ("it has no table of positions to permute patches against.",)


# --- batches


def test_batch_invariance__layer_norm() -> None:
    model = vit(drop_rate=0.5, proj_drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5, patch_drop_rate=0.5)
    found = look(model, stream_of(32, 32, count=9))
    assert found.facts["norm_kind"] == "LayerNorm"
    assert found.facts["batch_invariance_eval"] < 1e-5
    assert found.facts["batch_invariance_train"] < 1e-5


def test_batch_invariance__batch_norm_and_the_model_is_left_as_it_was() -> None:
    model = build("resnet18", **_RESNET)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = look(model, stream_of(32, 32, count=5))
    assert found.facts["norm_kind"] == "BatchNorm"
    assert found.facts["batch_invariance_eval"] < 1e-5
    assert found.facts["batch_invariance_train"] > 1e-2
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_batch_invariance__by_hand() -> None:
    model = Stack(nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4)))
    stream = stream_of(8, 8, count=3)
    found, images = look(model, stream), images_of(stream)
    with torch.no_grad():
        values = model.stages[0][0](images).double().numpy()

    def normed(some: np.ndarray) -> np.ndarray:
        mean, variance = (f(axis=(0, 2, 3), keepdims=True) for f in (some.mean, some.var))
        result: np.ndarray = ((some - mean) / np.sqrt(variance + 1e-5))[0]
        return result

    pair, among = normed(values[:2]), normed(values)
    expected = np.abs(pair - among).max() / np.abs(among).max()
    assert found.facts["batch_invariance_train"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "arguments", "kind"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (12, 16, 20, 24)}, "LayerNorm"),
        ("resnetv2_50", {"channels": (16, 32, 48, 64), "layers": (1, 1, 1, 1)}, "BatchNorm"),
        ("resnet18", {**_RESNET, "channels": (32, 32, 64, 64), "norm_layer": "groupnorm"}, "GroupNorm"),
        ("vit_tiny_patch16_224", {**_VIT, "img_size": 64}, "LayerNorm"),
    ],
)
def test_norm_kinds(name: str, arguments: dict[str, Any], kind: str) -> None:
    found = look(build(name, **arguments), stream_of(64, 64))
    assert found.facts["norm_kind"].split(", ")[0] == kind


# --- neighbours


def test_neighbours__by_hand() -> None:
    stream = stream_of(24, 32)
    found, images = look(vit(img_size=(24, 32)), stream), images_of(stream).double().numpy()
    adjacent, pairs = [], []
    for image in images:
        patches = {
            (row, column): image[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8].ravel()
            for row in range(3)
            for column in range(4)
        }
        cosines = {
            (one, other): float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))
            for one, a in patches.items()
            for other, b in patches.items()
            if one != other
        }
        adjacent.append(np.mean([cosines[p, q] for p, q in cosines if abs(p[0] - q[0]) + abs(p[1] - q[1]) == 1]))
        pairs.append(np.mean(list(cosines.values())))
    assert found.arrays["neighbour_similarity"][0] == pytest.approx(np.mean(adjacent), rel=1e-6)
    assert found.arrays["random_similarity"][0] == pytest.approx(np.mean(pairs), rel=1e-6)


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_neighbours_are_alike_in_smooth_images_and_not_in_noise(name: str) -> None:
    model = vit(img_size=64) if name == "vit" else build("resnet18", **_RESNET)
    smooth = look(model, stream_of(64, 64, is_smooth=True))
    assert (smooth.arrays["neighbour_similarity"][:2] - smooth.arrays["random_similarity"][:2]).min() > 0.02
    noise = look(model, stream_of(64, 64, count=8))
    assert abs(noise.arrays["neighbour_similarity"][0] - noise.arrays["random_similarity"][0]) < 0.02


# --- what must not matter, what is refused


@pytest.mark.parametrize("name", ["vit", "resnet"])
def test_batch_size_does_not_matter(name: str) -> None:
    model = vit(img_size=64) if name == "vit" else build("resnet18", **_RESNET)
    whole = look(model, stream_of(64, 64, count=7))
    found = look(model, stream_of(64, 64, count=7, batch_size=3))
    for key in ("translation_error", "neighbour_similarity", "random_similarity"):
        np.testing.assert_allclose(found.arrays[key], whole.arrays[key], atol=1e-5)
    for key, value in whole.facts.items():
        if isinstance(value, float):
            assert found.facts[key] == pytest.approx(value, abs=1e-5)
        else:
            assert found.facts[key] == value


def test_table_says_none_where_there_is_nothing() -> None:
    found = look(build("resnet18", **_RESNET), stream_of(32, 32))
    assert found.header == ("layer", "shift error", "neighbours", "all pairs")
    assert found.rows[-1] == ("final", "none", "none", "none")
    assert all(math.isfinite(value) for value in found.facts.values() if isinstance(value, float))


def test_refusals() -> None:
    with pytest.raises(DataError, match="given 2 images; expected 3 or more"):
        look(vit(), stream_of(32, 32, count=2))
    with pytest.raises(ModelError, match="No layer of it has a grid"):
        look(Flat(), stream_of(8, 8))
