"""Progress on a terminal: rate and time left are known even where little is counted now and then."""

import pytest
from rich.progress import Progress as RichProgress

from vitctl.cli.screen import Screen, _BarProgress


@pytest.fixture
def clock() -> list[float]:
    return [0.0]


def shown(bars: RichProgress, task: int) -> list[str]:
    return [
        str(column.render(bars.tasks[task])) for column in bars.columns if type(column).__module__ == Screen.__module__
    ]


def test_bar__long_after_the_last_step__still_says_how_long(clock: list[float]) -> None:
    bars = Screen()._new_bars()
    bars.get_time = lambda: clock[0]  # type: ignore[method-assign]
    task = bars.add_task("sweep", total=60, unit="steps", facts="", first=0)
    bar = _BarProgress(bars, task)
    bar.begin_at(30)  # as many as were done before took no time
    assert shown(bars, 0) == ["", "-:--:--"]
    clock[0] = 50.0  # a run that takes long to begin
    bar.advance(10)
    assert shown(bars, 0) == ["0.2 steps/s", "0:01:40"]
    clock[0] = 100.0
    bar.advance(0)
    assert shown(bars, 0) == ["0.1 steps/s", "0:03:20"]
