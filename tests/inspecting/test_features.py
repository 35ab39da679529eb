"""Patch features: colours against scikit-learn, planted outliers, similarity to a patch, norms, layers."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from vitctl.conversation import Conversation, Progress
from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.features import features, principal_colours, similarity_to
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import geometry_of
from vitctl.models.layers import LayerTap

VIT = {"img_size": (16, 24), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
IMAGES = torch.randn(5, 3, 16, 24, generator=torch.Generator().manual_seed(0))


@dataclass
class Shown:
    """Images in batches, as an ImageStream gives them."""

    images: Tensor
    batch_size: int = 2

    def __len__(self) -> int:
        return len(self.images)

    def batches(self) -> Iterator[Tensor]:
        yield from self.images.split(self.batch_size)


def _subject(name: str = "vit_tiny_patch16_224", **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
    return Subject(model, name, geometry_of(model), torch.device("cpu"))


def _features(subject: Subject, *, images: Tensor = IMAGES, batch_size: int = 2, **settings: Any) -> Findings:
    stream: Any = Shown(images, batch_size)
    return features(subject, stream, images[:3], conversation=Conversation(), **settings)


def test_colours_are_the_components_of_scikit_learn() -> None:
    tokens = torch.randn(2, 4, 5, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tokens[..., 3] *= 4
    colours, explained = principal_colours(tokens)
    oracle = PCA(n_components=3, svd_solver="full")
    scores = oracle.fit_transform(tokens.reshape(40, 8).numpy())
    loadings = oracle.components_
    scores *= np.sign(loadings[np.arange(3), np.abs(loadings).argmax(axis=1)])
    low, high = np.percentile(scores, [1, 99], axis=0)
    expected = ((scores - low) / (high - low)).clip(0, 1)
    np.testing.assert_allclose(colours.reshape(40, 3), expected, atol=1e-6)
    assert explained == pytest.approx(oracle.explained_variance_ratio_.sum())


def test_colours_of_equal_tokens_and_of_one_direction_are_grey_where_nothing_varies() -> None:
    colours, explained = principal_colours(torch.ones(1, 2, 2, 6, dtype=torch.float64))
    assert (colours == 0.5).all()
    assert explained is None
    line = torch.arange(4.0, dtype=torch.float64).reshape(1, 2, 2, 1) * torch.ones(2, dtype=torch.float64)
    colours, explained = principal_colours(line)
    assert (colours[..., 1:] == 0.5).all()
    np.testing.assert_allclose(colours[0, [0, 1], [0, 1], 0], [0, 1])
    assert explained == pytest.approx(1)


def test_similarity_is_the_cosine_with_the_query_of_the_same_picture() -> None:
    tokens = torch.randn(2, 3, 4, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    similarity = similarity_to(tokens, 1, 2)
    one, other = tokens[1, 2, 0].numpy(), tokens[1, 1, 2].numpy()
    assert similarity[1, 2, 0] == pytest.approx(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
    np.testing.assert_allclose(similarity[:, 1, 2], 1, atol=1e-6)


@pytest.mark.parametrize("layer", ["embed", 0, "1", "final", None])
def test_arrays_agree_with_the_tokens_of_the_layer(layer: Any) -> None:
    subject = _subject(**VIT, reg_tokens=2)
    found = _features(subject, layer=layer)
    key = {None: "final", "1": 1}.get(layer, layer)
    with torch.no_grad():
        tokens = LayerTap(subject.model, [key], name="vit")(IMAGES)[0][key]
    norms = tokens.patches.norm(dim=-1).numpy()
    np.testing.assert_allclose(found.arrays["token_norm"], norms[:3].reshape(3, 4, 6), rtol=1e-5)
    np.testing.assert_allclose(found.arrays["prefix_norm"], tokens.prefix[:3].norm(dim=-1).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found.arrays["norm_quantiles"], np.percentile(norms, [0, 25, 50, 75, 100]), rtol=1e-5)
    assert found.arrays["rgb"].shape == (3, 4, 6, 3)
    assert 0 <= found.arrays["rgb"].min() <= found.arrays["rgb"].max() <= 1
    assert (found.facts["layer"], found.facts["query"], found.facts["num_tokens"]) == (str(key), [2, 3], 120)
    np.testing.assert_allclose(found.arrays["similarity"][:, 2, 3], 1, atol=1e-6)


def test_planted_outliers_are_found() -> None:
    subject = _subject(**VIT)
    usual = _features(subject, layer=1)
    assert usual.facts["num_outliers"] == 0

    def plant(_module: Any, _args: Any, output: Tensor) -> Tensor:
        output = output.clone()
        output[:, 1 + 2 * 6 + 5] *= 100
        return output

    handle = subject.model.get_submodule("blocks.1").register_forward_hook(plant)
    found = _features(subject, layer=1)
    handle.remove()
    assert found.facts["num_outliers"] == 5
    assert found.facts["share_outliers"] == pytest.approx(1 / 24)
    assert [np.unravel_index(norm.argmax(), norm.shape) for norm in found.arrays["token_norm"]] == [(2, 5)] * 3
    median, threshold = found.arrays["norm_quantiles"][2], found.facts["outlier_threshold"]
    assert threshold == pytest.approx(median + 5 * np.subtract(*found.arrays["norm_quantiles"][[3, 1]]), rel=1e-6)


def test_norms_that_are_equal_have_no_outliers() -> None:
    subject = _subject(**VIT)
    facts = _features(subject).facts  # the last norm, not trained, makes all norms sqrt(16)
    assert facts["num_outliers"] == 0
    assert facts["outlier_threshold"] == pytest.approx(4.02, abs=1e-2)


def test_batch_sizes_agree() -> None:
    subject = _subject(**VIT)
    one, other = (_features(subject, batch_size=size, query=(0, 5)) for size in (1, 5))
    for name in ("similarity", "token_norm", "norm_quantiles", "prefix_norm", "rgb"):
        np.testing.assert_allclose(one.arrays[name], other.arrays[name], atol=1e-4)


def test_a_cnns_places_are_tokens() -> None:
    subject = _subject("resnet10t", channels=(8, 8, 12, 16))
    found = _features(subject, layer=1, images=torch.randn(3, 3, 32, 64, generator=torch.Generator().manual_seed(0)))
    assert found.facts["grid"] == [4, 8]
    assert found.arrays["prefix_norm"].shape == (3, 0)
    assert not found.notes


def test_unknown_layers_and_queries_outside_are_refused() -> None:
    subject = _subject(**VIT)
    with pytest.raises(SettingError, match="--layer '2'.*embed, 0 to 1, final"):
        _features(subject, layer=2)
    with pytest.raises(SettingError, match="--layer 'finall'.*Did you mean 'final'"):
        _features(subject, layer="finall")
    for query in ((4, 0), (0, 6), (-1, 0)):
        with pytest.raises(SettingError, match="rows are 0 to 3, its columns 0 to 5"):
            _features(subject, query=query)


def test_tokens_on_no_known_grid_are_refused() -> None:
    subject = _subject(**VIT)
    embed: Any = subject.model.get_submodule("patch_embed")
    embed.grid_size, embed.dynamic_feat_size = None, lambda _size: (1, 1)
    with pytest.raises(ModelError, match="no known grid.*cka"):
        _features(subject)


def test_progress_counts_images_and_hooks_are_removed() -> None:
    counted: list[int] = []

    class Counting(Conversation):
        def progress(self, description: str, total: int, unit: str) -> Any:
            assert (total, unit) == (5, "images")
            return _Bar(counted)

    subject = _subject(**VIT)
    stream: Any = Shown(IMAGES)
    features(subject, stream, IMAGES[:1], layer=0, conversation=Counting())
    assert counted == [2, 2, 1]
    assert not any(module._forward_hooks for module in subject.model.modules())


class _Bar(Progress):
    def __init__(self, counted: list[int]) -> None:
        self._counted = counted

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def advance(self, amount: int = 1, **facts: str) -> None:
        self._counted.append(amount)
