"""Similarity of layers by CKA, within a model or across two, streaming over minibatches (R, figures 1, 2 and 12).

Letters: A B layers, n images in a minibatch (a batch of B), M pairs of images.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.errors import DataError, SettingError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.hsic import LEAST_IMAGES, CkaSums, Spread, gram_matrix, pair_vectors
from vitctl.inspecting.representations import Layers, find_layers, select_tokens, visit_layers
from vitctl.inspecting.subject import ImageStream, Subject

_MOST_ROWS = 16  # of the table on the screen


@dataclass(frozen=True)
class MinibatchPlan:
    """Which images CKA is computed from.

    Attributes:
        size: Images in each minibatch, >= 4.
        num_minibatches: How many there are.
        num_dropped: Images that do not fill one.
        notes: Sentences about it.
    """

    size: int
    num_minibatches: int
    num_dropped: int
    notes: tuple[str, ...]

    @property
    def num_used(self) -> int:
        """Images used."""
        return self.size * self.num_minibatches

    @property
    def facts(self) -> dict[str, int]:
        """The plan, for JSON."""
        return {
            "num_minibatches": self.num_minibatches,
            "minibatch": self.size,
            "num_images_used": self.num_used,
            "num_images_dropped": self.num_dropped,
        }

    def batches(self, streams: Sequence[ImageStream], conversation: Conversation) -> Iterator[tuple[Tensor, ...]]:
        """Yield every minibatch as each stream's model is shown it, (B, 3, H, W) each, while a bar runs."""
        parts = [stream.first(self.num_used).batches(self.size) for stream in streams]
        with conversation.progress("Comparing layers", self.num_used, "images") as bar:
            for images in zip(*parts, strict=True):
                yield images
                bar.advance(self.size)


def plan_minibatches(num_images: int, minibatch: int) -> MinibatchPlan:
    """Return how to cut images into minibatches of one size.

    Args:
        num_images: Images there are.
        minibatch: Wanted size, >= 4; fewer images make one smaller minibatch.

    Raises:
        SettingError: A minibatch of fewer than four.
        DataError: Fewer than four images.
    """
    if minibatch < LEAST_IMAGES:
        raise SettingError(
            f"--minibatch is {minibatch}; expected {LEAST_IMAGES} or more, as unbiased CKA compares pairs of pairs of "
            "images. Try 64.",
            field="minibatch",
        )
    if num_images < LEAST_IMAGES:
        raise DataError(
            f"There are too few images for CKA: {num_images}; expected {LEAST_IMAGES} or more, better 256. Try more "
            "with --num-images, or another --data."
        )
    if num_images < minibatch:
        note = f"There are {num_images} images only, one minibatch of {num_images} instead of {minibatch}."
        return MinibatchPlan(num_images, 1, 0, (note,))
    count, dropped = divmod(num_images, minibatch)
    last = "The last image was" if dropped == 1 else f"The last {dropped} images were"
    notes = (f"{last} left out: too few for a minibatch of {minibatch}.",) * bool(dropped)
    return MinibatchPlan(minibatch, count, dropped, notes)


def check_same_images(streams: Sequence[ImageStream]) -> None:
    """Check that all streams show the same images in the same order.

    Raises:
        DataError: They do not: similarity between models would be meaningless.
    """
    names = [stream.names() for stream in streams]
    for others in names[1:]:
        if others != names[0]:
            pairs = zip(names[0], others, strict=False)
            position = next((index for index, pair in enumerate(pairs) if pair[0] != pair[1]), None)
            found = (
                f"{len(names[0])} and {len(others)} images"
                if position is None
                else f"{names[0][position]} and {others[position]} at position {position}"
            )
            raise DataError(
                f"The two models would be shown different images, {found}; expected the same images in the same order. "
                "Use one --data for both."
            )


