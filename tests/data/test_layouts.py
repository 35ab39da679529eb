"""How folders are meant: many layouts, each on disk and in a zip archive, which must be read alike."""

import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vitctl.data.source import Source, SourceOptions
from vitctl.data.sources import open_source
from vitctl.errors import DataError

ZIP, FOLDER = "zip", "folder"


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """One small PNG."""
    path = tmp_path_factory.mktemp("pixels") / "a.png"
    Image.new("RGB", (3, 3)).save(path)
    return path.read_bytes()


@pytest.fixture(params=[FOLDER, ZIP])
def written(request: pytest.FixtureRequest, tmp_path: Path, pixels: bytes) -> Callable[..., Path]:
    """Write images of these names into a folder or an archive; a name with a slash at its end is a folder."""

    def write(*names: str) -> Path:
        if request.param == ZIP:
            with zipfile.ZipFile(tmp_path / "data.zip", "w") as archive:
                for name in names:
                    archive.writestr(name, b"" if name.endswith("/") else pixels)
            return tmp_path / "data.zip"
        for name in names:
            path = tmp_path / "data" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith("/"):
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(pixels)
        return tmp_path / "data"

    return write


def _shape(source: Source) -> dict[str, dict[str, int]]:
    """Return the number of images by split and class."""
    return {
        name: dict(zip(split.class_names, split.counts().tolist(), strict=True))
        for name, split in source.splits.items()
    }


def _both(*splits: str, classes: str = "ab") -> list[str]:
    return [f"{split}/{name}/1.png" for split in splits for name in classes]


A_B = {"a": 1, "b": 1}
LAYOUTS: dict[str, tuple[list[str], dict[str, dict[str, int]]]] = {
    # classes
    "classes": (["a/1.png", "b/1.png"], {"all": A_B}),
    "true classes test and control": (["test/1.png", "control/1.png"], {"all": {"control": 1, "test": 1}}),
    "true classes dev and test": (["dev/1.png", "test/1.png"], {"all": {"dev": 1, "test": 1}}),
    "buses and trains": (["bus/1.png", "train/1.png", "test/1.png"], {"all": {"bus": 1, "test": 1, "train": 1}}),
    "one class": (["a/1.png", "a/2.png"], {"all": {"a": 2}}),
    "classes with sub-folders": (["a/1.png", "a/x/2.png", "b/y/1.png"], {"all": {"a": 2, "b": 1}}),
    "litter": (
        ["a/1.png", "b/1.png", "a/@eaDir/1.png", "__MACOSX/a/1.png", ".thumbs/1.png", "b/._1.png", "@eaDir/a/1.png"],
        {"all": A_B},
    ),
    # splits
    "train, val, test": (_both("train", "val", "test"), {"train": A_B, "val": A_B, "test": A_B}),
    "Training, Testing": (_both("Training", "Testing"), {"train": A_B, "test": A_B}),
    "Train, test": (_both("Train", "test"), {"train": A_B, "test": A_B}),
    "TRAIN, VALID": (_both("TRAIN", "VALID"), {"train": A_B, "val": A_B}),
    "training_set, test_set": (_both("training_set", "test_set"), {"train": A_B, "test": A_B}),
    "train, dev": (_both("train", "dev"), {"train": A_B, "val": A_B}),
    "val, test": (_both("val", "test"), {"val": A_B, "test": A_B}),
    "train alone": (_both("train"), {"train": A_B}),
    "Training alone": (_both("Training"), {"train": A_B}),
    "test alone": (_both("test"), {"test": A_B}),
    "other classes in test": (["train/a/1.png", "test/b/1.png"], {"train": {"a": 1}, "test": {"b": 1}}),
    "holdout": ([*_both("train", "val"), "holdout/a/1.png"], {"train": A_B, "val": A_B}),
    "unlabeled": ([*_both("train", "test"), "unlabeled/1.png"], {"train": A_B, "test": A_B}),
    "notes beside train": ([*_both("train"), "docs/read.txt", "empty/"], {"train": A_B}),
    "twice": (_both("training_set/training_set", "test_set/test_set"), {"train": A_B, "test": A_B}),
    "folders in the one class of test": (
        ["train/a/1.png", "test/a/x/1.png", "test/a/y/1.png"],
        {"train": {"a": 1}, "test": {"a": 2}},
    ),
    # a folder around them
    "around classes": (_both("photos"), {"all": A_B}),
    "twice around classes": ([*_both("photos/v2"), "photos/LICENSE.txt", "read.md"], {"all": A_B}),
    "around splits": (_both("photos/Train", "photos/Test"), {"train": A_B, "test": A_B}),
    "around one class": (["photos/a/1.png"], {"all": {"a": 1}}),
    "splits beside annotations": (
        [*_both("images/train", "images/val"), "annotations/train/1.xml", "docs/a.txt"],
        {"train": A_B, "val": A_B},
    ),
    "classes beside annotations": ([*_both("images"), "annotations/1.xml"], {"all": A_B}),
    "a class yet to be filled": (["a/x/1.png", "a/y/1.png", "b/"], {"all": {"a": 2}}),
    "phones' photos beside": ([*_both("dev", "test"), "prod/a/1.heic"], {"val": A_B, "test": A_B}),
}  # fmt: skip


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_read_as_it_is_meant(written: Callable[..., Path], layout: str) -> None:
    names, expected = LAYOUTS[layout]
    assert _shape(open_source(str(written(*names)))) == expected


