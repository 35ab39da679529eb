"""Loading a workflow leaves the garbage collector as it was."""

import gc
import sys
from pathlib import Path

import pytest

from vitctl.cli.command import _loaded


@pytest.fixture
def slow_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module that tells whether the collector was at work while it was imported."""
    (tmp_path / "slow_to_load.py").write_text("import gc\nwas_at_work = gc.isenabled()\n")
    (tmp_path / "broken_to_load.py").write_text("raise OSError\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "slow_to_load", raising=False)
    return "slow_to_load"


def test_the_collector_waits_for_an_import(slow_to_load: str) -> None:
    assert gc.isenabled()
    before = gc.get_freeze_count()
    assert _loaded(slow_to_load).was_at_work is False
    assert gc.isenabled()
    assert gc.get_freeze_count() > before
    gc.unfreeze()
    assert _loaded(slow_to_load).was_at_work is False
    assert gc.get_freeze_count() == 0  # nothing was imported, so nothing of the caller's is kept for ever


def test_the_collector_goes_on_after_an_import_that_fails(slow_to_load: str) -> None:
    with pytest.raises(OSError):  # noqa: PT011
        _loaded(slow_to_load.replace("slow", "broken"))
    assert gc.isenabled()
    gc.unfreeze()


def test_a_collector_that_is_off_stays_off(slow_to_load: str) -> None:
    gc.disable()
    try:
        _loaded(slow_to_load)
        assert not gc.isenabled()
    finally:
        gc.enable()
