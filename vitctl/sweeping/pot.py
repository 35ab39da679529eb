"""Means of weights, and which to average: the arithmetic of Model soups (arXiv 2203.05482), without images.

Letters: C classes, D width, A channels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

Weights = Mapping[str, Tensor]


class Pot:
    """Weights of equal models, to be averaged key by key in float64.

    Attributes:
        count: Models that went in.
    """

    def __init__(self) -> None:
        self.count = 0
        self._first: Weights = {}
        self._sums: dict[str, Tensor] = {}
        self._differing: set[str] = set()

    def with_(self, weights: Weights) -> Self:
        """Return a pot with one model more; this one stays as it is.

        Args:
            weights: By name, each of its own shape, e.g. (C, D); of the names and shapes of those that are in.

        Raises:
            ValueError: They are of another model.
        """
        pot = type(self)()
        pot.count, pot._first = self.count + 1, self._first or weights
        shapes, others = ({name: one.shape for name, one in of.items()} for of in (pot._first, weights))
        if shapes != others:
            raise ValueError(f"names or shapes differ, e.g. of {next(iter(shapes.items() ^ others.items()))[0]}")
        for name, one in weights.items():
            if one.is_floating_point():
                pot._sums[name] = one.double() + self._sums[name] if self.count else one.double()
        pot._differing = self._differing | {name for name, one in weights.items() if not one.equal(pot._first[name])}
        return pot

    def mean(self) -> dict[str, Tensor]:
        """Return the mean, each of its own shape, e.g. (C, D), and dtype; whole numbers are those of the first."""
        return {
            name: (self._sums[name] / self.count).to(one.dtype) if name in self._sums else one
            for name, one in self._first.items()
        }

    def stale_norms(self, model: nn.Module) -> list[_BatchNorm]:
        """Return the BatchNorm layers of ``model`` whose running statistics no longer fit: those that models differ in.

        Those of a layer that was not trained are equal in all, and stay.
        """
        return [
            module
            for name, module in model.named_modules()
            if isinstance(module, _BatchNorm) and f"{name}.running_mean" in self._differing
        ]


class Judged(Protocol):
    """How a mean did."""

    @property
    def loss(self) -> float:
        """Lower is better."""


JudgedT = TypeVar("JudgedT", bound=Judged)


def greedy_soup(
    order: Sequence[int], weights_of: Callable[[int], Weights], judge: Callable[[Pot], JudgedT]
) -> tuple[tuple[int, ...], Pot, JudgedT]:
    """Add models one after the other, and keep each that does not raise the loss (arXiv 2203.05482, recipe 1).

    Args:
        order: One model or more, the best first.
        weights_of: Reads the weights of one.
        judge: Says how a mean does.

    Returns:
        The models that are in, in the order in which they came, their pot, and how it did.
    """
    kept, pot = [order[0]], Pot().with_(weights_of(order[0]))
    found = judge(pot)
    for index in order[1:]:
        candidate = pot.with_(weights_of(index))
        reached = judge(candidate)
        if reached.loss <= found.loss:
            kept.append(index)
            pot, found = candidate, reached
    return tuple(kept), pot, found


@contextmanager
def _in_training(layers: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let ``layers`` gather statistics anew, as their mean over all batches; the rest of a model stays as it is."""
    momenta = [layer.momentum for layer in layers]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean of all batches
            layer.train()
        yield
    finally:
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.eval()


@torch.no_grad()
def recompute_statistics(model: nn.Module, layers: Sequence[_BatchNorm], batches: Iterable[Tensor]) -> None:
    """Compute the running statistics of ``layers`` anew, as ``torch.optim.swa_utils.update_bn`` does.

    Unlike there the other layers stay in evaluation mode, so that nothing is dropped and no frozen layer changes.

    Args:
        model: In evaluation mode.
        layers: Of it.
        batches: (B, 3, H, W) each, B >= 2, on the model's device, in an order that mixes the classes.
    """
    with _in_training(layers):
        for batch in batches:
            model(batch)
