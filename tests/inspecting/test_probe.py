"""Probes are fewshot-eval's, tokens and poolings stand where they belong, and nothing is found where nothing is."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.evaluation import probe_layers
from vitctl.evaluation.probe_layers import PROBE_POOLS, even_positions
from vitctl.evaluation.tasks import ImageTask
from vitctl.inspecting.findings import Findings
from vitctl.inspecting.probe import draw_task, probe
from vitctl.inspecting.subjects import ModelChoice, load_subject
from vitctl.primitives.seeds import random_generator
from vitctl.settings.fewshot_eval import FewshotEvalConfig
from vitctl.workflows import fewshot_eval

pytestmark = pytest.mark.usefixtures("no_rendering")

Draw = Callable[[int, np.random.Generator], np.ndarray]  # from a class to (16, 16, 3) uint8


def draw_folder(folder: Path, draw: Draw, *, count: int) -> Path:
    """Write ``count`` images of 16x16 px for each of three classes."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("ash", "birch", "cedar")):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            Image.fromarray(draw(label, rng)).save(folder / name / f"{index:03d}.png")
    return folder


def noise(_label: int, rng: np.random.Generator) -> np.ndarray:
    return rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)


def tinted(label: int, rng: np.random.Generator) -> np.ndarray:
    pixels = rng.integers(0, 226, (16, 16, 3), dtype=np.uint8)
    pixels[..., label] += np.uint8(30)
    return pixels


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """3 classes with 20 images each whose class shows a little in one colour."""
    return draw_folder(tmp_path_factory.mktemp("data") / "photos", tinted, count=20)


def drawn(data: Path, *, seeds: int = 3, num_test_images: int = 256, seed: int = 0) -> ImageTask:
    return draw_task(
        str(data), SourceOptions(), shots=5, seeds=seeds, num_test_images=num_test_images, seed=seed, skip_bad=False,
        conversation=Conversation(),
    )  # fmt: skip


def probed(
    model: Path | str,
    task: ImageTask,
    *,
    weights: str = "pretrained",
    image_size: tuple[int, int] | None = None,
    seed: int = 0,
) -> Findings:
    """Return what probes of five images a class find in every layer."""
    one = load_subject(
        ModelChoice("mine", str(model), weights), image_size=image_size, method=None, seed=seed,
        device=torch.device("cpu"), conversation=Conversation(),
    )  # fmt: skip
    return probe(
        one.subject, one.opened, task, shots=5, l2=1024.0, seed=seed, batch_size=64, num_workers=0,
        conversation=Conversation(),
    )  # fmt: skip


@pytest.fixture(scope="module")
def usual(tiny_model_folder: Path, photos: Path) -> Findings:
    return probed(tiny_model_folder, drawn(photos))


def test_accuracies_are_those_of_fewshot_eval(
    usual: Findings, tiny_model_folder: Path, photos: Path, tmp_path: Path
) -> None:
    rows = []
    for layers, pools in (("embed,0,1,final", "native,mean,mean-all,first,tokens"), ("0,1,final", "cls")):
        config = FewshotEvalConfig(
            model=(str(tiny_model_folder),), data=(str(photos),), shots="5", seeds=3, layers=layers, pool=pools,
            num_workers=0, device="cpu", out=str(tmp_path / pools),
        )  # fmt: skip
        rows += fewshot_eval.run(config, Conversation()).results
    layers, pools = usual.arrays["layers"].tolist(), usual.arrays["pools"].tolist()
    assert (layers, pools) == (["embed", "0", "1", "final"], list(PROBE_POOLS))
    expected = np.full((4, 6), np.nan)
    for row in rows:
        place = layers.index(str(row.layer)), pools.index(row.pool)
        expected[place] = row.top1_mean
        assert usual.arrays["accuracy_std"][place] == pytest.approx(row.top1_std)
        low, high = row.top1_ci95
        assert usual.arrays["half_width"][place] == pytest.approx((high - low) / 2)
    np.testing.assert_allclose(usual.arrays["accuracy"], expected, rtol=1e-12)
    assert np.isnan(usual.arrays["accuracy"]).sum() == 1  # the class token before the first block
    assert {row.num_test for row in rows} == {usual.facts["num_test"]} == {12}


