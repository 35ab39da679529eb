"""Which optimisers there are by name, and what each takes of a recipe: torch's AdamW and SGD, every other of timm's."""

from typing import Any

import torch

from vitctl.errors import SettingError, did_you_mean
from vitctl.primitives.compiler_later import compiler_later
from vitctl.recipes import Recipe
from vitctl.recipes.sections import Optimizer
from vitctl.training.optimizer import TORCHS, build_optimizer

with compiler_later():
    from timm.optim import get_optimizer_info, list_optimizers

LOOKAHEAD = "lookahead_"
_DEFAULT = Optimizer()
_SUCH_AS = "lamb, lion, muon, adan, mars, adafactor"


def optimizer_settings(recipe: Recipe) -> dict[str, Any]:
    """Return what ``build_optimizer`` takes of a recipe, by name."""
    how = recipe.optimizer
    return {
        "name": how.name, "betas": how.betas, "eps": how.eps, "momentum": how.momentum, "nesterov": how.nesterov
    }  # fmt: skip


def usable_names() -> list[str]:
    """Return the names that an optimiser can have; each may also stand behind ``lookahead_``."""
    return [name for name in list_optimizers() if not _unusable(name)]


@compiler_later()
def check_optimizer(recipe: Recipe) -> None:
    """Check that there is the recipe's optimiser and that it takes what the recipe says.

    Raises:
        SettingError: There is none of that name, it cannot be used here, or a value is not for it.
    """
    how = recipe.optimizer
    base = how.name.removeprefix(LOOKAHEAD)
    if base not in list_optimizers():
        raise SettingError(
            f"optimizer.name is {how.name!r}; expected adamw, sgd, or a name of timm's, e.g. {_SUCH_AS}."
            f"{did_you_mean(how.name, usable_names())}",
            f"All are: {', '.join(usable_names())}.",
        )
    if why := _unusable(base):
        raise SettingError(f"optimizer.name is {how.name!r}, which {why}; take another, e.g. {_SUCH_AS}.")
    for key, takes in _takes(how.name).items():
        value, default = getattr(how, key), getattr(_DEFAULT, key)
        if value != default and not takes:
            told = list(value) if isinstance(value, tuple) else value
            neutral = str(list(default) if isinstance(default, tuple) else default).lower()
            raise SettingError(
                f"optimizer.{key} is {told}, which {how.name} does not take; leave it out (optimizer.{key}={neutral}), "
                "or take another optimiser."
            )
    try:
        built_small(recipe)
    except (TypeError, ValueError) as error:
        raise SettingError(f"optimizer.name {how.name!r} refuses its settings: {error}.") from error


def built_small(recipe: Recipe) -> torch.optim.Optimizer:
    """Return the recipe's optimiser over one number: what it will be, without a model."""
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "weight_decay": recipe.optimizer.weight_decay}]
    return build_optimizer(groups, lr=1e-3, **optimizer_settings(recipe))


@compiler_later()
def described(recipe: Recipe) -> str:
    """Return the optimiser in words; of timm's with the values of its own that the recipe leaves to it."""
    how = recipe.optimizer
    if how.name in TORCHS:
        return how.name
    own = built_small(recipe).defaults
    parts = [f"{how.name} (timm)"]
    if own.get("betas") is not None:
        parts.append("betas " + " ".join(f"{beta:g}" for beta in own["betas"]))
    if own.get("momentum"):
        parts.append(f"momentum {own['momentum']:g}")
    return ", ".join(parts)


def _takes(name: str) -> dict[str, bool]:
    """Return which of the settings that some optimisers take this one does."""
    if name in TORCHS:
        return {"betas": name == "adamw", "eps": name == "adamw", "momentum": name == "sgd", "nesterov": name == "sgd"}
    info = get_optimizer_info(name.removeprefix(LOOKAHEAD))
    return {
        "betas": info.has_betas and info.num_betas == len(_DEFAULT.betas),
        "eps": info.has_eps,
        "momentum": info.has_momentum,
        "nesterov": False,  # timm has a name of its own for those that do: nesterovw, nlars, nmuon
    }


def _unusable(name: str) -> str:
    """Return why an optimiser of timm's cannot be used, "" where it can."""
    info = get_optimizer_info(name)
    if isinstance(info.opt_class, str):
        return f"needs the package {info.opt_class.split('.')[0]}, which vitctl does not use"
    if info.second_order:
        return "needs second derivatives, which a step here does not compute"
    if info.opt_class.__name__ == "Kron":
        return "draws random numbers that do not follow from the seed and the step, so that no run would repeat"
    return ""
