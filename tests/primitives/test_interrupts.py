"""Ctrl-C and SIGTERM are noted, the second one acts, and the handlers go back."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from vitctl.primitives.interrupts import StopRequest, stop_requests


class _Terminated(Exception):
    """Raised by the handler that stands for what the process did before."""


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Let SIGTERM raise instead of killing pytest, and give the process back as it was."""

    def raise_terminated(_number: int, _frame: object) -> None:
        raise _Terminated

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, raise_terminated)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_request_is_falsy_until_a_signal_comes() -> None:
    with stop_requests() as request:
        assert not request
        assert request.signal is None


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_is_noted_and_does_not_raise(number: signal.Signals, exit_code: int) -> None:
    with stop_requests() as request:
        os.kill(os.getpid(), number)
        assert request
        assert request.signal is number
        assert request.exit_code == exit_code


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("second", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, _Terminated)])
def test_the_second_signal_acts_as_it_would_without_us(
    first: signal.Signals, second: signal.Signals, error: type[BaseException]
) -> None:
    with stop_requests() as request:
        os.kill(os.getpid(), first)
        with pytest.raises(error):
            os.kill(os.getpid(), second)
        assert request.signal is first


@pytest.mark.parametrize("number", [None, signal.SIGINT])
def test_handlers_are_restored_after_the_block(number: signal.Signals | None) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with stop_requests():
        assert signal.getsignal(signal.SIGINT) is not before[0]
        if number is not None:
            os.kill(os.getpid(), number)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_handlers_are_restored__block_raises() -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(ValueError, match="broken"), stop_requests():
        raise ValueError("broken")
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_outside_the_main_thread_nothing_is_caught_and_nothing_fails() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen: list[tuple[bool, bool]] = []

    def work() -> None:
        with stop_requests() as request:
            seen.append((bool(request), signal.getsignal(signal.SIGINT) is before))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, True)]


def test_exit_code_of_a_request_without_a_signal_is_that_of_ctrl_c() -> None:
    assert StopRequest().exit_code == 130
