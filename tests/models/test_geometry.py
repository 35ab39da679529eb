"""Changing the resolution of every kind of model: the table, the grid, the forward pass, and what is refused."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.models.describe import flops_per_image
from vitctl.models.geometry import Resolution, change_resolution, geometry_of, position_table
from vitctl.primitives.position_embeddings import METHODS, resample_position_embeddings

WIDTH = {"embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
PATCH_8 = {"img_size": 32, "patch_size": 8, **WIDTH}

# (name, arguments, prefix tokens, rows of the position table that are not patches)
WITH_TABLE = {
    "class token": ("vit_tiny_patch16_224", PATCH_8, 1, 1),
    "distilled": ("deit_tiny_distilled_patch16_224", PATCH_8, 2, 2),
    "class token without embedding": ("deit3_small_patch16_224", PATCH_8, 1, 0),
    "registers": ("vit_small_patch14_reg4_dinov2", {"img_size": 32, "patch_size": 8, **WIDTH}, 5, 0),
    "attention pooling": ("vit_base_patch16_siglip_224", PATCH_8, 0, 0),
    "mean of patches": ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", **PATCH_8}, 0, 0),
    "rotary besides the table": ("eva02_tiny_patch14_224", PATCH_8, 1, 1),
    "hybrid stem": ("vit_tiny_r_s16_p8_224", {"img_size": 128, **WIDTH}, 1, 1),
}
WITHOUT_TABLE = {
    "relative bias": ("vit_relpos_small_patch16_224", PATCH_8),
    "rotary": ("vit_base_patch16_rope_224", PATCH_8),
}


def build(name: str, seed: int = 0, **arguments: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, **arguments)
    return model.eval()


def table_of(model: nn.Module) -> Tensor:
    table = position_table(model)
    assert table is not None
    return table.detach().clone()


def forward(model: nn.Module, image_size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0)))
    return logits


@pytest.mark.parametrize("shape", ["larger", "smaller", "rectangle", "equal tokens"])
@pytest.mark.parametrize("kind", WITH_TABLE)
def test_change_resolution__resamples_the_table_by_location(kind: str, shape: str) -> None:
    name, arguments, num_prefix, num_rows = WITH_TABLE[kind]
    model = build(name, **arguments)
    before, table = geometry_of(model), table_of(model)
    assert before.grid is not None
    assert before.patch_size is not None
    height, width = before.grid
    new_grid = {
        "larger": (height + 2, width + 2),
        "smaller": (height - 1, width - 1),
        "rectangle": (height + 1, width - 1),
        "equal tokens": (height // 2, width * 2),
    }[shape]
    image_size = (new_grid[0] * before.patch_size[0], new_grid[1] * before.patch_size[1])
    resolution = change_resolution(model, image_size, method="paper", name=name)

    assert before.num_prefix_tokens == num_prefix
    assert resolution.before == before
    assert (resolution.after.image_size, resolution.after.grid) == (image_size, new_grid)
    assert resolution.after.patch_size == before.patch_size
    assert resolution.after.num_tokens == num_prefix + new_grid[0] * new_grid[1]
    expected = resample_position_embeddings(
        table, old_grid=before.grid, new_grid=new_grid, num_prefix_tokens=num_rows, method="paper"
    )
    assert torch.equal(table_of(model), expected)
    assert not torch.equal(expected, table)
    assert resolution.norm_ratio == pytest.approx(
        float(expected[0, num_rows:].norm(dim=1).mean() / table[0, num_rows:].norm(dim=1).mean())
    )
    assert forward(model, image_size).shape == (2, 3)


@pytest.mark.parametrize("image_size", [(32, 32), (64, 16), (48, 24)])
def test_change_resolution__starts_from_a_rectangle(image_size: tuple[int, int]) -> None:
    model = build("vit_tiny_patch16_224", **(PATCH_8 | {"img_size": (16, 64)}))
    expected = resample_position_embeddings(
        table_of(model),
        old_grid=(2, 8),
        new_grid=(image_size[0] // 8, image_size[1] // 8),
        num_prefix_tokens=1,
        method="paper",
    )
    change_resolution(model, image_size, method="paper", name="tiny")
    assert torch.equal(table_of(model), expected)
    assert forward(model, image_size).shape == (2, 3)


@pytest.mark.parametrize("kind", WITHOUT_TABLE)
def test_change_resolution__without_a_table_has_no_norm_ratio(kind: str) -> None:
    name, arguments = WITHOUT_TABLE[kind]
    model = build(name, **arguments)
    resolution = change_resolution(model, (48, 32), method="paper", name=name)
    assert not resolution.before.has_position_embeddings
    assert resolution.norm_ratio is None
    assert resolution.after.grid == (6, 4)
    assert forward(model, (48, 32)).shape == (2, 3)


# timm's own code for relative position bias tables warns inside torch; the two messages are named
@pytest.mark.filterwarnings(r"ignore:torch.searchsorted\(\). input value tensor is non-contiguous:UserWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning")
@pytest.mark.parametrize(
    ("name", "arguments", "image_size"),
    [
        ("beit_base_patch16_224", PATCH_8, (48, 48)),
        ("swin_tiny_patch4_window7_224", {"img_size": 56, "embed_dim": 24, "depths": (1, 1), "num_heads": (2, 2)},
         (112, 112)),
    ],
)  # fmt: skip
def test_change_resolution__relative_bias_tables_are_left_to_timm(
    name: str, arguments: dict[str, Any], image_size: tuple[int, int]
) -> None:
    model = build(name, **(arguments | {"num_classes": 3}))
    assert change_resolution(model, image_size, method="paper", name=name).norm_ratio is None
    assert forward(model, image_size).shape == (2, 3)


def test_change_resolution__resnet_hybrid_counts_the_total_stride() -> None:
    model = build("vit_small_r26_s32_224", img_size=64, **WIDTH)
    assert geometry_of(model).patch_size == (32, 32)
    change_resolution(model, (96, 64), method="paper", name="r26")
    assert table_of(model).shape == (1, 1 + 6, 16)
    assert forward(model, (96, 64)).shape == (2, 3)


@pytest.mark.parametrize("method", METHODS)
def test_change_resolution__uses_the_method_asked_for(method: str) -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    expected = resample_position_embeddings(
        table_of(model), old_grid=(4, 4), new_grid=(6, 6), num_prefix_tokens=1, method=method
    )
    change_resolution(model, (48, 48), method=method, name="tiny")
    assert torch.equal(table_of(model), expected)


def test_change_resolution__same_size_leaves_every_tensor() -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    resolution = change_resolution(model, (32, 32), method="paper", name="tiny")
    assert resolution == Resolution(resolution.before, resolution.before, 1.0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_change_resolution__same_size_without_a_table_has_no_norm_ratio() -> None:
    model = build("vit_relpos_small_patch16_224", **PATCH_8)
    assert change_resolution(model, (32, 32), method="paper", name="relpos").norm_ratio is None


def test_change_resolution__touches_nothing_but_the_table() -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    change_resolution(model, (64, 48), method="bicubic-aa", name="tiny")
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["pos_embed"]


def test_change_resolution__table_can_still_be_trained() -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    change_resolution(model, (48, 48), method="paper", name="tiny")
    model(torch.zeros(1, 3, 48, 48)).sum().backward()
    gradient = dict(model.named_parameters())["pos_embed"].grad
    assert gradient is not None
    assert gradient.shape == (1, 37, 16)


def test_change_resolution__frozen_table_stays_frozen() -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    model.get_parameter("pos_embed").requires_grad_(False)
    change_resolution(model, (48, 48), method="paper", name="tiny")
    assert not model.get_parameter("pos_embed").requires_grad


def test_change_resolution__attention_cost_is_the_square_of_the_tokens() -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    resolution = change_resolution(model, (64, 64), method="paper", name="tiny")
    assert resolution.attention_cost_factor == pytest.approx((65 / 17) ** 2)


def test_own_size_that_the_patch_does_not_divide__stays() -> None:
    """As that of SigLIP's so400m: 27 patches of 14 px in 384 px."""
    model = build("vit_base_patch16_siglip_224", **PATCH_8 | {"img_size": 30})
    before, expected = table_of(model), forward(model, (30, 30))
    resolution = change_resolution(model, (30, 30), method="paper", name="tiny")
    assert resolution.after == resolution.before
    assert torch.equal(table_of(model), before)
    assert torch.equal(forward(model, (30, 30)), expected)


