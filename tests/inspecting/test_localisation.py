"""Tokens that hold their patch exactly, hold another's, or nothing; CNN cells; patches that never change."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.hsic import CkaSums, gram_matrix, pair_vectors
from vitctl.inspecting.localisation import cut_into_cells, localisation
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.models.layers import LayerTap
from vitctl.primitives.preprocessing import Preprocessing


@dataclass(frozen=True)
class _Noise:
    """Images of random pixels, a function of their row, with a border that never changes."""

    size: tuple[int, int]
    num_images: int
    border: int = 0

    def __len__(self) -> int:
        return self.num_images

    def open(self, row: int) -> Image.Image:
        pixels = np.random.default_rng(row).integers(0, 256, size=(*self.size, 3), dtype=np.uint8)
        if self.border:
            inside = pixels[self.border : -self.border, self.border : -self.border].copy()
            pixels[:] = 7
            pixels[self.border : -self.border, self.border : -self.border] = inside
        return Image.fromarray(pixels)

    def name(self, row: int) -> str:
        return str(row)

    def stamp(self, row: int) -> str:
        return ""


class _ToTensor:
    """Levels to -1 to 1."""

    max_value = None

    def pixels(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def finished(self, pixels: Tensor) -> Tensor:
        return pixels / 127.5 - 1


def _stream(size: tuple[int, int], num_images: int = 64, *, border: int = 0) -> ImageStream:
    images = _Noise(size, num_images, border)
    split = Split("all", images, np.arange(num_images), np.zeros(num_images, dtype=np.int64), ("noise",))
    preprocessing = Preprocessing(size, "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return ImageStream(split, _ToTensor(), preprocessing, batch_size=5, num_workers=0)


def _vit(size: tuple[int, int] = (16, 24), **arguments: Any) -> Subject:
    """Return a ViT whose tokens are its patches, rotated: orthonormal embedding, no positions, blocks that add 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(
            "vit_tiny_patch16_224", img_size=size, patch_size=4, embed_dim=48, depth=2, num_heads=2, **arguments
        ).eval()
        with torch.no_grad():
            model.patch_embed.proj.weight.copy_(torch.linalg.qr(torch.randn(48, 48)).Q.view(48, 3, 4, 4))
            model.pos_embed.zero_()
            for block in model.blocks:
                for layer in (block.attn.proj, block.mlp.fc2):
                    layer.weight.zero_()
                    layer.bias.zero_()
        model.norm = nn.Identity()
    return Subject(model, "the vit", geometry_of(model), torch.device("cpu"))


def _localise(subject: Subject, stream: ImageStream, **options: Any) -> Findings:
    return localisation(subject, stream, minibatch=32, conversation=Conversation(), **options)


@pytest.mark.parametrize("layer", [None, "embed", 0, "1", "final"])
@pytest.mark.parametrize("arguments", [{}, {"reg_tokens": 2}, {"class_token": False, "global_pool": "avg"}])
def test_tokens_that_are_their_patch__are_found(layer: Any, arguments: dict[str, Any]) -> None:
    found = _localise(_vit(**arguments), _stream((16, 24), 320), layer=layer)
    table = found.arrays["cka"].reshape(24, 24)
    assert found.arrays["cka"].shape == (24, 4, 6)
    assert np.abs(table.diagonal() - 1).max() < 1e-6
    assert np.abs(found.arrays["own"] - 1).max() < 1e-6
    assert np.abs(table[~np.eye(24, dtype=bool)]).max() < 0.1
    assert abs(table[~np.eye(24, dtype=bool)].mean()) < 0.01
    assert found.facts["argmax_accuracy"] == found.facts["argmax_accuracy_interior"] == 1
    assert found.facts["own_over_mean"] == pytest.approx(1 / table.mean())
    assert found.facts["chance"] == pytest.approx(1 / 24)
    json.dumps(found.facts, allow_nan=False)


class _Rolled(nn.Module):
    """Moves every patch token on by one, after the class token."""

    def forward(self, tokens: Tensor) -> Tensor:
        return torch.cat([tokens[:, :1], tokens[:, 1:].roll(1, dims=1)], dim=1)


def test_tokens_that_are_their_neighbours_patch__are_not_their_own() -> None:
    subject = _vit()
    subject.model.pos_drop = _Rolled()
    found = _localise(subject, _stream((16, 24), 320))
    assert found.facts["argmax_accuracy"] == 0
    assert np.abs(found.arrays["own"]).max() < 0.1
    table = found.arrays["cka"].reshape(24, 24)
    assert np.array_equal(table.argmax(axis=1), (np.arange(24) - 1) % 24)
    assert table[np.arange(24), (np.arange(24) - 1) % 24] == pytest.approx(1, abs=1e-6)


def test_interior__leaves_out_the_border() -> None:
    subject = _vit(size=(16, 16))

    class Swapped(nn.Module):
        """Exchanges the tokens of two corners."""

        def forward(self, tokens: Tensor) -> Tensor:
            order = [0, 16, *range(2, 16), 1]
            return tokens[:, order]

    subject.model.pos_drop = Swapped()
    found = _localise(subject, _stream((16, 16), 160))
    assert found.facts["argmax_accuracy"] == pytest.approx(14 / 16)
    assert found.facts["argmax_accuracy_interior"] == 1


