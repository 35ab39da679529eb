"""Weights of other programs, built from timm's tensors: they must give the logits of the model they are from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models import VisionTransformer as Torchvision

from vitctl.errors import ModelError
from vitctl.models.build import load_model
from vitctl.models.weights import load_weights_file
from vitctl.training.lora import ADAPTER, add_factors, write_adapter

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def randomised(model: nn.Module, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    return model.eval()


def small(name: str = "vit_tiny_patch16_224", *, seed: int = 1, **changes: Any) -> Any:
    return randomised(timm.create_model(name, **(SMALL | changes)), seed)


@torch.no_grad()
def same(first: Any, second: Any, *, side: int = 16) -> None:
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    expected = second(images)
    assert expected.abs().max() > 0.3
    torch.testing.assert_close(first.eval()(images), expected, rtol=1e-5, atol=1e-5)


def saved(path: Path, tensors: dict[str, Tensor]) -> Path:
    save_file({key: value.contiguous().clone() for key, value in tensors.items()}, path)
    return path


# --- torchvision


@pytest.mark.parametrize("is_old", [False, True])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchvision__gives_torchvisions_logits(tmp_path: Path, prefix: str, is_old: bool) -> None:
    source = randomised(Torchvision(24, 4, 2, 2, 16, 64, num_classes=5))
    tensors = {f"{prefix}{key}": value for key, value in source.state_dict().items()}
    if is_old:  # as torchvision 0.12 wrote them
        named = {"mlp.0.": "mlp.linear_1.", "mlp.3.": "mlp.linear_2."}
        for new, old in named.items():
            tensors = {key.replace(new, old): value for key, value in tensors.items()}
    model = small(seed=2)
    report = load_weights_file(model, saved(tmp_path / "vit.safetensors", tensors), name="small")
    assert (report.missing, report.unexpected) == ((), ())
    assert model.num_classes == 5
    same(model, source, side=24)


def test_torchvision__with_a_representation_layer_is_refused(tmp_path: Path) -> None:
    source = Torchvision(16, 4, 2, 2, 16, 64, num_classes=3, representation_size=8)
    with pytest.raises(ModelError, match=r"vit\.safetensors is of torchvision with a representation layer"):
        load_weights_file(small(), saved(tmp_path / "vit.safetensors", source.state_dict()), name="small")


# --- DINOv2 with registers, as Meta wrote it


def metas(source: Any) -> dict[str, Tensor]:
    """Return timm's tensors in the layout of ``dinov2_vitX14_reg4_pretrain.pth``: a row of positions for the class."""
    tensors, row = dict(source.state_dict()), torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1))
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors["cls_token"] = tensors["cls_token"] - row
    tensors["pos_embed"] = torch.cat([row, tensors["pos_embed"]], dim=1)
    return tensors | {"mask_token": torch.zeros(1, 16)}


def dinov2(**changes: Any) -> Any:
    return small("vit_small_patch14_reg4_dinov2", **({"num_classes": 0} | changes))


@pytest.mark.parametrize("side", [16, 24])
def test_dinov2_with_registers__gives_the_features_at_the_files_own_size(tmp_path: Path, side: int) -> None:
    source, model = dinov2(img_size=side), dinov2(seed=2)
    report = load_weights_file(model, saved(tmp_path / "w.safetensors", metas(source)), name="dinov2")
    assert (report.missing, report.unexpected) == ((), ("mask_token",))
    assert model.patch_embed.img_size == (side, side)
    same(model, source, side=side)


def test_dinov2_with_registers__the_published_size_is_taken_for_37x37() -> None:
    """1,370 rows: 37x37 patches and the class token; once they were taken for a grid of their own."""
    from vitctl.models.layouts import renamed

    tensors = {"register_tokens": torch.zeros(1, 4, 8), "cls_token": torch.zeros(1, 1, 8)}
    found = renamed(tensors | {"pos_embed": torch.zeros(1, 1370, 8)}, nn.Identity(), path=Path("w.pth")).tensors
    assert found["pos_embed"].shape == (1, 37 * 37, 8)
    assert set(found) == {"reg_token", "cls_token", "pos_embed"}


