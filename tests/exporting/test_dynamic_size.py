"""A model of any size: equal to timm's own with dynamic_img_size, its other ways of knowing places refused."""

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn
from torch.export import Dim

from vitctl.errors import ModelError
from vitctl.exporting.dynamic_size import PositionInterpolation, make_size_dynamic
from vitctl.exporting.graph import quiet_exporters
from vitctl.primitives.position_embeddings import resample_position_embeddings
from vitctl.settings import words

TINY = {"img_size": 32, "patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}
SIZES = [(32, 32), (56, 56), (16, 16), (24, 64), (48, 8)]  # its own, larger, smaller, wide, tall
MODELS = {
    "class token": "vit_tiny_patch16_224",
    "class token without a row": "deit3_small_patch16_224",
    "registers": "vit_small_patch14_reg4_dinov2",
    "distillation": "deit_tiny_distilled_patch16_224",
    "no prefix": "vit_base_patch16_siglip_224",
    "eva": "eva_giant_patch14_224",
}
HYBRID, HYBRID_ARGUMENTS = "vit_base_r50_s16_224", {"patch_size": 1, "img_size": 64}


def _model(name: str, **arguments: Any) -> nn.Module:
    """Return a tiny model of which every parameter matters, in training mode."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **{**TINY, **arguments})
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def _images(size: tuple[int, int], *, num_images: int = 2) -> Tensor:
    return torch.randn(num_images, 3, *size, generator=torch.Generator().manual_seed(0))


def _timms_own(model: nn.Module, name: str, **arguments: Any) -> nn.Module:
    own: nn.Module = timm.create_model(name, **{**TINY, **arguments}, dynamic_img_size=True)
    own.load_state_dict(model.state_dict())
    return own.eval()


@pytest.mark.parametrize("name", MODELS.values(), ids=MODELS)
@torch.no_grad()
def test_equals_timms_own(name: str) -> None:
    model = _model(name)
    ours, theirs = make_size_dynamic(model, name=name, method="bicubic-aa"), _timms_own(model, name)
    answers = []
    for size in SIZES:
        answers.append(ours(_images(size)))
        torch.testing.assert_close(answers[-1], theirs(_images(size)), rtol=0, atol=1e-5)
    assert torch.stack(answers).std(dim=0).min() > 1e-3  # it looks at its images


@torch.no_grad()
def test_a_rectangular_grid__equals_timms_own() -> None:
    model = _model("vit_tiny_patch16_224", img_size=(24, 48))
    ours = make_size_dynamic(model, name="tiny", method="bicubic-aa")
    theirs = _timms_own(model, "vit_tiny_patch16_224", img_size=(24, 48))
    for size in [(24, 48), (48, 24), (32, 32), (24, 24)]:
        torch.testing.assert_close(ours(_images(size)), theirs(_images(size)), rtol=0, atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_a_hybrid__equals_timms_own() -> None:
    model = _model(HYBRID, **HYBRID_ARGUMENTS).eval()
    ours, theirs = (
        make_size_dynamic(model, name=HYBRID, method="bicubic-aa"),
        _timms_own(model, HYBRID, **HYBRID_ARGUMENTS),
    )
    for size in [(64, 64), (96, 48), (16, 32)]:
        torch.testing.assert_close(ours(_images(size)), theirs(_images(size)), rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="images of 72x64 px; expected multiples of the patch of 16 px"):
        ours(_images((72, 64)))


@torch.no_grad()
def test_its_own_size__is_the_model_itself_bit_for_bit() -> None:
    model = _model("vit_tiny_patch16_224").eval()
    dynamic = make_size_dynamic(model, name="tiny", method="bicubic-aa")
    assert torch.equal(dynamic(_images((32, 32))), model(_images((32, 32))))


@pytest.mark.parametrize("num_prefix", [0, 1, 5])
@pytest.mark.parametrize("size", [(4, 6), (7, 3), (14, 14), (1, 1), (2, 12)])
def test_the_table__equals_timms_resampling(size: tuple[int, int], num_prefix: int) -> None:
    table = torch.randn(1, num_prefix + 24, 8, generator=torch.Generator().manual_seed(0))
    resampled = PositionInterpolation((4, 6), num_prefix_tokens=num_prefix, method="bicubic-aa")(table, *size)
    expected = resample_abs_pos_embed(table, list(size), old_size=[4, 6], num_prefix_tokens=num_prefix)
    torch.testing.assert_close(resampled, expected, rtol=0, atol=1e-5)
    assert torch.equal(resampled[:, :num_prefix], table[:, :num_prefix])


@pytest.mark.parametrize("method", words.INTERPOLATIONS)
@pytest.mark.parametrize("size", [(4, 6), (7, 3), (1, 1), (1, 12), (9, 1)])
def test_the_table__equals_what_finetune_resamples(size: tuple[int, int], method: str) -> None:
    table = torch.randn(1, 25, 8, generator=torch.Generator().manual_seed(0))
    resampled = PositionInterpolation((4, 6), num_prefix_tokens=1, method=method)(table, *size)
    expected = resample_position_embeddings(table, old_grid=(4, 6), new_grid=size, num_prefix_tokens=1, method=method)
    torch.testing.assert_close(resampled, expected, rtol=0, atol=1e-5)


def test_the_model__is_not_changed() -> None:
    model = _model("vit_tiny_patch16_224").train()
    dynamic = make_size_dynamic(model, name="tiny", method="bicubic-aa")
    assert model.training
    assert not dynamic.training
    assert set(model.state_dict()) == set(dynamic.state_dict())
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(model.parameters(), dynamic.parameters(), strict=True))
    with pytest.raises(AssertionError, match=r"Input height \(56\) doesn't match model \(32\)"):
        model(_images((56, 56)))


@pytest.mark.parametrize("size", [(33, 32), (32, 36), (7, 7)])
def test_no_multiple_of_the_patch__is_refused(size: tuple[int, int]) -> None:
    dynamic = make_size_dynamic(_model("vit_tiny_patch16_224"), name="tiny", method="bicubic-aa")
    sentence = f"images of {size[0]}x{size[1]} px; expected multiples of the patch of 8 px"
    with pytest.raises(AssertionError, match=sentence):
        dynamic(_images(size))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("beitv2_base_patch16_224", TINY),
        ("eva02_tiny_patch14_224", TINY),
        ("vit_small_patch16_dinov3", TINY),  # of any size in eager mode, of the example's in a graph
        ("vit_relpos_small_patch16_224", TINY),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 8, "depths": (1, 1), "num_heads": (1, 1)}),
    ],
)
def test_places_known_in_another_way__are_refused(name: str, arguments: dict[str, Any]) -> None:
    model = timm.create_model(name, **arguments)
    with pytest.raises(ModelError, match=f"{name} is made for images of [0-9]+ px.*Leave out --dynamic-size"):
        make_size_dynamic(model, name=name, method="bicubic-aa")


@torch.no_grad()
def test_a_cnn__is_copied_as_it_is() -> None:
    model = timm.create_model("test_resnet", num_classes=5).eval()
    copied = make_size_dynamic(model, name="test_resnet", method="bicubic-aa")
    assert copied is not model
    assert torch.equal(copied(_images((70, 51))), model(_images((70, 51))))


@pytest.mark.parametrize(
    ("name", "patch", "arguments"),
    [
        *(pytest.param(name, 8, {}, id=what) for what, name in MODELS.items()),
        pytest.param(HYBRID, 16, HYBRID_ARGUMENTS, id="hybrid"),
    ],
)
@pytest.mark.slow
@torch.no_grad()
def test_the_exported_graph__takes_every_multiple(name: str, patch: int, arguments: dict[str, Any]) -> None:
    model = _model(name, **arguments)
    dims = {0: Dim("batch"), 2: patch * Dim("rows"), 3: patch * Dim("columns")}
    example = _images((5 * patch, 3 * patch))
    with quiet_exporters():
        dynamic = make_size_dynamic(model, name=name, method="bicubic-aa")
        program = torch.export.export(dynamic, (example,), dynamic_shapes=(dims,))
        exported = torch.onnx.export(program, dynamo=True, opset_version=18, external_data=False, verbose=False)
    assert exported is not None
    proto: onnx.ModelProto = exported.model_proto
    assert not {"Resize", "Upsample"} & {node.op_type for node in proto.graph.node}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    module, theirs = program.module(), _timms_own(model, name, **arguments)
    for num_images, rows, columns in ((1, 8, 6), (3, 2, 4), (2, 4, 4)):
        images = _images((rows * patch, columns * patch), num_images=num_images)
        expected = theirs(images)
        (found,) = session.run(None, {proto.graph.input[0].name: images.numpy()})
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)
        torch.testing.assert_close(module(images), expected, rtol=0, atol=1e-5)
    with pytest.raises(AssertionError, match="Guard failed"):
        module(_images((4 * patch + 1, 4 * patch)))
