"""Where results go: what is refused before anything is computed, and the one sentence for each reason."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from vitctl.errors import SettingError
from vitctl.primitives.devices import enough_memory
from vitctl.primitives.outputs import check_elsewhere, check_file, check_writable, writing


@pytest.mark.parametrize("path", ["new", "new/deeper", "."])
def test_check_writable__changes_nothing(tmp_path: Path, path: str) -> None:
    check_writable(tmp_path / path)
    assert list(tmp_path.iterdir()) == []


def test_check_writable__below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "deeper" / "out"):
        sentence = (
            f"--cache {path} cannot be written: {tmp_path / 'file'} is a file, not a folder. Give another folder."
        )
        with pytest.raises(SettingError, match=re.escape(sentence)) as caught:
            check_writable(path, option="--cache")
        assert caught.value.field == "cache"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_check_writable__without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(SettingError, match=f"cannot be written: no permission in {tmp_path}"):
        check_writable(tmp_path / "out")


def test_check_writable__a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="cannot be written: File name too long"):
        check_writable(tmp_path / ("x" * 300))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("p.csv", r"is p\.csv; give a file that ends in \.npz"),
        ("p", "ends in"),
        ("folder.npz", "is a folder; give a file"),
        ("file/p.npz", "cannot be written"),
        ("file/deeper/p.npz", "cannot be written"),
        ("features.npz", r"features\.npz, the file of features itself"),
        ("folder.npz/../features.npz", r"features\.npz, the file of features itself"),
    ],
)
def test_check_file__what_cannot_be_written_is_refused_first(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "folder.npz").mkdir()
    (tmp_path / "file").write_text("")
    inputs = {"features": str(tmp_path / "features.npz"), "images": None}
    with pytest.raises(SettingError, match=sentence) as caught:
        check_file(tmp_path / name, ending=".npz", option="--predictions", inputs=inputs)
    assert caught.value.field == "predictions"
    assert {path.name for path in tmp_path.iterdir()} == {"folder.npz", "file"}


def test_check_file__makes_nothing(tmp_path: Path) -> None:
    check_file(tmp_path / "not" / "yet" / "p.npz", ending=".npz", option="--predictions", inputs={})
    assert list(tmp_path.iterdir()) == []


def test_writing__what_goes_wrong_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file" / "out"
    with pytest.raises(SettingError, match=rf"--out {out} cannot be written: .*Not a directory.*Give another folder\."):
        with writing(out):
            out.mkdir()
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("error", [BrokenPipeError(), ValueError()])
def test_writing__leaves_other_errors(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(type(error)), writing(tmp_path):
        raise error


def test_check_elsewhere(tmp_path: Path) -> None:
    data = tmp_path / "photos"
    data.mkdir()
    check_elsewhere(tmp_path / "out", ["digits", str(data)])
    check_elsewhere(tmp_path / "photos-2", [str(data)])
    for path in (data, data / "cats" / "out", tmp_path / "x" / ".." / "photos" / "out"):
        with pytest.raises(SettingError, match=f"--cache .* lies inside the data {data}, where") as caught:
            check_elsewhere(path, ["digits", str(data)], option="--cache")
        assert caught.value.field == "cache"


def test_enough_memory__says_what_to_make_smaller() -> None:
    sentence = (
        r"cuda:1 ran out of memory at a batch of 64 images, when it asked for 2 GiB\. Try a smaller --batch-size or "
        r"--image-size\."
    )
    with (
        pytest.raises(SettingError, match=sentence) as caught,
        enough_memory(torch.device("cuda:1"), 64, "--image-size"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert caught.value.field == "batch_size"


def test_enough_memory__without_images() -> None:
    with (
        pytest.raises(
            SettingError, match=r"^cuda:1 ran out of memory, when it asked for 2 GiB\. Try another --device\.$"
        ) as caught,
        enough_memory(torch.device("cuda:1"), None),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert caught.value.field == "device"


PETA = 10**15  # of anything: more than any address space has room for


@pytest.mark.parametrize("allocate", [torch.empty, np.empty, bytearray], ids=["torch", "numpy", "python"])
def test_enough_memory__of_the_computer_is_known_by_what_is_raised(allocate: Callable[[int], object]) -> None:
    sentence = (
        r"^cpu ran out of memory at a batch of 64 images(, when it asked for [\d.e+]+ [TP]iB)?\. Try a smaller --batch"
    )
    for device in ("cpu", "cuda:1"):  # beside a GPU, too, it is the computer's that was full
        with pytest.raises(SettingError, match=sentence), enough_memory(torch.device(device), 64):
            allocate(PETA)


def test_enough_memory__of_the_computer_without_images() -> None:
    with (
        pytest.raises(
            SettingError, match=r"^cpu ran out of memory\. Try a smaller model, or fewer images\.$"
        ) as caught,
        enough_memory(torch.device("cpu"), None),
    ):
        raise MemoryError
    assert caught.value.field is None


def test_enough_memory__of_onnxruntime() -> None:
    """What onnxruntime 1.32 raised under a limit of the address space."""
    said = "[ONNXRuntimeError] : 1 : FAIL : ... Failed to allocate memory for requested buffer of size 50112000"
    sentence = r"^cpu ran out of memory, when it asked for 47\.8 MiB\. Try a smaller --image-size\.$"
    with (
        pytest.raises(SettingError, match=sentence) as caught,
        enough_memory(torch.device("cpu"), None, "--image-size"),
    ):
        raise Exception(said)
    assert caught.value.field == "image_size"


def test_enough_memory__leaves_other_errors() -> None:
    with pytest.raises(RuntimeError, match="shapes"), enough_memory(torch.device("cpu"), 64):
        raise RuntimeError("shapes")
