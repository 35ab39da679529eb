"""Image files without labels: all of them, in natural order, each with its tensor or its reason."""

from pathlib import Path

import torch
from PIL import Image

from vitctl.data.files import list_images, read_batches
from vitctl.data.transforms import EvaluationTransform
from vitctl.primitives.preprocessing import Preprocessing

TRANSFORM = EvaluationTransform(Preprocessing((4, 4), "bicubic", 1.0, "center", (0.0,) * 3, (1.0,) * 3))


def _image(path: Path, grey: int = 0) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (6, 6), grey).save(path)
    return str(path)


def test_list_images__a_folder_gives_the_images_in_and_below_it_in_natural_order(tmp_path: Path) -> None:
    expected = [_image(tmp_path / name) for name in ("2.png", "10.PNG", "b/1.jpg")]
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "folder.png").mkdir()
    assert list_images(str(tmp_path)) == (expected, {})


def test_list_images__a_file_is_itself_whether_or_not_it_is_there(tmp_path: Path) -> None:
    path = _image(tmp_path / "1.png")
    assert list_images(path) == ([path], {})
    assert list_images("missing.png") == (["missing.png"], {})


def test_list_images__hidden_files_and_other_files_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / "._1.png").write_bytes(b"")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "1.png").write_bytes(b"")
    assert list_images(str(tmp_path)) == ([], {})


def test_list_images__a_path_that_the_system_refuses_is_left_to_the_reader() -> None:
    assert list_images("a" * 300) == (["a" * 300], {})


def test_read_batches_keeps_the_order_and_the_reasons(tmp_path: Path) -> None:
    paths = [_image(tmp_path / f"{grey}.png", grey) for grey in range(0, 255, 51)]
    paths[2] = str(tmp_path / "missing.png")
    Path(paths[3]).write_text("hello")
    batches = list(read_batches(paths, TRANSFORM, batch_size=2))
    assert [len(batch) for batch in batches] == [2, 2, 1]
    read = [pair for batch in batches for pair in batch]
    assert [path for path, _ in read] == paths
    assert read[2][1] == "no such file"
    assert read[3][1] == "not an image that Pillow knows"
    for position in (0, 1, 4):
        tensor = read[position][1]
        assert isinstance(tensor, torch.Tensor)
        assert torch.allclose(tensor, torch.full((3, 4, 4), position / 5))


def test_read_batches__the_home_folder_can_be_written_as_a_tilde() -> None:
    _image(Path.home() / "pictures" / "a.png", 255)
    ((path, tensor),) = next(read_batches(["~/pictures/a.png"], TRANSFORM, batch_size=8))
    assert path == "~/pictures/a.png"
    assert isinstance(tensor, torch.Tensor)