def test_dinov2_with_registers__is_refused_by_a_model_without(tmp_path: Path) -> None:
    model = small("vit_small_patch14_dinov2", num_classes=0)
    with pytest.raises(ModelError, match="which has no place for reg_token; expected weights") as caught:
        load_weights_file(model, saved(tmp_path / "w.safetensors", metas(dinov2())), name="dinov2")
    assert "Try --model-arg reg_tokens=4 --model-arg no_embed_class=true" in str(caught.value)
    arguments = SMALL | {"num_classes": 0, "reg_tokens": 4, "no_embed_class": True}
    loaded = load_model(
        "vit_small_patch14_dinov2", weights=str(tmp_path / "w.safetensors"), model_args=without(arguments)
    )
    same(loaded.model, dinov2())


def without(arguments: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key not in ("img_size", "num_classes")}


def test_tokens_that_have_no_place__are_refused(tmp_path: Path) -> None:
    """Registers in a file whose positions fit all the same: without them the model would compute something else."""
    source = dinov2()
    model = small("vit_small_patch14_dinov2", num_classes=0, no_embed_class=True)
    with pytest.raises(ModelError, match="which has no place for reg_token; .* Try --model-arg reg_tokens=4,"):
        load_weights_file(model, saved(tmp_path / "w.safetensors", source.state_dict()), name="dinov2")


# --- the same architecture with other arguments


@pytest.mark.parametrize(
    "changes",
    [
        {"global_pool": "avg"},  # MAE, fine-tuned (facebookresearch/mae, models_vit.py)
        {"global_pool": "avg", "class_token": False},
        {"init_values": 1e-5},
        {"qk_norm": True},
        {"qkv_bias": False},
        {"pre_norm": True},
    ],
)
def test_arguments_that_the_names_speak_for__are_advised_and_work(tmp_path: Path, changes: dict[str, Any]) -> None:
    source = small(**changes)
    path = saved(tmp_path / "w.safetensors", source.state_dict())
    with pytest.raises(ModelError) as caught:
        load_weights_file(small(seed=2), path, name="small")
    for key, value in changes.items():
        assert f"--model-arg {key}={str(value).lower().replace('1e-05', '1e-5')}" in str(caught.value)
    model = small(seed=2, **changes)
    load_weights_file(model, path, name="small")
    same(model, source)


def test_mae_fine_tuned__by_the_name_and_an_argument(tmp_path: Path) -> None:
    source = small(global_pool="avg")
    path = saved(tmp_path / "w.safetensors", source.state_dict())
    arguments = without(SMALL) | {"global_pool": "avg"}
    same(load_model("vit_tiny_patch16_224", weights=str(path), model_args=arguments).model, source)


def test_advice__is_not_given_where_nothing_speaks_for_it(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", {"encoder.weight": torch.zeros(2)})
    with pytest.raises(ModelError, match=r"lacks .* It holds encoder\.weight\.$"):
        load_weights_file(small(), path, name="small")


# --- adapters


def lora(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {"base_model.model.blocks.0.attn.qkv.lora_A.weight": torch.zeros(2, 16)}


def unmerged(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return tensors | {"blocks.1.attn.qkv.lora_A.default.weight": torch.zeros(2, 16)}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("adapter_model.safetensors", lora),
        ("w.safetensors", lora),
        ("w.safetensors", unmerged),
        ("adapter_model.safetensors", dict),
    ],
)
def test_adapters__are_refused_with_how_to_merge(tmp_path: Path, name: str, change: Callable[..., Any]) -> None:
    path = saved(tmp_path / name, change(small().state_dict()))
    with pytest.raises(ModelError, match=r"holds an adapter that is not merged \(.*merge_and_unload\(\)"):
        load_weights_file(small(), path, name="small")


def test_adapters_of_a_run__are_refused_with_where_the_whole_model_is(tmp_path: Path) -> None:
    model = small()
    add_factors(model, rank=2, scale=1.0, seed=0, name="small")
    write_adapter(tmp_path, model.state_dict(), model)
    with pytest.raises(ModelError, match=r"not merged \(.*beside it: .*/model\.safetensors\.$") as caught:
        load_weights_file(small(), tmp_path / ADAPTER, name="small")
    assert "peft" not in str(caught.value)
