"""Names of files, folders and classes that a terminal would obey: none of it reaches one."""

import csv
import os
import pty
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from vitctl.shown import shown

# a window's title; the clipboard; back to the start of the line; a line of its own; C1; blinking red; turned text; a
# byte that is no text; rich's markup and emoji codes
ACTS = "\x1b]0;title\x07\x1b]52;c;cHduZWQ=\x07\rFORGED\nFORGED\x9b5;41m\x1b[5;41m\u202e\u2066\u061c\x08\x7f\udcff"
NAME = f"n{ACTS}[red]:dog:"
TEXT = NAME.replace("\udcff", "")
# what rich and vitctl itself say: colours and styles, the cursor, erased lines; and how a line ends
OURS = re.compile(rb"\x1b\[[0-9;]*m|\x1b\[\?25[hl]|\x1b\[[0-9]*[AGK]|\r*\n|\r(?=\x1b\[)")
UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufffd]")


def run_on_terminal(*args: object) -> tuple[int, bytes]:
    """Run ``vitctl ARGS...`` in a fork whose only terminal is ours; return its exit code and all that it wrote."""
    child, terminal = pty.fork()
    if child == 0:
        code = 70
        try:
            # pytest has put its own in the place of these
            sys.stdout, sys.stderr = (os.fdopen(number, "w", encoding="utf-8") for number in (1, 2))
            from vitctl.cli.app import app

            app([str(arg) for arg in args], prog_name="vitctl")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    written = b""
    while chunk := _read(terminal):
        written += chunk
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), written


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how Linux says that the other side is closed
        return b""


def check(written: bytes, *, times: int) -> None:
    """Check that a terminal got the names ``times`` times or more, and obeys nothing of them."""
    lines = OURS.sub(b"\n", written).decode("utf-8", "replace").split("\n")
    found = [(line, one) for line in lines for one in UNSEEN.findall(line)]
    assert not found
    assert b"\x1b[5;41m" not in written
    assert not [line for line in lines if line.lstrip().startswith("FORGED")]
    assert sum(line.count(r"\x1b]0;title\x07") for line in lines) >= times, lines
    assert "[red]:dog:" in " ".join(lines)


