"""Which images train, which validate, and that the test split stays out of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.training_data import TrainingData, check_training_data, find_images, open_training_sources
from vitctl.errors import DataError


def prepare_training_data(
    data: str, *, val: str | None, val_fraction: float | None, conversation: Conversation, **settings: Any
) -> TrainingData:
    """Both steps, as the finetune workflow takes them."""
    sources = open_training_sources(data, val=val, val_fraction=val_fraction)
    return check_training_data(sources, val_fraction=val_fraction, conversation=conversation, **settings)


Write = Callable[..., Path]


def _prepare(
    data: object,
    *,
    val: object = None,
    val_fraction: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
) -> TrainingData:
    return prepare_training_data(
        str(data),
        val=None if val is None else str(val),
        val_fraction=val_fraction,
        seed=seed,
        skip_bad=skip_bad,
        num_threads=2,
        conversation=Conversation(),
    )


def _files(split: Split | None) -> set[str]:
    assert split is not None
    assert len(set(split.image_names())) == len(split)
    return set(split.image_names())


def _below(folder: Path) -> set[str]:
    return {str(path) for path in folder.rglob("*.png")}


def test_without_anything_a_part_of_the_training_images_is_held_out(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=30, dog=20)
    data = _prepare(folder)
    assert data.val is not None
    assert data.val.counts().tolist() == [6, 4]  # a fifth
    assert not _files(data.train) & _files(data.val)
    assert _files(data.train) | _files(data.val) == _below(folder)
    assert (data.train.name, data.val.name) == ("train", "val")
    assert data.val.class_names == data.train.class_names == ("cat", "dog")
    assert data.val_spec == str(folder)
    assert data.val_reason == "10 of 50 training images held out, stratified, seed 0"


def test_val_fraction_says_how_many_are_held_out(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=30, dog=20)
    data = _prepare(folder, val_fraction=0.4, seed=7)
    assert (len(data.train), len(_files(data.val))) == (30, 20)
    assert data.val_reason.endswith("seed 7")
    assert _files(data.val) != _files(_prepare(folder, val_fraction=0.4, seed=8).val)
    assert _files(data.val) == _files(_prepare(folder, val_fraction=0.4, seed=7).val)


def test_val_fraction_0_holds_out_none_even_if_the_source_has_a_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=3, dog=3)
    write_classes(tmp_path / "val", cat=1, first=1)
    data = _prepare(tmp_path, val_fraction=0)
    assert data.val is None
    assert _files(data.train) == _below(tmp_path / "train")
    assert data.val_reason == "none: --val-fraction 0"


def test_too_few_images_hold_out_none_and_say_so(tmp_path: Path, write_classes: Write) -> None:
    data = _prepare(write_classes(tmp_path, cat=2, dog=2))
    assert data.val is None
    assert len(data.train) == 4
    assert data.val_reason == "none: 4 images are too few to spare any"


def test_the_sources_own_split_is_taken(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=10, dog=10)
    write_classes(tmp_path / "valid", dog=2, first=1)
    data = _prepare(tmp_path)
    assert _files(data.train) == _below(tmp_path / "train")
    assert _files(data.val) == _below(tmp_path / "valid")
    assert data.val is not None
    assert data.val.labels.tolist() == [1, 1]  # dog is class 1 in training, though the only one here
    assert data.val_reason == "the source's own split"


def test_val_fraction_goes_before_the_sources_own_split(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "train", cat=10, dog=10)
    write_classes(tmp_path / "val", cat=2, first=1)
    data = _prepare(tmp_path, val_fraction=0.2)
    assert _files(data.train) | _files(data.val) == _below(tmp_path / "train")
    assert len(_files(data.val)) == 4


def test_val_given_as_a_folder_of_classes(tmp_path: Path, write_classes: Write) -> None:
    pets = write_classes(tmp_path / "pets", cat=10, cow=5, dog=10)
    other = write_classes(tmp_path / "other", dog=3, first=1)
    data = _prepare(pets, val=other)
    assert _files(data.train) == _below(pets)
    assert _files(data.val) == _below(other)
    assert data.val is not None
    assert data.val.name == "val"
    assert data.val.labels.tolist() == [2, 2, 2]
    assert data.val_spec == data.val_reason == str(other)


def test_val_given_goes_before_everything_else(tmp_path: Path, write_classes: Write) -> None:
    write_classes(tmp_path / "pets" / "train", cat=5)
    write_classes(tmp_path / "pets" / "val", cat=2, first=1)
    write_classes(tmp_path / "other" / "train", cat=2, first=2)
    write_classes(tmp_path / "other" / "val", cat=2, first=3)
    data = _prepare(tmp_path / "pets", val=tmp_path / "other", val_fraction=0.5)
    assert _files(data.val) == _below(tmp_path / "other" / "val")
    assert _files(data.train) == _below(tmp_path / "pets" / "train")


def test_val_given__a_test_split_is_never_taken(tmp_path: Path, write_classes: Write) -> None:
    pets = write_classes(tmp_path / "pets", cat=5)
    write_classes(tmp_path / "other" / "train", cat=2, first=2)
    write_classes(tmp_path / "other" / "test", cat=2, first=3)
    with pytest.raises(DataError, match="has the splits train, test; expected a split val"):
        _prepare(pets, val=tmp_path / "other")


@pytest.mark.parametrize("with_val", [True, False])
def test_the_test_split_is_never_touched(tmp_path: Path, write_classes: Write, with_val: bool) -> None:
    write_classes(tmp_path / "train", cat=20, dog=20)
    if with_val:
        write_classes(tmp_path / "val", cat=2, dog=2, first=1)
    write_classes(tmp_path / "test", cat=9, unicorn=9, first=2)
    for path in (tmp_path / "test").rglob("*.png"):
        path.write_bytes(b"")  # who reads it, fails
    data = _prepare(tmp_path)
    assert not (_files(data.train) | _files(data.val)) & _below(tmp_path / "test")
    assert data.train.class_names == ("cat", "dog")


def test_the_digits_test_split_is_never_touched() -> None:
    data = _prepare("digits")
    test = set(open_source("digits").splits["test"].image_names())
    assert not (_files(data.train) | _files(data.val)) & test
    assert (len(data.train), len(_files(data.val))) == (1237, 200)


def test_a_class_unknown_in_training_is_an_error(tmp_path: Path, write_classes: Write) -> None:
    pets = write_classes(tmp_path / "pets", cat=5, dog=5)
    other = write_classes(tmp_path / "other", cat=1, cow=1, first=1)
    with pytest.raises(DataError, match=r"the validation split of .*other has 1 class unknown in training: 'cow'"):
        _prepare(pets, val=other)


def test_a_bad_training_image_is_an_error_or_left_out(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=20, dog=20)
    bad = folder / "cat" / "3.png"
    bad.write_text("hello")
    with pytest.raises(DataError, match="1 of 40 .*images cannot be read"):
        _prepare(folder)
    data = _prepare(folder, skip_bad=True)
    assert data.skipped == (f"{bad}: not an image that Pillow knows",)
    assert _files(data.train) | _files(data.val) == _below(folder) - {str(bad)}
    assert len(data.sizes) == len(data.train)


def test_a_bad_validation_image_is_an_error_even_if_bad_training_images_are_skipped(
    tmp_path: Path, write_classes: Write
) -> None:
    write_classes(tmp_path / "train", cat=5)
    write_classes(tmp_path / "val", cat=5, first=1)
    (tmp_path / "val" / "cat" / "3.png").write_text("hello")
    with pytest.raises(DataError, match="1 of 5 val images cannot be read"):
        _prepare(tmp_path, skip_bad=True)


def test_sizes_are_those_of_the_images_that_train(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", dog=3)
    (folder / "cat").mkdir()
    for number in range(1, 30):
        Image.new("RGB", (number, 40 - number)).save(folder / "cat" / f"{number}.png")
    (folder / "cat" / "7.png").write_text("hello")
    data = _prepare(folder, skip_bad=True)
    assert data.val is not None
    for position in range(len(data.train)):
        image = data.train.read(position)
        assert data.sizes[position].tolist() == [image.height, image.width]


def test_exact_duplicates_are_never_on_both_sides(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=20, dog=20)
    for number in range(20):
        with Image.open(folder / "cat" / f"{number}.png") as image:
            image.save(folder / "cat" / f"copy{number}.bmp")  # another file, the same pixels
    data = _prepare(folder, val_fraction=0.5)
    sides = [{(Path(name).parent.name, Path(name).stem.removeprefix("copy")) for name in _files(split)}
             for split in (data.train, data.val)]  # fmt: skip
    assert not sides[0] & sides[1]
    assert "; 20 exact duplicates kept on one side" in data.val_reason


def test_find_images_gives_the_names_in_their_order(drawn_split: Callable[..., Split]) -> None:
    found = find_images(drawn_split(6), ["drawn/4", "drawn/1"], where="validation-images.txt")
    assert (found.name, found.image_names()) == ("val", ["drawn/4", "drawn/1"])
    assert found.rows.tolist() == [4, 1]


def test_find_images__one_that_is_gone_is_an_error(drawn_split: Callable[..., Split]) -> None:
    with pytest.raises(
        DataError, match="2 of the 3 images listed in the file are no longer in the data, drawn/9 first"
    ):
        find_images(drawn_split(6), ["drawn/4", "drawn/9", "drawn/8"], where="the file")


def test_bad_validation_image__no_advice_to_skip_it(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    train, val = write_classes(tmp_path / "t", a=3, b=3), write_classes(tmp_path / "v", a=2, first=9)
    (val / "a" / "0.png").write_bytes(b"")
    with pytest.raises(DataError, match="1 of 2 val images cannot be read; repair or remove them:"):
        prepare_training_data(
            str(train),
            val=str(val),
            val_fraction=None,
            seed=0,
            skip_bad=True,
            num_threads=1,
            conversation=Conversation(),
        )


def test_validation_images_that_are_training_images__warned(tmp_path: Path, write_classes: Callable[..., Path]) -> None:
    class Ears(Conversation):
        heard = ""

        def warn(self, text: str) -> None:
            self.heard += text

    images, ears = str(write_classes(tmp_path / "t", a=3, b=3)), Ears()
    other = str(write_classes(tmp_path / "v", a=2, b=2, first=9))
    for val, words in ((images, "6 of the 6 validation images are also training images"), (other, "")):
        ears.heard = ""
        prepare_training_data(
            images, val=val, val_fraction=None, seed=0, skip_bad=False, num_threads=1, conversation=ears
        )
        assert words in ears.heard
        assert bool(words) == bool(ears.heard)
