"""Files and folders land whole or not at all."""

import hashlib
import json
from pathlib import Path

import pytest

from vitctl.primitives.files import (
    json_text,
    replace_folder,
    sha256_of,
    whole_file,
    whole_folder,
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


def test_replace_folder_moves_the_new_one_away_from_where_it_was(tmp_path: Path) -> None:
    for name in ("new", "run"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.txt").write_text(name)
    replace_folder(tmp_path / "new", tmp_path / "run")
    assert _listed(tmp_path) == {"run": None, "run/new.txt": "new"}


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
