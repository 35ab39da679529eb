"""A folder with every oddity of people's folders at once: what each command says of it, and that none is lost.

``python tests/cli/test_odd_folder.py FOLDER`` writes it, to look at.
"""

import io
import json
import sys
import unicodedata
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

NFC, NFD = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
LEFT_OUT = {".heic": 3, ".dcm": 2, ".nef": 1, ".svg": 1, ".tga": 1, ".webm": 1}
READ = (".png", ".JPG", ".jpe", ".avif", ".j2k", ".apng", ".webp", ".tif", ".gif", ".bmp")


def write_odd_folder(top: Path) -> Path:
    """Write the folder and return it: ``download/Flowers/`` with Training, valid and much else."""
    inside = top / "download" / "Flowers"
    classes = [(NFC, 4), (NFD, 3), ("Rose 10", 10), ("Rose 2", 6), ("@eaDir", 2), (".thumbs", 2)]
    for split, first in (("Training", 0), ("valid", 50), ("holdout", 90)):
        for place, (name, count) in enumerate(classes[1 if split == "valid" else 0 :]):
            for number in range(count):
                _picture(inside / split / name / f"{number + 1}{READ[number]}", seed=first * 100 + 20 * place + number)
    for number in range(4):
        _picture(inside / "unlabeled" / f"{number}.png", seed=9_000 + number)
    _picture(inside / "Training" / "Rose 2" / "close up" / "deep.png", seed=9_100)
    _picture(inside / "Training" / "cover.png", seed=9_101)
    others = {
        f"Training/{NFC}": ("1.heic", "2.HEIC", "scan.dcm", "sketch.svg", "notes.txt", "._1.nef", "Thumbs.db"),
        "Training/Rose 2": ("raw.nef", "texture.tga", "clip.webm"),
        "valid/Rose 2": ("3.heic", "b.DCM"),
        ".": ("LICENSE.txt", "cover.psd"),
        "../..": (".DS_Store", "read me.md"),
        "docs": ("how.pdf",),
    }
    for folder, names in others.items():
        (inside / folder).mkdir(exist_ok=True)
        for name in names:
            (inside / folder / name).write_bytes(_heic() if name.lower().endswith(".heic") else b"-" * 40)
    _picture(top / "__MACOSX" / "Flowers" / "Training" / "._1.png", seed=0)
    return top


def _heic() -> bytes:
    """Return a HEIC photo where one can be made."""
    try:
        from pillow_heif import from_pillow
    except ImportError:
        return b"-" * 40
    file = io.BytesIO()
    from_pillow(Image.new("RGB", (32, 24), "teal")).save(file)
    return file.getvalue()


def _picture(path: Path, *, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, size=(24, 32, 3), dtype=np.uint8)
    kind = {".jpe": "JPEG", ".JPG": "JPEG", ".apng": "PNG"}.get(path.suffix)
    Image.fromarray(pixels).save(path, kind)


@pytest.fixture(scope="module")
def odd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_odd_folder(tmp_path_factory.mktemp("odd") / "odd")


@pytest.fixture(scope="module")
def odd_zip(odd_folder: Path) -> Path:
    """The same, packed with another class folder's order and without entries for folders."""
    path = odd_folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(odd_folder.rglob("*"), reverse=True):
            if file.is_file():
                archive.write(file, file.relative_to(odd_folder))
    return path


@pytest.fixture(autouse=True)
def _without_heif(monkeypatch: pytest.MonkeyPatch, no_rendering: None) -> None:
    from vitctl.data import endings, heif

    for module in (endings, heif):
        monkeypatch.setattr(module, "has_heif", lambda: False)


