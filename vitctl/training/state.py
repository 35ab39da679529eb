"""All that changes in a run.

Order, augmentation, noise and rate of a step are functions of (seed, step), so nothing else has to be known to go on: a
run that starts from another's state after k steps takes the steps that the other would have taken.

Letters: N images, C classes.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.results.finetune import LinearProbe, Score
from vitctl.training.averaging import Average
from vitctl.training.ends import Patience
from vitctl.training.optimizer_state import optimizer_state, restore_optimizer

BEFORE = Score(0, None, None)  # of weights that nobody has looked at yet
MODEL, OPTIMIZER, BEST, AVERAGE = "model.", "optimizer.", "best.", "average."
"""What the names of the state's tensors begin with: four parts, each a file of a checkpoint."""
_LOGITS = "logits"


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
    """Where the time of a run went, over all its restarts.

    Attributes:
        num_images: Images trained on.
        training_s: Seconds of all steps, validations not counted.
        data_s: Those of them spent waiting for images.
        earlier_s: Seconds from start to end, in processes before this one.
        started: When this process began, by ``time.perf_counter``; of no other process.
    """

    num_images: int = 0
    training_s: float = 0.0
    data_s: float = 0.0
    earlier_s: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def count(self, num_images: int, *, step_s: float, data_s: float) -> None:
        """Add a step."""
        self.num_images += num_images
        self.training_s += step_s
        self.data_s += data_s

    @property
    def wall_s(self) -> float:
        """Seconds from start until now."""
        return self.earlier_s + time.perf_counter() - self.started

    def as_json(self) -> dict[str, float]:
        """Return what the next process goes on from."""
        known = asdict(self) | {"earlier_s": self.wall_s}
        del known["started"]
        return known


@dataclass
class TrainingState:
    """What a run has come to.

    Attributes:
        model: The model as it is now.
        optimizer: Of its parameters, with what it remembers of their gradients.
        step: Optimiser steps taken.
        last: How the weights did when they were last looked at.
        best: The chosen weights so far.
        clock: Where the time went; no part of what repeats.
        linear_probe: The closed-form head that training started from, if any.
        scaler: Keeps the gradients of fp16 in its range; None in other precisions.
        micro_batch: Images that a process computes with at a time: what was asked for, or fewer since the memory was
            full; 0 before the first step.
        average: A mean of the weights along the way; None where none was asked for.
        patience: Validations without progress; None where they are without effect.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    last: Score = BEFORE
    best: Best = field(default_factory=Best)
    clock: Clock = field(default_factory=Clock)
    linear_probe: LinearProbe | None = None
    scaler: torch.amp.GradScaler | None = None
    micro_batch: int = 0
    average: Average | None = None
    patience: Patience | None = None

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors of the state by name, each of its own shape, e.g. (C, D); not copies.

        The optimiser's are named after its parameters, so that they do not depend on its groups.
        """
        found = {f"{MODEL}{name}": tensor for name, tensor in self.model.state_dict().items()}
        found |= {f"{OPTIMIZER}{key}": tensor for key, tensor in optimizer_state(self.model, self.optimizer)[0].items()}
        if self.best.logits is not None:
            found[f"{BEST}{_LOGITS}"] = torch.from_numpy(self.best.logits)
        if self.average is not None:
            found |= {f"{AVERAGE}{name}": tensor for name, tensor in self.average.tensors().items()}
        return found

    def facts(self) -> dict[str, Any]:
        """Return the rest of the state, as JSON takes it."""
        return {
            "step": self.step,
            "last": self.last.as_json(),
            "best": self.best.score.as_json(),
            "clock": self.clock.as_json(),
            "linear_probe": None if self.linear_probe is None else self.linear_probe.as_json(),
            "optimizer": optimizer_state(self.model, self.optimizer)[1],
            "micro_batch": self.micro_batch,
            "scaler": None if self.scaler is None else self.scaler.state_dict(),
            "average": None if self.average is None else self.average.facts(),
            "patience": None if self.patience is None else self.patience.facts(),
        }

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Become the state that ``tensors()`` and ``facts()`` were of: one of an equal model and optimiser.

        Args:
            tensors: By name, each of its own shape, e.g. (C, D); they may be on another device, and are kept.
            facts: As JSON gives them back.

        Raises:
            ModelError: They are of another model or optimiser.
        """
        try:
            self.model.load_state_dict(_part(tensors, MODEL))
        except RuntimeError as error:
            raise ModelError(f"The weights are of another model: {str(error).splitlines()[-1].strip()}") from error
        restore_optimizer(self.model, self.optimizer, _part(tensors, OPTIMIZER), facts["optimizer"])
        logits = tensors.get(f"{BEST}{_LOGITS}")
        probe = facts["linear_probe"]
        self.step, self.last = facts["step"], Score(**facts["last"])
        self.best = Best(Score(**facts["best"]), None if logits is None else logits.numpy())
        self.clock = Clock(**facts["clock"], started=self.clock.started)
        self.linear_probe = None if probe is None else LinearProbe(**probe)
        self.micro_batch = facts["micro_batch"]
        if self.scaler is not None:
            self.scaler.load_state_dict(facts["scaler"])
        if self.average is not None:
            self.average.restore(_part(tensors, AVERAGE), facts["average"])
        if self.patience is not None:
            self.patience.restore(facts["patience"])


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
