"""The same images in any container give the same run; what a run knows of its data, it finds again."""

import csv
import io
import json
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vitctl.conversation import Conversation, Setting
from vitctl.data import scan
from vitctl.reporting import figures
from vitctl.results.evaluate import EvaluateResult
from vitctl.results.finetune import FinetuneResult
from vitctl.settings.data import DataConfig
from vitctl.settings.evaluate import EvaluateConfig
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.predict import PredictConfig
from vitctl.workflows import data, evaluate, finetune, predict

Row = tuple[str, str, bytes]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take most of a small run's time, and are tested elsewhere."""
    for name in ("draw_curves", "draw_confusion", "draw_contact_sheet", "draw_contact_sheets"):
        monkeypatch.setattr(figures, name, lambda *args, **options: None)


class Listener(Conversation):
    """Keeps the settings of the headers and the warnings."""

    def __init__(self) -> None:
        self.settings: dict[str, Setting] = {}
        self.warnings: list[str] = []

    def header(self, title: str, settings: list[Setting]) -> None:
        self.settings |= {setting.name: setting for setting in settings}

    def warn(self, text: str) -> None:
        self.warnings.append(text)


# --- one writer per container: the same images, in the same order --------------------------------------------


def table_rows(rows: list[Row]) -> list[tuple[str, str]]:
    return [(f"images/{label}/{name}.png", label) for name, label, _ in rows]


def as_csv(rows: list[Row], folder: Path) -> Path:
    lines = [f"{image},{label}\n" for image, label in table_rows(rows)]
    (folder / "table.csv").write_text("".join(["image,label\n", *lines]))
    return folder / "table.csv"


def as_jsonl(rows: list[Row], folder: Path) -> Path:
    lines = [json.dumps({"file_name": image, "label": label}) + "\n" for image, label in table_rows(rows)]
    (folder / "table.jsonl").write_text("".join(lines))
    return folder / "table.jsonl"


def as_parquet(rows: list[Row], folder: Path) -> Path:
    columns = {"image": [content for *_, content in rows], "label": [label for _, label, _ in rows]}
    pq.write_table(pa.table(columns), folder / "table.parquet")
    return folder / "table.parquet"


def as_saved(rows: list[Row], folder: Path) -> Path:
    """``ClassLabel`` numbers the classes in an order of its own, which must not matter."""
    names = ["red", "green", "blue"]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    columns = {
        "image": [{"bytes": content, "path": None} for *_, content in rows],
        "label": [names.index(label) for _, label, _ in rows],
    }
    had_bars = datasets.is_progress_bar_enabled()
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder / "saved"))
    if had_bars:
        datasets.enable_progress_bars()
    return folder / "saved"


def as_tar(rows: list[Row], folder: Path) -> Path:
    with tarfile.open(folder / "pets.tar", "w") as archive:
        for number, (_, label, content) in enumerate(rows):
            for suffix, part in (("cls", label.encode()), ("png", content)):
                info = tarfile.TarInfo(f"{number:04}.{suffix}")
                info.size = len(part)
                archive.addfile(info, io.BytesIO(part))
    return folder / "pets.tar"


