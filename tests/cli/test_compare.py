"""``vitctl compare RUN...``: rows, pairs, files; refused where runs are none, are not finished, saw other images."""

import csv
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from vitctl.run_folders import said
from vitctl.run_folders.kept_logits import KeptLogits, read_logits, write_logits

NUM_IMAGES = 40
CLASSES = ("cat", "dog", "owl")
MakeRun = Callable[..., Path]


@pytest.fixture(autouse=True)
def _no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out how runs learnt, which takes longer than all the rest, but of what is slow anyway."""
    from vitctl.reporting import compare_figures

    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(compare_figures, "draw_learning", lambda _runs, _names, path: path.write_bytes(b""))


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """Make a finished run folder of which only what is read is there: ``make_run("a", lr=0.1, seed=1)``."""

    def make(name: str, *, order: list[int] | None = None, skill: float = 2.0, **settings: Any) -> Path:
        from vitctl import __version__
        from vitctl.settings.finetune import FinetuneConfig

        run = tmp_path / name
        (run / "best").mkdir(parents=True)
        config = FinetuneConfig(data="/gone/photos", model="demo", steps=3, batch_size=8, **settings)
        (run / "config.json").write_text(json.dumps({"vitctl": __version__, **config.as_json()}))
        (run / "summary.json").write_text(json.dumps({"run": str(run), "last": {"step": 3}}))
        metrics = [{"step": 0, "val_loss": 1.1, "val_top1": 0.3}]
        metrics += [{"step": step, "loss": 1 / step, "lr": 0.1} for step in (1, 2, 3)]
        metrics += [{"step": 3, "val_loss": 0.5, "val_top1": 0.8}]
        (run / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
        (run / "speed.jsonl").write_text("\n".join(json.dumps({"step": s, "step_s": 0.5}) for s in (1, 2, 3)))
        rng = np.random.default_rng(list(name.encode()))
        labels = np.arange(NUM_IMAGES, dtype=np.int64) % 3
        logits = rng.normal(size=(NUM_IMAGES, 3)).astype(np.float32)
        logits[np.arange(NUM_IMAGES), labels] += skill
        order = order or list(range(NUM_IMAGES))
        hashes = tuple(f"{index:032x}" for index in order)
        write_logits(run, KeptLogits(logits[order], labels[order], hashes, CLASSES))
        names = [f"photos/{index}.png" for index in order]
        listing = {"data": "/gone/photos", "images": names, "hashes": list(hashes)}
        (run / "validation.json").write_text(json.dumps(listing))
        return run

    return make


def table(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def correct(run: Path) -> np.ndarray:
    kept = read_logits(run)
    assert kept is not None
    right: np.ndarray = kept.logits.argmax(axis=1) == kept.labels
    return right


def test_two_runs__figures_files_and_screen(run_cli, make_run: MakeRun) -> None:
    a, b = make_run("a", lr=0.1, skill=1.0), make_run("b", lr=0.2, skill=4.0)
    document = run_cli("compare", a, b, "--json").json
    assert [row["name"] for row in document["rows"]] == ["lr=0.1", "lr=0.2"]
    assert [row["runs"] for row in document["rows"]] == [[str(a)], [str(b)]]
    assert [row["settings"] for row in document["rows"]] == [{"lr": 0.1}, {"lr": 0.2}]
    assert document["num_images"] == NUM_IMAGES
    assert document["rows"][0]["top1"] == pytest.approx(correct(a).mean())
    (pair,) = document["pairs"]
    only_a, only_b = int((correct(a) & ~correct(b)).sum()), int((~correct(a) & correct(b)).sum())
    assert pair["mcnemar_p"] == pytest.approx(stats.binomtest(only_a, only_a + only_b).pvalue)
    assert pair["difference"] == pytest.approx((only_b - only_a) / NUM_IMAGES)
    assert pair["ci95"][0] < pair["difference"] < pair["ci95"][1]
    out = Path(document["out"])
    assert out == Path.cwd() / "compare"
    assert {path.name for path in out.iterdir()} == {
        "compare.json", "compare.csv", "pairs.csv", "disagreements.csv", "curves.png",
    }  # fmt: skip
    assert json.loads((out / "compare.json").read_text()) == document
    assert [row["top1"] for row in table(out / "compare.csv")] == [str(row["top1"]) for row in document["rows"]]
    assert float(table(out / "pairs.csv")[0]["ci95_low"]) == pair["ci95"][0]
    odd = table(out / "disagreements.csv")
    assert len(odd) == document["num_disagreements"] > 0
    assert odd[0]["image"].startswith("photos/")
    assert odd[0]["lr=0.1"] != odd[0]["lr=0.2"]

    screen = run_cli("compare", a, b)  # over what was there
    assert "lr=0.2 is better (top-1, p " in screen.stdout
    assert "differing  lr" in screen.stderr
    assert "There is nothing at /gone/photos" in screen.stderr  # why there is no contact sheet


def test_order_of_images__changes_nothing(run_cli, make_run: MakeRun) -> None:
    order = np.random.default_rng(0).permutation(NUM_IMAGES).tolist()
    runs = [make_run("a", lr=0.1), make_run("b", lr=0.2)]
    first = run_cli("compare", *runs, "--json").json
    shutil.rmtree(runs[1])
    make_run("b", lr=0.2, order=order)
    assert run_cli("compare", *runs, "--json").json == first


def test_seeds__are_one_row_paired_by_seed(run_cli, make_run: MakeRun) -> None:
    runs = [make_run(f"{lr}-{seed}", lr=lr, seed=seed) for seed in (1, 0) for lr in (0.1, 0.2)]
    document = run_cli("compare", *runs, "--json").json
    assert [row["runs"] for row in document["rows"]] == [[str(runs[2]), str(runs[0])], [str(runs[3]), str(runs[1])]]
    assert document["rows"][0]["top1_per_run"] == [correct(runs[2]).mean(), correct(runs[0]).mean()]
    (pair,) = document["pairs"]
    assert pair["mcnemar_p"] is None
    assert pair["p"] == pair["p_holm"]
    assert "(top-1, p" in run_cli("compare", *runs).stdout


def test_three_rows__are_three_pairs_corrected(run_cli, make_run: MakeRun) -> None:
    runs = [make_run(name, lr=lr, skill=lr) for name, lr in zip("abc", (0.5, 2.0, 6.0), strict=True)]
    screen = run_cli("compare", runs[0].parent).stdout  # the folder stands for all of them
    assert "p: McNemar's exact test; Holm's correction is for all 3 pairs" in screen
    assert "  b is better  " in screen


def test_long_settings__are_a_table_of_their_own(run_cli, make_run: MakeRun) -> None:
    a, b = make_run("a", lr=0.1, tune="head", class_weights="balanced"), make_run("b", lr=0.2)
    screen = run_cli("compare", a, b).stdout
    assert (
        "settings that differ\nrow  lr   tune  class_weights\na    0.1  head  balanced\nb    0.2  none  none\n"
        in screen
    )


FIGURES = ("top1", "nll", "brier", "ece")


def test_from_python__is_the_document(make_run: MakeRun, tmp_path: Path) -> None:
    import vitctl

    with pytest.warns(UserWarning, match="Without pictures"):
        result = vitctl.compare([make_run("a", lr=0.1), make_run("b", lr=0.2)], out=tmp_path / "out")
    assert result.as_json() == json.loads((tmp_path / "out" / "compare.json").read_text())


def test_json_keys(run_cli, make_run: MakeRun) -> None:
    document = run_cli("compare", make_run("a", lr=0.1), make_run("b", lr=0.2), "--json").json
    with_intervals = {key for name in FIGURES for key in (name, f"{name}_ci95")}
    assert document.keys() >= {"images", "num_images", "which", "rows", "pairs", "out", "notes"}
    assert document["rows"][0].keys() >= {"name", "runs", "settings", "top1_per_run", *with_intervals}
    differences = {key for name in FIGURES[1:] for key in (f"{name}_difference", f"{name}_ci95")}
    asked_for = {"a", "b", "difference", "ci95", "mcnemar_p"}
    assert document["pairs"][0].keys() >= {*asked_for, *differences, "p", "p_holm", "num_a_only", "num_b_only"}


@pytest.fixture
def three_runs(make_run: MakeRun) -> tuple[Path, Path, Path]:
    """a and b of the same images, c of some others."""
    a, b, c = make_run("a", lr=0.1), make_run("b", lr=0.2), make_run("c", lr=0.3)
    kept = read_logits(c)
    assert kept is not None
    write_logits(c, replace(kept, hashes=("f" * 32, *kept.hashes[1:])))
    return a, b, c


def test_refused__other_images(refused, three_runs) -> None:
    a, _, c = three_runs
    words = [str(a), str(c), "40 and 40, of which 39 are in both", "--on SPEC"]
    refused(["compare", a, c], 3, words)


def test_refused__what_is_no_run(refused, three_runs, tmp_path: Path) -> None:
    a, b, _ = three_runs
    refused(["compare", a], 2, ["two or more", f"found {a} alone"])
    refused(["compare", a, b, a], 2, [str(a), "given twice"])
    refused(["compare", a, tmp_path / "bb"], 2, ["no run at", "Did you mean 'b'?"])
    refused(["compare", a, b / "best"], 2, ["weights of the run", "--which best"])
    (tmp_path / "empty").mkdir()
    refused(["compare", a, tmp_path / "empty"], 2, ["is no run of vitctl, and holds none"])
    refused(["compare", a, b, "--split", "val"], 2, ["without --on SPEC"])
    refused(["compare", a, b, "--class-depth", 1], 2, ["without --on"])


def test_refused__a_run_that_is_not_finished(refused, three_runs) -> None:
    a, b, _ = three_runs
    (b / "summary.json").unlink()
    refused(["compare", a, b], 2, [str(b), "was stopped", f"vitctl finetune --resume {b}"])


def test_refused__a_run_that_says_no_numbers(refused, three_runs) -> None:
    a, b, _ = three_runs
    kept = read_logits(b)
    assert kept is not None
    kept.logits[3] = np.nan
    write_logits(b, kept)
    refused(["compare", a, b], 4, [str(b), "not finite of 1 of 40 images"])


def test_refused__what_a_run_has_not(refused, three_runs) -> None:
    a, b, _ = three_runs
    refused(["compare", a, b, "--which", "average"], 3, ["/gone/photos", "--on SPEC"])


def test_refused__an_out_that_holds_something_else(refused, three_runs, tmp_path: Path) -> None:
    a, b, _ = three_runs
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "letter.txt").write_text("dear")
    refused(["compare", a, b, "--out", tmp_path / "taken"], 2, ["letter.txt", "vitctl compare did not write"])
    refused(["compare", a, b, "--out", a], 2, [str(a), "did not write"])


def test_damaged_curves__are_left_out_with_a_sentence(run_cli, make_run: MakeRun) -> None:
    a, b = make_run("a", lr=0.1), make_run("b", lr=0.2)
    (a / "metrics.jsonl").write_text("{broken")
    result = run_cli("compare", a, b, "--json")
    assert any(f"Without the curves of {a}" in note for note in result.json["notes"])


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """The finished run with another rate in its settings; what it said of its validation images is gone."""
    copy = shutil.copytree(finished_run, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"lr": 0.5}))
    (copy / "val-logits.safetensors").unlink()
    return copy


def test_on_named_images__both_are_computed_and_doubts_said(
    run_cli, finished_run: Path, copied_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = said.open_model(str(finished_run / "best"))
    monkeypatch.setattr(said, "open_model", lambda _: opened)  # they are the same
    result = run_cli(
        "compare", finished_run, copied_run, "--on", finished_run.parent / "data", "--split", "train", "--json"
    )
    one, other = result.json["rows"]
    assert (result.json["num_images"], result.json["num_disagreements"]) == (36, 0)
    assert one["nll"] == other["nll"]
    train = len((finished_run / "training-images.txt").read_text().splitlines())
    for run in (finished_run, copied_run):
        assert f"loading {run / 'best'}" in result.stderr
        assert f"{run}: {train} of the 36 images were in the training" in " ".join(result.stderr.split())


@pytest.mark.slow
def test_kept_and_computed__agree(run_cli, finished_run: Path, copied_run: Path) -> None:
    result = run_cli("compare", finished_run, copied_run, "--json")
    one, other = result.json["rows"]
    assert one["nll"] == pytest.approx(other["nll"], abs=1e-5)
    assert (one["top1"], result.json["num_disagreements"]) == (other["top1"], 0)
    assert f"loading {copied_run / 'best'}" in result.stderr
    assert f"loading {finished_run / 'best'}" not in result.stderr


@pytest.mark.slow
def test_real_runs__kept_and_computed_agree(run_cli, tiny_model_folder: Path, image_folder: Path, tmp_path) -> None:
    runs = [tmp_path / name for name in ("a", "b")]
    for run, lr in zip(runs, ("1e-4", "1e-2"), strict=True):
        training = ["--data", image_folder, "--model", tiny_model_folder, "--image-size", 16, "--steps", 4, "--lr", lr]
        assert run_cli("finetune", *training, "--out", run, "--num-workers", 0).exit_code == 0
    kept = run_cli("compare", *runs, "--json").json
    assert (Path(kept["out"]) / "disagreements.png").is_file() == bool(kept["num_disagreements"])
    for run in runs:
        (run / "val-logits.safetensors").unlink()
    computed = run_cli("compare", *runs, "--json").json
    for one, other in zip(kept["rows"], computed["rows"], strict=True):
        assert one["top1"] == other["top1"]
        assert one["nll"] == pytest.approx(other["nll"], abs=1e-5)
