"""``vitctl evaluate``: figures, files, splits, other models; independent of the batch size."""

import csv
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

IN_PROCESS = ("--num-workers", 0)
unseen = pytest.mark.usefixtures("no_rendering")  # for tests that look at no picture


@unseen
def test_json__own_validation_images_agree_with_the_run(run_cli, finished_run: Path) -> None:
    report = run_cli("evaluate", finished_run, "--json").json
    summary = json.loads((finished_run / "summary.json").read_text())
    assert report["num_images"] == summary["num_val"]
    assert report["top1"] == summary["best"]["top1"]
    assert report["nll"] == pytest.approx(summary["best"]["loss"], abs=1e-6)
    low, high = report["top1_ci95"]
    assert low <= report["top1"] <= high
    assert {"top5", "balanced_accuracy", "macro_f1", "ece", "per_class"} <= set(report)


@unseen
def test_baseline__the_same_as_the_runs_and_worth_a_word_where_the_model_is_no_better(
    run_cli, finished_run: Path, tmp_path: Path
) -> None:
    report = run_cli("evaluate", finished_run, "--json").json
    summary = json.loads((finished_run / "summary.json").read_text())
    keys = ("baseline_top1", "baseline_class", "baseline_p")
    assert [report[key] for key in keys] == [summary[key] for key in keys]
    shutil.copytree(finished_run.parent / "data/test", tmp_path / "data")
    for number in range(1, 5):
        (tmp_path / f"data/red/{number}.png").rename(tmp_path / f"data/green/red{number}.png")  # 9 of 15 are 'green'
    arguments = ("--data", tmp_path / "data", "--out", "e", *IN_PROCESS)
    report = run_cli("evaluate", finished_run, *arguments, "--json").json
    assert (report["baseline_top1"], report["baseline_class"]) == (9 / 15, "green")
    # right where 'green' is wrong: the one red and 5 blue; wrong where it is right: the 4 that are red
    assert report["baseline_p"] == pytest.approx(2 * sum(math.comb(10, k) for k in range(5)) / 2**10)
    row = next(one for one in run_cli("evaluate", finished_run, *arguments).stdout.splitlines() if "baseline" in one)
    assert row.split(maxsplit=1)[1].startswith(
        "60.00%   the model is not shown to be better than always saying 'green' (p = "
    )


@unseen
def test_the_run_has_learnt_its_colours(run_cli, finished_run: Path) -> None:
    assert run_cli("evaluate", finished_run, "--split", "test", *IN_PROCESS, "--json").json["top1"] >= 0.9


def test_files__predictions_and_confusion(run_cli, finished_run: Path) -> None:
    report = run_cli("evaluate", finished_run, "--split", "test", *IN_PROCESS, "--json").json
    out = finished_run / "evaluate-test"
    assert Path(report["out"]) == out
    rows = list(csv.DictReader((out / "predictions.csv").read_text().splitlines()))
    assert len(rows) == report["num_images"] == 15
    assert sum(row["true"] == row["predicted"] for row in rows) / 15 == pytest.approx(report["top1"])
    matrix = [row[1:] for row in csv.reader((out / "confusion.csv").read_text().splitlines())][1:]
    assert sum(int(matrix[i][i]) for i in range(3)) / 15 == pytest.approx(report["top1"])
    assert (out / "confusion.png").stat().st_size > 1000


def test_highest_loss__the_images_whose_class_was_least_probable_worst_first(run_cli, finished_run: Path) -> None:
    run_cli("evaluate", finished_run, "--split", "test", "--out", "e", *IN_PROCESS, "--json")
    rows = list(csv.DictReader(Path("e/predictions.csv").read_text().splitlines()))
    with Image.open("e/highest-loss.png") as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    # two rows of 8 thumbnails of 96 px with gaps of 8, captions of two lines, a title
    assert pixels.shape == (34 + 2 * (96 + 32), 8 * (96 + 8), 3)
    thumbnails = {}
    for row in rows:
        with Image.open(row["image"]) as image:
            shown = ImageOps.pad(image.convert("RGB"), (96, 96), Image.Resampling.NEAREST, (232, 232, 232))
        thumbnails[np.asarray(shown).tobytes()] = float(row["probability_of_true"])
    assert len(thumbnails) == 15
    found = []
    for place in range(15):
        y, x = 34 + place // 8 * 128, place % 8 * 104 + 4
        found.append(thumbnails.pop(pixels[y : y + 96, x : x + 96].tobytes()))  # each image is there once
        assert (pixels[y + 96 : y + 128, x : x + 96] < 128).any()  # its caption
    assert found == sorted(found)
    assert found[0] < found[-1]
    assert (pixels[34 + 128 :, 7 * 104 :] == 255).all()  # 15 images, the 16th place is empty


