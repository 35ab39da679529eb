"""Verification in detail: what is shown, what is measured, what is complained of; runs that are wrong by plan."""

import copy
import math
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.data.source import SourceOptions
from vitctl.data.sources import open_source
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import DataError, InterruptedRun, ModelError
from vitctl.exporting import verification
from vitctl.exporting.dynamic_size import make_size_dynamic
from vitctl.exporting.graph import GraphModel
from vitctl.exporting.graph_preprocessing import GraphPreprocessing
from vitctl.exporting.opened import OpenedExport, Run, run_of_module
from vitctl.exporting.source import Source
from vitctl.exporting.verification import Candidate, RealImages, Verdict, Verifier, real_images
from vitctl.models.geometry import change_resolution
from vitctl.primitives.decision import Decision
from vitctl.primitives.files import json_text
from vitctl.primitives.interrupts import termination_as_error
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.export import Verification
from vitctl.settings import words

NAMES = ("red", "green", "blue")
SIZE = (8, 8)
PREPROCESSING = Preprocessing(SIZE, "bilinear", 1.0, "squash", (0.5,) * 3, (0.25, 0.5, 0.125))


class MeanColour(nn.Module):
    """Logits (B, 3) that are the mean red, green and blue of an image, 0-255, times ``scale``."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, image: Tensor) -> Tensor:
        std, mean = (torch.tensor(values) for values in (PREPROCESSING.std, PREPROCESSING.mean))
        return (image.mean(dim=(2, 3)) * std + mean) * 255 * self.scale


def colour_source(scale: float = 1.0) -> Source:
    return Source(MeanColour(scale).eval(), "colours", NAMES, {}, PREPROCESSING, "none", None)


def plain(*colours: Sequence[int]) -> RealImages:
    """Return images of one colour each, whose logits are that colour."""
    return RealImages(
        lambda position: Image.new("RGB", (5, 7), tuple(int(level) for level in colours[position])),
        tuple(range(len(colours))),
        None,
    )


COLOURS = [(200, 100, 50), (10, 30, 20), (90, 80, 160), (40, 120, 0), (255, 0, 5), (7, 8, 90), (60, 50, 40)]


def labelled(images: RealImages, *labels: int) -> RealImages:
    return replace(images, labels=dict(enumerate(labels)))


def faithful(source: Source, outputs: tuple[str, ...] = ("logits",)) -> Run:
    return run_of_module(GraphModel(source.model, outputs).eval(), outputs)


def candidate_of(run: Run, source: Source, **changes: Any) -> Candidate:
    own = {name: changes.pop(name) for name in ("class_names", "preprocessing", "transform_at") if name in changes}
    opened = OpenedExport(
        run,
        own.get("class_names", source.class_names),
        own.get("preprocessing", source.preprocessing),
        own.get("transform_at", lambda size: EvaluationTransform(source.preprocessing.at(size))),
    )
    settings: dict[str, Any] = {"format": "onnx", "precision": "fp32", "sizes": (source.preprocessing.image_size,)}
    return Candidate(opened=opened, **(settings | changes))


def verdict_on(
    candidate: Candidate,
    source: Source,
    images: RealImages | None = None,
    *,
    outputs: tuple[str, ...] = ("logits",),
    max_accuracy_drop: float = 0.02,
) -> Verdict:
    verifier = Verifier(source, outputs, candidate.sizes)
    (verdict,) = verifier.verify(
        [candidate], images or plain(*COLOURS), max_accuracy_drop=max_accuracy_drop, conversation=Conversation()
    )
    if verdict.verification is None:
        assert verdict.complaint is not None
    else:
        assert verdict.verification.passed is (verdict.complaint is None)
    return verdict


def figures_of(verdict: Verdict) -> Verification:
    assert verdict.verification is not None
    return verdict.verification


def changed(source: Source, change: Callable[[np.ndarray, Tensor], np.ndarray]) -> Run:
    """Return the source's run with logits (B, 3) that ``change(logits, images)`` makes of its own."""

    def run(images: Tensor) -> dict[str, np.ndarray]:
        return {"logits": change(faithful(source)(images)["logits"], images)}

    return run


