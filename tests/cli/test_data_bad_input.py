"""Hostile data, for ``vitctl data`` and ``vitctl finetune`` alike: what was found, expected, and what to try."""

import gzip
import io
import os
import struct
import tarfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

unseen = pytest.mark.usefixtures("no_rendering")  # for tests that look at no picture


def png(seed: int, *, height: int = 12, width: int = 14) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def bomb(width: int, height: int) -> bytes:
    """Return the bytes of a PNG whose header promises ``width`` x ``height`` px and whose body holds none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


# --- what is handed over: a function that writes into a folder and returns the spec and its options ---------


def pets(folder: Path) -> str:
    """A folder of two classes of 6 images, in which nothing is wrong."""
    for label, name in enumerate(("cat", "dog")):
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(6):
            (folder / "pets" / name / f"{number}.png").write_bytes(png(10 * label + number))
    return f"{folder}/pets"


def pets_with(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        spec = pets(folder)
        (folder / "pets" / name).write_bytes(content)
        return spec

    return write


def link_to_above(folder: Path) -> str:
    spec = pets(folder)
    (folder / "pets" / "cat" / "more").symlink_to(folder / "pets")
    return spec


def link_to_itself(folder: Path) -> str:
    spec = pets(folder)
    (folder / "pets" / "cat" / "loop.png").symlink_to("loop.png")
    return spec


def table(*lines: str, suffix: str = ".csv") -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        pets(folder)
        (folder / f"table{suffix}").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return f"{folder}/table{suffix}"

    return write


def table_bytes(content: bytes, suffix: str) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        (folder / f"table{suffix}").write_bytes(content)
        return f"{folder}/table{suffix}"

    return write


def parquet(images: Any, **columns: Any) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        pq.write_table(pa.table({"image": images, **columns}), folder / "table.parquet")
        return f"{folder}/table.parquet"

    return write


def idx(folder: Path, *, images: bytes, labels: bytes, suffix: str = "") -> str:
    (folder / "mnist").mkdir()
    (folder / "mnist" / f"train-images-idx3-ubyte{suffix}").write_bytes(images)
    (folder / "mnist" / f"train-labels-idx1-ubyte{suffix}").write_bytes(labels)
    return f"{folder}/mnist"


def idx_images(num_images: int, side: int, content: bytes) -> bytes:
    return bytes([0, 0, 8, 3]) + struct.pack(">III", num_images, side, side) + content


IDX_LABELS = bytes([0, 0, 8, 1]) + struct.pack(">I", 8) + bytes([0, 1] * 4)
EIGHT = np.random.default_rng(0).integers(0, 256, 8 * 16 * 16, dtype=np.uint8).tobytes()


def idx_truncated_gzip(folder: Path) -> str:
    whole = gzip.compress(idx_images(8, 16, EIGHT), mtime=0)
    return idx(folder, images=whole[: len(whole) // 2], labels=gzip.compress(IDX_LABELS, mtime=0), suffix=".gz")


def idx_lying_header(folder: Path) -> str:
    return idx(folder, images=idx_images(2**31, 2**16, EIGHT), labels=IDX_LABELS)


def idx_fewer_labels(folder: Path) -> str:
    return idx(folder, images=idx_images(7, 16, EIGHT[: 7 * 256]), labels=IDX_LABELS)


def tar(*members: tuple[str, bytes], name: str = "pets.tar", mode: str = "w") -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        with tarfile.open(folder / name, mode) as archive:  # type: ignore[call-overload]
            for member, content in members:
                info = tarfile.TarInfo(member)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
        return f"{folder}/{name}"

    return write


SAMPLES = [(f"{label}/{number}.png", png(number)) for number, label in enumerate(("cat", "dog") * 4)]


def tar_truncated(folder: Path) -> str:
    spec = tar(*SAMPLES)(folder)
    os.truncate(spec, 512 * 3)  # a header of 512 bytes, then a part of its image or the next header
    with Path(spec).open("r+b") as file:
        file.truncate(700)
    return spec


def tar_of_noise(folder: Path) -> str:
    (folder / "pets.tar").write_bytes(bytes(range(256)) * 40)
    return f"{folder}/pets.tar"


def saved(folder: Path) -> str:
    rows = {"image": [{"bytes": png(number), "path": None} for number in range(8)], "label": ["cat", "dog"] * 4}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    disable = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(folder / "saved"))
    if disable:
        datasets.enable_progress_bars()
    return f"{folder}/saved"


def saved_with(name: str, content: bytes) -> Callable[[Path], str]:
    def write(folder: Path) -> str:
        spec = saved(folder)
        next((folder / "saved").glob(name)).write_bytes(content)
        return spec

    return write


def spec_of(text: str) -> Callable[[Path], str]:
    return lambda folder: text


@dataclass(frozen=True)
class Case:
    """What is handed over, the options beside it, the exit code, words of the sentence, the commands it is for."""

    write: Callable[[Path], str]
    exit_code: int
    words: tuple[str, ...]
    options: str = ""
    commands: tuple[str, ...] = ("finetune", "data")


ROWS = [f"pets/{name}/{number}.png,{name}" for name in ("cat", "dog") for number in range(6)]
FINETUNE_ONLY = ("finetune",)

CASES: dict[str, Case] = {
    # folders
    "decompression bomb": Case(
        pets_with("cat/bomb.png", bomb(20_000, 20_000)), 3,
        ("cat/bomb.png", "400,000,000", "decompression bomb", "--on-bad-image skip"), commands=FINETUNE_ONLY,
    ),
    "link to above": Case(link_to_above, 3, ("cat/more", "leads back", "Remove the link")),
    "link to itself": Case(link_to_itself, 3, ("loop.png", "cannot be read"), commands=FINETUNE_ONLY),
    "column of a folder": Case(pets, 2, ("--image-column is given", "no use", "leave it out"), "--image-column image"),
    "label column of a folder": Case(pets, 2, ("--label-column is given", "no use"), "--label-column y"),
    "group column of a folder": Case(pets, 2, ("--group-column is given", "no use"), "--group-column patient"),
    "root of a folder": Case(pets, 2, ("--image-root is given", "no use"), "--image-root ."),
    "pattern without a group": Case(
        pets, 2, ("--group-pattern is '*_*'", "{group}", "'{group}/*'"), "--group-pattern *_*"
    ),
    "pattern with two groups": Case(
        pets, 2, ("--group-pattern is", "{group}", "once"), "--group-pattern {group}_{group}.png"
    ),
    "pattern that fits nothing": Case(
        pets, 3, ("--group-pattern '{group}_*'", "12 of 12", "cat/0.png"), "--group-pattern {group}_*"
    ),
    "column and pattern": Case(
        table("image,label", *ROWS), 2, ("--group-column and --group-pattern are both given", "one way"),
        "--group-column label --group-pattern {group}/*",
    ),
    # tables
    "csv climbs out": Case(
        table("image,label", *ROWS, "../secret.png,cat"), 3, ("Row 13", "climbs out", "--image-root")
    ),
    "csv climbs out slyly": Case(table("image,label", "pets/../../secret.png,cat"), 3, ("Row 1", "climbs out")),
    "csv address": Case(
        table("image,label", "https://example.org/1.png,cat"), 3, ("Row 1", "is an address", "downloads")
    ),
    "csv address of a file": Case(table("image,label", "file:///etc/passwd,cat"), 3, ("Row 1", "is an address")),
    "csv empty path": Case(table("image,label", *ROWS[:2], ",dog"), 3, ("Row 3", "is empty")),
    "csv image gone": Case(
        table("image,label", *ROWS, "pets/cat/77.png,cat"), 3, ("pets/cat/77.png: no such file",),
        commands=FINETUNE_ONLY,
    ),
    "csv without labels": Case(
        table("image,colour", "a.png,red"), 3, ("no column known to hold labels", "'colour'", "--label-column")
    ),
    "csv without images": Case(
        table("who,label", "a.png,red"), 3, ("no column known to hold images", "'who'", "--image-column")
    ),
    "csv misspelt column": Case(
        table("image,colour", *ROWS), 3, ("'color'", "--label-column", "Did you mean 'colour'"), "--label-column color"
    ),
    "csv misspelt group": Case(
        table("image,label,patient", "a.png,cat,1"), 3, ("'patent'", "--group-column", "Did you mean 'patient'"),
        "--group-column patent",
    ),
    "csv ambiguous images": Case(
        table("image,file_name,label", "a.png,b.png,cat"), 3,
        ("more than one image column", "'image', 'file_name'", "--image-column"),
    ),
    "csv ambiguous labels": Case(
        table("image,label,class", "a.png,cat,pet"), 3,
        ("more than one label column", "'label', 'class'", "--label-column"),
    ),
    "csv one name twice": Case(table("image,label,label", "a.png,cat,cat"), 3, ("two columns of one name", "Rename")),
    "csv multi-label": Case(
        table("image,label", *ROWS, "pets/cat/0.png,dog"), 3, ("multi-label", "row 13", "'dog'", "'cat'", "one class")
    ),
    "csv hole": Case(table("image,label", *ROWS, "pets/cat/0.png,"), 3, ("1 of 13 rows without a label", "row 13")),
    "csv empty": Case(table(), 3, ("table.csv", "empty", "names of the columns")),
    "csv header only": Case(table("image,label"), 3, ("table.csv", "no rows")),
    "jsonl empty": Case(table(suffix=".jsonl"), 3, ("table.jsonl", "no rows")),
    "parquet without rows": Case(
        parquet(pa.array([], pa.binary()), label=pa.array([], pa.string())), 3, ("table.parquet", "no rows")
    ),
    "csv ragged": Case(
        table("image,label", "a.png,cat", "b.png,cat,dog,fish"), 3, ("Line 3", "table.csv", "4 values", "expected 2")
    ),
    "csv of noise": Case(table_bytes(bytes(range(256)) * 8, ".csv"), 3, ("table.csv", "cannot be read")),
    "csv root missing": Case(
        table("image,label", *ROWS), 3, ("--image-root", "nowhere", "not a folder"), "--image-root nowhere"
    ),
    "jsonl broken": Case(
        table('{"image": "a.png", "label": ', suffix=".jsonl"), 3,
        ("Line 1", "table.jsonl", "not JSON", "expected an object, {...}, per line"),
    ),
    "jsonl multi-label": Case(
        table('{"image": "a.png", "label": ["cat", "dog"]}', suffix=".jsonl"), 3, ("multi-label", "['cat', 'dog']")
    ),
    "parquet of noise": Case(
        table_bytes(b"PAR1" + bytes(500), ".parquet"), 3, ("table.parquet", "cannot be read as Parquet")
    ),
    "parquet truncated": Case(table_bytes(b"PAR1", ".parquet"), 3, ("table.parquet", "cannot be read as Parquet")),
    "parquet broken image": Case(
        parquet([png(0), png(1), png(2), png(3)[:40]], label=["a", "b", "a", "b"]), 3,
        ("table.parquet/3", "1 of 4", "--on-bad-image skip"), commands=FINETUNE_ONLY,
    ),
    "parquet multi-label": Case(
        parquet([png(0), png(1)], label=[["cat"], ["cat", "dog"]]), 3, ("multi-label", "one class per image")
    ),
    "parquet float labels": Case(parquet([png(0), png(1)], label=[0.5, 1.5]), 3, ("float", "0.5", "class names")),
    "parquet images are numbers": Case(
        parquet([1, 2], label=["a", "b"]), 3, ("int64", "'image'", "expected images", "--image-column")
    ),
    # IDX
    "idx truncated gzip": Case(idx_truncated_gzip, 3, ("train-images-idx3-ubyte.gz", "truncated", "copy it again")),
    "idx lying header": Case(idx_lying_header, 3, ("2147483648x65536x65536", "2,048 bytes follow", "copy it again")),
    "idx fewer labels": Case(idx_fewer_labels, 3, ("7 images", "8 labels", "as many of each")),
    # tar shards
    "tar truncated": Case(tar_truncated, 3, ("pets.tar", "truncated", "Copy it again")),
    "tar of noise": Case(tar_of_noise, 3, ("pets.tar", "cannot be read as a tar file")),
    "tar compressed": Case(
        tar(*SAMPLES, name="pets.tar.gz", mode="w:gz"), 3, ("pets.tar.gz", "is compressed", "decompress")
    ),
    "tar compressed but named tar": Case(tar(*SAMPLES, mode="w:gz"), 3, ("pets.tar", "cannot be read as a tar file")),
    "tar without classes": Case(tar(("1.png", png(1)), ("2.png", png(2))), 3, ("no class for 1.png", "1.cls")),
    "tar without images": Case(tar(("1.txt", b"hello")), 3, ("no image", "expected members")),
    "tar multi-label": Case(
        tar(("1.png", png(1)), ("1.json", b'{"label": ["a", "b"]}')), 3, ("multi-label", "1.png", "one class")
    ),
    "tar json broken": Case(tar(("1.png", png(1)), ("1.json", b'{"label"')), 3, ("1.json", "cannot be read")),
    "tar missing": Case(spec_of("shards/train-*.tar"), 3, ("no file like shards/train-*.tar",)),
    # saved sets, the hub, nothing
    "saved state broken": Case(saved_with("state.json", b"{"), 3, ("state.json cannot be read: it is not JSON",)),
    "saved state of a list": Case(saved_with("state.json", b"[]"), 3, ("state.json cannot be read: it holds []",)),
    "saved arrow broken": Case(saved_with("*.arrow", b"\0" * 99), 3, ("saved", "cannot be read as a saved data set")),
    "saved misspelt column": Case(saved, 3, ("'imgae'", "Did you mean 'image'"), "--image-column imgae"),
    "hub malformed": Case(spec_of("hub:mnist"), 3, ("'hub:mnist'", "expected hub:OWNER/NAME")),
    "hub empty": Case(spec_of("hub:"), 3, ("expected hub:OWNER/NAME",)),
    "hub without network": Case(
        spec_of("hub:nobody/nothing"), 3, ("hub:nobody/nothing", "cannot be read", "save_to_disk")
    ),
    "missing": Case(spec_of("nowhere"), 3, ("nothing at", "a table", "hub:OWNER/NAME")),
    # options of finetune
    "weights and sampler": Case(
        pets, 2, ("--class-weights balanced and --sampler balanced", "Keep one"),
        "--class-weights balanced --sampler balanced", FINETUNE_ONLY,
    ),
    "resized digits": Case(
        spec_of("digits"), 2, ("--cache resized", "digits", "in memory"), "--cache resized", FINETUNE_ONLY
    ),
    "misspelt cache": Case(pets, 2, ("--cache is 'resize'", "Did you mean 'resized'"), "--cache resize", FINETUNE_ONLY),
    "misspelt sampler": Case(
        pets, 2, ("--sampler is 'balance'", "Did you mean 'balanced'"), "--sampler balance", FINETUNE_ONLY
    ),
    "misspelt weights": Case(
        pets, 2, ("--class-weights is 'blanced'", "Did you mean 'balanced'"), "--class-weights blanced", FINETUNE_ONLY
    ),
    "nothing named": Case(spec_of(""), 2, ("empty",)),
}  # fmt: skip


def as_command(command: str, spec: str, options: str, model: Path) -> list[object]:
    if command == "data":
        return ["data", spec, "--out", "out", *options.split(), "--json"]
    arguments: list[object] = ["finetune", f"--data={spec}", "--model", model, "--steps", 1, "--num-workers", 0]
    return [*arguments, "--out", "out", "--json", *options.split()]


@pytest.mark.parametrize(
    ("case", "command"), [(name, command) for name, case in CASES.items() for command in case.commands]
)
def test_bad_data(
    case: str, command: str, refused: Callable[..., None], tmp_path: Path, tiny_model_folder: Path
) -> None:
    wanted = CASES[case]
    spec = wanted.write(tmp_path)
    refused(as_command(command, spec, wanted.options, tiny_model_folder), wanted.exit_code, wanted.words)


# --- what may not be read ----------------------------------------------------------------------------------


@pytest.fixture
def forbidden(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Paths that the system refuses to open or list; root would pass any permission bits."""
    paths: set[str] = set()
    real_open, real_scandir, real_listdir = Image.open, os.scandir, os.listdir

    def check(path: Any) -> None:
        if isinstance(path, (str, os.PathLike)) and os.fspath(path) in paths:
            raise PermissionError(13, "Permission denied", os.fspath(path))

    def guarded(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(path: Any = ".", *args: Any, **options: Any) -> Any:
            check(path)
            return real(path, *args, **options)

        return call

    monkeypatch.setattr(Image, "open", guarded(real_open))
    monkeypatch.setattr(os, "scandir", guarded(real_scandir))
    monkeypatch.setattr(os, "listdir", guarded(real_listdir))
    return paths


def test_unreadable_image__named(run_cli, tmp_path: Path, tiny_model_folder: Path, forbidden: set[str]) -> None:
    spec = pets(tmp_path)
    forbidden.add(f"{spec}/dog/2.png")
    result = run_cli(*as_command("finetune", spec, "", tiny_model_folder))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "dog/2.png: permission denied" in result.stderr
    assert not Path("out").exists()
    report = run_cli(*as_command("data", spec, "", tiny_model_folder)).json
    assert report["bad"] == [{"image": f"{spec}/dog/2.png", "split": "all", "reason": "permission denied"}]


@pytest.mark.parametrize("command", ["finetune", "data"])
@pytest.mark.parametrize("path", ["", "/cat", "/cat/more"])
def test_unreadable_folder__named(
    run_cli, tmp_path: Path, tiny_model_folder: Path, forbidden: set[str], path: str, command: str
) -> None:
    spec = pets(tmp_path)
    Path(spec, "cat", "more").mkdir()
    forbidden.add(spec + path)
    result = run_cli(*as_command(command, spec, "", tiny_model_folder))
    assert (result.exit_code, result.stdout) == (3, ""), result.stderr
    for word in (spec + path, "Permission denied", "that you may read"):
        assert word in result.stderr
    assert not Path("out").exists()


# --- odd, but not bad --------------------------------------------------------------------------------------


def check_both_run(run_cli: Callable[..., Any], spec: str, model: Path, *, num_images: int) -> dict[str, Any]:
    """Run both commands on ``spec`` and return the report of ``data``."""
    summary = run_cli(*as_command("finetune", spec, "", model)).json
    assert summary["num_train"] + summary["num_val"] == num_images
    result = run_cli("data", spec, "--out", "report", "--json")
    assert result.exit_code == 0, result.stderr
    report = result.json
    assert sum(one["num_images"] for one in report["splits"].values()) == num_images
    assert report["bad"] == []
    assert run_cli("data", spec, "--out", "report").exit_code == 0
    return dict(report)


@unseen
def test_strip_of_20000_px__runs(run_cli, tmp_path: Path, tiny_model_folder: Path) -> None:
    spec = pets_with("cat/strip.png", png(7, height=9, width=20_000))(tmp_path)
    report = check_both_run(run_cli, spec, tiny_model_folder, num_images=13)
    assert report["aspect_ratios"]["worst"][0]["size"] == [9, 20_000]


@unseen
def test_csv_with_a_byte_order_mark__runs(run_cli, tmp_path: Path, tiny_model_folder: Path) -> None:
    pets(tmp_path)
    (tmp_path / "table.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["image,label", *ROWS]).encode())
    report = check_both_run(run_cli, str(tmp_path / "table.csv"), tiny_model_folder, num_images=12)
    assert report["splits"]["all"]["classes"] == {"cat": 6, "dog": 6}


NOT_UTF8 = [b"caf\xe9"]
ODD_TEXTS = ["\u82b1 \U0001f338".encode(), b"line\nbreak", b"[red]x", b"$\\frac{$", b"100% #1"]


@pytest.mark.parametrize("names", [NOT_UTF8, ODD_TEXTS])
def test_odd_file_names__run(run_cli, unchanged, tmp_path: Path, tiny_model_folder: Path, names: list[bytes]) -> None:
    spec = pets(tmp_path)
    paths = [f"{spec}/cat/{os.fsdecode(name)}.png" for name in names]
    for number, path in enumerate(paths):
        Path(path).write_bytes(png(50 + number))
        Path(path).with_suffix(".copy.png").write_bytes(png(50 + number))  # so that the report names it
    with unchanged(tmp_path):
        report = check_both_run(run_cli, spec, tiny_model_folder, num_images=12 + 2 * len(names))
    assert set(paths) < {one["image"] for group in report["duplicates"]["groups"] for one in group}


@pytest.mark.parametrize("names", [NOT_UTF8, ODD_TEXTS])
def test_odd_class_names__run(run_cli, tmp_path: Path, tiny_model_folder: Path, names: list[bytes]) -> None:
    spec = pets(tmp_path)
    class_names = {"cat", "dog", *map(os.fsdecode, names)}
    for number, name in enumerate(names):
        Path(spec, os.fsdecode(name)).mkdir()
        for index in range(6):
            Path(spec, os.fsdecode(name), f"{index}.png").write_bytes(png(100 + 10 * number + index))
    report = check_both_run(run_cli, spec, tiny_model_folder, num_images=6 * len(class_names))
    assert report["splits"]["all"]["classes"] == dict.fromkeys(class_names, 6)
    result = run_cli("evaluate", "out", "--num-workers", 0, "--json")
    assert result.exit_code == 0, result.stderr
    assert {row["class"] for row in result.json["per_class"]} == class_names


# --- evaluate ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "case", ["csv climbs out", "csv multi-label", "parquet of noise", "tar truncated", "saved state broken"]
)
def test_evaluate__bad_data(case: str, refused: Callable[..., None], finished_run: Path, tmp_path: Path) -> None:
    spec = CASES[case].write(tmp_path)
    refused(["evaluate", finished_run, "--data", spec, "--out", "out", "--json"], 3, CASES[case].words, finished_run)
