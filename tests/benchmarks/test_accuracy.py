"""What ``sets.py`` writes and what ``accuracy.py`` says of it, on sets of a few pixels."""

import csv
import importlib
import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.primitives.files import write_json


@pytest.fixture(scope="module")
def benchmarks() -> Iterator[Any]:
    """Yield what imports a script of this folder by its name, as the scripts do themselves."""
    own = ("sets", "sets_packages", "sets_pictures", "sets_letters", "accuracy")
    sys.path.insert(0, str(Path(__file__).parent))
    yield importlib.import_module
    sys.path.remove(str(Path(__file__).parent))
    for name in own:
        sys.modules.pop(name, None)


def pictures(scripts: Any, *grey: tuple[str, str, str, int]) -> Iterator[Any]:
    made: ModuleType = scripts("sets_pictures")
    return (made.Picture(split, label, name, Image.new("L", (2, 2), value)) for split, label, name, value in grey)


FOUR = (("train", "a", "0", 0), ("train", "b", "0", 10), ("test", "a", "1", 20), ("test", "b", "1", 10))


def test_make__leaves_no_equal_image_in_both_splits(benchmarks: Any, tmp_path: Path) -> None:
    made = benchmarks("sets").make(pictures(benchmarks, *FOUR), tmp_path / "tiny")
    found = sorted(str(path.relative_to(tmp_path / "tiny")) for path in (tmp_path / "tiny").rglob("*.png"))
    assert found == ["test/a/1.png", "train/a/0.png", "train/b/0.png"]
    assert made.num_left_out == 1


def test_make__is_the_same_every_time_and_told_by_its_pixels(benchmarks: Any, tmp_path: Path) -> None:
    make = benchmarks("sets").make
    first, again = (make(pictures(benchmarks, *FOUR), tmp_path / name) for name in ("a", "b"))
    files = [[path.read_bytes() for path in sorted((tmp_path / name).rglob("*.png"))] for name in ("a", "b")]
    assert files[0] == files[1]
    assert first.pixels == again.pixels
    assert make(pictures(benchmarks, *FOUR[:3], ("test", "b", "1", 11)), tmp_path / "c").pixels != first.pixels


def test_make__leaves_nothing_where_two_names_are_one(benchmarks: Any, tmp_path: Path) -> None:
    with pytest.raises(FileExistsError, match="two images of this name"):
        benchmarks("sets").make(pictures(benchmarks, FOUR[0], ("train", "a", "0", 1)), tmp_path / "tiny")
    assert not (tmp_path / "tiny").exists()


def test_fonts_and_themes__no_family_is_in_both_splits_and_all_are_pinned(benchmarks: Any) -> None:
    letters, pinned = benchmarks("sets_letters"), benchmarks("sets_packages").pins()
    themes = benchmarks("sets_pictures").ICON_THEMES
    for fonts in (letters.GREEK_FONTS, letters.KANA_FONTS):
        assert not fonts["train"].keys() & fonts["test"].keys()
        assert (fonts["train"].keys() | fonts["test"].keys()) <= pinned.keys()
    assert not set(themes["train"]) & set(themes["test"])
    assert {f"{theme}-icon-theme" for split in themes.values() for theme in split} <= pinned.keys()
    assert all(len(checksum) == 64 for _, checksum in pinned.values())


def test_archive_of__another_sum_than_the_pinned_is_refused(benchmarks: Any, tmp_path: Path) -> None:
    packages = benchmarks("sets_packages")
    version, _ = packages.pins()["fonts-play"]
    (tmp_path / f"fonts-play_{version.replace(':', '%3a')}_all.deb").write_bytes(b"another")
    with pytest.raises(packages.PackageError, match="its SHA-256 is"):
        packages.archive_of("fonts-play", tmp_path)


def test_files_in__follows_links_within_the_archive(
    benchmarks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packages = benchmarks("sets_packages")
    archive = tmp_path / "a.deb"
    with tarfile.open(archive, "w") as tar:
        file, link, lost = (tarfile.TarInfo(f"./icons/{name}.png") for name in ("b", "a", "c"))
        file.size = 3
        tar.addfile(file, io.BytesIO(b"abc"))
        for each, target in ((link, "b.png"), (lost, "none.png")):
            each.type, each.linkname = tarfile.SYMTYPE, target
            tar.addfile(each)
    monkeypatch.setattr(packages.subprocess, "run", lambda _, stdout, check: stdout.write(archive.read_bytes()))
    assert list(packages.files_in(archive, lambda path: True)) == [("icons/a.png", b"abc"), ("icons/b.png", b"abc")]


def test_score_of__is_the_mean_error_over_runs(benchmarks: Any, tmp_path: Path) -> None:
    is_right = np.array([[1, 1, 0, 1], [1, 0, 0, 1]])
    runs = [tmp_path / f"seed-{seed}" for seed in range(2)]
    for run, row in zip(runs, is_right, strict=True):
        (run / "evaluate-test").mkdir(parents=True)
        write_json(run / "summary.json", {"wall_s": 3.0})
        with (run / "evaluate-test" / "predictions.csv").open("w", newline="") as file:
            told = [(f"{k}.png", "a", "a" if right else "b") for k, right in enumerate(row)]
            csv.writer(file).writerows([("image", "true", "predicted"), *told])
    score = benchmarks("accuracy").score_of("tiny", runs)
    assert score.error == pytest.approx(3 / 8)
    assert score.error_ci95[0] < 3 / 8 < score.error_ci95[1]
    assert (score.num_test, score.num_seeds, score.training_s) == (4, 2, 3.0)