def test_facts(usual: Findings, photos: Path) -> None:
    accuracy = usual.arrays["accuracy"]
    assert usual.facts["chance"] == usual.arrays["chance"] == 1 / 3
    assert (usual.facts["shots"], usual.facts["seeds"], usual.facts["num_support"]) == (5, 3, 15)
    assert usual.facts["data"] == str(photos)
    best = {pool: usual.arrays["layers"][np.nanargmax(accuracy[:, k])] for k, pool in enumerate(PROBE_POOLS)}
    assert usual.facts["best_layer"] == best
    assert usual.facts["interval_half_width"] == np.nanmax(usual.arrays["half_width"])
    assert accuracy[0, PROBE_POOLS.index("mean")] > 0.8  # the colour
    assert usual.header == ("layer", *PROBE_POOLS)
    assert usual.rows[0][:3] == ("embed", f"{accuracy[0, 0]:.2%}", "none")


def test_token_pool_is_the_mean_of_the_tokens(usual: Findings) -> None:
    tokens = usual.arrays["token_accuracy"]
    assert tokens.shape == (4, 4, 4)
    np.testing.assert_allclose(tokens.mean(axis=(1, 2)), usual.arrays["accuracy"][:, PROBE_POOLS.index("tokens")])
    np.testing.assert_allclose(tokens[:, 0, 0], usual.arrays["accuracy"][:, PROBE_POOLS.index("first")])
    assert usual.facts["last_layer_token_mean"] == pytest.approx(tokens[-1].mean())
    assert tokens.std() > 0


def test_one_token_carries_the_class(tiny_model_folder: Path, tmp_path: Path) -> None:
    def planted(label: int, rng: np.random.Generator) -> np.ndarray:
        pixels = noise(label, rng)
        pixels[4:8, 8:12] = 20 + 30 * (np.arange(3) == label)  # the patch of row 1, column 2
        return pixels

    data = draw_folder(tmp_path / "planted", planted, count=20)
    tokens = probed(tiny_model_folder, drawn(data)).arrays["token_accuracy"][0]  # of embed
    assert tokens[1, 2] == 1
    tokens[1, 2] = np.nan
    assert np.nanmax(tokens) < 0.75
    assert abs(np.nanmean(tokens) - 1 / 3) < 0.1


def test_classes_without_a_meaning_are_found_by_chance(tiny_model_folder: Path, tmp_path: Path) -> None:
    data = draw_folder(tmp_path / "noise", noise, count=60)
    found = probed(tiny_model_folder, drawn(data))
    is_inside = np.abs(found.arrays["accuracy"] - 1 / 3) <= found.arrays["half_width"]
    assert is_inside.sum() >= 0.9 * np.isfinite(found.arrays["accuracy"]).sum()
    assert abs(found.arrays["token_accuracy"].mean() - 1 / 3) < 0.05


def test_test_images__are_the_first_of_a_seeded_order(tiny_model_folder: Path, photos: Path) -> None:
    whole, fewer, others = drawn(photos), *(drawn(photos, num_test_images=7, seed=seed) for seed in (0, 1))
    chosen = np.sort(random_generator(0, "inspection").permutation(12)[:7])
    np.testing.assert_array_equal(whole.test_labels[chosen], fewer.test_labels)
    np.testing.assert_array_equal(whole.labels, fewer.labels)  # supports do not depend on it
    assert fewer.used.test.image_names() != others.used.test.image_names()
    assert probed(tiny_model_folder, fewer).facts["num_test"] == 7


def test_one_pass_or_several_make_no_difference(
    usual: Findings, tiny_model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_layers, "BYTES_AT_ONCE", 1)
    found = probed(tiny_model_folder, drawn(photos))
    for key in ("accuracy", "token_accuracy"):
        np.testing.assert_array_equal(found.arrays[key], usual.arrays[key])


