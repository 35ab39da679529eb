"""Means of a model's weights along a run, which are validated and saved beside the last ones.

What is trained is averaged, and the floating-point buffers of ``state_dict`` (running statistics of BatchNorm are
averaged, not computed anew); whole numbers and frozen weights are the model's own. All processes hold equal weights, so
each computes the mean for itself. The sums are float32, as the weights are.

Letters: d decay, t steps so far, m sum, w weights.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.recipes.sections import Averaging
from vitctl.results.finetune import Score

AVERAGED = "average"
"""The folder of a run for such a mean."""


class Average(ABC):
    """A mean of the weights of ``model``, which goes on being trained.

    Attributes:
        count: Weights that went into it: steps, or validations.
        score: How it did when it was last looked at; None before.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._tensors: dict[str, Tensor] = {}
        self.count = 0
        self.score: Score | None = None

    def start(self) -> None:
        """Look up what is averaged; the model is where it will be trained. Done twice it changes nothing."""
        if not self._tensors:
            found = self._model.state_dict(keep_vars=True)
            once = {id(one): name for name, one in reversed(found.items()) if _is_averaged(one)}  # weights may be tied
            self._tensors = {name: one for name, one in found.items() if once.get(id(one)) == name}
            self._begin()

    @abstractmethod
    def _begin(self) -> None:
        """Be what it is before the first step."""

    @abstractmethod
    def after_step(self) -> None:
        """Take in the weights after an optimiser step; one that fp16 skipped counts too, as timm's does."""

    @abstractmethod
    def after_validation(self, step: int) -> None:
        """Take in the weights that are looked at after ``step``; once, though a validation was broken off."""

    @abstractmethod
    def _means(self) -> list[Tensor]:
        """Return the mean of each averaged tensor, of its shape, e.g. (C, D), dtype and device; new ones."""

    def weights(self) -> dict[str, Tensor]:
        """Return the mean under the model's own names, each of its own shape, e.g. (C, D), with what is not averaged.

        Once it has a ``count``.
        """
        means = {id(one): mean for one, mean in zip(self._tensors.values(), self._means(), strict=True)}
        own = self._model.state_dict(keep_vars=True)
        return {name: means.get(id(one), one.detach()) for name, one in own.items()}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let the model have the mean for as long as the block runs, and after it the very tensors that it had."""
        averaged = list(self._tensors.values())
        own = [one.data for one in averaged]
        try:
            for tensor, mean in zip(averaged, self._means(), strict=True):
                tensor.data = mean
            yield
        finally:
            for tensor, data in zip(averaged, own, strict=True):
                tensor.data = data

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what it goes on from, by name, each of its own shape, e.g. (C, D); not copies."""

    def facts(self) -> dict[str, Any]:
        """Return the rest of that, as JSON takes it."""
        return {"count": self.count, "score": None if self.score is None else self.score.as_json()}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the average that ``tensors()``, (C, D) for instance, and ``facts()`` were of; of an equal model.

        Raises:
            KeyError: They are of another.
        """
        self.start()
        self.count = facts["count"]
        self.score = None if facts["score"] is None else Score(**facts["score"])
        if self.count:  # else nothing was kept yet
            self._restore(tensors)

    @abstractmethod
    def _restore(self, tensors: Mapping[str, Tensor]) -> None: ...


class RunningAverage(Average):
    """m <- d m + (1 - d) w after every step.

    As ``ema`` the sum begins at zero and the mean is m / (1 - d^t) (arXiv 1412.6980, section 3; for weights arXiv
    2411.18704), so that the starting weights are none of it: timm's ``ModelEmaV3`` begins at these, or shortens the
    memory at first. As ``polyak`` the sum begins at the starting weights and is the mean itself (arXiv 2010.11929,
    appendix B.1.1): d^t of it are still these after t steps.

    Args:
        model: Trained elsewhere.
        decay: d, above 0 to below 1.
        is_corrected: Whether it is ``ema``.
    """

    def __init__(self, model: nn.Module, decay: float, *, is_corrected: bool) -> None:
        super().__init__(model)
        self._decay, self._is_corrected = decay, is_corrected
        self._sums: dict[str, Tensor] = {}

    @torch.no_grad()
    def _begin(self) -> None:
        begin = torch.zeros_like if self._is_corrected else torch.clone
        self._sums = {name: begin(one.detach().float()) for name, one in self._tensors.items()}

    @torch.no_grad()
    def after_step(self) -> None:
        """Take in the weights after a step."""
        self.count += 1
        own = [one.detach().float() for one in self._tensors.values()]  # no copies of float32
        torch._foreach_lerp_(list(self._sums.values()), own, 1 - self._decay)

    def after_validation(self, step: int) -> None:
        """Do nothing: they are in it already."""

    def _means(self) -> list[Tensor]:
        share = -math.expm1(self.count * math.log(self._decay)) if self._is_corrected else 1.0
        pairs = zip(self._tensors.values(), self._sums.values(), strict=True)
        return [(total / share).to(one.dtype) for one, total in pairs]

    def tensors(self) -> dict[str, Tensor]:
        """Return the sums, each of its tensor's shape, e.g. (C, D)."""
        return dict(self._sums)

    @torch.no_grad()
    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        for name, total in self._sums.items():
            total.copy_(tensors[name])


