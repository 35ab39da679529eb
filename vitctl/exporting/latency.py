"""How long one forward pass takes, several ways side by side.

Letters: B images, H W px.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.results.export import Latency, Timing

BATCH_SIZES = (1, 8)  # the fields of Latency
NUM_TURNS, NUM_WARM_UP, LEAST_ROUNDS, MOST_ROUNDS = 5, 3, 20, 200
LONG_ENOUGH_S = 3.0  # per batch size and way


@dataclass(frozen=True)
class Contender:
    """A way to run the model.

    Attributes:
        run: Takes one batch.
        batch: From B to such a batch.
    """

    run: Callable[[Tensor], Any]
    batch: Callable[[int], Tensor]


def measure_latencies(contenders: Mapping[str, Contender], *, conversation: Conversation) -> dict[str, Latency]:
    """Return what one forward pass takes for every contender, measured in five turns so that all see the same machine.

    Each is run at least 20 times, at most 200 times, for about 3 s; three runs that do not count begin every turn.
    """
    timings: dict[str, list[Timing]] = {name: [] for name in contenders}
    with conversation.progress("timing", len(contenders) * len(BATCH_SIZES), "measurements") as bar:
        for size in BATCH_SIZES:
            batches = {name: contender.batch(size) for name, contender in contenders.items()}
            warm = {
                name: min(_seconds(contenders[name], batches[name]) for _ in range(NUM_WARM_UP)) for name in contenders
            }
            rounds = int(np.clip(LONG_ENOUGH_S / max(*warm.values(), 1e-6), LEAST_ROUNDS, MOST_ROUNDS))
            times: dict[str, list[float]] = {name: [] for name in contenders}
            for _ in range(NUM_TURNS):
                for name, contender in contenders.items():
                    for _ in range(NUM_WARM_UP):  # the threads of the one before are still waiting for work
                        _seconds(contender, batches[name])
                    times[name] += [_seconds(contender, batches[name]) for _ in range(-(-rounds // NUM_TURNS))]
            for name, taken in times.items():
                timings[name].append(_summary(taken, size))
                bar.advance()
    return {name: Latency(*of_sizes) for name, of_sizes in timings.items()}


def _seconds(contender: Contender, batch: Tensor) -> float:
    start = time.perf_counter()
    contender.run(batch)
    return time.perf_counter() - start


def _summary(seconds: list[float], size: int) -> Timing:
    middle, late = (float(np.percentile(seconds, share)) for share in (50, 95))
    return Timing(p50=round(middle * 1000, 4), p95=round(late * 1000, 4), images_per_s=round(size / middle, 2))
