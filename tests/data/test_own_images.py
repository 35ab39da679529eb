"""A run's images in data that moved, were packed, renamed, repeated or mixed with others: found by content."""

import csv
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images, images_of_run, named_images
from vitctl.data.run_lists import trained_on, validation_document, write_training_list
from vitctl.data.seen_images import doubts_about_seen, runs_before, seen_in_training, seen_settings
from vitctl.data.source import SourceOptions
from vitctl.data.training_data import TrainingData, check_training_data, open_training_sources
from vitctl.errors import DataError
from vitctl.primitives.files import write_json

Write = Callable[..., Path]


def make_run(run: Path, data: Path, *, val: Path | None = None, has_hashes: bool = True) -> TrainingData:
    """Write what a run on ``data`` would of its images: a third held out, or those of ``val``."""
    sources = open_training_sources(str(data), val=str(val) if val else None, val_fraction=None if val else 0.34)
    found = check_training_data(
        sources,
        val_fraction=None if val else 0.34,
        seed=0,
        skip_bad=False,
        num_threads=1,
        conversation=Conversation(),
    )
    run.mkdir()
    write_json(run / "config.json", {"vitctl": "x", "data": str(data), "val": str(val) if val else None})
    write_json(run / "summary.json", {"run": str(run)})
    document: Any = validation_document(found, image_root=None)
    if has_hashes:
        write_json(run / "validation.json", document)
        write_training_list(run, found, image_root=None)
    else:
        assert found.val is not None
        write_json(run / "validation.json", {"data": str(data), "images": found.val.image_names()})
    return found


@pytest.fixture
def data(tmp_path: Path, write_classes: Write) -> Path:
    return write_classes(tmp_path / "photos", cat=9, dog=6)


@pytest.fixture
def run(tmp_path: Path, data: Path) -> Path:
    (tmp_path / "runs").mkdir()
    make_run(tmp_path / "runs" / "one", data)
    return tmp_path / "runs" / "one"


def named(run: Path, spec: Path, split: str | None, **options: Any) -> Images:
    return named_images(str(spec), split, SourceOptions(**options), run=run, look=Looks(Conversation()).scan)


def own(run: Path, split: str | None = None) -> Images:
    return images_of_run(run, split, advice="Look.", look=Looks(Conversation()).scan)


def pixels(images: Images) -> list[bytes]:
    return [images.split.read(position).tobytes() for position in range(len(images.split))]


def hashes_of(run: Path) -> list[str]:
    hashes: list[str] = json.loads((run / "validation.json").read_text())["hashes"]
    return hashes


# --- moved, packed, renamed ----------------------------------------------------------------------------------


def test_names_start_at_the_root_of_the_data(run: Path) -> None:
    listing = json.loads((run / "validation.json").read_text())
    lines = (run / "training-images.txt").read_text().splitlines()
    names = [*listing["images"], *(json.loads(line[33:]) for line in lines)]
    assert sorted(names) == sorted([f"cat/{i}.png" for i in range(9)] + [f"dog/{i}.png" for i in range(6)])
    assert len(listing["images"]) == len(listing["hashes"]) == 5


def test_moved_folder__its_own_images_by_name_and_content(run: Path, data: Path, tmp_path: Path) -> None:
    expected = pixels(own(run))
    shutil.move(data, tmp_path / "elsewhere")
    for split in ("val", None):
        found = named(run, tmp_path / "elsewhere", split)
        assert pixels(found) == expected
        assert found.split_name == "val"
        assert "found by name and content" in found.reason
    with pytest.raises(DataError, match=rf"There is nothing at {data}, where .* found its images\. Look\."):
        own(run)


def as_zip(data: Path, place: Path) -> Path:
    with zipfile.ZipFile(place / "packed.zip", "w") as archive:
        for path in sorted(data.rglob("*.png")):
            archive.write(path, f"inside/{path.relative_to(data)}")
    return place / "packed.zip"