@pytest.mark.parametrize("layout", ["Training, Testing", "train, dev", "training_set, test_set"])
def test_splits_are_named_on_the_header(written: Callable[..., Path], layout: str) -> None:
    first, second = layout.split(", ")
    assert f" with {first}/, {second}/" in open_source(str(written(*LAYOUTS[layout][0]))).description


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["train/a/1.png", "train/b/1.png", "cats/1.png"], ["holds train/, named as a split, and cats/, which is not"]),
        ([*_both("Training"), *_both("holdout")], ["holds Training/, named as a split, and holdout/, which is not"]),
        (["train/x/1.png", "test/y/1.png", "bus/1.png"], ["holds test/ and train/, named as splits, and bus/"]),
        ([*_both("train"), "x/1.png", "y/1.png"], ["train/, named as a split, and x/ and y/, which are not"]),
    ],
)
def test_a_folder_that_may_be_either_is_an_error_naming_both(
    written: Callable[..., Path], names: list[str], found: list[str]
) -> None:
    spec = written(*names)
    with pytest.raises(DataError) as caught:
        open_source(str(spec))
    for words in [str(spec), *found, "Rename or move", "--class-depth 1"]:
        assert words in str(caught.value)
    everything = open_source(str(spec), SourceOptions(class_depth=1))  # which is one way out
    assert list(everything.splits) == ["all"]
    assert len(everything.splits["all"]) == len(names)


@pytest.mark.parametrize("one", ["val, valid", "Train, training", "test, Testing"])
def test_two_folders_for_one_split_are_an_error(written: Callable[..., Path], one: str) -> None:
    same = one.split(", ")
    others = ["train"] if "training" not in same else ["val"]
    words = {"val": "validation", "Tra": "training", "tes": "test"}[one[:3]]
    with pytest.raises(DataError, match=f"expected one {words} folder. Keep one of them") as caught:
        open_source(str(written(*_both(*others, *same))))
    assert all(name in str(caught.value) for name in same)


def test_what_is_not_read_is_said(written: Callable[..., Path]) -> None:
    spec = written(*_both("w/train", "w/test"), "w/unlabeled/1.png", "w/holdout/a/1.png")
    entered, beside = open_source(str(spec)).notes
    assert entered == f"{spec} holds nothing but w/, whose folders are read."
    assert beside == f"holdout/ and unlabeled/ beside the splits of {spec}/w are not read."


