"""``vitctl.load`` and what it returns: the commands' numbers, any kind of image, errors in a sentence, no traces."""

import csv
import os
import random
import shutil
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

import vitctl
from vitctl.models.choices import decide_interpolation
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def classifier(finished_run: Path) -> vitctl.Classifier:
    """The run's model, on the CPU."""
    return vitctl.load(finished_run, device="cpu")


@pytest.fixture
def photos(finished_run: Path) -> list[Path]:
    """Fifteen PNG files in RGB, five of each class."""
    return [
        finished_run.parent / "data" / "test" / name / f"{index}.png"
        for index in range(5)
        for name in ("blue", "green", "red")
    ]


def headless_folder(folder: Path) -> Path:
    """Write a tiny ViT without a classifier."""
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=16, patch_size=4, embed_dim=16, depth=2, num_heads=2
    )
    expected = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    save_timm_folder(model, folder, class_names=[], preprocessing=expected, base_model="random", base_licence=None)
    return folder


# --- the commands' numbers ------------------------------------------------------------------------------------


def test_probabilities_are_those_of_the_commands(
    run_cli: Callable[..., Any], finished_run: Path, classifier: vitctl.Classifier, photos: list[Path]
) -> None:
    document = run_cli("predict", finished_run, *photos, "--top-k", 3, "--device", "cpu", "--json").json
    told = [{top["class"]: top["probability"] for top in entry["top"]} for entry in document["predictions"]]
    expected = np.array([[one[name] for name in classifier.class_names] for one in told]).astype(np.float32)
    found = classifier.predict_proba(photos)
    assert found.dtype == np.float32
    assert np.array_equal(found, expected)
    assert np.array_equal(classifier.predict_proba([Image.open(path) for path in photos]), expected)
    assert np.array_equal(classifier.predict_proba(np.stack([np.asarray(Image.open(p)) for p in photos])), expected)
    assert classifier.predict(photos) == [entry["top"][0]["class"] for entry in document["predictions"]]
    run_cli("evaluate", finished_run, "--split", "test", "--device", "cpu")
    rows = list(csv.DictReader((finished_run / "evaluate-test" / "predictions.csv").read_text().splitlines()))
    again = classifier.predict_proba(row["image"] for row in rows)
    columns = [classifier.class_names.index(row["true"]) for row in rows]
    assert again[range(len(rows)), columns] == pytest.approx(
        [float(row["probability_of_true"]) for row in rows], abs=1e-6
    )


def test_names_that_are_codes_are_described(tmp_path: Path) -> None:
    """A thousand outputs of a published architecture are ImageNet's classes, whatever the weights."""
    save_file(timm.create_model("test_vit").state_dict(), tmp_path / "w.safetensors")
    classifier = vitctl.load("test_vit", weights=tmp_path / "w.safetensors", device="cpu")
    assert classifier.class_names[281] == "n02123045"
    (described,) = classifier.predict(np.zeros((8, 8), np.uint8))
    code = classifier.class_names[int(classifier.predict_proba(np.zeros((8, 8), np.uint8)).argmax())]
    assert described == classifier.class_descriptions[code] != code


# --- what an image may be -------------------------------------------------------------------------------------


