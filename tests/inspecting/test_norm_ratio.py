"""Skip connections against branches: exact sums, ratios worked by hand, and the architectures that have them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.models.vision_transformer import ParallelThingsBlock, ResPostBlock
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.errors import ModelError
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.norm_ratio import norm_ratio, residual_units
from vitctl.inspecting.subject import Subject
from vitctl.models.geometry import geometry_of

VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL = {"layers": (2, 1, 1, 1), "channels": (8, 12, 16, 20)}
STAGES = {"depths": (1, 1, 2, 1)}

# timm's name, arguments that make it tiny, blocks or units, side of the images
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "plain": ("vit_tiny_patch16_224", VIT, 2, 16),
    "registers": ("vit_tiny_patch16_224", {**VIT, "reg_tokens": 3}, 2, 16),
    "deit3": ("deit3_small_patch16_224", VIT, 2, 16),
    "siglip": ("vit_base_patch16_siglip_224", VIT, 2, 16),
    "res-post-norm": ("vit_tiny_patch16_224", {**VIT, "block_fn": ResPostBlock}, 2, 16),
    "eva02": ("eva02_tiny_patch14_224", VIT, 2, 16),
    "beit": ("beit_base_patch16_224", VIT, 2, 16),
    "parallel scaling": ("vit_base_patch16_xp_224", VIT, 2, 16),
    "parallel things": (
        "vit_tiny_patch16_224",
        {**VIT, "block_fn": partial(ParallelThingsBlock, num_parallel=3)},
        2,
        16,
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {**STAGES, "img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 1, 2, 2)},
        5,
        32,
    ),
    "cait": ("cait_xxs24_224", {**VIT, "depth_token_only": 1}, 2, 16),
}
CNNS: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "basic blocks": ("resnet18", SMALL, 5, 32),
    "bottlenecks": ("resnet50", {**SMALL, "layers": (1, 2, 1, 1)}, 5, 32),
    "squeeze and excitation": ("seresnet50", {**SMALL, "layers": (1, 1, 1, 1), "channels": (16, 16, 16, 16)}, 4, 32),
    "selective kernels": ("skresnet18", {"layers": (2, 1, 1, 1)}, 5, 32),
    "pre-activation": ("resnetv2_50", {"channels": (16, 32, 48, 64), "layers": (1, 2, 1, 1)}, 5, 32),
    "convnext": ("convnext_atto", {**STAGES, "dims": (8, 12, 16, 20)}, 5, 32),
}


@dataclass
class Shown:
    """Images in batches, as an ImageStream gives them."""

    images: Tensor
    batch_size: int = 2

    def __len__(self) -> int:
        return len(self.images)

    def batches(self) -> Iterator[Tensor]:
        yield from self.images.split(self.batch_size)


def _images(side: int, count: int = 3) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def _subject(name: str, **arguments: Any) -> Subject:
    """Return a model with every parameter and statistic somewhere else than where it starts (zeros, ones, 1e-6)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.is_floating_point():
                tensor.data += 0.1 * (torch.rand_like(tensor) - 0.5)
    return Subject(model, name, geometry_of(model), torch.device("cpu"))


def _ratios(subject: Subject, images: Tensor, *, batch_size: int = 2) -> Findings:
    stream: Any = Shown(images, batch_size)
    return norm_ratio(subject, stream, conversation=Conversation())


@pytest.mark.parametrize("kind", [*TRANSFORMERS, *CNNS])
def test_sums_are_exact(kind: str) -> None:
    name, arguments, num_units, side = {**TRANSFORMERS, **CNNS}[kind]
    found = _ratios(_subject(name, **arguments), _images(side))
    assert found.facts["identity_error"] == 0
    assert (found.facts["num_left_out"], found.facts["num_branches_left_out"]) == (0, 0)
    assert found.arrays["ratio"].shape == ((num_units, 2, 2) if kind in TRANSFORMERS else (num_units, 1, 1))
    assert len(found.rows) == len(found.facts["units"]) == num_units
    values = found.arrays["ratio"][..., -1]
    assert np.isfinite(values).all()
    assert (values > 0).all()
    for cosine in ("cosine_branch", "cosine_output"):
        assert np.nanmax(np.abs(found.arrays[cosine])) <= 1 + 1e-6
    assert found.facts["is_joint"] == (kind == "parallel scaling")
    assert found.facts["has_class_token"] == (kind in TRANSFORMERS and kind not in ("siglip", "swin", "cait"))


