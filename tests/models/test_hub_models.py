"""Models of the hub, in a cache as its client leaves it: looked at before they are built, as folders are."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from vitctl.errors import ModelError
from vitctl.models import budget
from vitctl.models.build import load_model
from vitctl.models.prepared import open_model

SPEC = "hf-hub:someone/tiny"
Publish = Callable[..., Path]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model_folder: Path) -> Publish:
    """Put the tiny model into the hub's cache, with changes, and return the folder of its snapshot."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    repository = tmp_path / "hub" / "models--someone--tiny"

    def make(*, arguments: dict[str, Any] | None = None, num_classes: int = 3, **extra: torch.Tensor) -> Path:
        snapshot = repository / "snapshots" / ("0" * 40)
        shutil.copytree(tiny_model_folder, snapshot, dirs_exist_ok=True)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / "main").write_text("0" * 40)
        config = json.loads((snapshot / "config.json").read_text())
        config["model_args"] |= arguments or {}
        if num_classes != 3:
            config["model_args"]["num_classes"], config["pretrained_cfg"]["num_classes"] = 3, num_classes
            config.pop("num_classes", None)
        (snapshot / "config.json").write_text(json.dumps(config))
        save_file(load_file(snapshot / "model.safetensors") | extra, snapshot / "model.safetensors")
        return snapshot

    return make


def test_a_model_of_the_hub__is_that_of_the_folder(publish: Publish, tiny_model_folder: Path) -> None:
    publish()
    found, expected = open_model(SPEC), open_model(str(tiny_model_folder))
    assert (found.name, found.class_names, found.notes) == (SPEC, expected.class_names, ())
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert found.model(images).equal(expected.model(images))
        assert found.model(images).equal(timm.create_model(SPEC, pretrained=True).eval()(images))


def test_a_pickle_in_the_place_of_safetensors__is_read_too(publish: Publish, tiny_model_folder: Path) -> None:
    weights = publish() / "model.safetensors"
    torch.save(load_file(weights), weights.with_name("pytorch_model.bin"))
    weights.unlink()
    images = torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert open_model(SPEC).model(images).equal(open_model(str(tiny_model_folder)).model(images))


@pytest.mark.parametrize("weights", ["pretrained", "none"])
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"depth": 10**9}, r"model_args\.depth is 1000000000; expected at most 131,072"),
        ({"embed_dim": 120_000}, r"it has [\d.]+ \w parameters or more, for which|it takes [\d.]+ \wiB of memory"),
    ],
)
def test_too_large_to_be_true__is_refused_before_it_is_built(
    publish: Publish, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], said: str, weights: str
) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda: 2**33)
    monkeypatch.setattr(budget, "SPARE_PARAMETERS", 2**20)
    publish(arguments=arguments)
    with pytest.raises(ModelError, match=f"^{SPEC} cannot be built: ({said})"):
        load_model(SPEC, weights=weights)


def test_a_model_that_cannot_work__is_refused(publish: Publish) -> None:
    publish(arguments={"global_pool": ""})
    with pytest.raises(ModelError, match=r"gives \(1, 17, 3\) for an image, not \(1, 3\)"):
        load_model(SPEC)


@pytest.mark.parametrize("num_classes", [3, 5])  # of others than the config's, timm passes over what has no place
def test_weights_of_blocks_without_a_place__are_refused_by_name(publish: Publish, num_classes: int) -> None:
    publish(num_classes=num_classes, **{"blocks.2.norm1.weight": torch.ones(16)})
    with pytest.raises(ModelError, match=r"fit.*blocks\.2\.norm1\.weight"):
        load_model(SPEC)


def test_a_folders_unused_blocks__are_refused_where_timm_passes_over_them(publish: Publish) -> None:
    snapshot = publish(num_classes=5, **{"blocks.2.norm1.weight": torch.ones(16)})
    with pytest.raises(ModelError, match=r"has no place for blocks\.2\.norm1\.weight"):
        load_model(str(snapshot))


def test_what_else_is_not_used__is_told(publish: Publish) -> None:
    publish(**{"pre_logits.fc.bias": torch.ones(16)})
    assert open_model(SPEC).notes == ("1 entry of someone/tiny is not used: pre_logits.fc.bias.",)


def test_damaged_weights__are_said_to_be_damaged(publish: Publish) -> None:
    weights = publish() / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        load_model(SPEC)


def test_without_a_network__the_configuration_alone_is_asked_for(publish: Publish) -> None:
    with pytest.raises(ModelError, match=r"^The configuration of hf-hub:someone/other is not in the hub's cache"):
        load_model("hf-hub:someone/other", weights="none")
