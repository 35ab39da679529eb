"""CKA of models: against a loop over hooked features, another package, and models whose answer is known."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
import timm
import torch
from cka import compute_cka
from PIL import Image
from torch import Tensor, nn

from vitctl.conversation import Conversation, Progress
from vitctl.data.source import Split
from vitctl.errors import DataError, SettingError
from vitctl.inspecting.cka import cka, plan_minibatches
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.hsic import gram_matrix, pair_vectors
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.geometry import geometry_of
from vitctl.models.layers import LayerTap
from vitctl.primitives.preprocessing import Preprocessing

_VIT = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
_RESNET = {"channels": (8, 8, 16, 16), "layers": (1, 1, 1, 1)}


@dataclass(frozen=True)
class _Noise:
    """Images of random pixels, a function of their row."""

    size: tuple[int, int]
    num_images: int
    seed: int = 0

    def __len__(self) -> int:
        return self.num_images

    def open(self, row: int) -> Image.Image:
        rng = np.random.default_rng([self.seed, row])
        coarse = rng.integers(0, 256, size=(4, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize(self.size[::-1], Image.Resampling.BICUBIC)

    def name(self, row: int) -> str:
        return f"noise/{self.seed}/{row}"

    def stamp(self, row: int) -> str:
        return ""


class _ToTensor:
    """Levels to -1 to 1."""

    max_value = None

    def pixels(self, image: Image.Image) -> Tensor:
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    def finished(self, pixels: Tensor) -> Tensor:
        return pixels / 127.5 - 1


def _stream(num_images: int, *, size: tuple[int, int] = (16, 16), seed: int = 0) -> ImageStream:
    rows = np.arange(num_images)
    split = Split("all", _Noise(size, num_images, seed), rows, np.zeros(num_images, dtype=np.int64), ("noise",))
    preprocessing = Preprocessing(size, "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    return ImageStream(split, _ToTensor(), preprocessing, batch_size=5, num_workers=0)


def _subject(architecture: str, *, seed: int = 0, size: tuple[int, int] = (16, 16), **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = timm.create_model(architecture, **arguments).eval()
        with torch.no_grad():
            for name, value in model.named_parameters():
                if "pos_embed" not in name:
                    value.add_(0.1 * torch.randn_like(value))  # no layer repeats another, as some do at the start
    geometry = geometry_of(model)
    if geometry.grid is None:
        geometry = replace(geometry, image_size=size)
    return Subject(model, f"{architecture} {seed}", geometry, torch.device("cpu"))


def _vit(seed: int = 0, **arguments: Any) -> Subject:
    return _subject("vit_tiny_patch16_224", seed=seed, **{**_VIT, **arguments})


def _resnet(seed: int = 0) -> Subject:
    return _subject("resnet18", seed=seed, **_RESNET)


def _cka(*subjects: Subject, num_images: int = 24, minibatch: int = 8, **options: Any) -> Findings:
    streams = [_stream(num_images) for _ in subjects]
    return cka(subjects, streams, minibatch=minibatch, conversation=Conversation(), **options)


def _num_hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def _hsic_by_song(first: Tensor, second: Tensor) -> float:
    num_images = len(first)
    grams = [features - features.mean(0) for features in (first.flatten(1).double(), second.flatten(1).double())]
    one, other = (features @ features.T for features in grams)
    one.fill_diagonal_(0)
    other.fill_diagonal_(0)
    middle = one.sum() * other.sum() / ((num_images - 1) * (num_images - 2))
    return float(((one * other).sum() + middle - 2 / (num_images - 2) * (one.sum(0) @ other.sum(0))).item()) / (
        num_images * (num_images - 3)
    )


def _song_over_minibatches(features: list[list[Tensor]]) -> np.ndarray:
    """Return CKA, from the tensors of every layer of every minibatch."""
    num_layers = len(features[0])
    sums = np.zeros((num_layers, num_layers))
    for layers in features:
        sums += [[_hsic_by_song(first, second) for second in layers] for first in layers]
    return np.asarray(sums / np.sqrt(np.outer(np.diag(sums), np.diag(sums))))


# --- values


def test_self__is_symmetric_with_ones_on_the_diagonal() -> None:
    found = _cka(_vit(), granularity="sublayer")
    similarity = found.arrays["cka"]
    assert similarity.shape == (23, 23)
    assert np.abs(similarity.diagonal() - 1).max() < 1e-12
    assert np.allclose(similarity, similarity.T, atol=1e-12)
    assert similarity.min() < 0.99
    assert found.facts["num_undefined"] == 0


@pytest.mark.parametrize("tokens", ["all", "patches", "mean", "cls"])
def test_self__against_songs_formula_on_sliced_tokens(tokens: str) -> None:
    subject = _vit(class_token=True, reg_tokens=2)
    tap = LayerTap(subject.model, ("embed", 0, 1, 2, "final"), name="it")
    features = []
    for images in _stream(24).batches(8):
        with torch.no_grad():
            found = tap(images)[0].values()
        pick = {
            "all": [torch.cat([one.prefix, one.patches], 1) for one in found],
            "patches": [one.patches for one in found],
            "mean": [one.patches.mean(1) for one in found],
            "cls": [one.prefix[:, 0] for one in found],
        }[tokens]
        features.append(pick[1:] if tokens == "cls" else pick)
    similarity = _cka(subject, tokens=tokens).arrays["cka"]
    expected = _song_over_minibatches(features)
    assert np.allclose(similarity[1:, 1:] if tokens == "cls" else similarity, expected, atol=1e-5)


def test_self__agrees_with_pytorch_cka() -> None:
    subject = _vit()
    names = ["blocks.0", "blocks.1", "blocks.2", "norm"]
    batches: Any = [list(_stream(24).batches(8))]
    (theirs,) = compute_cka(subject.model, subject.model, batches, layers=names, device="cpu", progress=False)
    ours = _cka(subject).arrays["cka"][1:, 1:]
    assert ours.min() >= 0  # they clamp
    assert np.allclose(ours, theirs.numpy(), atol=1e-4)


def test_cross__agrees_with_pytorch_cka() -> None:
    first, second = _vit(), _resnet()
    batches: Any = [list(_stream(24).batches(12))]
    (theirs,) = compute_cka(
        first.model,
        second.model,
        batches,
        layers=["blocks.0", "blocks.2"],
        model2_layers=["layer1.0", "layer3.0"],
        device="cpu",
        progress=False,
    )
    found = _cka(first, second, minibatch=12)
    rows = [list(found.arrays["layers_1"]).index(name) for name in ("0", "2")]
    columns = [list(found.arrays["layers_2"]).index(name) for name in ("layer1.0", "layer3.0")]
    ours = found.arrays["cka"][np.ix_(rows, columns)]
    assert np.allclose(ours.clip(0, 1), theirs.numpy(), atol=1e-4)


def test_cross__has_both_models_own_maps() -> None:
    first, second = _vit(), _resnet()
    found = _cka(first, second)
    assert found.arrays["cka"].shape == found.arrays["batch_spread"].shape == (5, 5)
    assert list(found.arrays["layers_1"]) == ["embed", "0", "1", "2", "final"]
    assert list(found.arrays["layers_2"]) == ["stem", "layer1.0", "layer2.0", "layer3.0", "layer4.0"]
    for own, subject in (("cka_self_1", first), ("cka_self_2", second)):
        assert np.allclose(found.arrays[own], _cka(subject).arrays["cka"], atol=1e-12)
    assert len(found.facts["mean_off_diagonal"]) == len(found.facts["low_high_similarity"]) == 2


def test_same_weights_under_two_names__give_ones_on_the_diagonal() -> None:
    found = _cka(_vit(), replace(_vit(), name="the other"))
    assert np.abs(found.arrays["cka"].diagonal() - 1).max() < 1e-9
    assert np.allclose(found.arrays["cka"], found.arrays["cka_self_1"], atol=1e-9)


def test_diagonal__is_that_of_the_map() -> None:
    first, second = _vit(), _vit(seed=1)
    found = _cka(first, second, diagonal=True)
    assert np.allclose(found.arrays["cka"], _cka(first, second).arrays["cka"].diagonal(), atol=1e-12)
    assert found.arrays["batch_spread"].shape == (5,)
    assert set(found.arrays) == {"cka", "batch_spread", "layers_1", "layers_2"}
    assert found.facts["mean_diagonal"] == pytest.approx(found.arrays["cka"].mean())
    same = _cka(first, replace(_vit(), name="the other"), diagonal=True)
    assert np.abs(same.arrays["cka"] - 1).max() < 1e-9


def test_batch_spread__is_the_deviation_of_single_minibatches() -> None:
    subject = _vit()
    alone = []
    for start in range(0, 24, 8):
        stream = _stream(24)
        part = replace(stream, split=stream.split.select(range(start, start + 8)))
        found = cka([subject], [part], minibatch=8, conversation=Conversation())
        assert np.isnan(found.arrays["batch_spread"]).all()
        alone.append(found.arrays["cka"])
    spread = _cka(subject).arrays["batch_spread"]
    assert np.allclose(spread, np.std(alone, axis=0, ddof=1), atol=1e-9)
    assert spread.max() > 1e-4


def test_facts__are_means_of_the_map() -> None:
    found = _cka(_vit())
    similarity = found.arrays["cka"]
    assert found.facts["mean_off_diagonal"] == [pytest.approx((similarity.sum() - 5) / 20)]
    assert found.facts["low_high_similarity"] == [pytest.approx(similarity[0, 4])]
    assert (found.facts["granularity"], found.facts["tokens"]) == ("block", "all")
    assert json.loads(json.dumps(found.facts, allow_nan=False)) == found.facts


def test_values__are_within_one_and_can_be_negative() -> None:
    noise = torch.randn(30, 4, 500, generator=torch.Generator().manual_seed(0))
    vectors = pair_vectors(gram_matrix(noise))
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    similarity = unit @ unit.T
    assert float(similarity.abs().max()) < 1 + 1e-12
    assert float(similarity.min()) < -0.5


# --- constant layers, few images, wrong images


def test_constant_layer__is_not_a_number_and_is_counted() -> None:
    found = _cka(_vit(), tokens="cls")  # before the first block the class token has seen nothing
    is_undefined = np.isnan(found.arrays["cka"])
    assert is_undefined[0].all()
    assert is_undefined[:, 0].all()
    assert not is_undefined[1:, 1:].any()
    assert found.facts["num_undefined"] == 9
    assert found.facts["undefined_layers"] == ["embed"]
    assert any("same for every image: embed" in note for note in found.notes)
    json.dumps(found.facts, allow_nan=False)


def test_constant_model__has_no_number_at_all() -> None:
    subject = _vit()
    nn.init.zeros_(subject.model.patch_embed.proj.weight)  # type: ignore[union-attr,arg-type]
    found = _cka(subject)
    assert np.isnan(found.arrays["cka"]).all()
    assert found.facts["mean_off_diagonal"] == [None]


def test_last_images_that_fill_no_minibatch__are_left_out_and_said() -> None:
    found = _cka(_vit(), num_images=21)
    assert (found.facts["num_minibatches"], found.facts["num_images_used"], found.facts["num_images_dropped"]) == (
        2,
        16,
        5,
    )
    assert any(note.startswith("The last 5 images were left out") for note in found.notes)
    assert np.array_equal(found.arrays["cka"], _cka(_vit(), num_images=16).arrays["cka"])
    assert not _cka(_vit(), num_images=16).notes


def test_fewer_images_than_a_minibatch__are_one() -> None:
    found = _cka(_vit(), num_images=6, minibatch=64)
    assert found.facts["num_minibatches"] == 1
    assert found.facts["minibatch"] == 6
    assert any("one minibatch of 6 instead of 64" in note for note in found.notes)


def test_too_few_images__are_refused() -> None:
    with pytest.raises(DataError, match="too few images for CKA: 3; expected 4 or more"):
        plan_minibatches(3, 64)
    with pytest.raises(SettingError, match="--minibatch is 3"):
        plan_minibatches(100, 3)


def test_different_images_for_the_two_models__are_refused() -> None:
    first, second = _vit(), _vit(seed=1)
    stream = _stream(8)
    turned = replace(stream, split=stream.split.select([0, 1, 3, 2, 4, 5, 6, 7]))
    with pytest.raises(DataError, match="noise/0/2 and noise/0/3 at position 2"):
        cka([first, second], [stream, turned], conversation=Conversation())
    with pytest.raises(DataError, match="8 and 7 images"):
        cka([first, second], [stream, stream.first(7)], conversation=Conversation())


def test_diagonal__is_refused_for_one_model_or_other_layers() -> None:
    with pytest.raises(SettingError, match="--diagonal compares two models"):
        _cka(_vit(), diagonal=True)
    with pytest.raises(SettingError, match=r"has 5 \(embed to final\) and .* 4 \(embed to final\)"):
        _cka(_vit(), _vit(depth=2), diagonal=True)


def test_class_tokens__of_a_cnn_are_refused() -> None:
    with pytest.raises(SettingError, match="resnet18 0 has no class token"):
        _cka(_vit(), _resnet(), tokens="cls")


# --- how it runs


def test_model__is_left_as_it_was() -> None:
    subject = _vit()
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    _cka(subject, granularity="sublayer")
    assert _num_hooks(subject.model) == 0
    assert not subject.model.training
    assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())


def test_progress__counts_the_images_that_are_used() -> None:
    @dataclass
    class Bar(Progress):
        amounts: list[int] = field(default_factory=list)

        def advance(self, amount: int = 1, **facts: str) -> None:
            self.amounts.append(amount)

    class Listener(Conversation):
        def __init__(self) -> None:
            self.bar = Bar()
            self.totals: list[int] = []

        @contextmanager
        def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
            self.totals.append(total)
            yield self.bar

    listener = Listener()
    cka([_vit()], [_stream(21)], minibatch=8, conversation=listener)
    assert listener.totals == [16]
    assert listener.bar.amounts == [8, 8]


def test_table__is_short_and_names_the_most_similar_layer() -> None:
    found = _cka(_vit(), replace(_vit(), name="the other"), granularity="sublayer")
    assert len(found.rows) == 16
    assert all(row[0] == row[1] and row[2] == "1.000" for row in found.rows)


FAMILIES: dict[str, tuple[dict[str, Any], int]] = {
    "resnet18": ({}, 64),
    "resnetv2_50": ({}, 64),
    "convnext_atto": ({}, 64),
    "mixer_s32_224": ({"img_size": 64}, 64),
    "resmlp_12_224": ({"img_size": 64}, 64),
    "swin_tiny_patch4_window7_224": ({"img_size": 56}, 56),
    "efficientnet_b0": ({}, 64),
    "regnety_002": ({}, 64),
    "densenet121": ({}, 64),
    "vgg11": ({}, 64),
    "mobilenetv3_small_050": ({}, 64),
    "poolformer_s12": ({}, 64),
    "vit_small_patch14_reg4_dinov2": ({"img_size": 56, "depth": 3}, 56),
    "vit_base_patch16_siglip_224": ({"img_size": 64, "depth": 3}, 64),
    "deit_tiny_distilled_patch16_224": ({"img_size": 64, "depth": 3}, 64),
    "eva02_tiny_patch14_224": ({"img_size": 56, "depth": 3}, 56),
    "beit_base_patch16_224": ({"img_size": 64, "depth": 2}, 64),
    "vit_relpos_base_patch16_rpn_224": ({"img_size": 64, "depth": 3}, 64),
    "vit_base_patch16_xp_224": ({"img_size": 64, "depth": 2}, 64),
    "vit_tiny_r_s16_p8_224": ({"img_size": 64, "depth": 3}, 64),
    "naflexvit_base_patch16_gap": ({"depth": 2}, 64),
    "cait_xxs24_224": ({"img_size": 64, "depth": 3}, 64),
    "xcit_nano_12_p16_224": ({"img_size": 64, "depth": 3}, 64),
    "levit_128s": ({"img_size": 224}, 224),
    "nest_tiny": ({}, 224),
    "hiera_tiny_224": ({}, 224),
    "convmixer_768_32": ({}, 64),
    "inception_v3": ({"aux_logits": False}, 96),
    "dla46_c": ({}, 64),
    "mobilevit_xxs": ({}, 64),
    "test_maxvit": ({}, 160),
    "davit_tiny": ({}, 64),
    "samvit_base_patch16": ({"img_size": 64, "depth": 2, "embed_dim": 48, "num_heads": 2}, 64),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_families(name: str) -> None:
    arguments, side = FAMILIES[name]
    subject = _subject(name, size=(side, side), **arguments)
    for granularity in ("block", "sublayer"):
        for tokens in ("all", "mean") if granularity == "block" else ("all",):
            stream = _stream(8, size=subject.geometry.image_size)
            found = cka(
                [subject], [stream], granularity=granularity, tokens=tokens, minibatch=8, conversation=Conversation()
            )
            similarity = found.arrays["cka"]
            num_layers = len(found.arrays["layers_1"])
            assert similarity.shape == (num_layers, num_layers)
            assert num_layers >= (3 if granularity == "block" else 10)
            is_defined = ~np.isnan(similarity.diagonal())
            assert is_defined.mean() > 0.9
            assert np.abs(similarity.diagonal()[is_defined] - 1).max() < 1e-12
            assert np.nanmax(np.abs(similarity)) < 1 + 1e-9
            assert not [note for note in found.notes if "left out" in note]
    assert _num_hooks(subject.model) == 0
