"""Whether an export behaves like its source: on real images, through its own preprocessing, at several sizes.

Letters: N images, B in a batch, C classes, H W px.
"""

import copy
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.source import Split, lost_image
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting.graph import GraphModel, first_line
from vitctl.exporting.npz import with_tanh_gelu
from vitctl.exporting.opened import OpenedExport, Run, run_of_module
from vitctl.exporting.source import Source
from vitctl.models.geometry import change_resolution
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.out_of_memory import is_out_of_memory
from vitctl.results.export import Verification

TOLERANCES = {"fp32": 1e-4, "fp16": 1e-2, "int8-dynamic": None}
"""Largest difference allowed, times max(1, largest |logit|); None where accuracy decides."""
LEAST_COSINE = {"fp32": -1.0, "fp16": -1.0, "int8-dynamic": 0.9}
"""Between an image's output and the source's, for every output. A guess: 8-bit ViTs keep above 0.99 (demo: 0.999)."""
BATCH_SIZES = (1, 3)
NUM_SINGLE = 8  # real images also shown one at a time
NUM_RESIZED = 12  # real images also shown at a second size
NUM_NOISE = 6
NOISE_SIZES = ((24, 24), (57, 31), (40, 96))  # H W px
MAX_LEVELS = 1.0  # of 255, by which resizing inside the graph may differ from Pillow's
SOFT = 1e-3  # of a level, for the float32 of normalising and back


@dataclass(frozen=True)
class RealImages:
    """Images to verify on.

    Attributes:
        read: From a position to an 8-bit RGB image.
        positions: Those to use, in order.
        labels: Position of the true class by position; None where the images' classes are not the model's.
    """

    read: Callable[[int], Image.Image]
    positions: tuple[int, ...]
    labels: dict[int, int] | None


def real_images(
    split: Split, positions: Sequence[int], *, use_labels: bool, max_value: int | None = None
) -> RealImages:
    """Return those images of ``split``, with its labels where they are the model's classes.

    Images of 16 bits become RGB by ``max_value``; see ``vitctl.data.images.to_rgb``.

    Reading one raises DataError where it is damaged or gone.
    """

    def read(position: int) -> Image.Image:
        try:
            return split.read(position, max_value=max_value)
        except Exception as error:  # a decoder raises whatever damaged bytes provoke
            raise lost_image(split, position, error) from error

    labels = {position: int(split.labels[position]) for position in positions} if use_labels else None
    return RealImages(read, tuple(positions), labels)


@dataclass(frozen=True)
class Candidate:
    """An export to verify.

    Attributes:
        format: ``onnx``, ``pt2``...
        precision: ``fp32``, ``fp16``, ``int8-dynamic``.
        opened: Opened from its files.
        sizes: (H, W) px to run it at, the model's own first.
        raw_twin: Where the graph takes raw images: the same graph in torch, its ``preprocessing`` included.
        must_refuse: Image sizes, (H, W) px, that the graph must not take.
        has_every_output: Whether all outputs of the source are to be there, not only the first.
    """

    format: str
    precision: str
    opened: OpenedExport
    sizes: tuple[tuple[int, int], ...]
    raw_twin: GraphModel | None = None
    must_refuse: tuple[tuple[int, int], ...] = ()
    has_every_output: bool = False


@dataclass(frozen=True)
class Verdict:
    """What verification found.

    Attributes:
        verification: For ``export.json``; None where it could not be run at all.
        complaint: What is wrong, None where the export passes.
    """

    verification: Verification | None
    complaint: str | None


