"""A pattern finds the group in a path, or says which path it does not fit."""

from collections.abc import Callable

import pytest

from vitctl.data.groups import group_expression, with_pattern_groups
from vitctl.data.source import Split, split_from_names
from vitctl.data.sources.folder import FileImages
from vitctl.errors import DataError, SettingError


def _found(pattern: str, path: str) -> str | None:
    match = group_expression(pattern).fullmatch(path)
    return match["group"] if match else None


@pytest.mark.parametrize(
    ("pattern", "path", "group"),
    [
        ("{group}/*", "/data/cat/p12/3.png", "p12"),
        ("{group}/*", "p12/3.png", "p12"),
        ("{group}/*/*", "/data/cat/p12/day 1/3.png", "p12"),
        ("/{group}/*", "/data/cat/p12/3.png", "p12"),  # still laid against the end
        ("{group}_*", "/data/cat/p12_003.png", "p12"),
        ("{group}_*", "/data/cat/p12_003_left.png", "p12"),  # the shortest
        ("{group}_?.png", "/data/cat/p12_003_4.png", "p12_003"),
        ("*-{group}.png", "/data/cat/left-p12.png", "p12"),
        ("*/patient-{group}_*.png", "/data/cat/patient-7_1.png", "7"),
        ("patient-{group}_*.png", "/data/cat/patient-7_1.png", "7"),
        ("cat/{group}.png", "/data/cat/1.png", "1"),
        ("{group}.*", "/data/cat/a.b.png", "a"),
        ("{group}", "/data/cat/1.png", "1.png"),
        ("*{group}", "/x/1", "1"),
        ("id[{group}]+.png", "/data/id[4]+.png", "4"),  # no other character means anything
        ("(a|b){group}.png", "/data/(a|b)4.png", "4"),
        ("{group}/{}.png", "/data/p/{}.png", "p"),
        ("{group}/*", "/data/Zoë 2/ñ.png", "Zoë 2"),
        ("{group}/*", "/data/\udce9t\udce9/1.png", "\udce9t\udce9"),  # a name that is not UTF-8
        ("{group}/*", "/data/a\nb/c\n.png", "a\nb"),
        ("{group}_*", "/data/shard.tar/p12_3.png", "p12"),
    ],
)
def test_the_pattern_finds_the_group(pattern: str, path: str, group: str) -> None:
    assert _found(pattern, path) == group


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("{group}/*", "3.png"),  # no folder
        ("{group}_*.png", "/data/p12.png"),
        ("{group}_*.png", "/data/p_1/3.png"),  # a star stays within one name
        ("{group}_*.png", "/data/p_1.PNG"),
        ("{group}_*.png", "/data/_1.png"),  # an empty group is none
        ("{group}_?.png", "/data/p_12.png"),
        ("{group}.png", "/data/p_png"),  # a dot is a dot
        ("cat/{group}.png", "/data/bobcat/1.png"),  # whole names
        ("tient-{group}.png", "/data/patient-1.png"),
    ],
)
def test_the_pattern_does_not_match_what_it_does_not_describe(pattern: str, path: str) -> None:
    assert _found(pattern, path) is None


@pytest.mark.parametrize("pattern", ["", "*/*", "{Group}/*", "{group}/{group}/*", "{ group }", "{groups}/*"])
def test_a_pattern_without_exactly_one_group_is_an_error(pattern: str) -> None:
    with pytest.raises(
        SettingError, match=r"expected a path with \{group\} in it once, e\.g\. '\{group\}/\*'"
    ) as caught:
        group_expression(pattern)
    assert repr(pattern) in str(caught.value)


@pytest.fixture
def patients() -> Split:
    names = [
        f"/data/{kind}/p{patient}/{number}.png" for kind in ("cat", "dog") for patient in (1, 2) for number in (1, 2)
    ]
    return split_from_names("train", FileImages(tuple(names)), [name.split("/")[2] for name in names])


def test_every_image_gets_its_group_and_nothing_else_changes(patients: Split) -> None:
    grouped = with_pattern_groups(patients, "{group}/*")
    assert grouped.groups is not None
    assert grouped.groups.tolist() == ["p1", "p1", "p2", "p2"] * 2  # of both classes
    assert grouped.image_names() == patients.image_names()
    assert grouped.labels.tolist() == patients.labels.tolist()
    assert (grouped.name, grouped.class_names) == ("train", ("cat", "dog"))
    assert patients.groups is None


def test_groups_follow_the_images_that_are_selected(patients: Split) -> None:
    part = with_pattern_groups(patients.select([7, 0]), "{group}/*").select([1, 0, 1])
    assert part.groups is not None
    assert part.groups.tolist() == ["p1", "p2", "p1"]


def test_long_and_short_groups_are_kept_whole(patients: Split) -> None:
    names = ("/data/a/1.png", f"/data/{'b' * 200}/1.png", "/data/a/2.png")
    split = split_from_names("train", FileImages(names), ["x"] * 3)
    grouped = with_pattern_groups(split, "{group}/*")
    assert grouped.groups is not None
    assert grouped.groups.tolist() == ["a", "b" * 200, "a"]


def test_no_pattern_changes_nothing(patients: Split) -> None:
    assert with_pattern_groups(patients, None) is patients


def test_no_images_have_no_groups(drawn_split: Callable[..., Split]) -> None:
    grouped = with_pattern_groups(drawn_split(4).select([]), "{group}/*")
    assert grouped.groups is not None
    assert grouped.groups.tolist() == []


def test_a_pattern_that_misses_images_says_how_many_and_which(patients: Split) -> None:
    with pytest.raises(DataError) as caught:
        with_pattern_groups(patients, "p1/{group}.png")
    assert str(caught.value).startswith(
        "--group-pattern 'p1/{group}.png' does not match 4 of 8 images, /data/cat/p2/1.png first; "
    )


def test_a_malformed_pattern_is_an_error_before_any_image(patients: Split) -> None:
    with pytest.raises(SettingError, match=r"--group-pattern is '\*/\*'"):
        with_pattern_groups(patients.select([]), "*/*")
