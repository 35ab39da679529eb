"""Google's .npz written: the authors' arrays and logits, the same model through timm's reader, the rest refused."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.exporting.npz import check_npz_can_hold, npz_arrays, with_tanh_gelu, write_npz
from vitctl.models.weights import load_weights_file
from vitctl.settings.words import NPZ_LAYOUTS as LAYOUTS

GOLDEN = Path(__file__).parent.parent / "golden"
IO = np.load(GOLDEN / "tok_io.npz")
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
GOLDEN_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
GAP = {"class_token": False, "global_pool": "avg", "fc_norm": False}


def build(name: str = "vit_tiny_patch16_224", *, seed: int = 0, **changes: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, **(TINY | changes))
        for parameter in model.parameters():  # not zeros and ones: a bias or norm at the wrong place must show
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def golden(name: str) -> dict[str, np.ndarray]:
    with np.load(GOLDEN / f"{name}.npz") as archive:
        return {key: archive[key] for key in archive.files}


def golden_vit() -> nn.Module:
    model = build(**GOLDEN_SIZE)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in golden("tok_timm_state").items()})
    return model


def arrays_of(model: nn.Module, layout: str = "vit_jax") -> dict[str, np.ndarray]:
    return npz_arrays(model, layout=layout, name="tiny")


def logits_of(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model(images).numpy()
    return logits


def images_for(model: Any) -> Tensor:
    shape = (2, model.in_chans, *model.patch_embed.img_size)
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def read_back(model: nn.Module, like: nn.Module, path: Path, *, layout: str) -> nn.Module:
    """Return ``like`` with what ``model``'s file holds."""
    write_npz(model, path, layout=layout, name="tiny")
    report = load_weights_file(like, path, name="tiny")
    assert (report.num_loaded, report.missing, report.unexpected) == (len(like.state_dict()), (), ())
    return like


def assert_same_bytes(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert list(found) == list(expected)
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        assert found[key].tobytes() == array.tobytes(), key


# the authors' arrays


def test_vit_jax__is_the_golden_file_byte_for_byte() -> None:
    assert_same_bytes(arrays_of(golden_vit()), golden("tok_vit_jax"))


def test_big_vision__is_the_golden_file_byte_for_byte_where_the_class_token_has_no_row() -> None:
    """The golden file has that row added to the class token, which is timm's ``no_embed_class``."""
    model = build(**GOLDEN_SIZE, no_embed_class=True)
    load_weights_file(model, GOLDEN / "tok_big_vision.npz", name="golden")
    assert_same_bytes(arrays_of(model, "big_vision"), golden("tok_big_vision"))


def test_big_vision__keeps_the_class_tokens_row_and_is_else_the_golden_file() -> None:
    found, expected, state = arrays_of(golden_vit(), "big_vision"), golden("tok_big_vision"), golden("tok_timm_state")
    table, cls = found.pop("params/pos_embedding"), found.pop("params/cls")
    assert np.array_equal(table, state["pos_embed"])  # not folded: (1, 1 + 16, 32)
    # what big_vision's vit.load does with such a table
    assert np.array_equal(cls + table[:, :1], expected.pop("params/cls"))
    assert np.array_equal(table[:, 1:], expected.pop("params/pos_embedding"))
    assert_same_bytes(found, expected)


def test_big_vision_scan__is_big_vision_with_its_blocks_stacked() -> None:
    found, blocks = arrays_of(golden_vit(), "big_vision_scan"), arrays_of(golden_vit(), "big_vision")
    stacked = [key for key in found if "/encoderblock/" in key]
    for key in stacked:
        first, second = (blocks.pop(key.replace("encoderblock", f"encoderblock_{index}")) for index in (0, 1))
        np.testing.assert_array_equal(found.pop(key), np.stack([first, second]))
    assert len(stacked) == 16
    assert_same_bytes(found, blocks)


def test_scan__keeps_the_order_of_more_than_ten_blocks() -> None:
    model = build(depth=11)
    stack = arrays_of(model, "big_vision_scan")["params/Transformer/encoderblock/LayerNorm_0/bias"]
    expected = [model.get_parameter(f"blocks.{index}.norm1.bias").detach().numpy() for index in range(11)]
    np.testing.assert_array_equal(stack, np.stack(expected))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_logits__under_tanh_gelu_are_those_of_the_authors_flax_models(layout: str, tmp_path: Path) -> None:
    model = read_back(golden_vit(), build(**GOLDEN_SIZE), tmp_path / "w.npz", layout=layout)
    images, flax = torch.from_numpy(IO["x"]), IO[f"flax_{layout}"]
    tanh = with_tanh_gelu(model)
    assert tanh is not None
    np.testing.assert_allclose(logits_of(tanh, images), flax, rtol=0, atol=1e-4)
    assert np.abs(logits_of(model, images) - flax).max() > 4e-4  # erf: the tolerance tells them apart


# timm's reader


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        GAP,
        {"no_embed_class": True},
        {"qkv_bias": False},
        {"img_size": (16, 32)},
        {"img_size": (16, 32), "no_embed_class": True},
        {"img_size": (16, 32), **GAP},
        {"img_size": (16, 20), "patch_size": (8, 4)},
        {"in_chans": 1},
        {"num_classes": 0},
        {"act_layer": "gelu_tanh"},
        {"depth": 1, "mlp_ratio": 3.0, "num_heads": 4},
        {"drop_rate": 0.1, "attn_drop_rate": 0.1, "drop_path_rate": 0.2, "proj_drop_rate": 0.1, "patch_drop_rate": 0.1},
    ],
    ids=str,
)
def test_file__read_with_timm_gives_the_same_logits(layout: str, changes: dict[str, Any], tmp_path: Path) -> None:
    model = build(seed=1, **changes)
    kept = {key: value for key, value in changes.items() if key != "qkv_bias"}  # zeros need a place
    if layout == "vit_jax":
        kept.pop("no_embed_class", None)  # so does the class token's row
    like = read_back(model, build(**kept), tmp_path / "w.npz", layout=layout)
    images = images_for(model)
    assert np.abs(logits_of(model, images) - logits_of(like, images)).max() == 0.0


