"""Latencies: what a clock that the contenders turn themselves says, warm-up apart, in turns."""

import itertools
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.exporting import latency
from vitctl.exporting.latency import Contender, measure_latencies
from vitctl.results.export import Latency, Timing


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still; ``now`` is in seconds."""
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(latency, "time", SimpleNamespace(perf_counter=lambda: clock.now))
    return clock


def taking(clock: SimpleNamespace, seconds: Callable[[int], float], seen: list[Any], name: str = "a") -> Contender:
    """Return a contender that turns the clock by ``seconds(B)`` and notes its name and B."""

    def run(batch: Tensor) -> None:
        clock.now += seconds(len(batch))
        seen.append((name, len(batch)))

    return Contender(run, lambda size: torch.zeros(size, 3, 2, 2))


def measure(**contenders: Contender) -> dict[str, Latency]:
    return measure_latencies(contenders, conversation=Conversation())


def test_latency__is_what_the_clock_says_and_images_follow_from_it(clock: SimpleNamespace) -> None:
    found = measure(a=taking(clock, lambda size: 0.004 + 0.012 * size, []))["a"]
    assert found.batch_1 == Timing(16.0, 16.0, 62.5)
    assert found.batch_8 == Timing(100.0, 100.0, 80.0)


def test_latency__percentiles_worked_by_hand(clock: SimpleNamespace) -> None:
    slow = [9000.0] * latency.NUM_WARM_UP  # not counted, and so slow that 20 rounds follow, four per turn
    turns = [[float(one) for one in range(last, last - 4, -1)] for last in (20, 16, 12, 8, 4)]
    rounds = [one for turn in turns for one in (*slow, *turn)]  # the median is between 10 and 11, p95 at 1 + 0.95 * 19
    milliseconds: Iterator[float] = itertools.chain(slow, rounds, slow, [*slow, *[40.0] * 4] * 5)
    found = measure(a=taking(clock, lambda _: next(milliseconds) / 1000, []))["a"]
    assert found.batch_1 == Timing(10.5, 19.05, 95.24)
    assert found.batch_8 == Timing(40.0, 40.0, 200.0)


@pytest.mark.parametrize(
    ("seconds", "rounds"),
    [(1e-9, 200), (0.001, 200), (0.1, 30), (0.5, 20), (60.0, 20)],
)
def test_latency__rounds_fill_three_seconds_within_limits(clock: SimpleNamespace, seconds: float, rounds: int) -> None:
    seen: list[Any] = []
    measure(a=taking(clock, lambda _: seconds, seen))
    not_counted = latency.NUM_WARM_UP * (1 + latency.NUM_TURNS)
    assert [size for _, size in seen].count(1) == rounds + not_counted
    assert [size for _, size in seen].count(8) == rounds + not_counted


def test_latency__contenders_take_turns_and_the_slowest_decides(clock: SimpleNamespace) -> None:
    seen: list[Any] = []
    found = measure(
        a=taking(clock, lambda _: 0.001, seen, "a"),
        b=taking(clock, lambda size: 0.1 * size, seen, "b"),
    )
    assert list(found) == ["a", "b"]
    assert found["a"].batch_8.p50 == pytest.approx(1.0)
    assert found["b"].batch_8.p50 == pytest.approx(800.0)
    after_warm_up = [name for name, size in seen if size == 1][2 * latency.NUM_WARM_UP :]
    turn = latency.NUM_WARM_UP + 6  # 3 s at 0.1 s are 30 rounds, in five turns
    assert after_warm_up == [*["a"] * turn, *["b"] * turn] * 5


def test_latency__real_clock_gives_figures_in_order() -> None:
    weight = torch.ones(64, 64)
    found = measure(a=Contender(lambda batch: batch @ weight, lambda size: torch.ones(size, 64)))["a"]
    for figures in (found.batch_1, found.batch_8):
        assert 0 < figures.p50 <= figures.p95 < 1000