def test_a_block_worked_by_hand() -> None:
    subject = _subject("vit_tiny_patch16_224", **{**VIT, "depth": 1, "reg_tokens": 2, "init_values": 0.5})
    images = _images(16, count=5)
    found = _ratios(subject, images)
    model: Any = subject.model
    block = model.blocks[0]
    with torch.no_grad():
        z = model.norm_pre(model._pos_embed(model.patch_embed(images)))
        attention = block.attn(block.norm1(z)) * block.ls1.gamma
        middle = z + attention
        mlp = block.mlp(block.norm2(middle)) * block.ls2.gamma
    for branch, (skip, added) in enumerate([(z, attention), (middle, mlp)]):
        one, other = skip.double().numpy(), added.double().numpy()
        ratio = np.sqrt((one**2).sum(-1)) / np.sqrt((other**2).sum(-1))
        for column, tokens in enumerate([slice(0, 1), slice(3, None)]):  # class token; patches after two registers
            x, y = one[:, tokens], other[:, tokens]
            lengths = np.linalg.norm(x, axis=-1)
            cosine = (x * y).sum(-1) / lengths / np.linalg.norm(y, axis=-1)
            output = (x * (x + y)).sum(-1) / lengths / np.linalg.norm(x + y, axis=-1)
            place = (0, branch, column)
            assert found.arrays["ratio"][place] == pytest.approx(ratio[:, tokens].mean(), rel=1e-5)
            assert found.arrays["median"][place] == pytest.approx(np.median(ratio[:, tokens]), rel=1e-3)
            assert found.arrays["cosine_branch"][place] == pytest.approx(cosine.mean(), abs=1e-5)
            assert found.arrays["cosine_output"][place] == pytest.approx(output.mean(), abs=1e-5)
    assert found.facts["ratio"]["mlp"]["patches"] == [pytest.approx(found.arrays["ratio"][0, 1, 1])]
    assert list(found.arrays["branches"]) == ["attention", "mlp"]
    assert list(found.arrays["tokens"]) == ["class token", "patches"]


def test_basic_blocks_worked_by_hand() -> None:
    subject = _subject("resnet18", **SMALL)
    images = _images(32)
    found = _ratios(subject, images)
    model: Any = subject.model
    expected = []
    with torch.no_grad():
        x = model.maxpool(torch.relu(model.bn1(model.conv1(images))))
        for layer in (model.layer1, model.layer2):
            for block in layer:
                branch = block.bn2(block.conv2(torch.relu(block.bn1(block.conv1(x)))))
                skip = x if block.downsample is None else block.downsample(x)
                expected.append((skip.norm(dim=1) / branch.norm(dim=1)).mean().item())
                x = torch.relu(skip + branch)
    np.testing.assert_allclose(found.arrays["ratio"][:3, 0, 0], expected, rtol=1e-5)
    assert found.facts["units"] == ["layer1.0", "layer1.1", "layer2.0", "layer3.0", "layer4.0"]
    assert found.facts["kind"] == "cnn"


@pytest.mark.parametrize("branch", [0, 1])
def test_scaling_a_branch_divides_its_ratio(branch: int) -> None:
    subject = _subject("vit_tiny_patch16_224", **{**VIT, "depth": 1})
    images = _images(16)
    before = _ratios(subject, images).arrays
    last = subject.model.get_submodule(("blocks.0.attn.proj", "blocks.0.mlp.fc2")[branch])
    with torch.no_grad():
        for parameter in last.parameters():
            parameter *= 4
    after = _ratios(subject, images).arrays
    np.testing.assert_allclose(after["ratio"][0, branch], before["ratio"][0, branch] / 4, rtol=1e-5)
    np.testing.assert_allclose(after["median"][0, branch], before["median"][0, branch] / 4, rtol=1e-9)
    np.testing.assert_allclose(after["cosine_branch"][0, branch], before["cosine_branch"][0, branch], atol=1e-6)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18"])
def test_batch_sizes_agree(name: str) -> None:
    subject = _subject(name, **(SMALL if name == "resnet18" else VIT))
    images = _images(32 if name == "resnet18" else 16, count=5)
    one, other = (_ratios(subject, images, batch_size=size).arrays for size in (1, 5))
    for key in ("ratio", "median", "cosine_branch", "cosine_output"):
        np.testing.assert_allclose(one[key], other[key], rtol=1e-3 if key == "median" else 1e-4, atol=1e-5)


def test_parallel_branches_share_one_joint_ratio() -> None:
    found = _ratios(_subject("vit_base_patch16_xp_224", **VIT), _images(16))
    np.testing.assert_array_equal(found.arrays["ratio"][:, 0], found.arrays["ratio"][:, 1])
    assert "side by side" in found.notes[0]


