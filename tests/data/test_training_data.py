"""Which images train, which validate, and that the test split stays out of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.copies import leaks
from vitctl.data.division import hold_out
from vitctl.data.groups import with_pattern_groups
from vitctl.data.source import Split
from vitctl.data.sources import open_source
from vitctl.data.training_data import TrainingData, check_training_data, open_training_sources
from vitctl.errors import DataError, SettingError


def prepare_training_data(
    data: str,
    *,
    val: str | None,
    val_fraction: float | None,
    conversation: Conversation,
    group_pattern: str | None = None,
    **settings: Any,
) -> TrainingData:
    """Both steps, as the finetune workflow takes them."""
    sources = open_training_sources(data, val=val, val_fraction=val_fraction, group_pattern=group_pattern)
    return check_training_data(sources, val_fraction=val_fraction, conversation=conversation, **settings)


Write = Callable[..., Path]


def _prepare(
    data: object,
    *,
    val: object = None,
    val_fraction: float | None = None,
    seed: int = 0,
    skip_bad: bool = False,
    group_pattern: str | None = None,
    conversation: Conversation | None = None,
) -> TrainingData:
    return prepare_training_data(
        str(data),
        val=None if val is None else str(val),
        val_fraction=val_fraction,
        seed=seed,
        skip_bad=skip_bad,
        num_threads=2,
        conversation=conversation or Conversation(),
        group_pattern=group_pattern,
    )


class Ears(Conversation):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


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
    images = write_classes(tmp_path / "t", a=3, b=3)
    other = write_classes(tmp_path / "v", a=2, b=2, first=9)
    for val, words in (
        (
            images,
            ["6 of the 6 validation images are also training images, pixel for pixel: scores on them are too good"],
        ),
        (other, []),
    ):
        ears = Ears()
        _prepare(images, val=val, conversation=ears)
        assert [warning.split(" to be")[0] for warning in ears.warnings] == words


@pytest.mark.parametrize("is_own_split", [True, False])
def test_validation_images_that_are_copies__counted_whatever_their_format(
    tmp_path: Path, write_classes: Write, is_own_split: bool
) -> None:
    train = write_classes(tmp_path / "pets" / "train", cat=10, dog=10)
    val = write_classes(tmp_path / ("pets" if is_own_split else "other") / "val", cat=3, dog=3, first=1)
    Image.effect_noise((256, 264), 50).save(train / "cat" / "large.jpg")
    with Image.open(train / "cat" / "large.jpg") as image:
        image.save(val / "dog" / "large.png")  # a JPEG's pixels, and under another class
    (val / "cat" / "large.jpg").write_bytes((train / "cat" / "large.jpg").read_bytes())
    with Image.open(train / "dog" / "4.png") as image:
        image.save(val / "dog" / "4.bmp")
    ears = Ears()
    data = _prepare(tmp_path / "pets", val=None if is_own_split else val, conversation=ears)
    (warning,) = ears.warnings
    assert warning.startswith("3 of the 9 validation images are also training images, pixel for pixel")
    assert len(data.train) == 21  # only said, not mended


def test_validation_images_that_are_copies__of_a_skipped_training_image_there_are_none(
    tmp_path: Path, write_classes: Write
) -> None:
    train = write_classes(tmp_path / "t", cat=5)
    val = write_classes(tmp_path / "v", cat=5, first=1)
    (train / "cat" / "3.png").write_text("hello")
    ears = Ears()
    data = _prepare(train, val=val, skip_bad=True, conversation=ears)
    assert ears.warnings == []
    assert len(data.train) == 4


def _write_patients(folder: Path, patients: range, *, num_images: int = 4, seed: int = 0) -> Path:
    """Write ``cat/p7/0.png``, ...: every third patient has images of both classes."""
    rng = np.random.default_rng(seed)
    for patient in patients:
        for label in ("cat", "dog") if patient % 3 == 0 else ("cat", "dog")[patient % 2 :][:1]:
            (folder / label / f"p{patient}").mkdir(parents=True)
            for number in range(num_images):
                pixels = rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / label / f"p{patient}" / f"{number}.png")
    return folder


def _patients(split: Split | None) -> set[str]:
    return {Path(name).parent.name for name in _files(split)}


@pytest.mark.parametrize("seed", range(5))
def test_groups_are_on_one_side_of_the_held_out_split(tmp_path: Path, seed: int) -> None:
    folder = _write_patients(tmp_path / "pets", range(30))
    data = _prepare(folder, val_fraction=0.25, seed=seed, group_pattern="{group}/*")
    assert not _patients(data.train) & _patients(data.val)
    assert _patients(data.train) | _patients(data.val) == {f"p{patient}" for patient in range(30)}
    assert _files(data.train) | _files(data.val) == _below(folder)
    assert data.val is not None
    assert abs(len(data.val) - 40) <= 4  # 160 images in groups of 4 and 8
    assert data.val.counts().min() >= 12
    assert data.val_reason == (
        f"{len(data.val)} of 160 training images held out, stratified, seed {seed}; 30 groups kept whole"
    )
    for split in (data.train, data.val):
        assert split.groups is not None
        assert split.groups.tolist() == [Path(name).parent.name for name in split.image_names()]


def test_without_a_pattern_groups_are_divided(tmp_path: Path) -> None:
    folder = _write_patients(tmp_path / "pets", range(30))
    data = _prepare(folder, val_fraction=0.25)
    assert _patients(data.train) & _patients(data.val)
    assert data.train.groups is None


def test_groups_that_share_an_image_are_on_one_side(tmp_path: Path) -> None:
    folder = _write_patients(tmp_path / "pets", range(30))
    chain = ["cat/p2", "dog/p5", "cat/p8", "dog/p11"]
    for here, there in zip(chain, chain[1:], strict=False):
        with Image.open(folder / here / "0.png") as image:
            image.save(folder / there / "copy.bmp")
    for seed in range(8):
        data = _prepare(folder, val_fraction=0.25, seed=seed, group_pattern="{group}/*")
        tied = {"p2", "p5", "p8", "p11"}
        assert (tied <= _patients(data.train)) != (tied <= _patients(data.val))
        assert not _patients(data.train) & _patients(data.val)
        assert data.val_reason.endswith("; 3 exact duplicates kept on one side; 30 groups kept whole")


def test_groups_that_cannot_be_divided_hold_out_none_and_say_so(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=20, dog=20)
    data = _prepare(folder, group_pattern="{group}/*")  # a class is a group
    assert data.val is None
    assert len(data.train) == 40
    assert data.val_reason == "none: 2 groups cannot be divided so that each class is in training"


def test_groups_in_training_and_in_given_validation_images__warned(tmp_path: Path) -> None:
    train = _write_patients(tmp_path / "t", range(10))
    val = _write_patients(tmp_path / "v", range(8, 14), seed=1)
    ears = Ears()
    data = _prepare(train, val=val, group_pattern="{group}/*", conversation=ears)
    assert ears.warnings == [
        "Training and validation share 2 groups, 'p8' first: scores on them are too good to be true."
    ]
    assert data.val is not None
    assert _patients(data.val) == {f"p{patient}" for patient in range(8, 14)}
    ears = Ears()
    _prepare(train, val=val, conversation=ears)  # groups are not known
    assert ears.warnings == []


def test_groups_and_images_in_both__two_warnings(tmp_path: Path) -> None:
    _write_patients(tmp_path / "train", range(6))
    _write_patients(tmp_path / "val", range(6, 9), seed=1)
    (tmp_path / "val" / "cat" / "p2").mkdir()
    copied = (tmp_path / "train" / "cat" / "p2" / "1.png").read_bytes()
    (tmp_path / "val" / "cat" / "p2" / "1.png").write_bytes(copied)
    ears = Ears()
    _prepare(tmp_path, group_pattern="{group}/*", conversation=ears)
    images, groups = sorted(ears.warnings)
    assert groups.startswith("Training and validation share 1 group")
    assert "'p2'" in groups
    assert images.startswith("1 of the 17 validation images ")


def test_a_pattern_that_does_not_fit__is_an_error_of_either_split(tmp_path: Path, write_classes: Write) -> None:
    train = _write_patients(tmp_path / "t", range(6))
    val = write_classes(tmp_path / "v", cat=2, dog=2, first=1)
    with pytest.raises(DataError, match=r"'p\*\{group\}/\*' does not match 4 of 4 images, .*/v/cat/0\.png first"):
        _prepare(train, val=val, group_pattern="p*{group}/*")
    with pytest.raises(DataError, match="does not match 32 of 32 images"):
        _prepare(train, group_pattern="q{group}/*")
    with pytest.raises(SettingError, match="--group-pattern is"):
        _prepare(train, group_pattern="p*/*")


def test_a_skipped_image_does_not_shift_the_groups(tmp_path: Path) -> None:
    folder = _write_patients(tmp_path / "pets", range(30))
    bad = folder / "cat" / "p0" / "1.png"
    bad.write_text("hello")
    data = _prepare(folder, val_fraction=0.25, skip_bad=True, group_pattern="{group}/*")
    assert _files(data.train) | _files(data.val) == _below(folder) - {str(bad)}
    assert not _patients(data.train) & _patients(data.val)
    for split in (data.train, data.val):
        assert split is not None
        assert split.groups is not None
        assert split.groups.tolist() == [Path(name).parent.name for name in split.image_names()]


def test_hold_out__groups_and_equal_images_together(drawn_split: Callable[..., Split]) -> None:
    images = drawn_split(210).select(range(10, 210))
    tens = with_pattern_groups(images, "{group}?")  # drawn/137: group 13
    hashes = ["black" if position in (0, 25) else str(position) for position in range(200)]  # drawn/10 and drawn/35
    assert tens.groups is not None
    for seed in range(10):
        train, val = hold_out(tens, hashes, val_fraction=0.3, seed=seed)
        assert sorted([*train, *val]) == list(range(200))
        sides = [set(tens.groups[side]) for side in (train, val)]
        assert not sides[0] & sides[1]
        assert len({"1", "3"} & sides[1]) in (0, 2)
        assert abs(len(val) - 60) <= 10
        _, without = hold_out(images, hashes, val_fraction=0.3, seed=seed)
        assert len({0, 25} & set(without.tolist())) in (0, 2)
        assert abs(len(without) - 60) <= 1


def test_hold_out__the_share_is_the_default_unless_given(drawn_split: Callable[..., Split]) -> None:
    images = drawn_split(100)
    alone = [str(position) for position in range(100)]
    for fraction, number in ((None, 20), (0.5, 50), (0.004, 0), (0.006, 1), (0.0, 0)):
        train, val = hold_out(images, alone, val_fraction=fraction, seed=0)
        assert (len(train), len(val)) == (100 - number, number)


def test_leaks__bad_images_are_equal_to_nothing(drawn_split: Callable[..., Split]) -> None:
    images = drawn_split(4)
    assert leaks(images, images, hashes=["", "a", "b", ""], other_hashes=["", "c", "", "d"]) == []
    (sentence,) = leaks(images, images.select([0, 1, 2], name="test"), hashes=["", "a"], other_hashes=["", "a", "a"])
    assert sentence.startswith("2 of the 3 test images are also training images, pixel for pixel")


def test_leaks__groups_count_where_both_splits_have_them(drawn_split: Callable[..., Split]) -> None:
    images = drawn_split(40).select(range(10, 40))
    tens = with_pattern_groups(images, "{group}?")  # drawn/31: group 3
    train, test = tens.select(range(22)), tens.select(range(18, 30), name="test")
    unlike = {"hashes": [], "other_hashes": []}
    assert leaks(train, test, **unlike) == [
        "Training and test share 2 groups, '2' first: scores on them are too good to be true."
    ]
    assert leaks(train, tens.select(range(22, 22), name="test"), **unlike) == []
    assert leaks(train, images, **unlike) == []
    assert leaks(images, test, **unlike) == []
