"""Files of ``vitctl export``: which model and which images it starts from, what lands and what it says."""

import json
import platform
import shutil
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from vitctl import __version__
from vitctl.conversation import Conversation
from vitctl.errors import DataError, ModelError, SettingError
from vitctl.exporting import place as places
from vitctl.exporting import verification_images
from vitctl.exporting.npz import write_npz
from vitctl.exporting.place import Place
from vitctl.exporting.source import Source
from vitctl.models.geometry import change_resolution, geometry_of
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings import words
from vitctl.settings.export import ExportConfig
from vitctl.workflows import export

COLOURS = ("red", "green", "blue")


class Listener(Conversation):
    """Keeps what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []
        self.warnings: list[str] = []

    def line(self, text: str) -> None:
        self.lines.append(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def make_run(folder: Path, weights: Path) -> Path:
    """Make a run as ``finetune`` leaves it, with eighteen images in ``data/``, six of them held out."""
    rng, run, data = np.random.default_rng(0), folder / "photos", folder / "data"
    for label, name in enumerate(COLOURS):
        (data / name).mkdir(parents=True)
        for index in range(6):
            pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
            pixels[..., label] += np.uint8(150)
            Image.fromarray(pixels).save(data / name / f"{index}.png")
    run.mkdir()
    held_out = [str(data / name / f"{index}.png") for name in COLOURS for index in (3, 5)]
    (run / "config.json").write_text(json.dumps({"vitctl": __version__, "data": str(data)}))
    (run / "validation.json").write_text(json.dumps({"data": str(data), "images": held_out}))
    for which in ("best", "last"):
        shutil.copytree(weights, run / which)
    return run


@pytest.fixture
def run_folder(tmp_path: Path, tiny_model_folder: Path) -> Path:
    """A run of this test's own; its images are in ``data`` beside it."""
    return make_run(tmp_path, tiny_model_folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> tuple[Path, dict[str, Any]]:
    """A run exported to the formats that need no graph: its folder, the report. Not to be changed."""
    run = make_run(tmp_path_factory.mktemp("exported"), tiny_model_folder)
    config = ExportConfig(run=str(run), to="npz,timm,hf", npz_layout="big_vision")
    return run, export.run(config, Conversation()).as_json()


def find_place(config: ExportConfig, conversation: Conversation) -> Place:
    return places.find_place(config.run, config.model, config.which, conversation)


def load_source(place: Place, config: ExportConfig, conversation: Conversation) -> Source:
    return places.load_source(
        place,
        weights=config.weights,
        model_args=config.model_args,
        image_size=config.image_size,
        interpolation=config.pos_embed_interp,
        conversation=conversation,
    )


def place_of(conversation: Conversation | None = None, **settings: Any) -> Place:
    return find_place(ExportConfig(**settings), conversation or Conversation())


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


# --- which model ---------------------------------------------------------------------------------------------


def test_place__of_a_name_is_the_name() -> None:
    assert place_of(model="vit_tiny_patch16_224") == Place("vit_tiny_patch16_224", None, "vit_tiny_patch16_224", None)


def test_place__of_a_run_is_its_best(run_folder: Path) -> None:
    assert place_of(run=str(run_folder)) == Place(str(run_folder / "best"), run_folder, "photos", run_folder / "best")


def test_place__of_a_run_may_be_its_last(run_folder: Path) -> None:
    found = place_of(run=str(run_folder), which="last")
    assert found == Place(str(run_folder / "last"), run_folder, "photos-last", run_folder / "last")


@pytest.mark.parametrize("which", ["best", "last"])
def test_place__of_weights_in_a_run_knows_the_run(run_folder: Path, which: str) -> None:
    found = place_of(run=str(run_folder / which))
    assert (found.run, found.name, found.folder) == (run_folder, f"photos-{which}", run_folder / which)


def test_place__of_a_timm_folder_has_no_run(tiny_model_folder: Path) -> None:
    assert place_of(run=str(tiny_model_folder)) == Place(str(tiny_model_folder), None, "tiny", tiny_model_folder)


def test_place__of_a_run_that_was_stopped_is_its_last_and_says_so(run_folder: Path) -> None:
    shutil.rmtree(run_folder / "best")
    listener = Listener()
    assert place_of(listener, run=str(run_folder)).folder == run_folder / "last"
    assert len(listener.warnings) == 1
    assert "its last/" in listener.warnings[0]


@pytest.mark.parametrize("which", ["best", "last"])
def test_place__of_a_run_without_weights_is_refused(run_folder: Path, which: str) -> None:
    for name in ("best", "last"):
        shutil.rmtree(run_folder / name)
    with pytest.raises(ModelError, match="stopped before it had weights to use; expected best/ or last/"):
        place_of(run=str(run_folder), which=which)


def test_place__which_beside_a_timm_folder_is_refused(tiny_model_folder: Path) -> None:
    with pytest.raises(SettingError, match="--which last .* no run folder"):
        place_of(run=str(tiny_model_folder), which="last")


def test_source__is_the_model_as_its_folder_describes_it(tiny_model_folder: Path) -> None:
    config = ExportConfig(run=str(tiny_model_folder), to="timm")
    source = load_source(find_place(config, Conversation()), config, Conversation())
    assert source.class_names == COLOURS
    assert source.preprocessing == Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    assert source.weights_sha256 == sha256((tiny_model_folder / "model.safetensors").read_bytes()).hexdigest()
    assert (source.base_model, source.base_licence) == ("random", None)
    assert not source.model.training
    assert not any(parameter.requires_grad for parameter in source.model.parameters())


def test_source__at_another_size_is_resampled_as_finetune_does_it(tiny_model_folder: Path) -> None:
    config = ExportConfig(run=str(tiny_model_folder), to="timm", image_size="24x12")
    source = load_source(find_place(config, Conversation()), config, Conversation())
    assert source.preprocessing.image_size == geometry_of(source.model).image_size == (24, 12)
    expected = timm.create_model(f"local-dir:{tiny_model_folder}", pretrained=True)
    change_resolution(expected, (24, 12), method="bicubic-aa", name="tiny")
    assert torch.equal(source.model.pos_embed, expected.pos_embed)
    assert source.weights_sha256 == sha256((tiny_model_folder / "model.safetensors").read_bytes()).hexdigest()


def source_of(**settings: Any) -> Source:
    config = ExportConfig(to="timm", image_size="24x12", **settings)
    return load_source(find_place(config, Conversation()), config, Conversation())


@pytest.fixture
def npz_weights(tiny_model_folder: Path, tmp_path: Path) -> Path:
    """The weights of the tiny model as the authors' code keeps them."""
    model = timm.create_model(f"local-dir:{tiny_model_folder}", pretrained=True)
    write_npz(model, tmp_path / "weights.npz", layout="vit_jax", name="tiny")
    return tmp_path / "weights.npz"


def test_source__of_npz_weights_is_resampled_as_every_command_does_it(
    tiny_model_folder: Path, npz_weights: Path
) -> None:
    source = source_of(model=str(tiny_model_folder), weights=str(npz_weights))
    assert source.interpolation.value == "paper"
    seen = open_model(str(tiny_model_folder), weights=str(npz_weights), image_size=(24, 12)).model  # fewshot-eval's
    trained = open_model(str(tiny_model_folder), weights=str(npz_weights)).at((24, 12)).model  # finetune's
    expected = timm.create_model(f"local-dir:{tiny_model_folder}", pretrained=True)
    change_resolution(expected, (24, 12), method="paper", name="tiny")
    for model in (seen, trained, expected):
        torch.testing.assert_close(source.model.pos_embed, model.pos_embed, rtol=0, atol=0)


@pytest.mark.parametrize("method", words.INTERPOLATIONS)
def test_source__is_resampled_as_told(tiny_model_folder: Path, npz_weights: Path, method: str) -> None:
    expected = timm.create_model(f"local-dir:{tiny_model_folder}", pretrained=True)
    change_resolution(expected, (24, 12), method=method, name="tiny")
    for given in ({"run": str(tiny_model_folder)}, {"model": str(tiny_model_folder), "weights": str(npz_weights)}):
        source = source_of(pos_embed_interp=method, **given)
        assert source.interpolation == (method, "given")
        assert torch.equal(source.model.pos_embed, expected.pos_embed)


def test_source__at_a_size_that_patches_do_not_divide_is_refused(tiny_model_folder: Path) -> None:
    config = ExportConfig(run=str(tiny_model_folder), to="timm", image_size="18")
    with pytest.raises(SettingError, match="18"):
        load_source(find_place(config, Conversation()), config, Conversation())


@pytest.mark.parametrize("base_model", ["a name", None, {"name": 3}, {}])
def test_source__whose_origin_is_written_otherwise_is_its_own(
    tiny_model_folder: Path, tmp_path: Path, base_model: Any
) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "mine"))
    document = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(document | {"base_model": base_model}))
    config = ExportConfig(run=str(folder), to="timm")
    assert load_source(find_place(config, Conversation()), config, Conversation()).base_model == "mine"


