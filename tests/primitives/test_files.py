"""Files and folders land whole or not at all."""

import hashlib
import json
import os
from pathlib import Path

import pytest

from vitctl.primitives.files import (
    json_text,
    sha256_of,
    whole_file,
    whole_folder,
    whole_folders,
    write_json,
    write_text,
)


class _Stopped(Exception):
    """Something went wrong half-way."""


def _write_and_stop(path: Path) -> None:
    path.write_text("half of the n")
    raise _Stopped


def _listed(folder: Path) -> dict[str, str | None]:
    """Return every path below ``folder``, hidden ones too, with the text of those that are files."""
    return {
        str(path.relative_to(folder)): path.read_text() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def test_whole_file_appears_only_when_the_block_is_done(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as partial:
        partial.write_text("text")
        assert not path.exists()
        assert partial.parent == path.parent  # a rename is atomic only within one file system
    assert _listed(tmp_path / "new") == {"a.txt": "text"}


def test_whole_file__block_raises_halfway_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(_Stopped), whole_file(path) as partial:
        _write_and_stop(partial)
    assert _listed(tmp_path) == {"a.txt": "old"}


def test_whole_file__block_raises_before_writing_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(_Stopped), whole_file(tmp_path / "a.txt"):
        raise _Stopped
    assert _listed(tmp_path) == {}


def test_whole_folder_appears_only_when_the_block_is_done(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with whole_folder(path) as partial:
        (partial / "a.txt").write_text("text")
        assert not path.exists()
    assert _listed(tmp_path) == {"run": None, "run/a.txt": "text"}


def test_whole_folder_replaces_all_of_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / "sub").mkdir(parents=True)
    (path / "sub" / "old.txt").write_text("old")
    with whole_folder(path) as partial:
        assert list(partial.iterdir()) == []
        (partial / "a.txt").write_text("new")
        assert (path / "sub" / "old.txt").exists()
    assert _listed(tmp_path) == {"run": None, "run/a.txt": "new"}


def test_whole_folder__block_raises_leaves_the_old_folder_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "run"
    path.mkdir()
    (path / "a.txt").write_text("old")
    with pytest.raises(_Stopped), whole_folder(path) as partial:
        _write_and_stop(partial / "a.txt")
    assert _listed(tmp_path) == {"run": None, "run/a.txt": "old"}


def test_write_text_is_utf_8_whatever_the_locale(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "naïve – ✓\n")
    assert (tmp_path / "a.txt").read_bytes() == "naïve – ✓\n".encode()


def test_json_text_reads_back_and_keeps_letters() -> None:
    document = {"name": "Müller", "values": [1, 2.5, None, True]}
    assert json.loads(json_text(document)) == document
    assert "Müller" in json_text(document)
    assert json_text(document).endswith("}\n")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_write_json__nan_is_an_error_and_the_old_file_stays(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"loss": 1.0})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": value})
    assert _listed(tmp_path) == {"a.json": json_text({"loss": 1.0})}


def test_sha256_of_is_that_of_the_bytes(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5_000  # more than one buffer
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def _fill(staging: Path, *names: str, then: BaseException | None = None) -> None:
    for name in names:
        (staging / name).mkdir()
        (staging / name / "a.txt").write_text(name)
    if then is not None:
        raise then


def test_whole_folders_appear_together_when_the_block_is_done(tmp_path: Path) -> None:
    parent = tmp_path / "new" / "exports"
    with whole_folders(parent) as staging:
        _fill(staging, "one", "two")
        assert staging.parent == parent  # a rename is atomic only within one file system
        assert [path.name.startswith(".") for path in parent.iterdir()] == [True]
    assert _listed(parent) == {"one": None, "one/a.txt": "one", "two": None, "two/a.txt": "two"}


def test_whole_folders_join_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with whole_folders(tmp_path) as staging:
        _fill(staging, "one")
    assert _listed(tmp_path) == {"mine": None, "one": None, "one/a.txt": "one"}


@pytest.mark.parametrize("error", [_Stopped, KeyboardInterrupt, OSError])
def test_whole_folders__block_raises_leaves_nothing_not_even_parents(
    tmp_path: Path, error: type[BaseException]
) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(error), whole_folders(tmp_path / "mine" / "new" / "exports") as staging:
        _fill(staging, "one", "two", then=error())
    assert _listed(tmp_path) == {"mine": None}


def test_whole_folders__block_raises_keeps_a_parent_that_someone_else_uses_meanwhile(tmp_path: Path) -> None:
    def fill_beside_another(staging: Path) -> None:
        (tmp_path / "new" / "theirs.txt").write_text("another's")
        _fill(staging, "one", then=_Stopped())

    with pytest.raises(_Stopped), whole_folders(tmp_path / "new" / "exports") as staging:
        fill_beside_another(staging)
    assert _listed(tmp_path) == {"new": None, "new/theirs.txt": "another's"}


def test_whole_folders__one_that_stands_there_already_is_left_and_the_others_are_taken_back(tmp_path: Path) -> None:
    parent = tmp_path / "exports"
    (parent / "two").mkdir(parents=True)
    (parent / "two" / "theirs.txt").write_text("another's")
    with pytest.raises(OSError, match="two"), whole_folders(parent) as staging:
        _fill(staging, "one", "two", "zero")
    assert _listed(tmp_path) == {"exports": None, "exports/two": None, "exports/two/theirs.txt": "another's"}


def test_whole_folders__rename_fails_halfway_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, renamed = os.rename, list[str]()

    def rename_once(old: Path, new: Path) -> None:
        if renamed:
            raise OSError(28, "No space left on device")
        renamed.append(Path(new).name)
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_once)
    with pytest.raises(OSError, match="No space left"), whole_folders(tmp_path / "new" / "exports") as staging:
        _fill(staging, "one", "two")
    assert renamed == ["one"]
    assert _listed(tmp_path) == {}


def test_whole_folders__parent_that_is_a_file_is_an_error_and_stays(tmp_path: Path) -> None:
    (tmp_path / "exports").write_text("mine")
    with pytest.raises(OSError, match="exports"), whole_folders(tmp_path / "exports"):
        raise AssertionError("the block was entered")
    assert _listed(tmp_path) == {"exports": "mine"}
