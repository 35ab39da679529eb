"""The pictures of a run: they are drawn for every run and every set of classes."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.reporting.figures import draw_confusion, draw_contact_sheet, draw_curves

pytestmark = pytest.mark.filterwarnings("ignore::vitctl.reporting.fonts.FontWarning")  # as this machine has no font


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


@pytest.mark.parametrize("norms", [[1.0, 20.0, 300.0, 4.0], [None, 2.0, None, 0.5], [0.0, 0.0, 1e30, 1e-30]])
def test_curves__of_norms_are_a_fourth(tmp_path: Path, norms: list[float | None]) -> None:
    metrics = write_metrics(tmp_path / "metrics.jsonl", num_steps=4, validate_after=(4,))
    draw_curves(metrics, tmp_path / "before.png")
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    lines = [line | {"grad_norm": norms[line["step"] - 1]} if "loss" in line else line for line in lines]
    metrics.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    draw_curves(metrics, tmp_path / "curves.png")
    assert check_picture(tmp_path / "curves.png").shape[1] > check_picture(tmp_path / "before.png").shape[1]


@pytest.mark.parametrize("norms", [[None, None], [0.0, 0.0]])
def test_curves__without_a_norm_that_can_be_drawn_have_three(tmp_path: Path, norms: list[float | None]) -> None:
    lines = [{"step": step, "loss": 1.0, "lr": 1e-3, "grad_norm": norm} for step, norm in enumerate(norms, 1)]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    draw_curves(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert check_picture(tmp_path / "curves.png").shape[1] == 1430


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
        ("caf\udce9", "line\nbreak", "tab\there"),  # a folder's name may be any bytes
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


# --- contact sheets ----------------------------------------------------------------------------------------


def noise(seed: int, side: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 200, (side, side, 3), dtype=np.uint8)


def sheet_of(tmp_path: Path, pictures: list[np.ndarray | None], captions: list[str], **changes: Any) -> np.ndarray:
    draw_contact_sheet(pictures, captions, tmp_path / "sheet.png", **{"columns": 4, "title": "pets", **changes})
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def has_ink(pixels: np.ndarray) -> bool:
    return bool((pixels < 128).any())


@pytest.mark.parametrize("side", [48, 96])
@pytest.mark.parametrize("num_pictures", [1, 4, 7, 40])
@pytest.mark.parametrize("num_lines", [1, 2])
def test_sheet__every_picture_is_there_pixel_for_pixel_with_a_caption(
    tmp_path: Path, side: int, num_pictures: int, num_lines: int
) -> None:
    """A picture is shown at its own size: what a sheet shows of an image is not blurred by drawing it."""
    pictures: list[np.ndarray | None] = [noise(index, side) for index in range(num_pictures)]
    pixels = sheet_of(tmp_path, pictures, ["cat" + "\ndog" * (num_lines - 1)] * num_pictures)
    num_rows, text, gap, title = -(-num_pictures // 4), 13 * num_lines + 6, side // 12, 34
    assert pixels.shape == (num_rows * (side + text) + title, 4 * (side + gap), 3)
    for index, picture in enumerate(pictures):
        y, x = title + index // 4 * (side + text), index % 4 * (side + gap) + gap // 2
        np.testing.assert_array_equal(pixels[y : y + side, x : x + side], picture)
        assert has_ink(pixels[y + side : y + side + text, x : x + side])
    assert has_ink(pixels[:title])


def test_sheet__an_empty_place_stays_white_and_says_nothing(tmp_path: Path) -> None:
    pixels = sheet_of(tmp_path, [noise(0, 48), None, noise(1, 48), None], ["a", "hidden", "b", "hidden"])
    places = [pixels[34:, 52 * index : 52 * (index + 1)] for index in range(4)]
    assert [has_ink(place) for place in places] == [True, False, True, False]
    assert (places[1] == 255).all()


@pytest.mark.parametrize("pictures", [[], [None], [None] * 9])
def test_sheet__without_a_picture_is_drawn(tmp_path: Path, pictures: list[None]) -> None:
    assert sheet_of(tmp_path, list(pictures), ["x"] * len(pictures)).ndim == 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "$5 & $10",
        "$\\frac{$",
        "a_b^c \\alpha",
        "50 %",
        "x" * 500,
        "花 and 🐈",
        "caf\udce9",
        "tab\there",
        "Bücher",
    ],
)
def test_sheet__any_caption_and_title_can_be_drawn(tmp_path: Path, text: str) -> None:
    pixels = sheet_of(tmp_path, [noise(0, 96), noise(1, 96)], [text, text + "\n" + text], title=text)
    np.testing.assert_array_equal(pixels[34 : 34 + 96, 4:100], noise(0, 96))
    np.testing.assert_array_equal(pixels[34 : 34 + 96, 108:204], noise(1, 96))


def test_sheet__a_long_caption_does_not_run_into_the_next(tmp_path: Path) -> None:
    pixels = sheet_of(tmp_path, [noise(0, 96), noise(1, 96), noise(2, 96)], ["", "W" * 500, ""])
    below = pixels[34 + 96 :]
    assert has_ink(below[:, 104:208])
    assert not has_ink(below[:, :52])
    assert not has_ink(below[:, 260:])


def test_sheet__one_caption_per_picture(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="zip"):
        draw_contact_sheet([noise(0, 48)], ["a", "b"], tmp_path / "sheet.png", columns=4, title="pets")
    assert list(tmp_path.iterdir()) == []


def test_sheet__the_same_pictures_give_the_same_file(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        draw_contact_sheet([noise(0, 48)] * 5, ["cat"] * 5, tmp_path / name, columns=4, title="pets")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]
