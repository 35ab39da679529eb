"""From what a checkpoint holds to tensors by the names of a model: one of its entries, no prefix before its names.

Plain mappings in, plain mappings out; what was chosen and left out is said in words.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from vitctl.errors import ModelError
from vitctl.models.load_report import some

ENTRIES = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema", "teacher", "target_encoder", "state_dict",
    "model_state_dict", "model", "net", "network", "student", "encoder", "backbone", "module",
)  # fmt: skip
"""Where training programs put a model, the first of them that is there: averaged weights come first, as in timm."""

PREFIXES = (
    "base_model.model.", "_orig_mod.", "module.", "timm_model.", "backbone.", "model.", "net.", "student.", "teacher.",
)  # fmt: skip
"""What stands before every name where the model is a part of another: peft, torch.compile, DDP, Lightning, DINO."""

LEAST_SHARE = 0.9  # of names below a prefix; of DINO's teacher it is 0.949, the rest is its projection head
MOST_LAYERS = 4  # guess: of wrappings one in the other


@dataclass(frozen=True)
class Unwrapped:
    """The tensors of a model.

    Attributes:
        tensors: By name; values may be anything, as the file has them.
        notes: What was chosen, in a sentence; () where nothing was wrapped.
    """

    tensors: dict[str, Any]
    notes: tuple[str, ...] = ()


def unwrap(document: Any, *, source: str) -> Unwrapped:
    """Return the tensors of the model that a checkpoint holds.

    Args:
        document: What the file holds.
        source: The file, for messages.

    Raises:
        ModelError: It holds no tensors by name, or several models of unknown names.
    """
    entries: list[str] = []
    for _ in range(MOST_LAYERS):
        if not isinstance(document, Mapping):
            break
        name = _entry_of(document, source=source)
        if name is None:
            break
        entries.append(name)
        document = document[name]
    if not isinstance(document, Mapping) or not _num_tensors(document):
        raise ModelError(f"{source} holds no tensors by name; expected the state dict of a model.")
    tensors, prefixes = _without_prefixes({key: value for key, value in document.items() if isinstance(key, str)})
    return Unwrapped(tensors, _notes(entries, prefixes, source=source))


def _num_tensors(document: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for key, value in document.items() if isinstance(key, str))


def _entry_of(document: Mapping[Any, Any], *, source: str) -> str | None:
    """Return the entry that holds the model; None where the tensors are here."""
    inner = {
        key: _num_tensors(value)
        for key, value in document.items()
        if isinstance(key, str) and isinstance(value, Mapping)
    }
    known = [name for name in ENTRIES if name in inner and _holds_a_model(document[name], MOST_LAYERS - 1)]
    most = max((inner[name] for name in known), default=0)
    if _num_tensors(document) > max(most, *inner.values(), 0):
        return None
    if known:
        return known[0]
    models = [name for name, number in inner.items() if number]
    if len(models) > 1:
        raise ModelError(
            f"{source} holds several models ({some(models)}), none under a name like {', '.join(ENTRIES[6:9])}; "
            "expected one. Save the one that you want by itself."
        )
    return models[0] if models else None


def _holds_a_model(document: Mapping[Any, Any], most_layers: int) -> bool:
    """Return whether there are tensors by name in a mapping, or under a known name in it; a file may nest for ever."""
    if _num_tensors(document):
        return True
    below = (document[name] for name in ENTRIES if isinstance(document.get(name), Mapping)) if most_layers else ()
    return any(_holds_a_model(one, most_layers - 1) for one in below)


def _without_prefixes(tensors: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the tensors without the prefixes that nearly all of their names have, in turn; and those prefixes.

    Of two that would have one name then, that with the prefix is the model's.
    """
    found: list[str] = []
    for _ in range(MOST_LAYERS):
        prefix = next((one for one in PREFIXES if _share(tensors, one) >= LEAST_SHARE), None)
        if prefix is None:
            break
        found.append(prefix)
        inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        beside = {key: value for key, value in tensors.items() if not key.startswith(prefix)}
        tensors = inside | {key if key not in inside else f"(beside {prefix}) {key}": beside[key] for key in beside}
    return tensors, found


def _share(tensors: Mapping[str, Any], prefix: str) -> float:
    return sum(key.startswith(prefix) for key in tensors) / max(1, len(tensors))


def _notes(entries: list[str], prefixes: list[str], *, source: str) -> tuple[str, ...]:
    if not entries and not prefixes:
        return ()
    entry = f"its entry {'.'.join(entries)} was read" if entries else "its names were read"
    without = f", without {''.join(prefixes)} before its names" if prefixes and entries else ""
    without = without or (f" without {''.join(prefixes)} before them" if prefixes else "")
    return (f"{source}: {entry}{without}.",)
