"""Paths that are not UTF-8, given to readers that take text only."""

import os
from pathlib import Path

from vitctl.primitives.text_paths import text_path


def test_a_path_that_is_text__stays_itself(tmp_path: Path) -> None:
    with text_path(tmp_path / "é.npz") as readable:
        assert readable == tmp_path / "é.npz"


def test_another__is_reached_by_a_link_of_its_ending_that_goes_away(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"\xff.npz")
    path.write_text("content")
    with text_path(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path) as readable:
        assert str(readable).encode()
        assert (readable.suffix, readable.read_text()) == (".npz", "content")
    assert not os.path.lexists(readable.parent)
    assert path.read_text() == "content"


def test_an_ending_that_is_no_text__is_left_out(tmp_path: Path) -> None:
    with text_path(tmp_path / os.fsdecode(b"a.\xff")) as readable:
        assert readable.suffix == ""
