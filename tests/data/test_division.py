"""Development images, folds and what is left untouched: by files, by lists, and found again."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.looks import Looks
from vitctl.data.run_images import Images, images_digest, images_of_run, named_images
from vitctl.data.run_lists import read_listing, trained_on, validation_document, write_training_list
from vitctl.data.source import SourceOptions, Split
from vitctl.data.splits import default_dev_fraction, num_development
from vitctl.data.training_data import TrainingData, check_training_data, open_training_sources
from vitctl.errors import DataError
from vitctl.primitives.files import write_json

Write = Callable[..., Path]


class Ears(Conversation):
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def prepare(data: Path, *, ears: Conversation | None = None, **settings: Any) -> TrainingData:
    """Both steps, as the finetune workflow takes them."""
    opening = {name: settings.pop(name, None) for name in ("val", "val_fraction", "group_pattern")}
    opening["val"] = None if opening["val"] is None else str(opening["val"])
    sources = open_training_sources(str(data), **opening)
    how = {"seed": 0, "skip_bad": False, "num_threads": 1, "conversation": ears or Conversation()}
    return check_training_data(sources, val_fraction=opening["val_fraction"], **(how | settings))


def names(split: Split | None) -> set[str]:
    return set() if split is None else set(split.image_names())


def untouched(data: TrainingData) -> set[str]:
    return set() if data.untouched is None else names(data.untouched.split)


@pytest.fixture
def photos(tmp_path: Path, write_classes: Write) -> Path:
    return write_classes(tmp_path / "photos", cat=30, dog=20)


@pytest.mark.parametrize(
    ("num_images", "share", "count"), [(3, 0.1, 1), (100, 0.1, 10), (4_999, 0.1, 500), (5_000, 0.02, 100)]
)
def test_default_dev_fraction(num_images: int, share: float, count: int) -> None:
    assert default_dev_fraction(num_images) == share
    assert num_development(num_images, share) == count


def test_dev__is_cut_from_what_would_be_trained_on_and_the_validation_images_stay_the_same(photos: Path) -> None:
    usual, data = prepare(photos), prepare(photos, dev_fraction=0.25)
    assert data.val is not None
    assert untouched(data) == names(usual.val)
    assert names(data.val) | names(data.train) == names(usual.train)
    assert not names(data.val) & names(data.train)
    assert data.val.counts().tolist() == [6, 4]
    assert (data.validated_on, data.dev_fraction, data.num_untouched) == ("dev", 0.25, 10)
    assert data.val_called == "development images"
    assert data.val_reason == (
        "cut from the training images, to choose settings by; 0.25 of 40, stratified, seed 0; "
        "10 validation images are left untouched"
    )
    assert (usual.validated_on, usual.dev_fraction, usual.untouched) == ("val", None, None)
    assert len(data.hashes) == len(data.sizes) == len(data.train) == 30


def test_dev__drawn_by_the_seed_but_unlike_the_validation_images(photos: Path) -> None:
    def drawn(seed: int) -> frozenset[str]:
        return frozenset(names(prepare(photos, dev_fraction=0.2, val_fraction=0, seed=seed).val))

    assert drawn(0) == drawn(0) != drawn(1)
    assert drawn(0) != names(prepare(photos, val_fraction=0.2, seed=0).val)


def test_dev_auto__is_a_number_that_repeats_it(photos: Path) -> None:
    data = prepare(photos, dev_fraction="auto")
    assert data.dev_fraction == 0.1
    assert images_digest(data) == images_digest(prepare(photos, dev_fraction=0.1))
    assert data.untouched is not None
    swapped = replace(data.untouched, hashes=data.untouched.hashes[::-1])
    others = (
        replace(data, untouched=None),
        replace(data, untouched=swapped),
        prepare(photos),
        prepare(photos, fold=(1, 5)),
    )
    assert len({images_digest(one) for one in (data, *others)}) == 5


def test_dev_without_validation_images(photos: Path) -> None:
    data = prepare(photos, dev_fraction=0.1, val_fraction=0)
    assert data.val is not None
    assert (len(data.train), len(data.val), data.untouched) == (45, 5, None)
    assert data.val_reason.endswith("0.1 of 50, stratified, seed 0")


@pytest.mark.parametrize("how", [{"dev_fraction": 0.2}, {"fold": (2, 5)}])
def test_own_and_given_validation_images_stay_untouched(tmp_path: Path, write_classes: Write, how: Any) -> None:
    train = write_classes(tmp_path / "all" / "train", cat=30, dog=20)
    val = write_classes(tmp_path / "all" / "val", cat=4, dog=3, first=1)
    ways = [prepare(tmp_path / "all", **how)]
    if "dev_fraction" in how:
        ways.append(prepare(train, val=val, **how))
    for data in ways:
        assert data.untouched is not None
        assert untouched(data) == {str(path) for path in val.rglob("*.png")}
        assert names(data.train) | names(data.val) == {str(path) for path in train.rglob("*.png")}
        assert len(names(data.val)) == 10
        assert data.val_reason.endswith("; 7 validation images are left untouched")
        assert data.untouched.spec == str(val if data.source.spec == str(train) else tmp_path / "all")
        assert data.val_spec == data.source.spec
    assert len({frozenset(names(data.val)) for data in ways}) == 1


def test_folds__disjoint_and_cover_all(photos: Path) -> None:
    parts = [prepare(photos, fold=(part, 5)) for part in range(1, 6)]
    for data in parts:
        assert data.val is not None
        assert data.val.counts().tolist() == [6, 4]
        assert not names(data.val) & names(data.train)
        assert names(data.val) | names(data.train) == {str(path) for path in photos.rglob("*.png")}
        assert (data.validated_on, data.num_untouched) == ("fold", 0)
    assert set.union(*(names(data.val) for data in parts)) == {str(path) for path in photos.rglob("*.png")}
    assert sum(len(names(data.val)) for data in parts) == 50
    assert parts[1].val_reason == "part 2 of 5 of the 50 training images, stratified, seed 0"


def _patients(folder: Path) -> Path:
    """Write 12 patients of 2 and 3 images, and a copy of an image of one under another."""
    for index in range(12):
        place = folder / ("cat", "dog")[index % 2] / f"p{index}"
        place.mkdir(parents=True)
        for number in range(2 + index % 2):
            pixels = np.random.default_rng([index, number]).integers(0, 256, (5, 7, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(place / f"{number}.png")
    (folder / "cat" / "p2" / "copy.png").write_bytes((folder / "cat" / "p0" / "0.png").read_bytes())
    return folder


@pytest.mark.parametrize("how", [{"dev_fraction": 0.3, "val_fraction": 0.2}, {"fold": (1, 3)}])
def test_groups_and_their_copies_are_kept_whole(tmp_path: Path, how: Any) -> None:
    folder = _patients(tmp_path / "pets")
    for seed in range(4):
        data = prepare(folder, group_pattern="{group}/*", seed=seed, **how)
        sides = [{Path(name).parent.name for name in one} for one in (names(data.train), names(data.val))]
        sides.append({Path(name).parent.name for name in untouched(data)})
        assert sum(map(len, sides)) == len(set.union(*sides)) == 12
        assert sides[1]
        assert sum({"p0", "p2"} <= side for side in sides) == 1
        assert "; 1 exact duplicates kept on one side; 12 groups kept whole" in data.val_reason


def test_what_cannot_be_divided__one_sentence(tmp_path: Path, write_classes: Write) -> None:
    folder = write_classes(tmp_path / "pets", cat=4, dog=4)
    with pytest.raises(
        DataError,
        match=r"--fold 8/9: the 8 training images of .*pets are 8 groups of what stays .* Divide into fewer\.",
    ):
        prepare(folder, fold=(8, 9))
    with pytest.raises(DataError, match=r"are 2 groups of .*; expected 3 or more"):
        prepare(folder, fold=(3, 3), group_pattern="{group}/*")
    with pytest.raises(DataError, match=r"^--dev-fraction 0\.1 cuts off none of the 8 images of .*pets"):
        prepare(folder, dev_fraction=0.1, val_fraction=0, group_pattern="{group}/*")


def test_a_class_that_a_fold_takes_whole__warned(tmp_path: Path, write_classes: Write) -> None:
    folder, ears = write_classes(tmp_path / "pets", cat=6, dog=6, emu=1), Ears()
    parts = [prepare(folder, fold=(part, 3), ears=ears) for part in (1, 2, 3)]
    assert [data.train.counts().tolist() for data in parts].count([4, 4, 0]) == 1
    (sentence,) = ears.warnings
    assert sentence.startswith("Class 'emu' has no image to train on where part ")


def _with_near_copies(folder: Path) -> Path:
    """Write smooth images, and of each one that differs in a pixel, ``copyX.png`` of ``X.png``."""
    for index in range(16):
        place = folder / ("cat", "dog")[index % 2]
        place.mkdir(parents=True, exist_ok=True)
        small = Image.fromarray(np.random.default_rng(index).integers(0, 256, (6, 6, 3), dtype=np.uint8))
        image = small.resize((64, 64), Image.Resampling.BICUBIC)
        image.save(place / f"{index}.png")
        image.putpixel((9, 9), (0, 0, 0))
        image.save(place / f"copy{index}.png")
    return folder


def test_near_copies__between_training_and_what_is_validated_on_or_untouched__warned(tmp_path: Path) -> None:
    folder = _with_near_copies(tmp_path / "pets")
    for how, called in (
        ({"fold": (1, 4)}, "validation"),
        ({"dev_fraction": 0.25, "val_fraction": 0.25}, "development"),
    ):
        ears = Ears()
        data = prepare(folder, ears=ears, **how)
        sides: dict[str, set[str]] = {"train": names(data.train), called: names(data.val)}
        if untouched(data):
            sides["untouched validation"] = untouched(data)
            sides["others"] = names(data.train) | names(data.val)
        twin = {name: str(Path(name).with_name(_twin(Path(name).name))) for one in sides.values() for name in one}
        expected = [
            f"{count} of the {len(sides[side])} {side} images are near copies of training images"
            for side, against in (("untouched validation", "others"), (called, "train"))
            if side in sides and (count := sum(twin[name] in sides[against] for name in sides[side]))
        ]
        assert [sentence.partition(",")[0] for sentence in ears.warnings] == expected
        assert len(expected) == len(sides) // 2  # or nothing was tried


def _twin(name: str) -> str:
    return name.removeprefix("copy") if name.startswith("copy") else f"copy{name}"


def make_run(run: Path, data: TrainingData, *, val: Path | None = None) -> Path:
    """Write what a run on ``data`` would of its images."""
    run.mkdir()
    write_json(run / "config.json", {"vitctl": "x", "data": data.source.spec, "val": str(val) if val else None})
    write_json(run / "validation.json", validation_document(data, image_root=None))
    write_training_list(run, data, image_root=None)
    return run


def found(run: Path, split: str | None, data: Path | None = None) -> Images:
    look = Looks(Conversation()).scan
    if data is None:
        return images_of_run(run, split, advice="Look.", look=look)
    return named_images(str(data), split, SourceOptions(), run=run, look=look)


def test_run_images__those_left_untouched_are_never_for_training(photos: Path, tmp_path: Path) -> None:
    data = prepare(photos, dev_fraction=0.25)
    run = make_run(tmp_path / "run", data)
    listing = read_listing(run, "")
    assert listing is not None
    assert listing.untouched is not None
    assert (listing.kind, len(listing.images), len(listing.untouched.images)) == ("dev", 10, 10)
    assert trained_on(run, listing.untouched.hashes or []) == set()
    assert names(images_of_run(run, "train", advice="").split) == names(data.train)  # by name
    for own in (found(run, "train"), found(run, "train", photos)):
        assert names(own.split) == names(data.train)
    assert found(run, "train", photos).reason == (
        "split train: given; 20 that the run validated on or left untouched are left out"
    )
    for own in (found(run, None), found(run, "val"), found(run, None, photos), found(run, "val", photos)):
        assert names(own.split) == names(data.val)
        assert "the run's own development images" in own.reason
    assert found(run, None, photos).reason.endswith("; the others are its training images, or left untouched")


def test_run_images__given_validation_images_of_the_same_names_do_not_count(
    photos: Path, tmp_path: Path, write_classes: Write
) -> None:
    val = write_classes(tmp_path / "others", cat=3, dog=3, first=1)
    data = prepare(photos, val=val, dev_fraction=0.1)
    run = make_run(tmp_path / "run", data, val=val)
    assert names(images_of_run(run, "train", advice="").split) == names(data.train)
    assert names(found(run, "train").split) == names(data.train)
    assert names(found(run, None).split) == names(data.val)


def test_listing__as_many_hashes_of_untouched_images_as_names(tmp_path: Path) -> None:
    document = {
        "data": "digits",
        "images": ["a"],
        "untouched": {"data": "digits", "images": ["b", "c"], "hashes": ["0"]},
    }
    (tmp_path / "validation.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="has 2 images and 1 hashes"):
        read_listing(tmp_path, "Look.")
