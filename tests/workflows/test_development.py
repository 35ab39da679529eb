"""A run on development images, from beginning to end: stopped before its end, gone on with, evaluated."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation, Setting
from vitctl.errors import DataError
from vitctl.results.finetune import DryRunResult, FinetuneResult
from vitctl.run_folders.kept_logits import read_logits
from vitctl.settings.files import config_from_file
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

pytestmark = pytest.mark.usefixtures("no_rendering")


class Header(Conversation):
    """Keeps what the header says."""

    def __init__(self) -> None:
        self.said: dict[str, str] = {}

    def header(self, title: str, settings: list[Setting]) -> None:
        self.said = {one.name: f"{one.value}; {one.reason}" for one in settings} | self.said


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path) -> FinetuneConfig:
    return FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), batch_size=8, num_workers=0, steps=2, recipe="demo",
        head="zero", set=("evaluation.validations=1", "evaluation.select_best_from=1"), out="out",
        dev_fraction="auto", split_seed=3,
    )  # fmt: skip


def test_dev_run__its_end_is_written_when_it_goes_on(config: FinetuneConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patched:
        patched.setattr(finetune, "summarise", fail)
        with pytest.raises(ZeroDivisionError):
            finetune.run(config, Conversation())
    listing = json.loads(Path("out/validation.json").read_text())
    assert not Path("out/val-logits.safetensors").exists()

    header = Header()
    summary = finetune.run(FinetuneConfig(resume="out"), header)
    assert isinstance(summary, FinetuneResult)
    assert header.said["goes on"].startswith("after step 2 of 2")
    assert header.said["development images"] == (
        "3; cut from the training images, to choose settings by; 0.1 of 29, stratified, seed 3; "
        "7 validation images are left untouched"
    )
    assert header.said["seed"] == "0; order, augmentation, random weights; of the split 3"
    assert (summary.num_train, summary.num_val, summary.num_untouched, summary.validated_on) == (26, 3, 7, "dev")
    kept = read_logits(Path("out"))
    assert kept is not None
    assert list(kept.hashes) == listing["hashes"]
    assert summary.best.top1 == pytest.approx((kept.logits.argmax(axis=1) == kept.labels).mean())
    saved = config_from_file(Path("out/config.json"))
    assert (saved.dev_fraction, saved.fold, saved.split_seed) == (0.1, None, 3)


@pytest.mark.slow
def test_dry_run__says_how_images_are_divided(config: FinetuneConfig) -> None:
    header = Header()
    cost = finetune.run(replace(config, dev_fraction=None, fold="2/4", dry_run=True), header)  # type: ignore[arg-type]
    assert isinstance(cost, DryRunResult)
    assert (cost.num_train, cost.num_val, cost.validated_on) == (27, 9, "fold")
    assert cost.config["fold"] == "2/4"
    assert header.said["validation images"] == "9; part 2 of 4 of the 36 training images, stratified, seed 3"


@pytest.mark.slow
def test_same_split_seed__the_same_images_for_other_seeds_and_processes(config: FinetuneConfig) -> None:
    ways = ({}, {"seed": 5}, {"num_processes": None, "num_workers": 2})
    for number, way in enumerate(ways):
        finetune.run(replace(config, out=f"out{number}", **way), Conversation())  # type: ignore[arg-type]
    listings = [Path(f"out{number}/validation.json").read_text() for number in range(len(ways))]
    assert len(set(listings)) == 1
    with pytest.raises(Exception, match="is a run with other settings"):
        finetune.run(replace(config, out="out0", split_seed=4), Conversation())


@pytest.mark.slow
def test_going_on__other_untouched_images_are_refused(config: FinetuneConfig, stopped_after: Any) -> None:
    stopped_after(1, replace(config, save_every="1"))  # type: ignore[arg-type]
    untouched = json.loads(Path("out/validation.json").read_text())["untouched"]
    first = Path(untouched["data"]) / untouched["images"][0]
    first.write_bytes(next(first.parent.parent.glob("[!r]*/1.png")).read_bytes())
    with pytest.raises(DataError, match="are no longer those that the run was made with"):
        finetune.run(FinetuneConfig(resume="out"), Conversation())
