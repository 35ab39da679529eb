"""Where a model to export comes from."""

from pathlib import Path

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import ModelError, SettingError
from vitctl.exporting.place import find_place


@pytest.mark.parametrize("has_folder", [False, True])
def test_the_name_of_a_model_in_the_place_of_a_run(has_folder: bool) -> None:
    """As ``evaluate`` and ``predict`` take it; a folder that only has the demo's name is not looked into."""
    if has_folder:  # even a run is not
        Path("demo/best").mkdir(parents=True)
        Path("demo/config.json").write_text('{"vitctl": "0.1.0"}')
    assert find_place("demo", None, "best", Conversation()) == find_place(None, "demo", "best", Conversation())


def test_which__of_a_run(tmp_path: Path) -> None:
    """Also as the folder itself, whose run is known by then; a run without a mean of its weights says so."""
    run = tmp_path / "run"
    for name in ("best", "last"):
        (run / name).mkdir(parents=True)
        (run / name / "model.safetensors").touch()
    (run / "config.json").write_text('{"vitctl": "0.1.0"}')
    with pytest.raises(ModelError, match="no weights in average/.*A run has them where its recipe says averaging"):
        find_place(str(run), None, "average", Conversation())
    (run / "last").rename(run / "average")
    place = find_place(str(run), None, "average", Conversation())
    assert (place.folder, place.name, place.run) == (run / "average", "run-average", run)
    named = find_place(str(run / "average"), None, "best", Conversation())
    assert (named.folder, named.name, named.run) == (place.folder, place.name, place.run)


def test_which__of_a_name_is_refused() -> None:
    with pytest.raises(SettingError, match="--which last is given beside demo, which is no run folder"):
        find_place("demo", None, "last", Conversation())
