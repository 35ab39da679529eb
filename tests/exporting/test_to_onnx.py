"""The ONNX file: names, rules, guards, weights beside it, reduced precisions that leave sizes and levels exact."""

import copy
import re
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from vitctl.errors import ModelError
from vitctl.exporting import to_onnx
from vitctl.exporting.dynamic_size import make_size_dynamic
from vitctl.exporting.graph import GraphModel, InputForm, trace
from vitctl.exporting.source import Source
from vitctl.exporting.to_onnx import (
    check_onnx,
    open_session,
    opset_of,
    reduce_precision,
    save_onnx,
    session_metadata,
    write_onnx,
)
from vitctl.models.geometry import change_resolution
from vitctl.results.export import ExportResult

DYNAMIC = InputForm((16, 16), is_size_dynamic=True, patch_size=(4, 4))
INTERPOLATION = "position_interpolation"


def metadata_of(source: Source) -> dict[str, Any]:
    return source.metadata(outputs=("logits",), is_preprocessing_inside=False)


@pytest.fixture(scope="module")
def shallow(source: Source) -> Source:
    """The source with one of its blocks, which is exported in half the time."""
    model = copy.deepcopy(source.model)
    model.blocks = model.blocks[:1]
    return replace(source, model=model)


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory, shallow: Source) -> Path:
    """An ONNX file that takes every multiple of 4 px. Not to be changed."""
    path = tmp_path_factory.mktemp("dynamic") / "model.onnx"
    traced = trace(
        GraphModel(make_size_dynamic(shallow.model, name="small", method="bicubic-aa"), ("logits",)), DYNAMIC
    )
    write_onnx(
        traced, path, form=DYNAMIC, outputs=("logits",), opset=18, patch_size=(4, 4), metadata=metadata_of(shallow)
    )
    return path


@pytest.fixture(scope="module")
def reduced(tmp_path_factory: pytest.TempPathFactory, dynamic: Path) -> Callable[[str], Path]:
    """Return ``reduced(precision)``: ``dynamic`` in that precision."""
    folder = tmp_path_factory.mktemp("reduced")

    def make(precision: str) -> Path:
        path = folder / f"{precision}.onnx"
        if not path.exists():
            reduce_precision(dynamic, path, precision=precision)
        return path

    return make


@pytest.fixture
def fixed(good_folder: Path) -> Path:
    """The ONNX file of ``good_exports``: one size. Not to be changed."""
    return good_folder / "onnx" / "model.onnx"


def images(num_images: int, size: tuple[int, int] = (16, 16)) -> np.ndarray:
    noise: np.ndarray = torch.randn(num_images, 3, *size, generator=torch.Generator().manual_seed(1)).numpy()
    return noise


def run(path: Path, batch: np.ndarray) -> np.ndarray:
    logits: np.ndarray = open_session(path).run(None, {"image": batch})[0]
    return logits


def logits_at(source: Source, batch: np.ndarray) -> np.ndarray:
    model = copy.deepcopy(source.model)
    change_resolution(model, batch.shape[2:], method="bicubic-aa", name="small")
    with torch.no_grad():
        logits: np.ndarray = model(torch.from_numpy(batch)).numpy()
    return logits


def dims_of(values: Any) -> dict[str, list[str | int]]:
    return {
        value.name: [one.dim_param or one.dim_value for one in value.type.tensor_type.shape.dim] for value in values
    }


def nodes_within(model: onnx.ModelProto, module: str) -> list[onnx.NodeProto]:
    """Return the nodes that the exporter's notes place in a sub-module called ``module``."""
    return [
        node
        for node in model.graph.node
        if any(re.search(rf"\b{module}\b", entry.value) for entry in node.metadata_props)
    ]


# --- names ---------------------------------------------------------------------------------------------------


def test_dimensions__of_a_fixed_size_are_batch_and_numbers(fixed: Path) -> None:
    graph = onnx.load(str(fixed)).graph
    assert dims_of(graph.input) == {"image": ["batch", 3, 16, 16]}
    assert dims_of(graph.output) == {"logits": ["batch", 3], "embedding": ["batch", 16]}


