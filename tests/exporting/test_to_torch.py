"""The .pt2 file: the same numbers, tensors and text only, nothing of the machine that wrote it."""

import io
import os
import pickletools
import resource
import signal
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vitctl.exporting import to_torch
from vitctl.exporting.graph import GraphModel, InputForm, trace
from vitctl.exporting.source import Source
from vitctl.exporting.to_torch import read_pt2, write_pt2

METADATA: dict[str, Any] = {"class_names": ["花", 'a"b', "new\nline"], "preprocessing": {"mean": [0.1, 0.2, 0.3]}}


@pytest.fixture(scope="module")
def traced(source: Source) -> torch.export.ExportedProgram:
    return trace(GraphModel(source.model, ("logits", "embedding")), InputForm((16, 16)))


def entries_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def is_pickle(content: bytes) -> bool:
    """Return whether an unpickler would take ``content``, from its first to its last opcode."""
    try:
        operations = list(pickletools.genops(io.BytesIO(content)))
    except Exception:  # whatever bytes that are no opcodes provoke
        return False
    return bool(operations)


def test_pt2__gives_the_same_numbers_at_every_batch_size(good_folder: Path, source: Source) -> None:
    module, _ = read_pt2(good_folder / "pt2" / "model.pt2")
    expected = GraphModel(source.model, ("logits", "embedding")).eval()
    for num_images in (1, 2, 5):
        batch = torch.randn(num_images, 3, 16, 16, generator=torch.Generator().manual_seed(0))
        with torch.inference_mode():
            for found, wanted in zip(module(batch), expected(batch), strict=True):
                np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=0, atol=1e-6)


def test_pt2__holds_the_metadata_as_an_extra_file(traced: torch.export.ExportedProgram, tmp_path: Path) -> None:
    write_pt2(traced, tmp_path / "m.pt2", metadata=METADATA)
    assert read_pt2(tmp_path / "m.pt2")[1] == METADATA
    assert "花" in entries_of(tmp_path / "m.pt2")["extra/vitctl.json"].decode()


def test_pt2__is_detected_as_pickle_where_it_is_one() -> None:
    buffer = io.BytesIO()
    torch.save(torch.zeros(2), buffer)
    with zipfile.ZipFile(buffer) as archive:
        assert [is_pickle(archive.read(name)) for name in archive.namelist() if name.endswith("data.pkl")] == [True]


def test_pt2__holds_no_pickle(good_folder: Path) -> None:
    entries = entries_of(good_folder / "pt2" / "model.pt2")
    assert not [name for name, content in entries.items() if is_pickle(content)]
    assert not [name for name, content in entries.items() if content[:2] == b"PK"]  # nor an archive, which may hold one
    assert entries["data/sample_inputs/model.pt"] == b""  # torch's own example inputs would be one


def test_pt2__holds_every_weight_as_bare_numbers(good_folder: Path, source: Source) -> None:
    entries = entries_of(good_folder / "pt2" / "model.pt2")
    stored = {content for name, content in entries.items() if name.startswith("data/weights/weight_")}
    assert stored == {value.numpy().tobytes() for value in source.model.state_dict().values()}


def test_pt2__names_no_place_on_this_machine(good_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    home, packages = str(Path.home()), str(Path(torch.__file__).parents[1])
    for name, content in entries_of(good_folder / "pt2" / "model.pt2").items():
        for place in (
            "site-packages",
            packages,
            home,
            str(tmp_path_factory.getbasetemp()),
            str(Path(__file__).parents[2]),
        ):
            assert place.encode() not in content, (name, place)


def test_writing__leaves_the_program_as_it_was(traced: torch.export.ExportedProgram, tmp_path: Path) -> None:
    before = traced.example_inputs
    assert before is not None
    write_pt2(traced, tmp_path / "m.pt2", metadata=METADATA)
    assert traced.example_inputs is before


def test_writing__that_fails_leaves_the_program_as_it_was(
    traced: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    before = traced.example_inputs
    monkeypatch.setattr(torch.export, "save", full)
    with pytest.raises(OSError, match="No space left"):
        write_pt2(traced, tmp_path / "m.pt2", metadata=METADATA)
    assert traced.example_inputs is before


def test_writing__where_there_is_no_folder_is_an_os_error(traced: torch.export.ExportedProgram, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="gone"):  # and not a RuntimeError, for which another way would be tried
        write_pt2(traced, tmp_path / "gone" / "m.pt2", metadata=METADATA)


def test_writing__on_a_full_disk_is_an_os_error(traced: torch.export.ExportedProgram, tmp_path: Path) -> None:
    """In a process of its own: where torch itself writes to the path, a full disk is the end of the process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forks in processes that have threads
        child = os.fork()
    if child == 0:
        code = 1
        try:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit fails with EFBIG
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
            write_pt2(traced, tmp_path / "m.pt2", metadata=METADATA)
        except OSError:
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0


@pytest.mark.parametrize("share", [0.0, 0.3, 0.97, 0.9999])
def test_reading__a_truncated_file_fails(good_folder: Path, tmp_path: Path, share: float) -> None:
    whole = (good_folder / "pt2" / "model.pt2").read_bytes()
    (tmp_path / to_torch.FILE).write_bytes(whole[: int(share * len(whole))])
    with pytest.raises((RuntimeError, OSError, ValueError, EOFError, zipfile.BadZipFile)):
        read_pt2(tmp_path / to_torch.FILE)


def test_reading__without_the_metadata_fails(
    traced: torch.export.ExportedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.export, "load", lambda *_arguments, **_options: traced)  # which finds no extra file
    with pytest.raises(ValueError, match="not JSON: Expecting value"):
        read_pt2(tmp_path / "m.pt2")