class LatestAverage(Average):
    """The mean of the weights at the last validations, each of which is kept in the computer's memory.

    Args:
        model: Trained elsewhere.
        most: How many validations, >= 1.
    """

    def __init__(self, model: nn.Module, most: int) -> None:
        super().__init__(model)
        self._most = most
        self._kept: dict[int, dict[str, Tensor]] = {}  # by step, oldest first

    def _begin(self) -> None:
        self._kept = {}

    def after_step(self) -> None:
        """Do nothing: weights between validations are none of it."""

    def after_validation(self, step: int) -> None:
        """Keep the weights after ``step``, and none that are older than the newest ``most``."""
        if step in self._kept:
            return
        self._kept[step] = {name: one.detach().to("cpu", copy=True) for name, one in self._tensors.items()}
        self._kept = dict(list(self._kept.items())[-self._most :])
        self.count = len(self._kept)

    def _means(self) -> list[Tensor]:
        return [
            torch.stack([kept[name].double() for kept in self._kept.values()]).mean(dim=0).to(one)
            for name, one in self._tensors.items()
        ]

    def tensors(self) -> dict[str, Tensor]:
        """Return what is kept, ``STEP.NAME``, each of its tensor's shape, e.g. (C, D)."""
        return {f"{step}.{name}": one for step, kept in self._kept.items() for name, one in kept.items()}

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        kept: dict[int, dict[str, Tensor]] = {}
        for key, one in tensors.items():
            step, _, name = key.partition(".")
            kept.setdefault(int(step), {})[name] = one
        self._kept = dict(sorted(kept.items()))


def build_average(model: nn.Module, how: Averaging) -> Average | None:
    """Return the average that a recipe asks for, of ``model``; None where it asks for none."""
    if how.method == "none":
        return None
    if how.method == "validations":
        return LatestAverage(model, how.k)
    return RunningAverage(model, how.decay, is_corrected=how.method == "ema")


def averaging_told(how: Averaging, num_steps: int) -> tuple[str, str]:
    """Return what is averaged in a run of ``num_steps``, and what that means."""
    if how.method == "validations":
        weights = "the weights" if how.k == 1 else f"the mean of the weights at the last {how.k}"
        return f"validations, k {how.k}", f"average/ is {weights}, validated beside them"
    value = f"{how.method}, decay {how.decay:g}"
    if how.method == "polyak":
        return value, f"{how.decay**num_steps:.0%} of average/ will still be the starting weights"
    half = math.log(2) / -math.log(how.decay)
    return value, f"half of average/ will be of the last {half:,.0f} steps" if half < num_steps else (
        "average/ will be nearly the plain mean of all steps"
    )


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and (tensor.requires_grad or not isinstance(tensor, nn.Parameter))