@pytest.mark.slow
def test_dimensions__that_vary_are_called_by_their_names(dynamic: Path) -> None:
    graph = onnx.load(str(dynamic)).graph
    assert dims_of(graph.input) == {"image": ["batch", 3, "height", "width"]}
    assert dims_of(graph.output) == {"logits": ["batch", 3]}


def test_dimensions__of_outputs_follow_those_of_the_input() -> None:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["s40", 3, "4*s88", "4*s8"])
    tokens = helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["s40", "s88*s8 + 1", 16])
    model = helper.make_model(helper.make_graph([], "g", [image], [tokens]))
    to_onnx._name_dimensions(model, DYNAMIC)
    assert dims_of(model.graph.input) == {"image": ["batch", 3, "height", "width"]}
    assert dims_of(model.graph.output) == {"tokens": ["batch", "height_in_patches*width_in_patches + 1", 16]}


def test_file__is_one_and_says_who_wrote_it(fixed: Path, good_exports: ExportResult, source: Source) -> None:
    assert sorted(path.name for path in fixed.parent.iterdir()) == ["README.md", "export.json", "model.onnx"]
    model = onnx.load(str(fixed), load_external_data=False)
    assert model.producer_name == "vitctl"
    assert [tensor.name for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL] == []
    assert not model.graph.value_info
    metadata = session_metadata(open_session(fixed))
    assert metadata == source.metadata(outputs=("logits", "embedding"), is_preprocessing_inside=False)


def no_place_in(path: Path, base: Path) -> bool:
    """Return whether a file names no folder of this machine and no line of a source file."""
    places = ["site-packages", str(Path.home()), str(base), str(Path(__file__).parents[2]), ".py"]
    content = path.read_bytes()
    return not [place for place in places if place.encode() in content]