def test_source__without_a_head_has_no_classes(tmp_path: Path) -> None:
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=0
    )
    preprocessing = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    save_timm_folder(
        model, tmp_path / "m", class_names=[], preprocessing=preprocessing, base_model="random", base_licence=None
    )
    config = ExportConfig(run=str(tmp_path / "m"), to="timm")
    source = load_source(find_place(config, Conversation()), config, Conversation())
    assert source.class_names == ()
    assert not source.has_classifier


# --- which images --------------------------------------------------------------------------------------------


@pytest.fixture
def chosen(tiny_model_folder: Path) -> Callable[..., tuple[Any, Listener]]:
    """Return ``chosen(run=..., verify=...)``: the images to verify on, and what was said."""

    def choose(**settings: Any) -> tuple[Any, Listener]:
        config = ExportConfig(**({"run": str(tiny_model_folder)} | settings))
        place, listener = find_place(config, Conversation()), Listener()
        source = load_source(place, ExportConfig(run=str(tiny_model_folder)), Conversation())
        most = export.NUM_IMAGES if config.precision == "fp32" else export.NUM_IMAGES_FOR_ACCURACY
        choose_images = verification_images.choose_images
        return choose_images(place, source, verify=config.verify, most=most, conversation=listener), listener

    return choose


def colours_of(images: Any) -> list[int]:
    """Return the brightest channel of each image, which in the drawn images is its class."""
    return [int(np.array(images.read(position)).mean(axis=(0, 1)).argmax()) for position in images.positions]


