"""A model at the size it is used at: pretrained weights are resampled, random ones are drawn at it."""

import shutil
from pathlib import Path

import pytest
import timm
import torch

from vitctl.errors import SettingError
from vitctl.exporting.npz import write_npz
from vitctl.models.geometry import geometry_of
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.decision import Decision
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings import words


@pytest.fixture(scope="module")
def undivided(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A timm folder whose patch (8 px) does not divide its own size (30 px)."""
    folder = tmp_path_factory.mktemp("models") / "undivided"
    save_timm_folder(
        timm.create_model(
            "vit_base_patch16_siglip_224", img_size=30, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=2
        ),
        folder,
        class_names=["a", "b"],
        preprocessing=Preprocessing((30, 30), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3),
        base_model="random",
        base_licence=None,
    )
    return str(folder)


@pytest.mark.parametrize("weights", ["pretrained", "none"])
def test_open_model(undivided: str, weights: str) -> None:
    own = open_model(undivided, weights=weights).model
    given = open_model(undivided, weights=weights, image_size=(30, 30)).model
    assert geometry_of(own).image_size == geometry_of(given).image_size == (30, 30)
    for key, value in own.state_dict().items():
        assert torch.equal(given.state_dict()[key], value)
    larger = open_model(undivided, weights=weights, image_size=(32, 48)).model
    assert geometry_of(larger).grid == (4, 6)
    with pytest.raises(SettingError, match="--image-size 31 is not a multiple"):
        open_model(undivided, weights=weights, image_size=(31, 31))


def test_at__says_what_it_did_and_how(tiny_model_folder: Path) -> None:
    opened = open_model(str(tiny_model_folder))
    assert (opened.image_size, opened.preprocessing.image_size) == ((16, 16), (16, 16))
    assert not opened.model.training
    larger = opened.at((24, 12), interpolation=Decision("paper", "because"))
    assert (larger.image_size, larger.preprocessing.image_size) == ((24, 12), (24, 12))
    assert larger.interpolation == ("paper", "because")
    assert larger.resolution is not None
    assert (larger.resolution.before.grid, larger.resolution.after.grid) == ((4, 4), (6, 3))
    assert larger.class_names == ("red", "green", "blue")


def test_random_weights__at_a_size_are_those_built_there(tiny_model_folder: Path) -> None:
    later = open_model(str(tiny_model_folder), weights="none", seed=3).at((24, 12))
    built = open_model(str(tiny_model_folder), weights="none", image_size=(24, 12), seed=3)
    assert later.resolution is built.resolution is None
    for key, value in built.model.state_dict().items():
        assert torch.equal(later.model.state_dict()[key], value)


def test_interpolation__follows_the_weights_unless_told(tiny_model_folder: Path, tmp_path: Path) -> None:
    spec, weights = str(tiny_model_folder), str(tmp_path / "w.npz")
    write_npz(open_model(spec).model, tmp_path / "w.npz", layout="vit_jax", name="tiny")
    own, told = open_model(spec, weights=weights), open_model(spec, weights=weights, interpolation="bicubic")
    assert [open_model(spec).interpolation.value, own.interpolation.value, told.interpolation.value] == [
        words.DEFAULT_INTERPOLATION,
        "paper",
        "bicubic",
    ]
    tables = [opened.at((24, 24)).model.pos_embed for opened in (open_model(spec), own, told)]
    assert not torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[1], tables[2])


def test_notes__of_a_run_that_was_stopped(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(tiny_model_folder, run / "last")
    assert open_model(str(run)).notes == ()  # no run of vitctl
    (run / "config.json").write_text('{"vitctl": "0.1.0"}')
    assert open_model(str(run)).notes == (f"{run} was stopped before its end: these are the weights of its last/.",)
    assert open_model(str(run / "last")).notes == ()


def test_notes__of_a_grid_that_takes_minutes(undivided: str) -> None:
    opened = open_model(undivided)
    assert opened.notes == ()
    fine = opened.at((1024, 1024))
    assert fine.notes == ()  # 128x128
    finer = opened.at((1040, 1040))
    assert finer.notes == (
        f"{opened.name} cuts an image into 130x130 patches and compares every one with every other: expect minutes an "
        "image without a GPU.",
    )
