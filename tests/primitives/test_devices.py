"""Which device is taken, and that the reason says so."""

from collections.abc import Iterator

import pytest
import torch

from vitctl.errors import SettingError, UnavailableError
from vitctl.primitives.devices import resolve_device, resolve_num_threads


def _pretend(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected", "word"),
    [
        (True, True, "cuda", "CUDA"),
        (True, False, "cuda", "CUDA"),
        (False, True, "mps", "Apple"),
        (False, False, "cpu", "no GPU"),
    ],
)
def test_auto_takes_cuda_then_mps_then_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str, word: str
) -> None:
    _pretend(monkeypatch, cuda=cuda, mps=mps)
    device, reason = resolve_device("auto")
    assert device == torch.device(expected)
    assert word in reason


def test_a_device_that_is_asked_for_is_taken_even_if_a_better_one_is_here(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, cuda=True, mps=True)
    assert resolve_device("cpu") == (torch.device("cpu"), "asked for")
    assert resolve_device("mps")[0] == torch.device("mps")


def test_a_device_that_is_not_here_is_an_error_that_lists_those_that_are(monkeypatch: pytest.MonkeyPatch) -> None:
    _pretend(monkeypatch, cuda=False, mps=False)
    with pytest.raises(UnavailableError, match=r"--device cuda is not available.*there is: cpu\."):
        resolve_device("cuda")


def test_an_unknown_device_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(SettingError, match="auto, cpu, cuda, mps.*Did you mean 'cuda'"):
        resolve_device("cuda0")


@pytest.fixture
def _threads_restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads_restored")
def test_num_threads_is_set_for_torch_when_asked_for() -> None:
    other = torch.get_num_threads() + 1
    assert resolve_num_threads(other) == (other, "asked for")
    assert torch.get_num_threads() == other


@pytest.mark.usefixtures("_threads_restored")
def test_num_threads__no_more_than_a_container_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(3)
    for module in ("devices", "cpus"):
        monkeypatch.setattr(f"vitctl.primitives.{module}.cpu_quota", lambda: 0.5)
    assert resolve_num_threads(None) == (1, "as many processors as this container may use")
    assert torch.get_num_threads() == 1


@pytest.mark.usefixtures("_threads_restored")
def test_num_threads_is_left_alone_when_not_asked_for() -> None:
    torch.set_num_threads(3)
    assert resolve_num_threads(None)[0] == 3
    assert torch.get_num_threads() == 3
