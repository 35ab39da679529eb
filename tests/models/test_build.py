"""From the words --model and --weights to a model: names, folders, seeds, heads, and the ways out of a failure."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vitctl.errors import ModelError
from vitctl.models.build import classifiers, load_model, preprocessing_of, replace_head
from vitctl.models.geometry import geometry_of
from vitctl.models.named import check_model_name, model_folder
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.words import DEMO

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def small_vit(name: str = "vit_tiny_patch16_224", **changes: object) -> nn.Module:
    import timm

    model: nn.Module = timm.create_model(name, **(SMALL | changes))
    return model.eval()


def logits_of(model: nn.Module, side: int = 16) -> torch.Tensor:
    with torch.no_grad():
        images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        logits: torch.Tensor = model.eval()(images)
    return logits


# What a name stands for


def test_demo__loads_with_its_classes_and_preprocessing() -> None:
    loaded = load_model(DEMO)
    geometry = geometry_of(loaded.model)
    assert (loaded.name, len(loaded.class_names or ())) == ("demo", 10)
    assert geometry.image_size == preprocessing_of(loaded.model).image_size
    assert logits_of(loaded.model, geometry.image_size[0]).shape == (2, 10)
    assert loaded.report is not None
    assert loaded.report.num_loaded == len(loaded.model.state_dict())


def test_demo__weights_are_trained() -> None:
    loaded = load_model(DEMO)
    assert float(loaded.model.get_parameter("head.bias").detach().abs().max()) > 0


def test_folder__loads_its_weights_and_names(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder))
    assert loaded.class_names == ("red", "green", "blue")
    assert loaded.name == str(tiny_model_folder)
    assert loaded.licence is None
    again = load_model(str(tiny_model_folder), seed=1)
    assert torch.equal(logits_of(loaded.model), logits_of(again.model))


def test_folder_and_file__whose_names_are_not_utf_8(tiny_model_folder: Path, tmp_path: Path) -> None:
    """safetensors refuses such a path; the text of the name is kept all the same."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / os.fsdecode(b"m\xff"))
    file = shutil.copy(folder / "model.safetensors", tmp_path / os.fsdecode(b"w\xff.safetensors"))
    expected = logits_of(load_model(str(tiny_model_folder)).model)
    found = load_model(str(folder))
    assert found.name == str(folder)
    assert torch.equal(logits_of(found.model), expected)
    assert torch.equal(logits_of(load_model(str(folder), weights=str(file)).model), expected)
    assert load_model(str(folder), weights="none").report is None


def test_run_folder__stands_for_its_best(tiny_model_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"vitctl": "0.1.0", "model": "demo"}')
    shutil.copytree(tiny_model_folder, run / "last")
    assert model_folder(str(run)) == run / "last"
    shutil.copytree(tiny_model_folder, run / "best")
    assert model_folder(str(run)) == run / "best"
    assert load_model(str(run)).name == str(run / "best")


def test_relative_folder__is_made_absolute(tiny_model_folder: Path) -> None:
    shutil.copytree(tiny_model_folder, "here")  # the working folder is this test's own
    assert model_folder("here") == Path.cwd() / "here"


def test_run_folder__without_weights_says_how_to_go_on(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"vitctl": "0.1.0"}')
    assert model_folder(str(tmp_path)) is None
    with pytest.raises(ModelError, match="stopped before it had weights to use; .* vitctl finetune --resume"):
        load_model(str(tmp_path))


@pytest.mark.parametrize("config", ["", "[]", "3"])
def test_folder__without_an_architecture_is_no_model(tmp_path: Path, config: str) -> None:
    (tmp_path / "config.json").write_text(config)
    assert model_folder(str(tmp_path)) is None
    with pytest.raises(ModelError, match="no model.*expected.*run folder.*config.json"):
        load_model(str(tmp_path))


def test_folder__without_weights_asks_for_them(tiny_model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_folder / "config.json", tmp_path / "config.json")
    with pytest.raises(ModelError, match=r"has a config\.json but no model\.safetensors; --weights FILE"):
        load_model(str(tmp_path))


def test_folder__without_weights_takes_a_file_or_none(tiny_model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(tiny_model_folder / "config.json", tmp_path / "config.json")
    file = load_model(str(tmp_path), weights=str(tiny_model_folder / "model.safetensors"))
    assert torch.equal(logits_of(file.model), logits_of(load_model(str(tiny_model_folder)).model))
    assert load_model(str(tmp_path), weights="none").report is None


def test_folder__whose_weights_do_not_fit_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    config["model_args"]["embed_dim"] = 32
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"The weights in .* do not fit its config\.json"):
        load_model(str(folder))