# --- what is measured ----------------------------------------------------------------------------------------


def test_copy__passes_and_the_figures_say_so() -> None:
    source = colour_source()
    verdict = verdict_on(candidate_of(faithful(source), source), source)
    assert verdict.complaint is None
    seen = figures_of(verdict)
    assert (seen.max_abs, seen.max_rel, seen.cosine_min) == (0.0, 0.0, pytest.approx(1.0))
    assert (seen.top1_agreement, seen.num_near_ties) == (1.0, 0)
    assert (seen.num_images, seen.num_noise_images) == (7, 6)
    assert (seen.batch_sizes, seen.sizes) == ((1, 3), ((8, 8),))
    assert seen.largest_output == pytest.approx(255, abs=1e-3)
    assert (seen.accuracy, seen.source_accuracy) == (None, None)
    assert (seen.preprocessing_levels_max, seen.preprocessing_levels_mean) == (0.0, 0.0)


def test_figures__worked_by_hand() -> None:
    source = colour_source()

    def change(logits: np.ndarray, _: Tensor) -> np.ndarray:
        is_dark = np.abs(logits - [[10, 30, 20]]).max(axis=1) < 0.01  # the second image alone
        return logits + np.outer(is_dark, [0.0, 0.0, 6.0]).astype(np.float32)

    seen = figures_of(verdict_on(candidate_of(changed(source, change), source), source))
    assert seen.max_abs == pytest.approx(6.0, abs=1e-4)
    assert seen.max_abs_per_output == {"logits": seen.max_abs}
    assert seen.max_rel == pytest.approx(6 / 30, abs=1e-5)
    one, other = (10, 30, 20), (10, 30, 26)
    by_hand = sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)
    assert seen.cosine_min == pytest.approx(by_hand, abs=1e-7)


@pytest.mark.parametrize(("scale", "allowed"), [(0.0001, 1e-4), (1 / 255, 1e-4), (1.0, 0.0255), (100.0, 2.55)])
@pytest.mark.parametrize("share", [0.9, 1.1])
def test_tolerance__grows_with_logits_above_one(scale: float, allowed: float, share: float) -> None:
    source = colour_source(scale)  # the largest logit is 255 times scale
    run = changed(source, lambda logits, _: logits + np.float32(share * allowed))
    verdict = verdict_on(candidate_of(run, source), source)
    assert (verdict.complaint is None) == (share < 1)
    if verdict.complaint is not None:
        assert "its logits differ from the source's by" in verdict.complaint


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", 1e-4), ("fp16", 1e-2)])
def test_tolerance__is_that_of_the_precision(precision: str, allowed: float) -> None:
    source = colour_source(1 / 255)
    for share in (0.9, 1.1):
        run = changed(source, lambda logits, _, share=share: logits + np.float32(share * allowed))
        verdict = verdict_on(candidate_of(run, source, precision=precision), source)
        assert (verdict.complaint is None) == (share < 1)
        assert figures_of(verdict).tolerance == allowed


def test_near_ties__are_leads_that_the_tolerance_could_turn_over() -> None:
    logits = np.array(
        [[0.5, 0.5, 0.0], [0.5, 0.50019, 0.1], [0.5, 0.50021, 0.1], [50, 50.0099, 0], [50, 50.0101, 0], [-3, -9, -5]]
    )
    found = verification._near_ties(logits)
    # twice 1e-4, times the largest magnitude where that is above 1: 2e-4, 0.01 for 50
    np.testing.assert_array_equal(found, [True, True, False, True, False, False])
    np.testing.assert_array_equal(verification._near_ties(np.ones((4, 1))), [False] * 4)
    np.testing.assert_array_equal(verification._near_ties(np.ones((2, 3, 4))), [False] * 2)  # tokens have no best


CLOSE = [(100, 98, 0), (90, 88, 5), (80, 78, 10), (70, 68, 15)]  # red, but not by much


