"""The evaluation transform inside a graph: the levels of Pillow, in torch, torch.export and onnxruntime."""

import io

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.export import Dim

from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting import graph_preprocessing
from vitctl.exporting.graph import quiet_exporters
from vitctl.exporting.graph_preprocessing import GraphPreprocessing, check_embeddable
from vitctl.primitives.preprocessing import Preprocessing

Pixels = NDArray[np.uint8]
KINDS = ("noise", "black and white", "gradient", "stripes", "checkerboard", "smooth")


def _picture(kind: str, height: int, width: int, *, seed: int = 0) -> Pixels:
    """Return (H, W, 3) uint8; the later kinds have many sums that fall on half a level."""
    rng = np.random.default_rng([seed, height, width])
    rows, columns = np.mgrid[:height, :width]
    low, high = rng.integers(0, 256, 2)
    if kind == "noise":
        channels = rng.integers(0, 256, (height, width, 3))
    elif kind == "black and white":
        channels = 255 * rng.integers(0, 2, (height, width, 3))
    elif kind == "gradient":
        ramps = [columns / max(width - 1, 1), rows / max(height - 1, 1), (rows + columns) / max(height + width - 2, 1)]
        channels = 255 * np.stack(ramps, axis=-1)
    elif kind == "stripes":
        channels = low + (high - low) * np.stack([columns % 2, rows % 2, (columns % 3 + rows) % 2], axis=-1)
    elif kind == "checkerboard":
        side = rng.integers(1, 5)
        channels = low + (high - low) * np.stack([(rows // side + columns // side) % 2] * 3, axis=-1)
    else:
        waves = [np.sin(rows / 9 + columns / 7), np.cos(rows / 13 - columns / 5), np.sin(rows * columns / 999)]
        channels = np.clip(127 + 150 * np.stack(waves, axis=-1) + rng.normal(size=(height, width, 3)), 0, 255)
    return channels.astype(np.uint8)


def _raw(
    size: tuple[int, int], *, interpolation: str = "bicubic", crop_pct: float = 1.0, crop_mode: str = "center"
) -> Preprocessing:
    """Return a preprocessing whose result is levels divided by 255."""
    return Preprocessing(size, interpolation, crop_pct, crop_mode, (0.0,) * 3, (1.0,) * 3)


def _pillow_levels(pixels: Pixels, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return (3, h, w) of what the model sees, whole levels."""
    tensor = EvaluationTransform(preprocessing)(Image.fromarray(pixels))
    return np.rint(tensor.numpy() * 255)


def _difference(pixels: Pixels, preprocessing: Preprocessing) -> float:
    levels = GraphPreprocessing(preprocessing).levels(torch.from_numpy(pixels)[None])[0]
    assert levels.dtype == torch.float32
    return float(np.abs(levels.numpy() - _pillow_levels(pixels, preprocessing)).max())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "shape", [(37, 53), (120, 41), (64, 64), (16, 16), (16, 31), (7, 5), (1, 1), (90, 33), (33, 34)]
)
def test_every_level_is_pillows(shape: tuple[int, int], kind: str, interpolation: str) -> None:
    pixels = _picture(kind, *shape)
    for size, crop_pct, crop_mode in (
        ((16, 16), 1.0, "center"),
        ((32, 32), 0.9, "center"),
        ((16, 16), 0.875, "squash"),
        ((12, 20), 0.95, "center"),
        ((20, 12), 1.0, "squash"),
    ):
        preprocessing = _raw(size, interpolation=interpolation, crop_pct=crop_pct, crop_mode=crop_mode)
        assert _difference(pixels, preprocessing) == 0, preprocessing


@pytest.mark.parametrize("interpolation", ["lanczos", "hamming"])
@pytest.mark.parametrize("shape", [(37, 53), (120, 41), (7, 5)])
def test_other_interpolations__within_one_level_of_pillow(shape: tuple[int, int], interpolation: str) -> None:
    assert _difference(_picture("noise", *shape), _raw((16, 16), interpolation=interpolation, crop_pct=0.9)) <= 1


@pytest.mark.parametrize("shape", [(8, 200), (200, 8), (9, 333), (1, 60), (129, 8), (128, 8)])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
def test_the_far_ends_of_a_strip__are_left_out_as_outside(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert _difference(_picture("noise", *shape), _raw(size, crop_pct=0.9)) == 0


@pytest.mark.parametrize(
    ("size", "shape"),
    [  # a side falls on half a pixel; of the last four, timm's quotients of doubles miss that by their last digit
        ((24, 32), (16, 23)),
        ((30, 42), (4, 7)),
        ((18, 33), (33, 18)),
        ((18, 33), (44, 121)),
        ((12, 20), (56, 147)),
        ((30, 42), (81, 108)),
    ],
)
def test_a_rectangle__is_rounded_as_timm_does(size: tuple[int, int], shape: tuple[int, int]) -> None:
    assert _difference(_picture("noise", *shape), _raw(size)) == 0


@pytest.mark.parametrize("margin", range(8))
def test_the_crop__is_at_torchvisions_offset(margin: int) -> None:
    pixels = _picture("noise", 16 + margin, 16 + margin)  # as large as before the crop: nothing is resized
    preprocessing = _raw((16, 16), crop_pct=16 / (16 + margin))
    first = round(margin / 2)
    expected = pixels[first : first + 16, first : first + 16].transpose(2, 0, 1)
    levels = GraphPreprocessing(preprocessing).levels(torch.from_numpy(pixels)[None])[0]
    assert np.array_equal(levels.numpy(), expected)


@pytest.mark.parametrize("height_may_be_first", [True, False])
@pytest.mark.parametrize(
    ("shape", "is_tall"), [((90, 30), True), ((30, 90), False), ((31, 24), False), ((90, 10), True)]
)
def test_the_order_of_the_passes__is_that_of_the_installed_pillow(
    shape: tuple[int, int], is_tall: bool, height_may_be_first: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph_preprocessing, "HEIGHT_MAY_BE_FIRST", height_may_be_first)
    pixels = _picture("black and white", *shape)
    image = Image.fromarray(pixels)
    between = (image.width, 16) if is_tall and height_may_be_first else (16, image.height)
    expected = np.asarray(image.resize(between, Image.Resampling.BICUBIC).resize((16, 16), Image.Resampling.BICUBIC))
    levels = GraphPreprocessing(_raw((16, 16), crop_mode="squash")).levels(torch.from_numpy(pixels)[None])[0]
    assert np.array_equal(levels.permute(1, 2, 0).numpy(), expected)


def test_mean_and_std__as_outside() -> None:
    preprocessing = Preprocessing((16, 16), "bicubic", 0.9, "center", (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    pixels = _picture("noise", 30, 41)
    tensor = GraphPreprocessing(preprocessing)(torch.from_numpy(pixels)[None])
    expected = EvaluationTransform(preprocessing)(Image.fromarray(pixels))
    torch.testing.assert_close(tensor[0], expected, rtol=0, atol=1e-6)


def test_a_batch__is_its_images_one_by_one() -> None:
    module = GraphPreprocessing(_raw((16, 16), crop_pct=0.9))
    images = torch.stack([torch.from_numpy(_picture(kind, 40, 25)) for kind in KINDS])
    alone = torch.cat([module(image[None]) for image in images])
    assert torch.equal(module(images), alone)


@pytest.mark.parametrize(
    ("preprocessing", "sentence"),
    [
        (_raw((16, 16), crop_mode="border"), "tiny is preprocessed with crop mode 'border'; expected center or squash"),
        (
            _raw((16, 16), interpolation="box"),
            "interpolation 'box'; expected bilinear or hamming or bicubic or lanczos",
        ),
        (_raw((16, 16), crop_pct=1.5), "crop_pct 1.5, which pads; expected one above 0 and at most 1"),
    ],
)
def test_what_a_graph_cannot_hold__is_refused(preprocessing: Preprocessing, sentence: str) -> None:
    with pytest.raises(ModelError, match=sentence):
        check_embeddable(preprocessing, name="tiny")
    with pytest.raises(ModelError):
        GraphPreprocessing(preprocessing)


def _exported(preprocessing: Preprocessing) -> tuple[torch.export.ExportedProgram, onnx.ModelProto]:
    sides = {index: Dim(name, min=1) for index, name in enumerate(("batch", "height", "width"))}
    example = torch.zeros(2, 37, 53, 3, dtype=torch.uint8)
    with quiet_exporters():
        program = torch.export.export(GraphPreprocessing(preprocessing).eval(), (example,), dynamic_shapes=(sides,))
        exported = torch.onnx.export(program, dynamo=True, opset_version=18, external_data=False, verbose=False)
    assert exported is not None
    proto = onnx.ModelProto()
    proto.ParseFromString(_serialised(exported))
    return program, proto


def _serialised(exported: torch.onnx.ONNXProgram) -> bytes:
    file = io.BytesIO()
    exported.save(file)
    return file.getvalue()


@pytest.mark.parametrize(
    "preprocessing",
    [
        pytest.param(_raw((16, 16), crop_pct=0.9), id="square"),
        pytest.param(_raw((12, 20), interpolation="bilinear", crop_pct=0.95), id="rectangle"),
        pytest.param(_raw((16, 16), interpolation="lanczos", crop_mode="squash"), id="squash"),
        pytest.param(_raw((16, 16), interpolation="hamming"), id="hamming"),
    ],
)
@pytest.mark.slow
def test_the_exported_graph__has_pillows_levels_at_every_size(preprocessing: Preprocessing) -> None:
    program, proto = _exported(preprocessing)
    assert not {"Resize", "Upsample"} & {node.op_type for node in proto.graph.node}
    module = program.module()
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for num_images, height, width in ((1, 90, 33), (3, 20, 200), (1, 1, 1), (2, 64, 64)):
        images = np.stack([_picture("black and white", height, width, seed=seed) for seed in range(num_images)])
        expected = np.stack([_pillow_levels(image, preprocessing) for image in images])
        (found,) = session.run(None, {proto.graph.input[0].name: images})
        assert np.abs(np.rint(found * 255) - expected).max() == 0
        assert np.abs(np.rint(module(torch.from_numpy(images)).numpy() * 255) - expected).max() == 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_every_level_is_pillows__at_random_sizes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for index in range(400):
        height, width = (int(side) for side in rng.integers(4, 120, 2))
        size = (height, height if rng.random() < 0.5 else width)
        longest = (30, 150, 500)[rng.integers(3)]
        shape = (int(rng.integers(1, longest)), int(rng.integers(1, longest)))
        if rng.random() < 0.2:  # exactly a power of two, and one to three pixels beside it
            shape = tuple(int(side * (0.5, 1, 2, 4)[rng.integers(4)] + rng.integers(4)) for side in size)  # type: ignore[assignment]
        preprocessing = _raw(
            size,
            interpolation=("bicubic", "bilinear")[rng.integers(2)],
            crop_pct=(1.0, 0.95, 0.9, 0.875, 0.5, float(rng.uniform(0.3, 1)))[rng.integers(6)],
            crop_mode=("center", "squash")[rng.integers(2)],
        )
        difference = _difference(_picture(KINDS[rng.integers(len(KINDS))], *shape, seed=index), preprocessing)
        assert difference == 0, (preprocessing, shape)