def test_images__of_a_run_are_those_it_held_out(chosen: Any, run_folder: Path) -> None:
    data = run_folder.parent / "data"
    found, listener = chosen(run=str(run_folder))
    assert found.name == "6 images of data"
    assert found.reason == "the run's own validation images"
    pixels = sorted(np.array(found.images.read(position)).tobytes() for position in found.images.positions)
    expected = [np.array(Image.open(data / name / f"{index}.png")) for name in COLOURS for index in (3, 5)]
    assert pixels == sorted(image.tobytes() for image in expected)
    assert [found.images.labels[position] for position in found.images.positions] == colours_of(found.images)
    assert listener.warnings == []


@pytest.mark.parametrize("loss", ["data", "list", "damaged list"])
def test_images__of_a_run_that_are_gone_give_way_to_digits_with_a_warning(
    chosen: Any, run_folder: Path, loss: str
) -> None:
    if loss == "data":
        shutil.rmtree(run_folder.parent / "data")
    elif loss == "list":
        (run_folder / "validation.json").unlink()
    else:
        (run_folder / "validation.json").write_text('{"data": "ph')
    found, listener = chosen(run=str(run_folder))
    assert found.name == "200 images of digits"
    assert found.images.labels is None
    assert len(listener.warnings) == 1
    assert any("embedded digits instead" in line for line in listener.lines)


def test_images__of_a_timm_folder_are_digits_without_labels(chosen: Any) -> None:
    found, listener = chosen()
    assert (found.name, found.images.labels) == ("200 images of digits", None)
    assert "--verify" in found.reason
    assert "labels not used" in found.reason
    assert listener.warnings == []
    assert len(set(found.images.positions)) == 200


def test_images__for_accuracy_are_more(chosen: Any) -> None:
    assert len(chosen(precision="int8-dynamic")[0].images.positions) == 360  # all of the digits' test split