def test_highest_loss__at_most_forty_images(run_cli, finished_run: Path, tmp_path: Path) -> None:
    source = finished_run.parent / "data" / "test"
    for path in source.glob("*/*.png"):
        for copy in range(3):
            (tmp_path / "many" / path.parent.name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "many" / path.parent.name / f"{path.stem}-{copy}.png")
    assert run_cli("evaluate", finished_run, "--data", tmp_path / "many", "--out", "e", *IN_PROCESS).exit_code == 0
    with Image.open("e/highest-loss.png") as image:
        assert image.size == (8 * 104, 34 + 5 * 128)  # 45 images, of which 5 rows of 8


def test_highest_loss__without_the_images_that_were_left_out(run_cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run.parent / "data" / "test", tmp_path / "bad")
    for number in range(5):
        (tmp_path / "bad" / "red" / f"{number}.png").write_bytes(b"")
    arguments = ("--data", tmp_path / "bad", "--on-bad-image", "skip", "--out", "e", *IN_PROCESS, "--json")
    report = run_cli("evaluate", finished_run, *arguments).json
    assert (report["num_images"], report["num_skipped"]) == (10, 5)
    with Image.open("e/highest-loss.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert (pixels[34 + 128 :, 2 * 104 :] == 255).all()  # 10 images: 8 and 2


@unseen
@pytest.mark.parametrize("batch_size", [1, 7])
def test_batch_size_and_workers_change_nothing(run_cli, finished_run: Path, batch_size: int) -> None:
    def figures(*args: object) -> dict[str, object]:
        report = run_cli("evaluate", finished_run, "--split", "test", "--out", "e", "--json", *args).json
        return report  # type: ignore[no-any-return]

    usual, other = figures(*IN_PROCESS), figures("--batch-size", batch_size, "--num-workers", 1)
    assert usual == other


@unseen
def test_folder_alone_and_model_option_agree(run_cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "best", tmp_path / "copy")
    data = finished_run.parent / "data"
    one = run_cli("evaluate", tmp_path / "copy", "--data", data, *IN_PROCESS, "--json").json
    two = run_cli("evaluate", "--model", finished_run, "--data", data, "--out", "e", *IN_PROCESS, "--json").json
    assert one["split"] == two["split"] == "test"
    assert one["top1"] == two["top1"]
    assert Path(one["out"]) == Path("evaluate-test").absolute()


@unseen
def test_training_split__leaves_out_the_validation_images(run_cli, finished_run: Path) -> None:
    summary = json.loads((finished_run / "summary.json").read_text())
    report = run_cli("evaluate", finished_run, "--split", "train", "--out", "e", *IN_PROCESS, "--json").json
    assert report["num_images"] == summary["num_train"]


@unseen
def test_human_output(run_cli, finished_run: Path) -> None:
    out = run_cli("evaluate", finished_run, "--split", "test").stdout
    for words in ("top-1", "Wilson", "balanced accuracy", "precision", "green"):
        assert words in out


def test_validation_image_gone__said(run_cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run, tmp_path / "run")
    listing = tmp_path / "run" / "validation.json"
    document = json.loads(listing.read_text())
    document["images"][0] += "x"
    document["hashes"][0] = 32 * "0"  # else it is found by its content
    listing.write_text(json.dumps(document))
    result = run_cli("evaluate", tmp_path / "run")
    assert result.exit_code == 3
    assert "no longer in the data" in result.stderr


def test_out_inside_the_data__refused(run_cli, finished_run: Path) -> None:
    data = finished_run.parent / "data"
    before = sorted(data.rglob("*"))
    result = run_cli("evaluate", finished_run, "--data", data, "--out", data / "report")
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--out {data / 'report'} lies inside the data {data}" in result.stderr
    assert sorted(data.rglob("*")) == before


# --- images that were in the training ------------------------------------------------------------------------


@unseen
def test_training_folder__the_figure_on_images_not_trained_on_comes_first(run_cli, finished_run: Path) -> None:
    arguments = ("--data", finished_run.parent / "data/train", "--split", "all", "--out", "e", *IN_PROCESS)
    result = run_cli("evaluate", finished_run, *arguments)
    report = json.loads(Path("e/evaluation.json").read_text())
    held_out = set(json.loads((finished_run / "validation.json").read_text())["images"])
    right = {False: 0, True: 0}
    for row in csv.DictReader(Path("e/predictions.csv").read_text().splitlines()):
        is_seen = f"train/{Path(row['image']).parent.name}/{Path(row['image']).name}" not in held_out
        right[is_seen] += row["true"] == row["predicted"]
    assert (report["num_images"], report["num_seen_in_training"], len(held_out)) == (36, 29, 7)
    assert (report["top1_unseen"], report["top1_seen"]) == (right[False] / 7, right[True] / 29)
    assert report["top1"] == pytest.approx((7 * report["top1_unseen"] + 29 * report["top1_seen"]) / 36)
    assert report["top1_unseen"] == json.loads((finished_run / "summary.json").read_text())["best"]["top1"]
    rows = [line for line in result.stdout.splitlines() if line.startswith("top-1")]
    assert [line.partition("  ")[0] for line in rows] == ["top-1, unseen", "top-1, seen", "top-1 of all"]
    assert rows[0].endswith(", 7 images")
    assert "29 of the 36 images were in the training" in " ".join(result.stderr.split())
    assert "29 of 36" in next(line for line in result.stderr.splitlines() if line.startswith("seen in training"))


@unseen
@pytest.mark.slow
def test_seen_images__under_another_name_and_class_and_in_another_format(
    run_cli, finished_run: Path, tmp_path: Path
) -> None:
    trained = json.loads((finished_run / "training-images.txt").read_text().splitlines()[0][33:])
    folder = shutil.copytree(finished_run.parent / "data/test", tmp_path / "data")
    other = "green" if "red" in trained else "red"
    Image.open(finished_run.parent / "data" / trained).save(folder / other / "renamed.bmp")
    result = run_cli("evaluate", finished_run, "--data", folder, "--out", "e", *IN_PROCESS, "--json")
    assert (result.json["num_images"], result.json["num_seen_in_training"]) == (16, 1)
    assert result.json["top1_seen"] in (0.0, 1.0)
    assert "too good to be true" not in result.stderr  # of the few the header tells


@unseen
@pytest.mark.slow
def test_all_seen__nothing_to_judge_by(run_cli, finished_run: Path, tmp_path: Path) -> None:
    for line in (finished_run / "training-images.txt").read_text().splitlines():
        name = json.loads(line[33:])
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(finished_run.parent / "data" / name, tmp_path / name)
    arguments = ("--data", tmp_path / "train", "--out", "e", *IN_PROCESS)
    result = run_cli("evaluate", finished_run / "best", *arguments, "--json")
    report = result.json
    assert (report["num_seen_in_training"], report["top1_unseen"], report["top1_unseen_ci95"]) == (29, None, None)
    assert report["top1_seen"] == report["top1"]
    assert "All 29 images were in the training" in " ".join(result.stderr.split())


@unseen
@pytest.mark.slow
def test_a_run_without_the_list__unknown_and_said(run_cli, finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    (run / "training-images.txt").unlink()
    result = run_cli("evaluate", run, *IN_PROCESS, "--json")
    assert [result.json[key] for key in ("num_seen_in_training", "top1_unseen", "top1_seen")] == [None] * 3
    assert "made by an older vitctl" in result.stderr


@unseen
@pytest.mark.slow
def test_a_model_of_no_run__knows_of_no_training(run_cli, finished_run: Path, tmp_path: Path) -> None:
    shutil.copytree(finished_run / "best", tmp_path / "model")
    arguments = ("--data", finished_run.parent / "data", "--out", "e", *IN_PROCESS, "--json")
    result = run_cli("evaluate", "--model", tmp_path / "model", *arguments)
    assert result.json["num_seen_in_training"] is None
    assert "seen in training" not in result.stderr