@pytest.fixture(scope="module")
def hostile_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes and an image of the same pixels in both, a file that is no image, all with names that act."""
    folder = tmp_path_factory.mktemp("foreign") / f"folder {NAME}"
    for label, name in enumerate((NAME, f"=1+1 {NAME}", "-1")):
        (folder / name).mkdir(parents=True)
        for index in range(4):
            Image.new("RGB", (16, 16), (80 * label, 20 * index, 0)).save(folder / name / f"{index} {NAME}.png")
    shutil.copy(folder / NAME / f"0 {NAME}.png", folder / "-1" / f"copy {NAME}.png")
    return folder


@pytest.fixture(scope="module")
def hostile_run(hostile_data: Path, tiny_model_folder: Path) -> tuple[Path, bytes]:
    """A run on those images, and what a terminal got of it."""
    run = hostile_data.parent / f"run {TEXT}"  # safetensors opens no path that is no text
    options = ("--model", tiny_model_folder, "--image-size", 16, "--steps", 2, "--num-workers", 0, "--out", run)
    from matplotlib.figure import Figure

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "2000")
        patch.setenv("TERM", "xterm-256color")
        patch.setattr(Figure, "savefig", lambda _figure, path, **_options: Path(path).write_bytes(b""))
        code, written = run_on_terminal("finetune", "--data", hostile_data, *options)
    assert code == 0, written
    return run, written


@pytest.fixture(autouse=True)
def _wide_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # no name is broken into lines
    monkeypatch.setenv("TERM", "xterm-256color")


def test_check__can_fail() -> None:
    for planted in (ACTS, "\x1b[5;41m", "\nFORGED", "\u2066", "\x9b"):
        with pytest.raises(AssertionError):
            check(f"{shown(ACTS)} [red]:dog: {planted}".encode(errors="surrogateescape"), times=1)
    check(f"\x1b[1m{shown(ACTS)}\x1b[0m [red]:dog:\r\n\r\x1b[2K\x1b[1A".encode(), times=1)


def test_finetune(hostile_run: tuple[Path, bytes]) -> None:
    check(hostile_run[1], times=4)


def test_data(hostile_data: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(hostile_data, tmp_path / NAME)
    (folder / "-1" / f"bad {NAME}.png").write_bytes(b"nothing")
    code, written = run_on_terminal("data", folder, "--out", tmp_path / "report")
    assert code == 0, written
    check(written, times=8)


@pytest.mark.parametrize(
    ("options", "times"), [((), 22), (("--csv",), 22), (("--json",), 1)], ids=["table", "csv", "json"]
)
def test_predict(hostile_run: tuple[Path, bytes], hostile_data: Path, options: tuple[str, ...], times: int) -> None:
    images = sorted((hostile_data / NAME).iterdir())
    code, written = run_on_terminal("predict", hostile_run[0], *images, f"gone {NAME}", *options)
    assert code == 3, written
    check(written, times=times)


@pytest.mark.usefixtures("no_rendering")
def test_evaluate(hostile_run: tuple[Path, bytes], hostile_data: Path, tmp_path: Path) -> None:
    out = tmp_path / NAME
    code, written = run_on_terminal("evaluate", hostile_run[0], "--data", hostile_data, "--split", "all", "--out", out)
    assert code == 0, written
    check(written, times=5)
    for path in (out / "predictions.csv", out / "confusion.csv"):
        text = path.read_bytes().decode()
        assert not UNSEEN.search(text.replace("\r\n", ""))
        cells = [cell for row in csv.reader(text.splitlines()) for cell in row]
        assert {shown(NAME), f"'=1+1 {shown(NAME)}", "-1"} <= set(cells)
        assert not [cell for cell in cells if cell[:1] in ("=", "+", "@")]


@pytest.mark.parametrize(
    ("line", "exit_code"),
    [
        (("data", NAME), 3),
        (("data", "digits", f"--{NAME}"), 2),
        (("data", "digits", NAME), 2),
        ((NAME,), 2),
        (("evaluate", NAME), 4),
        (("export", NAME), 4),
        (("finetune", "--steps", TEXT), 2),
        (("finetune", "--config", NAME), 2),
        (("finetune", "--recipe", NAME), 2),
        (("finetune", "--set", NAME), 2),
        (("guide", NAME), 2),
        (("models", NAME), 4),
    ],
    ids=lambda value: (
        " ".join(str(one)[:9] for one in value if one not in (NAME, TEXT)) if isinstance(value, tuple) else None
    ),
)
def test_what_is_refused(line: tuple[str, ...], exit_code: int) -> None:
    code, written = run_on_terminal(*line)
    lines = OURS.sub(b"\n", written).decode("utf-8", "replace").split("\n")
    assert not [one for one in lines if UNSEEN.search(one) or one.startswith("FORGED")]
    assert b"Traceback" not in written
    assert "title" in " ".join(lines)
    assert code == exit_code, written


def test_a_list_of_files_has_a_line_for_each(
    run_cli: Callable[..., object], hostile_data: Path, tiny_model_folder: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(hostile_data, tmp_path / "data")
    for number in range(2):
        (folder / "-1" / f"bad {number} {NAME}.png").write_bytes(b"nothing")
    result = run_cli("finetune", "--data", folder, "--model", tiny_model_folder, "--out", tmp_path / "run")
    assert result.exit_code == 3
    *_, above, first, second = result.stderr.splitlines()
    assert above.endswith(":")
    for number, line in enumerate((first, second)):
        assert line.startswith(f"  {folder}")
        assert line.endswith(f"bad {number} {shown(NAME)}.png: not an image that Pillow knows")
