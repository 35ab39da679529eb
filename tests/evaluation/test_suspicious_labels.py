"""From images to a ranking of their labels: who is left out together, who is listed, what is said of it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitctl.conversation import Conversation
from vitctl.data.files import FileImages
from vitctl.data.source import Split
from vitctl.evaluation import suspicious_labels as module
from vitctl.evaluation.evaluating import Computing
from vitctl.evaluation.suspicious_labels import SuspiciousLabels, names_of_copies, suspicious_labels
from vitctl.results.data import DuplicateImage


class _Opened:
    name = "model"


def images(labels: Sequence[int], groups: Sequence[str] | None = None) -> Split:
    """Return a split of so many images, ``0.png`` and so on; none is read."""
    places = tuple(str(Path(f"{number}.png")) for number in range(len(labels)))
    return Split(
        "train",
        FileImages(places),
        np.arange(len(labels)),
        np.array(labels),
        ("ant", "bee", "cow"),
        groups=None if groups is None else np.array(groups),
    )


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Judge labels of a split by features that are given instead of a model's."""

    def judge(split: Split, features: np.ndarray, copies: Sequence[str] | None = None) -> SuspiciousLabels:
        class Fake:
            def __init__(self, opened: Any, choice: Any, **_: Any) -> None:
                (self.key,) = choice.keys

            def to(self, device: Any) -> None: ...

            def embed(self, *_: Any, **__: Any) -> dict[Any, np.ndarray]:
                return {self.key: features.astype(np.float32)}

        monkeypatch.setattr(module, "Embedder", Fake)
        names = [str(number) for number in range(len(split))] if copies is None else copies
        return suspicious_labels(
            split,
            names,
            _Opened(),  # type: ignore[arg-type]
            Computing(torch.device("cpu"), batch_size=1, num_workers=0),
            is_in_memory=True,
            max_value=None,
            seed=0,
            conversation=Conversation(),
        )

    return judge


def six_of_one() -> tuple[np.ndarray, np.ndarray]:
    """Return features of 65 images of three classes, and labels; six show the same, all with one mistake: 0, 60-64."""
    random = np.random.default_rng(0)
    labels = np.arange(60) % 3
    features = (3 * random.normal(size=(3, 40)))[labels] + random.normal(size=(60, 40))
    features = np.concatenate([features, np.repeat(features[:1], 5, axis=0)])
    labels = np.concatenate([labels, [0] * 5])
    labels[[0, *range(60, 65)]] = 1
    return features, labels


def flagged(found: SuspiciousLabels) -> set[int]:
    return {int(one.image.removesuffix(".png")) for one in found.listed if one.is_flagged}


def test_suspicious__images_of_a_group_do_not_vouch_for_each_other(judged: Any) -> None:
    features, labels = six_of_one()
    mistaken = {0, *range(60, 65)}
    assert not flagged(judged(images(labels), features))
    groups = ["one" if number in mistaken else str(number) for number in range(65)]
    found = judged(images(labels, groups), features)
    assert flagged(found) == mistaken
    assert {one.copies for one in found.listed} == {0}  # of one group, but no copies


def test_suspicious__copies_do_not_either_and_are_counted(judged: Any) -> None:
    features, labels = six_of_one()
    copies = ["one" if number in {0, *range(60, 65)} else str(number) for number in range(65)]
    found = judged(images(labels), features, copies)
    assert flagged(found) == {0, *range(60, 65)}
    assert {one.copies for one in found.listed if one.is_flagged} == {5}
    assert (found.listed[0].class_name, found.listed[0].suggested) == ("bee", "ant")


def test_suspicious__where_none_is_flagged_the_hundredth_is_listed(judged: Any) -> None:
    features, labels = six_of_one()
    labels[[0, *range(60, 65)]] = 0
    found = judged(images(labels), features)
    assert (len(found.listed), found.num_flagged, found.probe_top1, found.notes) == (1, 0, 1.0, ())


def test_suspicious__what_cannot_be_trusted_or_judged_is_said(judged: Any) -> None:
    random = np.random.default_rng(0)
    labels = np.arange(60) % 2
    labels[7] = 2
    weak = judged(images(labels), random.normal(size=(60, 3)))
    assert weak.probe_top1 < 0.7
    assert [sentence.partition(" ")[0] for sentence in weak.notes] == ["The", "By"]
    assert weak.notes[0].startswith("The labels of 1 image cannot be judged, 7.png first")
    assert "take a better --model" in weak.notes[1]


def test_copies__exact_and_near_ones_of_this_split_have_one_name() -> None:
    split = images([0] * 6)
    near = [[_copy("0.png"), _copy("2.png")], [_copy("3.png", "test"), _copy("4.png", "test")], [_copy("5.png")]]
    names = names_of_copies(split, ["a", "b", "c", "d", "e", "b"], near)
    assert [names.index(name) for name in names] == [0, 1, 0, 3, 4, 1]


def _copy(name: str, split: str = "train") -> DuplicateImage:
    return DuplicateImage(image=name, split=split, class_name="ant", kept_in=split)