def cka(
    subjects: Sequence[Subject],
    streams: Sequence[ImageStream],
    *,
    granularity: str = "block",
    tokens: str = "all",
    minibatch: int = 64,
    diagonal: bool = False,
    conversation: Conversation,
) -> Findings:
    """Return CKA between the layers of a model, or of two (R, section 4: linear kernel, unbiased, minibatches).

    Args:
        subjects: One model, or two.
        streams: The same images in the same order, as each model is shown them.
        granularity: ``block`` or ``sublayer``; see ``find_layers``.
        tokens: ``all``, ``cls``, ``patches`` or ``mean``; see ``select_tokens``.
        minibatch: n, >= 4; the model is shown as many at a time. The estimate does not depend on it systematically.
        diagonal: Compares each layer of one model with the same layer of the other only, such as before and after
            fine-tuning.
        conversation: Shows progress.

    Raises:
        SettingError: A choice that the models do not have, such as ``cls`` without class tokens.
        DataError: Fewer than four images, or different images for the two models.
        ModelError: A model whose layers cannot be taken.
    """
    if diagonal and len(subjects) != 2:
        raise SettingError(
            "--diagonal compares two models; expected a second one. Add it with --model.", field="diagonal"
        )
    check_same_images(streams)
    plan = plan_minibatches(len(streams[0]), minibatch)
    layers = [find_layers(subject, granularity) for subject in subjects]
    for found in layers:
        found.check_tokens(tokens)
    if diagonal:
        _check_same_layers(layers)
    similarities = _Similarities(len(subjects), is_paired=diagonal)
    for images in plan.batches(streams, conversation):
        vectors = [
            layer_vectors(subject, found, part, tokens)
            for subject, found, part in zip(subjects, layers, images, strict=True)
        ]
        similarities.add(vectors, num_images=plan.size)
    facts = {
        **plan.facts,
        "kinds": [one.kind for one in subjects],
        "granularity": granularity,
        "tokens": tokens,
        "is_diagonal": diagonal,
    }
    return _findings(similarities, layers, facts, [*plan.notes, *_notes_on_layers(layers)])


