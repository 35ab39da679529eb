"""Pictures of ``vitctl compare``: what is read of how runs learnt, and what is drawn of it."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from vitctl.reporting import compare_figures
from vitctl.reporting.compare_figures import Learning, Opinion, UnreadableLearning, draw_disagreements, draw_learning


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("\n".join(map(json.dumps, records)))


def learning(folder: Path, *, val: bool = True, row: int = 0) -> Learning:
    folder.mkdir(exist_ok=True)
    validations = [{"step": 0, "val_loss": 2.0, "val_top1": 0.1}, {"step": 3, "val_loss": 1.0, "val_top1": 0.5}]
    steps = [{"step": step, "loss": loss, "lr": 0.1} for step, loss in ((1, 3.0), (2, None), (3, 1.0))]
    write_lines(folder / "metrics.jsonl", [*steps, *(validations if val else [])])
    write_lines(folder / "speed.jsonl", [{"step": 1, "step_s": 2.0}, {"step": 3, "step_s": 4.0}])
    return Learning.of(folder, row=row, batch_size=10)


def test_learning__over_images_and_seconds(tmp_path: Path) -> None:
    found = learning(tmp_path)
    assert found.images.tolist() == [10, 20, 30]
    assert found.seconds.tolist() == [2, 4, 6]  # nobody noted step 2
    np.testing.assert_array_equal(found.loss, [3, np.nan, 1])
    assert found.val_images.tolist() == [0, 30]
    assert found.val_seconds.tolist() == [0, 6]
    assert found.val_top1.tolist() == [0.1, 0.5]


@pytest.mark.parametrize("line", ["{", "[1]", '{"loss": 1.0}', '{"step": "x", "loss": 1}'])
def test_learning__that_is_damaged(line: str, tmp_path: Path) -> None:
    learning(tmp_path)
    (tmp_path / "metrics.jsonl").write_text(line)
    with pytest.raises(UnreadableLearning, match=str(tmp_path)):
        Learning.of(tmp_path, row=0, batch_size=1)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved, put together and not rendered."""
    figures: list[Figure] = []
    monkeypatch.setattr(compare_figures, "save", lambda figure, _path: figures.append(figure))
    return figures


def test_draw_learning__one_colour_for_each_row(drawn: list[Figure], tmp_path: Path) -> None:
    runs = [learning(tmp_path / str(index), row=row) for index, row in enumerate((0, 0, 1))]
    draw_learning(runs, ["lr=$0.1$", "b" * 90], tmp_path / "x.png")
    (figure,) = drawn
    assert len(figure.axes) == 6
    for axes in figure.axes:
        colours = [line.get_color() for line in axes.lines]
        assert colours[0] == colours[1] != colours[2]
    left, right = figure.axes[4:]
    assert left.lines[0].get_xydata().tolist() == [[0, 10], [30, 50]]
    assert right.lines[0].get_xydata().tolist() == [[0, 10], [6, 50]]
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == ["lr=$0.1$", "b" * 59 + "…"]


def test_draw_learning__without_validation(drawn: list[Figure], tmp_path: Path) -> None:
    draw_learning([learning(tmp_path / "a", val=False)], ["a"], tmp_path / "x.png")
    assert [text.get_text() for text in drawn[0].axes[2].texts] == ["no validation images"]


def test_draw_disagreements__who_says_what(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sheets: list[Any] = []
    monkeypatch.setattr(compare_figures, "draw_contact_sheet", lambda *given, **named: sheets.append((given, named)))
    few = [Opinion("a", "cat", 0.9), Opinion("b", "dog", 0.51)]
    many = [Opinion(str(index), "cat" if index < 4 else "dog", 0.5 + index / 20) for index in range(6)]
    picture = np.zeros((4, 4, 3), dtype=np.uint8)
    draw_disagreements([picture, None], ["owl", "cat"], [few, many], tmp_path / "x.png", num_in_all=7)
    (((_, captions, _), named),) = sheets
    assert captions[0] == "true: owl\ncat (90%): a\ndog (51%): b"
    assert captions[1] == "true: cat\ncat: 4 of 6, up to 65%\ndog: 2 of 6, up to 75%"
    assert named["title"].startswith("2 of 7 images on which rows disagree")


@pytest.mark.slow
def test_pictures__are_written(tmp_path: Path) -> None:
    draw_learning([learning(tmp_path / "a")], ["a"], tmp_path / "curves.png")
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000
