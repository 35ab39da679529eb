"""Soups of run folders: of weights that lie around a known mean; and which runs may not be averaged."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from vitctl.conversation import Conversation
from vitctl.errors import DataError, SettingError
from vitctl.models.folder_config import read_folder_config
from vitctl.models.prepared import open_model
from vitctl.run_folders.kept_logits import read_logits, write_logits
from vitctl.run_folders.seen import SeenRun, look_at
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.ingredients import check_ingredients
from vitctl.sweeping.pot import Pot
from vitctl.sweeping.soup import _Judge, cook

CONFIG = SweepConfig(soup=True, num_workers=0, device="cpu", num_threads=1)


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.fixture
def run_with(finished_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return ``run_with(NAME, SHIFT)``: the run, of which SHIFT was added to the bias of the head of last/."""

    def make(name: str, shift: tuple[float, float, float]) -> Path:
        run = Path(shutil.copytree(finished_run, tmp_path / name))
        weights = weights_of(run / "last")
        weights["head.bias"] = weights["head.bias"] + torch.tensor(shift)
        save_file(weights, run / "last" / "model.safetensors")
        summary = json.loads((run / "summary.json").read_text()) | {"weights_sha256": name}
        (run / "summary.json").write_text(json.dumps(summary))
        return run

    return make