@pytest.mark.parametrize(
    ("image_size", "sentence"),
    [
        ((50, 50), "--image-size 50 is not a multiple of the patch of tiny (8 px); the nearest that are: 48 and 56."),
        ((5, 5), "the nearest that are: 8."),
        ((32, 50), "--image-size 32x50 is not a multiple of the patch of tiny (8 px); the nearest that are: "
                   "32x48 and 32x56."),
    ],
)  # fmt: skip
def test_change_resolution__indivisible_size_is_refused_with_the_nearest(
    image_size: tuple[int, int], sentence: str
) -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    with pytest.raises(SettingError) as refusal:
        change_resolution(model, image_size, method="paper", name="tiny")
    assert str(refusal.value).endswith(sentence)
    assert geometry_of(model).image_size == (32, 32)


def test_change_resolution__hybrid_needs_multiples_of_the_total_stride() -> None:
    model = build("vit_tiny_r_s16_p8_224", img_size=64, **WIDTH)
    with pytest.raises(SettingError, match=r"\(32 px\); the nearest that are: 64 and 96"):
        change_resolution(model, (80, 80), method="paper", name="hybrid")


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_efficientnet", "test_nfnet", "test_byobnet"])
def test_cnn__takes_another_size_and_remembers_it(name: str) -> None:
    import timm
    from timm.data import resolve_model_data_config

    model = build(name, num_classes=3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    resolution = change_resolution(model, (96, 64), method="paper", name=name)
    assert (resolution.before.image_size, resolution.after.image_size) == ((160, 160), (96, 64))
    assert geometry_of(model) == resolution.after
    assert (resolution.after.patch_size, resolution.after.grid, resolution.after.num_tokens) == (None, None, None)
    assert resolution.norm_ratio is None
    assert resolution.cost_factor == pytest.approx(96 * 64 / 160**2)
    assert resolve_model_data_config(model)["input_size"] == (3, 96, 64)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert forward(model, (96, 64)).shape == (2, 3)
    assert timm.create_model(name).pretrained_cfg["input_size"] == (3, 160, 160)


def test_cnn__recommendations_for_the_old_size_go() -> None:
    model = build("resnetv2_18")
    assert model.pretrained_cfg["test_input_size"] == (3, 288, 288)  # type: ignore[index]
    change_resolution(model, (64, 64), method="paper", name="resnetv2_18")
    assert not {"test_input_size", "test_crop_pct"} & set(model.pretrained_cfg)  # type: ignore[arg-type]


def test_cnn__its_own_size_is_no_change() -> None:
    model = build("test_resnet")
    own = geometry_of(model)
    assert change_resolution(model, (160, 160), method="paper", name="resnet") == Resolution(own, own, None)


def test_cnn__flops_follow_the_cost_factor() -> None:
    model = build("test_resnet")
    flops = flops_per_image(model, (64, 64))
    resolution = change_resolution(model, (128, 96), method="paper", name="resnet")
    assert flops_per_image(model, (128, 96)) / flops == pytest.approx(3, rel=0.01)
    assert resolution.cost_factor == pytest.approx(128 * 96 / 160**2)


@pytest.mark.parametrize(("name", "size"), [("test_convnext", (8, 8)), ("test_convnext", (64, 1)), ("vgg11", (16, 16))])
def test_cnn__too_small_a_size_is_refused(name: str, size: tuple[int, int]) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    own = geometry_of(model)
    with pytest.raises(SettingError, match=rf"^{name} cannot take --image-size .*Its own is {own.image_size[0]}\.$"):
        change_resolution(model, size, method="paper", name=name)
    assert geometry_of(model) == own


def test_cnn_of_fixed_size__is_refused_with_its_size() -> None:
    model = build("levit_128s")
    with pytest.raises(ModelError, match=r"levit_128s has a fixed input size of 224 px.*Use --image-size 224\."):
        change_resolution(model, (192, 192), method="paper", name="levit_128s")
    assert change_resolution(model, (224, 224), method="paper", name="levit_128s").norm_ratio is None


def test_fixed_size_model__is_refused_with_its_size() -> None:
    model = build("cait_xxs24_224", **PATCH_8)
    with pytest.raises(ModelError, match=r"fixed input size of 32 px.*Use --image-size 32\."):
        change_resolution(model, (48, 48), method="paper", name="cait")


def test_fixed_size_model__its_own_size_is_no_change() -> None:
    model = build("cait_xxs24_224", **PATCH_8)
    assert change_resolution(model, (32, 32), method="paper", name="cait").norm_ratio == 1.0


def test_change_resolution__a_table_that_no_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("vit_tiny_patch16_224", **PATCH_8)
    monkeypatch.setattr("vitctl.primitives.memory.free_bytes", lambda: 3 * 4 * 16 * 25)  # of 5x5 places, 16 wide
    change_resolution(model, (40, 40), method="paper", name="it")
    with pytest.raises(SettingError) as caught:
        change_resolution(model, (64, 48), method="paper", name="it")
    assert str(caught.value) == (
        "The position embeddings of it at --image-size 64x48 would take 9 KiB of memory, and 4.69 KiB are free. Use a "
        "smaller one; its own is 40."
    )
    assert caught.value.field == "image_size"
    assert geometry_of(model).image_size == (40, 40)
