"""Exports that are wrong on purpose, through the whole command: each is caught, named, and leaves nothing behind."""

import copy
import errno
import json
import os
import shutil
import signal
import zipfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file, save_file

from vitctl.exporting import graph, to_onnx, verification
from vitctl.exporting.formats import Exporter
from vitctl.exporting.source import Source
from vitctl.settings.words import EXPORT_FORMATS as FORMATS

Damage = Callable[[Path], None]
SLOW = pytest.mark.slow
FEW = [pytest.param(name, marks=() if name in ("timm", "onnx") else SLOW) for name in FORMATS]
MAIN_FILE = {
    "onnx": "model.onnx",
    "timm": "model.safetensors",
    "hf": "model.safetensors",
    "npz": "model.npz",
    "pt2": "model.pt2",
}


def hashes_of(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        for path in sorted(folder.rglob("*"))
    }


@pytest.fixture
def sabotage(monkeypatch: pytest.MonkeyPatch, good_folder: Path) -> Callable[..., None]:
    """Return ``sabotage("onnx", damage)``: writers take the files of ``good_exports``, then ``damage(folder)`` runs."""

    def plan(damaged: str = "", damage: Damage = lambda folder: None) -> None:
        def write(_exporter: Exporter, name: str, folder: Path) -> str:
            for path in (good_folder / name).iterdir():
                if path.name not in ("README.md", "export.json"):
                    shutil.copy(path, folder)
            if name == damaged:
                damage(folder)
            return ""

        monkeypatch.setattr(Exporter, "write", write)

    return plan


@pytest.fixture
def assert_refused(tmp_path: Path) -> Callable[..., None]:
    """Return ``assert_refused(result, *words)``: one sentence with those words, and nothing anywhere, hidden or not."""

    def check(result: Any, *words: str, code: int = 4) -> None:
        assert result.exit_code == code, result.stderr
        assert result.stdout == ""
        assert "Traceback" not in result.stderr
        sentence = result.stderr.strip().splitlines()[-1]
        for word in words:
            assert word in result.stderr, sentence
        assert list((tmp_path / "empty").iterdir()) == []

    return check


# --- damage --------------------------------------------------------------------------------------------------


def edit_json(file: str, change: Callable[[dict[str, Any]], object]) -> Damage:
    def damage(folder: Path) -> None:
        document = json.loads((folder / file).read_text(encoding="utf-8"))
        change(document)
        (folder / file).write_text(json.dumps(document), encoding="utf-8")

    return damage


def edit_onnx(change: Callable[[onnx.ModelProto], object]) -> Damage:
    def damage(folder: Path) -> None:
        model = onnx.load(str(folder / "model.onnx"))
        change(model)
        onnx.save(model, str(folder / "model.onnx"))

    return damage


