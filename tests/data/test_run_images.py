"""The list of a run's validation images: as long as the memory can hold, refused beyond."""

import json
from pathlib import Path

import pytest

from vitctl.data.run_images import images_of_run
from vitctl.errors import DataError
from vitctl.primitives import memory
from vitctl.primitives.files import json_text


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run whose list of validation images is 150 kB longer than is read on a computer with little memory."""
    (tmp_path / "config.json").write_text(json.dumps({"data": "digits"}))
    names = [f"digits/{index}" for index in range(10_000)]
    (tmp_path / "validation.json").write_text(json_text({"data": "digits", "images": names}))
    return tmp_path


def test_a_long_list__is_read_where_there_is_memory(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "LISTING_BYTES", 50_000)
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**6)
    with pytest.raises(DataError, match=r"validation\.json cannot be read: it is larger than 50,000 bytes; expected"):
        images_of_run(run, None, advice="Try this.")
    monkeypatch.setattr(memory, "free_bytes", lambda: 10**8)
    with pytest.raises(DataError, match=r"Try this\."):  # read, and no such images
        images_of_run(run, None, advice="Try this.")