def test_class_token__without_a_row_gets_one_of_zeros_in_vit_jax() -> None:
    model = build(no_embed_class=True)
    table = arrays_of(model)["Transformer/posembed_input/pos_embedding"]
    assert table.shape == (1, 17, 16)
    assert not table[:, 0].any()
    np.testing.assert_array_equal(table[:, 1:], model.get_parameter("pos_embed").detach().numpy())


def test_model_without_a_class_token_or_a_head__has_no_such_keys() -> None:
    assert "cls" not in arrays_of(build(**GAP))
    assert not [key for key in arrays_of(build(num_classes=0)) if key.startswith("head")]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_arrays__are_float32_whatever_the_model(dtype: torch.dtype, layout: str) -> None:
    model = build().to(dtype)
    arrays = arrays_of(model, layout)
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    prefix = "" if layout == "vit_jax" else "params/"
    expected = model.get_parameter("head.weight").detach().float().numpy().T
    np.testing.assert_array_equal(arrays[f"{prefix}head/kernel"], expected)


def test_arrays__are_copies_and_the_model_is_left_alone() -> None:
    model = build().train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    for array in arrays_of(model).values():
        array.fill(7.0)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_file__lands_at_its_path_without_pickles_and_the_same_every_time(tmp_path: Path) -> None:
    path = tmp_path / "weights.partial"  # numpy would add .npz
    write_npz(build(), path, layout="vit_jax", name="tiny")
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        assert_same_bytes({key: archive[key] for key in archive.files}, arrays_of(build()))
    first = path.read_bytes()
    write_npz(build(), path, layout="vit_jax", name="tiny")
    assert path.read_bytes() == first


# the tanh form


@pytest.mark.parametrize("act_layer", [None, "gelu"])  # torch's GELU, timm's own
def test_tanh_copy__computes_what_timm_does_with_gelu_tanh(act_layer: str | None) -> None:
    model = build(act_layer=act_layer).train()
    tanh = with_tanh_gelu(model)
    assert tanh is not None
    assert model.training
    assert not tanh.training
    other = build(act_layer="gelu_tanh")
    images = images_for(other)
    np.testing.assert_array_equal(logits_of(tanh, images), logits_of(other, images))
    assert np.abs(logits_of(model.eval(), images) - logits_of(other, images)).max() > 1e-5