def as_table(data: Path, place: Path) -> Path:
    with (place / "table.csv").open("w", newline="") as file:
        rows = [("image", "label")] + [(str(p), p.parent.name) for p in sorted(data.rglob("*.png"), reverse=True)]
        csv.writer(file).writerows(rows)
    return place / "table.csv"


def as_renamed(data: Path, place: Path) -> Path:
    for number, path in enumerate(sorted(data.rglob("*.png"), reverse=True)):
        (place / "renamed" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place / "renamed" / path.parent.name / f"{number}.png")
    return place / "renamed"


def as_other_format(data: Path, place: Path) -> Path:
    for path in sorted(data.rglob("*.png")):
        target = place / "bmp" / path.relative_to(data).with_suffix(".bmp")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).save(target)
    return place / "bmp"


@pytest.mark.parametrize("write", [as_zip, pytest.param(as_table, marks=pytest.mark.slow), as_renamed, as_other_format])
def test_packed_or_renamed__its_own_images_by_content(
    run: Path, data: Path, tmp_path: Path, write: Callable[[Path, Path], Path]
) -> None:
    expected = pixels(own(run))
    spec = write(data, tmp_path)
    for split in ("val", None):
        found = named(run, spec, split)
        assert pixels(found) == expected
        assert found.split.class_names == ("cat", "dog")
        assert "by content" in found.reason or write is as_table
    rest = named(run, spec, "train")
    assert len(rest.split) == 10
    assert set(pixels(rest)).isdisjoint(expected)
    assert "5 that the run validated on are left out" in rest.reason
    assert len(named(run, spec, "all").split) == 15


def test_names_that_fit_and_other_pixels__are_not_taken(run: Path, data: Path, tmp_path: Path) -> None:
    """Files called 0.png, 1.png, ... in classes of the same name: another data set."""
    expected = pixels(own(run))
    for folder in (data / "cat", data / "dog"):
        (folder / "0.png").rename(folder / "x.png")
        (folder / "1.png").rename(folder / "0.png")
        (folder / "x.png").rename(folder / "1.png")
    (data / "cat" / "2.png").rename(data / "cat" / "z.png")
    found = named(run, data, "val")
    assert sorted(pixels(found)) == sorted(expected)
    assert sorted(Looks(Conversation()).scan(found.split).fingerprints) == sorted(hashes_of(run))


def test_one_that_is_lacking__an_error_and_never_another_set(run: Path, data: Path, write_classes: Write) -> None:
    name = json.loads((run / "validation.json").read_text())["images"][1]
    (data / name).unlink()
    with pytest.raises(DataError, match=rf"holds 4 of the 5 images .* found by content, and lacks {name}"):
        named(run, data, "val")
    assert named(run, data, None).split_name == "all"
    other = write_classes(data.parent / "other", cat=9, dog=6, first=5)  # the same names
    with pytest.raises(DataError, match="holds 0 of the 5 images"):
        named(run, other, "val")
    with pytest.raises(DataError, match="no 'train'"):
        named(run, other, "train")
    assert named(run, other, None).split_name == "all"


def test_data_with_more_than_the_runs_own__the_default_is_all_of_it(run: Path, data: Path) -> None:
    Image.new("RGB", (4, 4)).save(data / "cat" / "new.png")
    assert named(run, data, None).split_name == "all"
    assert len(named(run, data, "val").split) == 5
    assert len(named(run, data, "train").split) == 11


def test_a_split_that_the_source_has_goes_first(run: Path, tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "split" / "train", cat=2, dog=2, first=3)
    write_classes(tmp_path / "split" / "val", cat=1, dog=1, first=4)
    found = named(run, tmp_path / "split", "val")
    assert (len(found.split), found.reason) == (2, "split val: given")


def test_duplicates__each_place_is_taken_once(tmp_path: Path, write_classes: Write) -> None:
    data = write_classes(tmp_path / "twins", cat=6, dog=6)
    for path in sorted(data.rglob("*.png")):
        shutil.copy(path, path.with_name(f"again-{path.name}"))
    found = make_run(tmp_path / "run", data)
    assert found.val is not None
    renamed = as_renamed(data, tmp_path)
    images = named(tmp_path / "run", renamed, None)
    assert len(set(images.split.rows.tolist())) == len(found.val)
    assert Looks(Conversation()).scan(images.split).fingerprints == hashes_of(tmp_path / "run")


