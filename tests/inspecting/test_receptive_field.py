"""Receptive fields against closed forms, and against gradients of timm's own intermediate features."""

import math
from collections.abc import Callable
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
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.receptive_field import receptive_field
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.primitives.preprocessing import Preprocessing

_VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 2, "num_heads": 2}


def stream_of(height: int, width: int, *, count: int = 2, batch_size: int = 64) -> ImageStream:
    """Return a stream of noise."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    labels = np.zeros(count, dtype=np.int64)
    split = Split("all", ArrayImages("noise", pixels), np.arange(count), labels, ("noise",))
    preprocessing = Preprocessing((height, width), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return ImageStream(split, EvaluationTransform(preprocessing), preprocessing, batch_size, 0)


def subject_of(model: Any) -> Subject:
    return Subject(model.eval(), "it", geometry_of(model), torch.device("cpu"))


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


def look(model: Any, stream: ImageStream, **options: Any) -> Findings:
    return receptive_field(subject_of(model), stream, conversation=Conversation(), **options)


def field_of(found: Findings, layer: str) -> np.ndarray:
    field: np.ndarray = found.arrays["field"][found.arrays["layers"].tolist().index(layer)]
    return field


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


class Bare(nn.Module):
    """A convolution that is no stage."""

    def __init__(self) -> None:
        super().__init__()
        self.features = ones(3, kernel_size=3)
        self.output_fmt = "NCHW"

    def forward_features(self, images: Tensor) -> Tensor:
        return self.features(images)


def ones(in_channels: int, **arguments: Any) -> nn.Conv2d:
    convolution = nn.Conv2d(in_channels, 1, bias=False, **arguments)
    nn.init.ones_(convolution.weight)
    return convolution


# --- closed forms


@pytest.mark.parametrize(("query", "rows", "columns"), [(None, 112, 112), ((0, 13), 0, 208), ((5, 2), 80, 32)])
def test_without_attention_the_field_is_the_own_patch(query: tuple[int, int] | None, rows: int, columns: int) -> None:
    model = vit(img_size=224, patch_size=16)
    for block in model.blocks:
        nn.init.zeros_(block.attn.proj.weight)
        nn.init.zeros_(block.attn.proj.bias)
    found = look(model, stream_of(224, 224), query=query)
    assert found.arrays["layers"].tolist() == ["embed", "0", "1"]
    assert found.facts["cell"] == [rows // 16, columns // 16]
    assert found.facts["centre_patch_share"] == [1.0, 1.0, 1.0]
    for field in found.arrays["field"]:
        assert (field[rows : rows + 16, columns : columns + 16] > 0).all()
        field[rows : rows + 16, columns : columns + 16] = 0
        assert field.sum() == 0


def test_with_attention_the_field_is_everywhere() -> None:
    found = look(vit(), stream_of(32, 32))
    assert (field_of(found, "embed") > 0).sum() == 64
    assert (field_of(found, "0") > 0).all()
    assert found.facts["centre_patch_share"][1] < 1
    assert found.arrays["extent_px"][1] > found.arrays["extent_px"][0]


def test_stack_of_convolutions__is_the_power_of_a_box() -> None:
    found = look(Stack(*(ones(3 if not k else 1, kernel_size=3, padding=1) for k in range(4))), stream_of(17, 23))
    assert found.arrays["layers"].tolist() == ["embed", "0", "1", "2", "3"]
    line = np.ones(1)
    for num_convolutions in range(5):  # before the first one it is the pixel itself
        field = found.arrays["field"][num_convolutions]
        rows, columns = np.nonzero(field)
        assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (1 + 2 * num_convolutions,) * 2
        assert (rows.min() + rows.max(), columns.min() + columns.max()) == (2 * 8, 2 * 11)
        box = np.outer(line, line)
        np.testing.assert_allclose(field[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1],
                                   box / box.max(), rtol=1e-6)  # fmt: skip
        # a box of three has variance 2/3 in each direction, and variances add up
        assert found.arrays["extent_px"][num_convolutions] == pytest.approx(math.sqrt(4 / 3 * num_convolutions))
        assert found.facts["centre_patch_share"][num_convolutions] == pytest.approx(box.max() / box.sum())
        line = np.convolve(line, np.ones(3))


def test_uniform_field__half_of_it_is_half_of_the_pixels() -> None:
    found = look(Stack(ones(3, kernel_size=(6, 8))), stream_of(6, 8), layers=[0])
    assert (found.arrays["field"] == 1).all()
    assert found.arrays["area_half"].tolist() == [0.5]
    assert found.facts["grids"] == [[1, 1]]
    variance = (6**2 - 1) / 12 + (8**2 - 1) / 12  # of discrete uniform distributions
    assert found.arrays["extent_px"][0] == pytest.approx(math.sqrt(variance))
    assert found.facts["uniform_extent_px"] == pytest.approx(math.sqrt(variance))


def test_strides__every_stage_has_its_own_middle() -> None:
    model = Stack(ones(3, kernel_size=2, stride=2), ones(1, kernel_size=4, stride=4))
    found = look(model, stream_of(32, 48))
    assert found.facts["grids"] == [[32, 48], [16, 24], [4, 6]]
    assert found.facts["cells"] == [[16, 24], [8, 12], [2, 3]]
    assert found.facts["centre_patch_share"] == [1.0, 1.0, 1.0]
    moved = look(model, stream_of(32, 48), query=(1, 5))  # counts in the last grid
    assert moved.facts["cells"] == [[12, 44], [6, 22], [1, 5]]
    rows, columns = np.nonzero(field_of(moved, "1"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (8, 15, 40, 47)
    rows, columns = np.nonzero(field_of(moved, "0"))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (12, 13, 44, 45)


# --- a second opinion


def expected_field(values: Callable[[Tensor], Tensor], stream: ImageStream) -> np.ndarray:
    """Return what ``values`` (1, D) of one image depends on, image by image, from its whole Jacobian."""
    total = np.zeros(stream.preprocessing.image_size)
    for image in torch.cat(list(stream.batches())):
        jacobian = torch.autograd.functional.jacobian(lambda pixels: values(pixels[None])[0], image)
        total += jacobian.double().sum(dim=0).abs().sum(dim=0).numpy()
    field: np.ndarray = total / total.max()
    return field


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", {**_VIT, "img_size": (32, 64)}),
        ("vit_small_patch14_reg4_dinov2", {**_VIT, "img_size": (32, 64), "init_values": 1.0}),
        ("resnet18", {"channels": (12, 16, 20, 24), "layers": (1, 1, 1, 1)}),
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (12, 16, 20, 24)}),
    ],
)
def test_field__equals_that_of_timms_intermediate_features(name: str, arguments: dict[str, Any]) -> None:
    model, stream = build(name, **arguments), stream_of(32, 64)
    found = look(model, stream, layers=[0, 1])
    for layer in (0, 1):

        def middle(images: Tensor, layer: int = layer) -> Tensor:
            index = layer + 1 if name == "resnet18" else layer  # there the stem is an intermediate feature as well
            maps = model.forward_intermediates(images, [index], norm=False, intermediates_only=True)[0]
            return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]

        np.testing.assert_allclose(field_of(found, str(layer)), expected_field(middle, stream), atol=2e-5)


def test_pre__is_what_attention_and_mlp_give_alone() -> None:
    model, stream = vit(), stream_of(32, 32)
    found = look(model, stream, where="pre")
    assert found.arrays["layers"].tolist() == ["0 attention", "0 mlp", "1 attention", "1 mlp"]

    def tokens(images: Tensor) -> Tensor:
        return model._pos_embed(model.patch_embed(images))

    def attention(images: Tensor) -> Tensor:
        block = model.blocks[0]
        return block.attn(block.norm1(tokens(images)))[:, 1 + 2 * 4 + 2]

    def mlp(images: Tensor) -> Tensor:
        block, before = model.blocks[0], tokens(images)
        return block.mlp(block.norm2(before + block.attn(block.norm1(before))))[:, 1 + 2 * 4 + 2]

    np.testing.assert_allclose(field_of(found, "0 attention"), expected_field(attention, stream), atol=2e-5)
    np.testing.assert_allclose(field_of(found, "0 mlp"), expected_field(mlp, stream), atol=2e-5)
    post = look(model, stream)
    assert found.facts["centre_patch_share"][0] < post.facts["centre_patch_share"][1]  # the skip holds the own patch


def test_pre__of_a_resnet_is_not_what_is_added_in_place() -> None:
    model = build("resnet18", channels=(12, 16, 20, 24), layers=(1, 1, 1, 1))
    stream = stream_of(32, 32)

    def branch(images: Tensor) -> Tensor:
        block, stem = model.layer1[0], model.maxpool(model.act1(model.bn1(model.conv1(images))))
        return block.bn2(block.conv2(block.act1(block.bn1(block.conv1(stem)))))[:, :, 4, 4]

    found = look(model, stream, where="pre")
    assert found.arrays["layers"].tolist() == ["0 branch", "1 branch", "2 branch", "3 branch"]
    np.testing.assert_allclose(field_of(found, "0 branch"), expected_field(branch, stream), atol=2e-5)


@pytest.mark.parametrize(
    ("name", "arguments", "branches"),
    [
        ("convnext_atto", {"depths": (1, 1, 1, 1), "dims": (12, 16, 20, 24)}, ["0 branch", "1 branch"]),
        ("regnetx_002", {}, ["0 branch", "1 branch"]),
        ("skresnet18", {}, ["0 branch", "1 branch"]),
        (
            "swin_tiny_patch4_window7_224",
            {"img_size": 32, "window_size": 2, "embed_dim": 12, "num_heads": (1, 1, 2, 2), "depths": (1, 1, 1, 1)},
            ["0 attention", "0 mlp"],
        ),
        ("eva02_tiny_patch14_224", _VIT, ["0 attention", "0 mlp"]),
    ],
)
def test_pre__of_other_families(name: str, arguments: dict[str, Any], branches: list[str]) -> None:
    model = build(name, **arguments)
    found = look(model, stream_of(32, 32, count=1), where="pre", layers=[0, 1])
    assert found.arrays["layers"].tolist()[:2] == branches
    assert found.arrays["field"].max(axis=(1, 2)).tolist() == [1.0] * len(found.arrays["layers"])


# --- what must not matter, and what is left behind


def test_batch_size_does_not_matter() -> None:
    model = vit()
    whole = look(model, stream_of(32, 32, count=6))
    for batch_size in (1, 2, 5):
        found = look(model, stream_of(32, 32, count=6, batch_size=batch_size))
        np.testing.assert_allclose(found.arrays["field"], whole.arrays["field"], atol=1e-5)
    assert whole.facts["num_images"] == 6


def test_the_model_is_left_as_it_was() -> None:
    model = build("resnet18", channels=(12, 16, 20, 24), layers=(1, 1, 1, 1))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():  # whatever the caller is in
        look(model, stream_of(32, 32), where="pre")
    with pytest.raises(SettingError):
        look(model, stream_of(32, 32), where="pre", query=(9, 9))
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_norm_without_weights_of_its_own_is_noise_and_said() -> None:
    model = timm.create_model("vit_tiny_patch16_224", **_VIT)  # its last norm has ones
    found = look(model, stream_of(32, 32), layers=[1, "final"])
    assert field_of(found, "1").max() == 1
    assert not field_of(found, "final").any()
    assert found.facts["centre_patch_share"][1] is None
    assert "final sum to the same for every image" in found.notes[0]
    assert np.isnan(found.arrays["extent_px"]).tolist() == [False, True]
    assert look(vit(), stream_of(32, 32), layers=["final"]).arrays["field"].max() == 1


def test_a_branch_that_gives_nothing_is_said() -> None:
    model = vit()
    nn.init.zeros_(model.blocks[1].mlp.fc2.weight)
    found = look(model, stream_of(32, 32), where="pre", layers=[1])
    assert found.facts["centre_patch_share"] == [pytest.approx(found.facts["centre_patch_share"][0]), None]
    assert found.notes == ["Layer 1 mlp does not depend on the image at this place."]
    assert found.rows[1] == ("1 mlp", "none", "none", "none")


# --- what is refused


def test_refusals() -> None:
    with pytest.raises(DataError, match="no images"):
        look(vit(), stream_of(32, 32).first(0))
    with pytest.raises(SettingError, match=r"--query is 4,0; expected a place on the 4x4 grid of it"):
        look(vit(), stream_of(32, 32), query=(4, 0))
    with pytest.raises(SettingError, match="'top' is no layer of it with --where post; expected embed, 0, 1, final"):
        look(vit(), stream_of(32, 32), layers=["top"])
    with pytest.raises(SettingError, match="'embed' is no layer of it with --where pre; expected 0, 1"):
        look(vit(), stream_of(32, 32), where="pre", layers=["embed"])
    bare = Bare()
    with pytest.raises(ModelError, match="blocks of it are not known.* --where post"):
        look(bare, stream_of(32, 32), where="pre")
    assert look(bare, stream_of(32, 32)).arrays["layers"].tolist() == ["final"]
    plain = Stack(ones(3, kernel_size=3))
    with pytest.raises(ModelError, match="No layer of it has a branch.* --where post"):
        look(plain, stream_of(8, 8), where="pre")
    with pytest.raises(SettingError, match="Layer 0 of it has no branch"):
        look(plain, stream_of(8, 8), where="pre", layers=[0])
    broken = vit()
    with torch.no_grad():
        broken.blocks[0].mlp.fc1.weight[0, 0] = math.nan
    with pytest.raises(ModelError, match="gradients of layer 0 of it are not finite"):
        look(broken, stream_of(32, 32))
