"""What the head sees of a ViT's tokens: held against the pooling written out, and timm opening what was saved."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.evaluation.features import FeatureExtractor, FeatureKey
from vitctl.models.heads import fit_head
from vitctl.models.pooling import described_pooling, pooling_of, with_pooling
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.words import FINAL
from vitctl.workflows import finetune

IMAGES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).sin().reshape(2, 3, 16, 16)
PREPROCESSING = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}
SMALL = {"embed_dim": 24, "depth": 1, "num_heads": 2}
EVA = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 1, "num_heads": 2, "mlp_ratio": 2}


def _saved(folder: Path, name: str, **arguments: Any) -> str:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=3, **arguments)
    for parameter in model.parameters():  # norms of ones would not be missed
        torch.nn.init.normal_(parameter, std=0.2)
    save_timm_folder(
        model, folder, class_names=["a", "b", "c"], preprocessing=PREPROCESSING, base_model="random", base_licence=None
    )
    return str(folder)


@pytest.fixture(scope="module")
def of_token(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT that reads its class token, behind its last norm."""
    return _saved(tmp_path_factory.mktemp("models") / "token", "vit_tiny_patch16_224", **TINY)


@pytest.fixture(scope="module")
def of_mean(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A ViT whose last norm follows the mean of its patches, as MAE's fine-tuned ones."""
    return _saved(tmp_path_factory.mktemp("models") / "mean", "vit_tiny_patch16_224", global_pool="avg", **TINY)


def _tokens(model: Any) -> Tensor:
    """Return the tokens after the last block, (B, 1 + N, D), which no norm has seen."""
    seen = list[Tensor]()
    handle = model.blocks[-1].register_forward_hook(lambda _block, _inputs, output: seen.append(output))
    model(IMAGES)
    handle.remove()
    return seen[0]


@torch.no_grad()
def test_avg__is_the_mean_of_normed_patches_with_the_pretrained_norm(of_token: str) -> None:
    own: Any = open_model(of_token).model
    made: Any = with_pooling(open_model(of_token), "avg").model
    seen = own.norm(_tokens(own))[:, 1:].mean(dim=1)
    torch.testing.assert_close(made(IMAGES), own.head(seen), rtol=0, atol=1e-6)
    assert (made(IMAGES) - own(IMAGES)).abs().max() > 0.01
    assert described_pooling(made) == "avg: the mean of the patches, normed before it"


@torch.no_grad()
def test_token__of_a_model_that_norms_after_its_mean(of_mean: str) -> None:
    own: Any = open_model(of_mean).model
    made: Any = with_pooling(open_model(of_mean), "token").model
    torch.testing.assert_close(made(IMAGES), own.head(own.fc_norm(_tokens(own)[:, 0])), rtol=0, atol=1e-6)
    assert described_pooling(made) == "token: the class token, normed after it"


@pytest.mark.parametrize("which", ["of_token", "of_mean"])
@torch.no_grad()
def test_map__reads_normed_patches_with_attention_of_keyed_weights(which: str, request: pytest.FixtureRequest) -> None:
    spec = request.getfixturevalue(which)
    own: Any = open_model(spec).model
    made: Any = with_pooling(open_model(spec), "map").model
    norm = own.norm if which == "of_token" else own.fc_norm
    seen = made.attn_pool(norm(_tokens(own))[:, 1:])
    torch.testing.assert_close(made(IMAGES), own.head(seen), rtol=0, atol=1e-6)

    again, other = (with_pooling(open_model(spec, seed=seed), "map").model.state_dict() for seed in (0, 1))
    differing = {name for name, tensor in made.state_dict().items() if not torch.equal(tensor, other[name])}
    assert all(torch.equal(tensor, again[name]) for name, tensor in made.state_dict().items())
    assert differing
    assert all(name.startswith("attn_pool.") for name in differing)


@pytest.mark.parametrize("pool", ["token", "avg", "map"])
@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("vit_tiny_patch16_224", TINY),
        ("vit_tiny_patch16_224", {**TINY, "reg_tokens": 2, "global_pool": "map"}),
        ("eva02_tiny_patch14_224", EVA),
    ],
)
@torch.no_grad()
def test_saved_folder__timm_computes_the_same(
    tmp_path: Path, name: str, arguments: Mapping[str, Any], pool: str
) -> None:
    made = with_pooling(open_model(_saved(tmp_path / "own", name, **arguments)), pool).model
    assert pooling_of(made) == pool
    save_timm_folder(
        made, tmp_path / "new", class_names=["a", "b", "c"], preprocessing=PREPROCESSING, base_model="random",
        base_licence=None,
    )  # fmt: skip
    opened = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True).eval()
    assert torch.equal(opened(IMAGES), made(IMAGES))