def _report(run_cli: Callable[..., Any], spec: Path, out: str) -> dict[str, Any]:
    result = run_cli("data", spec, "--out", out, "--json")
    assert result.exit_code == 0
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def test_data__everything_is_read_or_said(odd_folder: Path, run_cli: Callable[..., Any]) -> None:
    before = sorted((str(path), path.stat().st_mtime_ns) for path in odd_folder.rglob("*"))
    report = _report(run_cli, odd_folder, "d")
    assert report["description"] == "a folder with Training/, valid/"
    assert report["class_names"] == [NFC, "Rose 2", "Rose 10"]
    assert {name: one["classes"] for name, one in report["splits"].items()} == {
        "train": {NFC: 7, "Rose 2": 7, "Rose 10": 10},
        "val": {NFC: 3, "Rose 2": 6, "Rose 10": 10},
    }
    assert report["left_out"] == LEFT_OUT
    assert report["bad"] == []
    inside = odd_folder / "download" / "Flowers"
    assert report["warnings"][:5] == [
        f"{odd_folder} holds nothing but download/Flowers/, whose folders are read.",
        f"docs/, holdout/ and unlabeled/ beside the splits of {inside} are not read.",
        "1 class is spelt with letters taken apart (Unicode NFD, as macOS does), 'café' first; both spellings count as "
        "one class, with composed letters (NFC).",
        f"1 image of {inside}/Training lies outside the class folders, cover.png first, and is not read.",
        "3 .heic, 2 .dcm, 1 .nef, 1 .svg, 1 .tga and 1 .webm files are not read; pip install 'vitctl[heic]' reads "
        ".heic.",
    ]
    assert sorted((str(path), path.stat().st_mtime_ns) for path in odd_folder.rglob("*")) == before


def test_data__the_archive_has_the_same_report(odd_folder: Path, odd_zip: Path, run_cli: Callable[..., Any]) -> None:
    ours, theirs = (_report(run_cli, spec, "d") for spec in (odd_zip, odd_folder))
    for key in ("class_names", "splits", "images", "left_out", "duplicates", "fingerprint", "num_classes"):
        assert ours[key] == theirs[key], key
    assert [text.replace(str(odd_zip), str(odd_folder)) for text in ours["warnings"]] == theirs["warnings"]


LINE = "left out  3 .heic, 2 .dcm, 1 .nef, 1 .svg, 1 .tga, 1 .webm  not read; pip install 'vitctl[heic]' reads .heic"


def test_finetune_and_evaluate__count_what_they_do_not_read(
    odd_zip: Path, tiny_model_folder: Path, run_cli: Callable[..., Any]
) -> None:
    trained = run_cli(
        "finetune", "--data", odd_zip, "--model", tiny_model_folder, "--steps", 1, "--batch-size", 4,
        "--num-workers", 0, "--head", "zero", "--image-size", 16, "--out", "run", "--json",
    )  # fmt: skip
    assert json.loads(trained.stdout)["left_out"] == LEFT_OUT
    assert LINE in _squeezed(trained.stderr)
    assert "holdout/ and unlabeled/ beside the splits" in trained.stderr
    answer = run_cli("evaluate", "run", "--data", odd_zip, "--num-workers", 0, "--out", "e", "--json")
    assert json.loads(answer.stdout)["left_out"] == {".dcm": 1, ".heic": 1}
    assert "left out  1 .dcm, 1 .heic  not read" in _squeezed(answer.stderr)


def test_fewshot_eval__counts_what_it_does_not_read(
    odd_folder: Path, tiny_model_folder: Path, run_cli: Callable[..., Any]
) -> None:
    shots = ("--shots", 1, "--seeds", 1, "--num-workers", 0, "--out", "f", "--json")
    answer = run_cli("fewshot-eval", "--model", tiny_model_folder, "--data", odd_folder, *shots)
    assert json.loads(answer.stdout)["left_out"] == LEFT_OUT
    assert LINE in _squeezed(answer.stderr)
    assert "holdout/ and unlabeled/ beside the splits" in answer.stderr


def test_predict__counts_what_it_does_not_read(
    odd_folder: Path, finished_run: Path, run_cli: Callable[..., Any]
) -> None:
    answer = run_cli("predict", finished_run, odd_folder / "download" / "Flowers" / "Training", "--json")
    assert json.loads(answer.stdout)["left_out"] == {
        ".heic": 2, ".dcm": 1, ".nef": 1, ".svg": 1, ".tga": 1, ".webm": 1,
    }  # fmt: skip
    assert "1 .webm files are not read; pip install 'vitctl[heic]' reads .heic." in " ".join(answer.stderr.split())


def _squeezed(text: str) -> str:
    """Return ``text`` with the columns of a header two spaces apart."""
    return "\n".join("  ".join(part.strip() for part in line.split("  ") if part.strip()) for line in text.splitlines())


if __name__ == "__main__":
    print(write_odd_folder(Path(sys.argv[1])))