def test_images__are_the_same_every_time_and_from_everywhere(chosen: Any) -> None:
    first, second = chosen()[0].images, chosen()[0].images
    assert first.positions == second.positions
    pixels = [[np.array(images.read(one)).tobytes() for one in images.positions] for images in (first, second)]
    assert pixels[0] == pixels[1]
    assert len(set(pixels[0])) > 190


def test_images__given_have_the_models_labels_whatever_their_order(chosen: Any, tmp_path: Path) -> None:
    for label, name in enumerate(("blue", "green", "red")):  # by name, blue comes first; the model has red first
        (tmp_path / "other" / name).mkdir(parents=True)
        for index in range(3):
            pixels = np.full((4, 4, 3), 10 * index, dtype=np.uint8)
            pixels[..., 2 - label] = 200
            Image.fromarray(pixels).save(tmp_path / "other" / name / f"{index}.png")
    found, _ = chosen(verify=str(tmp_path / "other"))
    assert found.name == "9 images of other"
    assert [found.images.labels[position] for position in found.images.positions] == colours_of(found.images)
    assert sorted(found.images.labels.values()) == [0, 0, 0, 1, 1, 1, 2, 2, 2]


def test_images__of_other_classes_have_no_labels_and_that_is_said(chosen: Any) -> None:
    found, listener = chosen(verify="digits")
    assert found.images.labels is None
    assert any("accuracy is not measured" in line for line in listener.lines)


def test_images__that_cannot_be_read_are_left_out_with_a_warning(chosen: Any, run_folder: Path) -> None:
    data = run_folder.parent / "data"
    (data / "green" / "5.png").write_bytes(b"no image")
    found, listener = chosen(verify=str(data))
    assert found.name == "17 images of data"
    assert any("5.png" in warning for warning in listener.warnings)
    assert [found.images.labels[position] for position in found.images.positions] == colours_of(found.images)


def test_images__none_of_which_can_be_read_are_an_error(chosen: Any, tmp_path: Path) -> None:
    (tmp_path / "bad" / "red").mkdir(parents=True)
    (tmp_path / "bad" / "red" / "0.png").write_bytes(b"no image")
    with pytest.raises(DataError):
        chosen(verify=str(tmp_path / "bad"))


# --- where to ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"run": "runs/photos"}, "runs/photos/exports"),
        ({"run": "runs/photos/best"}, "runs/photos/best/exports"),
        ({"model": "demo"}, "exports/demo"),
        ({"model": "hf-hub:someone/model name"}, "exports/hf-hub-someone-model-name"),
        ({"model": "demo", "out": "there/a b"}, "there/a b"),
        ({"run": "runs/photos", "out": "~/there"}, "~/there"),
    ],
)
def test_out__is_absolute_and_beside_what_is_exported(settings: dict[str, str], expected: str) -> None:
    config = ExportConfig(**settings, to="timm")
    place = Place(str(config.model or config.run), None, "", Path(config.run) if config.run else None)
    assert export._decide_out(config, place) == Path(expected).expanduser().absolute()


