"""``--deterministic``: torch's flags within the run and as before afterwards; operators without such a kernel."""

import os

import pytest
import torch

from vitctl.errors import SettingError
from vitctl.training.determinism import CUBLAS_WORKSPACE, deterministic_kernels


def flags() -> tuple[bool, bool, bool]:
    cudnn = torch.backends.cudnn
    return torch.are_deterministic_algorithms_enabled(), cudnn.deterministic, cudnn.benchmark


def test_flags__are_set_inside_and_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(CUBLAS_WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = flags()
    with deterministic_kernels(False):
        assert flags() == before
        assert CUBLAS_WORKSPACE not in os.environ
    with deterministic_kernels(True):
        assert flags() == (True, True, False)
        assert os.environ[CUBLAS_WORKSPACE] == ":4096:8"
    assert flags() == before
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":16:8")
    with deterministic_kernels(True):
        assert os.environ[CUBLAS_WORKSPACE] == ":16:8"  # what a user has chosen stays
    with pytest.raises(ZeroDivisionError), deterministic_kernels(True):
        raise ZeroDivisionError
    assert flags() == before


def test_an_operator_without_a_deterministic_kernel__is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CUBLAS_WORKSPACE, ":4096:8")
    message = "--deterministic is given, but put_.* has no deterministic kernel"
    with pytest.raises(SettingError, match=message), deterministic_kernels(True):
        torch.zeros(3).put_(torch.tensor([0, 1]), torch.ones(2))
    with pytest.raises(RuntimeError, match="something else"), deterministic_kernels(True):
        raise RuntimeError("something else")