def test_a_pillow_image_is_read_as_its_file(classifier: vitctl.Classifier, tmp_path: Path) -> None:
    """Orientation, 16 bits, transparency, palette, greyscale: the conversions of files, of opened images too."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    colours.save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(rng.integers(0, 65_536, (20, 30), dtype=np.uint16)).save(tmp_path / "sixteen.png")
    Image.fromarray(rng.integers(0, 256, (20, 30, 4), dtype=np.uint8), "RGBA").save(tmp_path / "clear.png")
    colours.convert("P").save(tmp_path / "palette.png")
    colours.convert("L").save(tmp_path / "grey.png")
    paths = sorted(tmp_path.iterdir())
    expected = classifier.predict_proba(paths)
    assert len({row.tobytes() for row in expected}) == 5
    assert np.array_equal(classifier.predict_proba([Image.open(path) for path in paths]), expected)
    grey = np.asarray(Image.open(tmp_path / "grey.png"))
    plain = np.asarray(Image.open(tmp_path / "turned.jpg"))  # an array has lost its orientation
    shares = classifier.predict_proba([grey, plain])
    assert shares[0] == pytest.approx(expected[paths.index(tmp_path / "grey.png")], abs=1e-6)
    assert not np.allclose(shares[1], expected[paths.index(tmp_path / "turned.jpg")], atol=1e-4)


def test_one_image_is_many_of_one(classifier: vitctl.Classifier, photos: list[Path]) -> None:
    opened = Image.open(photos[0])
    expected = classifier.predict_proba([photos[0]])
    assert expected.shape == (1, 3)
    for one in (photos[0], str(photos[0]), opened, np.asarray(opened), (photo for photo in photos[:1])):
        assert np.array_equal(classifier.predict_proba(one), expected)
    assert opened.mode == "RGB"  # and not closed
    assert classifier.predict(photos[0]) == ["blue"]


def test_no_images_give_no_rows(classifier: vitctl.Classifier) -> None:
    assert classifier.predict([]) == []
    assert classifier.predict_proba([]).shape == (0, 3)
    assert classifier.embed([]).shape == (0, 16)
    assert classifier.embed([], pool="tokens").shape == (0, 36, 16)


def test_batch_size_and_order_change_nothing(classifier: vitctl.Classifier, photos: list[Path]) -> None:
    together = classifier.predict_proba(photos)
    apart = classifier.predict_proba(photos[::-1], batch_size=2)[::-1]
    assert apart == pytest.approx(together, abs=1e-6)
    assert classifier.embed(photos, batch_size=4) == pytest.approx(classifier.embed(photos), abs=1e-5)


def test_one_pillow_image_given_many_times(classifier: vitctl.Classifier, tmp_path: Path) -> None:
    """Threads read the images; Pillow decodes an opened file when it is first looked at, for one of them only."""
    pixels = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    shares = classifier.predict_proba([Image.open(tmp_path / "large.png")] * 12)
    assert shares == pytest.approx(np.repeat(classifier.predict_proba(pixels), 12, axis=0), abs=1e-6)


def closed_image(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda _: "gone.png", "gone.png cannot be read: no such file. Expected paths"),
        (lambda path: path.parent, "cannot be read: is a folder"),
        (lambda _: b"GIF89a", r"images\[1\] cannot be read: it is of type bytes"),
        (lambda _: torch.zeros(3, 8, 8, dtype=torch.uint8), r"images\[1\] .* type Tensor"),
        (lambda _: np.zeros((8, 8, 3), np.float32), r"images\[1\] .* array of float32, not of uint8 values"),
        (lambda _: np.zeros((8, 8), bool), r"images\[1\] .* array of bool"),
        (lambda _: np.zeros((3, 8, 8), np.uint8), r"images\[1\] .* array of shape \(3, 8, 8\)"),
        (lambda _: np.zeros((8, 8, 4), np.uint8), r"images\[1\] .* array of shape \(8, 8, 4\)"),
        (lambda _: np.zeros((0, 8, 3), np.uint8), r"images\[1\] .* array of shape \(0, 8, 3\)"),
        (closed_image, r"images\[1\] cannot be read: "),
    ],
)
@pytest.mark.parametrize("batch_size", [1, 64])
def test_bad_image_is_named(
    classifier: vitctl.Classifier, photos: list[Path], make: Callable[[Path], Any], words: str, batch_size: int
) -> None:
    for method in (classifier.predict_proba, classifier.embed):
        with pytest.raises(vitctl.DataError, match=words):
            method([photos[0], make(photos[0])], batch_size=batch_size)


def test_what_is_no_image_and_no_images(classifier: vitctl.Classifier) -> None:
    with pytest.raises(vitctl.DataError, match="images is of type int; expected paths"):
        classifier.predict(7)  # type: ignore[arg-type]
    with pytest.raises(vitctl.SettingError, match="batch_size is 0"):
        classifier.predict([], batch_size=0)


# --- features -------------------------------------------------------------------------------------------------


def test_embed_gives_what_timm_gives(classifier: vitctl.Classifier, photos: list[Path]) -> None:
    shown = torch.stack([classifier.transform(Image.open(path)) for path in photos])
    module: Any = classifier.module
    with torch.no_grad():
        features = module.forward_features(shown)
        pooled = module.forward_head(features, pre_logits=True).numpy()
        after_first = module.forward_intermediates(
            shown, indices=[0], return_prefix_tokens=True, intermediates_only=True, output_fmt="NLC"
        )[0]
    patches, prefix = (tensor.numpy() for tensor in after_first)
    assert classifier.embed(photos) == pytest.approx(pooled, abs=1e-5)
    assert classifier.embed(photos).dtype == np.float32
    assert classifier.embed(photos, layer=0, pool="cls") == pytest.approx(prefix[:, 0], abs=1e-5)
    assert classifier.embed(photos, layer="0", pool="mean") == pytest.approx(patches.mean(axis=1), abs=1e-5)
    tokens = classifier.embed(photos, layer=0, pool="tokens", batch_size=4)
    assert tokens.shape == (15, 36, 16)
    assert tokens == pytest.approx(patches, abs=1e-5)
    assert classifier.embed(photos[0], "embed", "mean").shape == (1, 16)


@pytest.mark.parametrize(
    ("layer", "pool", "words"),
    [
        (2, "native", "'2' is no layer .* it has embed, 0 to 1, final"),
        (-1, "native", "'-1' is no layer"),
        ("all", "native", "layer is 'all'; expected one layer"),
        ("0,1", "native", "layer is '0,1'; expected one layer"),
        ("final", "max", "pool is 'max'; it can be native"),
        ("embed", "cls", "at layer embed the class token is the same"),
    ],
)
def test_no_such_features(classifier: vitctl.Classifier, layer: int | str, pool: str, words: str) -> None:
    with pytest.raises(vitctl.SettingError, match=words):
        classifier.embed([], layer, pool)


def test_without_a_classifier__embed_works_predict_says_so(tmp_path: Path, photos: list[Path]) -> None:
    model = vitctl.load(headless_folder(tmp_path / "headless"), device="cpu")
    assert model.class_names == ()
    assert model.embed(photos).shape == (15, 16)
    for method in (model.predict, model.predict_proba):
        with pytest.raises(vitctl.ModelError, match="has no classifier: its weights hold no head"):
            method(photos)


# --- what can be loaded ---------------------------------------------------------------------------------------


def test_best_and_last_and_the_demo(finished_run: Path, classifier: vitctl.Classifier, photos: list[Path]) -> None:
    best = vitctl.load(str(finished_run / "best"), device="cpu")
    assert np.array_equal(best.predict_proba(photos), classifier.predict_proba(photos))
    last = vitctl.load(finished_run / "last", device="cpu")
    assert last.class_names == classifier.class_names == ("blue", "green", "red")
    assert vitctl.load("demo", device="cpu").image_size == (32, 32)


def test_a_run_that_was_stopped__a_warning_of_the_callers_line(finished_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(finished_run, tmp_path / "run")
    shutil.rmtree(run / "best")
    with pytest.warns(UserWarning, match="was stopped before its end: these are the weights of its last/") as caught:
        vitctl.load(run, device="cpu")
    assert [Path(one.filename).name for one in caught] == [Path(__file__).name]
    run.rename("demo")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vitctl.load(Path("demo/last"), device="cpu")
        vitctl.load("demo", device="cpu")  # the embedded one, whatever lies here


@pytest.mark.parametrize(
    ("size", "expected"),
    [(32, (32, 32)), ("32x48", (32, 48)), ((32, 48), (32, 48)), (np.int64(16), (16, 16)), (None, (24, 24))],
)
def test_image_size(
    finished_run: Path, photos: list[Path], size: Any, expected: tuple[int, int], classifier: vitctl.Classifier
) -> None:
    other = vitctl.load(finished_run, image_size=size, device="cpu")
    assert other.image_size == expected
    assert other.transform(Image.open(photos[0])).shape == (3, *expected)
    assert other.embed(photos[:2], pool="tokens").shape == (2, expected[0] * expected[1] // 16, 16)
    assert (other.predict_proba(photos).argmax(axis=1) == classifier.predict_proba(photos).argmax(axis=1)).all()


@pytest.mark.parametrize(
    ("kwargs", "error", "words"),
    [
        ({"image_size": 30}, vitctl.SettingError, "not a multiple of the patch"),
        ({"image_size": (24, 24, 3)}, vitctl.SettingError, "image_size is '24x24x3'; it takes pixels"),
        ({"image_size": 0.5}, vitctl.SettingError, "image_size is '0.5'"),
        ({"device": "tpu"}, vitctl.SettingError, "'tpu'"),
        ({"weights": "gone.safetensors"}, vitctl.ModelError, "gone.safetensors"),
        ({"run_or_model": "runs/none"}, vitctl.ModelError, "neither a folder nor a model of timm"),
    ],
)
def test_cannot_be_loaded(
    finished_run: Path, kwargs: dict[str, Any], error: type[vitctl.VitctlError], words: str
) -> None:
    with pytest.raises(error, match=words):
        vitctl.load(**{"run_or_model": finished_run, "device": "cpu"} | kwargs)


def test_weights_of_the_authors_are_resampled_as_they_do() -> None:
    assert decide_interpolation(None, weights="ViT-B_16.npz").value == "paper"
    assert decide_interpolation(None, weights="pretrained").value == "bicubic-aa"
    assert decide_interpolation("bicubic", weights="ViT-B_16.npz") == ("bicubic", "given")


# --- manners --------------------------------------------------------------------------------------------------


def test_nothing_global_changes(finished_run: Path, photos: list[Path]) -> None:
    def state() -> tuple[Any, ...]:
        return (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tobytes(),
            random.getstate(),
            torch.get_num_threads(),
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.get_default_dtype(),
            os.getcwd(),
            dict(os.environ),
            threading.active_count(),
        )

    before = state()
    classifier = vitctl.load(finished_run, image_size=32, device="cpu")
    classifier.predict(photos)
    classifier.embed(photos, layer=0)
    assert state() == before
    assert not classifier.module.training
    assert all(parameter.grad is None for parameter in classifier.module.parameters())


def test_another_working_folder(
    finished_run: Path, photos: list[Path], classifier: vitctl.Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(finished_run.parent)
    relative = vitctl.load("run", device="cpu")
    monkeypatch.chdir(photos[0].parent)
    assert np.array_equal(relative.predict_proba(photos[0].name), classifier.predict_proba(photos[0]))


def test_silent_unless_told(finished_run: Path, photos: list[Path], capfd: pytest.CaptureFixture[str]) -> None:
    vitctl.load(finished_run, device="cpu").predict(photos)
    assert capfd.readouterr() == ("", "")
    vitctl.load(finished_run, device="cpu", verbose=True).predict(photos)
    out, err = capfd.readouterr()
    assert out == ""
    assert f"loading {finished_run}" in err


def test_repr(classifier: vitctl.Classifier, tmp_path: Path) -> None:
    assert repr(classifier).endswith("best: VisionTransformer, 3 classes (blue, green, red), 24 px, cpu>")
    headless = vitctl.load(headless_folder(tmp_path / "headless"), image_size=(16, 32), device="cpu")
    assert repr(headless).endswith("headless: VisionTransformer, no classifier, 16x32 px, cpu>")