def test_cook__the_mean_of_runs_that_err_to_both_sides_is_kept(
    run_with: Callable[..., Path], finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [run_with("left", (8.0, -8.0, 0.0)), run_with("right", (-8.0, 8.0, 0.0))]
    soup = cook(runs, CONFIG, tmp_path / "soup", Conversation())
    summary = json.loads((finished_run / "summary.json").read_text())
    assert (soup.chosen, soup.num_runs, len(soup.greedy_runs)) == ("greedy", 2, 2)
    assert soup.greedy_nll == soup.uniform_nll == pytest.approx(summary["last"]["loss"], abs=1e-5)
    assert soup.greedy_top1 == summary["last"]["top1"]
    assert soup.single_nll > soup.greedy_nll
    assert soup.num_dev == summary["num_val"]
    mean, own = weights_of(tmp_path / "soup"), weights_of(finished_run / "last")
    assert all(torch.allclose(mean[name], one, atol=1e-6) for name, one in own.items())
    opened = open_model(str(tmp_path / "soup"))
    assert opened.class_names == ("blue", "green", "red")
    assert opened.image_size == (24, 24)
    settings = [read_folder_config(folder).pretrained_cfg for folder in (tmp_path / "soup", finished_run / "last")]
    assert settings[0] == settings[1]  # what images are made of

    monkeypatch.setattr("vitctl.sweeping.soup.open_model", None)  # the same weights are not cooked again
    assert cook(runs, CONFIG, tmp_path / "soup", Conversation()) == soup
    document = json.loads((tmp_path / "soup" / "soup.json").read_text())
    (tmp_path / "soup" / "soup.json").write_text(json.dumps(document | {"num_runs": "many"}))
    with pytest.raises(TypeError):  # nor is what it says read where it is no soup's
        cook(runs, CONFIG, tmp_path / "soup", Conversation())
    with pytest.raises(TypeError):
        cook(runs, replace(CONFIG, select="top1", grid=("lr=1,2",)), tmp_path / "soup", Conversation())


def test_cook__no_soup_is_better_than_a_run_that_is_right(run_with: Callable[..., Path], tmp_path: Path) -> None:
    runs = [run_with("wrong", (30.0, 0.0, 0.0)), run_with("as_it_was", (0.0, 0.0, 0.0))]
    soup = cook(runs, CONFIG, tmp_path / "soup", Conversation())
    assert (soup.chosen, soup.greedy_runs, soup.single_run) == ("single", (str(runs[1]),), str(runs[1]))
    kept, own = weights_of(tmp_path / "soup"), weights_of(runs[1] / "last")
    assert all(kept[name].equal(one) for name, one in own.items())


def test_cook__damaged_logits__the_run_is_to_be_trained_again(run_with: Callable[..., Path], tmp_path: Path) -> None:
    runs = [run_with("whole", (1.0, 0.0, 0.0)), run_with("damaged", (0.0, 0.0, 0.0))]
    (runs[1] / "val-logits.safetensors").write_bytes(b"x")
    with pytest.raises(DataError, match=r"is damaged; .* Remove .*damaged, and the same command trains it again\."):
        cook(runs, CONFIG, tmp_path / "soup", Conversation())


def test_judge__a_mean_with_batch_norms_has_statistics_of_the_training_images(monkeypatch: pytest.MonkeyPatch) -> None:
    norms = [nn.Sequential(nn.BatchNorm2d(2)).eval() for _ in range(2)]
    norms[1].load_state_dict(norms[1].state_dict() | {"0.running_mean": torch.full((2,), 8.0)})
    pot = Pot().with_(norms[0].state_dict()).with_(norms[1].state_dict())
    images = torch.arange(16.0).reshape(2, 2, 2, 2)
    monkeypatch.setattr(_Judge, "_batches", lambda _: iter([images]))
    opened: Any = SimpleNamespace(model=norms[0])
    nothing: Any = None
    judge = _Judge(opened, nothing, nothing, "nll", torch.device("cpu"), 0, is_in_memory=True, conversation=nothing)
    assert judge.weights(pot)["0.running_mean"].equal(images.mean(dim=(0, 2, 3)))


@pytest.fixture
def seen(finished_run: Path) -> SeenRun:
    return look_at(finished_run)


@pytest.mark.parametrize(
    ("config", "summary", "sentence"),
    [
        ({"model": "other"}, {}, "differs from .* in --model; only runs of one start"),
        ({"tune": "head"}, {}, "in --tune"),
        ({"head": "ridge"}, {}, "in --head"),
        ({"time_limit": "1h"}, {}, "was as long as --time-limit allowed; only runs of full length"),
        ({}, {"last": {"step": 12}}, "took 12 of 60 steps; only runs of full length"),
    ],
)
def test_ingredients__runs_of_another_start_or_length_are_refused(
    seen: SeenRun, config: dict[str, object], summary: dict[str, object], sentence: str
) -> None:
    other = replace(seen, config={**seen.config, **config}, summary={**seen.summary, **summary})
    with pytest.raises(SettingError, match=sentence):
        check_ingredients([seen, other])


def test_ingredients__other_seeds_are_one_start_unless_weights_are_drawn(seen: SeenRun) -> None:
    other = replace(seen, config={**seen.config, "seed": 7, "lr": 0.5})
    check_ingredients([seen, other])
    drawn = [replace(one, config={**one.config, "weights": "none"}) for one in (seen, other)]
    with pytest.raises(SettingError, match="in its random weights"):
        check_ingredients(drawn)
    heads = [
        replace(one, config={**one.config, "head": None, "recipe_settings": {"head.init": "random"}})
        for one in (seen, other)
    ]
    with pytest.raises(SettingError, match="in the start of its head"):
        check_ingredients(heads)
    with pytest.raises(SettingError, match="in the start of its head"):
        check_ingredients([replace(one, config={**one.config, "pool": "map"}) for one in (seen, other)])


def test_ingredients__other_images_are_refused(run_with: Callable[..., Path]) -> None:
    first, second = run_with("first", (0.0,) * 3), run_with("second", (0.0,) * 3)
    kept = read_logits(first)
    assert kept is not None
    write_logits(second, replace(kept, hashes=("0" * 32, *kept.hashes[1:])))
    with pytest.raises(DataError, match="was judged on other images"):
        check_ingredients([look_at(first), look_at(second)])
    (second / "val-logits.safetensors").unlink()
    with pytest.raises(DataError, match="is gone; .* the same command trains it again"):
        check_ingredients([look_at(first), look_at(second)])
