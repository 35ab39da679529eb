"""A graph as an ONNX file: converted, checked, told what it is, its precision reduced where that is asked for.

Letters: B images, H W px, P patch (height, width) px.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.transformers.float16 import convert_float_to_float16
from onnxruntime.transformers.onnx_model import OnnxModel
from torch.export import ExportedProgram

from vitctl.errors import ModelError
from vitctl.exporting.graph import INPUT, InputForm, quiet_exporters
from vitctl.exporting.source import metadata_from_texts, metadata_texts
from vitctl.primitives.out_of_memory import is_out_of_memory

MOST_BYTES_INSIDE = 1_900_000_000  # protobuf ends at 2 GiB; the weights go beside the file before that
EXACT_SCOPES = ("preprocessing", "position_interpolation")  # sub-modules that compute with sizes and pixel levels
_SCOPES = "pkg.torch.onnx.name_scopes"


def write_onnx(
    exported: ExportedProgram,
    path: Path,
    *,
    form: InputForm,
    outputs: Sequence[str],
    opset: int,
    patch_size: tuple[int, int] | None,
    metadata: dict[str, Any],
) -> None:
    """Write ``exported`` in float32 to ``path``; of more than 1.9 GB, the weights go to ``path.data`` beside it.

    Args:
        exported: What ``vitctl.exporting.graph.trace`` gave.
        path: Where to write.
        form: What the graph takes; names its dimensions.
        outputs: Names of the outputs, in order.
        opset: ONNX operator set.
        patch_size: (H, W) px; where H and W vary, the graph refuses others than its multiples. None accepts all.
        metadata: For ``metadata_props``.

    Raises:
        ModelError: The exporter wrote another opset, or ``onnx.checker`` objects.
    """
    with quiet_exporters(), torch.no_grad():
        program = torch.onnx.export(
            exported,
            (),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=list(outputs),
            verbose=False,
        )
        if program is None:
            raise RuntimeError("torch.onnx.export returned nothing")
        model = program.model_proto
    _name_dimensions(model, form)
    if form.is_size_dynamic and patch_size is not None:
        _refuse_other_sizes(model, patch_size)
    _keep_padding(model)
    _forget_origins(model)
    del model.graph.value_info[:]  # holds initialisers, which quantisation takes for activations
    helper.set_model_props(model, metadata_texts(metadata))
    model.producer_name, model.producer_version = "vitctl", str(metadata["vitctl"])
    save_onnx(model, path)
    check_onnx(path, opset=opset)


def _name_dimensions(model: onnx.ModelProto, form: InputForm) -> None:
    """Call the free dimensions ``batch``, ``height``, ``width`` instead of what torch made up (``s40``, ``4*s88``)."""
    symbols: dict[str, str] = {}
    for dimension, name in zip(model.graph.input[0].type.tensor_type.shape.dim, form.dim_names, strict=True):
        for symbol in re.findall(r"[A-Za-z_]\w*", dimension.dim_param):
            symbols[symbol] = str(name) if symbol == dimension.dim_param else f"{name}_in_patches"
        if dimension.dim_param:
            dimension.dim_param = str(name)
    for value in model.graph.output:
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = re.sub(r"\w+", lambda word: symbols.get(word[0], word[0]), dimension.dim_param)


def _refuse_other_sizes(model: onnx.ModelProto, patch_size: tuple[int, int]) -> None:
    """Put a Reshape before the graph that fails unless both sides are multiples of the patch.

    It asks for the sides rounded down to whole patches; where that loses pixels, no reshape can do it. The
    patch convolution would drop the rest of the image without a word.
    """
    graph, checked = model.graph, f"{INPUT}_in_whole_patches"
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name == INPUT:
                node.input[index] = checked
    steps = np.array([1, 1, *patch_size], dtype=np.int64)
    graph.initializer.append(numpy_helper.from_array(steps, "patch_steps"))
    nodes = [
        helper.make_node("Shape", [INPUT], ["image_shape"], name="image_shape"),
        helper.make_node("Div", ["image_shape", "patch_steps"], ["whole_patches"], name="whole_patches"),
        helper.make_node("Mul", ["whole_patches", "patch_steps"], ["divisible_shape"], name="divisible_shape"),
        helper.make_node("Reshape", [INPUT, "divisible_shape"], [checked], name="sides_must_be_multiples_of_the_patch"),
    ]
    for position, node in enumerate(nodes):
        graph.node.insert(position, node)


def _keep_padding(model: onnx.ModelProto) -> None:
    """Keep onnxruntime from fusing a Pad with zeros into a MaxPool, whose own padding is minus infinity.

    Its PadFusion (onnxruntime 1.31; microsoft/onnxruntime pull request 18136) does not look at the value: BiT's stem,
    which pads negative values with zeros, came out wrong. A Max of one input between them changes nothing.
    """
    graph = model.graph
    padded = {node.output[0] for node in graph.node if node.op_type == "Pad"}
    for position, node in reversed(list(enumerate(graph.node))):
        if node.op_type == "MaxPool" and node.input[0] in padded:
            kept = f"{node.input[0]}_kept"
            graph.node.insert(position, helper.make_node("Max", [node.input[0]], [kept], name=kept))
            graph.node[position + 1].input[0] = kept


def _forget_origins(model: onnx.ModelProto) -> None:
    """Drop what the exporter notes of each node (paths and lines of source files), but for the nodes to keep exact."""
    for node in model.graph.node:
        kept = [entry for entry in node.metadata_props if entry.key == _SCOPES and _is_exact(entry.value)]
        node.doc_string = ""
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def _is_exact(scopes: str) -> bool:
    return any(part in EXACT_SCOPES for scope in re.findall(r"'([^']*)'", scopes) for part in scope.split("."))


def save_onnx(model: onnx.ModelProto, path: Path) -> None:
    """Write ``model``, as one file where protobuf can hold it."""
    if _num_weight_bytes(model) > MOST_BYTES_INSIDE:
        onnx.save_model(
            model, str(path), save_as_external_data=True, all_tensors_to_one_file=True, location=f"{path.name}.data"
        )
        _open_to_all_readers(path)
    else:
        path.write_bytes(model.SerializeToString())


def _open_to_all_readers(path: Path) -> None:
    """Give the weights beside ``path`` its permissions; onnx makes them readable by their owner only."""
    path.with_name(f"{path.name}.data").chmod(path.stat().st_mode)


def _num_weight_bytes(model: onnx.ModelProto) -> int:
    return sum(tensor.ByteSize() for tensor in model.graph.initializer)


def check_onnx(path: Path, *, opset: int) -> None:
    """Check a file as a stranger would: its opset, and every rule of ``onnx.checker``.

    Raises:
        ModelError: It has another opset, or breaks a rule.
    """
    found = opset_of(path)
    if found != opset:
        raise ModelError(f"The exporter wrote opset {found} where --opset {opset} was asked for; try --opset 18.")
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except Exception as error:  # checker and shape inference have no common error
        if is_out_of_memory(error):
            raise
        raise ModelError(f"onnx.checker objects to {path.name}: {str(error).splitlines()[0]}") from error


def opset_of(path: Path) -> int:
    """Return the version of the standard operator set that the file says it uses."""
    model = onnx.load(str(path), load_external_data=False)
    return next(int(entry.version) for entry in model.opset_import if entry.domain in ("", "ai.onnx"))


def reduce_precision(path: Path, reduced: Path, *, precision: str) -> None:
    """Write the float32 file ``path`` to ``reduced`` as ``fp16`` or ``int8-dynamic``.

    ``fp16``: onnxruntime's converter; input and outputs stay float32. ``int8-dynamic``: the weights of matrix
    products are stored as signed 8-bit integers, per channel, activations quantised as they come. What computes with
    sizes or pixel levels stays as it is.
    """
    model = onnx.load(str(path))
    exact = _exact_nodes(model)
    is_large = _num_weight_bytes(model) > MOST_BYTES_INSIDE
    if precision == "fp16":
        if is_large:  # in memory, shapes can be inferred only for what protobuf can hold
            onnx.shape_inference.infer_shapes_path(str(path), str(reduced))
            model = onnx.load(str(reduced))
        with quiet_exporters():
            half = convert_float_to_float16(
                model, keep_io_types=True, node_block_list=exact, disable_shape_infer=is_large
            )
        _mend_casts(half)
        del half.graph.value_info[:]  # of before the casts, some of which are gone
        OnnxModel(half).topological_sort()
        save_onnx(half, reduced)
        check_onnx(reduced, opset=opset_of(path))
        return
    with quiet_exporters():
        quantize_dynamic(
            str(path),
            str(reduced),
            op_types_to_quantize=["MatMul", "Gemm"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            # 7 bits: the products of two 8-bit numbers overflow, by pairs, on processors with AVX2 and without VNNI
            reduce_range=True,
            nodes_to_exclude=exact,
            use_external_data_format=is_large,
        )
    if is_large:
        _open_to_all_readers(reduced)
    check_onnx(reduced, opset=opset_of(path))


def _mend_casts(model: onnx.ModelProto) -> None:
    """Take out what onnxruntime's converter puts in twice, and its casts to 16 bits and back between exact nodes.

    It casts the inputs of a node that stays in float32 once per use, all under one name, and its outputs to float16
    even where the next node casts them back: positions and pixel levels would be rounded on the way.
    """
    graph = model.graph
    known: dict[str, onnx.NodeProto] = {}
    for node in list(graph.node):
        if node.op_type == "Cast" and node.output[0] in known:
            graph.node.remove(node)
        known.update(dict.fromkeys(node.output, node))
    wide: dict[str, str] = {}
    for output, node in known.items():
        before = known.get(node.input[0]) if node.op_type == "Cast" and node.input else None
        if before is not None and before.op_type == "Cast" and _casts_to(node, TensorProto.FLOAT):
            if _casts_to(before, TensorProto.FLOAT16) and before.input[0].endswith("_cast_to_fp16"):
                wide[output] = before.input[0]
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = wide.get(name, name)
    while unused := _unused_casts(graph):
        for node in unused:
            graph.node.remove(node)


def _unused_casts(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    return [node for node in graph.node if node.op_type == "Cast" and node.output[0] not in used]


def _casts_to(node: onnx.NodeProto, kind: int) -> bool:
    return any(attribute.name == "to" and attribute.i == kind for attribute in node.attribute)


def _exact_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes that belong to the sub-modules ``EXACT_SCOPES``."""
    return [node.name for node in model.graph.node if any(entry.key == _SCOPES for entry in node.metadata_props)]


