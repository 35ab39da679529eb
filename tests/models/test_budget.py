"""Models that a few bytes of ``config.json`` describe and no memory holds: refused before anything is allocated."""

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from vitctl.errors import ModelError
from vitctl.models import budget
from vitctl.models.budget import check_buildable
from vitctl.models.build import load_model
from vitctl.models.named import DEMO_FOLDER


def _folder(path: Path, **arguments: Any) -> Path:
    """Return a copy of the demo whose ``model_args`` say something else."""
    shutil.copytree(DEMO_FOLDER, path)
    file = path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"model_args": config["model_args"] | arguments}))
    return path


TOO_LARGE: dict[str, tuple[dict[str, Any], str]] = {
    "depth": ({"depth": 100_000}, "parameters or more, for which"),
    "a depth that becomes a list": ({"depth": 10**9}, r"model_args\.depth is 1000000000; expected at most 131,072"),
    "among others": ({"norm": [1, {"a": [2**64]}]}, r"model_args\.norm\.a is 18446744073709551616"),
    "width": ({"embed_dim": 120_000}, r"it has [\d.]+ \w parameters or more, for which .*model\.safetensors of"),
    "image size": ({"img_size": 100_000}, "parameters or more, for which"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_load_model__too_large_to_be_true(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(budget, "SPARE_PARAMETERS", 2**20)  # a few blocks less to build
    arguments, sentence = TOO_LARGE[name]
    folder = _folder(tmp_path / "model", **arguments)
    unit = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ModelError, match=sentence) as caught:
        load_model(str(folder))
    assert str(caught.value).startswith(f"{folder} cannot be built: ")
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit < 300 * 2**20


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"depth": 100_000, "embed_dim": 3}, "it has more than 300 tensors; expected a few hundred"),
        ({"embed_dim": 120_000}, r"it takes [\d.]+ \wiB of memory or more, and 64 GiB are free\. Use a smaller model"),
    ],
)
def test_load_model__random_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: dict[str, Any], sentence: str
) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda: 2**36)
    monkeypatch.setattr(budget, "MOST_TENSORS", 300)
    with pytest.raises(ModelError, match=sentence):
        load_model(str(_folder(tmp_path / "model", **arguments)), weights="none")


def test_load_model__at_a_size_that_no_memory_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda: 2**36)
    with pytest.raises(ModelError, match=r"^demo cannot be built: it takes 91\.6 GiB of memory or more, and 64 GiB"):
        load_model("demo", weights="none", image_size=(64_000, 64_000))


def test_load_model__changes_no_random_number(tmp_path: Path) -> None:
    folder = _folder(tmp_path / "model")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_model(str(folder), weights="none")
    assert torch.rand(3).equal(expected)


def test_check_buildable__counts_nothing_afterwards() -> None:
    check_buildable(lambda: torch.nn.Linear(2, 2), name="it", weights=None)
    with pytest.raises(ModelError):
        check_buildable(lambda: torch.nn.Linear(10**9, 10**9), name="it", weights=None)
    for _ in range(budget.MOST_TENSORS // 2 + 1):
        torch.nn.Linear(1, 1)


def test_check_buildable__leaves_other_errors_to_the_build() -> None:
    check_buildable(lambda: torch.nn.Linear(2, "x"), name="it", weights=None)  # type: ignore[arg-type]


def test_check_buildable__of_batch_norm_the_buffers_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget, "free_bytes", lambda: 1000)
    check_buildable(lambda: torch.nn.BatchNorm1d(60), name="it", weights=None)  # 4 x 60 x 4 bytes, and the count
    with pytest.raises(ModelError, match=r"it takes 1\.\d+ KiB of memory"):
        check_buildable(lambda: torch.nn.BatchNorm1d(70), name="it", weights=None)