def test_folders_without_images_beside_those_that_are_entered_are_said(written: Callable[..., Path]) -> None:
    spec = written(*_both("images/train", "images/val"), "annotations/1.xml", "docs/a.txt")
    assert open_source(str(spec)).notes == (
        f"The images of {spec} lie in images/, whose folders are read; annotations/ and docs/ hold none.",
    )


def test_images_of_a_test_in_no_class_make_no_class_of_train(written: Callable[..., Path]) -> None:
    spec = written(*_both("train"), "test/1.png", "unlabeled/1.png")
    source = open_source(str(spec))
    assert list(source.splits) == ["train", "test"]
    assert source.training_split().class_names == ("a", "b")
    assert source.notes == (f"unlabeled/ beside the splits of {spec} is not read.",)
    assert open_source(str(spec), SourceOptions(class_depth=1)).splits["all"].class_names == (
        "test", "train", "unlabeled",
    )  # fmt: skip


@pytest.mark.parametrize("ending", ["png", "heic", "avif"])
def test_what_is_installed_decides_nothing(written: Callable[..., Path], ending: str) -> None:
    spec = written("train/a/1.png", "train/b/1.png", f"cats/1.{ending}")
    with pytest.raises(DataError, match="holds train/, named as a split, and cats/, which is not"):
        open_source(str(spec))


def test_level_1_makes_classes_of_what_is_built_like_another_folder(written: Callable[..., Path]) -> None:
    spec = str(written(*_both("dev", "test", "prod")))
    assert list(open_source(spec).splits) == ["val", "test"]
    for depth, expected in ((1, ["all"]), (2, ["val", "test"])):
        assert list(open_source(spec, SourceOptions(class_depth=depth)).splits) == expected
    assert _shape(open_source(spec, SourceOptions(class_depth=1))) == {"all": {"dev": 2, "prod": 2, "test": 2}}


def test_splits_where_classes_are_looked_for_are_said(written: Callable[..., Path]) -> None:
    spec = written(*_both("fold1/train", "fold1/test", "fold2/train", "fold2/test"))
    (note,) = open_source(str(spec)).splits["all"].notes
    assert note == (
        f"No image of {spec} lies directly in a class folder; fold1/test/a/1.png counts as 'fold1'. test/ and train/ "
        f"look like splits, not like classes: give {spec}/fold1 as --data."
    )
    note, merged = open_source(str(spec), SourceOptions(class_depth=2)).splits["all"].notes
    assert merged.startswith("2 classes lie in several folders, fold1/test and fold2/test first; their images")
    assert note == f"test/ and train/ look like splits, not like classes: give {spec}/fold1 as --data."
    assert open_source(str(spec), SourceOptions(class_depth=3)).splits["all"].class_names == ("a", "b")


def test_splits_in_each_class_are_said(written: Callable[..., Path]) -> None:
    source = open_source(str(written("a/train/1.png", "a/test/1.png", "b/train/1.png", "b/test/1.png")))
    (note,) = source.splits["all"].notes
    assert note.endswith("test/ and train/ look like splits, not like classes: expected test/a/, not a/test/.")


def test_images_outside_class_folders_are_said(written: Callable[..., Path]) -> None:
    spec = written("a/1.png", "b/1.png", "0.png", "10.png")
    (note,) = open_source(str(spec)).splits["all"].notes
    assert note == f"2 images of {spec} lie outside the class folders, 0.png first, and are not read."


def test_train_and_test_with_images_directly_are_an_error_not_two_classes(written: Callable[..., Path]) -> None:
    source = open_source(str(written("Train/1.png", "Train/2.png", "Test/1.png")))
    with pytest.raises(DataError, match=r"Train holds 2 image\(s\) but no class folders"):
        source.training_split()


# --- deeper class folders ------------------------------------------------------------------------------------

