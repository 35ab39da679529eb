"""Stand-ins for torch's compiler, tried on a made-up compiler; on torch's own in the slow set."""

import importlib
import inspect
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.primitives import compiler_later as module
from vitctl.primitives.compiler_later import COMPILED_FILES, compiler_later, keep_compiled_files

NAME = "made_up_compiler"

FILES = {
    "__init__.py": f"""
from {NAME}.parts import Part
from {NAME}.utils import disable
def graph_break(): return 'true'
""",
    "utils.py": """
def is_compile_supported(device_type): return f'true {device_type}'
def disable(function=None, recursive=True):
    return (lambda *args: ('disabled', recursive, function(*args))) if function else (lambda f: disable(f, recursive))
""",
    "parts.py": "class Part: pass\n",
    "config.py": "limit = 5\n",
    "rare.py": f"from {NAME}.parts import Part\n",
}


@pytest.fixture(autouse=True)
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package in the place of torch's compiler."""
    for name, text in FILES.items():
        (tmp_path / NAME).mkdir(exist_ok=True)
        (tmp_path / NAME / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(module, "COMPILER", NAME)
    for name in [name for name in sys.modules if name.partition(".")[0] == NAME]:
        monkeypatch.delitem(sys.modules, name)


def is_loaded() -> bool:
    """Return whether the compiler itself was imported."""
    return f"{NAME}.parts" in sys.modules


def is_clean() -> bool:
    """Return whether no stand-in is left."""
    return not any(isinstance(one, module._StandIn) for one in sys.modules.values()) and not any(
        isinstance(finder, module._Part) for finder in sys.meta_path
    )


def compiler() -> Any:
    """Import the compiler, as a library does."""
    return importlib.import_module(NAME)


def test_what_is_asked_for_at_import_loads_nothing() -> None:
    with compiler_later():
        compiler().config.cache_size_limit = 3
        compiler().graph_break()
        supported: Callable[[str], str] = importlib.import_module(f"{NAME}.utils").is_compile_supported
        assert not is_loaded()
        assert NAME in sys.modules
    assert NAME not in sys.modules
    assert is_clean()
    assert supported("cpu") == "true cpu"  # who kept the function gets the true one's answer
    assert compiler().graph_break() == "true"


def test_another_attribute_loads_the_compiler() -> None:
    with compiler_later():
        kept = compiler()
        assert kept.Part is importlib.import_module(f"{NAME}.parts").Part
        assert is_clean()
        assert compiler().graph_break() == "true"
        assert kept.graph_break() is None
    assert is_loaded()
    assert kept.Part is compiler().Part


def test_a_setting_that_is_read_is_the_compilers_own() -> None:
    with compiler_later():
        config = compiler().config
        config.other = 3
        assert (config.other, config.error_on_nested_fx_trace) == (3, True)  # the second is torch's default
        assert not is_loaded()
        assert config.limit == 5
        assert is_loaded()
    assert is_clean()


@pytest.mark.parametrize("part", ["parts", "rare"])
def test_another_part_loads_the_compiler__and_nothing_twice(part: str) -> None:
    with compiler_later():
        found = importlib.import_module(f"{NAME}.{part}")
        assert found.Part is compiler().Part
        assert is_clean()
    assert sys.modules[f"{NAME}.{part}"] is found is getattr(compiler(), part)
    assert importlib.reload(found).__file__ == found.__spec__.origin  # type: ignore[union-attr]


def test_a_part_that_is_not_there_is_still_missed() -> None:
    with compiler_later(), pytest.raises(ModuleNotFoundError, match=f"{NAME}.nothing"):
        importlib.import_module(f"{NAME}.nothing")
    assert is_clean()


def test_disable__obeys_a_later_compiler() -> None:
    with compiler_later():
        double = compiler().disable(lambda x: 2 * x, False)
        assert double(4) == 8
        assert not is_loaded()
    assert double(4) == 8
    compiler()
    assert double(4) == ("disabled", False, 8)


def test_disable__as_a_decorator_loads_the_compiler() -> None:
    with compiler_later():
        assert compiler().disable(recursive=False)(abs)(-1) == ("disabled", False, 1)
        assert is_loaded()


def test_who_looks_through_all_modules_loads_nothing() -> None:
    with compiler_later():
        assert inspect.getmodule(test_disable__obeys_a_later_compiler) is not None
        assert not any(hasattr(sys.modules[name], "__file__") for name in (NAME, f"{NAME}.utils"))
        assert not is_loaded()


def test_a_compiler_that_is_there_stays() -> None:
    there = compiler()
    with compiler_later():
        assert compiler() is there
    assert compiler() is there


def test_inner_and_outer() -> None:
    with compiler_later():
        outer = compiler()
        with compiler_later():
            assert compiler() is outer
        assert compiler() is outer
    assert is_clean()


def test_an_error_leaves_nothing_behind() -> None:
    with pytest.raises(KeyError), compiler_later():
        raise KeyError
    assert is_clean()


REAL = """
import sys
import torch
from vitctl.primitives.compiler_later import compiler_later
from vitctl.training.optimizer import build_optimizer

model = torch.nn.Linear(2, 2)
with compiler_later():
    groups = [{"params": model.parameters()}]
    optimizer = build_optimizer(groups, name=sys.argv[1], lr=0.1, betas=(0.9, 0.9), momentum=0.9)
    for _ in range(2):
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
assert "torch._dynamo" not in sys.modules
if sys.argv[2] == "within":
    with compiler_later():
        compiled = torch.compile(lambda x: 2 * x, backend="eager", fullgraph=True)
        assert compiled(torch.ones(1)) == 2
else:
    exported = torch.export.export(model, (torch.ones(1, 2),))
    assert torch.equal(exported.module()(torch.ones(1, 2)), model(torch.ones(1, 2)))
assert "torch._dynamo.eval_frame" in sys.modules
optimizer.zero_grad()
optimizer.load_state_dict(optimizer.state_dict())
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "sgd"])
@pytest.mark.parametrize("later", ["within", "afterwards"])
def test_torchs_own_compiler(name: str, later: str) -> None:
    subprocess.run([sys.executable, "-W", "error", "-c", REAL, name, later], check=True)


def test_compiled_files__are_kept_in_the_cache_folder_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv(COMPILED_FILES, raising=False)
    keep_compiled_files()
    kept = Path(os.environ[COMPILED_FILES])
    assert kept == tmp_path / "cache" / "compiled"
    assert kept.stat().st_mode & 0o777 == 0o700


def test_compiled_files__where_the_user_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(COMPILED_FILES, "/named")
    keep_compiled_files()
    assert os.environ[COMPILED_FILES] == "/named"


def test_compiled_files__without_a_cache_in_a_folder_nobody_can_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITCTL_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.delenv(COMPILED_FILES, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    keep_compiled_files()
    kept = Path(os.environ[COMPILED_FILES])
    assert kept.parent == tmp_path
    assert kept.stat().st_mode & 0o777 == 0o700


@pytest.mark.slow
def test_compiled_files__an_export_leaves_nothing_in_tmp(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {name: value for name, value in os.environ.items() if name != COMPILED_FILES}
    env |= {"TMPDIR": str(tmp_path / "tmp"), "VITCTL_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    code = "import vitctl.exporting.to_torch, torch._dynamo, torch._inductor.codecache"
    subprocess.run([sys.executable, "-c", code], check=True, env=env)
    assert list((tmp_path / "tmp").iterdir()) == []
    assert (tmp_path / "cache" / "compiled").is_dir()