def test_given_validation_images__found_by_content(tmp_path: Path, data: Path, write_classes: Write) -> None:
    val = write_classes(tmp_path / "others", cat=2, dog=2, first=7)
    make_run(tmp_path / "run", data, val=val)
    expected = pixels(own(tmp_path / "run"))
    assert pixels(named(tmp_path / "run", as_zip(val, tmp_path), "val")) == expected
    assert len(own(tmp_path / "run", "train").split) == 15


# --- where the run says they lie -----------------------------------------------------------------------------


def test_renamed_in_place(run: Path, data: Path) -> None:
    expected = pixels(own(run))
    for path in sorted(data.rglob("*.png")):
        path.rename(path.with_name(f"new-{path.name}"))
    found = own(run)
    assert pixels(found) == expected
    assert "found by content: some have other names now" in found.reason
    assert len(own(run, "train").split) == 10
    with pytest.raises(DataError, match="5 of the 5 images listed in .* no longer in the data"):
        images_of_run(run, None, advice="Look.")  # export and inspect do not look


def test_changed_in_place__said(run: Path, data: Path) -> None:
    name = json.loads((run / "validation.json").read_text())["images"][2]
    Image.fromarray(np.zeros((5, 7, 3), dtype=np.uint8)).save(data / name)
    found = own(run)
    assert len(found.split) == 5
    assert found.notes[0].startswith(
        f"1 of the 5 validation images have other pixels than when the run was made, {name}"
    )


@pytest.mark.parametrize("is_finished", [True, False])
def test_run_and_data_moved_together__found_beside_it(run: Path, data: Path, tmp_path: Path, is_finished: bool) -> None:
    expected = pixels(own(run))
    if not is_finished:
        (run / "summary.json").unlink()
        for step, place in ((9, tmp_path / "before"), (10, run)):  # it has moved between them
            (run / "checkpoints" / f"step-{step}").mkdir(parents=True)
            write_json(run / "checkpoints" / f"step-{step}" / "state.json", {"made_with": {"run": str(place)}})
    (tmp_path / "new").mkdir()
    shutil.move(tmp_path / "runs", tmp_path / "new" / "runs")
    shutil.move(data, tmp_path / "new" / "photos")
    found = own(tmp_path / "new" / "runs" / "one")
    assert pixels(found) == expected
    assert "lies beside the run as that did" in found.reason
    assert len(own(tmp_path / "new" / "runs" / "one", "train").split) == 10


# --- runs of vitctl 0.1.0 ------------------------------------------------------------------------------------


def test_a_run_without_hashes__by_name(tmp_path: Path, data: Path) -> None:
    run = tmp_path / "run"
    make_run(run, data, has_hashes=False)
    expected = pixels(own(run))
    assert len(own(run, "train").split) == 10
    assert trained_on(run, ["0" * 32]) is None
    shutil.move(data, tmp_path / "elsewhere")
    found = named(run, tmp_path / "elsewhere", "val")
    assert pixels(found) == expected
    assert "by name; the run lists no hashes" in found.reason
    assert len(named(run, tmp_path / "elsewhere", "train").split) == 10
    assert named(run, tmp_path / "elsewhere", None).split_name == "all"  # nobody knows what it was trained on
    with pytest.raises(DataError, match="holds 0 of the 5 images .* found by name"):
        named(run, as_zip(tmp_path / "elsewhere", tmp_path), "val")


# --- seen in the training ------------------------------------------------------------------------------------


