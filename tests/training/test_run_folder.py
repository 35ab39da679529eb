"""The run folder: never made over something else, never lost by a run that fails early."""

import itertools
import json
import os
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import SettingError
from vitctl.models.run_folders import is_run_folder
from vitctl.training.run_folder import RunFolder, check_out, new_run_folder


def old_run(path: Path) -> Path:
    """Make a finished run with a file that tells it."""
    with new_run_folder(path, overwrite=False) as run:
        run.write_json("config.json", {"vitctl": "0.1.0"})
        (run.path / "best").mkdir()
        (run.path / "best" / "model.safetensors").write_text("old")
    return path


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_text() for path in files}


def test_check_out__a_new_path_and_an_empty_folder_are_fine(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for overwrite in (False, True):
        check_out(tmp_path / "a" / "b" / "new", overwrite=overwrite)
        check_out(tmp_path / "empty", overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_check_out__a_relative_path_is_fine() -> None:
    check_out(Path("runs/new"), overwrite=False)


@pytest.mark.parametrize("overwrite", [False, True])
def test_check_out__a_file_is_refused(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="is a file; expected a folder that does not exist yet"):
        check_out(tmp_path / "file", overwrite=overwrite)


def test_check_out__below_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(SettingError, match="cannot be written"):
        check_out(tmp_path / "file" / "run", overwrite=False)


def test_check_out__a_run_is_fine__it_goes_on_or_is_replaced(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    check_out(run, overwrite=False)
    check_out(run, overwrite=True)


def test_check_out__what_a_run_leaves_that_is_killed_when_it_begins_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.partial").write_text("{")
    check_out(tmp_path / "run", overwrite=False)
    with new_run_folder(tmp_path / "run", overwrite=False) as run:
        run.write_json("config.json", {"vitctl": "0.1.0"})
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["config.json"]


def test_new_run_folder__nothing_that_was_trained_is_replaced_without_overwrite(tmp_path: Path) -> None:
    run = old_run(tmp_path / "run")
    with pytest.raises(SettingError, match=r"is not empty.*--overwrite"), new_run_folder(run, overwrite=False):
        pytest.fail("the block must not run")
    assert contents(run)["best/model.safetensors"] == "old"


def test_new_run_folder__a_run_that_saved_nothing_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text('{"vitctl": "0.1.0"}')
    (tmp_path / "run" / "metrics.jsonl").write_text('{"step": 1}\n')
    with new_run_folder(tmp_path / "run", overwrite=False) as run:
        run.write_json("config.json", {"vitctl": "new"})
    assert contents(tmp_path / "run") == {"config.json": '{\n  "vitctl": "new"\n}\n'}


@pytest.mark.parametrize("is_replacing", [False, True])
def test_new_run_folder__goes_on_where_it_grew(tmp_path: Path, is_replacing: bool) -> None:
    path = tmp_path / "run"
    if is_replacing:
        old_run(path)
    place = tmp_path / ".run.partial" if is_replacing else path
    (place / "checkpoints" / "step-1").mkdir(parents=True)
    (place / "config.json").write_text('{"vitctl": "new"}')
    with new_run_folder(path, overwrite=False, goes_on_in=place) as run:
        assert run.path == place
        assert (place / "checkpoints" / "step-1").is_dir()
        assert (path / "best").is_dir() == is_replacing
    assert contents(path) == {"config.json": '{"vitctl": "new"}'}
    assert [found.name for found in tmp_path.iterdir()] == ["run"]
    assert not (path / "checkpoints").exists()


@pytest.mark.parametrize("config", [None, "{}", "[]", "no json", '{"architecture": "vit_tiny_patch16_224"}'])
def test_check_out__a_folder_that_is_no_run_is_refused_even_with_overwrite(tmp_path: Path, config: str | None) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_text("mine")
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(SettingError, match="no run of vitctl; --overwrite replaces runs only"):
        check_out(folder, overwrite=True)


def test_check_out__a_parent_without_permission_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root, who may run this, has every permission
    with pytest.raises(SettingError, match="no permission"):
        check_out(tmp_path / "locked" / "run", overwrite=False)


def test_new_run_folder__never_replaces_what_is_no_run(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "1.jpg").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(SettingError), new_run_folder(folder, overwrite=overwrite):
            pytest.fail("the block must not run")
    assert contents(folder) == {"1.jpg": "mine"}
    assert [path.name for path in tmp_path.iterdir()] == ["photos"]


def test_new_run_folder__makes_parents(tmp_path: Path) -> None:
    with new_run_folder(tmp_path / "a" / "b", overwrite=False) as run:
        run.write_json("config.json", {"vitctl": "0.1.0"})
    assert is_run_folder(tmp_path / "a" / "b")


def test_new_run_folder__success_replaces_the_old_run(tmp_path: Path) -> None:
    path = old_run(tmp_path / "run")
    with new_run_folder(path, overwrite=True) as run:
        run.write_json("config.json", {"vitctl": "new"})
    assert contents(path) == {"config.json": '{\n  "vitctl": "new"\n}\n'}
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def fail_in(path: Path, failure: BaseException, *, overwrite: bool, weights: str | None = None) -> None:
    """Start a run that writes its settings, perhaps weights, and then fails."""
    with new_run_folder(path, overwrite=overwrite) as run:
        run.write_json("config.json", {"vitctl": "new"})
        run.append("metrics.jsonl", {"step": 1})
        assert not run.is_worth_keeping
        if weights is not None:
            (run.path / weights).mkdir()
            assert run.is_worth_keeping
        raise failure


@pytest.mark.parametrize("failure", [RuntimeError("broken"), KeyboardInterrupt(), SystemExit(1)])
def test_new_run_folder__failure_before_any_weights_leaves_the_old_run_alone(
    tmp_path: Path, failure: BaseException
) -> None:
    path = old_run(tmp_path / "run")
    before = contents(path)
    with pytest.raises(type(failure)):
        fail_in(path, failure, overwrite=True)
    assert contents(path) == before
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def test_new_run_folder__failure_before_any_weights_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="broken"):
        fail_in(tmp_path / "run", RuntimeError("broken"), overwrite=False)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["last", "best"])
def test_new_run_folder__failure_after_weights_keeps_them_and_the_old_run(tmp_path: Path, name: str) -> None:
    path = old_run(tmp_path / "run")
    before = contents(path)
    with pytest.raises(RuntimeError, match="late"):
        fail_in(path, RuntimeError("late"), overwrite=True, weights=name)
    assert contents(path) == before
    assert json.loads((tmp_path / ".run.partial" / "config.json").read_text()) == {"vitctl": "new"}
    assert (tmp_path / ".run.partial" / name).is_dir()

    with new_run_folder(path, overwrite=True) as run:  # the next one finds it, and clears it
        run.write_json("config.json", {"vitctl": "newer"})
    assert contents(path) == {"config.json": '{\n  "vitctl": "newer"\n}\n'}
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def test_new_run_folder__failure_after_weights_where_none_was_keeps_the_new_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="late"):
        fail_in(tmp_path / "run", RuntimeError("late"), overwrite=False, weights="last")
    assert (tmp_path / "run" / "last").is_dir()


def test_new_run_folder__the_old_run_stands_until_the_end(tmp_path: Path) -> None:
    path = old_run(tmp_path / "run")
    before = contents(path)
    with new_run_folder(path, overwrite=True) as run:
        run.write_json("config.json", {"vitctl": "new"})
        assert contents(path) == before
        assert run.replaces == path
    assert run.path == path


def test_new_run_folder__a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path) -> None:
    old_run(tmp_path / "disk" / "run")
    link = tmp_path / "run"
    link.symlink_to(tmp_path / "disk" / "run")
    with new_run_folder(link, overwrite=True) as run:
        run.write_json("config.json", {"vitctl": "new"})
    assert link.is_symlink()
    assert json.loads((tmp_path / "disk" / "run" / "config.json").read_text()) == {"vitctl": "new"}
    assert sorted(found.name for found in (tmp_path / "disk").iterdir()) == ["run"]


