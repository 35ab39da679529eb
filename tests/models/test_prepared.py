"""A model at the size it is used at: pretrained weights are resampled, random ones are drawn at it."""

import pytest
import timm
import torch

from vitctl.errors import SettingError
from vitctl.models.geometry import geometry_of
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing


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