def test_seen__in_a_run_that_it_started_from(run: Path, data: Path, tmp_path: Path, write_classes: Write) -> None:
    later = tmp_path / "runs" / "two"
    make_run(later, write_classes(tmp_path / "others", cat=4, dog=4, first=6))
    scan = Looks(Conversation()).scan(own(later, "train").split)
    both = Looks(Conversation()).scan(named(run, data, "all").split)
    for model, earlier in (("demo", []), (str(run / "best"), [run])):
        write_json(later / "config.json", {"vitctl": "x", "data": str(tmp_path / "others"), "model": model})
        assert runs_before(later) == earlier
        for images, expected in ((scan, len(scan.looks)), (both, 10 * len(earlier))):
            is_seen = seen_in_training(images, later).is_seen
            assert is_seen is not None
            assert is_seen.sum() == expected
    write_json(run / "config.json", {"vitctl": "x", "model": str(later / "last")})  # a circle, which no run makes
    assert set(runs_before(later)) == {run, later}
    assert seen_in_training(scan, None).is_seen is None


@pytest.mark.parametrize("is_list_gone", [True, False])
def test_seen__nobody_knows_what_an_earlier_run_was_trained_on(
    run: Path, data: Path, tmp_path: Path, write_classes: Write, is_list_gone: bool
) -> None:
    later = tmp_path / "runs" / "two"
    make_run(later, write_classes(tmp_path / "others", cat=4, dog=4, first=6))
    write_json(later / "config.json", {"vitctl": "x", "data": str(tmp_path / "others"), "model": str(run / "best")})
    scan = Looks(Conversation()).scan(own(later, "train").split)
    assert doubts_about_seen(seen_in_training(scan, later))[1:] == []
    if is_list_gone:
        (run / "training-images.txt").unlink()
    else:
        shutil.rmtree(run)
    seen = seen_in_training(scan, later)
    assert seen.is_seen is None
    [setting] = seen_settings(seen)
    assert setting.value == "unknown"
    assert "counts" not in setting.reason
    number = len(scan.looks)
    why = "it has no training-images.txt" if is_list_gone else "it is gone"
    assert setting.reason == f"{number} of {number} at least; it started from {run}: {why}"
    all_seen, doubt = doubts_about_seen(seen)
    assert all_seen.startswith(f"All {number} images")
    assert doubt.startswith(f"What {run} was trained on, from whose weights {later} started, is not known: {why}.")


def test_seen__in_a_run_that_moved_together_with_the_one_it_started(
    run: Path, data: Path, tmp_path: Path, write_classes: Write
) -> None:
    later = tmp_path / "runs" / "two"
    make_run(later, write_classes(tmp_path / "others", cat=4, dog=4, first=6))
    write_json(later / "config.json", {"vitctl": "x", "data": str(tmp_path / "others"), "model": str(run / "last")})
    shutil.move(tmp_path / "runs", tmp_path / "moved")
    seen = seen_in_training(Looks(Conversation()).scan(named(later, data, "all").split), tmp_path / "moved" / "two")
    assert seen.earlier == (tmp_path / "moved" / "one",)
    assert seen.is_seen is not None
    assert seen.is_seen.sum() == 10


def test_runs_before__a_folder_of_that_name_of_no_run_is_none(run: Path, tmp_path: Path) -> None:
    (tmp_path / "hub" / "best").mkdir(parents=True)
    write_json(run / "config.json", {"vitctl": "x", "model": str(tmp_path / "hub" / "best")})
    assert runs_before(run) == []


def test_a_large_photo_in_an_archive_is_the_same_image(tmp_path: Path) -> None:
    """A JPEG that the scan decodes at 1/8, wherever it lies."""
    for index in range(6):
        noise = np.random.default_rng(index).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        path = tmp_path / "photos" / ("cat", "dog")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(path)
    make_run(tmp_path / "run", tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as archive:
        for path in sorted((tmp_path / "photos").rglob("*.jpg")):
            archive.write(path, f"{path.parent.name}/x{path.name}")
    looks = Looks(Conversation())
    scan = looks.scan(named(tmp_path / "run", tmp_path / "p.zip", "all").split)
    assert all(look is not None and look.is_scaled for look in scan.looks)
    is_seen = seen_in_training(scan, tmp_path / "run").is_seen
    assert is_seen is not None
    assert is_seen.sum() == 4
    assert named(tmp_path / "run", tmp_path / "p.zip", None).split_name == "val"
