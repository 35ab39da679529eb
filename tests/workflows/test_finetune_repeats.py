"""Same in, same out: repeats, configurations, workers and interruption; odd sizes do the right thing."""

import json
import math
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation, Progress
from vitctl.errors import InterruptedRun, SettingError
from vitctl.recipes import recipe_path
from vitctl.results.finetune import FinetuneResult, Score
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.workflows import finetune

pytestmark = pytest.mark.usefixtures("no_rendering")

Run = Callable[..., FinetuneResult]


@pytest.fixture
def run(image_folder: Path, tiny_model_folder: Path) -> Run:
    """Fine-tune the tiny model on 36 images for 5 steps of 8 at 24 px, into ``out``."""

    def do(*, out: str = "out", **changes: Any) -> FinetuneResult:
        settings = {"data": str(image_folder), "model": str(tiny_model_folder), "image_size": "24", "batch_size": 8}
        settings["num_workers"] = 0  # a process that reads images takes 0.1 s to start, for every validation
        if "epochs" not in changes:
            settings["steps"] = 5
        result = finetune.run(FinetuneConfig(**{**settings, "out": out, **changes}), Conversation())
        assert isinstance(result, FinetuneResult)
        return result

    return do


def steps_of(out: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in Path(out, "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_repeat__byte_identical(run: Run) -> None:
    first, second = run(out="a"), run(out="b")
    assert first.weights_sha256 == second.weights_sha256
    assert Path("a/metrics.jsonl").read_bytes() == Path("b/metrics.jsonl").read_bytes()


def test_other_seed__other_weights(run: Run) -> None:
    assert run(out="a").weights_sha256 != run(out="b", seed=1).weights_sha256


def test_workers__byte_identical(run: Run) -> None:
    assert run(out="a", num_workers=0).weights_sha256 == run(out="b", num_workers=2).weights_sha256


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"epochs": 1.5},
        {"recipe": "vit-paper", "lr": 0.1, "val_fraction": 0.3},
        {"set": ("rate.lr=0.3", "images.flip=true")},
    ],
)
def test_config_file__repeats_the_run_byte_for_byte(run: Run, changes: dict[str, Any]) -> None:
    first = run(out="a", seed=3, **changes)
    again = merge(config_from_file(Path("a/config.json")), {"out": "b"})
    assert finetune.run(again, Conversation()).weights_sha256 == first.weights_sha256
    assert Path("a/config.json").read_bytes() == Path("b/config.json").read_bytes()


def test_weights_none__seeded(run: Run) -> None:
    shas = [run(out=f"r{i}", weights="none", seed=seed).weights_sha256 for i, seed in enumerate((0, 0, 1))]
    assert shas[0] == shas[1] != shas[2]
    assert json.loads(Path("r0/summary.json").read_text())["grid_before"] is None


def test_first_loss_is_log_num_classes__zero_head(run: Run) -> None:
    """A zero head says nothing about the class: the first loss is ln 3 exactly (to float32)."""
    run(model="demo", image_size="32", head="zero")
    assert steps_of("out")[0]["loss"] == pytest.approx(math.log(3), abs=1e-6)


def test_same_classes__head_kept(run: Run) -> None:
    run(out="a")
    run(out="b", model="a")
    assert steps_of("b")[0]["loss"] != pytest.approx(math.log(3), abs=1e-6)


def test_validation_loss_is_what_evaluate_says(run: Run) -> None:
    from vitctl.settings.evaluate import EvaluateConfig
    from vitctl.workflows import evaluate

    summary = run()
    report = evaluate.run(EvaluateConfig(run="out", batch_size=3, num_workers=0), Conversation())
    assert report.nll == pytest.approx(summary.best.loss, abs=1e-6)
    assert report.top1 == summary.best.top1