def as_zip(rows: list[Row], folder: Path) -> Path:
    """A folder around the class folders, as archives have; the order of the members means nothing."""
    with zipfile.ZipFile(folder / "pets.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, label, content in reversed(rows):
            archive.writestr(f"pets/{label}/{name}.png", content)
    return folder / "pets.zip"


CONTAINERS: list[Callable[[list[Row], Path], Path]] = [as_csv, as_jsonl, as_parquet, as_saved, as_tar, as_zip]


@pytest.fixture
def rows(image_folder: Path) -> list[Row]:
    """(name, class, bytes) of every image of ``image_folder``: classes in natural order, 2 before 10."""
    return [
        (str(number), label, (image_folder / label / f"{number}.png").read_bytes())
        for label in ("blue", "green", "red")
        for number in range(12)
    ]


@pytest.fixture
def run(tiny_model_folder: Path) -> Callable[..., FinetuneResult]:
    """Fine-tune the tiny model for 2 steps of 8 images at 24 px."""

    def do(spec: Path, *, out: str = "out", conversation: Conversation | None = None, **changes: Any) -> FinetuneResult:
        settings = {"data": str(spec), "model": str(tiny_model_folder), "image_size": "24", "batch_size": 8}
        settings |= {"steps": 2, "lr": 3e-3, "num_workers": 0, "out": out, "head": "zero", **changes}
        result = finetune.run(FinetuneConfig(**settings), conversation or Conversation())
        assert isinstance(result, FinetuneResult)
        return result

    return do


def evaluate_run(**settings: Any) -> EvaluateResult:
    return evaluate.run(EvaluateConfig(num_workers=0, **settings), Conversation())


def predictions_of(folder: str) -> list[tuple[str, str, str, str]]:
    """Return true class, predicted class and both probabilities, in the order of the images."""
    with Path(folder, "predictions.csv").open(newline="") as file:
        return [
            (row["true"], row["predicted"], row["probability"], row["probability_of_true"])
            for row in csv.DictReader(file)
        ]


def hashes_of(run: str) -> tuple[list[str], list[str]]:
    """Return the content hashes of the training and of the validation images, in order."""
    lines = Path(run, "training-images.txt").read_text().splitlines()
    return [line[:32] for line in lines], json.loads(Path(run, "validation.json").read_text())["hashes"]


@pytest.mark.slow  # 26 commands
@pytest.mark.usefixtures("no_rendering")
def test_containers_give_the_same_run(image_folder: Path, rows: list[Row], run: Any) -> None:
    """One test for all, because the folder's run is what each is compared with."""
    usual = run(image_folder, out="folder", steps=10)
    evaluate_run(run="folder", data=str(image_folder), split="all", out="e")
    own = evaluate_run(run="folder")
    hashes = hashes_of("folder")
    shares = predictions_of("e")
    assert len(shares) == 36
    assert len({share for *_, share in shares}) > 30  # the model tells the images apart
    assert usual.num_val == 7  # a fifth of 36
    fingerprint = data.run(DataConfig(data=str(image_folder)), Conversation()).fingerprint
    for write in CONTAINERS:
        spec, out = write(rows, image_folder.parent), write.__name__
        summary = run(spec, out=out, steps=10)
        for key in ("weights_sha256", "num_val", "num_train", "num_classes", "best", "last"):
            assert getattr(summary, key) == getattr(usual, key), (out, key)
        document = json.loads(Path(out, "best/config.json").read_text())
        assert document["label_names"] == ["blue", "green", "red"], out
        assert Path(out, "metrics.jsonl").read_bytes() == Path("folder/metrics.jsonl").read_bytes()
        everything = evaluate_run(run="folder", data=str(spec), split="all", out=f"e-{out}")
        assert predictions_of(f"e-{out}") == shares, out
        assert (everything.num_seen_in_training, everything.top1_unseen) == (29, own.top1), out
        found = evaluate_run(run="folder", data=str(spec), out=f"v-{out}")  # all of them the run's, so its own split
        assert (found.split, found.nll, found.num_seen_in_training) == ("val", own.nll, 0), out
        assert hashes_of(out) == hashes, out
        report = evaluate_run(run=out)  # its own validation images
        assert report.num_images == 7, out
        assert (report.nll, report.top1) == (own.nll, own.top1), out
        looked_at = data.run(DataConfig(data=str(spec), out=f"d-{out}"), Conversation())
        assert looked_at.fingerprint == fingerprint, out
        assert looked_at.validation.num_images == 7, out


def test_predict_gives_the_probabilities_of_evaluate(image_folder: Path, rows: list[Row], run: Any) -> None:
    run(image_folder)
    table = as_csv(rows, image_folder.parent)
    evaluate_run(run="out", data=str(table), split="all", out="e")
    images = tuple(str(image_folder.parent / image) for image, _ in table_rows(rows))
    answer = predict.run(PredictConfig(run="out", images=images, top_k=3), Conversation())
    of = [{top.class_name: top.probability for top in entry.top} for entry in answer.predictions]
    expected = predictions_of("e")
    assert len(of) == len(expected) == 36
    for shares, (true, predicted, probability, of_true) in zip(of, expected, strict=True):
        assert max(shares, key=lambda name: shares[name]) == predicted
        assert shares[predicted] == pytest.approx(float(probability), abs=1e-5)
        assert shares[true] == pytest.approx(float(of_true), abs=1e-5)


def test_order_of_the_rows_matters_to_the_order_of_training_only(image_folder: Path, rows: list[Row], run: Any) -> None:
    shuffled = [rows[index] for index in np.random.default_rng(0).permutation(len(rows))]
    usual, other = run(image_folder, out="a", steps=1), run(as_csv(shuffled, image_folder.parent), out="b", steps=1)
    assert other.weights_sha256 != usual.weights_sha256
    assert (other.num_val, other.num_classes) == (7, 3)


# --- what was looked at once is remembered -----------------------------------------------------------------


@pytest.mark.parametrize("write", [None, as_csv, as_parquet, as_tar, as_saved, as_zip])
def test_second_run__decodes_nothing_in_the_scan(
    image_folder: Path, rows: list[Row], run: Any, monkeypatch: pytest.MonkeyPatch, write: Any
) -> None:
    Image.new("RGB", (600, 600), "teal").save(image_folder / "red" / "a.jpg")  # large enough for a scan at 1/8
    (image_folder / "red" / "b.jpg").write_bytes((image_folder / "red" / "a.jpg").read_bytes())
    photo = (image_folder / "red" / "a.jpg").read_bytes()
    spec = image_folder if write is None else write([*rows, ("a", "red", photo)], image_folder.parent)
    if write is as_csv:
        with spec.open("a") as file:
            file.write("images/red/b.jpg,red\n")
        spec.write_text(spec.read_text().replace("a.png", "a.jpg"))
    decoded: list[str] = []
    for name in ("look_at", "pixel_hash"):
        real = getattr(scan, name)

        def counting(image: Image.Image, real: Any = real, name: str = name) -> Any:
            decoded.append(name)
            return real(image)

        monkeypatch.setattr(scan, name, counting)
    time.sleep(0.03)  # data that have just been written are not believed the next time
    first = run(spec, out="a", steps=1)
    num_images = first.num_train + first.num_val
    assert decoded.count("look_at") == num_images
    decoded.clear()
    second = run(spec, out="b", steps=1)
    assert decoded == []
    assert second.weights_sha256 == first.weights_sha256
    data.run(DataConfig(data=str(spec), out="d"), Conversation())
    assert decoded == []


def test_changed_image__is_looked_at_again_and_no_other(
    image_folder: Path, run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(image_folder, out="a", steps=1)
    Image.new("RGB", (31, 17), "navy").save(image_folder / "red" / "3.png")
    sizes: list[tuple[int, int]] = []
    real = scan.look_at

    def counting(image: Image.Image) -> Any:
        sizes.append(image.size)
        return real(image)

    monkeypatch.setattr(scan, "look_at", counting)
    run(image_folder, out="b", steps=1)
    assert sizes == [(31, 17)]


# --- a run on a table --------------------------------------------------------------------------------------


@pytest.fixture
def table(image_folder: Path, tmp_path: Path) -> dict[str, Any]:
    """A table elsewhere than its images, with two columns of classes and one of groups."""
    (tmp_path / "tables").mkdir()
    with (tmp_path / "tables" / "pets.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "label", "colour", "patient"])
        writer.writerows(
            [f"{colour}/{number}.png", f"size {number % 2}", colour, f"p{number // 2}"]
            for colour in ("red", "green", "blue")
            for number in range(12)
        )
    return {"spec": tmp_path / "tables" / "pets.csv", "image_root": str(image_folder), "label_column": "colour"}


def test_config_of_a_run_on_a_table__repeats_it_from_anywhere(
    table: dict[str, Any], image_folder: Path, run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "work" / "here").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work" / "here")
    first = run(**{**table, "image_root": "../../images"})
    document = json.loads(Path("out/config.json").read_text())
    assert Path(document["image_root"]).is_absolute()
    assert Path(document["image_root"]).resolve() == image_folder.resolve()
    assert (document["label_column"], document["data"]) == ("colour", str(table["spec"]))
    monkeypatch.chdir(tmp_path)
    again = merge(config_from_file(Path("work/here/out/config.json")), {"out": "again"})
    assert finetune.run(again, Conversation()).weights_sha256 == first.weights_sha256
    assert Path("again/config.json").read_bytes() == Path("work/here/out/config.json").read_bytes()
    assert Path("again/validation.json").read_bytes() == Path("work/here/out/validation.json").read_bytes()


@pytest.mark.parametrize("split", [None, "train", "all"])
def test_evaluate_of_a_run_on_a_table__finds_its_images(table: dict[str, Any], run: Any, split: str | None) -> None:
    summary = run(**table)
    report = evaluate_run(run="out", split=split, out="e")
    assert report.num_images == {None: 7, "train": 29, "all": 36}[split]
    assert [row.class_name for row in report.per_class] == ["blue", "green", "red"]
    if split is None:
        assert report.nll == pytest.approx(summary.best.loss, abs=1e-6)
        with Path("e/predictions.csv").open(newline="") as file:
            names = [row["image"] for row in csv.DictReader(file)]
        held_out = json.loads(Path("out/validation.json").read_text())["images"]
        assert [Path(name).parts[-2:] for name in names] == [Path(name).parts[-2:] for name in held_out]


def test_evaluate_on_another_table__with_its_own_columns(table: dict[str, Any], image_folder: Path, run: Any) -> None:
    run(**table)
    Path("other.csv").write_text("who,what\n1.png,blue\n2.png,blue\n")
    options = {"image_column": "who", "label_column": "what", "image_root": str(image_folder / "blue")}
    report = evaluate_run(run="out", data="other.csv", out="e", **options)
    assert [row.num_images for row in report.per_class] == [2, 0, 0]


def test_group_column__patients_are_held_out_whole(table: dict[str, Any], run: Any) -> None:
    listener = Listener()
    summary = run(**table, group_column="patient", steps=1, conversation=listener)
    held_out = json.loads(Path("out/validation.json").read_text())["images"]
    patients = {int(Path(name).stem) // 2 for name in held_out}
    assert len(held_out) == summary.num_val == 6 * len(patients)  # each has two images of each colour
    assert len(patients) == 1
    assert "6 groups kept whole" in str(listener.settings.values())
    assert json.loads(Path("out/config.json").read_text())["group_column"] == "patient"


def test_group_pattern__groups_are_held_out_whole(image_folder: Path, run: Any) -> None:
    for colour in ("red", "green", "blue"):
        for number in range(12):
            path = image_folder / colour / f"{number}.png"
            path.rename(path.with_name(f"p{number // 3}-{number}.png"))
    listener = Listener()
    first = run(image_folder, group_pattern="{group}-*", conversation=listener)
    held_out = json.loads(Path("out/validation.json").read_text())["images"]
    groups = {Path(name).name.split("-")[0] for name in held_out}
    assert len(held_out) == 9  # p0 to p3 have three images of each colour
    assert len(groups) == 1
    assert "4 groups kept whole" in str(listener.settings.values())
    again = merge(config_from_file(Path("out/config.json")), {"out": "again"})
    assert finetune.run(again, Conversation()).weights_sha256 == first.weights_sha256
    assert evaluate_run(run="out").num_images == 9


def test_group_pattern_across_given_splits__warned_of(image_folder: Path, run: Any, tmp_path: Path) -> None:
    """A group on both sides of a split that the data bring along is the user's to mend; it is said."""
    for split, numbers in (("train", range(8)), ("val", range(8, 12))):
        for colour in ("red", "green", "blue"):
            (tmp_path / "divided" / split / colour).mkdir(parents=True)
            for number in numbers:
                target = tmp_path / "divided" / split / colour / f"p{number // 3}-{number}.png"
                target.write_bytes((image_folder / colour / f"{number}.png").read_bytes())
    listener = Listener()
    run(tmp_path / "divided", group_pattern="{group}-*", steps=1, conversation=listener)
    (warning,) = (text for text in listener.warnings if "group" in text)
    for words in ("Training and validation share 1 group", "'p2'", "too good to be true"):
        assert words in warning


# --- a run on folders in folders ---------------------------------------------------------------------------


def test_class_depth__is_kept_in_the_run_and_used_again(image_folder: Path, run: Any) -> None:
    for colour, group in (("red", "warm"), ("green", "cold"), ("blue", "cold")):
        (image_folder / group).mkdir(exist_ok=True)
        (image_folder / colour).rename(image_folder / group / colour)
    summary = run(image_folder, class_depth=2, steps=1)
    assert summary.num_classes == 3
    assert json.loads(Path("out/config.json").read_text())["class_depth"] == 2
    own, everything = evaluate_run(run="out"), evaluate_run(run="out", split="all", out="e")
    assert own.num_images == summary.num_val == 7
    for report in (own, everything):
        assert [row.class_name for row in report.per_class] == ["blue", "green", "red"]
    assert everything.num_images == 36
