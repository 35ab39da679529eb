"""Checkpoints: whole or not there, found again, told when they are damaged; the run folder put back to one."""

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vitctl.run_folders.layout import checkpoint_of, has_checkpoint
from vitctl.training.checkpoint import (
    Snapshot,
    newest_checkpoint,
    put_back,
    write_checkpoint,
)
from vitctl.training.state import TrainingState


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2)


def state_at(step: int) -> TrainingState:
    model = Tiny()
    with torch.no_grad():
        model.head.weight.fill_(step)
    state = TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    state.step = step
    return state


def write(run: Path, step: int) -> None:
    """Write what a run is after ``step``: a line of each log, last/ and, at even steps, best/; then a checkpoint."""
    run.mkdir(exist_ok=True)
    for name in ("metrics.jsonl", "speed.jsonl"):
        with (run / name).open("a") as log:
            log.write(json.dumps({"step": step}) + "\n")
    for name in ["last", "best"][: 1 + (step % 2 == 0)]:
        folder = run / f"new-{name}"
        folder.mkdir()
        (folder / "model.safetensors").write_text(f"{name} of {step}")
        if (run / name).exists():
            os.rename(run / name, run / f"old-{name}-{step}")
        os.rename(folder, run / name)
    lengths = {name: (run / name).stat().st_size for name in ("metrics.jsonl", "speed.jsonl")}
    write_checkpoint(run, Snapshot.of(state_at(step)), made_with={"torch": "2"}, lengths=lengths)


def test_the_newest_two_are_kept_and_the_newest_is_found(tmp_path: Path) -> None:
    for step in (1, 2, 10):
        write(tmp_path, step)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-10", "step-2"]
    found, damaged = newest_checkpoint(tmp_path)
    assert found is not None
    assert (found.step, found.made_with, damaged) == (10, {"torch": "2"}, [])
    other = state_at(0)
    other.restore(found.tensors(), found.facts)
    assert other.step == 10
    assert torch.equal(other.model.head.weight, torch.full((2, 3), 10.0))


def test_no_checkpoint(tmp_path: Path) -> None:
    assert newest_checkpoint(tmp_path) == (None, [])
    assert not has_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / ".step-3.partial").mkdir(parents=True)
    (tmp_path / "checkpoints" / "step-x").mkdir()
    assert not has_checkpoint(tmp_path)


def cut(path: Path) -> None:
    (path / "weights.safetensors").write_bytes((path / "weights.safetensors").read_bytes()[:-1])


def flip_a_bit(path: Path) -> None:
    content = bytearray((path / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (path / "weights.safetensors").write_bytes(content)


def of_the_future(path: Path) -> None:
    document = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps(document | {"format": 99}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (cut, "is not as it was written"),
        (flip_a_bit, "is not as it was written"),
        (of_the_future, r"of another vitctl \(format 99\)"),
        (lambda path: (path / "last" / "model.safetensors").unlink(), "is not as it was written"),
        (lambda path: shutil.rmtree(path / "best"), "is not as it was written"),
        (lambda path: (path / "state.json").unlink(), "cannot be read"),
        (lambda path: (path / "state.json").write_text("{}"), "cannot be read"),
        (
            lambda path: (path.parent.parent / "metrics.jsonl").write_text('{"step": 1}\n'),
            "has 12 bytes; expected the 24",
        ),
    ],
)
def test_damaged__the_one_before_is_taken(tmp_path: Path, damage: Callable[[Path], Any], words: str) -> None:
    write(tmp_path, 1)
    write(tmp_path, 2)
    damage(checkpoint_of(tmp_path, 2))
    found, damaged = newest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(damaged) == 1
    assert re.search(words, damaged[0])


def test_put_back__the_run_is_what_it_was(tmp_path: Path) -> None:
    write(tmp_path, 1)
    assert not (tmp_path / "best").exists()
    first, _ = newest_checkpoint(tmp_path)
    write(tmp_path, 2)
    second, _ = newest_checkpoint(tmp_path)
    assert first is not None
    assert second is not None
    with (tmp_path / "metrics.jsonl").open("a") as log:
        log.write('{"step": 3}\n{"st')
    put_back(tmp_path, second)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    assert (tmp_path / "best" / "model.safetensors").read_text() == "best of 2"
    put_back(tmp_path, first)
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert (tmp_path / "last" / "model.safetensors").read_text() == "last of 1"
    assert not (tmp_path / "best").exists()
    assert newest_checkpoint(tmp_path)[0] == first


@pytest.mark.parametrize("has_links", [True, False])
def test_put_back__of_links_or_copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    write(tmp_path, 2)
    kept = checkpoint_of(tmp_path, 2) / "best" / "model.safetensors"
    assert kept.samefile(tmp_path / "best" / "model.safetensors") == has_links
    checkpoint, _ = newest_checkpoint(tmp_path)
    assert checkpoint is not None
    write(tmp_path, 4)
    put_back(tmp_path, checkpoint)
    assert (tmp_path / "best" / "model.safetensors").read_text() == "best of 2"


@pytest.mark.parametrize("stride", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_killed_anywhere__a_checkpoint_is_whole_and_the_newest_of_those_before(
    tmp_path: Path, killed_at: Callable[[Callable[[], object], int], bool], stride: int
) -> None:
    run = tmp_path / "run"
    write(run, 1)
    write(run, 2)
    lengths = {name: (run / name).stat().st_size for name in ("metrics.jsonl", "speed.jsonl")}

    def save() -> None:
        write_checkpoint(run, Snapshot.of(state_at(3)), made_with={}, lengths=lengths)

    seen = set()
    for number in range(1, 200, stride):
        was_killed = killed_at(save, number)
        found, damaged = newest_checkpoint(run)
        assert found is not None
        assert damaged == []
        seen.add(found.step)
        put_back(run, found)
        if not was_killed:
            break
    assert not was_killed
    assert seen == {2, 3}
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == ["step-2", "step-3"]


def test_a_checkpoint_holds_no_pickle(tmp_path: Path) -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=8, patch_size=4, embed_dim=12, depth=1, num_heads=2)
    state = TrainingState(model, torch.optim.AdamW(model.parameters()))
    write_checkpoint(tmp_path, Snapshot.of(state), made_with={}, lengths={})
    names = sorted(path.name for path in checkpoint_of(tmp_path, 0).iterdir())
    assert names == ["state.json", "weights.safetensors"]
