"""``vitctl data``: every figure is the one that was planted, the data stay as they were, finetune does as it says."""

import csv
import io
import json
import re
import struct
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

unseen = pytest.mark.usefixtures("no_rendering")  # for tests that look at no picture

ORIENTATION = 0x0112  # EXIF tag


def noise(seed: int, *, height: int = 10, width: int = 8) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def photo(seed: int, *, height: int, width: int) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def bomb(width: int, height: int) -> bytes:
    """Return the bytes of a PNG whose header promises ``width`` x ``height`` px and whose body holds none."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.fixture
def planted(tmp_path: Path) -> Path:
    """Splits train (cat 60, dog 8, rare 1) and test (cat 3, fish 1): 73 images, with one of every fault."""
    folder = tmp_path / "planted"
    cat, dog, rare = (folder / "train" / name for name in ("cat", "dog", "rare"))
    test_cat, fish = folder / "test" / "cat", folder / "test" / "fish"
    for path in (cat, dog, rare, test_cat, fish):
        path.mkdir(parents=True)
    for number in range(50):
        noise(number).save(cat / f"{number}.png")
    (cat / "copy.png").write_bytes((cat / "0.png").read_bytes())  # a duplicate within a class
    photo(1, height=264, width=300).save(cat / "photo.jpg", quality=90)
    with Image.open(cat / "photo.jpg") as image:
        image.convert("RGB").save(cat / "photo.png")  # the same pixels in another format
    photo(2, height=64, width=64).save(cat / "cut.jpg", quality=95)
    (cat / "cut.jpg").write_bytes((cat / "cut.jpg").read_bytes()[:900])
    (cat / "empty.png").write_bytes(b"")
    (cat / "text.jpg").write_text("not an image")
    (cat / "bomb.png").write_bytes(bomb(20_000, 20_000))
    Image.new("RGB", (20_000, 10), "navy").save(cat / "strip.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6  # shown upright it is 48 px high and 32 px wide
    photo(3, height=32, width=48).save(cat / "turned.jpg", exif=exif)
    photo(4, height=10, width=8).convert("CMYK").save(cat / "cmyk.jpg")
    for number in range(5):
        noise(100 + number).save(dog / f"{number}.png")
    (dog / "from-cat.png").write_bytes((cat / "1.png").read_bytes())  # across classes
    noise(110).convert("L").save(dog / "grey.png")
    noise(111).quantize(16).save(dog / "palette.png")
    noise(200).save(rare / "0.png")
    noise(300).save(test_cat / "0.png")
    noise(301).save(test_cat / "1.png")
    (test_cat / "from-train.png").write_bytes((cat / "2.png").read_bytes())  # across splits
    noise(400).save(fish / "0.png")
    return folder


@pytest.fixture
def twins(tmp_path: Path) -> Path:
    """Three classes of 10 pairs of equal images: the report names where every image goes."""
    folder = tmp_path / "twins"
    for label, name in enumerate(("a", "b", "c")):
        (folder / name).mkdir(parents=True)
        for number in range(10):
            for copy in ("x", "y"):
                noise(100 * label + number).save(folder / name / f"{number}{copy}.png")
    return folder


def rows_of(report: dict[str, Any]) -> set[tuple[tuple[str, str, str, str], ...]]:
    """Return the groups of duplicates: the end of each path, split, class, and where it goes."""

    def row(one: dict[str, str]) -> tuple[str, str, str, str]:
        return "/".join(Path(one["image"]).parts[-2:]), one["split"], one["class"], one["kept_in"]

    return {tuple(sorted(map(row, group))) for group in report["duplicates"]["groups"]}


def pixel_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        image.load()
        assert image.format == "PNG"
        return image.size


# --- what was planted is what is reported ------------------------------------------------------------------


@unseen
def test_planted_faults__counts_sizes_and_kinds(run_cli, planted: Path) -> None:
    result = run_cli("data", planted, "--json")
    report = result.json
    assert result.exit_code == 0
    assert report["data"] == str(planted)
    assert report["description"] == "a folder with train/, test/"
    assert (report["num_classes"], report["class_names"]) == (3, ["cat", "dog", "rare"])
    assert report["splits"] == {
        "train": {"num_images": 69, "num_bad": 4, "classes": {"cat": 60, "dog": 8, "rare": 1}},
        "test": {"num_images": 4, "num_bad": 0, "classes": {"cat": 3, "fish": 1}},
    }
    assert report["images"] == {
        "height_px": {"least": 10, "median": 10.0, "greatest": 264},
        "width_px": {"least": 8, "median": 8.0, "greatest": 20_000},
        "short_side_px": {"least": 8, "median": 8.0, "greatest": 264},
        "num_sizes": 4,  # 10x8, 264x300, 48x32, 10x20000
        "modes": {"RGB": 66, "CMYK": 1, "L": 1, "P": 1},
        "formats": {"PNG": 66, "JPEG": 3},
        "num_16_bit": 0,
        "brightest_16_bit": None,
    }
    assert report["suggested_image_size"]["image_size"] == [224, 224]
    assert "the images are small (median area 9^2 px)" in report["suggested_image_size"]["reason"]  # sqrt(80) = 8.9
    assert report["validation"]["num_images"] == 13  # a fifth of the 65 that can be read
    assert report["validation"]["reason"] == "held out of 65 by finetune, stratified, seed 0"
    assert report["imbalance"]["ratio"] == 60.0
    assert report["imbalance"]["largest"] == {"class": "cat", "num_images": 60}
    assert report["imbalance"]["smallest"] == {"class": "rare", "num_images": 1}
    for words in ("'cat' has 60 times the images of 'rare'", "--class-weights balanced", "--sampler balanced"):
        assert words in report["imbalance"]["advice"]
    assert report["aspect_ratios"] == {
        "from_ratio": 4.0,
        "num_images": 1,
        "worst": [{"image": str(planted / "train/cat/strip.png"), "size": [10, 20_000], "ratio": 2000.0}],
    }


@unseen
def test_planted_faults__bad_images_with_their_reasons(run_cli, planted: Path) -> None:
    bad = run_cli("data", planted, "--json").json["bad"]
    assert {one["split"] for one in bad} == {"train"}
    reasons = {Path(one["image"]).relative_to(planted).as_posix(): one["reason"] for one in bad}
    assert set(reasons) == {f"train/cat/{name}" for name in ("bomb.png", "cut.jpg", "empty.png", "text.jpg")}
    assert "truncated" in reasons["train/cat/cut.jpg"]
    assert reasons["train/cat/empty.png"] == reasons["train/cat/text.jpg"] == "not an image that Pillow knows"
    assert "400,000,000" in reasons["train/cat/bomb.png"]
    assert "decompression bomb" in reasons["train/cat/bomb.png"]


@unseen
def test_planted_faults__duplicates_within_and_across(run_cli, planted: Path) -> None:
    report = run_cli("data", planted, "--json").json
    held_out = {  # finetune keeps equals on one side; which one does not matter here
        row[0]: row[3] for group in rows_of(report) for row in group
    }
    assert rows_of(report) == {
        tuple(("cat/" + name, "train", "cat", held_out["cat/0.png"]) for name in ("0.png", "copy.png")),
        tuple(("cat/" + name, "train", "cat", held_out["cat/photo.jpg"]) for name in ("photo.jpg", "photo.png")),
        (
            ("cat/1.png", "train", "cat", held_out["cat/1.png"]),
            ("dog/from-cat.png", "train", "dog", held_out["cat/1.png"]),
        ),
        (("cat/2.png", "train", "cat", held_out["cat/2.png"]), ("cat/from-train.png", "test", "cat", "test")),
    }
    assert set(held_out.values()) <= {"train", "val", "test"}
    duplicates = report["duplicates"]
    assert (duplicates["num_groups"], duplicates["num_extra"]) == (4, 4)
    assert (duplicates["num_across_splits"], duplicates["num_across_classes"]) == (1, 1)


@unseen
def test_planted_faults__warnings(run_cli, planted: Path) -> None:
    warnings = run_cli("data", planted, "--json").json["warnings"]
    assert len(warnings) == 2
    assert warnings[0].startswith("1 of the 4 test images are also training images, pixel for pixel")
    assert "split test has 1 class unknown in training: 'fish'" in warnings[1]


def test_planted_faults__a_line_for_each_on_the_screen(run_cli, planted: Path) -> None:
    result = run_cli("data", planted)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()

    def line_with(*words: str) -> str:
        found = [line for line in lines if all(word in line for word in words)]
        assert len(found) == 1, (words, found)
        return found[0]

    line_with("train: 69 images", "test: 4 images")
    line_with("13 images", "held out of 65 by finetune, stratified, seed 0")
    line_with("height 10/10/264", "width 8/8/20000")
    line_with("RGB 66", "CMYK 1", "L 1", "P 1")
    line_with("PNG 66", "JPEG 3")
    line_with("224 px")
    table = [line.split() for line in lines]
    start = table.index(["class", "train", "test"])
    assert table[start + 1 : start + 5] == [
        ["cat", "60", "3"],
        ["dog", "8", "0"],
        ["rare", "1", "0"],
        ["fish", "0", "1"],
    ]
    line_with("4 images cannot be read:")
    for name in ("bomb.png", "cut.jpg", "empty.png", "text.jpg"):
        line_with(name + ": ")
    line_with("4 images too many", "4 groups", "1 across splits", "1 across classes")
    for names in (("/0.png", "copy.png"), ("photo.jpg", "photo.png"), ("from-cat.png",), ("from-train.png",)):
        line_with(" = ", *names)
    line_with("1 image of strange shape")
    line_with("strip.png: 10x20000 px")
    line_with("'cat' has 60 times the images of 'rare'")
    line_with("1 of the 4 test images are also training images")
    line_with("'fish'", "unknown in training")
    line_with("files", str(Path("data-planted").absolute()))
    assert "Nothing seems wrong" not in result.stdout


def test_planted_faults__report_sheet_and_untouched_data(run_cli, unchanged, planted: Path) -> None:
    with unchanged(planted):
        report = run_cli("data", planted, "--json").json
    out = Path("data-planted")
    assert Path(report["out"]) == out.absolute()
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    assert sorted(path.name for path in out.iterdir()) == ["contact-sheet.png", "report.json"]
    # 8 thumbnails of 96 px with gaps of 8; three classes, each a row of 96 px and a caption of 19; a title of 34
    assert pixel_size(out / "contact-sheet.png") == (8 * (96 + 8), 3 * (96 + 19) + 34)
    assert [path.name for path in Path().iterdir()] == ["data-planted"]


def test_clean_data__nothing_seems_wrong(run_cli, image_folder: Path) -> None:
    result = run_cli("data", image_folder)
    assert "Nothing seems wrong." in result.stdout
    assert "all 20x24 px (height x width)" in result.stdout
    report = json.loads(Path("data-images/report.json").read_text())
    assert report["splits"] == {
        "all": {"num_images": 36, "num_bad": 0, "classes": {"blue": 12, "green": 12, "red": 12}}
    }
    assert (report["bad"], report["warnings"], report["duplicates"]["groups"]) == ([], [], [])
    assert report["imbalance"]["advice"] is None


@unseen
def test_digits(run_cli) -> None:
    report = run_cli("data", "digits", "--json").json
    assert {name: one["num_images"] for name, one in report["splits"].items()} == {"train": 1437, "test": 360}
    assert report["images"]["modes"] == {"L": 1797}
    assert report["images"]["height_px"] == {"least": 8, "median": 8.0, "greatest": 8}
    assert report["validation"]["num_images"] == 200
    assert report["duplicates"]["num_groups"] == 0  # numpy.unique(load_digits().data, axis=0) has 1,797 rows


def held_out_images() -> set[str]:
    """Return the paths of the validation images of the run in ``out``."""
    listing = json.loads(Path("out/validation.json").read_text())
    return {f"{listing['data']}/{name}" for name in listing["images"]}


# --- what finetune then does -------------------------------------------------------------------------------


@unseen
@pytest.mark.parametrize("seed", [0, 5])
def test_kept_in__is_what_finetune_does(run_cli, twins: Path, tiny_model_folder: Path, seed: int) -> None:
    report = run_cli("data", twins, "--seed", seed, "--json").json
    kept = {one["image"]: one["kept_in"] for group in report["duplicates"]["groups"] for one in group}
    arguments = ("--data", twins, "--model", tiny_model_folder, "--steps", 1, "--num-workers", 0, "--seed", seed)
    assert run_cli("finetune", *arguments, "--out", "out").exit_code == 0
    held_out = held_out_images()
    assert len(kept) == 60
    assert {image for image, where in kept.items() if where == "val"} == held_out
    assert set(kept.values()) == {"train", "val"}
    assert report["validation"]["num_images"] == len(held_out) == 12  # a fifth, in pairs
    assert report["duplicates"]["num_across_splits"] == 0


@unseen
def test_kept_in__with_bad_images_left_out_as_finetune_does(run_cli, planted: Path, tiny_model_folder: Path) -> None:
    report = run_cli("data", planted, "--json").json
    arguments = ("--data", planted, "--model", tiny_model_folder, "--steps", 1, "--num-workers", 0, "--out", "out")
    assert run_cli("finetune", *arguments, "--on-bad-image", "skip").exit_code == 0
    held_out = held_out_images()
    assert report["validation"]["num_images"] == len(held_out)
    trained = [one for group in report["duplicates"]["groups"] for one in group if one["split"] == "train"]
    assert len(trained) == 7
    assert {one["image"]: one["kept_in"] for one in trained} == {
        one["image"]: "val" if one["image"] in held_out else "train" for one in trained
    }


@unseen
def test_val_fraction__is_that_of_finetune(run_cli, twins: Path) -> None:
    assert run_cli("data", twins, "--val-fraction", 0.5, "--json").json["validation"]["num_images"] == 30
    assert run_cli("data", twins, "--val-fraction", 0, "--json").json["validation"]["num_images"] == 0


@unseen
def test_own_validation_split__is_used_unless_a_fraction_is_asked_for(run_cli, twins: Path, tmp_path: Path) -> None:
    folder = tmp_path / "divided"
    for name, split in (("x", "train"), ("y", "val")):
        for path in sorted(twins.glob(f"*/*{name}.png")):
            (folder / split / path.parent.name).mkdir(parents=True, exist_ok=True)
            (folder / split / path.parent.name / path.name).write_bytes(path.read_bytes())
    report = run_cli("data", folder, "--json").json
    own = {"num_images": 30, "reason": "the source's own split", "classes_without_images": []}
    assert report["validation"] == own
    assert report["duplicates"]["num_across_splits"] == report["duplicates"]["num_groups"] == 30
    assert any("30 of the 30 validation images are also training images" in text for text in report["warnings"])
    assert {row[1:2] + row[3:] for group in rows_of(report) for row in group} == {("train", "train"), ("val", "val")}
    report = run_cli("data", folder, "--val-fraction", 0.2, "--json").json
    assert report["validation"]["num_images"] == 6
    assert report["validation"]["reason"] == "held out of 30 by finetune, stratified, seed 0"


@unseen
def test_groups__of_a_pattern_are_counted_shown_and_kept_whole(run_cli, twins: Path, tiny_model_folder: Path) -> None:
    """Images 1x, 1y, 10.. of every class are one group: the first digit of the name."""
    pattern = ("--group-pattern", "{group}?.png")
    report = run_cli("data", twins, *pattern, "--json").json
    assert report["splits"]["all"]["num_groups"] == 10
    kept = {one["image"]: one["kept_in"] for group in report["duplicates"]["groups"] for one in group}
    sides = {(Path(image).name[0], where) for image, where in kept.items()}
    assert len(sides) == 10  # each digit on one side, over all classes
    assert {where for _, where in sides} == {"train", "val"}
    arguments = (
        "--data",
        twins,
        "--model",
        tiny_model_folder,
        "--steps",
        1,
        "--num-workers",
        0,
        "--out",
        "out",
        *pattern,
    )
    assert run_cli("finetune", *arguments).exit_code == 0
    held_out = held_out_images()
    assert {image for image, where in kept.items() if where == "val"} == held_out
    assert "10 groups" in run_cli("data", twins, *pattern).stdout


@unseen
def test_groups__of_a_column_are_counted_shown_and_kept_whole(run_cli, image_folder: Path) -> None:
    with (image_folder.parent / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "patient"])
        writer.writerows(
            [f"images/{name}/{number}.png", name, f"p{number // 3}"] for name in ("red", "blue") for number in range(12)
        )
    table = image_folder.parent / "table.csv"
    report = run_cli("data", table, "--group-column", "patient", "--json").json
    assert report["splits"]["all"]["num_groups"] == 4
    assert report["validation"]["num_images"] == 6  # one patient: 3 of each class; a fifth of 24 is 5
    result = run_cli("data", table, "--group-column", "patient")
    assert "4 groups" in result.stdout
    assert "num_groups" not in run_cli("data", table, "--json").json["splits"]["all"]


# --- refusals and warnings ---------------------------------------------------------------------------------


@pytest.mark.parametrize("out", ["report", "train/cat/report", "."])
def test_out_inside_the_data__refused(refused, planted: Path, out: str) -> None:
    refused(["data", planted, "--out", planted / out], 2, ("inside the data", "elsewhere with --out"), planted)


def test_out_inside_the_data_by_default__refused(
    run_cli, unchanged, image_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(image_folder)
    with unchanged(image_folder):
        result = run_cli("data", ".")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "inside the data" in result.stderr


def test_out_through_a_link_into_the_data__refused(refused, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(image_folder)
    refused(["data", image_folder, "--out", tmp_path / "link" / "report"], 2, ("inside the data",))
    refused(["data", tmp_path / "link", "--out", image_folder / "report"], 2, ("inside the data",))


def test_out_is_a_file__refused(run_cli, image_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    result = run_cli("data", image_folder, "--out", tmp_path / "file")
    assert (result.exit_code, result.stdout) == (2, "")
    assert (tmp_path / "file").read_text() == "mine"


def test_second_report__replaces_the_first_and_nothing_else(run_cli, image_folder: Path) -> None:
    Path("mine").mkdir()
    Path("mine/notes.txt").write_text("keep")
    first = run_cli("data", image_folder, "--out", "mine", "--json")
    assert run_cli("data", image_folder, "--out", "mine", "--json").stdout == first.stdout
    assert sorted(path.name for path in Path("mine").iterdir()) == ["contact-sheet.png", "notes.txt", "report.json"]
    assert Path("mine/notes.txt").read_text() == "keep"


def test_only_bad_images__exit_3_and_nothing_written(run_cli, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "bad" / name).mkdir(parents=True)
        (tmp_path / "bad" / name / "1.png").write_bytes(b"")
    result = run_cli("data", tmp_path / "bad", "--json")
    assert (result.exit_code, result.stdout) == (3, "")
    for words in ("None of the 2 images", "cat/1.png", "not an image that Pillow knows"):
        assert words in result.stderr
    assert list(Path().iterdir()) == []


def test_training_images_all_bad__said_without_a_traceback(run_cli, tmp_path: Path) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "bad" / split / name).mkdir(parents=True)
            noise(len(split + name)).save(tmp_path / "bad" / split / name / "1.png")
    for path in (tmp_path / "bad" / "train").rglob("*.png"):
        path.write_bytes(b"")
    result = run_cli("data", tmp_path / "bad", "--json")
    assert result.exit_code in (0, 3), result.stderr
    assert "nan" not in result.stdout + result.stderr
    if result.exit_code == 0:
        assert len(result.json["bad"]) == 2


def test_one_class__a_warning(run_cli, image_folder: Path) -> None:
    for name in ("green", "blue"):
        for path in (image_folder / name).iterdir():
            path.unlink()
        (image_folder / name).rmdir()
    result = run_cli("data", image_folder, "--json")
    assert result.exit_code == 0
    assert result.json["warnings"] == ["There is one class, 'red'; a classifier needs two or more."]


def test_empty_class_folder__a_warning(run_cli, image_folder: Path) -> None:
    (image_folder / "grey").mkdir()
    result = run_cli("data", image_folder)
    assert result.exit_code == 0
    assert "Class folders of split all without an image: grey." in result.stdout


@unseen
def test_only_a_test_split__is_looked_at_without_a_validation_split(run_cli, image_folder: Path) -> None:
    table = image_folder.parent / "table.csv"
    rows = [f"images/{name}/{number}.png,{name},test" for name in ("red", "blue") for number in range(4)]
    table.write_text("\n".join(["image,label,split", *rows]))
    report = run_cli("data", table, "--json").json
    assert report["splits"] == {"test": {"num_images": 8, "num_bad": 0, "classes": {"blue": 4, "red": 4}}}
    assert report["validation"] is None


def test_many_findings__the_screen_stays_short_and_the_report_is_whole(run_cli, tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "many" / name).mkdir(parents=True)
        noise(len(name) + ord(name[0])).save(tmp_path / "many" / name / "good.png")
    for number in range(25):
        (tmp_path / "many" / "cat" / f"bad-{number}.png").write_bytes(b"")
    result = run_cli("data", tmp_path / "many")
    assert "25 images cannot be read:" in result.stdout
    assert result.stdout.count("bad-") == 10
    assert "... and 15 more in report.json" in result.stdout
    assert len(json.loads(Path("data-many/report.json").read_text())["bad"]) == 25


# --- neither order nor container ---------------------------------------------------------------------------


def content_of(image_folder: Path) -> list[tuple[str, str, bytes]]:
    """Return (name, class, bytes) of every image of the folder, and of a bad, an odd and two equal ones."""
    rows = [(path.stem, path.parent.name, path.read_bytes()) for path in sorted(image_folder.glob("*/*.png"))]
    strip = io.BytesIO()
    Image.new("L", (900, 9)).save(strip, "PNG")
    twin = rows[0][2]
    return [*rows, ("strip", "red", strip.getvalue()), ("twin", "red", twin), ("bad", "blue", b"not an image")]


def as_folder(rows: list[tuple[str, str, bytes]], folder: Path) -> Path:
    for name, label, content in rows:
        (folder / "pets" / label).mkdir(parents=True, exist_ok=True)
        (folder / "pets" / label / f"{name}.png").write_bytes(content)
    return folder / "pets"


def as_csv(rows: list[tuple[str, str, bytes]], folder: Path) -> Path:
    as_folder(rows, folder)
    lines = [f"pets/{label}/{name}.png,{label}" for name, label, _ in rows]
    (folder / "pets.csv").write_text("\n".join(["image,label", *lines]))
    return folder / "pets.csv"


def as_tar(rows: list[tuple[str, str, bytes]], folder: Path) -> Path:
    with tarfile.open(folder / "pets.tar", "w") as archive:
        for number, (_, label, content) in enumerate(rows):
            for suffix, part in (("png", content), ("cls", label.encode())):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    return folder / "pets.tar"


def as_parquet(rows: list[tuple[str, str, bytes]], folder: Path) -> Path:
    columns = {"image": [content for *_, content in rows], "label": [label for _, label, _ in rows]}
    pq.write_table(pa.table(columns), folder / "pets.parquet")
    return folder / "pets.parquet"


def figures_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return the report without names of images and containers, and without what depends on the draw."""
    kept = {key: value for key, value in report.items() if key not in ("data", "description", "out", "validation")}
    kept["bad"] = [(one["split"], one["reason"]) for one in report["bad"]]
    kept["aspect_ratios"] = {
        **report["aspect_ratios"],
        "worst": [(one["size"], one["ratio"]) for one in report["aspect_ratios"]["worst"]],
    }
    kept["duplicates"] = {
        **report["duplicates"],
        "groups": [[(one["split"], one["class"]) for one in group] for group in report["duplicates"]["groups"]],
    }
    return kept