def test_file__names_no_place_on_this_machine(fixed: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert no_place_in(fixed, tmp_path_factory.getbasetemp())
    graph = onnx.load(str(fixed)).graph
    assert {node.doc_string for node in graph.node} == {""}
    assert [node.name for node in graph.node if node.metadata_props] == []


@pytest.mark.slow
def test_notes__of_the_exporter_stay_only_where_they_are_needed(
    dynamic: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert no_place_in(dynamic, tmp_path_factory.getbasetemp())
    model = onnx.load(str(dynamic))
    kept = [node for node in model.graph.node if node.metadata_props]
    assert kept == nodes_within(model, INTERPOLATION)
    assert Counter(node.op_type for node in kept)["MatMul"] == 2  # rows, columns


# --- rules ---------------------------------------------------------------------------------------------------


def identity_model(opset: int = 18) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in ("image", "logits")]
    graph = helper.make_graph([helper.make_node("Identity", ["image"], ["logits"])], "g", values[:1], values[1:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)


def test_check__a_sound_file_passes(tmp_path: Path) -> None:
    onnx.save(identity_model(), str(tmp_path / "m.onnx"))
    check_onnx(tmp_path / "m.onnx", opset=18)
    assert opset_of(tmp_path / "m.onnx") == 18


def test_check__another_opset_than_asked_for_is_refused(tmp_path: Path) -> None:
    onnx.save(identity_model(17), str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match="wrote opset 17 where --opset 20 was asked for"):
        check_onnx(tmp_path / "m.onnx", opset=20)


def test_check__a_broken_rule_is_refused_in_one_line(tmp_path: Path) -> None:
    model = identity_model()
    model.graph.node[0].input[0] = "nowhere"
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=r"onnx\.checker objects to m\.onnx: .*nowhere") as caught:
        check_onnx(tmp_path / "m.onnx", opset=18)
    assert "\n" not in str(caught.value)


def test_check__shapes_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    model = identity_model()
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 4
    onnx.save(model, str(tmp_path / "m.onnx"))
    with pytest.raises(ModelError, match=r"onnx\.checker objects to m\.onnx"):
        check_onnx(tmp_path / "m.onnx", opset=18)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_opset__is_the_one_asked_for(opset: int, source: Source, tmp_path: Path) -> None:
    path, form = tmp_path / "m.onnx", InputForm((16, 16))
    traced = trace(GraphModel(source.model, ("logits",)), form)
    write_onnx(traced, path, form=form, outputs=("logits",), opset=opset, patch_size=None, metadata=metadata_of(source))
    assert opset_of(path) == opset
    np.testing.assert_allclose(run(path, images(3)), logits_at(source, images(3)), rtol=0, atol=2e-6)


@pytest.mark.slow
def test_opset__that_the_exporter_silently_raises_is_noticed(source: Source, tmp_path: Path) -> None:
    form = InputForm((16, 16))
    traced = trace(GraphModel(source.model, ("logits",)), form)
    with pytest.raises(ModelError, match="wrote opset 18 where --opset 16 was asked for"):
        write_onnx(
            traced,
            tmp_path / "m.onnx",
            form=form,
            outputs=("logits",),
            opset=16,
            patch_size=None,
            metadata=metadata_of(source),
        )


# --- sizes ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (4, 4), (20, 8), (8, 40)])
@pytest.mark.parametrize("num_images", [1, 3])
def test_guard__takes_whole_patches(dynamic: Path, shallow: Source, size: tuple[int, int], num_images: int) -> None:
    batch = images(num_images, size)
    np.testing.assert_allclose(run(dynamic, batch), logits_at(shallow, batch), rtol=0, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("size", [(17, 16), (16, 18), (15, 15), (20, 21), (3, 16), (16, 3), (2, 2)])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8-dynamic"])
def test_guard__refuses_all_else(
    dynamic: Path, reduced: Callable[[str], Path], size: tuple[int, int], precision: str
) -> None:
    path = dynamic if precision == "fp32" else reduced(precision)
    with pytest.raises(Exception, match="(?i)reshape|invalid input shape"):
        run(path, images(2, size))


def test_guard__is_what_refuses() -> None:
    values = [
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, "height", "width"]),
        helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["batch", 3, 1, 1]),
    ]
    graph = helper.make_graph([helper.make_node("GlobalAveragePool", ["image"], ["mean"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    def mean_of(size: tuple[int, int]) -> np.ndarray:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        found: np.ndarray = session.run(None, {"image": images(2, size)})[0]
        return found

    assert mean_of((17, 16)).shape == (2, 3, 1, 1)
    to_onnx._refuse_other_sizes(model, (4, 8))
    onnx.checker.check_model(model, full_check=True)
    for size in ((16, 16), (4, 8), (20, 24)):
        np.testing.assert_allclose(mean_of(size)[..., 0, 0], images(2, size).mean(axis=(2, 3)), atol=1e-6)
    for size in ((17, 16), (16, 12), (18, 20)):
        with pytest.raises(Exception, match="sides_must_be_multiples_of_the_patch"):
            mean_of(size)


# --- weights beside the file ---------------------------------------------------------------------------------


def test_large_model__has_its_weights_in_one_file_beside_it(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "MOST_BYTES_INSIDE", 5_000)
    save_onnx(onnx.load(str(fixed)), tmp_path / "model.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert (tmp_path / "model.onnx.data").stat().st_size > 20_000
    check_onnx(tmp_path / "model.onnx", opset=18)
    np.testing.assert_array_equal(run(tmp_path / "model.onnx", images(3)), run(fixed, images(3)))
    (tmp_path / "model.onnx.data").rename(tmp_path / "lost")
    with pytest.raises(Exception, match=r"model\.onnx\.data"):
        open_session(tmp_path / "model.onnx")


def test_large_model__saving_changes_nothing_of_the_model(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load(str(fixed))
    before = model.SerializeToString()
    save_onnx(model, tmp_path / "inside.onnx")
    assert (tmp_path / "inside.onnx").read_bytes() == before == model.SerializeToString()


@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_large_model__in_less_precision_has_its_weights_beside_it_too(
    fixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(to_onnx, "MOST_BYTES_INSIDE", 5_000)
    save_onnx(onnx.load(str(fixed)), tmp_path / "full.onnx")
    reduce_precision(tmp_path / "full.onnx", tmp_path / "model.onnx", precision=precision)
    for name in ("full.onnx", "full.onnx.data"):
        (tmp_path / name).unlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "model.onnx.data"]
    np.testing.assert_allclose(run(tmp_path / "model.onnx", images(3)), run(fixed, images(3)), atol=0.1)


def test_large_model__is_verified_and_both_files_are_listed(
    altered: Any, export: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "MOST_BYTES_INSIDE", 5_000)
    model = altered({"norm.bias": lambda one: one + 0.01})
    for precision in ("fp32", "int8-dynamic"):
        result = export("onnx", "--precision", precision, "--json", model=model)
        assert result.exit_code == 0, result.stderr
        (found,) = result.json["exports"]
        assert found["verify"]["passed"]
        paths = [Path(file["path"]) for file in found["files"]]
        assert [path.name for path in paths] == ["model.onnx", "model.onnx.data"]
        assert [path.stat().st_size for path in paths] == [file["bytes"] for file in found["files"]]
        assert sorted(path.name for path in paths[0].parent.iterdir()) == [
            "README.md",
            "export.json",
            "model.onnx",
            "model.onnx.data",
        ]
        assert "| `model.onnx.data` |" in (paths[0].parent / "README.md").read_text()
        if precision != "fp32":
            assert found["fp32"]["bytes"] > sum(file["bytes"] for file in found["files"])
        shutil.rmtree(result.json["out"])


# --- precisions ----------------------------------------------------------------------------------------------


def scoped_model(path: Path, scope: str) -> Path:
    """Write x, (B, 16): ``x * 9000 / 9000`` as a product within ``scope``, then one with quarters outside of it."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", size])
        for name, size in (("image", 16), ("logits", 3))
    ]
    weights = {
        "large": np.eye(16, dtype=np.float32) * 9e3,
        "divisor": np.full((1,), 9e3, dtype=np.float32),
        "quarters": np.full((16, 3), 0.25, dtype=np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["image", "large"], ["high"], name="high"),
        helper.make_node("Div", ["high", "divisor"], ["low"], name="low"),
        helper.make_node("MatMul", ["low", "quarters"], ["logits"], name="head"),
    ]
    for node in nodes[:2]:
        scopes = f"['', 'model', 'model.{scope}', '{node.name}']"
        node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=scopes)
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    to_onnx._forget_origins(model)
    onnx.save(model, str(path))
    return path


@pytest.mark.parametrize("scope", ["preprocessing", "position_interpolation", "blocks.0"])
@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_reduced__computes_exactly_what_must_be_exact(tmp_path: Path, precision: str, scope: str) -> None:
    full = scoped_model(tmp_path / "full.onnx", scope)
    reduce_precision(full, tmp_path / "small.onnx", precision=precision)
    batch = np.random.default_rng(0).uniform(10, 60, size=(5, 16)).astype(np.float32)  # by 9000: 16 bits end at 65,504
    found = run(tmp_path / "small.onnx", batch)
    is_exact = scope != "blocks.0"
    graph = onnx.load(str(tmp_path / "small.onnx")).graph
    if precision == "fp16":
        kinds = {one.name: one.data_type for one in graph.initializer}
        assert kinds["large"] == kinds["divisor"] == (TensorProto.FLOAT if is_exact else TensorProto.FLOAT16)
        product, division = (next(node for node in graph.node if node.op_type == kind) for kind in ("MatMul", "Div"))
        assert division.input[0] == product.output[0]  # no cast between them
    else:
        operators = Counter(node.op_type for node in graph.node)
        assert (operators["MatMul"], operators["MatMulInteger"]) == ((1, 1) if is_exact else (0, 2))
    if is_exact:
        np.testing.assert_allclose(found, batch @ np.full((16, 3), 0.25), rtol=0.01)


def weights_by_type(path: Path) -> dict[int, int]:
    """Return how many numbers of each type a file stores."""
    counts: Counter[int] = Counter()
    for tensor in onnx.load(str(path)).graph.initializer:
        counts[tensor.data_type] += int(np.prod(tensor.dims))
    return counts


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_reduced__takes_and_gives_float32_and_keeps_what_the_file_says(
    dynamic: Path, reduced: Callable[[str], Path], precision: str
) -> None:
    full, small = onnx.load(str(dynamic)), onnx.load(str(reduced(precision)))
    for values in (small.graph.input, small.graph.output):
        assert [value.type.tensor_type.elem_type for value in values] == [TensorProto.FLOAT]
    assert dims_of(small.graph.input) == dims_of(full.graph.input)
    assert dims_of(small.graph.output) == dims_of(full.graph.output)
    texts = {entry.key: entry.value for entry in full.metadata_props}
    assert texts.items() <= {entry.key: entry.value for entry in small.metadata_props}.items()
    assert opset_of(reduced(precision)) == 18


@pytest.mark.slow
def test_fp16__stores_weights_in_two_bytes(dynamic: Path, reduced: Callable[[str], Path], shallow: Source) -> None:
    weights, state = weights_by_type(reduced("fp16")), shallow.model.state_dict()
    assert weights_by_type(dynamic)[TensorProto.FLOAT16] == 0
    table = state["pos_embed"].numel()  # is interpolated, which stays exact
    assert weights[TensorProto.FLOAT16] >= sum(value.numel() for value in state.values()) - table
    assert weights[TensorProto.FLOAT] < table + 100


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (20, 8), (8, 40), (4, 4)])
def test_fp16__gives_the_answers_of_fp32_within_a_hundredth(
    dynamic: Path, reduced: Callable[[str], Path], size: tuple[int, int]
) -> None:
    batch = images(4, size)
    full, half = run(dynamic, batch), run(reduced("fp16"), batch)
    assert 0 < np.abs(half - full).max() <= 1e-2 * max(1.0, np.abs(full).max())


@pytest.mark.slow
def test_fp16__rounds_nothing_while_positions_are_interpolated(reduced: Callable[[str], Path]) -> None:
    model = onnx.load(str(reduced("fp16")))
    inside = nodes_within(model, INTERPOLATION)
    assert Counter(node.op_type for node in inside)["MatMul"] == 2
    made = {name for node in inside for name in node.output}
    casts = [node for node in model.graph.node if node.op_type == "Cast" and node.input[0] in made]
    rounded = {node.output[0] for node in casts if node.attribute[0].i == TensorProto.FLOAT16}
    used_inside = {name for node in inside for name in node.input}
    assert not rounded & used_inside  # not even by a detour:
    back = {node.output[0] for node in model.graph.node if node.op_type == "Cast" and node.input[0] in rounded}
    assert not back & used_inside
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in _with_types(model)}
    assert TensorProto.FLOAT16 not in {kinds[name] for name in made if name in kinds}


def _with_types(model: onnx.ModelProto) -> Any:
    return onnx.shape_inference.infer_shapes(model).graph.value_info


@pytest.mark.slow
def test_fp16__every_name_is_made_once_and_every_cast_is_used(reduced: Callable[[str], Path]) -> None:
    graph = onnx.load(str(reduced("fp16"))).graph
    made = [name for node in graph.node for name in node.output]
    assert len(made) == len(set(made))
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    assert [node.name for node in graph.node if node.op_type == "Cast" and node.output[0] not in used] == []


@pytest.mark.slow
def test_int8__stores_matrices_in_one_byte_with_a_scale_per_column(
    dynamic: Path, reduced: Callable[[str], Path]
) -> None:
    graph = onnx.load(str(reduced("int8-dynamic"))).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    matrices = {node.input[1] for node in products}
    # qkv, proj, fc1, fc2, and the head; never the products of activations with each other
    assert sorted(list(tensors[name].dims) for name in matrices) == sorted(
        [[16, 48], [16, 16], [16, 64], [64, 16], [16, 3]]
    )
    assert {tensors[name].data_type for name in matrices} == {TensorProto.INT8}
    stored = {int(np.prod(tensors[name].dims)) for name in matrices}
    assert stored == {16 * 48, 16 * 16, 16 * 64, 16 * 3}
    for name in matrices:
        scale = tensors[name.removesuffix("_quantized") + "_scale"]
        assert list(scale.dims) == [tensors[name].dims[1]]
        whole = numpy_helper.to_array(tensors[name])
        assert (
            63 <= np.abs(whole).max(axis=0).min() <= np.abs(whole).max() <= 64
        )  # each column uses its range, of 7 bits


@pytest.mark.slow
def test_int8__leaves_the_interpolation_of_positions_as_it_is(dynamic: Path, reduced: Callable[[str], Path]) -> None:
    full, small = onnx.load(str(dynamic)), onnx.load(str(reduced("int8-dynamic")))
    counts = [Counter(node.op_type for node in nodes_within(model, INTERPOLATION)) for model in (full, small)]
    assert counts[0] == counts[1]
    assert counts[1]["MatMul"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("size", [(16, 16), (20, 8)])
def test_int8__is_near(dynamic: Path, reduced: Callable[[str], Path], size: tuple[int, int]) -> None:
    batch = images(8, size)
    full, small = run(dynamic, batch), run(reduced("int8-dynamic"), batch)
    assert 0 < np.abs(small - full).max() < 0.1 * max(1.0, np.abs(full).max())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp16", "int8-dynamic"])
def test_reduced__leaves_pixel_levels_as_they_are(source: Source, tmp_path: Path, precision: str) -> None:
    from vitctl.exporting.graph_preprocessing import GraphPreprocessing

    form = InputForm((16, 16), is_raw=True)
    module = GraphModel(source.model, ("logits",), GraphPreprocessing(source.preprocessing)).eval()
    write_onnx(
        trace(module, form),
        tmp_path / "full.onnx",
        form=form,
        outputs=("logits",),
        opset=18,
        patch_size=(4, 4),
        metadata=source.metadata(outputs=("logits",), is_preprocessing_inside=True),
    )
    reduce_precision(tmp_path / "full.onnx", tmp_path / "small.onnx", precision=precision)
    full, small = onnx.load(str(tmp_path / "full.onnx")), onnx.load(str(tmp_path / "small.onnx"))
    assert dims_of(full.graph.input) == {"image": ["batch", "height", "width", 3]}
    inside = nodes_within(small, "preprocessing")
    counts = [
        Counter(node.op_type for node in nodes)["MatMul"] for nodes in (nodes_within(full, "preprocessing"), inside)
    ]
    assert counts[0] == counts[1] >= 4  # rows and columns, each in two halves
    kinds = {entry.name: entry.type.tensor_type.elem_type for entry in _with_types(small)}
    made = {name for node in inside for name in node.output}
    assert TensorProto.FLOAT16 not in {kinds[name] for name in made if name in kinds}
    raw = np.random.default_rng(0).integers(0, 256, (2, 37, 50, 3), dtype=np.uint8)
    with torch.no_grad():
        expected = module(torch.from_numpy(raw))[0].numpy()
    np.testing.assert_allclose(run(tmp_path / "full.onnx", raw), expected, rtol=0, atol=1e-5)
    np.testing.assert_allclose(run(tmp_path / "small.onnx", raw), expected, rtol=0, atol=0.1)


def test_session__uses_as_many_threads_as_torch(fixed: Path) -> None:
    assert open_session(fixed).get_session_options().intra_op_num_threads == torch.get_num_threads()
    assert open_session(fixed).get_providers() == ["CPUExecutionProvider"]