def greener(source: Source, *reds: int) -> Run:
    """Return a run that finds 4 levels too much green where the red is one of ``reds``."""

    def change(logits: np.ndarray, _: Tensor) -> np.ndarray:
        is_meant = (np.abs(logits[:, :1] - np.array(reds)) < 0.01).any(axis=1)
        return logits + np.outer(is_meant, [0.0, 4.0, 0.0]).astype(np.float32)

    return changed(source, change)


def test_agreement__leaves_near_ties_out() -> None:
    source = colour_source()
    run = greener(source, 100, 90)  # the tie and one of the others
    seen = figures_of(verdict_on(candidate_of(run, source), source, plain((100, 100, 0), *CLOSE[1:])))
    assert seen.num_near_ties == 1
    assert seen.top1_agreement == pytest.approx(2 / 3)


def test_agreement__is_not_known_where_all_are_ties() -> None:
    source = colour_source()
    seen = figures_of(verdict_on(candidate_of(faithful(source), source), source, plain((5, 5, 5), (9, 9, 0))))
    assert (seen.num_near_ties, seen.top1_agreement) == (2, None)


def test_agreement__is_not_asked_of_what_has_no_classes() -> None:
    source = replace(colour_source(), class_names=())
    seen = figures_of(verdict_on(candidate_of(faithful(source), source), source))
    assert (seen.num_near_ties, seen.top1_agreement) == (None, None)


def test_cosine__against_torch_and_at_its_edges() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        one, other = rng.normal(size=(2, 7))
        expected = float(nn.functional.cosine_similarity(torch.tensor(one), torch.tensor(other), dim=0))
        assert verification._cosine(one, other) == pytest.approx(expected, abs=1e-12)
        assert verification._cosine(one, 3 * one) == pytest.approx(1.0)
        assert verification._cosine(one, -one) == pytest.approx(-1.0)
    zeros, ones = np.zeros(3), np.ones(3)
    assert verification._cosine(zeros, zeros) == 1.0
    assert verification._cosine(zeros, ones) == verification._cosine(ones, zeros) == 0.0
    assert verification._cosine(ones, np.array([1, np.nan, 1])) == -1.0
    assert verification._cosine(ones, np.array([1, np.inf, 1])) == -1.0


def test_source_of_zeros__is_no_division_by_zero() -> None:
    source = colour_source(0.0)
    seen = figures_of(verdict_on(candidate_of(faithful(source), source), source))
    assert (seen.max_rel, seen.cosine_min, seen.passed) == (0.0, 1.0, True)
    assert seen.top1_agreement is None  # all of it is a tie
    verdict = verdict_on(candidate_of(changed(source, lambda logits, _: logits + 1), source), source)
    assert figures_of(verdict).max_rel is None
    assert figures_of(verdict).cosine_min == 0.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_numbers__on_one_image_fail_and_are_null_in_json(bad: float) -> None:
    source = colour_source()

    def spoil(logits: np.ndarray, _: Tensor) -> np.ndarray:
        return np.where(np.abs(logits - 160) < 0.01, np.float32(bad), logits)

    verdict = verdict_on(candidate_of(changed(source, spoil), source), source)
    assert verdict.complaint == "its logits are no numbers on some images (NaN or infinity)"
    assert (figures_of(verdict).max_abs, figures_of(verdict).max_rel) == (None, None)
    assert figures_of(verdict).cosine_min == -1.0
    assert '"max_abs": null' in json_text(figures_of(verdict).as_json())


def test_no_numbers__of_the_source_itself_are_its_own_fault() -> None:
    source = colour_source(float("nan"))
    with pytest.raises(ModelError, match="logits of colours itself are no numbers"):
        verdict_on(candidate_of(faithful(source), source), source)


# --- what is shown -------------------------------------------------------------------------------------------


def sizes_shown(num_images: int) -> list[int]:
    source, sizes = colour_source(), list[int]()

    def note(logits: np.ndarray, images: Tensor) -> np.ndarray:
        sizes.append(len(images))
        return logits

    seen = figures_of(verdict_on(candidate_of(changed(source, note), source), source, plain(*COLOURS[:num_images])))
    assert seen.num_images == num_images
    return sizes