@dataclass
class _Tally:
    """What was seen of one candidate."""

    reference: list[np.ndarray] = field(default_factory=list)
    found: list[np.ndarray] = field(default_factory=list)
    max_abs: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    largest: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    cosines: dict[str, float] = field(default_factory=lambda: defaultdict(lambda: 1.0))
    max_rel: float = 0.0
    levels_max: float = 0.0
    levels_sum: float = 0.0
    num_levels: int = 0
    own_answers: list[bool] = field(default_factory=list)
    overflowing: str | None = None

    def compare(self, reference: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> None:
        """Add the outputs of one batch, (B, C) and others; ``found`` may lack those its format has no place for."""
        first = next(iter(reference))
        for name, expected in reference.items():
            if name not in found:
                continue
            got = found[name]
            if got.shape != expected.shape:
                raise ValueError(f"output {name} has shape {got.shape}, the source's is {expected.shape}")
            self.max_abs[name] = max(self.max_abs[name], _largest(got - expected))
            self.largest[name] = max(self.largest[name], _largest(expected))
            for one, other in zip(expected.astype(np.float64), got.astype(np.float64), strict=True):
                self.cosines[name] = min(self.cosines[name], _cosine(one.ravel(), other.ravel()))
                if name == first:
                    self.max_rel = max(self.max_rel, _relative(one, other))

    def compare_levels(self, one: Tensor, other: Tensor, *, std: Sequence[float]) -> None:
        """Add the difference of normalised images, (3, H, W) or (B, 3, H, W), in levels of 255."""
        scale = torch.tensor(std, dtype=torch.float64).reshape(3, 1, 1) * 255
        levels = ((one - other).double() * scale).abs()
        self.levels_max = max(self.levels_max, float(levels.max()))
        self.levels_sum += float(levels.sum())
        self.num_levels += levels.numel()


def _first_not_finite(values: dict[str, np.ndarray]) -> str | None:
    """Return the name of the first array, of any shape (B, ...), that holds NaN or infinity."""
    return next((name for name, array in values.items() if not np.isfinite(array).all()), None)


def _largest(values: np.ndarray) -> float:
    """Return the largest magnitude; infinity where something is no number."""
    if not np.isfinite(values).all():
        return float("inf")
    return float(np.abs(values).max(initial=0.0))


def _relative(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest difference of two arrays (C,) over the largest magnitude of the first."""
    scale, difference = float(np.abs(one).max()), _largest(other - one)
    return difference / scale if scale > 0 else (float("inf") if difference else 0.0)


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the cosine of two vectors (C,); 1 where both are zero, -1 where one is no number."""
    if not np.isfinite(other).all():
        return -1.0
    norms = float(np.linalg.norm(one) * np.linalg.norm(other))
    if norms == 0:
        return 1.0 if np.array_equal(one, other) else 0.0
    return float(np.clip(one @ other / norms, -1.0, 1.0))


@dataclass(frozen=True)
class _Batch:
    """Images that are shown together.

    Attributes:
        images: B of them, RGB.
        positions: Of the real ones; None for noise.
        is_single_too: Whether they are due one at a time as well.
        is_resized_too: Whether they are due at the further sizes as well.
    """

    images: tuple[Image.Image, ...]
    positions: tuple[int | None, ...]
    is_single_too: bool
    is_resized_too: bool

    def pixels(self, transform: Callable[[Image.Image], Tensor]) -> Tensor:
        """Return (B, 3, H, W) float32."""
        return torch.stack([transform(image) for image in self.images])


class Verifier:
    """Shows the same images to a source and to its exports.

    Args:
        source: What they must behave like.
        outputs: Of the source, in order; the first decides.
        sizes: (H, W) px that any export is to be shown images at.
    """

    def __init__(self, source: Source, outputs: Sequence[str], sizes: Sequence[tuple[int, int]]) -> None:
        self._source, self._outputs = source, tuple(outputs)
        self._runs = {size: self._source_at(size) for size in dict.fromkeys((source.preprocessing.image_size, *sizes))}

    def _source_at(self, size: tuple[int, int]) -> Run:
        """Return the source at another size as ``finetune`` and ``evaluate`` would bring it there."""
        model = self._source.model
        if size != self._source.preprocessing.image_size:
            model = copy.deepcopy(model)
            change_resolution(model, size, method=self._source.interpolation.value, name=self._source.name)
        return run_of_module(GraphModel(model, self._outputs).eval(), self._outputs)

    def verify(
        self,
        candidates: Sequence[Candidate],
        images: RealImages,
        *,
        max_accuracy_drop: float,
        conversation: Conversation,
    ) -> list[Verdict]:
        """Return a verdict on each candidate.

        Args:
            candidates: Opened exports.
            images: Real images; noise is added.
            max_accuracy_drop: Of a reduced precision, 0-1: the accuracy it may lose (where the images have no
                labels, the share of answers that may change).
            conversation: Shows progress.

        Raises:
            DataError: An image cannot be read any more.
        """
        tallies = [_Tally() for _ in candidates]
        reasons: list[str | None] = [None] * len(candidates)
        with conversation.progress("verifying", len(images.positions) + NUM_NOISE, "images") as bar:
            for batch in _batches(images):
                pixels = batch.pixels(EvaluationTransform(self._source.preprocessing))
                reference = self._runs[self._source.preprocessing.image_size](pixels)
                self._check_source(reference)
                for index, candidate in enumerate(candidates):
                    if reasons[index] is None:
                        try:
                            self._show(candidate, tallies[index], batch, pixels, reference)
                        except Exception as error:  # runtimes raise whatever a bad graph provokes
                            if is_out_of_memory(error):
                                raise
                            reasons[index] = f"it cannot be run ({first_line(error)})"
                bar.advance(len(batch.images))
        return [
            self._judge(candidate, tally, images, reason, max_accuracy_drop)
            for candidate, tally, reason in zip(candidates, tallies, reasons, strict=True)
        ]

    def _check_source(self, reference: dict[str, np.ndarray]) -> None:
        for name, values in reference.items():
            if not np.isfinite(values).all():
                raise ModelError(
                    f"The {name} of {self._source.name} itself are no numbers on some images (NaN or infinity); its "
                    "weights cannot be used. Nothing was written."
                )

    def tanh_gelu_gap(self, images: RealImages) -> float | None:
        """Return by how much the first output changes under the tanh form of GELU, which Google's Flax models have.

        On a dozen real images; None where the source has no erf GELU.
        """
        changed = with_tanh_gelu(self._source.model)
        if changed is None:
            return None
        size = self._source.preprocessing.image_size
        transform = EvaluationTransform(self._source.preprocessing)
        pixels = torch.stack([transform(images.read(position)) for position in images.positions[:NUM_RESIZED]])
        other = run_of_module(GraphModel(changed, self._outputs).eval(), self._outputs)(pixels)
        first = self._outputs[0]
        return _largest(other[first] - self._runs[size](pixels)[first])

    def _show(
        self, candidate: Candidate, tally: _Tally, batch: _Batch, pixels: Tensor, reference: dict[str, np.ndarray]
    ) -> None:
        if candidate.raw_twin is not None:
            found = self._show_raw(candidate.opened, candidate.raw_twin, tally, batch, pixels)
        elif candidate.opened.preprocessing is None:
            found = self._show_foreign(candidate, tally, batch, pixels, reference)
        else:
            own = batch.pixels(candidate.opened.transform_at(candidate.sizes[0]))
            tally.compare_levels(pixels, own, std=self._source.preprocessing.std)
            found = self._show_at_every_batch_size(candidate.opened.run, tally, batch, own, reference)
            self._look_inside(candidate.opened, tally, batch, own)
            for size in candidate.sizes[1:] if batch.is_resized_too else ():
                expected = self._runs[size](batch.pixels(EvaluationTransform(self._source.preprocessing.at(size))))
                tally.compare(expected, candidate.opened.run(batch.pixels(candidate.opened.transform_at(size))))
        if batch.positions[0] is not None:
            tally.reference += list(reference[self._outputs[0]])
            tally.found += list(found)

    def _show_at_every_batch_size(
        self, run: Run, tally: _Tally, batch: _Batch, pixels: Tensor, reference: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Show (B, 3, H, W) pixels together, and singly where that is due; return the first output, (B, C)."""
        found = run(pixels)
        tally.compare(reference, found)
        for row in range(len(pixels)) if batch.is_single_too else ():
            one = pixels[row : row + 1]
            tally.compare(self._runs[self._source.preprocessing.image_size](one), run(one))
        return found[self._outputs[0]]

    def _look_inside(self, opened: OpenedExport, tally: _Tally, batch: _Batch, images: Tensor) -> None:
        """Look for overflows between the nodes of a 16-bit graph, on the images that are shown singly too."""
        if opened.intermediates is not None and batch.is_single_too and tally.overflowing is None:
            tally.overflowing = _first_not_finite(opened.intermediates(images))

    def _show_foreign(
        self, candidate: Candidate, tally: _Tally, batch: _Batch, pixels: Tensor, reference: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Show the source's own pixels, and see how far another library's preprocessing is off them."""
        found = self._show_at_every_batch_size(candidate.opened.run, tally, batch, pixels, reference)
        if batch.positions[0] is not None:
            own = batch.pixels(candidate.opened.transform_at(candidate.sizes[0]))
            tally.compare_levels(pixels, own, std=self._source.preprocessing.std)
            theirs = found if torch.equal(own, pixels) else candidate.opened.run(own)[self._outputs[0]]
            tally.own_answers += (theirs.argmax(axis=1) == found.argmax(axis=1)).tolist()
        return found

    def _show_raw(
        self, opened: OpenedExport, twin: GraphModel, tally: _Tally, batch: _Batch, pixels: Tensor
    ) -> np.ndarray:
        """Show raw images, one at a time and with their mirror images as a batch of three."""
        run_twin, answers = run_of_module(twin, self._outputs), []
        for image, expected in zip(batch.images, pixels, strict=True):
            one = torch.from_numpy(np.array(image))[None]
            found = opened.run(one)
            tally.compare(run_twin(one), found)
            answers.append(found[self._outputs[0]])
            with torch.inference_mode():
                tally.compare_levels(expected, twin.preprocess(one)[0], std=self._source.preprocessing.std)
            self._look_inside(opened, tally, batch, one)
            if batch.is_single_too:
                three = torch.cat([one, one.flip(1), one.flip(2)])
                tally.compare(run_twin(three), opened.run(three))
        return np.concatenate(answers)

    def _judge(
        self, candidate: Candidate, tally: _Tally, images: RealImages, reason: str | None, max_accuracy_drop: float
    ) -> Verdict:
        seen = _verification(candidate, tally, images) if tally.found else None
        reason = (
            reason
            or candidate.opened.misdescription
            or _misnamed(candidate, self._source)
            or _too_different(candidate, tally, self._outputs)
            or _badly_preprocessed(candidate, tally, self._source)
            or _too_inaccurate(candidate, seen, max_accuracy_drop)
            or _unrefused(candidate)
        )
        return Verdict(None if seen is None else replace(seen, passed=reason is None), reason)


def _batches(images: RealImages) -> Iterator[_Batch]:
    """Yield the real images in threes, then noise."""
    generator = np.random.default_rng(0)
    real = ((images.read(position), position) for position in images.positions)
    noise = (
        (Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)), None)
        for size in itertools.islice(itertools.cycle(NOISE_SIZES), NUM_NOISE)
    )
    parts: tuple[Iterator[tuple[Image.Image, int | None]], ...] = (real, noise)
    for part in parts:
        for start in itertools.count(0, BATCH_SIZES[-1]):
            pairs = list(itertools.islice(part, BATCH_SIZES[-1]))
            if not pairs:
                break
            is_noise = pairs[0][1] is None
            yield _Batch(
                tuple(image for image, _ in pairs),
                tuple(position for _, position in pairs),
                is_noise or start < NUM_SINGLE,
                is_noise or start < NUM_RESIZED,
            )


def _verification(candidate: Candidate, tally: _Tally, images: RealImages) -> Verification:
    reference, found = np.stack(tally.reference), np.stack(tally.found)
    clear = ~_near_ties(reference)
    same = reference.argmax(axis=1) == found.argmax(axis=1)
    is_classifier = reference.ndim == 2 and bool(candidate.opened.class_names)
    labels = None if images.labels is None else np.array([images.labels[position] for position in images.positions])
    first = next(iter(tally.max_abs))
    return Verification(
        max_abs=_finite(tally.max_abs[first]),
        max_rel=_finite(tally.max_rel),
        cosine_min=tally.cosines[first],
        top1_agreement=float(same[clear].mean()) if is_classifier and clear.any() else None,
        num_near_ties=int((~clear).sum()) if is_classifier else None,
        num_images=len(reference),
        num_noise_images=NUM_NOISE,
        batch_sizes=BATCH_SIZES,
        sizes=candidate.sizes,
        max_abs_per_output={name: _finite(value) for name, value in tally.max_abs.items()},
        largest_output=_finite(tally.largest[first]),
        tolerance=TOLERANCES[candidate.precision],
        preprocessing_levels_max=tally.levels_max,
        preprocessing_levels_mean=tally.levels_sum / max(tally.num_levels, 1),
        preprocessing_top1_agreement=float(np.mean(tally.own_answers)) if tally.own_answers else None,
        accuracy=None if labels is None else float((found.argmax(axis=1) == labels).mean()),
        source_accuracy=None if labels is None else float((reference.argmax(axis=1) == labels).mean()),
    )


def _near_ties(logits: np.ndarray) -> np.ndarray:
    """Return (N,) whether an image's two best logits, (N, C), are so close that float32 may swap them."""
    if logits.ndim != 2 or logits.shape[1] < 2:
        return np.zeros(len(logits), dtype=bool)
    best = np.sort(logits, axis=1)[:, -2:]
    allowed = (TOLERANCES["fp32"] or 0.0) * np.maximum(1.0, np.abs(logits).max(axis=1))
    result: np.ndarray = best[:, 1] - best[:, 0] < 2 * allowed
    return result


def _misnamed(candidate: Candidate, source: Source) -> str | None:
    names, own = candidate.opened.class_names, source.labels if candidate.format == "hf" else source.class_names
    if names == own:
        return None
    if len(names) != len(own):
        return f"its files name {len(names)} classes, the source has {len(own)}"
    index = next(index for index, name in enumerate(names) if name != own[index])
    return f"its files call class {index} {names[index]!r}, the source {own[index]!r}"


def _too_different(candidate: Candidate, tally: _Tally, outputs: Sequence[str]) -> str | None:
    limit = TOLERANCES[candidate.precision]
    missing = [name for name in outputs if name not in tally.max_abs]
    if missing and (missing[0] == outputs[0] or candidate.has_every_output):
        return f"it has no output {missing[0]!r}"
    for name, difference in tally.max_abs.items():
        if not np.isfinite(difference):
            return f"its {name} are no numbers on some images (NaN or infinity)"
        if limit is not None and difference > limit * max(1.0, tally.largest[name]):
            allowed = limit * max(1.0, tally.largest[name])
            return f"its {name} differ from the source's by {difference:.2g} where at most {allowed:.2g} is allowed"
        if tally.overflowing is not None:
            return f"its numbers overflow in 16 bits at {tally.overflowing!r} (NaN or infinity) on some images"
        if tally.cosines[name] < LEAST_COSINE[candidate.precision]:
            return f"the cosine between its {name} and the source's is {tally.cosines[name]:.3f} on some image"
    return None


def _badly_preprocessed(candidate: Candidate, tally: _Tally, source: Source) -> str | None:
    """Return a complaint where what the files say of images is not what the source does with them."""
    own = candidate.opened.preprocessing
    if own is not None and own != source.preprocessing:
        return f"its files describe another preprocessing ({own}) than the source's ({source.preprocessing})"
    if candidate.raw_twin is not None and tally.levels_max > MAX_LEVELS + SOFT:
        return f"its preprocessing differs from Pillow's by {tally.levels_max:.1f} levels of 255"
    return None


def _too_inaccurate(candidate: Candidate, seen: Verification | None, max_accuracy_drop: float) -> str | None:
    if candidate.precision == "fp32" or seen is None:
        return None
    if seen.accuracy is not None and seen.source_accuracy is not None:
        drop = seen.source_accuracy - seen.accuracy
        if drop > max_accuracy_drop + 1e-9:
            return (
                f"its accuracy on {seen.num_images} images is {seen.accuracy:.2%}, the source's "
                f"{seen.source_accuracy:.2%}: a drop above --max-accuracy-drop {max_accuracy_drop:g}"
            )
    elif seen.top1_agreement is not None and 1 - seen.top1_agreement > max_accuracy_drop + 1e-9:
        return (
            f"{1 - seen.top1_agreement:.2%} of its answers on {seen.num_images} images without labels "
            f"are others than the source's, above --max-accuracy-drop {max_accuracy_drop:g}"
        )
    return None


def _unrefused(candidate: Candidate) -> str | None:
    """Return a complaint where the graph takes an image whose size it has no position embeddings for."""
    for size in candidate.must_refuse:
        try:
            candidate.opened.run(torch.zeros(1, 3, *size))
        except Exception:  # runtimes raise what they like
            continue
        return f"it takes images of {format_size(size)} px, which are no whole number of patches"
    return None


def _finite(value: float) -> float | None:
    return value if np.isfinite(value) else None