@pytest.mark.parametrize("existing", ["folder", "file", "empty folder", "out is a file"])
def test_out__that_exists_is_refused_before_anything_is_loaded(
    existing: str, tmp_path: Path, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(*_arguments: Any) -> None:
        raise AssertionError("loaded the model first")

    monkeypatch.setattr(export, "load_source", load)
    out = tmp_path / "out"
    if existing == "out is a file":
        out.write_text("mine")
    elif existing == "file":
        out.mkdir()
        (out / "timm").write_text("mine")
    else:
        (out / "timm").mkdir(parents=True)
        if existing == "folder":
            (out / "timm" / "mine.txt").write_text("mine")
    before = files_in(tmp_path)
    with pytest.raises(SettingError, match="out is a file|exists already.*--out"):
        export.run(ExportConfig(run=str(tiny_model_folder), to="npz,timm", out=str(out)), Conversation())
    assert files_in(tmp_path) == before


# --- what lands ----------------------------------------------------------------------------------------------


def test_files__land_in_the_run_and_change_nothing_else_of_it(
    exported: tuple[Path, dict[str, Any]], run_folder: Path, tiny_model_folder: Path
) -> None:
    before, after = files_in(run_folder), files_in(exported[0])
    for name in ("config.json", "validation.json"):  # they name the folder of their own data
        assert before.pop(name) != after.pop(name)
    assert {path: digest for path, digest in after.items() if not path.startswith("exports/")} == before
    assert sorted(path.name for path in (exported[0] / "exports").iterdir()) == ["hf", "npz", "timm"]
    assert after["exports/timm/model.safetensors"] == files_in(tiny_model_folder)["model.safetensors"]
    assert sorted(path.name for path in (exported[0] / "exports" / "npz").iterdir()) == [
        "README.md",
        "export.json",
        "model.npz",
        "vitctl.json",
    ]


def test_export_json__is_the_report_with_what_identifies_the_model(exported: tuple[Path, dict[str, Any]]) -> None:
    run, report = exported
    assert [one["format"] for one in report["exports"]] == ["npz", "timm", "hf"]
    for one in report["exports"]:
        folder = run / "exports" / one["format"]
        document = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        assert document["class_names"] == list(COLOURS)
        assert document["model"] == "photos"
        assert document["weights_sha256"] == sha256((run / "best" / "model.safetensors").read_bytes()).hexdigest()
        assert document["image_size"] == [16, 16]
        assert document["options"]["npz_layout"] == "big_vision"
        assert (document["vitctl"], document["versions"]["python"]) == (__version__, platform.python_version())
        assert document["versions"]["torch"] == version("torch")
        assert (document["precision"], document["opset"], document["latency_ms"]) == ("fp32", None, None)
        for key in ("format", "precision", "opset", "verify", "latency_ms"):
            assert document[key] == one[key]
        for inside, told in zip(document["files"], one["files"], strict=True):
            assert told["path"] == str(folder / inside["path"])
            content = Path(told["path"]).read_bytes()
            assert (told["bytes"], told["sha256"]) == (len(content), sha256(content).hexdigest())
            assert {key: inside[key] for key in ("bytes", "sha256")} == {key: told[key] for key in ("bytes", "sha256")}
        listed = {file["path"] for file in document["files"]}
        assert listed | {"README.md", "export.json"} == {path.name for path in folder.iterdir()}


def test_report__says_what_was_verified_on_what(exported: tuple[Path, dict[str, Any]]) -> None:
    run, report = exported
    assert report["out"] == str(run / "exports")
    assert report["images"].startswith("6 images of ")
    assert report["refused"] == []
    for one in report["exports"]:
        verify = one["verify"]
        assert (verify["passed"], verify["num_images"], verify["sizes"]) == (True, 6, [[16, 16]])
        assert verify["max_abs"] <= 1e-5
        assert verify["accuracy"] == verify["source_accuracy"] == report["accuracy"]
    gaps = {one["format"]: one["verify"].get("tanh_gelu_max_abs") for one in report["exports"]}
    assert gaps["npz"] > 0
    assert (gaps["timm"], gaps["hf"]) == (None, None)


@pytest.mark.slow
def test_export__again_is_the_same_files(run_folder: Path, tmp_path: Path) -> None:
    outs = [tmp_path / "first", tmp_path / "second"]
    for out in outs:
        export.run(ExportConfig(run=str(run_folder), to="npz,timm,hf", out=str(out)), Conversation())
    assert files_in(outs[0]) == files_in(outs[1])


def test_export__of_an_export_has_the_same_weights(exported: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    run, _ = exported
    config = ExportConfig(run=str(run / "exports" / "timm"), to="timm", out=str(tmp_path / "again"))
    export.run(config, Conversation())
    for name in ("model.safetensors", "config.json"):
        again, first = tmp_path / "again" / "timm" / name, run / "exports" / "timm" / name
        assert again.read_bytes() == first.read_bytes()


def test_card__of_every_folder_names_the_classes_and_the_files(exported: tuple[Path, dict[str, Any]]) -> None:
    run, report = exported
    for one in report["exports"]:
        text = (run / "exports" / one["format"] / "README.md").read_text(encoding="utf-8")
        assert "\n0. red\n1. green\n2. blue\n" in text
        for file in one["files"]:
            assert f"| `{Path(file['path']).name}` |" in text
            assert file["sha256"] in text
        assert str(run) not in text