def test_new_run_folder__a_link_in_the_partials_place_is_not_followed(tmp_path: Path) -> None:
    path = old_run(tmp_path / "run")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.png").write_text("precious")
    (tmp_path / ".run.partial").symlink_to(tmp_path / "photos")
    before = contents(tmp_path)
    with pytest.raises(SettingError, match="Not a directory"), new_run_folder(path, overwrite=True):
        pass
    assert contents(tmp_path) == before


@pytest.mark.parametrize("is_there", [False, True], ids=["a new folder", "an old run"])
def test_new_run_folder__not_where_another_process_is_writing(tmp_path: Path, is_there: bool) -> None:
    path = old_run(tmp_path / "run") if is_there else tmp_path / "run"
    with new_run_folder(path, overwrite=True) as run:
        run.write_json("config.json", {"vitctl": "first"})
        during = contents(tmp_path)
        with pytest.raises(SettingError, match="is being written by another vitctl"):
            with new_run_folder(path, overwrite=True):
                pass
        assert contents(tmp_path) == during
    assert json.loads((path / "config.json").read_text()) == {"vitctl": "first"}


@pytest.mark.slow  # 40 forks of a large process; what it stands on is killed in tests/primitives/test_atomic.py
@pytest.mark.parametrize("has_exchange", [True, False])
def test_new_run_folder__killed_anywhere_the_old_run_or_the_whole_new_one_stands(
    tmp_path: Path, killed_at: Any, monkeypatch: pytest.MonkeyPatch, has_exchange: bool
) -> None:
    if not has_exchange:
        monkeypatch.setattr("vitctl.primitives.atomic._exchanged", lambda _first, _second: False)
    path = tmp_path / "run"
    whole = {"config.json": '{\n  "vitctl": "new"\n}\n', "metrics.jsonl": '{"step": 1}\n'}

    def replace_run() -> None:
        with new_run_folder(path, overwrite=True) as run:
            run.write_json("config.json", {"vitctl": "new"})
            run.append("metrics.jsonl", {"step": 1})

    old_run(path)
    old, seen = contents(path), set[bool]()
    for number in itertools.count(1):
        if not killed_at(replace_run, number):
            break
        assert is_run_folder(path)  # which brings back what stood there, where names cannot be exchanged
        assert contents(path) in (old, whole)
        seen.add(contents(path) == old)
    assert number > 10
    assert seen == {True, False}
    assert contents(path) == whole
    assert [found.name for found in tmp_path.iterdir()] == ["run"]


def test_append__adds_whole_lines(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for step in (1, 2):
        run.append("metrics.jsonl", {"step": step, "loss": 0.5})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.5}]


def test_append__refuses_nan_and_writes_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.append("metrics.jsonl", {"loss": float("nan")})
    assert not (tmp_path / "metrics.jsonl").exists()
