"""What is wrong with the cache is said once by a command, and stops nothing."""

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def tables(tmp_path: Path, image_folder: Path) -> Path:
    """A table of embedded images in Parquet."""
    from datasets import Dataset

    images = sorted(image_folder.rglob("*.png"))
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": None} for path in images],
        "label": [path.parent.name for path in images],
    }
    Dataset.from_dict(columns).to_parquet(str(tmp_path / "t.parquet"))
    time.sleep(0.03)
    return tmp_path / "t.parquet"


def _report(result: Any) -> dict[str, Any]:
    assert result.exit_code == 0, result.stderr
    return dict(json.loads(result.stdout))


def test_damaged_arrow_copy__made_anew_and_said_once(
    run_cli: Callable[..., Any], tables: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    first = run_cli("data", tables, "--json")
    assert "damaged" not in first.stderr
    (copy,) = (tmp_path / "cache" / "parquet").rglob("*.arrow")
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    second = run_cli("data", tables, "--json")
    assert second.stderr.count("warning: Something kept in") == second.stderr.count("damaged") == 1
    assert _report(second) == _report(first)
    assert "damaged" not in run_cli("data", tables, "--json").stderr


def test_no_home__said_once_and_no_folder_appears(
    run_cli: Callable[..., Any], tables: Path, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = _report(run_cli("data", tables, "--json"))
    shutil.rmtree(Path.home() / ".cache")
    monkeypatch.setenv("HOME", "")
    for spec in (tables, image_folder):
        result = run_cli("data", spec, "--json")
        assert result.stderr.count("warning: There is no home folder") == 1
        if spec == tables:
            assert _report(result) == expected
    assert {path.name for path in Path.cwd().iterdir()} == {"data-t", "data-images"}  # the reports


def test_no_home__the_cache_of_resized_images_is_a_setting_error(
    run_cli: Callable[..., Any], image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "")
    result = run_cli("finetune", "--data", image_folder, "--cache", "resized")
    assert result.exit_code == 2
    assert "--cache resized needs a folder" in result.stderr.splitlines()[-1]
