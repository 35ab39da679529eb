"""Pictures of a run's validation images are left out where the images are gone, whatever the reason."""

from pathlib import Path

import pytest

from vitctl.errors import DataError, SettingError, UnavailableError
from vitctl.run_folders.pictures import ShownImages


@pytest.mark.parametrize("error", [DataError, SettingError, UnavailableError])
def test_of_run__without_its_images_says_why(
    error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def images_of_run(*_: object, **__: object) -> None:
        raise error("The disk is full.")

    monkeypatch.setattr("vitctl.run_folders.pictures.images_of_run", images_of_run)
    found = ShownImages.of_run(tmp_path, ["a", "b"])
    assert (found.split, found.why, found.names) == (None, "The disk is full.", ["a", "b"])
