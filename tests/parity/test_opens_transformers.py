"""Folders that transformers wrote, opened by vitctl: transformers' own logits and features are the second opinion."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.models.build import load_model
from vitctl.models.prepared import open_model

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.slow  # transformers takes seconds to import; tests/exporting has one that runs by default

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 24, "patch_size": 4}
MLP = {"intermediate_size": 40}
NAMES = {0: "red", 1: "green", 2: "blue"}
LABELS = {"id2label": NAMES, "label2id": {name: index for index, name in NAMES.items()}}
# kind -> class, its configuration, what of it is compared
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", LABELS | MLP),
    "vit, eps": (
        "ViTForImageClassification",
        "ViTConfig",
        LABELS | MLP | {"layer_norm_eps": 0.1, "hidden_act": "gelu_new"},
    ),
    "vit, rectangle": (
        "ViTForImageClassification",
        "ViTConfig",
        LABELS | MLP | {"image_size": (16, 24), "qkv_bias": False},
    ),
    "vit, features": ("ViTModel", "ViTConfig", MLP),
    "deit": ("DeiTForImageClassification", "DeiTConfig", LABELS | MLP),
    "deit, teacher": ("DeiTForImageClassificationWithTeacher", "DeiTConfig", LABELS | MLP),
    "deit, features": ("DeiTModel", "DeiTConfig", MLP),
    "dinov2": ("Dinov2Model", "Dinov2Config", {}),
    "dinov2, swiglu": ("Dinov2Model", "Dinov2Config", {"use_swiglu_ffn": True, "mlp_ratio": 4}),
    "dinov2, head": ("Dinov2ForImageClassification", "Dinov2Config", LABELS),
    "dinov2, registers": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig", {"num_register_tokens": 3}),
}


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Any]]:
    """Return ``folder_of(KIND)``: a folder that transformers wrote, and the model it wrote. Not to be changed."""
    made: dict[str, tuple[Path, Any]] = {}

    def folder_of(kind: str) -> tuple[Path, Any]:
        if kind not in made:
            name, config, changes = KINDS[kind]
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                model = getattr(transformers, name)(getattr(transformers, config)(**(TINY | changes))).eval()
                for parameter in model.parameters():
                    nn.init.normal_(parameter, std=0.4)
            folder = tmp_path_factory.mktemp("transformers") / "model"
            model.save_pretrained(folder)
            transformers.ViTImageProcessor(size={"height": 24, "width": 24}).save_pretrained(folder)
            made[kind] = folder, model
        return made[kind]

    return folder_of


def images_for(model: nn.Module) -> Tensor:
    size = model.patch_embed.img_size  # type: ignore[union-attr]
    return torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))  # type: ignore[misc]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_folder__gives_transformers_logits_or_features(kind: str, folder_of: Callable[..., Any]) -> None:
    folder, theirs = folder_of(kind)
    loaded = load_model(str(folder))
    ours: Any = loaded.model.eval()
    images = images_for(ours)
    outputs = theirs(images)
    if "features" in kind or kind.startswith("dinov2"):
        base = theirs.base_model if kind == "dinov2, head" else theirs
        found, expected = ours.forward_features(images), base(images).last_hidden_state
        assert loaded.num_classes == 0
    else:
        found, expected = ours(images), outputs.logits
        assert loaded.class_names == ("red", "green", "blue")
    assert expected.abs().max() > 0.5
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_head_of_dinov2__is_left_out_and_said(folder_of: Callable[..., Any]) -> None:
    opened = open_model(str(folder_of("dinov2, head")[0]))
    assert any("the head of Dinov2ForImageClassification was left out" in note for note in opened.notes)
    with pytest.raises(ModelError, match="has no classifier: the head of Dinov2ForImageClassification was left out"):
        assert opened.class_names


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("vit", "vit_tiny_patch16_224"),
        ("dinov2, registers", "vit_small_patch14_reg4_dinov2"),
        ("deit, teacher", "deit_tiny_distilled_patch16_224"),
    ],
)
@torch.no_grad()
def test_as_weights_of_timms_model(kind: str, name: str, folder_of: Callable[..., Any]) -> None:
    """timm's eps is 1e-6, which of numbers of this size is seen from the sixth digit on."""
    folder, _ = folder_of(kind)
    arguments: dict[str, Any] = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
    arguments |= {"mlp_ratio": 2.5} if "dino" not in kind else {}
    arguments |= {"reg_tokens": 3} if "registers" in kind else {}
    own = load_model(str(folder)).model.eval()
    for path in (folder, folder / "model.safetensors"):
        loaded = load_model(name, weights=str(path), model_args=arguments)
        images = images_for(own)
        found, expected = loaded.model.eval()(images), own(images)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
        assert loaded.report is not None
        said = any("says by itself how images are prepared" in note for note in loaded.report.notes)
        assert said == (path == folder)