@unseen
@pytest.mark.parametrize("write", [as_csv, as_tar, as_parquet], ids=lambda write: write.__name__)
def test_figures_depend_on_neither_order_nor_container(
    run_cli, image_folder: Path, tmp_path: Path, write: Callable[[list[tuple[str, str, bytes]], Path], Path]
) -> None:
    rows = content_of(image_folder)
    usual = run_cli("data", as_folder(rows, tmp_path), "--out", "a", "--json").json
    assert usual["splits"]["all"] == {
        "num_images": 39, "num_bad": 1, "classes": {"blue": 13, "green": 12, "red": 14}
    }  # fmt: skip
    assert usual["duplicates"]["num_groups"] == usual["duplicates"]["num_across_classes"] == 1
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    assert shuffled != rows
    folder = tmp_path / "other"
    folder.mkdir()
    other = run_cli("data", write(shuffled, folder), "--out", "b", "--json").json
    expected, found = figures_of(usual), figures_of(other)
    for figures in (expected, found):  # equal images are listed in the order of their rows
        figures["duplicates"]["groups"] = [sorted(group) for group in figures["duplicates"]["groups"]]
    assert found == expected


@unseen
def test_fingerprint__tells_one_pixel_one_class_and_one_image(run_cli, image_folder: Path) -> None:
    def of() -> str:
        return str(run_cli("data", image_folder, "--json").json["fingerprint"])

    found = [of()]
    path = image_folder / "red" / "3.png"
    content = path.read_bytes()
    path.rename(image_folder / "red" / "again.png")  # another name: the same data
    assert of() == found[0]
    (image_folder / "red" / "again.png").unlink()
    found.append(of())  # one image fewer
    (image_folder / "blue" / "again.png").write_bytes(content)
    found.append(of())  # under another class
    (image_folder / "blue" / "again.png").unlink()
    with Image.open(io.BytesIO(content)) as image:
        pixels = np.array(image)
    pixels[0, 0, 0] ^= 1
    Image.fromarray(pixels).save(path)
    found.append(of())  # another pixel
    assert len(set(found)) == 4