def test_patches_that_never_change__do_not_count() -> None:
    found = _localise(_vit(size=(16, 16)), _stream((16, 16), 160, border=4))
    is_known = ~np.isnan(found.arrays["own"])
    assert is_known.sum() == 4
    assert is_known[1:3, 1:3].all()
    assert found.facts["num_undefined"] == 12
    assert found.facts["argmax_accuracy"] == 1
    assert any(note.startswith("12 of 16 tokens") for note in found.notes)
    json.dumps(found.facts, allow_nan=False)


def _resnet(size: tuple[int, int]) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("resnet18", channels=(8, 8, 16, 16), layers=(1, 1, 1, 1)).eval()
    return Subject(model, "the resnet", replace(geometry_of(model), image_size=size), torch.device("cpu"))


@pytest.mark.parametrize(("layer", "grid"), [(0, (8, 16)), (1, (4, 8)), ("final", (1, 2))])
def test_cells_of_a_cnn__are_its_tokens(layer: Any, grid: tuple[int, int]) -> None:
    subject, stream = _resnet((32, 64)), _stream((32, 64), 16)
    found = localisation(subject, stream, layer=layer, minibatch=8, conversation=Conversation())
    assert found.arrays["cka"].shape == (grid[0] * grid[1], *grid)
    row, column, to_row, to_column = grid[0] - 1, grid[1] // 2, 0, grid[1] - 1
    stride = 32 // grid[0]
    sums = CkaSums()
    for images in stream.batches(8):
        with torch.no_grad():
            places = LayerTap(subject.model, (layer,), name="it")(images)[0][layer].patches
        token = places[:, row * grid[1] + column]
        pixels = images[..., to_row * stride : (to_row + 1) * stride, to_column * stride : (to_column + 1) * stride]
        vectors = [pair_vectors(gram_matrix(one.flatten(1)))[None] for one in (token, pixels)]
        sums.add(vectors[0], vectors[1], num_images=8)
    value = found.arrays["cka"][row * grid[1] + column, to_row, to_column]
    assert value == pytest.approx(float(sums.cka[0, 0]), abs=1e-6)


def test_cnn__finds_its_places_in_low_layers() -> None:
    found = localisation(_resnet((32, 32)), _stream((32, 32), 256), layer=0, conversation=Conversation())
    assert found.facts["argmax_accuracy"] > 10 * found.facts["chance"]


def test_cells__are_those_of_unfold() -> None:
    images = torch.randn(2, 3, 8, 12)
    expected = nn.functional.unfold(images, kernel_size=(4, 3), stride=(4, 3)).transpose(1, 2)
    assert torch.equal(cut_into_cells(images, (2, 4)), expected)


def test_cells__of_an_image_that_the_grid_does_not_divide() -> None:
    images = torch.randn(5, 3, 7, 10, dtype=torch.float64)
    cells = cut_into_cells(images, (3, 4))
    assert cells.shape == (5, 12, 3 * 3 * 3)
    rows, columns = [(0, 2), (2, 4), (4, 7)], [(0, 2), (2, 5), (5, 7), (7, 10)]
    for index, (top, bottom, left, right) in enumerate((*row, *column) for row in rows for column in columns):
        plain = images[:, :, top:bottom, left:right].flatten(1)
        assert torch.allclose(gram_matrix(cells[:, index]), gram_matrix(plain), atol=1e-12)


def test_few_images__are_one_minibatch_or_refused() -> None:
    found = localisation(_vit(), _stream((16, 24), 5), conversation=Conversation())
    assert (found.facts["num_minibatches"], found.facts["num_images_used"]) == (1, 5)
    assert any("one minibatch of 5" in note for note in found.notes)
    assert _localise(_vit(), _stream((16, 24), 40)).facts["num_images_dropped"] == 8
    with pytest.raises(DataError, match="too few images for CKA"):
        _localise(_vit(), _stream((16, 24), 3))


def test_layers_that_cannot_be_taken__are_refused() -> None:
    stream = _stream((16, 24), 8)
    with pytest.raises(SettingError, match="--layer '2' is no layer of the vit; it has embed, 0 to 1, final"):
        _localise(_vit(), stream, layer=2)
    with pytest.raises(SettingError, match="128x128 places; expected 4096 at most"):
        _localise(_resnet((512, 512)), stream, layer=0)
    model = timm.create_model("mvitv2_tiny", img_size=64).eval()
    subject = Subject(model, "mvit", replace(geometry_of(model), image_size=(64, 64)), torch.device("cpu"))
    with pytest.raises(ModelError, match="Layer final of mvit has no grid of tokens"):
        _localise(subject, _stream((64, 64), 8))


def test_model__is_left_as_it_was() -> None:
    subject = _vit()
    _localise(subject, _stream((16, 24), 8))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