def test_batches__come_in_threes_and_the_first_and_the_noise_singly_too() -> None:
    assert sizes_shown(7) == [3, 1, 1, 1, 3, 1, 1, 1, 1, 1] + [3, 1, 1, 1, 3, 1, 1, 1]


@pytest.mark.parametrize("num_images", [1, 2])
def test_batches__of_few_images_are_three_with_noise(num_images: int) -> None:
    real = [num_images] + [1] * num_images
    assert sizes_shown(num_images) == real + [3, 1, 1, 1, 3, 1, 1, 1]


def test_batches__noise_is_the_same_each_time_and_of_several_shapes() -> None:
    first, second = ([image for batch in verification._batches(plain()) for image in batch.images] for _ in range(2))
    assert [np.array(image).tobytes() for image in first] == [np.array(image).tobytes() for image in second]
    assert {image.size for image in first} == {(24, 24), (31, 57), (96, 40)}
    assert min(np.array(image).std() for image in first) > 60


@pytest.mark.parametrize(
    "is_wrong",
    [
        lambda images: len(images) == 1,
        lambda images: len(images) == 3,
        lambda images: bool((images.std(dim=(2, 3)) > 0.1).any()),
    ],
    ids=["alone", "in threes", "on noise"],
)
def test_wrong__only_sometimes_is_seen(is_wrong: Callable[[Tensor], bool]) -> None:
    source = colour_source()
    run = changed(source, lambda logits, images: logits + np.float32(is_wrong(images)))
    verdict = verdict_on(candidate_of(run, source), source)
    assert verdict.complaint is not None
    assert "its logits differ" in verdict.complaint


@pytest.mark.parametrize("position", range(7))
def test_wrong__on_any_one_image_is_seen(position: int) -> None:
    source = colour_source()

    def change(logits: np.ndarray, _: Tensor) -> np.ndarray:
        is_meant = np.abs(logits - COLOURS[position]).max(axis=1, keepdims=True) < 0.01
        return logits + is_meant.astype(np.float32)

    assert verdict_on(candidate_of(changed(source, change), source), source).complaint


@pytest.mark.parametrize("only", [1, 3])
def test_frozen_batch__cannot_be_run(only: int) -> None:
    source = colour_source()

    def frozen(logits: np.ndarray, images: Tensor) -> np.ndarray:
        if len(images) != only:
            raise RuntimeError(f"Got: {len(images)} Expected: {only}\nPlease fix either the inputs or the model.")
        return logits

    verdict = verdict_on(candidate_of(changed(source, frozen), source), source)
    assert verdict.complaint is not None
    assert verdict.complaint.startswith("it cannot be run (Got: ")
    assert "Please" not in verdict.complaint


def test_frozen_batch__that_answers_for_one_only_is_seen() -> None:
    source = colour_source()
    verdict = verdict_on(candidate_of(changed(source, lambda logits, _: logits[:1]), source), source)
    assert verdict.complaint == "it cannot be run (output logits has shape (1, 3), the source's is (3, 3))"


def test_one_bad_candidate__does_not_spoil_the_verdict_on_another() -> None:
    source = colour_source()

    def broken(_: Tensor) -> dict[str, np.ndarray]:
        raise RuntimeError("broken")

    good, bad = candidate_of(faithful(source), source), candidate_of(broken, source)
    verdicts = Verifier(source, ("logits",), (SIZE,)).verify(
        [good, bad, good], plain(*COLOURS), max_accuracy_drop=0, conversation=Conversation()
    )
    assert [verdict.complaint for verdict in verdicts] == [None, "it cannot be run (broken)", None]
    assert [verdict.verification is None for verdict in verdicts] == [False, True, False]


