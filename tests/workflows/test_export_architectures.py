"""Every family that users bring goes to ONNX and torch.export and behaves there, or is refused with the reason."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch

from vitctl.models.build import preprocessing_of
from vitctl.models.geometry import geometry_of
from vitctl.models.timm_folder import save_timm_folder

SMALL = {"embed_dim": 64, "depth": 2, "num_heads": 2}
# name -> (timm's name, arguments that make it small, formats of --to all that hold it)
FAMILIES: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "vit_tiny": ("vit_tiny_patch16_224", {"depth": 2}, {"onnx", "timm", "hf", "npz", "pt2"}),
    "vit_tiny_96": ("vit_tiny_patch16_224", {"depth": 2, "img_size": 96}, {"onnx", "timm", "hf", "npz", "pt2"}),
    "rectangular": (
        "vit_tiny_patch16_224",
        {**SMALL, "img_size": (64, 96)},
        {"onnx", "timm", "hf", "npz", "pt2"},
    ),
    "average_pooled": (
        "vit_tiny_patch16_224",
        {**SMALL, "img_size": 64, "class_token": False, "global_pool": "avg", "fc_norm": False},
        {"onnx", "timm", "npz", "pt2"},
    ),
    "deit3": ("deit3_small_patch16_224", {**SMALL, "img_size": 64}, {"onnx", "timm", "pt2"}),
    "deit_distilled": ("deit_tiny_distilled_patch16_224", {**SMALL, "img_size": 64}, {"onnx", "timm", "pt2"}),
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        {**SMALL, "img_size": 56, "num_classes": 5},
        {"onnx", "timm", "pt2"},
    ),
    "siglip": ("vit_base_patch16_siglip_224", {**SMALL, "img_size": 64, "num_classes": 5}, {"onnx", "timm", "pt2"}),
    "eva02": ("eva02_tiny_patch14_224", {**SMALL, "img_size": 56, "num_classes": 5}, {"onnx", "timm", "pt2"}),
    "hybrid": ("vit_tiny_r_s16_p8_224", {**SMALL, "img_size": 64}, {"onnx", "timm", "pt2"}),
    "beitv2": ("beitv2_base_patch16_224", {**SMALL, "img_size": 64}, {"onnx", "timm", "pt2"}),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 4, 8)},
        {"onnx", "timm", "pt2"},
    ),
    "bit": ("resnetv2_50x1_bit", {"num_classes": 5}, {"onnx", "timm", "pt2"}),
    "convnext": ("convnext_atto", {"depths": (1, 1, 1, 1)}, {"onnx", "timm", "pt2"}),
}
DYNAMIC = ("vit_tiny", "deit3", "deit_distilled", "registers", "siglip", "hybrid", "rectangular", "convnext", "bit")


def small_folder(folder: Path, family: str) -> Path:
    name, arguments, _ = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **{"num_classes": 7, **arguments}).eval()
        for parameter in model.parameters():  # fresh LayerScale and zero biases would hide what they do
            if parameter.ndim < 2:
                parameter.data += 0.1 * torch.randn_like(parameter)
    image_size = geometry_of(model).image_size if geometry_of(model).grid else (96, 96)
    preprocessing = preprocessing_of(model).at(image_size)
    names = [f"class {index}" for index in range(model.num_classes)]
    save_timm_folder(
        model, folder, class_names=names, preprocessing=preprocessing, base_model="random", base_licence=None
    )
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_exported_to_what_holds_it(run_cli: Any, tmp_path: Path, image_folder: Path, family: str) -> None:
    folder = small_folder(tmp_path / family, family)
    images = () if family == "vit_tiny" else ("--verify", image_folder)  # the 200 digits once
    result = run_cli("export", folder, "--to", "all", *images, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    report = result.json
    assert {export["format"] for export in report["exports"]} == FAMILIES[family][2]
    assert {one["format"] for one in report["refused"]} == {"onnx", "timm", "hf", "npz", "pt2"} - FAMILIES[family][2]
    for export in report["exports"]:
        assert export["verify"]["passed"], export
        assert export["verify"]["max_abs"] <= 1e-4 * max(1.0, export["verify"]["largest_output"])
        assert export["verify"]["num_images"] == (200 if family == "vit_tiny" else 36)


@pytest.mark.slow
@pytest.mark.parametrize("family", DYNAMIC)
def test_family_takes_other_sizes(run_cli: Any, tmp_path: Path, image_folder: Path, family: str) -> None:
    folder = small_folder(tmp_path / family, family)
    verify = ("--verify", image_folder)
    result = run_cli(
        "export", folder, "--to", "onnx,pt2", "--dynamic-size", *verify, "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.stderr
    for export in result.json["exports"]:
        assert export["verify"]["passed"]
        assert len(export["verify"]["sizes"]) == 2
        assert export["verify"]["max_abs"] <= 1e-4 * max(1.0, export["verify"]["largest_output"])


@pytest.mark.slow
@pytest.mark.parametrize("family", ["beitv2", "swin", "eva02"])
def test_family_of_one_size_refuses_others(run_cli: Any, tmp_path: Path, image_folder: Path, family: str) -> None:
    folder = small_folder(tmp_path / family, family)
    result = run_cli("export", folder, "--to", "onnx", "--dynamic-size", "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert "--dynamic-size" in result.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["vit_tiny", "rectangular", "siglip", "hybrid", "bit"])
def test_family_takes_raw_images(run_cli: Any, tmp_path: Path, image_folder: Path, family: str) -> None:
    folder = small_folder(tmp_path / family, family)
    verify = ("--verify", image_folder)
    result = run_cli(
        "export", folder, "--to", "onnx,pt2", "--embed-preprocess", *verify, "--out", tmp_path / "out", "--json"
    )
    assert result.exit_code == 0, result.stderr
    for export in result.json["exports"]:
        assert export["verify"]["passed"]
        assert export["verify"]["preprocessing_levels_max"] <= 1.001


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
@pytest.mark.parametrize("options", [(), ("--dynamic-size",), ("--embed-preprocess",)])
def test_reduced_precision_works_with_every_form(
    run_cli: Any, tmp_path: Path, image_folder: Path, precision: str, options: tuple[str, ...]
) -> None:
    folder = small_folder(tmp_path / "vit", "vit_tiny_96")
    arguments = ("--precision", precision, "--max-accuracy-drop", 1, "--verify", image_folder, *options)
    result = run_cli("export", folder, *arguments, "--out", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    export = result.json["exports"][0]
    assert export["precision"] == precision
    assert export["files"][0]["bytes"] < 0.75 * export["fp32"]["bytes"]
    assert export["verify"]["preprocessing_levels_max"] <= 1.001