DEEP = ["dogs/poodle/1.png", "dogs/poodle/2.png", "dogs/pug/1.png", "cats/siam/old/1.png", "cats/other/1.png"]


def test_images_two_levels_deep_are_said_and_read_as_given(written: Callable[..., Path]) -> None:
    spec = written(*DEEP, "dogs/other/1.png")
    usual = open_source(str(spec)).splits["all"]
    assert usual.class_names == ("cats", "dogs")
    (note,) = usual.notes
    assert note == (
        f"No image of {spec} lies directly in a class folder; cats/other/1.png counts as 'cats'. --class-depth 2 takes "
        "the 4 folders below as classes, 'other' first."
    )
    source = open_source(str(spec), SourceOptions(class_depth=2))
    split = source.splits["all"]
    assert dict(zip(split.class_names, split.counts().tolist(), strict=True)) == {
        "other": 2, "poodle": 2, "pug": 1, "siam": 1,
    }  # fmt: skip
    assert split.notes == (
        "1 class lies in several folders, cats/other and dogs/other first; its images count together.",
    )
    assert source.description.endswith("of class folders, classes at level 2")
    assert source.options.class_depth == 2
    names = [split.class_names[label] for label in split.labels]
    labelled = {path.split("/")[-2]: name for path, name in zip(split.image_names(), names, strict=True)}
    assert labelled == {"poodle": "poodle", "pug": "pug", "other": "other", "old": "siam"}


def test_one_folder_below_each_class_is_nothing_to_speak_of(written: Callable[..., Path]) -> None:
    assert open_source(str(written("cats/images/1.png", "dogs/images/1.png"))).splits["all"].notes == ()


@pytest.mark.parametrize("around", ["", "animals/", "animals/v2/"])
def test_levels_are_counted_below_splits_and_folders_around(written: Callable[..., Path], around: str) -> None:
    spec = written(*(f"{around}{split}/{name}" for split in ("train", "test") for name in DEEP))
    counts = {"other": 1, "poodle": 2, "pug": 1, "siam": 1}
    assert _shape(open_source(str(spec), SourceOptions(class_depth=2))) == {"train": counts, "test": counts}


def test_a_folder_is_not_entered_where_the_level_would_be_lost(written: Callable[..., Path]) -> None:
    spec = str(written("dogs/poodle/1.png", "dogs/pug/1.png"))
    for depth in (None, 1, 2):
        assert _shape(open_source(spec, SourceOptions(class_depth=depth))) == {"all": {"poodle": 1, "pug": 1}}


def test_no_image_at_that_level_is_an_error(written: Callable[..., Path]) -> None:
    source = open_source(str(written("a/1.png", "b/1.png")), SourceOptions(class_depth=3))
    with pytest.raises(DataError, match=r"has no image 3 folders deep, the first is a/1\.png.*another --class-depth"):
        source.training_split()


def test_an_empty_folder_at_that_level_is_a_class_without_images(written: Callable[..., Path]) -> None:
    split = open_source(str(written("x/a/1.png", "y/a/", "y/c/", "x/b/1.png")), SourceOptions(class_depth=2))
    assert split.training_split().empty_classes == ("c",)  # a has images elsewhere


# --- spellings -----------------------------------------------------------------------------------------------


def test_spellings_of_a_class_that_unicode_tells_apart_are_one(written: Callable[..., Path]) -> None:
    nfc, nfd = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    assert nfc != nfd
    source = open_source(
        str(written(f"train/{nfc}/1.png", f"train/{nfd}/2.png", "train/tea/1.png", f"val/{nfd}/3.png"))
    )
    train, val = source.splits["train"], source.splits["val"]
    assert (train.class_names, train.counts().tolist()) == ((nfc, "tea"), [2, 1])
    assert val.class_names == (nfc,)
    for split in (train, val):
        (note,) = split.notes
        assert "1 class is spelt with letters taken apart (Unicode NFD, as macOS does), 'café' first" in note
