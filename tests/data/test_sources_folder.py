"""Folders of class folders, and which folders are read as splits."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image

from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.training_data import open_training_sources
from vitctl.errors import DataError

Write = Callable[..., Path]


def _image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (3, 3)).save(path)
    return path


def _found(split: Split, folder: Path) -> list[tuple[str, str]]:
    """Return (path below ``folder``, class) of every image, in order."""
    names = [str(Path(name).relative_to(folder)) for name in split.image_names()]
    return list(zip(names, [split.class_names[label] for label in split.labels], strict=True))


def test_a_folder_of_class_folders_is_one_split(tmp_path: Path, write_classes: Write) -> None:
    source = open_source(str(write_classes(tmp_path, cat=2, dog=1)))
    assert list(source.splits) == ["all"]
    assert source.splits["all"].name == "all"
    assert source.splits["all"].class_names == ("cat", "dog")
    assert _found(source.splits["all"], tmp_path) == [("cat/0.png", "cat"), ("cat/1.png", "cat"), ("dog/0.png", "dog")]


def test_classes_and_files_are_in_natural_order(tmp_path: Path) -> None:
    for name in ("10", "2", "1"):
        _image(tmp_path / "10" / f"{name}.png")
        _image(tmp_path / name / "x.png")
    split = open_source(str(tmp_path)).splits["all"]
    assert split.class_names == ("1", "2", "10")
    assert [name for name, _ in _found(split, tmp_path)] == [
        "1/x.png", "2/x.png", "10/1.png", "10/2.png", "10/10.png", "10/x.png",
    ]  # fmt: skip


def test_a_single_class_keeps_its_label(tmp_path: Path, write_classes: Write) -> None:
    split = open_source(str(write_classes(tmp_path, cat=2))).splits["all"]
    assert split.labels.tolist() == [0, 0]
    assert split.class_names == ("cat",)


@pytest.mark.parametrize("validation", ["val", "valid", "validation"])
def test_train_val_and_test_are_splits(tmp_path: Path, write_classes: Write, validation: str) -> None:
    for first, name in enumerate(("test", validation, "train")):
        write_classes(tmp_path / name, cat=1 + first, dog=1, first=first)
    source = open_source(str(tmp_path))
    assert {name: len(split) for name, split in source.splits.items()} == {"train": 4, "val": 3, "test": 2}
    assert list(source.splits) == ["train", "val", "test"]
    assert [split.name for split in source.splits.values()] == ["train", "val", "test"]
    assert source.splits["val"].image_name(0) == str(tmp_path / validation / "cat" / "0.png")


def test_train_alone_is_a_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=1)
    assert list(open_source(str(tmp_path)).splits) == ["train"]


def test_another_folder_beside_train_makes_every_folder_a_class(tmp_path: Path, write_classes: Write) -> None:
    # a data set of vehicles: bus, test (a mock-up), train
    write_classes(tmp_path, bus=1, train=2, test=1)
    split = open_source(str(tmp_path)).splits["all"]
    assert split.class_names == ("bus", "test", "train")
    assert split.counts().tolist() == [1, 1, 2]


@pytest.mark.parametrize("names", [("val", "test"), ("test",), ("test", "control")])
def test_without_train_every_folder_is_a_class(tmp_path: Path, write_classes: Write, names: tuple[str, ...]) -> None:
    source = open_source(str(write_classes(tmp_path, **dict.fromkeys(names, 1))))
    assert list(source.splits) == ["all"]
    assert set(source.splits["all"].class_names) == set(names)


def test_two_validation_folders_are_an_error(tmp_path: Path, write_classes: Write) -> None:
    for name in ("train", "val", "valid"):
        write_classes(tmp_path / name, cat=1)
    with pytest.raises(DataError, match="holds val and valid; expected one validation folder"):
        open_source(str(tmp_path))


def test_splits_keep_their_own_classes(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", a=1, b=1, c=1)
    write_classes(tmp_path / "test", b=1, c=1)
    splits = open_source(str(tmp_path)).splits
    assert splits["train"].class_names == ("a", "b", "c")
    assert splits["test"].class_names == ("b", "c")


def test_a_file_called_test_is_not_a_split(tmp_path: Path) -> None:
    for name in ("test_1", "train_1", "val"):
        _image(tmp_path / "cat" / f"{name}.png")
    source = open_source(str(tmp_path))
    assert {name: len(split) for name, split in source.splits.items()} == {"all": 3}


def test_nested_images_belong_to_the_top_level_class(tmp_path: Path) -> None:
    _image(tmp_path / "cat" / "1.png")
    _image(tmp_path / "cat" / "dog" / "deep" / "2.png")
    _image(tmp_path / "dog" / "3.png")
    split = open_source(str(tmp_path)).splits["all"]
    assert sorted(_found(split, tmp_path)) == [
        ("cat/1.png", "cat"),
        ("cat/dog/deep/2.png", "cat"),
        ("dog/3.png", "dog"),
    ]


def test_extensions_count_in_any_case_and_other_files_are_left_alone(tmp_path: Path) -> None:
    _image(tmp_path / "cat" / "1.png").rename(tmp_path / "cat" / "1.PNG")
    _image(tmp_path / "cat" / "2.jpeg")
    for name in ("notes.txt", "Thumbs.db", "png"):
        (tmp_path / "cat" / name).write_text("")
    (tmp_path / "README.md").write_text("")
    split = open_source(str(tmp_path)).splits["all"]
    assert [name for name, _ in _found(split, tmp_path)] == ["cat/1.PNG", "cat/2.jpeg"]


def test_hidden_folders_are_ignored(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=1)
    _image(tmp_path / "train" / ".ipynb_checkpoints" / "1.png")
    _image(tmp_path / "__MACOSX" / "cat" / "1.png")
    _image(tmp_path / ".cache" / "1.png")
    source = open_source(str(tmp_path))
    assert list(source.splits) == ["train"]
    assert source.splits["train"].class_names == ("cat",)


@pytest.mark.parametrize("below", ["", "train"])
def test_an_empty_class_folder_is_an_error_in_training(tmp_path: Path, write_classes: Write, below: str) -> None:
    write_classes(tmp_path / below, cat=1, dog=0, cow=0)
    with pytest.raises(DataError, match="has class folders without an image: cow, dog; expected image files"):
        open_training_sources(str(tmp_path), val=None, val_fraction=None)


@pytest.mark.parametrize("name", ["val", "valid", "test"])
def test_an_empty_class_folder_is_no_error_in_validation_or_test(
    tmp_path: Path, write_classes: Write, name: str
) -> None:
    write_classes(tmp_path / "train", cat=1, dog=1)
    write_classes(tmp_path / name, cat=0, dog=1)
    splits = open_source(str(tmp_path)).splits
    assert len(splits["test" if name == "test" else "val"]) == 1


def test_a_missing_folder_is_an_error_with_the_nearest_name(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "flowers", rose=1)
    with pytest.raises(DataError, match=r"There is nothing at .*flwers; expected 'digits'.*Did you mean 'flowers'\?"):
        open_source(str(tmp_path / "flwers"))


def test_a_misspelt_word_is_an_error_with_the_nearest_word() -> None:
    with pytest.raises(DataError, match=r"Did you mean 'digits'\?"):
        open_source("digit")


def test_a_missing_folder_in_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="There is nothing at"):
        open_source(str(tmp_path / "a" / "b"))


def test_a_file_is_an_error(tmp_path: Path) -> None:
    path = _image(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is a file; expected"):
        open_source(str(path))


def test_loose_images_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    for name in ("1.png", "2.JPG"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"holds 2 image\(s\) but no class folders.*Move the images of each class"):
        open_source(str(tmp_path)).training_split()


def test_an_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is empty; expected one folder of images per class"):
        open_source(str(tmp_path)).training_split()


def test_a_folder_that_holds_an_archive_only_says_so(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").write_bytes(b"")
    with pytest.raises(DataError, match=r"holds photos\.zip and no image; expected .* Give the archive\."):
        open_source(str(tmp_path)).training_split()


def test_class_folders_without_any_image_are_an_error(tmp_path: Path, write_classes: Write) -> None:
    with pytest.raises(DataError, match=r"has 2 sub-folder\(s\) but no image in them"):
        open_source(str(write_classes(tmp_path, cat=0, dog=0))).training_split()


def test_the_spec_has_the_absolute_path(tmp_path: Path, write_classes: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_classes(tmp_path / "pets", cat=1)
    monkeypatch.chdir(tmp_path)
    source = open_source("pets")
    assert source.spec == str(tmp_path / "pets")
    assert source.splits["all"].image_name(0) == str(tmp_path / "pets" / "cat" / "0.png")


def test_the_home_folder_can_be_written_as_a_tilde(write_classes: Write) -> None:
    write_classes(Path.home() / "pets", cat=1)
    assert open_source("~/pets").spec == str(Path.home() / "pets")


def test_photos_may_be_mirrored(tmp_path: Path, write_classes: Write) -> None:
    assert open_source(str(write_classes(tmp_path, cat=1))).may_flip(["cat", "dog"])


def test_hidden_files_and_folders_in_a_class_are_left_alone(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    folder = write_classes(tmp_path / "images", a=2)
    (folder / "a" / "._0.jpg").write_bytes(b"resource fork")
    (folder / "a" / ".ipynb_checkpoints").mkdir()
    (folder / "a" / ".ipynb_checkpoints" / "0.png").write_bytes(b"copy")
    assert len(open_source(str(folder)).split("all")) == 2


def test_order_does_not_depend_on_the_file_system(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    folder = write_classes(tmp_path / "images", a=1)
    for name in ("1.png", "01.png", "001.png", "A.png", "a.png", "1\u00b2.png"):
        (folder / "a" / name).write_bytes((folder / "a" / "0.png").read_bytes())
    names = [Path(name).name for name in open_source(str(folder)).split("all").image_names()]
    assert names == ["0.png", "001.png", "01.png", "1.png", "1\u00b2.png", "A.png", "a.png"]


def test_unknown_home__said_like_any_missing_folder() -> None:
    with pytest.raises(DataError, match="There is nothing at"):
        open_source("~nosuchuser/images")


def test_an_empty_class_folder_is_no_error_in_given_validation(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "images", cat=2, dog=2)
    write_classes(tmp_path / "held out", cat=0, dog=1, first=5)
    sources = open_training_sources(str(tmp_path / "images"), val=str(tmp_path / "held out"), val_fraction=None)
    assert sources.val is not None
    assert sources.val.counts().tolist() == [0, 1]


def test_what_is_odd_about_given_validation_images_is_said(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "images", cat=2, dog=2)
    write_classes(tmp_path / "held out" / "2024", cat=1, dog=1, first=5)
    sources = open_training_sources(str(tmp_path / "images"), val=str(tmp_path / "held out"), val_fraction=None)
    assert sources.val is not None
    assert sources.source.sentences(sources.train, sources.val) == [
        f"{tmp_path}/held out holds nothing but 2024/, whose folders are read."
    ]


def test_training_never_opens_the_test_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=2, dog=2)
    (tmp_path / "test").mkdir()  # empty: an error for whoever asks for it
    open_training_sources(str(tmp_path), val=None, val_fraction=None)
    with pytest.raises(DataError, match="is empty"):
        open_source(str(tmp_path)).split("test")


def test_class_folders_may_begin_with_underscores(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path, a=1, __other=1, __MACOSX=1)
    assert open_source(str(tmp_path)).split("all").class_names == ("__other", "a")


def test_a_path_that_the_system_refuses__one_sentence() -> None:
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        open_source("a" * 300)


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("cat/again", "."),  # to its own folder
        ("cat/again", ".."),
        ("cat/again", "../.."),  # above the data set
        ("cat/deep/again", "../../cat"),
        ("all", "."),  # as a class of its own
    ],
)
def test_a_link_that_leads_back_is_an_error_that_names_it(
    tmp_path: Path, write_classes: Write, link: str, target: str
) -> None:
    folder = write_classes(tmp_path / "images", cat=2, dog=1)
    (folder / "cat" / "deep").mkdir()
    (folder / link).symlink_to(target, target_is_directory=True)
    source = open_source(str(folder))
    with pytest.raises(DataError, match=f"{folder / link}.* is a link that leads back to .*Remove the link") as caught:
        source.split("all")
    assert caught.value.exit_code == 3


def test_links_that_lead_back_by_way_of_each_other_are_an_error(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path, cat=1, dog=1)
    (folder / "cat" / "to dog").symlink_to("../dog", target_is_directory=True)
    (folder / "dog" / "to cat").symlink_to("../cat", target_is_directory=True)
    with pytest.raises(DataError, match="is a link that leads back to"):
        open_source(str(folder)).split("all")


def test_nothing_but_a_link_that_leads_back_is_an_error_too(tmp_path: Path) -> None:
    (tmp_path / "again").symlink_to(".", target_is_directory=True)
    with pytest.raises(DataError, match=f"{tmp_path}/again.* is a link that leads back to"):
        open_source(str(tmp_path)).split("all")


def test_a_link_to_itself_is_no_folder(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path, cat=1)
    (folder / "loop").symlink_to("loop")
    (folder / "cat" / "loop").symlink_to("loop")
    split = open_source(str(folder)).split("all")
    assert _found(split, folder) == [("cat/0.png", "cat")]


def test_harmless_links_are_followed(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "elsewhere", dog=2, more=1)
    folder = write_classes(tmp_path / "images", cat=1)
    (folder / "dog").symlink_to(tmp_path / "elsewhere" / "dog", target_is_directory=True)
    (folder / "cat" / "more").symlink_to("../../elsewhere/more", target_is_directory=True)
    (folder / "cat" / "one.png").symlink_to(tmp_path / "elsewhere" / "dog" / "0.png")
    split = open_source(str(folder)).split("all")
    assert _found(split, folder) == [
        ("cat/0.png", "cat"),
        ("cat/more/0.png", "cat"),
        ("cat/one.png", "cat"),
        ("dog/0.png", "dog"),
        ("dog/1.png", "dog"),
    ]
    assert split.read(2).tobytes() == split.read(3).tobytes()


def test_a_data_set_that_is_itself_a_link_is_followed(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "v2", cat=1)
    (tmp_path / "latest").symlink_to("v2", target_is_directory=True)
    assert open_source(str(tmp_path / "latest")).split("all").image_names() == [str(tmp_path / "latest/cat/0.png")]


def test_a_hidden_link_that_leads_back_is_left_alone(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path, cat=2)
    (folder / "cat" / ".root").symlink_to("..", target_is_directory=True)
    assert len(open_source(str(folder)).split("all")) == 2


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that anybody may read, and for root the rights of nobody until the test ends."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    is_root = os.geteuid() == 0
    (folder / "images" / "cat").mkdir(parents=True)
    _image(folder / "images" / "cat" / "0.png")
    _image(folder / "images" / "dog" / "deep" / "1.png")
    if is_root:
        os.seteuid(65_534)
    try:
        if not os.access(folder, os.R_OK | os.X_OK, effective_ids=True):
            pytest.skip("the folder for temporary files is closed to others")
        yield folder / "images"
    finally:
        if is_root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            if path.is_dir():
                path.chmod(0o755)
        shutil.rmtree(folder)


def _close(folder: Path) -> None:
    """Take all rights on ``folder`` away, as its owner."""
    nobody = os.geteuid()
    if os.getuid() == 0:
        os.seteuid(0)
    folder.chmod(0o000)
    if os.getuid() == 0:
        os.seteuid(nobody)


@pytest.mark.parametrize("closed", ["dog", "dog/deep"])
def test_a_sub_folder_that_may_not_be_read_is_an_error(as_nobody: Path, closed: str) -> None:
    assert len(open_source(str(as_nobody)).split("all")) == 2
    _close(as_nobody / closed)
    with pytest.raises(
        DataError, match=f"{as_nobody / closed} cannot be read: Permission denied; expected folders that"
    ):
        open_source(str(as_nobody)).split("all")


def test_a_folder_that_may_not_be_read_is_an_error(as_nobody: Path) -> None:
    _close(as_nobody)
    with pytest.raises(DataError, match=f"{as_nobody} cannot be read: Permission denied"):
        open_source(str(as_nobody)).split("all")


def test_a_train_folder_that_may_not_be_read_is_an_error(as_nobody: Path) -> None:
    if os.getuid() == 0:
        os.seteuid(0)
    train = as_nobody / "train"
    train.mkdir()
    for name in ("cat", "dog"):
        (as_nobody / name).rename(train / name)
    if os.getuid() == 0:
        os.seteuid(65_534)
    assert len(open_source(str(as_nobody)).split("train")) == 2
    _close(train)
    with pytest.raises(DataError, match=f"{train} cannot be read: Permission denied"):
        open_source(str(as_nobody)).split("train")