def test_branches_of_zero_are_counted_and_left_out_of_the_mean() -> None:
    subject = _subject("vit_tiny_patch16_224", **VIT, init_values=1.0)
    with torch.no_grad():
        subject.model.get_parameter("blocks.1.ls2.gamma").zero_()
    found = _ratios(subject, _images(16))
    assert found.facts["num_infinite"] == 3 * 17
    assert np.isnan(found.arrays["ratio"][1, 1]).all()
    assert np.isinf(found.arrays["median"][1, 1]).all()
    assert found.facts["ratio"]["mlp"]["patches"][1] is None
    assert np.isfinite(found.arrays["ratio"][:, 0]).all()
    assert any("51 tokens" in note for note in found.notes)


def test_without_a_class_token_its_column_is_not_defined() -> None:
    found = _ratios(_subject("vit_base_patch16_siglip_224", **VIT), _images(16))
    assert np.isnan(found.arrays["ratio"][:, :, 0]).all()
    assert found.facts["ratio"]["attention"]["class token"] == [None, None]
    assert found.facts["first_half_over_second"]["class token"] is None
    assert found.rows[0][1] == "-"


def test_token_mixers_are_not_called_attention() -> None:
    model = timm.models.MlpMixer(img_size=16, patch_size=4, embed_dim=16, num_blocks=2).eval()
    found = _ratios(Subject(model, "mixer", geometry_of(model), torch.device("cpu")), _images(16))
    assert list(found.arrays["branches"]) == ["token mixing", "mlp"]


def test_units_without_a_skip_connection_are_left_out() -> None:
    subject = _subject("mobilenetv3_small_050", num_classes=2)
    found = _ratios(subject, _images(32))
    with_skip = [name for name, module in subject.model.named_modules() if getattr(module, "has_skip", False)]
    assert found.facts["units"] == with_skip
    assert len(with_skip) == 7
    assert not found.notes


@pytest.mark.parametrize("name", ["vgg11", "densenet121"])
def test_models_without_residual_units_are_refused(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    subject = Subject(model, name, geometry_of(model), torch.device("cpu"))
    assert not residual_units(model)
    with pytest.raises(ModelError, match=f"{name} has no residual units.*Try cka"):
        _ratios(subject, _images(32))


def test_a_block_that_passes_on_something_else_is_refused_not_measured() -> None:
    subject = _subject("vit_tiny_patch16_224", **VIT)

    def spoil(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        return output * 1.001

    subject.model.get_submodule("blocks.0").register_forward_hook(spoil)
    found = _ratios(subject, _images(16))
    assert found.facts["num_branches_left_out"] == 1
    assert np.isnan(found.arrays["ratio"][0, 1]).all()
    assert np.isfinite(found.arrays["ratio"][0, 0]).all()
    assert any("left out" in note for note in found.notes)


def test_hooks_are_removed_even_after_an_error() -> None:
    subject = _subject("vit_tiny_patch16_224", **VIT)
    _ratios(subject, _images(16))
    with pytest.raises(AssertionError):
        _ratios(subject, _images(20))  # not the model's size
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in subject.model.modules())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "num_units"),
    [
        ("vit_base_patch16_rope_reg1_gap_256", 12),
        ("vit_relpos_small_patch16_224", 12),
        ("vit_small_r26_s32_224", 12),
        ("swinv2_tiny_window8_256", 12),
        ("samvit_base_patch16_224", 12),
        ("pit_ti_224", 12),
        ("pvt_v2_b0", 8),
        ("convit_tiny", 12),
        ("caformer_s18", 18),
        ("poolformer_s12", 12),
        ("coatnet_0_224", 7),
        ("levit_128", 12),
        ("resnetv2_50x1_bit", 16),
        ("regnety_002", 13),
        ("efficientnet_b0", 9),
        ("mobilenetv4_hybrid_medium", 27),
        ("darknet53", 23),
        ("resnest14d", 4),
        ("skresnet18", 8),
        ("convnextv2_atto", 12),
    ],
)
def test_families_have_all_their_units(name: str, num_units: int) -> None:
    subject = _subject(name)
    images = torch.randn(1, 3, *subject.geometry.image_size, generator=torch.Generator().manual_seed(1))
    found = _ratios(subject, images)
    assert found.facts["identity_error"] < 1e-4  # 0, but where SAM's windows make the branch a difference
    assert (found.facts["num_left_out"], found.facts["num_branches_left_out"]) == (0, 0)
    assert len(found.facts["units"]) == num_units
    assert np.isfinite(found.arrays["ratio"][..., -1]).all()