def test_fewer_images_than_a_batch__images_repeat(run: Run) -> None:
    summary = run(batch_size=64, steps=2, val_fraction=0)
    assert summary.steps == 2
    assert steps_of("out")[-1]["epoch"] == pytest.approx(128 / 36, abs=1e-6)


def test_odd_batch_and_short_last_batch(run: Run) -> None:
    summary = run(batch_size=7, epochs=1, val_fraction=0)
    assert summary.steps == 6  # 5 batches of 7 and one of 1
    assert steps_of("out")[-1]["epoch"] == 1.0
    assert json.loads(Path("out/config.json").read_text())["epochs"] == 1


def test_no_validation_images__said_and_null(run: Run) -> None:
    summary = run(val_fraction=0)
    assert summary.num_val == 0
    assert summary.best == summary.last == Score(5, None, None)
    assert not Path("out/validation.json").exists()
    assert "val_loss" not in Path("out/metrics.jsonl").read_text()


def test_enough_validation_images__best_is_the_lowest_loss(run: Run) -> None:
    summary = run(set=("evaluation.select_best_from=1", "evaluation.validations=5"), lr=0.05, steps=10)
    lines = [json.loads(line) for line in Path("out/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["val_loss"] for line in lines if "val_loss" in line}
    assert summary.best.step == min(losses, key=lambda step: losses[step])
    assert summary.best.loss == min(losses.values())


def test_rectangle_and_equal_tokens(run: Run) -> None:
    summary = run(image_size="8x32")  # 4x4 to 2x8: as many tokens, other places
    assert (summary.grid_before, summary.grid_after) == ((4, 4), (2, 8))


@pytest.mark.parametrize(("steps", "val_fraction"), [(20, 0), (1, 0.2), (1, 0)])
def test_diverging__stops_with_a_sentence_and_leaves_nothing(run: Run, steps: int, val_fraction: float) -> None:
    """Also when it is the last step that spoils the weights: the loss of a step is from before it."""
    changes = ("optimizer.clip_norm=0", "evaluation.validations=1", "head.init=random", "optimizer.weight_decay=1e37")
    changes += ("rate.warmup_fraction=0",)
    with pytest.raises(SettingError, match=r"The (loss|validation loss|weights) became (nan|inf) at step \d+ .*--lr"):
        run(recipe="vit-paper", set=changes, lr=1000.0, steps=steps, val_fraction=val_fraction)
    assert not Path("out").exists()


def test_other_recipe_than_the_files__nothing_of_the_old_one_stays(run: Run) -> None:
    run(out="a", lr=0.123, flip=True, pos_embed_interp="bicubic")
    merged = merge(config_from_file(Path("a/config.json")), {"recipe": "vit-paper", "steps": 7})
    assert (merged.lr, merged.batch_size, merged.flip, merged.recipe_settings) == (None, None, None, None)
    assert merged.pos_embed_interp is None
    assert merged.steps == 7
    assert merged.image_size is None  # a recipe may say one


@pytest.mark.parametrize(
    ("changes", "the_same"),
    [
        (("optimizer.weight_decay=0.5",), {"recipe": "own.toml"}),
        (("rate.lr=0.3", "rate.lr_scaling=none"), {"lr": 0.3}),
        (("images.flip=true",), {"flip": True}),
    ],
)
def test_set__trains_what_a_file_or_an_option_would(
    run: Run, changes: tuple[str, ...], the_same: dict[str, Any]
) -> None:
    text = recipe_path("transfer").read_text().replace("weight_decay = { value = 0.05", "weight_decay = { value = 0.5")
    Path("own.toml").write_text(text)
    assert run(out="a", set=changes).weights_sha256 == run(out="b", **the_same).weights_sha256
    document = json.loads(Path("a/config.json").read_text())
    assert document["set"] == list(changes)


def test_set__is_seen_in_the_header_and_the_config(image_folder: Path, tiny_model_folder: Path, run_cli) -> None:
    shared = ["finetune", "--data", image_folder, "--model", tiny_model_folder, "--batch-size", 8, "--num-workers", 0]
    first = run_cli(*shared, "--set", "rate.lr=0.032", "--set", "length.steps=2", "--out", "a")
    assert first.exit_code == 0, first.stderr
    header = " ".join(first.stderr.split())
    assert "with --set rate.lr=0.032, length.steps=2" in header
    assert "--set rate.lr: 0.032 at batch 128, sqrt scaling; --lr is used as it is" in header
    document = json.loads(Path("a/config.json").read_text())
    assert document["set"] == ["rate.lr=0.032", "length.steps=2"]
    assert (document["lr"], document["steps"]) == (pytest.approx(0.008), 2)
    settings = document["recipe_settings"]
    assert (settings["lr"], settings["steps"], settings["steps_rule"]) == (0.032, 2, "fixed")
    more = ("--config", "a/config.json", "--set", "rate.lr_scaling=none", "--out", "b")
    second = run_cli("finetune", *more, "--dry-run", "--json").json["config"]
    assert second["set"] == ["rate.lr=0.032", "length.steps=2", "rate.lr_scaling=none"]
    assert (second["lr"], second["steps"]) == (0.032, 2)
    other = run_cli(
        "finetune", "--config", "a/config.json", "--recipe", "vit-paper", "--steps", 2, "--dry-run", "--json"
    )
    assert (other.json["config"]["set"], other.json["config"]["recipe_settings"]["lr"]) == (None, 0.01)


def test_bf16__validation_is_what_evaluate_computes(run: Run) -> None:
    """Only training may run in bf16: with it, the scores of a run are still those of fp32."""
    from vitctl.settings.evaluate import EvaluateConfig
    from vitctl.workflows import evaluate

    plain = run(out="fp32", steps=1)
    mixed = run(out="bf16", steps=1, precision="bf16")
    assert mixed.weights_sha256 != plain.weights_sha256
    report = evaluate.run(EvaluateConfig(run="bf16", num_workers=0), Conversation())
    assert report.nll == pytest.approx(mixed.best.loss, abs=1e-6)


def test_file_name_that_is_not_utf8__trains_and_evaluates(image_folder: Path, run: Run, run_cli) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (image_folder / "red" / "0.png").rename(image_folder / "red" / name)
    run(val_fraction=0.9)  # so that it is a validation image
    result = run_cli("evaluate", "out", "--num-workers", 0, "--json")
    assert result.exit_code == 0, result.stderr
    assert rb"caf\xe9.png" in Path("out/evaluate-val/predictions.csv").read_bytes()


class StopAfter(Conversation):
    """Sends this process a signal while the step ``step`` is being reported."""

    def __init__(self, number: signal.Signals, step: int) -> None:
        self.number, self.step = number, step

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        outer = self

        class Bar(Progress):
            count = 0

            def advance(self, amount: int = 1, **facts: str) -> None:
                self.count += amount
                if description == "training" and self.count == outer.step:
                    os.kill(os.getpid(), outer.number)

        yield Bar()


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted__the_step_is_finished_and_last_is_written(
    image_folder: Path, tiny_model_folder: Path, number: signal.Signals, exit_code: int
) -> None:
    from vitctl.models.prepared import open_model

    config = FinetuneConfig(data=str(image_folder), model=str(tiny_model_folder), steps=50, batch_size=4, out="out")
    with pytest.raises(InterruptedRun, match="Stopped after step 3 of 50. Step 3 of 50 is saved; go on with") as caught:
        finetune.run(config, StopAfter(number, 3))
    assert caught.value.exit_code == exit_code
    del caught  # with it the traceback goes, which keeps the loader and its processes (5 s to end when collected)
    assert len(steps_of("out")) == 3
    assert not Path("out/best").exists()
    assert open_model("out").class_names == ("blue", "green", "red")  # last/ stands in
    assert not [path for path in Path().iterdir() if path.name.startswith(".")]
