"""A default test that takes long fails: the hook of ``tests/conftest.py``, with a clock that says what it is told."""

import importlib.util
import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

spec = importlib.util.spec_from_file_location("tests_conftest", Path(__file__).parents[1] / "conftest.py")
assert spec is not None
assert spec.loader is not None
conftest = importlib.util.module_from_spec(spec)
spec.loader.exec_module(conftest)


def call(monkeypatch: pytest.MonkeyPatch, *, taken_s: float, marker: str = "", new_modules: int = 0) -> None:
    """Run a test of that marker, which by the clock takes ``taken_s`` and imports ``new_modules``."""
    modules: dict[str, Any] = {}
    monkeypatch.setattr(conftest, "cpu_s", itertools.count(10.0, taken_s).__next__)
    monkeypatch.setattr(conftest, "sys", SimpleNamespace(modules=modules, gettrace=lambda: None))
    steps = conftest.pytest_runtest_call(SimpleNamespace(get_closest_marker=lambda name: name == marker))
    next(steps)
    modules.update(dict.fromkeys(map(str, range(new_modules))))
    with pytest.raises(StopIteration):
        next(steps)


def test_a_default_test_is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, taken_s=5.9)
    with pytest.raises(pytest.fail.Exception, match=r"took 6\.1 s of CPU; a default test takes at most 3"):
        call(monkeypatch, taken_s=6.1)


@pytest.mark.parametrize("marker", ["slow", "gpu", "network"])
def test_other_tests_may_take_their_time(monkeypatch: pytest.MonkeyPatch, marker: str) -> None:
    call(monkeypatch, taken_s=600.0, marker=marker)


def test_who_imports_first_pays_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, taken_s=9.0, new_modules=51)
    with pytest.raises(pytest.fail.Exception):
        call(monkeypatch, taken_s=9.0, new_modules=50)


def test_children_are_counted() -> None:
    import subprocess
    import sys

    before = conftest.cpu_s()
    code = "import time\nwhile time.process_time() < 0.2: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert conftest.cpu_s() - before >= 0.15
