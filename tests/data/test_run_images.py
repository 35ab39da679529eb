"""The list of a run's validation images: as long as the memory can hold, refused beyond."""

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.looks import Looks
from vitctl.data.run_images import images_of_run, named_images
from vitctl.data.source import SourceOptions
from vitctl.errors import DataError, SettingError
from vitctl.primitives import memory
from vitctl.primitives.files import json_text

GOLDEN = Path(__file__).parents[1] / "golden"


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


def test_named_images__classes_lie_at_the_level_of_the_runs(tmp_path: Path) -> None:
    for name in ("deep/dogs/pug/1.png", "deep/cats/siam/1.png", "flat/pug/1.png", "flat/siam/1.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.new("RGB", (3, 3)).save(tmp_path / name)
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text(json.dumps({"data": str(tmp_path / "deep"), "class_depth": 2}))
    none = SourceOptions()

    def classes(spec: str, options: SourceOptions = none, run: Path | None = run) -> tuple[str, ...]:
        return named_images(str(tmp_path / spec), None, options, run=run).split.class_names

    assert classes("deep") == classes("flat") == ("pug", "siam")
    assert classes("deep", SourceOptions(class_depth=1)) == classes("deep", run=None) == ("cats", "dogs")
    assert named_images("digits", None, none, run=run).split_name == "test"  # which have no level
    with pytest.raises(SettingError, match="--label-column is given, but"):
        named_images(str(tmp_path / "deep"), None, SourceOptions(label_column="x"), run=run)
    (run / "config.json").write_text("{")
    assert classes("flat") == ("pug", "siam")


def test_a_run_of_version_0_1_0__its_validation_images_by_name(tmp_path: Path) -> None:
    for name in ("config", "validation"):
        shutil.copy(GOLDEN / f"{name}-0.1.0.json", tmp_path / f"{name}.json")
    names = json.loads((tmp_path / "validation.json").read_text())["images"]
    look = Looks(Conversation()).scan
    assert images_of_run(tmp_path, None, advice="", look=look).split.image_names() == names
    rest = images_of_run(tmp_path, "train", advice="", look=look).split.image_names()
    assert len(rest) == 1437 - len(names)
    assert set(rest).isdisjoint(names)
    named = named_images("digits", "val", SourceOptions(), run=tmp_path, look=look)
    assert named.split.image_names() == names
    assert "by name" in named.reason
