"""Optimisers by name: which there are, what each takes of a recipe, what it keeps in memory."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from vitctl.errors import SettingError
from vitctl.recipes import Recipe, load_recipe, override
from vitctl.recipes.sections import Optimizer
from vitctl.training.optimizer import build_optimizer, memory_per_parameter
from vitctl.training.optimizer_choice import (
    built_small,
    check_optimizer,
    described,
    optimizer_settings,
    usable_names,
)
from vitctl.training.optimizer_state import optimizer_state


def recipe(*settings: str) -> Recipe:
    return override(load_recipe("transfer"), [f"optimizer.{one}" for one in settings])


def optimizer_of(groups: list[dict[str, Any]], *settings: str) -> torch.optim.Optimizer:
    return build_optimizer(groups, lr=1e-2, **optimizer_settings(recipe(*settings)))


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 24), nn.Linear(24, 20))


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)
    optimizer.step()


# --- names ----------------------------------------------------------------------------------------------------


def test_names__are_timms_but_those_that_cannot_be_used() -> None:
    names = usable_names()
    assert {"adamw", "sgd", "lamb", "lion", "muon", "adan", "mars", "adafactor", "nesterovw"} <= set(names)
    assert not {"adahessian", "kron", "kronw", "bnbadam", "fusedlamb"} & set(names)
    assert len(names) > 60


@pytest.mark.slow
def test_every_optimizer__is_checked_and_takes_a_step() -> None:
    for name in usable_names():
        given = Recipe(optimizer=Optimizer(name=name))
        check_optimizer(given)
        model = small_model()
        before = copy.deepcopy(model)
        groups = [{"params": list(model.parameters()), "weight_decay": 0.05}]
        step(model, build_optimizer(groups, lr=1e-2, **optimizer_settings(given)))
        if not name.startswith(("adopt", "cadopt")):  # they only look in their first step, arXiv 2411.02853
            assert any(not torch.equal(*pair) for pair in zip(model.parameters(), before.parameters(), strict=True))
        assert all(bool(parameter.isfinite().all()) for parameter in model.parameters()), name


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            ["name=adamm"],
            r"optimizer\.name is 'adamm'; expected adamw, sgd, or a name of timm's, .* Did you mean 'adam",
        ),
        (["name=Lion"], r"optimizer\.name is 'Lion'; .* Did you mean 'lion'\?"),
        (["name=lbfgs"], r"optimizer\.name is 'lbfgs'; expected adamw, sgd"),
        (["name=lookahead_"], r"optimizer\.name is 'lookahead_'; expected"),
        (["name=lookahead_lookahead_adamw"], r"is 'lookahead_lookahead_adamw'; expected"),
        (["name=adahessian"], r"'adahessian', which needs second derivatives"),
        (["name=lookahead_adahessian"], r"'lookahead_adahessian', which needs second derivatives"),
        (["name=kron"], r"'kron', which draws random numbers that do not follow from the seed"),
        (["name=bnblion8bit"], r"'bnblion8bit', which needs the package bitsandbytes"),
        (["name=fusedlamb"], r"'fusedlamb', which needs the package apex"),
    ],
)
def test_other_names__are_refused_with_the_reason(settings: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        check_optimizer(recipe(*settings))


# --- values ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        ["betas=[0.8, 0.9]", "eps=1e-6"],
        ["name=sgd", "momentum=0.9", "nesterov=true"],
        ["name=lion", "betas=[0.95, 0.98]"],
        ["name=muon", "momentum=0.95", "betas=[0.9, 0.98]", "eps=1e-8"],
        ["name=lookahead_lamb", "betas=[0.9, 0.98]"],
    ],
)
def test_values__that_it_takes_are_in_it(settings: list[str]) -> None:
    given = recipe(*settings)
    check_optimizer(given)
    for one in settings:
        key = one.partition("=")[0]
        if key != "name":
            assert built_small(given).param_groups[0][key] == getattr(given.optimizer, key)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["momentum=0.9"], r"momentum is 0\.9, which adamw does not take; leave it out \(optimizer\.momentum=0\.0\)"),
        (["nesterov=true"], r"nesterov is True, which adamw does not take; .*nesterov=false"),
        (["name=sgd", "betas=[0.9, 0.99]"], r"betas is \[0\.9, 0\.99\], which sgd does not .*betas=\[0\.9, 0\.999\]\)"),
        (["name=sgd", "eps=1e-8"], r"eps is 1e-08, which sgd does not take"),
        (["name=lion", "eps=1e-8"], r"eps is 1e-08, which lion does not take"),
        (["name=lion", "momentum=0.9"], r"momentum is 0\.9, which lion does not take"),
        (["name=nlars", "nesterov=true"], r"nesterov is True, which nlars does not take"),
        (["name=adan", "betas=[0.9, 0.99]"], r"betas is \[0\.9, 0\.99\], which adan does not take"),  # it has three
        (["name=sgd", "nesterov=true"], r"name 'sgd' refuses its settings: Nesterov momentum requires a momentum"),
        (["name=lookahead_sgd", "eps=1"], r"eps is 1\.0, which lookahead_sgd does not take"),
    ],
)
def test_values__that_it_does_not_take_are_refused(settings: list[str], sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        check_optimizer(recipe(*settings))


@pytest.mark.parametrize("name", ["vit-paper", "transfer", "demo", "demo-pretrain"])
def test_recipes_of_ours__are_fine(name: str) -> None:
    check_optimizer(load_recipe(name))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([], "adamw"),
        (["name=sgd", "momentum=0.9"], "sgd"),
        (["name=lion"], "lion (timm), betas 0.9 0.99"),
        (["name=muon"], "muon (timm), betas 0.9 0.95, momentum 0.9"),
        (["name=adafactor"], "adafactor (timm)"),
        (["name=lookahead_adan"], "lookahead_adan (timm), betas 0.98 0.92 0.99"),
    ],
)
def test_words__say_what_a_recipe_leaves_to_it(settings: list[str], words: str) -> None:
    assert described(recipe(*settings)) == words


@pytest.mark.parametrize("name", ["lamb", "lion", "muon", "lookahead_adamw"])
def test_timms__are_as_timm_builds_them(name: str) -> None:
    from timm.optim import create_optimizer_v2

    model, other = small_model(), small_model()
    groups = [{"params": list(model.parameters()), "weight_decay": 0.05}]
    theirs = create_optimizer_v2([{"params": list(other.parameters()), "weight_decay": 0.05}], opt=name, lr=1e-2)
    ours = optimizer_of(groups, f"name={name}")
    for _ in range(3):
        step(model, ours)
        step(other, theirs)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))


# --- memory ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "copies"),
    [
        (["name=adamw"], 2), (["name=sgd"], 0), (["name=sgd", "momentum=0.9"], 1), (["name=lion"], 1),
        (["name=lamb"], 2), (["name=mars"], 3), (["name=adan"], 4), (["name=lookahead_adamw"], 3),
        (["name=adafactor"], (160 + 192) / (160 * 192)),  # a row and a column, arXiv 1804.04235
    ],
)  # fmt: skip
def test_memory__is_what_it_keeps_of_a_matrix(settings: list[str], copies: float) -> None:
    model = small_model()
    optimizer = optimizer_of([{"params": list(model.parameters()), "weight_decay": 0.05}], *settings)
    assert memory_per_parameter(optimizer) == pytest.approx(copies, rel=1e-9)


@pytest.mark.parametrize("name", ["adamw", "lamb", "lookahead_lion", "adan"])
def test_memory__is_measured_without_a_trace(name: str) -> None:
    model, other = small_model(), small_model()
    asked, unasked = (
        optimizer_of([{"params": list(one.parameters()), "weight_decay": 0.05}], f"name={name}")
        for one in (model, other)
    )
    memory_per_parameter(asked)
    assert optimizer_state(model, asked) == ({}, optimizer_state(other, unasked)[1])
    for _ in range(7):
        step(model, asked)
        step(other, unasked)
    assert all(torch.equal(*pair) for pair in zip(model.parameters(), other.parameters(), strict=True))
