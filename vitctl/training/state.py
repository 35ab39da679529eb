"""All that changes in a run.

Order, augmentation and rate of a step are functions of (seed, step), so nothing else has to be known to go on: a run
that starts from another's state after k steps takes the steps that the other would have taken.

Letters: N images, C classes.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.results.finetune import Score

BEFORE = Score(0, None, None)  # of weights that nobody has looked at yet
_MODEL, _OPTIMIZER, _BEST_LOGITS = "model.", "optimizer.", "best.logits"


@dataclass(frozen=True)
class Best:
    """The chosen weights so far.

    Attributes:
        score: How they did.
        logits: (N, C) float32 of the validation images, or None.
    """

    score: Score = BEFORE
    logits: np.ndarray | None = None


@dataclass
class Clock:
    """Where the time of training went, validations not counted.

    Attributes:
        num_images: Images trained on.
        training_s: Seconds of all steps.
        data_s: Those of them spent waiting for images.
    """

    num_images: int = 0
    training_s: float = 0.0
    data_s: float = 0.0

    def count(self, num_images: int, *, step_s: float, data_s: float) -> None:
        """Add a step."""
        self.num_images += num_images
        self.training_s += step_s
        self.data_s += data_s


@dataclass
class TrainingState:
    """What a run has come to.

    Attributes:
        model: Trained in place.
        optimizer: Of its parameters.
        step: Optimiser steps taken.
        last: Score at the last validation.
        best: The chosen weights so far.
        clock: Where the time went.
        scaler: Keeps the gradients of fp16 in its range; None in other precisions.
        micro_batch: Images that a process computes with at a time: what was asked for, or fewer since the memory was
            full; 0 before the first step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    last: Score = BEFORE
    best: Best = field(default_factory=Best)
    clock: Clock = field(default_factory=Clock)
    scaler: torch.amp.GradScaler | None = None
    micro_batch: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the state by name, each of its own shape, e.g. (C, D); not copies.

        The optimiser's are named after its parameters, so that they do not depend on its groups. What it knows beside
        tensors (rates, decay) does not change, or follows from the step.
        """
        found = {f"{_MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, parameter in self.model.named_parameters():
            for key, moment in self.optimizer.state.get(parameter, {}).items():
                found[f"{_OPTIMIZER}{name}.{key}"] = moment
        if self.best.logits is not None:
            found[_BEST_LOGITS] = torch.from_numpy(self.best.logits)
        return found

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state, as JSON takes it."""
        scores = {"last": self.last.as_json(), "best": self.best.score.as_json()}
        return {"step": self.step, **scores, "clock": asdict(self.clock)}

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the state that ``tensors()`` and ``facts()`` were of: one of an equal model and optimiser.

        Args:
            tensors: By name, each of its own shape, e.g. (C, D); they may be on another device.
            facts: As JSON gives them back.
        """
        self.model.load_state_dict(
            {name.removeprefix(_MODEL): tensor for name, tensor in tensors.items() if name.startswith(_MODEL)}
        )
        moments: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(_OPTIMIZER):
                parameter, _, key = name.removeprefix(_OPTIMIZER).rpartition(".")
                moments.setdefault(parameter, {})[key] = tensor.clone()
        names = {parameter: name for name, parameter in self.model.named_parameters()}
        order = [names[parameter] for group in self.optimizer.param_groups for parameter in group["params"]]
        own = self.optimizer.state_dict()  # torch numbers the parameters through all groups
        own["state"] = {index: moments[name] for index, name in enumerate(order) if name in moments}
        self.optimizer.load_state_dict(own)
        logits = tensors.get(_BEST_LOGITS)
        self.step, self.last = facts["step"], Score(**facts["last"])
        self.best = Best(Score(**facts["best"]), None if logits is None else logits.numpy())
        self.clock = Clock(**facts["clock"])
