"""Exports opened again: from their files alone, with the source's answers, names and preprocessing."""

import copy
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting.formats import Exporter, GraphSettings
from vitctl.exporting.opened import (
    OpenedExport,
    open_npz,
    open_onnx,
    open_pt2,
    open_timm,
    open_transformers,
    opset_of,
    run_of_module,
)
from vitctl.exporting.source import Source
from vitctl.results.export import ExportResult
from vitctl.settings.words import EXPORT_FORMATS as FORMATS

SLOW = pytest.mark.slow
OUTPUTS = {"onnx": ["logits", "embedding"], "pt2": ["logits", "embedding"]}  # the others hold the first alone
MAIN_FILE = {
    "onnx": "model.onnx",
    "timm": "model.safetensors",
    "hf": "model.safetensors",
    "npz": "model.npz",
    "pt2": "model.pt2",
}


@pytest.fixture
def moved(good_folder: Path, tmp_path: Path) -> Path:
    """The exports somewhere else, theirs to damage."""
    return Path(shutil.copytree(good_folder, tmp_path / "moved"))


def opened(name: str, folder: Path, source: Source) -> OpenedExport:
    openers: dict[str, Callable[[], OpenedExport]] = {
        "onnx": lambda: open_onnx(folder / "model.onnx"),
        "timm": lambda: open_timm(folder, first_output="logits"),
        "hf": lambda: open_transformers(folder, source, first_output="logits"),
        "npz": lambda: open_npz(folder, source.model, name="small", first_output="logits"),
        "pt2": lambda: open_pt2(folder),
    }
    return openers[name]()


def images(num_images: int) -> Tensor:
    return torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def exporter_of(source: Source) -> Exporter:
    settings = GraphSettings(("logits", "embedding"), is_raw=False, is_size_dynamic=False, opset=18, precision="fp32")
    return Exporter(source, settings, npz_layout="vit_jax")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("num_images", [4, pytest.param(1, marks=SLOW)])
def test_run__gives_the_sources_outputs_by_name(name: str, num_images: int, moved: Path, source: Source) -> None:
    found = opened(name, moved / name, source).run(images(num_images))
    assert list(found) == OUTPUTS.get(name, ["logits"])
    with torch.no_grad():
        np.testing.assert_allclose(found["logits"], source.model(images(num_images)), rtol=0, atol=2e-6)
        if "embedding" in found:
            expected = source.model.forward_head(source.model.forward_features(images(num_images)), pre_logits=True)
            np.testing.assert_allclose(found["embedding"], expected, rtol=0, atol=5e-6)


@pytest.mark.parametrize("name", FORMATS)
def test_files__name_the_classes_and_the_preprocessing(name: str, moved: Path, source: Source) -> None:
    found = opened(name, moved / name, source)
    assert found.class_names == ("cat", "dog", "bird")
    assert found.preprocessing == (None if name == "hf" else source.preprocessing)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 23, 3), dtype=np.uint8))
    expected = EvaluationTransform(source.preprocessing)(image)
    torch.testing.assert_close(found.transform_at((16, 16))(image), expected, rtol=0, atol=1e-5)
    if name != "hf":
        other = EvaluationTransform(source.preprocessing.at((20, 12)))(image)
        assert torch.equal(found.transform_at((20, 12))(image), other)


def test_npz__is_filled_from_its_file_and_not_from_the_model_given(moved: Path, source: Source) -> None:
    stranger = copy.deepcopy(source.model)
    for parameter in stranger.parameters():
        parameter.data.zero_()
    found = open_npz(moved / "npz", stranger, name="small", first_output="logits").run(images(2))["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(found, source.model(images(2)), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("share", [0.5, pytest.param(0.0, marks=SLOW), pytest.param(0.99, marks=SLOW)])
def test_truncated__main_file_is_a_sentence(name: str, share: float, moved: Path, source: Source) -> None:
    path = moved / name / MAIN_FILE[name]
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    with pytest.raises(ModelError) as caught:
        exporter_of(source).open(name, moved / name)
    assert str(caught.value).startswith(f"The {name} export of small cannot be read back (")
    assert str(caught.value).endswith("); nothing was written.")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "file"),
    [("timm", "config.json"), ("hf", "config.json"), ("hf", "preprocessor_config.json"), ("npz", "vitctl.json")],
)
@pytest.mark.parametrize("damage", ["half", pytest.param("empty", marks=SLOW), pytest.param("gone", marks=SLOW)])
def test_damaged__settings_are_a_sentence(name: str, file: str, damage: str, moved: Path, source: Source) -> None:
    path = moved / name / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "half" else b"")
    with pytest.raises(ModelError, match=f"The {name} export of small cannot be read back"):
        exporter_of(source).open(name, moved / name)


def test_open__does_not_touch_the_files(moved: Path, source: Source) -> None:
    before = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    for name in FORMATS:
        exporter_of(source).open(name, moved / name)
    assert {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == before


def test_opset__is_the_files(good_folder: Path, good_exports: ExportResult) -> None:
    import onnx

    model = onnx.load(str(good_folder / "onnx" / "model.onnx"))
    assert opset_of(good_folder / "onnx" / "model.onnx") == 18
    assert [entry.version for entry in model.opset_import if entry.domain == ""] == [18]
    assert {one.format: one.opset for one in good_exports.exports} == dict.fromkeys(FORMATS) | {"onnx": 18}


def test_run_of_module__takes_a_tensor_or_a_tuple_and_as_many_names() -> None:
    class Two(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image + 1, image * 2

    batch = images(1)
    (single,) = run_of_module(nn.ReLU(), ("logits",))(batch).values()
    np.testing.assert_array_equal(single, batch.numpy().clip(min=0))
    pair = run_of_module(Two(), ("a", "b"))(batch)
    np.testing.assert_array_equal(pair["b"], batch.numpy() * 2)
    with pytest.raises(ValueError, match="zip"):
        run_of_module(Two(), ("a",))(batch)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({}, ((16, 16),)),
        ({"is_size_dynamic": True}, ((16, 16), (20, 12))),
    ],
)
def test_exporter__verifies_at_its_own_size_and_where_sizes_vary_at_another(
    source: Source, changes: dict[str, Any], sizes: tuple[tuple[int, int], ...]
) -> None:
    exporter = exporter_of(source)
    exporter.settings = replace(exporter.settings, **changes)
    assert exporter.sizes == sizes