def test_image_that_cannot_be_read_any_more__is_not_the_exports_fault(tmp_path: Path) -> None:
    source = colour_source()
    for index in range(5):
        Image.new("RGB", (4, 4), (40 * index, 0, 0)).save(tmp_path / f"{index}.png")
    (tmp_path / "red").mkdir()
    for index in range(5):
        (tmp_path / f"{index}.png").rename(tmp_path / "red" / f"{index}.png")
    split = open_source(str(tmp_path), SourceOptions()).split("all")
    (tmp_path / "red" / "4.png").unlink()
    with pytest.raises(DataError, match=r"4\.png"):
        verdict_on(candidate_of(faithful(source), source), source, real_images(split, range(5), use_labels=False))


def test_sigterm__while_a_candidate_runs_is_not_the_exports_fault() -> None:
    source = colour_source()

    def terminated(images: Tensor) -> dict[str, np.ndarray]:
        os.kill(os.getpid(), signal.SIGTERM)
        return faithful(source)(images)

    with pytest.raises(InterruptedRun) as caught, termination_as_error():
        verdict_on(candidate_of(terminated, source), source)
    assert caught.value.exit_code == 143


# --- what the files say --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("red", "blue", "green"), "its files call class 1 'blue', the source 'green'"),
        (("red", "green"), "its files name 2 classes, the source has 3"),
        ((), "its files name 0 classes, the source has 3"),
        (("red", "green", "Blue"), "its files call class 2 'Blue', the source 'blue'"),
    ],
)
def test_class_names__that_differ_are_named(names: tuple[str, ...], words: str) -> None:
    source = colour_source()
    assert verdict_on(candidate_of(faithful(source), source, class_names=names), source).complaint == words


@pytest.mark.parametrize(
    "changes",
    [{"mean": (0.5, 0.5, 0.501)}, {"std": (0.5,) * 3}, {"crop_pct": 0.9}, {"interpolation": "bicubic"}],
    ids=str,
)
def test_preprocessing__that_differs_is_named_even_if_the_pixels_given_are_right(changes: dict[str, Any]) -> None:
    source = colour_source()
    wrong = replace(PREPROCESSING, **changes)
    verdict = verdict_on(candidate_of(faithful(source), source, preprocessing=wrong), source)
    assert verdict.complaint is not None
    assert verdict.complaint.startswith("its files describe another preprocessing")


def test_preprocessing__levels_off_are_counted_in_levels() -> None:
    source = colour_source()

    def shifted(size: tuple[int, int]) -> Callable[[Image.Image], Tensor]:
        own = EvaluationTransform(PREPROCESSING.at(size))
        offset = torch.tensor([0.0, 4.0, 0.0]).reshape(3, 1, 1) / 255 / torch.tensor(PREPROCESSING.std).reshape(3, 1, 1)
        return lambda image: own(image) + offset

    seen = figures_of(verdict_on(candidate_of(faithful(source), source, transform_at=shifted), source))
    assert seen.preprocessing_levels_max == pytest.approx(4.0, abs=1e-4)
    assert seen.preprocessing_levels_mean == pytest.approx(4.0 / 3, abs=1e-4)
    assert seen.max_abs == pytest.approx(4.0, abs=1e-4)
    assert not seen.passed