def layer_vectors(subject: Subject, layers: Layers, images: Tensor, tokens: str) -> Tensor:
    """Return the pair vectors of every layer for one minibatch; of activations only one layer's are held.

    Args:
        subject: The model.
        layers: Found for it.
        images: (B, 3, H, W), B = n.
        tokens: See ``select_tokens``.

    Returns:
        (A, M) float64.
    """
    num_images = len(images)
    vectors = torch.empty(len(layers.sites), num_images * (num_images - 1) // 2, dtype=torch.float64)

    def _keep(index: int, output: Tensor) -> None:
        vectors[index] = pair_vectors(gram_matrix(select_tokens(output, layers.sites[index], tokens)))

    visit_layers(subject, layers, images, _keep)
    return vectors


def _check_same_layers(layers: Sequence[Layers]) -> None:
    first, second = layers
    if first.names != second.names:
        raise SettingError(
            f"--diagonal compares layers of the same name, but {first.model_name} has {len(first.names)} "
            f"({first.names[0]} to {first.names[-1]}) and {second.model_name} {len(second.names)} ({second.names[0]} "
            f"to {second.names[-1]}); expected one architecture. Leave --diagonal out.",
            field="diagonal",
        )


class _Similarities:
    """CKA of every pair of models that is asked for: of one with itself; of two with each other, and of each."""

    def __init__(self, num_subjects: int, *, is_paired: bool) -> None:
        self._pairs = [(0, num_subjects - 1)]
        if num_subjects == 2 and not is_paired:
            self._pairs += [(0, 0), (1, 1)]
        self._sums = [CkaSums(is_paired) for _ in self._pairs]
        self._spread = Spread()

    def add(self, vectors: Sequence[Tensor], *, num_images: int) -> None:
        """Add a minibatch: (A, M) pair vectors of each model."""
        for index, (sums, (first, second)) in enumerate(zip(self._sums, self._pairs, strict=True)):
            own = sums.add(vectors[first], vectors[second], num_images=num_images)
            if not index:
                self._spread.add(own)

    @property
    def maps(self) -> list[np.ndarray]:
        """The map that was asked for, then the models' own where there are two, (A, B) float64 each."""
        return [sums.cka for sums in self._sums]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation over minibatches, of the shape (A, ...) of the first map."""
        return self._spread.deviation

    @property
    def constant(self) -> list[np.ndarray]:
        """Which layers of each model do not vary over the images, (A,) bool each."""
        sums = self._sums[0]
        return [~(sums.first > 0), ~(sums.second > 0)]


def _findings(
    similarities: _Similarities, layers: Sequence[Layers], facts: dict[str, Any], notes: list[str]
) -> Findings:
    maps, constant = similarities.maps, similarities.constant
    is_diagonal = bool(facts["is_diagonal"])
    own_maps = [] if is_diagonal else (maps[1:] if len(layers) == 2 else maps)
    names = [np.array(found.names, dtype=str) for found in layers]
    arrays = {"cka": maps[0], "batch_spread": similarities.spread, "layers_1": names[0]}
    if len(layers) == 2:
        arrays["layers_2"] = names[1]
        arrays |= {f"cka_self_{position}": own for position, own in enumerate(own_maps, start=1)}
    undefined = [
        f"{found.model_name}: {name}" if len(layers) == 2 else str(name)
        for found, is_constant in zip(layers, constant, strict=False)
        for name in np.array(found.names)[is_constant]
    ]
    facts = facts | {
        "models": [found.model_name for found in layers],
        "mean_off_diagonal": [_mean(own[~np.eye(len(own), dtype=bool)]) for own in own_maps],
        "low_high_similarity": [_low_high(own) for own in own_maps],
        "mean_diagonal": _mean(maps[0]) if is_diagonal else None,
        "num_undefined": int(np.isnan(maps[0]).sum()),
        "undefined_layers": undefined,
    }
    header, rows = _table(maps[0], layers, facts)
    notes = notes + _notes_on_undefined(undefined)
    return Findings(arrays, _meanings(arrays, is_diagonal=is_diagonal), facts, header, rows, notes)


def _mean(values: np.ndarray) -> float | None:
    defined = values[~np.isnan(values)]
    return finite(defined.mean()) if defined.size else None


def _low_high(own: np.ndarray) -> float | None:
    """Return the mean CKA between the first third of a model's layers and the last third."""
    third = max(len(own) // 3, 1)
    return _mean(own[:third, -third:])


def _meanings(arrays: dict[str, np.ndarray], *, is_diagonal: bool) -> dict[str, str]:
    meanings = {
        "cka": "(A, B) unbiased linear CKA of the first model's layers with those of the second (or its own), near 0 "
        "to 1; NaN where a layer does not vary.",
        "batch_spread": "(A, ...) like cka: standard deviation over minibatches of CKA from each alone; NaN for one.",
        "layers_1": "(A,) names of the first model's layers.",
        "layers_2": "(B,) names of the second model's layers.",
        "cka_self_1": "(A, A) unbiased linear CKA of the first model's layers with each other.",
        "cka_self_2": "(B, B) unbiased linear CKA of the second model's layers with each other.",
    }
    if is_diagonal:
        meanings["cka"] = (
            "(A,) unbiased linear CKA of each layer of the first model with that layer of the second, near 0 to 1; NaN "
            "where a layer does not vary."
        )
    return {name: meanings[name] for name in arrays}


def _table(
    similarity: np.ndarray, layers: Sequence[Layers], facts: dict[str, Any]
) -> tuple[list[str], list[list[str]]]:
    if len(layers) == 1:
        means = (facts["mean_off_diagonal"][0], facts["low_high_similarity"][0])
        row = [layers[0].model_name, str(len(layers[0].names)), *map(_shown, means)]
        return ["model", "layers", "mean CKA of two layers", "of first and last third"], [row]
    chosen = sorted({round(step) for step in np.linspace(0, len(similarity) - 1, _MOST_ROWS)})
    if facts["is_diagonal"]:
        return ["layer", "CKA"], [[layers[0].names[index], _shown(similarity[index])] for index in chosen]
    rows = []
    for index in chosen:
        values = np.where(np.isnan(similarity[index]), -np.inf, similarity[index])
        best = int(values.argmax())
        nearest = layers[1].names[best] if np.isfinite(values[best]) else "-"
        rows.append([layers[0].names[index], nearest, _shown(similarity[index, best])])
    return [f"layer of {layers[0].model_name}", f"most similar of {layers[1].model_name}", "CKA"], rows


def _shown(value: float | None) -> str:
    return "-" if value is None or not np.isfinite(value) else f"{value:.3f}"


def _notes_on_layers(layers: Sequence[Layers]) -> list[str]:
    return [
        f"{len(found.left_out)} blocks of {found.model_name} (such as {found.left_out[0]}) give something else than "
        "one tensor for every image and are left out."
        for found in layers
        if found.left_out
    ]


def _notes_on_undefined(undefined: Sequence[str]) -> list[str]:
    listed = ", ".join(undefined[:5]) + (", ..." if len(undefined) > 5 else "")
    return [f"CKA is not defined for layers that are the same for every image: {listed}."] * bool(undefined)
