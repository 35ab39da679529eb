"""What lies beyond the edge of a grid of rates, and what is preferred."""

import itertools

import pytest

from vitctl.sweeping.rates import beyond, preferences, rate_beyond


@pytest.mark.parametrize(
    ("rates", "winner", "expected"),
    [
        ((1e-4, 3e-4, 1e-3), 1e-3, 3.33e-3),
        ((1e-4, 3e-4, 1e-3), 1e-4, 3.33e-5),
        ((1e-3, 1e-4, 1e-2), 1e-2, 0.1),  # whatever the order
        ((1e-4, 3e-4, 1e-3), 3e-4, None),
        ((1e-4, 1e-3), 1e-3, None),  # of two each is an edge
        ((1e-4,), 1e-4, None),
    ],
)
def test_rate_beyond__goes_on_by_the_last_step(rates: tuple[float, ...], winner: float, expected: float | None) -> None:
    assert rate_beyond(rates, winner) == expected


def test_beyond__is_of_the_cells_with_the_winners_other_settings() -> None:
    cells = [{"lr": lr, "tune": tune} for tune, rates in (("full", (1, 2, 4)), ("head", (1, 2, 4, 8))) for lr in rates]
    assert beyond(cells, {"lr": 4, "tune": "full"}) == {"lr": 8.0, "tune": "full"}
    assert beyond(cells, {"lr": 4, "tune": "head"}) is None
    assert beyond(cells, {"lr": 8, "tune": "head"}) == {"lr": 16.0, "tune": "head"}


def test_beyond__a_rate_of_the_recipe_is_one() -> None:
    assert beyond([{"rate.lr": lr} for lr in (0.001, 0.01, 0.1)], {"rate.lr": 0.1}) == {"rate.lr": 1.0}


def test_beyond__no_rate_is_above_the_largest_that_an_option_takes() -> None:
    assert beyond([{"lr": lr} for lr in (10.0, 100.0, 1000.0)], {"lr": 1000.0}) is None


def test_beyond__a_grid_without_rates_has_no_edge() -> None:
    assert beyond([{"batch_size": size} for size in (16, 32, 64)], {"batch_size": 64}) is None


def test_preferences__are_rates_where_every_cell_has_one_else_the_order() -> None:
    assert preferences([{"lr": 0.3, "tune": "full"}, {"lr": 0.1, "tune": "full"}]) == [0.3, 0.1]
    assert preferences([{"rate.lr": 0.3}, {"tune": "head"}]) == [0, 1]
    for order in itertools.permutations(("full", "head", "norm")):
        assert preferences([{"tune": tune} for tune in order]) == [0, 1, 2]
