"""Principal components of planted, random and real filters, against scikit-learn's."""

from typing import Any

import numpy as np
import pytest
import timm
import torch
from sklearn.decomposition import PCA
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.filters import filters, neighbour_correlation
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import geometry_of

VIT = {"img_size": 16, "patch_size": 8, "embed_dim": 128, "depth": 1, "num_heads": 2}


def _subject(name: str, **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
    return Subject(model, name, geometry_of(model), torch.device("cpu"))


def _with_filters(weights: Tensor, *, patch_size: int = 8) -> Subject:
    subject = _subject("vit_tiny_patch16_224", **{**VIT, "embed_dim": len(weights), "patch_size": patch_size})
    with torch.no_grad():
        subject.model.get_parameter("patch_embed.proj.weight").copy_(weights)
    return subject


def _smooth_patterns(side: int, count: int) -> Tensor:
    """Return ``count`` low-frequency cosine patterns (count, 3, side, side)."""
    places = (torch.arange(side) + 0.5) / side
    waves = [
        torch.outer(torch.cos(torch.pi * row * places), torch.cos(torch.pi * column * places))
        for row in range(2)
        for column in range(2)
    ]
    generator = torch.Generator().manual_seed(1)
    colours = torch.randn(count, 3, 4, generator=generator)
    return torch.einsum("nck,kyx->ncyx", colours, torch.stack(waves))


def test_twenty_eight_planted_components_are_all_that_is_found() -> None:
    generator = torch.Generator().manual_seed(0)
    basis = torch.linalg.qr(torch.randn(192, 28, generator=generator, dtype=torch.float64)).Q.T
    weights = torch.randn(128, 28, generator=generator, dtype=torch.float64) @ basis + 3  # the mean is no component
    found = filters(_with_filters(weights.reshape(128, 3, 8, 8)))
    assert found.arrays["explained_variance_ratio"][28:].max() < 1e-13  # float32 weights
    assert found.facts["explained_by_components"] == pytest.approx(1)
    components = found.arrays["components"].reshape(28, 192).astype(np.float64)
    shares = ((components @ basis.T.numpy()) ** 2).sum(axis=1)
    np.testing.assert_allclose(shares, 1, atol=1e-5)  # each lies in what was planted


def test_components_agree_with_scikit_learn_up_to_sign() -> None:
    subject = _subject("vit_tiny_patch16_224", **VIT)
    found = filters(subject, components=10)
    weights = subject.model.get_parameter("patch_embed.proj.weight").detach().flatten(1).double().numpy()
    oracle = PCA(svd_solver="full").fit(weights)
    components = found.arrays["components"].reshape(10, -1)
    signs = np.sign((components * oracle.components_[:10]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(components, signs * oracle.components_[:10], atol=1e-5)
    ratio = found.arrays["explained_variance_ratio"]
    np.testing.assert_allclose(ratio, oracle.explained_variance_ratio_, atol=1e-12)
    assert found.facts["explained_by_components"] == pytest.approx(oracle.explained_variance_ratio_[:10].sum())


def test_components_are_orthonormal_with_a_fixed_sign() -> None:
    components = filters(_subject("vit_tiny_patch16_224", **VIT)).arrays["components"].reshape(28, -1)
    np.testing.assert_allclose(components @ components.T, np.eye(28), atol=1e-5)
    assert (components[np.arange(28), np.abs(components).argmax(axis=1)] > 0).all()


def test_random_filters_are_flat_noise_and_planted_waves_are_few_and_smooth() -> None:
    generator = torch.Generator().manual_seed(2)
    noise = filters(_with_filters(torch.randn(1024, 3, 4, 4, generator=generator), patch_size=4)).facts
    mixture = torch.randn(1024, 5, generator=generator) @ _smooth_patterns(4, 5).flatten(1)
    waves = filters(_with_filters(mixture.reshape(1024, 3, 4, 4), patch_size=4)).facts
    assert noise["effective_rank"] > 0.95 * 48
    assert abs(noise["smoothness"]) < 0.05
    assert waves["effective_rank"] < 5.01
    assert waves["smoothness"] > 0.5


def test_effective_rank_counts_equal_components() -> None:
    weights = torch.zeros(8, 48)
    for index in range(4):  # pairs of opposite filters: four directions of equal variance, mean 0
        weights[2 * index, index], weights[2 * index + 1, index] = 1, -1
    found = filters(_with_filters(weights.reshape(8, 3, 4, 4), patch_size=4))
    assert found.facts["effective_rank"] == pytest.approx(4)
    np.testing.assert_allclose(found.arrays["explained_variance_ratio"][:5], [0.25, 0.25, 0.25, 0.25, 0], atol=1e-12)


def test_neighbour_correlation_by_hand() -> None:
    tile = np.zeros((1, 3, 2, 2))
    tile[0, 0] = [[1, 2], [3, 4]]  # pairs 1-2, 3-4 across; 1-3, 2-4 down
    expected = (2 + 12 + 3 + 8) / ((1 + 4 + 9 + 16 + 1 + 9 + 4 + 16) / 2)
    assert neighbour_correlation(tile, np.array([1.0])) == pytest.approx(expected)
    assert neighbour_correlation(np.ones((4, 3, 5, 5)), np.full(4, 0.25)) == pytest.approx(1)
    assert neighbour_correlation(np.ones((4, 3, 1, 1)), np.full(4, 0.25)) is None


def test_a_hybrids_stem_is_chosen_not_its_projection() -> None:
    subject = _subject("vit_tiny_r_s16_p8_224", img_size=32, embed_dim=16, depth=1, num_heads=2)
    found = filters(subject)
    assert subject.model.get_parameter("patch_embed.proj.weight").shape[1] == 64  # channels of the CNN, not colours
    assert found.facts["layer"] == "patch_embed.backbone.conv"
    assert found.arrays["components"].shape[1:] == (3, 7, 7)
    assert "standardises" in found.notes[0]


def test_a_cnn_with_fewer_dimensions_than_components_shows_what_there_is() -> None:
    found = filters(_subject("mobilenetv3_small_050", num_classes=2))
    assert found.facts["layer"] == "conv_stem"
    assert found.facts["num_components"] == len(found.arrays["components"]) == 16
    assert found.facts["explained_by_components"] == pytest.approx(1)


def test_a_linear_embedding_of_flattened_patches_has_its_pixels_in_place() -> None:
    arguments = {
        "patch_size": 4,
        "embed_dim": 8,
        "depth": 1,
        "num_heads": 2,
        "img_size": 8,
        "embed_proj_type": "linear",
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Any = timm.models.NaFlexVit(timm.models.NaFlexVitCfg(**_naflex(arguments)), img_size=8).eval()
    layer = model.embeds.proj
    assert isinstance(layer, nn.Linear)
    pattern = torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(3))
    flat = torch.randn(8, 1, generator=torch.Generator().manual_seed(4)) * pattern.permute(1, 2, 0).reshape(1, -1)
    with torch.no_grad():
        layer.weight.copy_(flat)
    found = filters(Subject(model, "naflex", geometry_of(model), torch.device("cpu")), components=1)
    component = torch.from_numpy(found.arrays["components"][0])
    assert abs((component * pattern).sum()) == pytest.approx(float(pattern.norm()), rel=1e-5)

    kept: list[Tensor] = []
    layer.register_forward_hook(lambda _module, _args, output: kept.append(output - layer.bias))
    image = torch.zeros(1, 3, 8, 8)
    image[0, :, :4, :4] = component  # the model itself answers to the component as to the pattern
    model.forward_features(image)
    torch.testing.assert_close(kept[0][0, 0].norm(), layer.weight.norm(), rtol=1e-4, atol=0)


def _naflex(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != "img_size"}


@pytest.mark.parametrize("components", [0, -1])
def test_too_few_components_are_refused(components: int) -> None:
    with pytest.raises(SettingError, match="--components"):
        filters(_subject("vit_tiny_patch16_224", **VIT), components=components)


def test_models_without_filters_on_colours_are_refused() -> None:
    with pytest.raises(ModelError, match="three channels.*Try"):
        filters(_subject("vit_tiny_patch16_224", **VIT, in_chans=1))
    with pytest.raises(ModelError, match=r"patch_embed\.proj.*all the same"):
        filters(_with_filters(torch.full((16, 3, 8, 8), 0.1)))
