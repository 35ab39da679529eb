"""Images that a file lists are left out of training, and of nothing else."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.data.listed_images import check_not_edited, read_listed_images, write_suspicious
from vitctl.data.looks import Looks
from vitctl.data.run_images import images_of_run, named_images
from vitctl.data.run_lists import validation_document, write_training_list
from vitctl.data.source import SourceOptions
from vitctl.data.training_data import TrainingData, check_training_data, open_training_sources
from vitctl.errors import DataError, SettingError
from vitctl.primitives.csv_files import write_csv
from vitctl.primitives.files import write_json
from vitctl.results.data import SuspiciousLabel

Write = Callable[..., Path]


class Ears(Conversation):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def prepare(
    data: Path,
    clean: Path | str | None = None,
    *,
    val: str | None = None,
    ears: Conversation | None = None,
    skip_bad: bool = False,
    **how: Any,
) -> TrainingData:
    sources = open_training_sources(str(data), val=val, val_fraction=None)
    return check_training_data(
        sources,
        val_fraction=None,
        seed=0,
        skip_bad=skip_bad,
        num_threads=1,
        conversation=ears or Conversation(),
        listed=None if clean is None else read_listed_images(str(clean)),
        **how,
    )


@pytest.fixture
def photos(tmp_path: Path, write_classes: Write) -> Path:
    return write_classes(tmp_path / "photos", cat=12, dog=8)


def names(data: TrainingData) -> list[str]:
    return data.train.image_names()


def listing(place: Path, *rows: str, header: str = "image") -> Path:
    path = place.parent / "list.csv"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return path


def test_listed__are_not_trained_on_and_the_validation_images_stay(photos: Path) -> None:
    usual = prepare(photos)
    assert usual.val is not None
    held_out = usual.val.image_names()
    clean = listing(photos, *names(usual)[:3], held_out[0])
    data = prepare(photos, clean)
    assert names(data) == names(usual)[3:]
    assert (list(data.hashes), data.sizes.tolist()) == (list(usual.hashes[3:]), usual.sizes[3:].tolist())
    assert data.val is not None
    assert data.val.image_names() == held_out
    assert data.val_reason == usual.val_reason
    assert data.cleaned is not None
    assert data.cleaned.split.image_names() == names(usual)[:3]
    assert data.listed is not None
    assert data.listed.told == f"left out: 3 of 4 listed in {clean}; 1 of them is held out and stays"


def test_listed__the_run_still_knows_its_own_images(photos: Path, tmp_path: Path) -> None:
    data = prepare(photos, listing(photos, *names(prepare(photos))[:3]))
    run = tmp_path / "run"
    run.mkdir()
    write_json(run / "validation.json", validation_document(data, image_root=None))
    write_training_list(run, data, image_root=None)
    found = named_images(str(photos), None, SourceOptions(), run=run, look=Looks(Conversation()).scan)
    assert data.val is not None
    assert found.split.image_names() == data.val.image_names()
    assert found.reason.endswith("the others are its training images, or left out by --clean")
    found = named_images(str(photos), "train", SourceOptions(), run=run, look=Looks(Conversation()).scan)
    assert found.split.image_names() == names(data)
    assert found.reason == "split train: given; 7 that the run validated on or left out by --clean are left out"


def test_listed__are_no_training_images_of_the_run(photos: Path, tmp_path: Path, write_classes: Write) -> None:
    val = write_classes(tmp_path / "others", cat=3, dog=3, first=1)  # of the same names
    for place, own in ((tmp_path / "a", None), (tmp_path / "b", str(val))):
        data = prepare(photos, listing(photos, *names(prepare(photos))[:3]), val=own)
        place.mkdir()
        write_json(place / "config.json", {"vitctl": "x", "data": data.source.spec, "val": own})
        write_json(place / "validation.json", validation_document(data, image_root=None))
        write_training_list(place, data, image_root=None)
        for look in (None, Looks(Conversation()).scan):
            assert images_of_run(place, "train", advice="", look=look).split.image_names() == names(data)


@pytest.mark.parametrize("how", [{"fold": (2, 3)}, {"dev_fraction": 0.2}])
def test_listed__are_left_out_of_a_fold_and_beside_development_images(photos: Path, how: dict[str, Any]) -> None:
    usual = prepare(photos, **how)
    data = prepare(photos, listing(photos, *names(usual)[::2]), **how)
    assert names(data) == names(usual)[1::2]
    assert (data.val_hashes, data.num_untouched) == (usual.val_hashes, usual.num_untouched)


def test_listed__by_paths_relative_to_the_folder_and_by_their_flags(photos: Path) -> None:
    every = [str(Path(name).relative_to(photos)) for name in names(prepare(photos))]
    marks = ("yes", "no", "TRUE", "false", " 1 ", "")
    rows = [*(f"{mark};{name}" for mark, name in zip(marks, every, strict=False)), "yes;", ";"]
    ears = Ears()
    data = prepare(photos, listing(photos, *rows, header="flagged;image"), ears=ears)
    assert not ears.warnings
    assert [str(Path(name).relative_to(photos)) for name in names(data)] == [every[1], every[3], *every[5:]]


def test_listed__a_path_may_be_written_in_another_way(photos: Path) -> None:
    every = names(prepare(photos))
    first, second, third, fourth = (Path(name).relative_to(photos) for name in every[:4])
    rows = (f"./{first} ", f"{photos}//{second}", f"{photos / 'dog' / '..' / third}", str(fourth).replace("/", "\\"))
    assert names(prepare(photos, listing(photos, *rows))) == every[4:]


def test_listed__of_two_names_that_differ_in_spelling_alone_the_exact_one_is_meant(
    photos: Path, write_classes: Write
) -> None:
    (photos / "cat" / "a\\0.png").write_bytes((photos / "cat" / "0.png").read_bytes())
    write_classes(photos / "cat", a=1)
    every = names(prepare(photos, fold=(5, 5)))
    assert sum("a/0.png" in name or "a\\0.png" in name for name in every) == 2
    data = prepare(photos, listing(photos, "cat/a\\0.png"), fold=(5, 5))
    assert {*every} - {*names(data)} == {str(photos / "cat" / "a\\0.png")}


def test_listed__who_is_not_among_the_images_is_told(photos: Path) -> None:
    ears = Ears()
    clean = listing(photos, names(prepare(photos))[0], "gone.png", "lost.png")
    assert len(prepare(photos, clean, ears=ears).train) == 15
    assert ears.warnings == [
        f"--clean {clean} lists 2 images that are not among the training images of {photos}, 'gone.png' first."
    ]
    with pytest.raises(
        DataError, match=r"lists 2 images, 'gone.png' first, and none is a training image of .*photos; expected names"
    ):
        prepare(photos, listing(photos, "gone.png", "lost.png"))


def test_listed__one_that_cannot_be_read_is_known_all_the_same(photos: Path) -> None:
    (photos / "cat" / "broken.png").write_bytes(b"x")
    ears, first = Ears(), names(prepare(photos, skip_bad=True))[0]
    data = prepare(photos, listing(photos, "cat/broken.png", first), ears=ears, skip_bad=True)
    assert data.listed is not None
    assert (data.listed.told.partition(" in ")[0], ears.warnings) == ("left out: 1 of 2 listed", [])


def test_listed__as_a_file_of_rows_shows_them(photos: Path) -> None:
    odd = ("=1,2.png", "a\x1b.png", 'say "no".png', "two\nlines.png")
    for name in odd:
        (photos / "cat" / name).write_bytes((photos / "cat" / "0.png").read_bytes())
    write_csv(photos.parent / "list.csv", [["image"], *([str(photos / "cat" / name)] for name in odd)])
    ears = Ears()
    data = prepare(photos, photos.parent / "list.csv", ears=ears)
    assert not ears.warnings
    assert not {str(photos / "cat" / name) for name in odd} & {*names(data)}
    assert " of 4 listed in " in str(data.listed and data.listed.told)


def test_listed__a_class_that_loses_every_image_is_told(photos: Path) -> None:
    ears, every = Ears(), names(prepare(photos))
    prepare(photos, listing(photos, *(name for name in every if "dog" in name)), ears=ears)
    assert ears.warnings == [
        "Class 'dog' has no image to train on, as --clean lists all of them: what is said of it cannot be right."
    ]
    with pytest.raises(DataError, match="lists every image that there is to train on"):
        prepare(photos, listing(photos, *every))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("path\na.png\n", "has the columns path; expected one called 'image'"),
        ("image,flagged\na.png,perhaps\n", "has 'perhaps' in column 'flagged' of 'a.png'; expected yes or no"),
        ("image,flagged\na.png,no\n", "lists no image to leave out"),
        ("", "is empty; expected a first line"),
        ('image\n"a.png\n', "cannot be read as CSV"),
        (None, "cannot be read: No such file or directory; expected a CSV file"),
    ],
)
def test_listed__a_file_that_cannot_be_used_is_a_sentence(tmp_path: Path, text: str | None, why: str) -> None:
    path = tmp_path / "list.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=re.escape(why)):
        read_listed_images(str(path))
    path.write_bytes(b"image\n\xff\n")
    with pytest.raises(DataError, match="Save it as UTF-8"):
        read_listed_images(str(path))


def test_listed__a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "list.csv")
    with pytest.raises(DataError, match="cannot be read: it is no regular file; expected a CSV file"):
        read_listed_images(str(tmp_path / "list.csv"))
    with pytest.raises(DataError, match="cannot be read: it is a folder; expected a CSV file"):
        read_listed_images(str(tmp_path))


def test_listed__a_list_that_was_changed_is_another(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("image\na.png\n")
    spec = read_listed_images(str(path)).spec
    assert spec.startswith(f"{path}#sha256=")
    assert read_listed_images(spec).spec == spec
    path.write_text("image\nb.png\n")
    with pytest.raises(SettingError, match="is no longer the list that the run was made with"):
        read_listed_images(spec)


@pytest.fixture
def written(tmp_path: Path) -> tuple[Path, Path]:
    """A list and its report, with names that CSV and JSON spell differently."""
    listed = [
        SuspiciousLabel(
            image=name,
            class_name="=cat",
            probability=1e-6,
            suggested="dog, or\nwolf",
            suggested_probability=0.9,
            is_flagged=is_flagged,
            copies=0,
        )
        for name, is_flagged in (("a\x1b,.png", True), ("\udcff.png", True), ("c.png", False))
    ]
    places = tmp_path / "suspicious.csv", tmp_path / "report.json"
    write_suspicious(places[0], listed)
    write_json(places[1], {"suspicious": [one.as_json() for one in listed]})
    return places


def test_written__is_read_as_the_flagged_images_and_may_be_replaced(written: tuple[Path, Path]) -> None:
    path, report = written
    assert read_listed_images(str(path)).names == (r"a\x1b,.png", r"\xff.png")
    check_not_edited(path, report)
    path.write_text(path.read_text().replace("1e-06", "0.000001"))
    check_not_edited(path, report)  # a spreadsheet writes numbers in its own way
    path.unlink()
    check_not_edited(path, report)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("yes", "no"),
        ("c.png", "d.png"),
        ("=cat", "dog"),
        ("flagged", "flagged,why"),
        (r"a\x1b,.png", "\xff"),
        ("\n", "\nx\n"),
    ],
)
def test_written__an_edited_list_is_not_replaced(written: tuple[Path, Path], old: str, new: str) -> None:
    path, report = written
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1), encoding="latin-1")
    with pytest.raises(SettingError, match=r"is not the list that report.json beside it has"):
        check_not_edited(path, report)


def test_written__without_its_report_nobody_knows(written: tuple[Path, Path]) -> None:
    path, report = written
    for text in ("{}", "[]", '{"suspicious": null}', '{"suspicious": [3]}', '{"suspicious": [{"image": 3}]}', "{"):
        report.write_text(text)
        with pytest.raises(SettingError, match="or is of another report"):
            check_not_edited(path, report)