def test_many_tokens__an_even_part_of_them_is_probed(
    usual: Findings, tiny_model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_layers, "MOST_TOKENS", 8)
    found = probed(tiny_model_folder, drawn(photos))
    tokens = found.arrays["token_accuracy"]
    places = even_positions((4, 4), most=8, seed=0)
    assert np.isfinite(tokens).sum(axis=(1, 2)).tolist() == [4] * 4
    expected = usual.arrays["token_accuracy"].reshape(4, -1)[:, places]
    np.testing.assert_array_equal(tokens.reshape(4, -1)[:, places], expected)
    np.testing.assert_allclose(found.arrays["accuracy"][:, -1], expected.mean(axis=1))
    assert found.notes[0] == "Layer embed has 16 tokens; 4 of them, evenly spread, were probed."
    np.testing.assert_array_equal(found.arrays["accuracy"][:, :-1], usual.arrays["accuracy"][:, :-1])


def test_a_layer_too_large_to_hold__is_probed_in_part(
    tiny_model_folder: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe_layers, "BYTES_OF_A_LAYER", 1)
    found = probed(tiny_model_folder, drawn(photos))
    assert np.isfinite(found.arrays["token_accuracy"]).sum(axis=(1, 2)).tolist() == [1] * 4
    assert "1 of them" in found.notes[0]


@pytest.mark.parametrize("grid", [(56, 56), (17, 17), (1, 1000), (3, 400), (16, 17), (33, 31)])
def test_even_positions(grid: tuple[int, int]) -> None:
    places = even_positions(grid, most=256, seed=0)
    rows, columns = np.unique(places // grid[1]), np.unique(places % grid[1])
    assert len(places) == len(rows) * len(columns) <= 256
    assert len(places) >= 0.2 * 256
    steps = {*np.diff(rows).tolist(), *np.diff(columns).tolist()}
    assert len(steps) == 1
    assert places.max() < grid[0] * grid[1]
    assert any(even_positions(grid, most=256, seed=seed)[0] != places[0] for seed in range(1, 9))


def test_a_cnn__has_tokens_on_its_last_grid_only(photos: Path) -> None:
    found = probed("test_resnet", drawn(photos, seeds=2), weights="none", image_size=(64, 64))
    assert found.arrays["layers"].tolist() == ["embed", "0", "1", "2", "3", "final"]
    has_tokens = np.isfinite(found.arrays["token_accuracy"]).all(axis=(1, 2))
    grid = found.arrays["token_accuracy"].shape[1:]
    assert grid == (2, 2)
    assert has_tokens.tolist() == [False] * 4 + [True] * 2
    accuracy = found.arrays["accuracy"]
    assert np.isnan(accuracy[:, PROBE_POOLS.index("cls")]).all()
    assert np.isfinite(np.delete(accuracy, PROBE_POOLS.index("cls"), axis=1)).all()
    np.testing.assert_array_equal(accuracy[:, PROBE_POOLS.index("mean")], accuracy[:, PROBE_POOLS.index("mean-all")])
    assert found.facts["best_layer"]["cls"] is None
    assert found.facts["model"] == "mine"


def test_random_weights_follow_their_seed(tiny_model_folder: Path, photos: Path) -> None:
    task = drawn(photos, seeds=2)
    first, other, again = (probed(tiny_model_folder, task, weights="none", seed=seed) for seed in (0, 1, 0))
    assert not np.array_equal(first.arrays["token_accuracy"], other.arrays["token_accuracy"])
    np.testing.assert_array_equal(first.arrays["token_accuracy"], again.arrays["token_accuracy"])


def test_the_model_stays_where_and_what_it_was(tiny_model_folder: Path, photos: Path) -> None:
    """Other analyses are shown the same model, before and after."""
    one = load_subject(
        ModelChoice("mine", str(tiny_model_folder), "pretrained"), image_size=None, method=None, seed=0,
        device=torch.device("cpu"), conversation=Conversation(),
    )  # fmt: skip
    before = {name: value.clone() for name, value in one.subject.model.state_dict().items()}
    probe(one.subject, one.opened, drawn(photos, seeds=1), shots=5, l2=1024.0, seed=0, batch_size=64, num_workers=0,
          conversation=Conversation())  # fmt: skip
    assert not any(module._forward_hooks or module.training for module in one.subject.model.modules())
    for name, value in one.subject.model.state_dict().items():
        assert value.device == one.subject.device
        assert torch.equal(value, before[name])