# --- near copies ---------------------------------------------------------------------------------------------


def test_near_copies__across_splits_and_classes(run_cli, tmp_path: Path, tiny_model_folder: Path) -> None:
    from sklearn.datasets import load_sample_images

    folder, (one, other) = tmp_path / "photos", (Image.fromarray(photo) for photo in load_sample_images().images)
    for name in ("train/a", "train/b", "val/a", "val/b"):
        (folder / name).mkdir(parents=True)
    for number in range(4):
        noise(number).save(folder / f"train/{'ab'[number % 2]}/{number}.png")
    one.save(folder / "train/a/photo.png")
    one.save(folder / "val/a/again.jpg", quality=60)
    other.save(folder / "train/a/other.png")
    other.resize((320, 214)).save(folder / "train/b/small.jpg")
    noise(9).save(folder / "val/b/9.png")
    Image.new("L", (30, 30), 3).save(folder / "train/a/flat.png")
    Image.new("L", (40, 40), 4).save(folder / "val/a/flat.png")
    result = run_cli("data", folder, "--out", "out")
    found = json.loads(Path("out/report.json").read_text())
    assert found["duplicates"]["num_groups"] == 0
    near = found["near_copies"]
    counts = ("num_groups", "num_extra", "num_across_splits", "num_across_classes")
    assert [near[key] for key in counts] == [2, 2, 1, 1]
    assert {tuple(Path(image["image"]).name for image in group) for group in near["groups"]} == {
        ("photo.png", "again.jpg"),
        ("other.png", "small.jpg"),
    }
    line = "Near copies, encoded anew or resized: 2 images too many (2 groups, 1 across splits, 1 across classes):"
    assert line in result.stdout
    assert re.search(r"photo\.png \(a, in train\) ~ \S+again\.jpg \(a, in val\)", result.stdout)
    # finetune says what it means for its scores
    run = run_cli("finetune", "--data", folder, "--model", tiny_model_folder, "--dry-run", "--num-workers", 0)
    assert "1 of the 3 validation images are near copies of training images" in " ".join(run.stderr.split())


@unseen
def test_a_test_split_without_class_folders_is_said_and_the_rest_reported(run_cli, tmp_path: Path) -> None:
    for number, name in enumerate(("train/cat", "train/dog", "test")):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for image in range(3):
            noise(10 * number + image).save(tmp_path / "photos" / name / f"{image}.png")
    result = run_cli("data", tmp_path / "photos", "--out", "out")
    assert result.exit_code == 0, result.stderr
    report = json.loads(Path("out/report.json").read_text())
    assert list(report["splits"]) == ["train"]
    (sentence,) = (one for one in report["warnings"] if "Split test is left out" in one)
    assert "holds 3 image(s) but no class folders" in sentence
    assert "Split test is left out" in result.stdout
    (tmp_path / "photos/test").rename(tmp_path / "test")
    for folder in ("cat", "dog"):
        for path in (tmp_path / "photos/train" / folder).iterdir():
            path.unlink()
    assert run_cli("data", tmp_path / "photos", "--out", "none").exit_code == 3