def test_folder__with_truncated_weights_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "m"))
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:100])
    with pytest.raises(ModelError, match="model.safetensors is damaged"):
        load_model(str(folder))


@pytest.mark.parametrize("key", ["blocks.1.mlp.fc1.weight", "head.weight", "norm.bias"])
def test_folder__with_weights_that_lack_a_tensor_is_refused(tiny_model_folder: Path, tmp_path: Path, key: str) -> None:
    """timm says so itself, but not where it leaves the head out."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "m"))
    tensors = load_file(folder / "model.safetensors")
    del tensors[key]
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(ModelError, match=key):
        load_model(str(folder))


def test_folder__that_says_two_numbers_of_classes_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    """timm would leave the head out, and load what else is there without a look at what is not."""
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    own = config["num_classes"]
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = own + 3
    config["model_args"] = {**config.get("model_args", {}), "num_classes": own}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=rf"config\.json says {own + 3} classes, and {own} among the arguments"):
        load_model(str(folder))


@pytest.mark.parametrize("name", ["vit_tiny_patch16_22", "vit_tinny_patch16_224.augreg_in21k"])
def test_unknown_name__gives_near_matches(name: str) -> None:
    with pytest.raises(ModelError, match=r"Did you mean .*'vit_tiny_patch16_224'.*'vitctl models PATTERN'"):
        check_model_name(name)


def test_unknown_name__the_demo_is_among_the_near_matches() -> None:
    with pytest.raises(ModelError, match="Did you mean 'demo'"):
        check_model_name("demmo")


def test_unknown_tag__lists_those_there_are() -> None:
    with pytest.raises(
        ModelError, match=r"no weights 'augreg_in21' for vit_tiny_patch16_224\. Did you mean 'augreg_in21k'.*It has: "
    ):
        check_model_name("vit_tiny_patch16_224.augreg_in21")


def test_known_names__pass() -> None:
    for name in ("vit_tiny_patch16_224", "vit_tiny_patch16_224.augreg_in21k", "hf-hub:owner/name"):
        check_model_name(name)


def test_path_that_is_not_there__is_no_model() -> None:
    with pytest.raises(ModelError, match="runs/nothing"):
        load_model("runs/nothing")


@pytest.mark.parametrize("name", ["test_vit.r160_in1k", "hf-hub:nobody/nothing"])
def test_hub_unreachable__says_so_in_one_line_with_both_ways_out(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # nothing is cached there
    with pytest.raises(ModelError) as refusal:
        load_model(name)
    sentence = str(refusal.value)
    assert sentence.startswith(f"The pretrained weights of {name} could not be fetched (")
    assert "$HF_HOME" in sentence  # run it once where there is a network
    assert "--weights FILE" in sentence  # or bring the file
    assert "\n" not in sentence


def test_architecture_without_published_weights__is_refused_before_any_download() -> None:
    with pytest.raises(ModelError, match=r"No pretrained weights of vit_small_patch16_36x1_224 are published"):
        load_model("vit_small_patch16_36x1_224")


# Random weights


def test_weights_none__depends_on_the_seed_alone(tiny_model_folder: Path) -> None:
    spec = str(tiny_model_folder)
    first = load_model(spec, weights="none", seed=1)
    torch.manual_seed(5)  # what was drawn before must not matter
    again = load_model(spec, weights="none", seed=1)
    other = load_model(spec, weights="none", seed=2)
    assert torch.equal(logits_of(first.model), logits_of(again.model))
    assert not torch.equal(logits_of(first.model), logits_of(other.model))
    assert (first.report, first.class_names) == (None, None)


def test_loading__leaves_torchs_random_numbers_alone(tiny_model_folder: Path) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(str(tiny_model_folder), weights="none", seed=1)
    assert torch.equal(torch.rand(3), expected)


def test_weights_none__is_built_at_the_size_asked_for(tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder), weights="none", image_size=(24, 16))
    assert geometry_of(loaded.model).image_size == (24, 16)


# Class names


def test_class_names__of_a_file_are_not_those_of_the_folder(tiny_model_folder: Path) -> None:
    weights = tiny_model_folder / "model.safetensors"
    assert load_model(str(tiny_model_folder), weights=str(weights)).class_names is None


def test_class_names__of_imagenet_are_known_with_descriptions(tmp_path: Path) -> None:
    import timm
    from safetensors.torch import save_file

    model = timm.create_model("test_vit", num_classes=1000)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    loaded = load_model("test_vit", weights=str(tmp_path / "w.safetensors"))
    assert loaded.class_names is not None
    assert (len(loaded.class_names), loaded.class_names[0]) == (1000, "n01440764")
    assert loaded.class_descriptions["n01440764"].startswith("tench")


def test_class_names__are_numbers_where_they_are_not_known(tiny_model_folder: Path) -> None:
    classifier = open_model(str(tiny_model_folder), weights=str(tiny_model_folder / "model.safetensors"))
    assert classifier.class_names == ("0", "1", "2")


# Classifiers


def test_classifier__is_in_evaluation_mode_with_the_folders_preprocessing(tiny_model_folder: Path) -> None:
    classifier = open_model(str(tiny_model_folder))
    assert not classifier.loaded.model.training
    assert classifier.class_names == ("red", "green", "blue")
    assert classifier.preprocessing.image_size == (16, 16)
    assert classifier.preprocessing.crop_pct == 1.0


def test_classifier__takes_the_size_of_the_files_grid(tiny_model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(small_vit(img_size=32).state_dict(), tmp_path / "w.safetensors")
    classifier = open_model(str(tiny_model_folder), weights=str(tmp_path / "w.safetensors"))
    assert classifier.preprocessing.image_size == (32, 32)


def test_classifier__of_a_file_without_a_head_is_refused(tiny_model_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    state = {key: value for key, value in small_vit().state_dict().items() if not key.startswith("head.")}
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="has no classifier.*vitctl finetune --model"):
        _ = open_model(str(tiny_model_folder), weights=str(tmp_path / "w.safetensors")).class_names


def test_classifier__of_a_model_without_outputs_is_refused(tmp_path: Path) -> None:
    model = small_vit(num_classes=0)
    save_timm_folder(
        model,
        tmp_path / "m",
        class_names=[],
        preprocessing=Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3),
        base_model="none",
        base_licence=None,
    )
    with pytest.raises(ModelError, match="has no classifier"):
        _ = open_model(str(tmp_path / "m")).class_names


# Heads


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_distilled_patch16_224"])
def test_replace_head__zero_gives_equal_probabilities(name: str) -> None:
    model = small_vit(name)
    replace_head(model, 7, method="zero", seed=0)
    assert torch.equal(logits_of(model).softmax(dim=1), torch.full((2, 7), 1 / 7))
    assert len(classifiers(model)) == (2 if "distilled" in name else 1)


@pytest.mark.parametrize(
    ("name", "num_layers"),
    [("test_resnet", 1), ("test_convnext", 1), ("test_efficientnet", 1), ("test_byobnet", 1), ("test_nfnet", 1),
     ("test_mambaout", 1), ("dla46_c", 1), ("levit_128s", 2), ("caformer_s18", 1)],
)  # fmt: skip
def test_replace_head__zero_works_for_every_kind_of_head(name: str, num_layers: int) -> None:
    """DLA's is a 1x1 convolution, LeViT has two, each behind a norm, CAFormer's has a hidden layer; all can learn."""
    import timm

    model = timm.create_model(name).eval()
    replace_head(model, 7, method="zero", seed=0)
    size = geometry_of(model).image_size if name == "levit_128s" else (64, 64)  # LeViT takes no other
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(model(images), torch.zeros(2, 7))
    assert len(classifiers(model)) == num_layers
    model(images).sum().backward()
    gradients = [layer.weight.grad for layer in classifiers(model)]
    assert all(gradient is not None and float(gradient.abs().max()) > 0 for gradient in gradients)


def test_replace_head__random_depends_on_the_seed_alone() -> None:
    def head(seed: int) -> torch.Tensor:
        model = small_vit()
        replace_head(model, 7, method="random", seed=seed)
        return model.get_parameter("head.weight").detach()

    assert head(0).shape == (7, 16)
    assert torch.equal(head(0), head(0))
    assert not torch.equal(head(0), head(1))
    assert float(head(0).abs().max()) > 0


def test_replace_head__leaves_the_rest() -> None:
    model = small_vit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    replace_head(model, 3, method="zero", seed=0)
    changed = [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])]
    assert changed == ["head.weight"]  # timm's bias was zero before