def test_same_pooling__leaves_the_model_as_it_is(of_token: str, of_mean: str) -> None:
    for spec, pool in ((of_token, "model"), (of_token, "token"), (of_mean, "avg"), (of_mean, "model")):
        opened = open_model(spec)
        assert with_pooling(opened, pool) is opened


def test_random_weights__are_those_of_a_model_made_so(of_token: str) -> None:
    made = with_pooling(open_model(of_token, weights="none", seed=3), "avg")
    same = open_model(of_token, weights="none", seed=3, model_args={"global_pool": "avg", "fc_norm": False})
    at_another_size = made.at((32, 32)).model
    assert all(torch.equal(tensor, same.model.state_dict()[name]) for name, tensor in made.model.state_dict().items())
    assert pooling_of(at_another_size) == "avg"


def test_head__that_was_trained_on_another_pooling_is_not_kept(of_token: str) -> None:
    names = ("a", "b", "c")
    anew, own = with_pooling(open_model(of_token), "avg").loaded, open_model(of_token).loaded
    assert fit_head(own, names, method="zero", seed=0)[0] == "kept"
    done, why = fit_head(anew, names, method="zero", seed=0)
    assert (done, why) == ("new, zero initialisation, 3 outputs", "its own is of another pooling")


@pytest.mark.parametrize(("pool", "word"), [("token", "cls"), ("avg", "mean")])
def test_head__sees_what_fewshot_eval_calls_by_its_own_word(of_token: str, pool: str, word: str) -> None:
    model = with_pooling(open_model(of_token), pool).model
    keys = [FeatureKey(FINAL, "native"), FeatureKey(FINAL, word)]
    native, same = FeatureExtractor(model, keys, device=torch.device("cpu"), name="tiny")(IMAGES).values()
    assert torch.equal(native, same)


def _random(name: str, **arguments: Any) -> PreparedModel:
    return open_model(name, weights="none", model_args=arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "pool", "words"),
    [
        ("test_resnet", {}, "avg", "cannot be had of test_resnet: timm builds it with one pooling only"),
        ("test_vit", {"class_token": False, "global_pool": "avg"}, "map", "say different things"),
        ("vit_relpos_small_patch16_224", SMALL, "token", "vit_relpos_small_patch16_224 has no class token"),
        ("deit_tiny_distilled_patch16_224", {"embed_dim": 6, "depth": 1}, "avg", "two heads read a token each"),
        ("beit_base_patch16_224", {"embed_dim": 24, "depth": 1}, "map", "Only avg or token pooling"),
    ],
)
def test_model_that_cannot__is_refused(name: str, arguments: Mapping[str, Any], pool: str, words: str) -> None:
    with pytest.raises(SettingError, match=words) as caught:
        with_pooling(_random(name, **arguments), pool)
    assert caught.value.field == "pool"


@pytest.mark.slow
@pytest.mark.usefixtures("no_rendering")
def test_run__keeps_its_pooling_for_who_goes_on_from_it(of_token: str, image_folder: Path) -> None:
    how = {"data": str(image_folder), "num_workers": 0, "batch_size": 8, "steps": 1, "head": "zero"}
    finetune.run(FinetuneConfig(model=of_token, pool="map", out="first", **how), Conversation())
    opened = open_model("first")
    assert pooling_of(opened.model) == "map"
    assert opened.model_args == {}
    assert with_pooling(opened, "map") is opened
    prepared = finetune.prepare(FinetuneConfig(model="first", out="second", **how), Conversation())
    assert pooling_of(prepared.job.model) == "map"
    own, new = opened.model.state_dict(), prepared.job.model.state_dict()
    assert all(np.array_equal(own[name], new[name]) for name in own if name.startswith("attn_pool."))
    assert replace(prepared.loaded, is_pooled_anew=False) == prepared.loaded