def open_session(path: Path) -> onnxruntime.InferenceSession:
    """Return an onnxruntime session on the CPU with torch's number of threads.

    Raises:
        Exception: Whatever onnxruntime makes of a damaged or unsupported file.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised as well
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # it would slow torch down beside it
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_intermediates(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Return every 16-bit float between the nodes of an fp16 graph for one batch: arrays (B, ...) by name.

    onnxruntime's CPU kernels compute neighbouring nodes in 32 bits, where nothing overflows; asked for what is
    between them, they round it to 16 bits as a GPU would.

    Args:
        path: A file that ``reduce_precision`` wrote.
        images: (B, 3, H, W) float32 or (B, H, W, 3) uint8.
    """
    told = path.with_name(f"shapes-of-{path.name}")
    onnx.shape_inference.infer_shapes_path(str(path), str(told))
    try:
        model = onnx.load(str(told), load_external_data=False)
        known = {output.name for output in model.graph.output}
        made = {name for node in model.graph.node for name in node.output}
        between = [
            value
            for value in model.graph.value_info
            if value.type.tensor_type.elem_type == TensorProto.FLOAT16 and value.name in made - known
        ]
        model.graph.output.extend(between)
        told.write_bytes(model.SerializeToString())
        session = open_session(told)
    finally:
        told.unlink(missing_ok=True)
    names = [value.name for value in between]
    return dict(zip(names, session.run(names, {INPUT: images}), strict=True)) if names else {}


def session_metadata(session: onnxruntime.InferenceSession) -> dict[str, Any]:
    """Return what ``write_onnx`` was given as metadata.

    Raises:
        KeyError: Some of it is missing.
    """
    return metadata_from_texts(session.get_modelmeta().custom_metadata_map)