def test_tanh_copy__changes_a_module_that_is_used_twice() -> None:
    gelu = nn.GELU()
    tanh = with_tanh_gelu(nn.Sequential(gelu, nn.Sequential(gelu), gelu))
    assert tanh is not None
    assert [module.approximate for module in tanh.modules() if isinstance(module, nn.GELU)] == ["tanh"] * 3


@pytest.mark.parametrize("act_layer", ["gelu_tanh", "quick_gelu", "relu"])
def test_tanh_copy__is_none_without_an_erf_gelu(act_layer: str) -> None:
    assert with_tanh_gelu(build(act_layer=act_layer)) is None


# refused


def changed(change: Callable[[Any], object], **changes: Any) -> nn.Module:
    model = build(**changes)
    change(model)
    return model


def add_tensor(part: nn.Module) -> None:
    part.register_parameter("temperature", nn.Parameter(torch.ones(1)))


def block_of(name: str) -> Any:
    from timm.models import vision_transformer

    return getattr(vision_transformer, name)


def gate(model: Any) -> None:
    model.blocks[1].attn.gate = nn.Linear(16, 16)


def set_eps(model: Any) -> None:
    model.blocks[1].norm2.eps = 1e-5


def set_width(model: Any) -> None:
    from timm.layers import Attention

    for block in model.blocks:
        block.attn = Attention(16, num_heads=2, attn_head_dim=4, qkv_bias=True)


def swap_mlp(model: Any) -> None:
    from timm.layers import Mlp

    model.blocks[1].mlp = Mlp(16, 24)


def weight_normed(model: Any) -> None:
    """Give a layer the tensors of ``torch.nn.utils.weight_norm``, which are no ``weight``."""
    fc1 = model.blocks[0].mlp.fc1
    fc1.register_parameter("weight_v", fc1._parameters.pop("weight"))


def cnn() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("test_resnet", num_classes=3)
    return model


