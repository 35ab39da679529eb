"""``vitctl predict``: order, folders, unreadable files, formats."""

import csv
import io
import shutil
from pathlib import Path

import pytest


@pytest.fixture
def photos(finished_run: Path, tmp_path: Path) -> Path:
    """Three images, one per class, in a folder with natural order 1, 2, 10."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("1", "red"), ("2", "green"), ("10", "blue")):
        shutil.copy(finished_run.parent / "data" / "test" / colour / "0.png", folder / f"{name}.png")
    return folder


def test_json__input_order_and_keys(run_cli, finished_run: Path, photos: Path) -> None:
    images = [photos / "10.png", photos / "1.png"]
    document = run_cli("predict", finished_run, *images, "--top-k", 2, "--json").json
    assert set(document) == {"predictions", "skipped", "left_out"}
    assert [entry["image"] for entry in document["predictions"]] == [str(path) for path in images]
    first = document["predictions"][0]["top"]
    assert [top["class"] for top in first][0] == "blue"
    assert len(first) == 2
    assert first[0]["probability"] >= first[1]["probability"]


def test_folder_is_walked__in_natural_order(run_cli, finished_run: Path, photos: Path) -> None:
    document = run_cli("predict", finished_run, photos, "--json").json
    assert [Path(entry["image"]).name for entry in document["predictions"]] == ["1.png", "2.png", "10.png"]
    assert [entry["top"][0]["class"] for entry in document["predictions"]] == ["red", "green", "blue"]
    for entry in document["predictions"]:  # --top-k 5 of 3 classes: all of them
        assert sum(top["probability"] for top in entry["top"]) == pytest.approx(1)


def test_unreadable_file__named_the_rest_is_done_exit_3(run_cli, finished_run: Path, photos: Path) -> None:
    (photos / "2.png").write_bytes(b"nonsense")
    result = run_cli("predict", finished_run, photos, "gone.jpg", "--json")
    assert result.exit_code == 3
    assert [Path(entry["image"]).name for entry in result.json["predictions"]] == ["1.png", "10.png"]
    assert [entry["reason"] for entry in result.json["skipped"]] == ["not an image that Pillow knows", "no such file"]
    assert "2.png" in result.stderr
    assert "gone.jpg" in result.stderr


def test_empty_folder__named_the_rest_is_done(run_cli, finished_run: Path, photos: Path) -> None:
    Path("empty").mkdir()
    result = run_cli("predict", finished_run, "empty", photos, "--json")
    assert result.exit_code == 3
    assert len(result.json["predictions"]) == 3
    assert result.json["skipped"] == [{"image": "empty", "reason": "a folder that holds no image"}]


def test_batch_size_changes_nothing(run_cli, finished_run: Path, photos: Path) -> None:
    def shares(size: int) -> list[float]:
        document = run_cli("predict", finished_run, photos, "--batch-size", size, "--json").json
        return [top["probability"] for entry in document["predictions"] for top in entry["top"]]

    assert shares(1) == shares(2) == shares(3)


def test_csv__one_row_per_image_and_rank(run_cli, finished_run: Path, photos: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(run_cli("predict", finished_run, photos, "--csv").stdout)))
    assert len(rows) == 9
    assert rows[0]["class"] == "red"
    assert rows[0]["rank"] == "1"


def test_agrees_with_evaluate(run_cli, finished_run: Path) -> None:
    """The same preprocessing: predict's probability of each test image is evaluate's."""
    run_cli("evaluate", finished_run, "--split", "test")
    rows = list(csv.DictReader((finished_run / "evaluate-test" / "predictions.csv").read_text().splitlines()))
    document = run_cli("predict", finished_run, *(row["image"] for row in rows), "--top-k", 1, "--json").json
    for row, entry in zip(rows, document["predictions"], strict=True):
        assert entry["top"][0]["class"] == row["predicted"]
        assert entry["top"][0]["probability"] == pytest.approx(float(row["probability"]), abs=1e-5)