def test_preprocessing__in_anothers_words_is_measured_and_not_judged() -> None:
    source = colour_source()

    def half_as_green(_: tuple[int, int]) -> Callable[[Image.Image], Tensor]:
        own = EvaluationTransform(PREPROCESSING)

        def transform(image: Image.Image) -> Tensor:
            red, green, blue = image.split()
            return own(Image.merge("RGB", (red, green.point(lambda level: level // 2), blue)))

        return transform

    candidate = candidate_of(faithful(source), source, preprocessing=None, transform_at=half_as_green, format="hf")
    verdict = verdict_on(candidate, source, plain((9, 10, 0), (90, 100, 0), (0, 200, 10), (50, 6, 7)))
    assert verdict.complaint is None
    seen = figures_of(verdict)
    assert (seen.max_abs, seen.top1_agreement) == (0.0, 1.0)  # of the model, on the source's pixels
    assert seen.preprocessing_top1_agreement == pytest.approx(2 / 4)
    assert seen.preprocessing_levels_max == pytest.approx(100, abs=1e-3)


def test_misdescription__is_the_complaint() -> None:
    source = colour_source()
    good = candidate_of(faithful(source), source)
    bad = replace(good, opened=replace(good.opened, misdescription="its label2id is another than its id2label"))
    assert verdict_on(bad, source).complaint == "its label2id is another than its id2label"


@pytest.mark.parametrize("has_every_output", [True, False])
def test_output__that_is_missing(has_every_output: bool, source: Source) -> None:
    outputs = ("logits", "embedding")
    candidate = candidate_of(faithful(source, ("logits",)), source, has_every_output=has_every_output)
    verdict = verdict_on(candidate, source, outputs=outputs)
    assert verdict.complaint == ("it has no output 'embedding'" if has_every_output else None)


def test_output__first_that_is_missing_is_named(source: Source) -> None:
    candidate = candidate_of(faithful(source, ("embedding",)), source)
    verdict = verdict_on(candidate, source, outputs=("logits", "embedding"))
    assert verdict.complaint is not None
    assert "logits" in verdict.complaint


def test_output__other_than_the_first_that_differs_is_seen(source: Source) -> None:
    outputs = ("logits", "embedding")

    def run(images: Tensor) -> dict[str, np.ndarray]:
        found = faithful(source, outputs)(images)
        return found | {"embedding": found["embedding"][:, ::-1]}

    verdict = verdict_on(candidate_of(run, source, has_every_output=True), source, outputs=outputs)
    assert verdict.complaint is not None
    assert verdict.complaint.startswith("its embedding differ")
    assert figures_of(verdict).max_abs == 0.0
    assert figures_of(verdict).max_abs_per_output["embedding"] > 0.1


# --- accuracy ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
@pytest.mark.parametrize(("limit", "passes"), [(0.25, True), (0.24, False)])
def test_accuracy__drop_is_held_against_the_limit(precision: str, limit: float, passes: bool) -> None:
    source = colour_source(1000)  # 4 levels are within the tolerance of fp16 here: 1e-2 times 25,500 is 255
    images = labelled(plain(*CLOSE), 0, 0, 0, 2)  # the source is wrong about the last

    def change(logits: np.ndarray, _: Tensor) -> np.ndarray:
        is_meant = np.abs(logits[:, 0] - 90_000) < 10
        return logits + np.outer(is_meant, [-200.0, 200.0, 0.0]).astype(np.float32) * 6

    candidate = candidate_of(changed(source, change), source, precision=precision)
    verdict = verdict_on(candidate, source, images, max_accuracy_drop=limit)
    assert (figures_of(verdict).source_accuracy, figures_of(verdict).accuracy) == (0.75, 0.5)
    assert figures_of(verdict).top1_agreement == 0.75
    assert (verdict.complaint is None) == passes
    if verdict.complaint is not None:
        assert verdict.complaint == (
            "its accuracy on 4 images is 50.00%, the source's 75.00%: a drop above --max-accuracy-drop 0.24"
        )


def test_accuracy__that_rises_is_no_drop() -> None:
    source = colour_source()
    images = labelled(plain(*CLOSE), 0, 0, 0, 1)
    candidate = candidate_of(greener(source, 70), source, precision="int8-dynamic")
    verdict = verdict_on(candidate, source, images, max_accuracy_drop=0)
    assert verdict.complaint is None
    assert (figures_of(verdict).source_accuracy, figures_of(verdict).accuracy) == (0.75, 1.0)


@pytest.mark.parametrize(("limit", "passes"), [(0.25, True), (0.24, False)])
def test_answers__without_labels_stand_in_for_accuracy(limit: float, passes: bool) -> None:
    source = colour_source()
    candidate = candidate_of(greener(source, 90), source, precision="int8-dynamic")
    verdict = verdict_on(candidate, source, plain(*CLOSE), max_accuracy_drop=limit)
    assert figures_of(verdict).accuracy is None
    assert (verdict.complaint is None) == passes
    if verdict.complaint is not None:
        assert verdict.complaint.startswith("25.00% of its answers on 4 images without labels are others")


def test_accuracy__of_fp32_is_told_and_not_judged() -> None:
    source = colour_source()
    images = labelled(plain(*CLOSE), 2, 2, 2, 2)
    verdict = verdict_on(candidate_of(faithful(source), source), source, images, max_accuracy_drop=0)
    assert verdict.complaint is None
    assert (figures_of(verdict).source_accuracy, figures_of(verdict).accuracy) == (0.0, 0.0)


def test_int8__that_points_elsewhere_fails_even_with_the_same_answers() -> None:
    source = colour_source()
    run = changed(source, lambda logits, _: np.where(logits == logits.max(axis=1, keepdims=True), 255, -logits))
    verdict = verdict_on(candidate_of(run, source, precision="int8-dynamic"), source, plain(*CLOSE))
    assert figures_of(verdict).top1_agreement == 1.0
    assert verdict.complaint is not None
    assert "cosine" in verdict.complaint


# --- sizes ---------------------------------------------------------------------------------------------------

SIZES = ((16, 16), (20, 12))


def dynamic_run(source: Source, method: str | None = None) -> Run:
    """Return a run that takes several sizes; with ``method``, its positions are resampled in that way."""
    if method is None:
        return run_of_module(
            GraphModel(make_size_dynamic(source.model, name="small", method="bicubic-aa"), ("logits",)).eval(),
            ("logits",),
        )
    resized = copy.deepcopy(source.model)
    change_resolution(resized, SIZES[1], method=method, name="small")
    runs = {SIZES[0]: faithful(source), SIZES[1]: run_of_module(resized, ("logits",))}
    return lambda images: runs[(images.shape[2], images.shape[3])](images)


@pytest.mark.parametrize(("method", "passes"), [(None, True), ("bicubic-aa", True), ("paper", False)])
def test_second_size__is_shown_and_compared_with_the_source_brought_there(
    source: Source, method: str | None, passes: bool
) -> None:
    verdict = verdict_on(candidate_of(dynamic_run(source, method), source, sizes=SIZES), source, plain(*COLOURS))
    assert figures_of(verdict).sizes == ((16, 16), (20, 12))
    assert (verdict.complaint is None) == passes


@pytest.mark.parametrize("method", words.INTERPOLATIONS)
def test_second_size__is_resampled_as_the_source_says(source: Source, method: str) -> None:
    told = replace(source, interpolation=Decision(method, "given"))
    graph = GraphModel(make_size_dynamic(source.model, name="small", method=method), ("logits",)).eval()
    verdict = verdict_on(candidate_of(run_of_module(graph, ("logits",)), told, sizes=SIZES), told, plain(*COLOURS))
    assert verdict.complaint is None
    others = [dynamic_run(source, other) for other in words.INTERPOLATIONS if other != method]
    assert all(verdict_on(candidate_of(run, told, sizes=SIZES), told, plain(*COLOURS)).complaint for run in others)


def test_second_size__is_shown_a_dozen_images_and_noise(source: Source) -> None:
    counts = dict.fromkeys(SIZES, 0)
    run = dynamic_run(source)

    def counting(images: Tensor) -> dict[str, np.ndarray]:
        counts[(images.shape[2], images.shape[3])] += len(images)
        return run(images)

    many = plain(*COLOURS * 3)
    verdict_on(candidate_of(counting, source, sizes=SIZES), source, many)
    assert counts[SIZES[1]] == 12 + 6
    assert counts[SIZES[0]] == 21 + 9 + 6 + 6  # in threes, nine of them singly; noise, and singly


def test_sizes_to_refuse__that_are_refused_are_fine(source: Source) -> None:
    candidate = candidate_of(dynamic_run(source), source, must_refuse=((17, 16), (16, 18)))
    assert verdict_on(candidate, source).complaint is None


def test_sizes_to_refuse__that_are_taken_are_named(source: Source) -> None:
    run = dynamic_run(source)

    def careless(images: Tensor) -> dict[str, np.ndarray]:
        return run(images[:, :, :, : images.shape[3] // 4 * 4])

    verdict = verdict_on(candidate_of(careless, source, must_refuse=((17, 16), (16, 18))), source)
    assert verdict.complaint == "it takes images of 16x18 px, which are no whole number of patches"


def test_sigterm__while_a_size_should_be_refused_is_no_refusal(source: Source) -> None:
    run = faithful(source)

    def terminated(images: Tensor) -> dict[str, np.ndarray]:
        if images.shape[2] == 17:
            os.kill(os.getpid(), signal.SIGTERM)
        return run(images)

    with pytest.raises(InterruptedRun), termination_as_error():
        verdict_on(candidate_of(terminated, source, must_refuse=((17, 16),)), source)


# --- raw images ----------------------------------------------------------------------------------------------


def raw_twin(source: Source, **changes: Any) -> GraphModel:
    preprocessing = GraphPreprocessing(replace(source.preprocessing, **changes))
    return GraphModel(source.model, ("logits",), preprocessing).eval()


def test_raw__passes_with_images_of_their_own_sizes(source: Source) -> None:
    twin, shapes = raw_twin(source), set[tuple[int, ...]]()
    run = run_of_module(twin, ("logits",))

    def noting(images: Tensor) -> dict[str, np.ndarray]:
        assert images.dtype == torch.uint8
        shapes.add(tuple(images.shape))
        return run(images)

    verdict = verdict_on(candidate_of(noting, source, raw_twin=twin), source)
    assert verdict.complaint is None
    assert figures_of(verdict).preprocessing_levels_max <= 1.001
    assert {(1, 7, 5, 3), (3, 7, 5, 3), (1, 57, 31, 3), (3, 57, 31, 3)} <= shapes


@pytest.mark.parametrize(
    "change",
    [lambda images: images.flip(3), lambda images: images.flip(2), lambda images: images // 2],
    ids=["BGR", "mirrored", "darker"],
)
def test_raw__that_treats_images_otherwise_is_seen(source: Source, change: Callable[[Tensor], Tensor]) -> None:
    twin = raw_twin(source)
    run = run_of_module(twin, ("logits",))
    verdict = verdict_on(candidate_of(lambda images: run(change(images)), source, raw_twin=twin), source)
    assert verdict.complaint is not None
    assert verdict.complaint.startswith("its logits differ")


@pytest.mark.parametrize(
    "changes", [{"mean": (0.4, 0.5, 0.6 + 2 / 255)}, {"crop_pct": 1.0}, {"interpolation": "bilinear"}], ids=str
)
def test_raw__whose_preprocessing_is_wrong_in_the_graph_itself_is_seen(source: Source, changes: dict[str, Any]) -> None:
    twin = raw_twin(source, **changes)  # so that the graph and its twin agree with each other
    verdict = verdict_on(candidate_of(run_of_module(twin, ("logits",)), source, raw_twin=twin), source)
    assert verdict.complaint is not None
    assert "its preprocessing differs from Pillow's by" in verdict.complaint


# --- tanh ----------------------------------------------------------------------------------------------------


def test_tanh_gap__is_the_change_of_the_logits_of_a_dozen_images(source: Source) -> None:
    colours = COLOURS * 2  # 14: the last two are left out
    other = copy.deepcopy(source.model)
    for block in other.blocks:
        block.mlp.act = nn.GELU("tanh")
    transform = EvaluationTransform(source.preprocessing)
    pixels = torch.stack([transform(Image.new("RGB", (5, 7), colour)) for colour in colours[:12]])
    with torch.no_grad():
        expected = float((other(pixels) - source.model(pixels)).abs().max())
    gap = Verifier(source, ("logits",), ()).tanh_gelu_gap(plain(*colours))
    assert gap == pytest.approx(expected, rel=1e-3)
    assert 0 < expected < 1e-2


def test_tanh_gap__of_a_model_without_gelu_is_none() -> None:
    assert Verifier(colour_source(), ("logits",), ()).tanh_gelu_gap(plain(*COLOURS)) is None
