"""One small model, images whose classes it knows, and its exports to every format, made once."""

import copy
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import numpy_helper
from PIL import Image

from vitctl.conversation import Conversation
from vitctl.data.transforms import EvaluationTransform
from vitctl.exporting.source import Source, hash_weights
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.export import ExportResult
from vitctl.settings.export import ExportConfig

NAMES = ("cat", "dog", "bird")
PREPROCESSING = Preprocessing((16, 16), "bicubic", 0.8, "center", (0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
NUM_IMAGES, LEAST_LEAD = 7, 0.05  # two batches of three and one alone; the best logit is ahead of the second by


def _images() -> list[Image.Image]:
    rng, images = np.random.default_rng(0), []
    for _ in range(80):
        base, spread = rng.integers(0, 256, 3), rng.integers(-90, 90, (24, 31, 3))
        images.append(Image.fromarray(np.clip(base + spread, 0, 255).astype(np.uint8)))
    return images


def _pixels(images: list[Image.Image]) -> torch.Tensor:
    transform = EvaluationTransform(PREPROCESSING)
    return torch.stack([transform(image) for image in images])


@pytest.fixture(scope="session")
def source() -> Source:
    """A ViT with three classes, 16 px, patch 4, whose every parameter matters and whose answers vary."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **TINY).eval()
        for parameter in model.parameters():  # not zeros and ones: what is left out or swapped must show
            torch.nn.init.normal_(parameter, std=0.3)
            parameter.requires_grad_(False)
        model.head.bias -= model(_pixels(_images())).mean(dim=0)
    return Source(model, "small", NAMES, {}, PREPROCESSING, "random", None, hash_weights(model))


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, source: Source) -> Path:
    """``source`` as a timm folder."""
    folder = tmp_path_factory.mktemp("source") / "small"
    save_timm_folder(
        source.model,
        folder,
        class_names=NAMES,
        preprocessing=PREPROCESSING,
        base_model="random",
        base_licence=None,
    )
    return folder


@pytest.fixture(scope="session")
def answered_images(tmp_path_factory: pytest.TempPathFactory, source: Source) -> Path:
    """Seven images in a folder per class, which the source is right about, clearly; of every class some."""
    folder = tmp_path_factory.mktemp("answered")
    images = _images()
    with torch.no_grad():
        best = source.model(_pixels(images)).topk(2)
    leads, labels = (best.values[:, 0] - best.values[:, 1]).tolist(), best.indices[:, 0].tolist()
    order = sorted((index for index in range(len(images)) if leads[index] > LEAST_LEAD), key=lambda one: labels[one])
    chosen = [order[round(step)] for step in np.linspace(0, len(order) - 1, NUM_IMAGES)]
    assert {labels[index] for index in chosen} == {0, 1, 2}
    for index in chosen:
        (folder / NAMES[labels[index]]).mkdir(exist_ok=True)
        images[index].save(folder / NAMES[labels[index]] / f"{index}.png")
    return folder


@pytest.fixture(scope="session")
def good_exports(tmp_path_factory: pytest.TempPathFactory, model_folder: Path, answered_images: Path) -> ExportResult:
    """What ``vitctl export --to all`` reports, ``out`` being where; not to be changed."""
    from vitctl.workflows import export

    out = tmp_path_factory.mktemp("good") / "exports"
    config = ExportConfig(
        run=str(model_folder), to="all", out=str(out), verify=str(answered_images), outputs="logits,embedding"
    )
    return export.run(config, Conversation())


@pytest.fixture(scope="session")
def good_folder(good_exports: ExportResult) -> Path:
    """Where ``good_exports`` are: one folder per format. Not to be changed."""
    return Path(good_exports.out)


def hashes_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def export(run_cli: Any, model_folder: Path, answered_images: Path, tmp_path: Path) -> Callable[..., Any]:
    """Return ``export("onnx", *options, model=FOLDER)``: the command, into folders that have to be made."""
    tmp_path.joinpath("empty").mkdir()

    def run(formats: str, *options: object, model: Path = model_folder) -> Any:
        out = tmp_path / "empty" / "new" / "exports"
        arguments: list[object] = [model, "--to", formats, "--out", out, "--verify", answered_images]
        if not {"--outputs"} & set(options) and {"onnx", "pt2"} & set(formats.split(",")):
            arguments += ["--outputs", "logits,embedding"]
        before = hashes_of(model)
        result = run_cli("export", *arguments, *options)
        assert hashes_of(model) == before
        return result

    return run


@pytest.fixture
def altered(source: Source, good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return ``altered({key: change})``: a timm folder of the source with tensors changed; ONNX files follow it.

    The exporter's own graph of the source is used with the changed tensors in place: nothing is traced.
    """

    from vitctl.exporting import to_onnx
    from vitctl.exporting.formats import Exporter
    from vitctl.exporting.source import metadata_texts

    def alter(changes: dict[str, Callable[[torch.Tensor], torch.Tensor]]) -> Path:
        model = timm.create_model("vit_tiny_patch16_224", **TINY)
        state = {key: value.clone() for key, value in source.model.state_dict().items()}
        pairs: list[tuple[np.ndarray, np.ndarray]] = []
        for key, change in changes.items():
            pairs.append((state[key].numpy().copy(), change(state[key].clone()).numpy()))
            state[key] = change(state[key])
        model.load_state_dict(state)
        proto = onnx.load(str(good_folder / "onnx" / "model.onnx"))
        num_changed = 0
        for tensor in proto.graph.initializer:
            values = numpy_helper.to_array(tensor)
            for old, new in pairs:
                for turn in (False, True):
                    before, after = (old.T, new.T) if turn else (old, new)
                    if before.shape == values.shape and np.array_equal(before, values):
                        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(after), tensor.name))
                        num_changed += 1
                        break
        assert num_changed == len(changes)

        def write_onnx(_traced: Any, path: Path, *, opset: int, metadata: dict[str, Any], **_others: Any) -> None:
            written = copy.deepcopy(proto)  # saving weights beside the file takes them out of it
            onnx.helper.set_model_props(written, metadata_texts(metadata))
            to_onnx.save_onnx(written, path)
            to_onnx.check_onnx(path, opset=opset)

        monkeypatch.setattr(to_onnx, "write_onnx", write_onnx)
        monkeypatch.setattr(Exporter, "_trace", lambda exporter, attention: None)
        folder = tmp_path / "altered" / "small"
        save_timm_folder(
            model,
            folder,
            class_names=source.class_names,
            preprocessing=source.preprocessing,
            base_model="random",
            base_licence=None,
        )
        return folder

    return alter
