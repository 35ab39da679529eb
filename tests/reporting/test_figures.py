"""The pictures of a run: they are drawn for every run and every set of classes."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitctl.reporting.figures import draw_confusion, draw_curves


def write_metrics(path: Path, *, num_steps: int, validate_after: tuple[int, ...]) -> Path:
    lines = []
    for step in range(1, num_steps + 1):
        lines.append({"step": step, "epoch": step / 10, "loss": 2.0 / step, "lr": 1e-3})
        if step in validate_after:
            lines.append({"step": step, "val_loss": 1.0 / step, "val_top1": 0.5})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def check_picture(path: Path, *, least_px: int = 300) -> np.ndarray:
    """Check that ``path`` is a PNG with something on it; return its pixels."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        pixels = np.asarray(image.convert("RGB"))
    assert min(pixels.shape[:2]) >= least_px
    assert max(pixels.shape[:2]) <= 4000
    share_of_white = float((pixels == 255).all(axis=2).mean())
    assert 0.05 < share_of_white < 0.995
    assert [other.name for other in path.parent.glob(".*")] == []
    return pixels


@pytest.mark.parametrize(
    ("num_steps", "validate_after"), [(200, (50, 100, 150, 200)), (10, (10,)), (10, ()), (1, (1,)), (1, ())]
)
def test_curves__are_drawn(tmp_path: Path, num_steps: int, validate_after: tuple[int, ...]) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", num_steps=num_steps, validate_after=validate_after)
    draw_curves(metrics, tmp_path / "curves.png")
    pixels = check_picture(tmp_path / "curves.png")
    has_orange = bool((np.abs(pixels.astype(int) - (0xD5, 0x5E, 0x00)).max(axis=2) < 8).any())
    assert has_orange == bool(validate_after)


def test_curves__validations_without_images_count_as_none(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", num_steps=5, validate_after=())
    with metrics.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": 5, "val_loss": None, "val_top1": None}) + "\n")
    draw_curves(metrics, tmp_path / "curves.png")
    check_picture(tmp_path / "curves.png")


def test_curves__the_same_metrics_give_the_same_picture(tmp_path: Path) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", num_steps=20, validate_after=(10, 20))
    for name in ("a.png", "b.png"):
        draw_curves(metrics, tmp_path / name)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize("num_classes", [2, 20, 21, 60])
def test_confusion__is_drawn_for_few_and_many_classes(tmp_path: Path, num_classes: int) -> None:
    matrix = np.random.default_rng(0).integers(0, 3, (num_classes, num_classes)) + 9 * np.eye(num_classes, dtype=int)
    draw_confusion(matrix, [str(i) for i in range(num_classes)], tmp_path / "confusion.png", title="pets")
    check_picture(tmp_path / "confusion.png")


@pytest.mark.parametrize(
    "names",
    [
        ("$5 & $10", "a_b^c", "50 %"),
        ("$\\frac{$", "$", "\\alpha"),
        ("a class name that goes on and on, far beyond any axis " * 5, "x" * 300, "y"),
        ("", " ", "Bücher"),
    ],
)
def test_confusion__any_class_name_can_be_drawn(tmp_path: Path, names: tuple[str, ...]) -> None:
    draw_confusion(np.eye(3, dtype=int), names, tmp_path / "confusion.png", title="test")
    check_picture(tmp_path / "confusion.png")


def test_confusion__a_class_without_images_is_drawn(tmp_path: Path) -> None:
    draw_confusion(np.array([[3, 1], [0, 0]]), ["a", "b"], tmp_path / "confusion.png", title="test")
    check_picture(tmp_path / "confusion.png")


def test_confusion__no_images_at_all_is_drawn(tmp_path: Path) -> None:
    draw_confusion(np.zeros((2, 2), dtype=int), ["a", "b"], tmp_path / "confusion.png", title="test")
    check_picture(tmp_path / "confusion.png")


def test_confusion__a_dollar_in_the_title_is_no_formula(tmp_path: Path) -> None:
    draw_confusion(np.eye(2, dtype=int), ["a", "b"], tmp_path / "confusion.png", title="pets$\\frac{$")
    check_picture(tmp_path / "confusion.png")


def test_confusion__letters_that_the_font_lacks_warn_of_nothing(tmp_path: Path) -> None:
    draw_confusion(np.eye(2, dtype=int), ["花", "鳥"], tmp_path / "confusion.png", title="test")
    check_picture(tmp_path / "confusion.png")
