"""The folders vitctl writes: timm and transformers open them unchanged, and they claim nothing untrue."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitctl.models.geometry import change_resolution
from vitctl.models.timm_folder import reconstruction_of, save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
NAMES = ["red", "green", "blue"]


def build(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **(SMALL | changes))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def save(model: nn.Module, folder: Path, image_size: tuple[int, int] = (16, 16), **changes: Any) -> Path:
    preprocessing = Preprocessing(image_size, "bilinear", 0.9, "squash", (0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    identity = {"class_names": NAMES, "base_model": "vit_tiny_patch16_224.augreg_in21k", "base_licence": "apache-2.0"}
    save_timm_folder(model, folder, preprocessing=preprocessing, **(identity | changes))
    return folder


def reopen(folder: Path) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(f"local-dir:{folder}", pretrained=True)
    return model.eval()


def logits_of(model: nn.Module, image_size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0)))
    return logits


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return document


@pytest.mark.parametrize(
    "name",
    ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224",
     "vit_small_patch14_reg4_dinov2", "vit_base_patch16_siglip_224", "eva02_tiny_patch14_224",
     "vit_relpos_small_patch16_224"],
)  # fmt: skip
@pytest.mark.parametrize("image_size", [(16, 16), (24, 24), (24, 12), (8, 32)])
def test_timm__opens_the_folder_with_the_same_logits(name: str, image_size: tuple[int, int], tmp_path: Path) -> None:
    model = build(name)
    change_resolution(model, image_size, method="paper", name=name)
    folder = save(model, tmp_path / "m", image_size)
    assert torch.equal(logits_of(reopen(folder), image_size), logits_of(model, image_size))


def test_timm__built_at_a_rectangle_with_equal_tokens_opens_the_same(tmp_path: Path) -> None:
    model = build(img_size=(8, 32))
    folder = save(model, tmp_path / "m", (8, 32))
    assert torch.equal(logits_of(reopen(folder), (8, 32)), logits_of(model, (8, 32)))


def test_timm__opens_a_hybrid_at_a_rectangle_with_the_same_logits(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, embed_dim=16, depth=1, num_heads=2, num_classes=3)
    change_resolution(model.eval(), (96, 32), method="paper", name="hybrid")
    folder = save(model, tmp_path / "m", (96, 32))
    assert torch.equal(logits_of(reopen(folder), (96, 32)), logits_of(model, (96, 32)))


def test_timm__knows_the_preprocessing_and_the_class_names(tmp_path: Path) -> None:
    from timm.data import resolve_data_config

    model = reopen(save(build(), tmp_path / "m"))
    config = resolve_data_config({}, model=model)
    assert config["input_size"] == (3, 16, 16)
    assert (config["interpolation"], config["crop_pct"], config["crop_mode"]) == ("bilinear", 0.9, "squash")
    assert (tuple(config["mean"]), tuple(config["std"])) == ((0.4, 0.5, 0.6), (0.1, 0.2, 0.3))
    assert model.num_classes == 3
    assert model.pretrained_cfg["label_names"] == NAMES  # type: ignore[index,operator]  # timm's dictionary


@pytest.mark.parametrize("image_size", [(16, 16), (24, 12)])
def test_transformers__opens_the_folder_with_the_same_logits(image_size: tuple[int, int], tmp_path: Path) -> None:
    from transformers import TimmWrapperForImageClassification

    model = build()
    change_resolution(model, image_size, method="paper", name="tiny")
    folder = save(model, tmp_path / "m", image_size)
    wrapped = TimmWrapperForImageClassification.from_pretrained(folder).eval()
    images = torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = wrapped(pixel_values=images).logits
    assert torch.equal(logits, logits_of(model, image_size))
    assert wrapped.config.id2label == dict(enumerate(NAMES))


def test_config__names_the_number_of_classes_once(tmp_path: Path) -> None:
    config = config_of(save(build(), tmp_path / "m"))
    assert config["num_classes"] == 3
    assert "num_classes" not in config["model_args"]  # transformers refuses it there
    assert config["label_names"] == NAMES


def test_config__does_not_claim_what_belongs_to_the_pretrained_weights(tmp_path: Path) -> None:
    import timm

    model = timm.create_model("vit_tiny_patch16_224.augreg_in21k", **SMALL)
    assert model.pretrained_cfg["license"] == "apache-2.0"
    assert model.pretrained_cfg["tag"] == "augreg_in21k"
    config = config_of(save(model, tmp_path / "m"))
    assert config["pretrained_cfg"]["tag"] == "vitctl"
    assert "license" not in config["pretrained_cfg"]
    assert not {"hf_hub_id", "url", "paper_ids", "paper_name", "origin_url"} & set(config["pretrained_cfg"])
    assert config["base_model"] == {"name": "vit_tiny_patch16_224.augreg_in21k", "license": "apache-2.0"}


def test_files__can_be_read_by_others(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        folder = save(build(), tmp_path / "m")
    finally:
        os.umask(mask)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o044 == 0o044, path.name


def test_saving__leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = build()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    save(model, tmp_path / "m", dtype=torch.bfloat16)
    for key, value in model.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, before[key])


def test_saving__in_half_precision_halves_the_file(tmp_path: Path) -> None:
    model = build(embed_dim=64)
    full = save(model, tmp_path / "full") / "model.safetensors"
    half = save(model, tmp_path / "half", dtype=torch.float16) / "model.safetensors"
    assert half.stat().st_size < 0.6 * full.stat().st_size
    torch.testing.assert_close(
        logits_of(reopen(tmp_path / "half").float(), (16, 16)), logits_of(model, (16, 16)), rtol=0.02, atol=0.05
    )


def test_saving__replaces_an_older_folder_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    folder = save(build(), tmp_path / "m")
    (folder / "stale.txt").write_text("old")
    save(build(num_classes=2), folder, class_names=["a", "b"])
    assert config_of(folder)["label_names"] == ["a", "b"]
    assert [path.name for path in tmp_path.iterdir()] == ["m"]
    assert not (folder / "stale.txt").exists()


def test_saving__that_fails_leaves_the_older_folder(tmp_path: Path) -> None:
    folder = save(build(), tmp_path / "m")
    before = (folder / "model.safetensors").read_bytes()
    with pytest.raises(TypeError):
        save(build(num_classes=2), folder, base_licence=object())
    assert (folder / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_class_names__are_kept_letter_for_letter(tmp_path: Path) -> None:
    names = ["Bücher & 花", "a/b", " "]
    folder = save(build(), tmp_path / "m", class_names=names)
    assert config_of(folder)["label_names"] == names
    assert list(reopen(folder).pretrained_cfg["label_names"]) == names  # type: ignore[index,operator,arg-type]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("vit_tiny_patch16_224", {}),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg", "fc_norm": False, "qkv_bias": False}),
        ("vit_small_patch14_reg4_dinov2", {}),
        ("deit3_small_patch16_224", {}),
        ("vit_base_patch16_siglip_224", {}),
        ("eva02_tiny_patch14_224", {}),
    ],
)
@pytest.mark.parametrize("image_size", [(16, 16), (24, 12)])
def test_reconstruction__with_timm_alone_gives_a_model_that_takes_the_weights(
    name: str, changes: dict[str, Any], image_size: tuple[int, int]
) -> None:
    import timm

    model = build(name, **changes)
    change_resolution(model, image_size, method="paper", name=name)
    architecture, arguments = reconstruction_of(model)
    assert architecture == name
    assert "num_classes" not in arguments
    rebuilt = timm.create_model(architecture, **arguments, num_classes=3).eval()
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(rebuilt, image_size), logits_of(model, image_size))


def test_reconstruction__survives_a_folder_and_a_change_of_classes(tmp_path: Path) -> None:
    import timm

    model: Any = reopen(save(build(), tmp_path / "m"))
    before = reconstruction_of(model)
    model.reset_classifier(5)
    assert reconstruction_of(model) == before
    architecture, arguments = before
    assert architecture == "vit_tiny_patch16_224"
    rebuilt = timm.create_model(architecture, **arguments, num_classes=5).eval()
    rebuilt.load_state_dict(model.state_dict())
    assert torch.equal(logits_of(rebuilt, (16, 16)), logits_of(model, (16, 16)))


def test_reconstruction__is_plain_python_that_can_be_written_down(tmp_path: Path) -> None:
    model = build()
    change_resolution(model, (24, 12), method="paper", name="tiny")
    _, arguments = reconstruction_of(model)
    assert eval(repr(arguments)) == arguments  # as a card's lines of Python have it
    assert json.loads(json.dumps(arguments)) is not None
