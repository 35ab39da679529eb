"""Smaller images through a model that keeps its tensors: timm's own answers and gradients, or a sentence."""

from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.errors import SettingError
from vitctl.models.other_sizes import check_other_sizes, take_other_sizes
from vitctl.models.timm_folder import reconstruction_of

TINY = {"img_size": 48, "patch_size": 8, "embed_dim": 32, "depth": 1, "num_heads": 2, "num_classes": 5}
MODELS = {
    "class token": "vit_tiny_patch16_224",
    "class token without a row": "deit3_small_patch16_224",
    "registers": "vit_small_patch14_reg4_dinov2",
    "distillation": "deit_tiny_distilled_patch16_224",
    "attention pooling": "vit_base_patch16_siglip_224",
    "table and rotary": "eva02_tiny_patch14_224",
    "rotary, learnt": "vit_small_patch16_rope_mixed_224",
    "rotary alone": "vit_small_patch16_dinov3",
}


def model_of(name: str, **arguments: Any) -> nn.Module:
    """Return a tiny model of which every parameter matters."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **{**TINY, **arguments})
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.eval()


def images_of(size: int) -> Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))


def gradient(model: nn.Module, name: str, images: Tensor) -> Tensor:
    model.zero_grad()
    model(images).square().sum().backward()
    found = model.get_parameter(name).grad
    assert found is not None
    return found.clone()


@pytest.mark.parametrize("name", MODELS.values(), ids=MODELS)
def test_answers_and_gradients__are_timms_of_a_dynamic_model(name: str) -> None:
    """Largest difference seen: 5e-6 of an answer, 3e-6 of the largest gradient."""
    ours, theirs = model_of(name), model_of(name, dynamic_img_size=True)
    theirs.load_state_dict(ours.state_dict())
    whole, names = ours(images_of(48)), set(ours.state_dict())
    arguments = reconstruction_of(ours)
    check_other_sizes(ours, (24, 32, 48), name=name)
    take_other_sizes(ours)
    probe = "rope.freqs" if name == MODELS["rotary, learnt"] else "pos_embed"
    probe = probe if probe in names else "patch_embed.proj.weight"
    answers = []
    for size in (24, 32, 48, 24):
        images = images_of(size)
        answers.append(ours(images))
        torch.testing.assert_close(answers[-1], theirs(images), rtol=1e-5, atol=1e-5)
        found, expected = (gradient(model, probe, images) for model in (ours, theirs))
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))
    assert torch.stack(answers).std(dim=0).min() > 1e-3  # it looks at its images
    # at its own size, before and after others, it is the model that it was
    assert torch.equal(answers[2], whole)
    assert torch.equal(ours(images_of(48)), whole)
    assert set(ours.state_dict()) == names
    assert reconstruction_of(ours) == arguments  # what a folder says of it


def test_no_multiple_of_the_patch__is_timms_assertion() -> None:
    model = model_of("vit_tiny_patch16_224")
    take_other_sizes(model)
    with pytest.raises(AssertionError, match="should be divisible by patch size"):
        model(images_of(28))


@pytest.mark.slow
def test_a_cnn__is_left_as_it_is() -> None:
    with torch.device("meta"):
        model = timm.create_model("resnet10t")
    check_other_sizes(model, (32, 48), name="cnn")
    before = dict(model.__dict__)
    take_other_sizes(model)
    assert model.__dict__ == before


@pytest.mark.parametrize(
    ("name", "sizes", "sentence"),
    [
        ("vit_tiny_patch16_224", (100, 224), r"length\.sizes: 100 is not a multiple of the patch of m \(16 px\)"),
        ("swin_tiny_patch4_window7_224", (112, 224), "m is made for one size"),
        pytest.param("beit_base_patch16_224", (112, 224), "m is made for one size", marks=pytest.mark.slow),
        pytest.param("mixer_s16_224", (112, 224), "m is made for one size", marks=pytest.mark.slow),
        pytest.param("maxvit_tiny_tf_224", (112, 224), "m is made for one size", marks=pytest.mark.slow),
        pytest.param(
            "resnet10t", (0, 224), "the layers of m cannot divide and downsample 0 px", marks=pytest.mark.slow
        ),
    ],
)
def test_what_cannot_be__a_sentence(name: str, sizes: tuple[int, ...], sentence: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(SettingError, match=sentence) as caught:
        check_other_sizes(model, sizes, name="m")
    assert caught.value.field == "set"