def hybrid() -> nn.Module:
    return build("vit_tiny_r_s16_p8_224", img_size=64, patch_size=1)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "EVA": (lambda: build("eva02_tiny_patch14_224"), "is of type Eva, not timm's VisionTransformer"),
    "BEiT": (lambda: build("beitv2_base_patch16_224"), "is of type Beit,"),
    "distilled": (lambda: build("deit_tiny_distilled_patch16_224"), "is of type VisionTransformerDistilled,"),
    "relative positions": (lambda: build("vit_relpos_small_patch16_224"), "is of type VisionTransformerRelPos,"),
    "CNN": (cnn, "is of type ResNet,"),
    "hybrid": (hybrid, "has HybridEmbed in place of PatchEmbed"),
    "patch norm": (lambda: build(embed_norm_layer="layernorm"), "has a norm in its patch embedding"),
    "padding": (lambda: build(dynamic_img_size=True, dynamic_img_pad=True), "has padding in its patch embedding"),
    "LayerScale": (lambda: build("deit3_small_patch16_224"), "has LayerScale"),
    "DINOv2 registers": (lambda: build("vit_small_patch14_reg4_dinov2"), "has register tokens and LayerScale"),
    "registers": (lambda: build(reg_tokens=2), "has register tokens"),
    "another prefix": (lambda: changed(lambda m: setattr(m, "num_prefix_tokens", 2), no_embed_class=True),
                       "has more prefix tokens than the class token"),
    "qk-norm": (lambda: build(qk_norm=True), "has qk-norm"),
    "norm in attention": (lambda: build(scale_attn_norm=True), "has a norm within attention"),
    "norm in MLP": (lambda: build(scale_mlp_norm=True), "has a norm within the MLP"),
    "gate": (lambda: changed(gate), "has gated attention"),
    "other attention": (lambda: build(attn_layer="diff"), "has DiffAttention in place of Attention"),
    "narrow attention": (lambda: changed(set_width), "has attention of another width than its tokens"),
    "fc_norm": (lambda: build(class_token=False, global_pool="avg"),
                "has no norm before pooling and a norm after pooling"),
    "attention pooling": (lambda: build("vit_base_patch16_siglip_224"),
                          "has pooling 'map' without a class token and attention pooling"),
    "average beside a class token": (lambda: build(global_pool="avg", fc_norm=False),
                                     "has a class token with pooling 'avg'"),
    "unpooled": (lambda: build(global_pool=""), "has a class token with pooling ''"),
    "maximum": (lambda: build(**(GAP | {"global_pool": "max"})), "has pooling 'max' without a class token"),
    "pre-norm": (lambda: build(pre_norm=True),
                 "has a norm before the blocks and a patch embedding that is not one convolution with a bias"),
    "no final norm": (lambda: build(final_norm=False), "has no norm before pooling"),
    "SwiGLU": (lambda: build("vit_giant_patch14_dinov2", mlp_ratio=2.0, init_values=None),
               "has GluMlp in place of Mlp"),
    "quick GELU": (lambda: build(act_layer="quick_gelu"), "has the activation QuickGELU"),
    "ReLU": (lambda: build(act_layer="relu"), "has the activation ReLU"),
    "eps": (lambda: changed(set_eps), "has LayerNorm with an eps of 1e-05 in place of 1e-06"),
    "RMSNorm": (lambda: build(norm_layer="rmsnorm"), "has RmsNorm in place of LayerNorm"),
    "bare norm": (lambda: changed(lambda m: setattr(m, "norm", nn.LayerNorm(16, eps=1e-6, bias=False))),
                  "has a LayerNorm without a weight or a bias"),
    "no positions": (lambda: build(pos_embed="none"), "has no absolute position embeddings"),
    "stray positions": (lambda: changed(lambda m: setattr(m, "pos_embed", nn.Parameter(torch.ones(1, 9, 16)))),
                        "has position embeddings of another shape"),
    "parallel": (lambda: build(block_fn=block_of("ParallelThingsBlock")), "has ParallelThingsBlock in place of Block"),
    "parallel scaling": (lambda: build(block_fn=block_of("ParallelScalingBlock")),
                         "has ParallelScalingBlock in place of Block"),
    "post-norm": (lambda: build(block_fn=block_of("ResPostBlock")), "has ResPostBlock in place of Block"),
    "no blocks": (lambda: build(depth=0), "has no blocks"),
    "unlike blocks": (lambda: changed(swap_mlp), "has blocks that differ from one another"),
    "no projection bias": (lambda: build(proj_bias=False), "has projections other than linear layers with a bias"),
    "MLP head": (lambda: changed(lambda m: setattr(m, "head", nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 3)))),
                 "has a head that is not one linear layer with a bias"),
    "head without a bias": (lambda: changed(lambda m: setattr(m, "head", nn.Linear(16, 3, bias=False))),
                            "has a head that is not one linear layer with a bias"),
    "foreign part": (lambda: changed(lambda m: setattr(m, "pos_drop", nn.Tanh())),
                     "has a part pos_drop of type Tanh"),
    "a tensor more": (lambda: changed(lambda m: add_tensor(m.blocks[1].attn)),
                      "has a tensor blocks.1.attn.temperature of unknown use"),
    "a tensor less": (lambda: changed(weight_normed), "has no tensor blocks.0.mlp.fc1.weight"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_model__that_the_layouts_cannot_hold_is_refused_with_reason_and_alternative(kind: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    sentence = f"Google's .npz layout cannot hold some/run, which {reason}"
    model = make()
    with pytest.raises(ModelError, match=rf"^{re.escape(sentence)}.*; use --to timm or onnx\.$"):
        check_npz_can_hold(model, name="some/run")
    for layout in LAYOUTS:
        with pytest.raises(ModelError, match=re.escape(sentence)):
            write_npz(model, tmp_path / "w.npz", layout=layout, name="some/run")
    assert not list(tmp_path.iterdir())


def test_unknown_layout__is_refused() -> None:
    with pytest.raises(SettingError, match="--npz-layout is 'flax'; it can be vit_jax, big_vision, big_vision_scan"):
        arrays_of(build(), "flax")
