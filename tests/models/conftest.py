"""Models of timm's families without numbers, and what runs when they are shown an image."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn


@dataclass
class Run:
    """A model on meta, and which modules ran, in order, when it saw one image.

    Attributes:
        model: The model.
        paths: Paths of its modules.
        calls: Paths in the order in which they started.
        inputs: Shape of the first argument of a module's first call, by path; () for anything but a tensor.
    """

    model: Any
    paths: dict[nn.Module, str]
    calls: list[str] = field(default_factory=list)
    inputs: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def first(self, module: nn.Module) -> int:
        """Return when a module ran first."""
        return self.calls.index(self.paths[module])


@pytest.fixture(scope="session")
def run_of() -> Callable[..., Run]:
    """Return a function from timm's name of a model, and its arguments, to its run. Not to be changed."""

    @functools.cache
    def run_of(name: str, **arguments: Any) -> Run:
        with torch.device("meta"):
            model = timm.create_model(name, **arguments).eval()
        run = Run(model, {module: path for path, module in model.named_modules()})

        def note(module: nn.Module, args: tuple[Any, ...]) -> None:
            path = run.paths[module]
            run.calls.append(path)
            run.inputs.setdefault(path, tuple(args[0].shape) if args and isinstance(args[0], Tensor) else ())

        handles = [module.register_forward_pre_hook(note) for module in run.paths]
        with torch.no_grad():
            model(torch.empty(1, *model.pretrained_cfg["input_size"], device="meta"))
        for handle in handles:
            handle.remove()
        return run

    return run_of
