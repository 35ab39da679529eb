"""The two schemas that importing torchvision needs: declared if its extension does not load, and only then.

This process has already imported torchvision, with or without our help; so the tests that declare do it
for a made-up torchvision with made-up operators.
"""

import importlib.machinery
import itertools
import sys
from pathlib import Path

import pytest
import torch
from PIL import _imaging

import vitctl.data  # noqa: F401  (declares what is missing here, before torchvision is imported)
from vitctl.primitives import torchvision_operators
from vitctl.primitives.torchvision_operators import declare_missing_operators, extension_loads

SUFFIX = importlib.machinery.EXTENSION_SUFFIXES[0]
_numbers = itertools.count()


def _broken_extension(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"_C{SUFFIX}").write_bytes(b"not a shared library")


def _loadable_extension(folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"_C{SUFFIX}").symlink_to(_imaging.__file__)  # any extension that loads will do


@pytest.fixture
def fake_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package called torchvision that Python finds before the real one; nothing is declared yet."""
    package = tmp_path / "site" / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(package.parent)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torchvision_operators, "_declared", [])
    return package


@pytest.fixture
def probe_schemas(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of operators that nobody else declares, in the place of nms and qnms."""
    names = [f"vitctl_probe_{next(_numbers)}" for _ in range(2)]
    schemas = tuple(f"{name}(Tensor dets, float threshold) -> Tensor" for name in names)
    monkeypatch.setattr(torchvision_operators, "SCHEMAS", schemas)
    return names


def _is_declared(name: str) -> bool:
    return bool(torch._C._jit_get_schemas_for_operator(f"torchvision::{name}"))


def test_torchvision_works_in_this_process() -> None:
    from torchvision.transforms import functional

    assert _is_declared("nms")
    assert functional.hflip(torch.tensor([[[1, 2]]])).tolist() == [[[2, 1]]]


def test_extension_loads__no_extension_in_the_folder(tmp_path: Path) -> None:
    assert not extension_loads(tmp_path)


def test_extension_loads__not_a_library(tmp_path: Path) -> None:
    _broken_extension(tmp_path / "a")
    assert not extension_loads(tmp_path / "a")


def test_extension_loads__a_library(tmp_path: Path) -> None:
    _loadable_extension(tmp_path / "a")
    assert extension_loads(tmp_path / "a")


def test_extension_loads__nothing_is_declared(fake_torchvision: Path, probe_schemas: list[str]) -> None:
    _loadable_extension(fake_torchvision)
    assert declare_missing_operators() is False
    assert torchvision_operators._declared == []
    assert not any(map(_is_declared, probe_schemas))


@pytest.mark.parametrize("is_there", [True, False], ids=["broken", "missing"])
def test_extension_does_not_load__both_schemas_are_declared(
    fake_torchvision: Path, probe_schemas: list[str], is_there: bool
) -> None:
    if is_there:
        _broken_extension(fake_torchvision)
    assert not any(map(_is_declared, probe_schemas))
    assert declare_missing_operators() is True
    assert all(map(_is_declared, probe_schemas))
    assert declare_missing_operators() is True  # again: nothing is declared twice, which torch refuses


def test_calling_a_declared_operator_fails(fake_torchvision: Path, probe_schemas: list[str]) -> None:
    assert declare_missing_operators() is True
    with pytest.raises(NotImplementedError, match="Could not run"):
        getattr(torch.ops.torchvision, probe_schemas[0])(torch.zeros(1, 4), 0.5)


def test_without_torchvision_nothing_is_declared(monkeypatch: pytest.MonkeyPatch, probe_schemas: list[str]) -> None:
    monkeypatch.setattr(torchvision_operators, "_declared", [])
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert declare_missing_operators() is False
    assert not any(map(_is_declared, probe_schemas))


def test_our_schemas_are_torchvisions() -> None:
    from torchvision.ops import boxes  # its nms passes these three, in this order

    assert boxes.nms.__annotations__ == {
        "boxes": torch.Tensor,
        "scores": torch.Tensor,
        "iou_threshold": float,
        "return": torch.Tensor,
    }
    for schema in torchvision_operators.SCHEMAS:
        parsed = torch._C.parse_schema(f"torchvision::{schema}")
        assert [str(argument.type) for argument in parsed.arguments] == ["Tensor", "Tensor", "float"]