def edit_metadata(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change what an ONNX file says about itself."""

    def change_model(model: onnx.ModelProto) -> None:
        for entry in model.metadata_props:
            if entry.key in ("class_names", "preprocessing"):
                document = {entry.key: json.loads(entry.value)}
                change(document)
                entry.value = json.dumps(document[entry.key])

    return edit_onnx(change_model)


def edit_pt2(change: Callable[[str, bytes], bytes]) -> Damage:
    """Change the entries of a .pt2 file by name."""

    def damage(folder: Path) -> None:
        path = folder / "model.pt2"
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in entries.items():
                archive.writestr(name, change(name.partition("/")[2], content))

    return damage


def edit_extra(change: Callable[[dict[str, Any]], object]) -> Damage:
    def change_entry(name: str, content: bytes) -> bytes:
        if name != "extra/vitctl.json":
            return content
        document = json.loads(content)
        change(document)
        return json.dumps(document).encode()

    return edit_pt2(change_entry)


def edit_safetensors(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / "model.safetensors")

    return damage


def edit_npz(change: Callable[[dict[str, np.ndarray]], object]) -> Damage:
    def damage(folder: Path) -> None:
        with np.load(folder / "model.npz") as archive:
            arrays = {key: archive[key] for key in archive.files}
        change(arrays)
        np.savez(folder / "model.npz", **arrays)  # type: ignore[arg-type]

    return damage


def truncate(file: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        content = (folder / file).read_bytes()
        (folder / file).write_bytes(content[: int(share * len(content))])

    return damage


def shift_mean(key: str) -> Callable[[dict[str, Any]], object]:
    """By a level of 255, in one channel."""

    def change(document: dict[str, Any]) -> None:
        document[key][1] += 1 / 255

    return change


def swap(names: list[str]) -> None:
    names[0], names[2] = names[2], names[0]


def swap_rows(tensors: dict[str, Any], *keys: str, axis: int = 0) -> None:
    for key in keys:
        order = [2, 1, 0]
        tensors[key] = tensors[key][order] if axis == 0 else tensors[key][:, order]


def swap_ids(document: dict[str, Any]) -> None:
    for names in (document["id2label"],):
        names["0"], names["2"] = names["2"], names["0"]


def swap_keys(tensors: dict[str, Any], *replaced: tuple[str, str]) -> None:
    """Exchange two families of tensors by parts of their names."""
    old = dict(tensors)
    for key in old:
        for one, other in replaced:
            if one in key:
                tensors[key] = old[key.replace(one, other)]
            elif other in key:
                tensors[key] = old[key.replace(other, one)]


def swap_onnx_rows(model: onnx.ModelProto) -> None:
    swapped = 0
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape in ((3,), (3, 16), (16, 3)) and values.dtype == np.float32:
            order = [2, 1, 0]
            values = values[:, order] if values.shape == (16, 3) else values[order]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), tensor.name))
            swapped += 1
    assert swapped == 2  # weight and bias


def swap_pt2_rows(source: Source) -> Damage:
    rows = {value.numpy().tobytes(): value[[2, 1, 0]].numpy().tobytes() for value in source.model.head.parameters()}
    return edit_pt2(lambda _name, content: rows.get(content, content))


def freeze_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 1


def drop_output(index: int) -> Callable[[onnx.ModelProto], object]:
    return lambda model: model.graph.output.pop(index)


# --- the harness itself --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FORMATS)
def test_good_export__passes(name: str, sabotage: Any, export: Any, tmp_path: Path) -> None:
    sabotage(name)
    result = export(name, "--json")
    assert result.exit_code == 0, result.stderr
    (found,) = result.json["exports"]
    assert found["verify"]["passed"]
    assert found["verify"]["accuracy"] == found["verify"]["source_accuracy"] == 1.0
    out = tmp_path / "empty" / "new" / "exports"
    assert [path.name for path in out.iterdir()] == [name]
    assert {path.name for path in (out / name).iterdir()} >= {MAIN_FILE[name], "README.md", "export.json"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_good_export__taken_apart_and_put_together_passes(name: str, sabotage: Any, export: Any) -> None:
    same: dict[str, Damage] = {
        "onnx": edit_metadata(lambda document: None),
        "timm": edit_safetensors(lambda tensors: None),
        "hf": edit_json("config.json", lambda document: None),
        "npz": edit_npz(lambda arrays: None),
        "pt2": edit_pt2(lambda name, content: content),
    }
    sabotage(name, same[name])
    assert export(name).exit_code == 0


# --- wrong numbers and names ---------------------------------------------------------------------------------

MEANS: dict[str, Damage] = {
    "onnx": edit_metadata(
        lambda document: "preprocessing" in document and shift_mean("mean")(document["preprocessing"])
    ),
    "timm": edit_json("config.json", lambda document: shift_mean("mean")(document["pretrained_cfg"])),
    "hf": edit_json("preprocessor_config.json", shift_mean("image_mean")),
    "npz": edit_json("vitctl.json", lambda document: shift_mean("mean")(document["preprocessing"])),
    "pt2": edit_extra(lambda document: shift_mean("mean")(document["preprocessing"])),
}


@pytest.mark.parametrize("name", FEW)
def test_wrong_mean(name: str, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage(name, MEANS[name])
    assert_refused(export(name), f"The {name} export of small does not behave like its source", "Nothing was written")


@pytest.mark.parametrize(
    "key", ["image_std", *(pytest.param(key, marks=SLOW) for key in ("rescale_factor", "resample", "do_normalize"))]
)
def test_wrong_preprocessor_of_transformers(key: str, sabotage: Any, export: Any, assert_refused: Any) -> None:
    wrong = {"image_std": [0.5, 0.5, 0.5], "rescale_factor": 1.0, "resample": 0, "do_normalize": False}

    sabotage("hf", edit_json("preprocessor_config.json", lambda document: document.update({key: wrong[key]})))
    assert_refused(export("hf"), "The hf export of small")


@pytest.mark.slow
def test_another_crop_in_transformers__is_allowed_and_told(sabotage: Any, export: Any) -> None:
    whole = {"size": {"height": 16, "width": 16}}  # not only the middle 80 %
    sabotage("hf", edit_json("preprocessor_config.json", lambda document: document.update(whole)))
    result = export("hf")
    assert result.exit_code == 0
    assert "its preprocessing is off the model's by at most" in result.stdout


NAMES: dict[str, Damage] = {
    "onnx": edit_metadata(lambda document: "class_names" in document and swap(document["class_names"])),
    "timm": edit_json("config.json", lambda document: swap(document["label_names"])),
    "hf": edit_json("config.json", swap_ids),
    "npz": edit_json("vitctl.json", lambda document: swap(document["class_names"])),
    "pt2": edit_extra(lambda document: swap(document["class_names"])),
}


@pytest.mark.parametrize("name", FEW)
def test_swapped_class_names(name: str, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage(name, NAMES[name])
    assert_refused(export(name), f"The {name} export of small", "bird", "cat")


@pytest.mark.slow
def test_swapped_class_names_the_other_way_round(sabotage: Any, export: Any, assert_refused: Any) -> None:
    def swap_names(document: dict[str, Any]) -> None:
        document["label2id"] = {"bird": 0, "dog": 1, "cat": 2}

    sabotage("hf", edit_json("config.json", swap_names))
    assert_refused(export("hf"), "label2id")


@pytest.mark.parametrize("name", FEW)
def test_swapped_rows_of_the_head(name: str, sabotage: Any, export: Any, assert_refused: Any, source: Source) -> None:
    swapped: dict[str, Damage] = {
        "onnx": edit_onnx(swap_onnx_rows),
        "timm": edit_safetensors(lambda tensors: swap_rows(tensors, "head.weight", "head.bias")),
        "hf": edit_safetensors(lambda tensors: swap_rows(tensors, "classifier.weight", "classifier.bias")),
        "npz": edit_npz(
            lambda arrays: (swap_rows(arrays, "head/kernel", axis=1), swap_rows(arrays, "head/bias"))  # type: ignore[func-returns-value]
        ),
        "pt2": swap_pt2_rows(source),
    }
    sabotage(name, swapped[name])
    assert_refused(
        export(name), f"The {name} export of small does not behave", "its logits differ from the source's by"
    )


HF_SWAPS = [
    edit_safetensors(lambda tensors, pair=pair: swap_keys(tensors, pair))  # type: ignore[misc]
    for pair in (
        ("attention.query", "attention.value"),
        ("attention.query", "attention.key"),
        ("layernorm_before", "layernorm_after"),
    )
]
NPZ_SWAPS = [
    edit_npz(lambda arrays, pair=pair: swap_keys(arrays, pair))  # type: ignore[misc]
    for pair in (("/query/", "/value/"), ("/query/", "/key/"), ("encoderblock_0", "encoderblock_1"))
]


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        pytest.param("hf", HF_SWAPS[0], id="hf q v"),
        pytest.param("hf", HF_SWAPS[1], id="hf q k", marks=SLOW),
        pytest.param("hf", HF_SWAPS[2], id="hf norms", marks=SLOW),
        pytest.param("npz", NPZ_SWAPS[0], id="npz q v"),
        pytest.param("npz", NPZ_SWAPS[1], id="npz q k", marks=SLOW),
        pytest.param("npz", NPZ_SWAPS[2], id="npz blocks", marks=SLOW),
    ],
)
def test_swapped_tensors(name: str, damage: Damage, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage(name, damage)
    assert_refused(export(name), f"The {name} export of small does not behave", "its logits differ")


@pytest.mark.slow
def test_transposed_heads(sabotage: Any, export: Any, assert_refused: Any) -> None:
    def transpose(arrays: dict[str, np.ndarray]) -> None:
        for key, array in arrays.items():
            if array.ndim == 3 and "/query/kernel" in key:  # (D, H, d), as if it were (D, d, H)
                arrays[key] = array.reshape(16, 8, 2).swapaxes(1, 2).copy()

    sabotage("npz", edit_npz(transpose))
    assert_refused(export("npz"), "its logits differ")


@pytest.mark.slow
def test_swapped_position_embeddings(sabotage: Any, export: Any, assert_refused: Any) -> None:
    def transpose(tensors: dict[str, torch.Tensor]) -> None:
        table = tensors["pos_embed"]
        grid = table[:, 1:].reshape(1, 4, 4, 16).swapaxes(1, 2).reshape(1, 16, 16)
        tensors["pos_embed"] = torch.cat([table[:, :1], grid], dim=1)

    sabotage("timm", edit_safetensors(transpose))
    assert_refused(export("timm"), "The timm export of small does not behave", "its logits differ")


# --- graphs --------------------------------------------------------------------------------------------------


def test_graph_frozen_to_batch_1__onnx(sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage("onnx", edit_onnx(freeze_batch))
    assert_refused(export("onnx"), "The onnx export of small does not behave", "it cannot be run", "dimensions")


def test_graph_frozen_to_batch_1__pt2(export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "EXAMPLE_BATCH", 1)
    monkeypatch.setattr(graph.InputForm, "dynamic_shapes", lambda form: {"image": {}})
    assert_refused(export("pt2"), "The pt2 export of small does not behave", "it cannot be run")


@pytest.mark.slow
def test_graph_frozen_to_batch_1__onnx_as_torch_writes_it(
    export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graph, "EXAMPLE_BATCH", 1)
    monkeypatch.setattr(graph.InputForm, "dynamic_shapes", lambda form: {"image": {}})
    assert_refused(export("onnx"), "The onnx export of small does not behave", "it cannot be run")


@pytest.mark.parametrize(("index", "word"), [(0, "logits"), (1, "embedding")])
def test_output_missing(index: int, word: str, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage("onnx", edit_onnx(drop_output(index)))
    assert_refused(export("onnx"), "The onnx export of small does not behave", word)


@pytest.mark.slow
def test_outputs_renamed(sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage("pt2", edit_extra(lambda document: document["outputs"].reverse()))
    assert_refused(export("pt2"), "The pt2 export of small does not behave", "logits")


@pytest.mark.slow
def test_graph_takes_sizes_that_it_must_refuse(
    export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(to_onnx, "_refuse_other_sizes", lambda model, patch_size: None)
    result = export("onnx", "--dynamic-size", "--outputs", "logits")
    assert_refused(result, "The onnx export of small does not behave", "17x16 px")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "pt2"])
def test_wrong_mean_inside_the_graph(
    name: str, export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitctl.exporting import formats

    make = formats.trace

    def trace_another(module: Any, form: Any) -> Any:
        other = copy.deepcopy(module)
        other.preprocessing.mean += 1 / 255
        return make(other, form)

    monkeypatch.setattr(formats, "trace", trace_another)
    result = export(name, "--embed-preprocess", "--outputs", "logits")
    assert_refused(result, f"The {name} export of small does not behave", "its logits differ")


# --- precisions ----------------------------------------------------------------------------------------------


OVERFLOWING = {"blocks.0.mlp.fc1.weight": lambda one: one * 1000, "blocks.0.mlp.fc2.weight": lambda one: one * 1000}
# one channel is 10,000 times the others and the head does not look at it: 8-bit activations see nothing else
COARSE = {
    "norm.weight": lambda one: torch.cat([one[:1] * 1e4, one[1:]]),
    "norm.bias": lambda one: torch.cat([one[:1] * 0, one[1:]]),
    "head.weight": lambda one: torch.cat([one[:, :1] * 0, one[:, 1:]], dim=1),
}


@pytest.mark.slow
def test_reduced__of_the_source_as_it_is_passes(altered: Any, export: Any) -> None:
    model = altered({"norm.bias": lambda one: one + 0.01})
    for precision in ("fp16", "int8-dynamic"):
        result = export("onnx", "--precision", precision, "--json", model=model)
        assert result.exit_code == 0, result.stderr
        shutil.rmtree(Path(result.json["out"]))


def test_fp16_overflow(altered: Any, export: Any, assert_refused: Any) -> None:
    model = altered(OVERFLOWING)
    result = export("onnx", "--precision", "fp16", model=model)
    assert_refused(result, "The onnx export of small does not behave", "no numbers", "NaN or infinity")


def test_fp16_overflow__between_two_products(altered: Any, export: Any, assert_refused: Any) -> None:
    """The hidden layer alone is beyond 65,504; onnxruntime's CPU kernels may compute it in 32 bits, a GPU does not."""
    changes = {
        "blocks.0.norm2.weight": lambda one: one * 100,
        "blocks.0.norm2.bias": lambda one: one * 100,
        "blocks.0.mlp.fc1.weight": lambda one: one * 5000,
        "blocks.0.mlp.fc2.weight": lambda one: one * 1e-4,
    }
    result = export("onnx", "--precision", "fp16", model=altered(changes))
    assert_refused(result, "The onnx export of small does not behave")


@pytest.mark.slow
def test_fp16_overflow__is_none_in_fp32(altered: Any, export: Any) -> None:
    assert export("onnx", model=altered(OVERFLOWING)).exit_code == 0


@pytest.mark.slow
def test_int8_that_loses_its_answers(altered: Any, export: Any, assert_refused: Any) -> None:
    result = export("onnx", "--precision", "int8-dynamic", "--outputs", "logits,embedding", model=altered(COARSE))
    assert_refused(result, "The onnx export of small does not behave")


def test_int8_accuracy_drop(altered: Any, export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "LEAST_COSINE", dict.fromkeys(verification.LEAST_COSINE, -1.0))
    model = altered(COARSE)
    result = export("onnx", "--precision", "int8-dynamic", "--max-accuracy-drop", "0.1", model=model)
    assert_refused(result, "its accuracy on 7 images is", "a drop above --max-accuracy-drop 0.1")
    result = export("onnx", "--precision", "int8-dynamic", "--max-accuracy-drop", "1", "--json", model=model)
    assert result.exit_code == 0, result.stderr
    verify = result.json["exports"][0]["verify"]
    assert verify["accuracy"] < verify["source_accuracy"] - 0.1


# --- damaged files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "file"),
    [
        *MAIN_FILE.items(),
        pytest.param("timm", "config.json", marks=SLOW),
        pytest.param("hf", "config.json", marks=SLOW),
        pytest.param("hf", "preprocessor_config.json", marks=SLOW),
        pytest.param("npz", "vitctl.json", marks=SLOW),
    ],
)
@pytest.mark.parametrize("share", [0.5, pytest.param(0.0, marks=SLOW), pytest.param(0.98, marks=SLOW)])
def test_truncated_file(name: str, file: str, share: float, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage(name, truncate(file, share))
    assert_refused(export(name), f"The {name} export of small cannot be read back")


@pytest.mark.slow
@pytest.mark.parametrize("name", FEW)
def test_file_gone(name: str, sabotage: Any, export: Any, assert_refused: Any) -> None:
    sabotage(name, lambda folder: (folder / MAIN_FILE[name]).unlink())
    assert_refused(export(name), f"The {name} export of small cannot be read back")


def test_one_bad_format_of_several__nothing_of_the_others_is_written(
    sabotage: Any, export: Any, assert_refused: Any
) -> None:
    sabotage("npz", NAMES["npz"])
    assert_refused(export("timm,npz,hf"), "The npz export of small does not behave")


@pytest.mark.slow
def test_earlier_exports_beside_it_stay(sabotage: Any, export: Any, tmp_path: Path) -> None:
    sabotage("npz", NAMES["npz"])
    assert export("timm").exit_code == 0
    out = tmp_path / "empty" / "new" / "exports"
    (out / "notes.txt").write_text("mine")
    before = hashes_of(tmp_path)
    assert export("npz").exit_code == 4
    assert hashes_of(tmp_path) == before


# --- writes that fail ----------------------------------------------------------------------------------------

FULL = OSError(errno.ENOSPC, "No space left on device")


def fail(*_arguments: Any, **_options: Any) -> Any:
    raise FULL


def fail_for(original: Any, *names: str) -> Any:
    """Return ``original``, a method of a path, that fails for files of those names."""

    def call(path: Path, *arguments: Any, **options: Any) -> Any:
        if any(name in path.name for name in names):
            path.touch()  # it was begun
            raise FULL
        return original(path, *arguments, **options)

    return call


@pytest.mark.parametrize("name", ["timm", "pt2", pytest.param("hf", marks=SLOW)])
def test_full_disk__weights(name: str, export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "write_bytes", fail_for(Path.write_bytes, MAIN_FILE[name]))
    assert_refused(export(name), "cannot be written", "No space left on device", "another folder", code=2)


@pytest.mark.slow
def test_full_disk__npz(export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(np, "savez", fail)
    assert_refused(export("npz"), "cannot be written", "No space left on device", code=2)


@pytest.mark.slow
def test_full_disk__torch_export(export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.export, "save", fail)
    assert_refused(export("pt2"), "cannot be written", "No space left on device", code=2)


@pytest.mark.parametrize(
    "precision", ["fp32", pytest.param("fp16", marks=SLOW), pytest.param("int8-dynamic", marks=SLOW)]
)
def test_full_disk__onnx(
    precision: str, altered: Any, export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = altered({"norm.bias": lambda one: one + 0.01})
    if precision == "int8-dynamic":
        monkeypatch.setattr(to_onnx, "quantize_dynamic", fail)
    else:
        written = {"fp32": "model.onnx", "fp16": "model.onnx"}[precision]  # fp16: the second of two files
        monkeypatch.setattr(Path, "write_bytes", fail_for(Path.write_bytes, written))
    result = export("onnx", "--precision", precision, model=model)
    assert_refused(result, "cannot be written", "No space left on device", code=2)


@pytest.mark.parametrize(
    "file", ["export.json", pytest.param("README.md", marks=SLOW), pytest.param("vitctl.json", marks=SLOW)]
)
def test_full_disk__texts(
    file: str, sabotage: Any, export: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if file != "vitctl.json":
        sabotage()
    monkeypatch.setattr(Path, "write_text", fail_for(Path.write_text, file))
    assert_refused(export("npz"), "cannot be written", "No space left on device", code=2)


@pytest.mark.parametrize("which", ["timm", pytest.param("npz", marks=SLOW)])
def test_full_disk__when_the_folders_are_put_in_their_places(
    which: str, sabotage: Any, export: Any, assert_refused: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sabotage()
    rename = os.rename

    def rename_or_fail(old: Path, new: Path) -> None:
        if Path(new) == tmp_path / "empty" / "new" / "exports" / which:
            raise FULL
        rename(old, new)

    monkeypatch.setattr(os, "rename", rename_or_fail)
    assert_refused(export("npz,timm"), "cannot be written", "No space left on device", code=2)


def test_folder_that_appears_meanwhile__is_not_replaced(sabotage: Any, export: Any, tmp_path: Path) -> None:
    out = tmp_path / "empty" / "new" / "exports"

    def appear(_folder: Path) -> None:
        (out / "timm").mkdir()
        (out / "timm" / "theirs.txt").write_text("another's")

    sabotage("timm", appear)
    result = export("npz,timm")
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr
    assert hashes_of(out) == {"timm": "", "timm/theirs.txt": sha256(b"another's").hexdigest()}


# --- stopped -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=SLOW)])
def test_stopped_while_writing(
    number: signal.Signals, code: int, sabotage: Any, export: Any, assert_refused: Any, request: pytest.FixtureRequest
) -> None:
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, usual))
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    sabotage("npz", lambda folder: os.kill(os.getpid(), number))
    assert_refused(export("timm,npz"), code=code)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


@pytest.mark.parametrize("moment", ["tracing", "verifying", pytest.param("reading back", marks=SLOW)])
def test_terminated_where_errors_are_expected(
    moment: str, export: Any, sabotage: Any, assert_refused: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def terminated(*_arguments: Any, **_options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("came back from a SIGTERM")

    if moment == "tracing":
        monkeypatch.setattr(torch.export, "export", terminated)
    elif moment == "reading back":
        sabotage()
        monkeypatch.setattr(torch.export, "load", terminated)
    else:
        sabotage()
        monkeypatch.setattr(verification.Verifier, "_show", terminated)
    result = export("pt2")
    assert_refused(result, code=143)
    assert "does not behave" not in result.stderr
