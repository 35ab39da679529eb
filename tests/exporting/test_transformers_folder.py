"""The folder for ViTForImageClassification: transformers opens it and computes what the model does."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting import transformers_folder
from vitctl.exporting.transformers_folder import (
    check_transformers_can_hold,
    misdescription,
    preprocessor_config,
    transformers_logits,
    transformers_pixels,
    write_transformers_folder,
)
from vitctl.models.build import load_model
from vitctl.primitives.preprocessing import Preprocessing

TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
NAMES = ["red", "grün", "a/b, c"]
MEAN, STD = (0.4, 0.5, 0.6), (0.25, 0.2, 0.3)
PHOTOS = [(64, 48), (48, 64), (50, 71), (37, 37), (11, 23), (5, 3), (16, 16), (300, 40)]  # (W, H) px


def build(name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **(TINY | changes))
        for parameter in model.parameters():  # not zeros and ones: a bias or norm at the wrong place must show
            nn.init.normal_(parameter, std=0.3)
    return model.eval()


def preprocessing_for(**changes: Any) -> Preprocessing:
    settings = {"image_size": (16, 16), "interpolation": "bicubic", "crop_pct": 1.0, "crop_mode": "center"}
    return Preprocessing(**(settings | {"mean": MEAN, "std": STD} | changes))


def write(model: nn.Module, folder: Path, **changes: Any) -> Path:
    arguments = {"class_names": NAMES, "preprocessing": preprocessing_for(), "name": "tiny"} | changes
    folder.mkdir(exist_ok=True)
    write_transformers_folder(model, folder, **arguments)
    return folder


def write_preprocessor(folder: Path, preprocessing: Preprocessing) -> Path:
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor_config(preprocessing)))
    return folder


def photo(size: tuple[int, int]) -> Image.Image:
    """Return a gradient with noise, (W, H) px."""
    width, height = size
    rng = np.random.default_rng([width, height])
    gradient = np.add.outer(np.linspace(0, 120, height), np.linspace(0, 90, width))[..., None] * [1.0, 0.7, 0.4]
    return Image.fromarray((gradient + rng.integers(0, 45, size=(height, width, 3))).astype(np.uint8))


def levels(first: Tensor, second: Tensor) -> Tensor:
    """Return by how many levels of 255 two normalised images, (3, H, W), differ in each value."""
    return (first - second).abs() * torch.tensor(STD)[:, None, None] * 255


def logits_by(forward: Callable[[Tensor], Tensor], image_size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        return forward(torch.randn(2, 3, *image_size, generator=torch.Generator().manual_seed(0)))


def config_of(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return document


def with_eps(eps: float) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        vit = build()
        for module in vit.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = eps
        return vit

    return model


def small_activations() -> nn.Module:
    """Return a model whose first norm sees variances near its eps, so that a wrong eps shows."""
    model = build()
    with torch.no_grad():
        for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "pos_embed", "cls_token"):
            model.get_parameter(name).mul_(1e-3)
    return model


HELD: dict[str, tuple[Callable[[], nn.Module], tuple[int, int]]] = {
    "plain": (build, (16, 16)),
    "tanh": (lambda: build(act_layer="gelu_tanh"), (16, 16)),
    "nn.GELU tanh": (lambda: build(act_layer=lambda: nn.GELU(approximate="tanh")), (16, 16)),
    "eps 1e-5": (with_eps(1e-5), (16, 16)),
    "eps 0.1": (with_eps(0.1), (16, 16)),
    "variance near eps": (small_activations, (16, 16)),
    "no qkv bias": (lambda: build(qkv_bias=False), (16, 16)),
    "no class embedding": (lambda: build(no_embed_class=True), (16, 16)),
    "rectangle": (lambda: build(img_size=(8, 32)), (8, 32)),
    "rectangular patch": (lambda: build(img_size=(16, 24), patch_size=(4, 8)), (16, 24)),
    "any size": (lambda: build(dynamic_img_size=True), (16, 16)),
    "wide MLP, one head": (lambda: build(num_heads=1, mlp_ratio=1.5), (16, 16)),
}


@pytest.mark.parametrize("kind", HELD)
def test_logits__are_the_models_in_transformers(kind: str, tmp_path: Path) -> None:
    make, image_size = HELD[kind]
    model = make()
    found = logits_by(transformers_logits(write(model, tmp_path / "hf")), image_size)
    torch.testing.assert_close(found, logits_by(model, image_size), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("key", "wrong"),
    [("layer_norm_eps", 1e-12), ("hidden_act", "gelu_pytorch_tanh"), ("num_attention_heads", 4)],
)
def test_logits__notice_a_wrong_configuration(key: str, wrong: object, tmp_path: Path) -> None:
    model = small_activations()
    folder = write(model, tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(config_of(folder) | {key: wrong}))
    difference = logits_by(transformers_logits(folder), (16, 16)) - logits_by(model, (16, 16))
    assert difference.abs().max() > 2e-5  # with the right one below 1e-5


def test_logits__notice_swapped_tensors(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = build()
    folder = write(model, tmp_path / "hf")
    tensors = load_file(folder / "model.safetensors")
    layer = "vit.encoder.layer.1.attention.attention"
    query, key = tensors[f"{layer}.query.weight"], tensors[f"{layer}.value.weight"]
    swapped = tensors | {f"{layer}.query.weight": key, f"{layer}.value.weight": query}
    save_file(swapped, folder / "model.safetensors")
    difference = logits_by(transformers_logits(folder), (16, 16)) - logits_by(model, (16, 16))
    assert difference.abs().max() > 1e-3


Damaged = tuple[dict[str, Any], Callable[[dict[str, Tensor]], dict[str, Tensor]], str]
POSITIONS = "vit.embeddings.position_embeddings"
DAMAGED: dict[str, Damaged] = {
    "a tensor missing": ({}, lambda old: without(old, "vit.layernorm.bias"), "missing keys.*layernorm.bias"),
    "a tensor more": ({}, lambda old: old | {"vit.x": torch.ones(1)}, "unexpected keys.*vit.x"),
    "a block too few": ({"num_hidden_layers": 1}, lambda old: old, "unexpected keys"),
    "a block too many": ({"num_hidden_layers": 3}, lambda old: old, "missing keys"),
    "positions too few": ({}, lambda old: old | {POSITIONS: old[POSITIONS][:, :10]}, "mismatch"),
}  # fmt: skip


def without(tensors: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key: value for key, value in tensors.items() if key != name}


@pytest.mark.parametrize("kind", DAMAGED)
def test_logits__of_other_tensors_than_the_class_has_are_refused(kind: str, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    config, change, words = DAMAGED[kind]
    folder = write(build(), tmp_path / "hf")
    (folder / "config.json").write_text(json.dumps(config_of(folder) | config))
    tensors = change(load_file(folder / "model.safetensors"))
    save_file({key: value.clone() for key, value in tensors.items()}, folder / "model.safetensors")
    with pytest.raises((ModelError, RuntimeError), match=words):
        transformers_logits(folder)


def test_reading__says_nothing_and_leaves_transformers_as_talkative_as_it_was(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import logging

    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    folder = write(build(), tmp_path / "hf")
    transformers_logits(folder)
    transformers_pixels(folder)
    assert tuple(capfd.readouterr()) == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before == (logging.WARNING, True)


def test_configuration__says_what_transformers_would_otherwise_assume(tmp_path: Path) -> None:
    config = config_of(write(build(mlp_ratio=2.0), tmp_path / "hf"))
    assert config["architectures"] == ["ViTForImageClassification"]
    assert config["model_type"] == "vit"
    assert config["layer_norm_eps"] == 1e-6  # transformers' own is 1e-12
    assert config["id2label"] == {"0": "red", "1": "grün", "2": "a/b, c"}
    assert config["label2id"] == {"red": 0, "grün": 1, "a/b, c": 2}
    sizes = ("image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_channels")
    assert [config[key] for key in sizes] == [16, 4, 16, 2, 2, 3]
    assert (config["intermediate_size"], config["qkv_bias"], config["hidden_act"]) == (32, True, "gelu")
    assert config_of(write(build(img_size=(8, 32)), tmp_path / "rectangle"))["image_size"] == [8, 32]


def test_weights__are_float32_under_the_names_of_transformers_4(tmp_path: Path) -> None:
    from safetensors import safe_open

    model = build().bfloat16()
    with safe_open(write(model, tmp_path / "hf") / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert len(file.keys()) == 8 + 2 * 16
        value = file.get_tensor("vit.encoder.layer.1.attention.attention.value.weight")
    assert value.dtype == torch.float32
    assert torch.equal(value, model.get_parameter("blocks.1.attn.qkv.weight")[32:].float())
    assert model.get_parameter("head.weight").dtype == torch.bfloat16


def test_transformers__saves_the_same_names_again(tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from transformers import ViTForImageClassification

    folder = write(build(), tmp_path / "hf")
    ViTForImageClassification.from_pretrained(folder).save_pretrained(tmp_path / "again")
    ours, theirs = (load_file(one / "model.safetensors") for one in (folder, tmp_path / "again"))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_pipeline__names_the_classes_and_gives_the_models_probabilities(tmp_path: Path) -> None:
    from transformers import AutoImageProcessor, ViTForImageClassification, pipeline

    model, preprocessing = build(), preprocessing_for(crop_mode="squash")
    folder = write(model, tmp_path / "hf", preprocessing=preprocessing)
    classify = pipeline(
        "image-classification",
        model=ViTForImageClassification.from_pretrained(folder),
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
    )
    image = photo((40, 30))
    with torch.no_grad():
        shares = model(EvaluationTransform(preprocessing)(image)[None]).softmax(dim=1)[0]
    found = {answer["label"]: answer["score"] for answer in classify(image)}
    assert found == {name: pytest.approx(float(share), abs=1e-5) for name, share in zip(NAMES, shares, strict=True)}


PROCESSED = {
    "centre": {"crop_pct": 0.8},
    "centre, odd margin": {"crop_pct": 0.85},
    "centre, nothing cut off": {"crop_pct": 1.0, "interpolation": "bilinear"},
    "centre, rectangle": {"image_size": (12, 20), "crop_pct": 0.9},
    "squash": {"crop_mode": "squash", "image_size": (12, 20)},
    "squash, cut": {"crop_mode": "squash", "crop_pct": 0.8},
    "border": {"crop_mode": "border", "image_size": (12, 20)},
    "border, cut": {"crop_mode": "border", "crop_pct": 0.8, "interpolation": "lanczos"},
}


@pytest.mark.parametrize(
    ("changes", "kind", "size"),
    [
        ({}, "CLIPImageProcessor", {"shortest_edge": 16}),
        ({"crop_pct": 0.9}, "CLIPImageProcessor", {"shortest_edge": 17}),
        ({"image_size": (224, 224), "crop_pct": 0.95}, "CLIPImageProcessor", {"shortest_edge": 235}),
        ({"image_size": (8, 16)}, "ViTImageProcessor", {"height": 8, "width": 16}),
        ({"crop_mode": "squash"}, "ViTImageProcessor", {"height": 16, "width": 16}),
        ({"crop_mode": "squash", "crop_pct": 0.8}, "CLIPImageProcessor", {"height": 20, "width": 20}),
        ({"crop_mode": "border", "crop_pct": 0.8}, "CLIPImageProcessor", {"max_height": 20, "max_width": 20}),
    ],
)
def test_preprocessor__is_the_one_that_fits(changes: dict[str, Any], kind: str, size: dict[str, int]) -> None:
    preprocessing = preprocessing_for(**changes)
    config = preprocessor_config(preprocessing)
    assert (config["image_processor_type"], config["size"]) == (kind, size)
    cropped = {"height": preprocessing.image_size[0], "width": preprocessing.image_size[1]}
    assert config.get("crop_size") == (cropped if kind == "CLIPImageProcessor" else None)
    assert (config["image_mean"], config["image_std"]) == (list(MEAN), list(STD))


@pytest.mark.parametrize(
    ("interpolation", "number"), [("nearest", 0), ("lanczos", 1), ("bilinear", 2), ("bicubic", 3), ("box", 4)]
)
def test_preprocessor__numbers_the_interpolation_as_pillow_does(interpolation: str, number: int) -> None:
    assert preprocessor_config(preprocessing_for(interpolation=interpolation))["resample"] == number


def farthest_from_timm(folder: Path, preprocessing: Preprocessing, sizes: list[tuple[int, int]]) -> float:
    """Return the largest difference, in levels of 255, over images of ``sizes``, (W, H) px."""
    pixels = transformers_pixels(write_preprocessor(folder, preprocessing))
    transform = EvaluationTransform(preprocessing)
    return max(float(levels(pixels(photo(size)), transform(photo(size))).max()) for size in sizes)


@pytest.mark.parametrize(
    ("changes", "sizes"),
    [
        ({"crop_pct": 0.8}, [(64, 48), (96, 64), (37, 37), (11, 11), (32, 48)]),  # the long side is even too
        ({"crop_mode": "squash"}, PHOTOS),
        ({"crop_mode": "squash", "image_size": (12, 20), "interpolation": "bilinear"}, PHOTOS),
        ({"crop_mode": "squash", "crop_pct": 0.8}, PHOTOS),
        ({"image_size": (12, 24), "crop_pct": 0.75}, [(64, 32), (48, 24)]),  # a rectangle's own aspect
        ({"crop_mode": "border"}, [(37, 37), (16, 16)]),  # no border
    ],
)
def test_pixels__of_an_even_crop_are_timms(
    changes: dict[str, Any], sizes: list[tuple[int, int]], tmp_path: Path
) -> None:
    assert farthest_from_timm(tmp_path, preprocessing_for(**changes), sizes) < 0.01


def test_pixels__of_an_odd_crop_are_one_pixel_off(tmp_path: Path) -> None:
    preprocessing = preprocessing_for(image_size=(32, 32), crop_pct=0.9)  # 35 - 32 = 3: offset 1, torchvision's 2
    assert farthest_from_timm(tmp_path, preprocessing, [(70, 70)]) > 10
    pixels = transformers_pixels(tmp_path)(photo((70, 70)))
    timms = EvaluationTransform(preprocessing)(photo((70, 70)))
    assert levels(pixels[:, 1:, 1:], timms[:, :-1, :-1]).max() < 0.01


def test_pixels__of_a_border_are_black_not_the_mean(tmp_path: Path) -> None:
    preprocessing = preprocessing_for(crop_mode="border")
    pixels = transformers_pixels(write_preprocessor(tmp_path, preprocessing))(photo((32, 16)))
    timms = EvaluationTransform(preprocessing)(photo((32, 16)))
    assert levels(pixels[:, 4:12], timms[:, 4:12]).max() < 0.01
    assert levels(pixels, timms)[1, 0, 0] == pytest.approx(128, abs=0.01)  # round(255 * 0.5)


@pytest.mark.parametrize("size", [(20_000, 1), (1, 20_000)])
def test_pixels__of_a_strip_of_one_pixel_are_timms_and_take_no_gigabytes(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing, areas, resize = preprocessing_for(image_size=(224, 224), crop_pct=0.875), [], Image.Image.resize

    def noted(image: Image.Image, size: tuple[int, int], **options: Any) -> Image.Image:
        areas.append(size[0] * size[1])
        return resize(image, (min(size[0], 9999), min(size[1], 9999)), **options)  # to fail without the gigabytes

    strip, pixels = photo(size), transformers_pixels(write_preprocessor(tmp_path, preprocessing))
    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "resize", noted)
        found = pixels(strip)
    assert max(areas) <= 256 * 256 * 16
    assert levels(found, EvaluationTransform(preprocessing)(strip)).max() < 0.01


def test_pixels__of_a_squashed_strip_show_its_ends(tmp_path: Path) -> None:
    strip = Image.new("RGB", (2000, 1), "black")
    strip.paste((255, 255, 255), (0, 0, 500, 1))
    pixels = transformers_pixels(write_preprocessor(tmp_path, preprocessing_for(crop_mode="squash")))(strip)
    assert levels(pixels[..., :1], pixels[..., -1:]).min() == pytest.approx(255, abs=0.01)


# what the files say


def tamper(folder: Path, file: str, **changes: object) -> None:
    """Write ``changes`` into a JSON file of ``folder``; None takes a key out."""
    document = json.loads((folder / file).read_text(encoding="utf-8")) | changes
    kept = {key: value for key, value in document.items() if value is not None}
    (folder / file).write_text(json.dumps(kept), encoding="utf-8")


def complaint_about(folder: Path, **changes: Any) -> str | None:
    return misdescription(folder, **({"preprocessing": preprocessing_for(), "class_names": NAMES} | changes))


@pytest.mark.parametrize("kind", PROCESSED)
def test_description__is_right_however_near_transformers_comes_to_timm(kind: str, tmp_path: Path) -> None:
    preprocessing = preprocessing_for(**PROCESSED[kind])
    folder = write(build(img_size=preprocessing.image_size), tmp_path / "hf", preprocessing=preprocessing)
    assert complaint_about(folder, preprocessing=preprocessing) is None


@pytest.mark.parametrize(
    "changes",
    [{"img_size": (16, 24), "patch_size": (4, 8)}, {"in_chans": 1}, {"no_embed_class": True}, {"qkv_bias": False}],
    ids=str,
)
def test_description__of_other_models_is_right(changes: dict[str, Any], tmp_path: Path) -> None:
    preprocessing = preprocessing_for(image_size=changes.get("img_size", (16, 16)))
    folder = write(build(**changes), tmp_path / "hf", preprocessing=preprocessing)
    assert complaint_about(folder, preprocessing=preprocessing) is None


CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
TAMPERED: list[tuple[str, dict[str, Any], str]] = [
    (PROCESSOR, {"image_mean": [0.5, 0.5, 0.5]}, "has the mean [0.5, 0.5, 0.5], the model's is [0.4, 0.5, 0.6]"),
    (PROCESSOR, {"image_mean": [0.6, 0.5, 0.4]}, "has the mean [0.6, 0.5, 0.4], the model's is [0.4, 0.5, 0.6]"),
    (PROCESSOR, {"image_mean": [0.4, 0.5, 0.6000001]}, "has the mean [0.4, 0.5, 0.6000001], the model's is"),
    (PROCESSOR, {"image_std": [0.25, 0.2]}, "has the standard deviation [0.25, 0.2], the model's is [0.25, 0.2, 0.3]"),
    (PROCESSOR, {"image_std": None}, "has no standard deviation, the model's is [0.25, 0.2, 0.3]"),
    (PROCESSOR, {"rescale_factor": 1 / 256}, "has the rescale_factor 0.00390625, the model's is 0.00392156862745098"),
    (PROCESSOR, {"resample": 2}, "has the resample 2, the model's is 3"),
    (PROCESSOR, {"resample": "bicubic"}, 'has the resample "bicubic", the model\'s is 3'),
    (PROCESSOR, {"do_resize": False}, "has the do_resize false, the model's is true"),
    (PROCESSOR, {"do_rescale": False}, "has the do_rescale false, the model's is true"),
    (PROCESSOR, {"do_normalize": None}, "has no do_normalize, the model's is true"),
    (PROCESSOR, {"do_center_crop": False}, "has the do_center_crop false, the model's is true"),
    (PROCESSOR, {"crop_size": {"height": 16, "width": 20}}, "has the output size [16, 20], the model's is [16, 16]"),
    (PROCESSOR, {"crop_size": None, "do_center_crop": None},
     "has the output size [null, null], the model's is [16, 16]"),
    (PROCESSOR, {"crop_size": None, "size": {"height": 20, "width": 20}},
     "has the output size [20, 20], the model's is [16, 16]"),
    (CONFIG, {"id2label": {"0": "red", "1": "a/b, c", "2": "grün"}},
     "has 'a/b, c' for class 1 in id2label, the model 'grün'"),
    (CONFIG, {"id2label": {"0": "red", "1": "grün"}}, "has None for class 2 in id2label, the model 'a/b, c'"),
    (CONFIG, {"id2label": {"0": "red", "1": "grün", "2": "a/b, c", "3": "x"}},
     "has 'x' for class 3 in id2label, the model None"),
    (CONFIG, {"label2id": {"red": 0, "grün": 2, "a/b, c": 1}}, "has a label2id that is not the inverse"),
    (CONFIG, {"label2id": {"red": "0", "grün": "1", "a/b, c": "2"}}, "has a label2id that is not the inverse"),
    (CONFIG, {"label2id": None}, "has a label2id that is not the inverse"),
    (CONFIG, {"image_size": 20}, "has the image_size [20, 20], the model's is [16, 16]"),
    (CONFIG, {"image_size": [8, 32]}, "has the image_size [8, 32], the model's is [16, 16]"),
    (CONFIG, {"image_size": None}, "has no image_size, the model's is [16, 16]"),
    (CONFIG, {"patch_size": [4, 8]}, "has the patch_size [4, 8], the model's is [4, 4]"),
    (CONFIG, {"model_type": "deit"}, 'has the model_type "deit", the model\'s is "vit"'),
    (CONFIG, {"architectures": ["ViTModel"]},
     'has the architectures ["ViTModel"], the model\'s is ["ViTForImageClassification"]'),
    (CONFIG, {"num_channels": 1}, "has the num_channels 1, the model's is 3"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "changes", "phrase"), TAMPERED, ids=[str(changes) for _, changes, _ in TAMPERED])
def test_description__that_was_tampered_with_is_found(
    file: str, changes: dict[str, Any], phrase: str, tmp_path: Path
) -> None:
    preprocessing = preprocessing_for(crop_pct=0.8)
    folder = write(build(), tmp_path / "hf", preprocessing=preprocessing)
    tamper(folder, file, **changes)
    complaint = complaint_about(folder, preprocessing=preprocessing)
    assert complaint is not None
    assert complaint.startswith(f"its {file} {phrase}")


def test_description__names_all_that_is_wrong(tmp_path: Path) -> None:
    folder = write(build(), tmp_path / "hf")
    tamper(folder, PROCESSOR, resample=0)
    tamper(folder, CONFIG, model_type="deit")
    assert complaint_about(folder) == (
        "its preprocessor_config.json has the resample 0, the model's is 3 and "
        'its config.json has the model_type "deit", the model\'s is "vit"'
    )


def test_description__a_mistake_of_the_writer_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mistaken = preprocessor_config(preprocessing_for()) | {"image_mean": list(STD)}
    monkeypatch.setattr(transformers_folder, "preprocessor_config", lambda _: mistaken)
    assert "has the mean [0.25, 0.2, 0.3]" in str(complaint_about(write(build(), tmp_path / "hf")))


# refused


def siglip() -> nn.Module:
    return build("vit_base_patch16_siglip_224")


def unlike_blocks() -> nn.Module:
    model = build()
    model.blocks[1] = build(mlp_ratio=2.0).blocks[0]  # type: ignore[index,operator]  # timm's sequence
    return model


def unlike_eps() -> nn.Module:
    model = build()
    model.norm.eps = 1e-5  # type: ignore[union-attr,assignment]  # timm's norm
    return model


def changed(**parts: object) -> nn.Module:
    model = build()
    for name, part in parts.items():
        setattr(model, name, part)
    return model


def with_a_tensor_more() -> nn.Module:
    model = build()
    model.register_buffer("temperature", torch.ones(1))
    return model


def resnet() -> nn.Module:
    import timm

    model: nn.Module = timm.create_model("resnet10t", num_classes=3)
    return model


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "LayerScale": (lambda: build("deit3_small_patch16_224"), "LayerScale"),
    "registers": (lambda: build("vit_small_patch14_reg4_dinov2"), "4 register tokens and LayerScale"),
    "SwiGLU": (lambda: build("vit_giant_patch14_dinov2", mlp_ratio=2.0), "GluMlp in place of Mlp"),
    "SigLIP": (siglip, "no class token and pooling 'map'"),
    "average pooling": (lambda: build(global_pool="avg"), "pooling 'avg'.* and a norm after pooling"),
    "average without fc_norm": (lambda: build(global_pool="avg", fc_norm=False), "pooling 'avg'"),
    "distilled": (lambda: build("deit_tiny_distilled_patch16_224"), "is of type VisionTransformerDistilled; expected"),
    "EVA": (lambda: build("eva02_tiny_patch14_224"), "is of type Eva; expected"),
    "hybrid": (lambda: build("vit_tiny_r_s16_p8_224", img_size=64, patch_size=1), "HybridEmbed in place of PatchEmbed"),
    "CNN": (resnet, "is of type ResNet; expected"),
    "CLIP": (lambda: build(pre_norm=True), "a norm before the blocks and a patch embedding without a bias"),
    "qk-norm": (lambda: build(qk_norm=True), "qk-norm"),
    "scale norm": (lambda: build(scale_attn_norm=True), "a norm within attention or MLP"),
    "quick GELU": (lambda: build(act_layer="quick_gelu"), "the activation QuickGELU"),
    "RMSNorm": (lambda: build(norm_layer="rmsnorm"), "RmsNorm in place of LayerNorm"),
    "post-norm": (lambda: build("vit_relpos_small_patch16_224"), "is of type VisionTransformerRelPos"),
    "parallel blocks": (lambda: build("vit_small_patch16_36x1_224", init_values=None, block_fn=parallel_block()),
                        "ParallelThingsBlock in place of Block"),
    "no projection bias": (lambda: build(proj_bias=False), "linear layers without a bias"),
    "no positions": (lambda: build(pos_embed="none"), "no position embeddings"),
    "no final norm": (lambda: build(final_norm=False), "no norm after the blocks"),
    "no classifier": (lambda: build(num_classes=0), "no classifier"),
    "padding": (lambda: build(dynamic_img_size=True, dynamic_img_pad=True), "padding in its patch embedding"),
    "unlike blocks": (unlike_blocks, "blocks that differ"),
    "no blocks": (lambda: build(depth=0), "no blocks"),
    "foreign part": (lambda: changed(pos_drop=nn.Tanh()), "a part pos_drop of type Tanh"),
    "stray positions": (lambda: changed(pos_embed=nn.Parameter(torch.ones(1, 9, 16))),
                        "position embeddings of another shape"),
    "unlike eps": (unlike_eps, r"LayerNorms of different eps \(1e-06, 1e-05\)"),
    "a tensor more": (with_a_tensor_more, "a tensor temperature"),
}  # fmt: skip


def parallel_block() -> type[nn.Module]:
    from timm.models.vision_transformer import ParallelThingsBlock

    block: type[nn.Module] = ParallelThingsBlock
    return block


@pytest.mark.parametrize("kind", REFUSED)
def test_model__that_the_class_cannot_hold_is_refused_with_reason_and_alternative(kind: str, tmp_path: Path) -> None:
    make, reason = REFUSED[kind]
    with pytest.raises(ModelError, match=rf"cannot hold some/run, which .*{reason}.*Use --to timm: transformers opens"):
        write_transformers_folder(
            make(), tmp_path, class_names=NAMES, preprocessing=preprocessing_for(), name="some/run"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", HELD)
def test_model__that_the_class_holds_passes(kind: str) -> None:
    check_transformers_can_hold(HELD[kind][0](), name="tiny")


def test_class_names__must_be_one_per_output_and_different(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="tiny has the class name 'a' more than once"):
        write(build(), tmp_path, class_names=["a", "b", "a"])
    with pytest.raises(ModelError, match="tiny has 3 outputs and 2 class names"):
        write(build(), tmp_path, class_names=["a", "b"])
    assert not list(tmp_path.iterdir())


def test_what_transformers_saves__opens_here_with_its_logits(tmp_path: Path) -> None:
    """More kinds of models, with the same second opinion: ``tests/parity/test_opens_transformers.py``."""
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, image_size=16, patch_size=4,
        id2label=dict(enumerate(NAMES)), label2id={name: index for index, name in enumerate(NAMES)},
    )  # fmt: skip
    theirs = ViTForImageClassification(config).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / "hf")
    loaded = load_model(str(tmp_path / "hf"))
    assert loaded.class_names == tuple(NAMES)
    found = logits_by(loaded.model.eval(), (16, 16))
    torch.testing.assert_close(found, logits_by(lambda images: theirs(images).logits, (16, 16)), rtol=1e-5, atol=1e-5)
