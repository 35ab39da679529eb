"""Heads against a CNN: a CNN made of some of the heads is found, distances and correlations have second opinions."""

import json
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from scipy.stats import spearmanr
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.attention_tap import AttentionCall, AttentionTap
from vitctl.inspecting.cka import cka
from vitctl.inspecting.distance import distance
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.heads_vs_cnn import heads_vs_cnn, lower_layers, rank_correlation, subset_cka
from vitctl.inspecting.hsic import CkaSums, gram_matrix, pair_vectors, unbiased_hsic
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import Geometry, geometry_of
from vitctl.primitives.preprocessing import Preprocessing

_VIT = {"img_size": (16, 24), "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}


@dataclass(frozen=True)
class _Noise:
    """Images of random pixels, a function of their row."""

    num_images: int

    def __len__(self) -> int:
        return self.num_images

    def open(self, row: int) -> Image.Image:
        pixels = np.random.default_rng(row).integers(0, 256, size=(16, 24, 3), dtype=np.uint8)
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


def _stream(num_images: int = 24) -> ImageStream:
    split = Split("all", _Noise(num_images), np.arange(num_images), np.zeros(num_images, dtype=np.int64), ("noise",))
    preprocessing = Preprocessing((16, 24), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return ImageStream(split, _ToTensor(), preprocessing, batch_size=5, num_workers=0)


@pytest.fixture(scope="module")
def vit() -> Subject:
    """A ViT whose heads look differently far: queries and keys are large."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **_VIT).eval()
        with torch.no_grad():
            for block in model.blocks:
                block.attn.qkv.weight.normal_(std=0.3)
    return Subject(model, "the vit", geometry_of(model), torch.device("cpu"))


@pytest.fixture(scope="module")
def resnet() -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("resnet18", channels=(8, 8, 16, 16), layers=(2, 1, 1, 1)).eval()
    return Subject(model, "the resnet", replace(geometry_of(model), image_size=(16, 24)), torch.device("cpu"))


class _HeadsUnit(nn.Module):
    """Gives what some heads of a ViT's block give, as a feature map."""

    def __init__(self, vit: Subject, layer: int, heads: list[int]) -> None:
        super().__init__()
        self.inner = nn.Identity()
        self._vit, self._layer, self._heads = vit, layer, heads

    def forward(self, images: Tensor) -> Tensor:
        kept: list[Tensor] = []

        def keep(call: AttentionCall) -> None:
            if call.layer == self._layer:
                kept.append(call.output[:, self._heads].transpose(1, 2).flatten(2))

        AttentionTap(self._vit)(images, keep)
        return kept[0].transpose(1, 2)[..., None]


class _HeadsNet(nn.Module):
    """A CNN with one stage and one unit: some heads of a ViT."""

    def __init__(self, vit: Subject, layer: int, heads: list[int]) -> None:
        super().__init__()
        self.layer1 = nn.Sequential(_HeadsUnit(vit, layer, heads))

    def forward_features(self, images: Tensor) -> Tensor:
        features: Tensor = self.layer1(images * 1.0)
        return features


def _compare(vit: Subject, cnn: Subject, **options: Any) -> Findings:
    options = {"minibatch": 8, **options}
    return heads_vs_cnn(vit, cnn, [_stream(), _stream()], conversation=Conversation(), **options)


@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_cnn_made_of_two_heads__is_found(vit: Subject, position: int) -> None:
    order = _compare(vit, _heads_net(vit, [0]), subset=2).arrays["subsets"]
    found = _compare(vit, _heads_net(vit, sorted(order[position].tolist())), subset=2).arrays["cka"][:, -1]
    assert found[position] == pytest.approx(1, abs=1e-9)
    assert np.delete(found, position).max() < 0.9


def _heads_net(vit: Subject, heads: list[int]) -> Subject:
    model = _HeadsNet(vit, 1, heads).eval()
    return Subject(model, "heads", Geometry((16, 24), None, None, 0, False), torch.device("cpu"))


@pytest.mark.parametrize("layer", [0, 1])
def test_distances__are_those_of_the_distance_analysis(vit: Subject, resnet: Subject, layer: int) -> None:
    found = _compare(vit, resnet, layer=layer).arrays
    expected = distance(vit, _stream(), conversation=Conversation()).arrays["distance_px"][layer]
    assert np.allclose(found["head_distance_px"], expected, rtol=1e-6)
    assert expected.max() - expected.min() > 0.3


def test_heads__are_sorted_by_distance(vit: Subject, resnet: Subject) -> None:
    found = _compare(vit, resnet, subset=2).arrays
    assert sorted(found["head_order"]) == [0, 1, 2, 3]
    assert (np.diff(found["head_distance_px"][found["head_order"]]) > 0).all()
    assert found["subsets"].tolist() == [found["head_order"][start : start + 2].tolist() for start in range(3)]
    by_hand = [found["head_distance_px"][list(heads)].mean() for heads in found["subsets"]]
    assert found["subset_distance_px"] == pytest.approx(by_hand)
    assert (np.diff(found["subset_distance_px"]) > 0).all()


def test_layers__are_the_units_of_the_first_two_stages(vit: Subject, resnet: Subject) -> None:
    found = _compare(vit, resnet)
    assert found.arrays["cnn_layers"].tolist() == ["layer1.0", "layer1.1", "layer2.0"]
    assert found.arrays["cka"].shape == (4, 3)
    assert found.facts["subset"] == 1
    assert len(found.facts["correlation"]) == 3
    json.dumps(found.facts, allow_nan=False)


def test_lower_layers__of_resnet50_are_those_of_the_paper() -> None:
    model = timm.create_model("resnet50").eval()
    geometry = replace(geometry_of(model), image_size=(32, 32))
    names = lower_layers(Subject(model, "resnet50", geometry, torch.device("cpu"))).names
    assert names == tuple(f"layer1.{unit}" for unit in range(3)) + tuple(f"layer2.{unit}" for unit in range(4))


def test_all_heads__are_the_input_of_the_projection(vit: Subject, resnet: Subject) -> None:
    sums = CkaSums()
    for images in _stream().batches(8):
        kept: list[Tensor] = []
        projection: Any = vit.model.blocks[1].attn.proj  # type: ignore[index,union-attr]
        handle = projection.register_forward_pre_hook(lambda _module, args, kept=kept: kept.append(args[0]))
        units: list[Tensor] = []
        layer: Any = resnet.model.layer2[0]  # type: ignore[index,union-attr]
        other = layer.register_forward_hook(lambda _module, _args, out, units=units: units.append(out))
        with torch.no_grad():
            vit.model(images)
            resnet.model(images)
        handle.remove()
        other.remove()
        vectors = [pair_vectors(gram_matrix(one.flatten(1)))[None] for one in (kept[0], units[0])]
        sums.add(vectors[0], vectors[1], num_images=8)
    found = _compare(vit, resnet, subset=4).arrays["cka"]
    assert found.shape == (1, 3)
    assert found[0, 2] == pytest.approx(float(sums.cka[0, 0]), abs=1e-6)


def test_subset_cka__is_that_of_the_heads_side_by_side() -> None:
    generator = torch.Generator().manual_seed(0)
    heads = torch.randn(5, 12, 30, generator=generator, dtype=torch.float64)
    layers = torch.stack([heads[1] + heads[2], torch.randn(12, 30, generator=generator, dtype=torch.float64)])
    vectors = pair_vectors(gram_matrix(torch.cat([heads, layers])))
    hsic = unbiased_hsic(vectors, vectors, num_images=12).numpy()
    subsets = np.array([[0, 3], [1, 2], [4, 1]])
    sums = CkaSums()
    together = torch.stack([torch.cat([heads[a], heads[b]], dim=1) for a, b in subsets])
    sums.add(pair_vectors(gram_matrix(together)), pair_vectors(gram_matrix(layers)), num_images=12)
    assert np.allclose(subset_cka(hsic, subsets, num_heads=5), sums.cka, atol=1e-12)


def test_rank_correlation__is_scipys() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=9), rng.normal(size=9)
    assert rank_correlation(first, second) == pytest.approx(spearmanr(first, second).statistic)
    assert rank_correlation(first, np.exp(first)) == pytest.approx(1)
    assert rank_correlation(first, -(first**3)) == pytest.approx(-1)
    assert rank_correlation(first[:2], second[:2]) is None
    assert rank_correlation(first, np.where(first > 0, np.nan, first)) is None


def test_constant_cnn__is_not_a_number(vit: Subject, resnet: Subject) -> None:
    model = timm.create_model("resnet18", channels=(8, 8, 16, 16), layers=(2, 1, 1, 1)).eval()
    nn.init.zeros_(model.conv1.weight)
    found = _compare(vit, replace(resnet, model=model))
    assert np.isnan(found.arrays["cka"]).all()
    assert (found.facts["num_undefined"], found.facts["mean_correlation"]) == (12, None)
    assert any("NaN" in note for note in found.notes)


def test_bad_choices__are_refused(vit: Subject, resnet: Subject) -> None:
    with pytest.raises(SettingError, match="--layer 2 is no block of the vit; expected 0 to 1"):
        _compare(vit, resnet, layer=2)
    for subset in (0, 5):
        with pytest.raises(SettingError, match=f"--subset {subset} is no number of heads of the vit; expected 1 to 4"):
            _compare(vit, resnet, subset=subset)
    with pytest.raises(ModelError, match="the vit has no stages of feature maps"):
        _compare(vit, vit)
    with pytest.raises(ModelError, match="has no attention"):
        _compare(resnet, resnet)
    with pytest.raises(DataError, match="different images"):
        heads_vs_cnn(vit, resnet, [_stream(8), _stream(9)], conversation=Conversation())


def test_models__are_left_as_they_were(vit: Subject, resnet: Subject) -> None:
    _compare(vit, resnet)
    for subject in (vit, resnet):
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())
    cka([vit], [_stream()], minibatch=8, conversation=Conversation())
