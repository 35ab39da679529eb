"""Which parameters of a model are trained: those of a mode and of the head, without those that are frozen.

Where a mode's parts are: attention and position embeddings by their names, norms by their classes, blocks as
``units_of`` finds them, so that of a Swin or a CNN each block in a stage is one.
"""

import re
from collections.abc import Collection, Iterable, Iterator

from torch import nn

from vitctl.errors import SettingError, did_you_mean
from vitctl.models.anatomy import blocks_of, norm_kind, units_of
from vitctl.models.block_anatomy import is_in_attention, is_position_embedding
from vitctl.models.describe import on_meta
from vitctl.models.heads import head_paths
from vitctl.recipes.sections import Tuning
from vitctl.training.lora import add_factors, is_factor
from vitctl.training.tuning import check_regex, parse_mode, parse_scales

_NEW_NAMES = ("weight", "bias")  # of a classifier that is still to come


def check_tuning(model: nn.Module, tuning: Tuning, *, name: str) -> None:
    """Check that what is to be trained can be found in a model that is not at its size yet, nor has its head.

    Args:
        model: A timm model; not changed.
        tuning: What is to be trained.
        name: The model's, for messages.

    Raises:
        SettingError: It has no such parts, or nothing would be trained, or an expression finds nothing.
    """
    if _is_of_all(tuning):
        return
    mode, number = parse_mode(tuning.mode)
    if mode == "lora":
        model = on_meta(model)
        add_factors(model, rank=number or 1, scale=tuning.lora_scale, seed=0, name=name)
    names = {key: None for key, _ in model.named_parameters()}
    heads = head_paths(model)
    names |= dict.fromkeys(f"{path}.{kind}" for path in heads for kind in _NEW_NAMES)
    found = _trained(model, names, tuning, name=name)
    _check_expressions(names, found, tuning, name=name)


def choose_trained(model: nn.Module, tuning: Tuning, *, seed: int, name: str) -> None:
    """Let the parameters that ``tuning`` names ask for gradients, and no others; of lora, add the factors.

    What the model itself keeps fixed stays fixed. With ``full`` and no expression the model is left as it is.

    Args:
        model: A timm model at its size, with its new head; changed in place.
        tuning: What is to be trained.
        seed: Of the factors.
        name: The model's, for messages.

    Raises:
        SettingError: It has no such parts, or nothing would be trained, or an expression finds nothing.
    """
    if _is_of_all(tuning):
        return
    mode, number = parse_mode(tuning.mode)
    if mode == "lora":
        add_factors(model, rank=number or 1, scale=tuning.lora_scale, seed=seed, name=name)
    parameters = dict(model.named_parameters())
    found = _trained(model, parameters, tuning, name=name)
    _check_expressions(parameters, found, tuning, name=name)
    for key, parameter in parameters.items():
        parameter.requires_grad_(parameter.requires_grad and key in found)


def _is_of_all(tuning: Tuning) -> bool:
    """Return whether everything is trained, each at its own rate."""
    return (parse_mode(tuning.mode)[0], tuning.lr_scale, tuning.freeze) == ("full", (), ())


def _trained(model: nn.Module, names: Collection[str], tuning: Tuning, *, name: str) -> set[str]:
    mode, number = parse_mode(tuning.mode)
    body = set(_BODIES[mode](model, names, number, name))
    heads = tuple(f"{path}." for path in head_paths(model))
    found = {key for key in names if key in body or key.startswith(heads)}
    for regex in tuning.freeze:
        check_regex(regex, option="--freeze", field="freeze")
    left = {key for key in found if not any(re.search(regex, key) for regex in tuning.freeze)}
    if not left:
        raise SettingError(
            f"--freeze {' '.join(map(repr, tuning.freeze))} leaves nothing of {name} to train; expected an expression "
            f"that finds fewer of its {len(found)} tensors.",
            field="freeze",
        )
    return left


def _nothing(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    return ()


def _everything(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    return names


def _attention(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    found = [key for key in names if is_in_attention(key)]
    if not found:
        raise _without("attention", "attention layers of their own in its blocks", name)
    return [*found, *(key for key in names if is_position_embedding(key))]


def _norms(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    found = [
        f"{path}.{key}"
        for path, module in model.named_modules()
        if norm_kind(module) is not None
        for key, _ in module.named_parameters(recurse=False)
    ]
    if not found:
        raise _without("norm", "norms with weights", name)
    return found


def _biases(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    return [key for key in names if key.endswith("bias")]


def _last_blocks(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    """Yield what stands in the last blocks, between and after them, in the order in which timm's models are made."""
    blocks = [unit.path for unit in units_of(model)] if blocks_of(model) else []
    if not blocks:
        raise _without(f"last:{number}", "row of blocks", name)
    if number is None or number > len(blocks):
        raise SettingError(
            f"--tune is 'last:{number}', but {name} has {len(blocks)} blocks; expected last:1 to last:{len(blocks)}.",
            field="tune",
        )
    keys = list(names)
    first = next(index for index, key in enumerate(keys) if key.startswith(f"{blocks[-number]}."))
    return keys[first:]


def _factors(model: nn.Module, names: Collection[str], number: int | None, name: str) -> Iterable[str]:
    return [key for key in names if is_factor(key)]


_BODIES = {
    "full": _everything,
    "head": _nothing,
    "attention": _attention,
    "norm": _norms,
    "bias": _biases,
    "last": _last_blocks,
    "lora": _factors,
}


def _without(mode: str, what: str, name: str) -> SettingError:
    return SettingError(
        f"--tune is {mode!r}, but {name} has no {what} that vitctl knows; expected full, head or bias for this model.",
        field="tune",
    )


# --- expressions ---------------------------------------------------------------------------------------------


def _check_expressions(names: Collection[str], trained: Collection[str], tuning: Tuning, *, name: str) -> None:
    for option, field, regexes in (
        ("--freeze", "freeze", tuning.freeze),
        ("--lr-scale", "lr_scale", [regex for regex, _ in parse_scales(tuning.lr_scale)]),
    ):
        for regex in regexes:
            found = [key for key in names if re.search(regex, key)]
            if not found:
                raise SettingError(
                    f"{option} {regex!r} finds none of the parameters of {name}.{_near(regex, names)}", field=field
                )
            if field == "lr_scale" and set(trained).isdisjoint(found):
                raise SettingError(
                    f"{option} {regex!r} finds only parameters of {name} that are not trained, e.g. {found[0]!r}; "
                    "expected one that finds others. Leave it out, or train more with --tune.",
                    field=field,
                )


def _near(regex: str, names: Collection[str]) -> str:
    """Return names, and beginnings of names, that are like what ``regex`` spells; else some of the names."""
    plain = re.sub(r"\\(.)", r"\1", regex).strip("^$.*")
    beginnings = dict.fromkeys(part for key in names for part in _beginnings(key))
    some = list(names)[:: max(1, len(names) // 3)][:3]
    return did_you_mean(plain, beginnings, synonyms={}) or f" Its names are like {', '.join(map(repr, some))}."


def _beginnings(name: str) -> Iterator[str]:
    parts = name.split(".")
    yield from (".".join(parts[:length]) for length in range(1, len(parts) + 1))
