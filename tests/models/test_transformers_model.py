"""Folders in transformers' words: what they say of a model, and what cannot be opened. Written from timm's tensors.

``tests/parity/test_opens_transformers.py`` has transformers itself write and compute.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting.transformers_folder import preprocessor_config, write_transformers_folder
from vitctl.models.build import load_model, preprocessing_of
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.models.transformers_processor import read_processor
from vitctl.primitives.preprocessing import Preprocessing

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
NAMES = ["red", "grün", "a/b, c"]
CONFIG = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 16, "patch_size": 4}
LABELS = {"id2label": {"0": "red", "1": "green", "2": "blue"}}


def small(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **(TINY | changes))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def preprocessing_for(**changes: Any) -> Preprocessing:
    settings = {"image_size": (16, 16), "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    return Preprocessing(**(settings | {"mean": (0.4, 0.5, 0.6), "std": (0.25, 0.2, 0.3)} | changes))


def written(folder: Path, model: nn.Module | None = None, **changes: Any) -> Path:
    folder.mkdir()
    how = preprocessing_for(**changes)
    write_transformers_folder(model or small(), folder, class_names=NAMES, preprocessing=how, name="small")
    return folder


def spelt(tensors: dict[str, Tensor], prefix: str, *, dinov2: bool) -> dict[str, Tensor]:
    """Return timm's tensors under the names in transformers' ``modeling_deit.py`` and ``modeling_dinov2.py``."""
    block = {
        "attn.proj": "attention.output.dense",
        "norm1": "norm1" if dinov2 else "layernorm_before",
        "norm2": "norm2" if dinov2 else "layernorm_after",
        "mlp.fc1": "mlp.fc1" if dinov2 else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if dinov2 else "output.dense",
    }
    outside = {
        "cls_token": "embeddings.cls_token",
        "dist_token": "embeddings.distillation_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
        "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
        "norm.weight": "layernorm.weight",
        "norm.bias": "layernorm.bias",
        "register_tokens": "embeddings.register_tokens",
    }
    heads = {"head": "cls_classifier", "head_dist": "distillation_classifier"}
    found = {}
    for key, value in tensors.items():
        if key in outside:
            found[prefix + outside[key]] = value
        elif key.partition(".")[0] in heads:
            found[key.replace(key.partition(".")[0], heads[key.partition(".")[0]])] = value
        elif (match := re.fullmatch(r"blocks\.(\d+)\.ls(\d)\.gamma", key)) is not None:
            found[f"{prefix}encoder.layer.{match[1]}.layer_scale{match[2]}.lambda1"] = value
        else:
            _, index, layer, kind = re.fullmatch(r"(blocks)\.(\d+)\.(.+)\.(\w+)", key).groups()  # type: ignore[union-attr]
            parts = dict(zip(("query", "key", "value"), value.chunk(3), strict=True)) if layer == "attn.qkv" else {}
            for part, third in parts.items():
                found[f"{prefix}encoder.layer.{index}.attention.attention.{part}.{kind}"] = third.clone()
            if not parts:
                found[f"{prefix}encoder.layer.{index}.{block[layer]}.{kind}"] = value
    return found


def folder_of(folder: Path, tensors: dict[str, Tensor], config: dict[str, Any]) -> Path:
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(preprocessing_for())))
    return folder


@torch.no_grad()
def same(first: Any, second: Any, *, features: bool = False) -> None:
    images = torch.randn(2, 3, *first.patch_embed.img_size, generator=torch.Generator().manual_seed(0))
    one, two = (
        model.eval().forward_features(images) if features else model.eval()(images) for model in (first, second)
    )
    assert two.abs().max() > 0.3
    torch.testing.assert_close(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("mode", "crop_pct"), [("center", 0.9), ("squash", 0.875), ("border", 1.0)])
def test_an_export__is_opened_as_what_it_was(tmp_path: Path, mode: str, crop_pct: float) -> None:
    source = small(act_layer="gelu_tanh")
    folder = written(tmp_path / "hf", source, crop_mode=mode, crop_pct=crop_pct)
    loaded = load_model(str(folder))
    same(loaded.model, source)
    assert loaded.class_names == tuple(NAMES)
    assert (loaded.name, loaded.licence) == (str(folder), None)
    found, expected = preprocessing_of(loaded.model), preprocessing_for(crop_mode=mode, crop_pct=crop_pct)
    assert (found.mean, found.std, found.interpolation) == (expected.mean, expected.std, expected.interpolation)
    image = Image.effect_noise((40, 30), 90).convert("RGB")
    assert torch.equal(EvaluationTransform(found)(image), EvaluationTransform(expected)(image))


@pytest.mark.parametrize(
    ("said", "crop_pct", "mode"),
    [
        ({"size": {"height": 16, "width": 16}}, 1.0, "squash"),
        ({"size": 16}, 1.0, "squash"),
        (
            {"size": {"shortest_edge": 32}, "crop_size": {"height": 16, "width": 16}, "do_center_crop": True},
            0.5,
            "center",
        ),
        ({"size": {"shortest_edge": 16}, "do_center_crop": False, "crop_size": 12}, 1.0, "center"),
        ({"size": 32, "crop_size": 16}, 0.5, "squash"),
        ({"size": {"max_height": 16, "max_width": 16}}, 1.0, "border"),
    ],
)
def test_processor__its_cut_in_timms_words(tmp_path: Path, said: dict[str, Any], crop_pct: float, mode: str) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = read_processor(tmp_path, (16, 16))
    assert (found.preprocessing.crop_pct, found.preprocessing.crop_mode, found.notes) == (crop_pct, mode, ())
    assert found.preprocessing.mean == (0.5, 0.5, 0.5)


@pytest.mark.parametrize("edge", [225, 240, 248, 256, 299])
def test_processor__the_share_that_is_kept_gives_back_the_edge(tmp_path: Path, edge: int) -> None:
    said = {"size": {"shortest_edge": edge}, "crop_size": {"height": 224, "width": 224}}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    assert int(224 / read_processor(tmp_path, (224, 224)).preprocessing.crop_pct) == edge


def test_processor__of_another_size_than_the_model_and_none_at_all_are_said(tmp_path: Path) -> None:
    said = {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}, "resample": 3}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    (note,) = read_processor(tmp_path, (518, 518)).notes
    assert "cuts images to 224x224 px" in note or "cuts images to 224 px" in note
    assert "--image-size 224" in note
    (tmp_path / "preprocessor_config.json").unlink()
    (note,) = read_processor(tmp_path, (16, 16)).notes
    assert "has no preprocessor_config.json" in note


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"rescale_factor": 1 / 127.5}, ("rescale_factor 0.00784", "expected 1/255")),
        ({"do_rescale": False}, ("no rescaling", "expected 1/255")),
        ({"image_mean": [0.5]}, ("cannot be read", "image_mean")),
        ({"resample": 9}, ("cannot be read", "resample")),
        ({"size": {"height": "x"}}, ("cannot be read", "size")),
    ],
)
def test_processor__that_cannot_be_used_is_refused(
    tmp_path: Path, said: dict[str, Any], words: tuple[str, ...]
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(ModelError) as caught:
        read_processor(tmp_path, (16, 16))
    for word in (str(tmp_path), *words):
        assert word in str(caught.value)


def test_dinov2_with_registers__is_opened(tmp_path: Path) -> None:
    """Built from timm's tensors: the class token's row of positions, which timm has not, is taken off the token."""
    source = small("vit_small_patch14_reg4_dinov2", num_classes=0)
    tensors, row = dict(source.state_dict()), torch.randn(1, 1, 16, generator=torch.Generator().manual_seed(1))
    tensors["register_tokens"] = tensors.pop("reg_token")
    tensors |= {"cls_token": tensors["cls_token"] - row, "pos_embed": torch.cat([row, tensors["pos_embed"]], dim=1)}
    theirs = spelt(tensors, "", dinov2=True) | {"embeddings.mask_token": torch.zeros(1, 16)}
    config = CONFIG | {"model_type": "dinov2_with_registers", "architectures": ["Dinov2WithRegistersModel"]}
    loaded = load_model(str(folder_of(tmp_path / "hf", theirs, config)))
    same(loaded.model, source, features=True)
    assert loaded.num_classes == 0


def test_deit_with_its_teacher__is_opened(tmp_path: Path) -> None:
    source = small("deit_tiny_distilled_patch16_224")
    config = CONFIG | LABELS | {"model_type": "deit", "architectures": ["DeiTForImageClassificationWithTeacher"]}
    config |= {"intermediate_size": 64, "layer_norm_eps": 1e-6}
    loaded = load_model(str(folder_of(tmp_path / "hf", spelt(source.state_dict(), "deit.", dinov2=False), config)))
    same(loaded.model, source)
    assert loaded.class_names == ("red", "green", "blue")


def test_pytorch_model_bin_and_classes_of_one_name(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"id2label": {"0": "crane", "1": "dog", "2": "crane"}}))
    loaded = load_model(str(folder))
    same(loaded.model, small())
    assert loaded.class_names == ("crane (0)", "dog", "crane (2)")


def test_eps__is_the_files_own_unless_the_model_will_be_saved(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"layer_norm_eps": 1e-3}))
    opened, trained = open_model(str(folder)), open_model(str(folder), is_saved=True)
    assert {one.eps for one in opened.model.modules() if isinstance(one, nn.LayerNorm)} == {1e-3}
    assert {one.eps for one in trained.model.modules() if isinstance(one, nn.LayerNorm)} == {1e-6}
    for one, eps in ((opened, 1e-3), (trained, 1e-6)):  # built anew at another size
        random = open_model(str(folder), weights="none", is_saved=one is trained).at((32, 32))
        assert {norm.eps for norm in random.model.modules() if isinstance(norm, nn.LayerNorm)} == {eps}
    assert opened.notes == ()
    assert "add 0.001 to the variance; a run is saved as a timm folder" in trained.notes[0]


def test_a_run_from_it__is_a_timm_folder_that_opens_again(tmp_path: Path) -> None:
    loaded = load_model(str(written(tmp_path / "hf")), is_saved=True)
    save_timm_folder(
        loaded.model, tmp_path / "run", class_names=NAMES, preprocessing=preprocessing_of(loaded.model),
        base_model=loaded.name, base_licence=loaded.licence,
    )  # fmt: skip
    again = load_model(str(tmp_path / "run"))
    same(again.model, loaded.model)
    assert preprocessing_of(again.model) == preprocessing_of(loaded.model)


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def shards(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model.safetensors.index.json")


def adapter(folder: Path) -> None:
    no_weights(folder)
    (folder / "config.json").rename(folder / "adapter_config.json")


def changed(**keys: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | keys))

    return change


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (no_weights, ("holds no model.safetensors or pytorch_model.bin",)),
        (shards, ("in several files", "max_shard_size")),
        (adapter, ("holds an adapter of peft", "merge_and_unload")),
        (changed(model_type="swin"), ("is of transformers' 'swin'", "expected one of vit, deit, dinov2")),
        (changed(model_type=["vit"]), ("is of transformers'", "expected one of vit")),
        (changed(num_channels=1), ("num_channels 1", "expected 3")),
        (changed(hidden_act="mish"), ('hidden_act "mish"', "expected one of gelu")),
        (changed(hidden_size="16"), ("cannot be read", "hidden_size")),
        (changed(hidden_size=10**6), ("cannot be built", "embed_dim is 1000000")),
        pytest.param(changed(num_hidden_layers=100_000), ("cannot be built", "tensors"), marks=pytest.mark.slow),
        (changed(hidden_size=64), ("does not fit",)),
        (changed(num_attention_heads=3), ("cannot be built",)),
        (changed(num_hidden_layers=3), ("lacks", "blocks.2.norm1.weight")),
        (changed(num_hidden_layers=1), ("no place for blocks.1.",)),
        (changed(patch_size=8), ("its patch is 4x4 px, expected 8x8",)),
    ],
)
def test_what_cannot_be_opened__is_refused_with_its_path(
    tmp_path: Path, damage: Callable[[Path], None], words: tuple[str, ...]
) -> None:
    folder = written(tmp_path / "hf")
    damage(folder)
    with pytest.raises(ModelError) as caught:
        load_model(str(folder))
    for word in (str(folder), *words):
        assert word in str(caught.value), str(caught.value)


def test_a_folder_of_a_configuration_alone__opens_with_random_weights(tmp_path: Path) -> None:
    folder = written(tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    assert load_model(str(folder), weights="none").report is None
    with pytest.raises(ModelError, match="holds no model.safetensors"):
        load_model(str(folder))


@pytest.mark.parametrize("key", ["vit.encoder.layer.1.weird.weight", "encoder.layer.0.adapter.up.weight"])
def test_unknown_weights_of_its_blocks__are_refused(tmp_path: Path, key: str) -> None:
    folder = written(tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors") | {key: torch.zeros(3)}
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=key):
        load_model(str(folder))


def test_weights__a_folder_without_any(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match=r"empty holds no model\.safetensors .*A run folder is named with --model"):
        load_model("vit_tiny_patch16_224", weights=str(tmp_path / "empty"), model_args={"depth": 1})
