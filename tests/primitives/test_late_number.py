"""A number on its way from a device: read when it has come, without waiting for the rest."""

from typing import Any

import pytest
import torch

from vitctl.primitives.late_number import LateNumber


def test_cpu__it_is_here_and_exact() -> None:
    number = LateNumber(torch.tensor(0.1))
    assert number.is_here
    assert number.read() == torch.tensor(0.1).item()


class OnCuda:
    """Stands in for a number on a CUDA device."""

    is_cuda, device = True, "cuda:1"

    def __init__(self, calls: list[Any]) -> None:
        self._calls = calls

    def to(self, device: str, *, non_blocking: bool) -> torch.Tensor:
        self._calls.append(("copy", device, non_blocking))
        return torch.tensor(2.5)


def test_cuda__copied_in_its_turn_and_waited_for_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Event:
        has_come = False

        def record(self, stream: str) -> None:
            calls.append(("record", stream))

        def query(self) -> bool:
            return self.has_come

        def synchronize(self) -> None:
            calls.append("wait")
            Event.has_come = True

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: f"stream of {device}")
    value: Any = OnCuda(calls)
    number = LateNumber(value)
    assert calls == [("copy", "cpu", True), ("record", "stream of cuda:1")]  # the event behind the copy
    assert not number.is_here
    assert number.read() == 2.5
    assert calls[-1] == "wait"
    assert number.is_here


@pytest.mark.gpu
def test_cuda__the_number_itself() -> None:
    with torch.cuda.device(0):
        value = torch.full((), 0.1, device="cuda") * 3
        torch.cuda.set_sync_debug_mode("error")
        try:
            number = LateNumber(value)
            read = number.read()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert read == value.item()
