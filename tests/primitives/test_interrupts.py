"""Ctrl-C and SIGTERM are noted, the second one acts, and the handlers go back."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from vitctl.errors import InterruptedRun
from vitctl.primitives.interrupts import StopRequest, stop_requests, termination_as_error


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
def test_another_signal_acts_as_it_would_without_us__but_not_at_once(
    first: signal.Signals, second: signal.Signals, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    with stop_requests() as request:
        os.kill(os.getpid(), first)
        os.kill(os.getpid(), second)  # the same one, passed on by who started us
        monkeypatch.setattr("vitctl.primitives.interrupts._SAME_S", 0.0)
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


def test_termination__leaves_the_block_as_an_error_with_its_exit_code() -> None:
    steps: list[str] = []

    def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("went on")
        finally:
            steps.append("cleared away")

    with pytest.raises(InterruptedRun, match="nothing was written") as caught, termination_as_error():
        work()
    assert caught.value.exit_code == 143
    assert steps == ["cleared away"]


def test_termination__is_not_taken_for_an_ordinary_failure() -> None:
    def try_another_way() -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Exception:  # as around anything that may fail
            pytest.fail("a SIGTERM was caught as a failure")

    with pytest.raises(InterruptedRun), termination_as_error():
        try_another_way()


@pytest.mark.parametrize("error", [None, ValueError, KeyboardInterrupt])
def test_termination__without_a_signal_changes_nothing(error: type[BaseException] | None) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    if error is None:
        with termination_as_error():
            assert signal.getsignal(signal.SIGINT) is before[0]
            assert signal.getsignal(signal.SIGTERM) is not before[1]
    else:
        with pytest.raises(error), termination_as_error():
            raise error
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_termination__after_the_block_acts_as_before() -> None:
    with pytest.raises(InterruptedRun), termination_as_error():
        os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(_Terminated):
        os.kill(os.getpid(), signal.SIGTERM)


def test_termination__ctrl_c_is_still_ctrl_c() -> None:
    with pytest.raises(KeyboardInterrupt), termination_as_error():
        os.kill(os.getpid(), signal.SIGINT)


def test_termination__outside_the_main_thread_nothing_is_caught_and_nothing_fails() -> None:
    before, seen = signal.getsignal(signal.SIGTERM), list[bool]()

    def work() -> None:
        with termination_as_error():
            seen.append(signal.getsignal(signal.SIGTERM) is before)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [True]
