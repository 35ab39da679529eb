"""The rows of a choice say what its score is."""

from vitctl.cli.sweep_choice import choice_rows
from vitctl.results.sweep import Retrained, Selected, Soup, SweepResult

SELECTED = Selected(
    cell="lr=0.1", settings={"lr": 0.1}, by="nll", score=0.25, best="lr=0.1", standard_error=0.0, is_at_edge=True,
    extended=("lr=0.1",), num_dev=1200, why="the best of 4",
)  # fmt: skip
RETRAINED = Retrained(runs=("/a/seed-0",), top1_mean=0.9, top1_ci95=(0.85, 0.94), num_val=200)
SOUP = Soup(
    out="/a/soup", chosen="greedy", by="top1", num_runs=6, greedy_runs=("/a/1", "/a/2"), greedy_top1=0.91,
    greedy_nll=0.3, uniform_top1=0.5, uniform_nll=2.0, single_run="/a/1", single_top1=0.9, single_nll=0.31,
    num_dev=1200,
)  # fmt: skip


def rows(**parts: object) -> dict[str, str]:
    shared = {"out": "/a", "cells": (), "seeds": (0,), "folds": None, "num_val": 0, "validated_on": "dev"}
    return dict(choice_rows(SweepResult(**{**shared, **parts})))  # type: ignore[arg-type]


def test_rows__of_a_sweep_that_chose_nothing_are_none() -> None:
    assert rows() == {}


def test_rows__the_score_of_a_choice_is_optimistic() -> None:
    found = rows(selected=SELECTED)
    assert "NLL 0.2500 on 1,200 development images; it was picked for this" in found["its score"]
    assert found["chosen"] == "lr=0.1: the best of 4"
    assert {"extended", "edge"} < set(found)


def test_rows__what_was_trained_again_is_scored_on_images_that_chose_nothing() -> None:
    assert "top-1 90.00% (85.00% to 94.00%) on 200 validation images" in rows(retrained=RETRAINED)["trained again"]
    none = Retrained(runs=("/a/seed-0",), top1_mean=None, top1_ci95=None, num_val=0)
    assert "no score" in rows(retrained=none)["trained again"]


def test_rows__a_soup_is_beside_the_best_run() -> None:
    found = rows(soup=SOUP)
    assert "the best of 6 runs alone 90.00%, greedy soup of 2 91.00%, soup of all 50.00%" in found["soup"]
    assert found["kept"].startswith("the greedy soup, in /a/soup")
