"""Files of weights told by their content, entries and prefixes that are unwrapped, and what stands in their place."""

import argparse
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.exporting.npz import write_npz
from vitctl.models.build import load_model
from vitctl.models.unwrapping import ENTRIES, PREFIXES, unwrap
from vitctl.models.weights import load_weights_file

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def small_vit(seed: int = 0, name: str = "vit_tiny_patch16_224", **changes: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, **(SMALL | changes))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


@pytest.fixture(scope="module")
def source() -> nn.Module:
    return small_vit(1)


def same(model: nn.Module, source: nn.Module) -> bool:
    own, other = model.state_dict(), source.state_dict()
    return set(own) == set(other) and all(torch.equal(value, other[key]) for key, value in own.items())


def with_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {f"{prefix}{key}": value for key, value in state.items()}


# --- by content


@pytest.mark.parametrize("name", ["weights", "model_best.pth.tar", "w.safetensors", "w.npz"])
@pytest.mark.parametrize("kind", ["torch", "legacy", "safetensors", "npz"])
def test_content_tells_the_kind_whatever_the_name(source: nn.Module, tmp_path: Path, name: str, kind: str) -> None:
    path = tmp_path / name
    if kind == "safetensors":
        save_file(source.state_dict(), path)
    elif kind == "npz":
        write_npz(source, tmp_path / "own.npz", layout="vit_jax", name="small")
        shutil.move(tmp_path / "own.npz", path)
    else:
        torch.save(source.state_dict(), path, _use_new_zipfile_serialization=kind == "torch")
    model = small_vit()
    load_weights_file(model, path, name="small")
    assert same(model, source)


def test_checkpoint_of_timms_train_py(source: nn.Module, tmp_path: Path) -> None:
    """``timm/utils/checkpoint_saver.py``: the options are an ``argparse.Namespace``, the weights stand twice."""
    content = {
        "epoch": 3,
        "arch": "vit_tiny_patch16_224",
        "state_dict": small_vit(2).state_dict(),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}},
            "param_groups": [{"lr": 0.1}],
        },
        "version": 2,
        "args": argparse.Namespace(model="vit_tiny_patch16_224", lr=0.1, mean=None, crop=(1, 2)),
        "amp_scaler": {"scale": 65536.0, "_growth_tracker": 0},
        "state_dict_ema": OrderedDict(with_prefix(source.state_dict(), "module.")),
        "metric": 81.5,
    }
    for legacy in (False, True):
        path = tmp_path / f"model_best{legacy}.pth.tar"
        torch.save(content, path, _use_new_zipfile_serialization=not legacy)
        model = small_vit()
        report = load_weights_file(model, path, name="small")
        assert same(model, source)
        assert report.notes == (f"{path}: its entry state_dict_ema was read, without module. before its names.",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
            ("git-lfs pointer", "git lfs pull"),
        ),
        (b"\n<!DOCTYPE html>\n<html><head>", ("is a web page", "Download it again")),
        (b"<html lang='en'>", ("is a web page",)),
        (b'{"metadata": {"total_size": 3}, "weight_map": {"a": "b"}}', ("index of weights in several files",)),
        (b"\x1f\x8b\x08\x00" + b"\0" * 300, ("is packed", "Unpack it")),
        (b"\0" * 257 + b"ustar\x0000" + b"\0" * 248, ("is packed",)),
    ],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w"])
def test_what_stands_in_the_place_of_weights__is_named(
    tmp_path: Path, name: str, content: bytes, words: tuple[str, ...]
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ModelError) as caught:
        load_weights_file(small_vit(), path, name="small")
    for word in (str(path), *words):
        assert word in str(caught.value)


@pytest.mark.parametrize("content", [b"version https://git-lfs.github.com/spec/v1\n", b"<!doctype html>"])
def test_what_stands_in_the_place_of_a_folders_weights__is_named(
    tmp_path: Path, tiny_model_folder: Path, content: bytes
) -> None:
    """A repository that was cloned without git-lfs has them so."""
    folder = shutil.copytree(tiny_model_folder, tmp_path / "model")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is a (git-lfs pointer|web page)"):
        load_model(str(folder))


def test_text_and_unknown_bytes__say_what_is_read(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"Entry not found")
    with pytest.raises(ModelError, match=r"reads \(it begins with 'Entry not found'\); expected one of \.safetensors"):
        load_weights_file(small_vit(), tmp_path / "w", name="small")
    (tmp_path / "w.onnx").write_bytes(b"\x08\x07\x12\x01")
    with pytest.raises(ModelError, match=r"that vitctl reads; expected one of .*\.ckpt \.pth\.tar \.npz"):
        load_weights_file(small_vit(), tmp_path / "w.onnx", name="small")


def test_torchscript__is_refused_with_what_to_save(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:  # as torch.jit.save names them; to trace takes seconds
        for name in ("data.pkl", "code/__torch__/torch/nn/modules/linear.py", "constants.pkl", "version"):
            archive.writestr(f"w/{name}", b"")
    with pytest.raises(ModelError, match="is a TorchScript program, .*state_dict"):
        load_weights_file(small_vit(), tmp_path / "w.pt", name="small")


class Options(dict):  # type: ignore[type-arg]
    """What Lightning calls an AttributeDict: a class of somebody's."""


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kind", ["an object beside", "a whole model"])
def test_objects_of_classes__are_refused_by_the_name_of_the_class(
    source: nn.Module, tmp_path: Path, kind: str, legacy: bool
) -> None:
    content: Any = source if kind == "a whole model" else {"state_dict": source.state_dict(), "hp": Options(a=1)}
    torch.save(content, tmp_path / "w.ckpt", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError) as caught:
        load_weights_file(small_vit(), tmp_path / "w.ckpt", name="small")
    said = str(caught.value)
    assert ("VisionTransformer" if kind == "a whole model" else ".Options") in said
    assert "torch.save(model.state_dict()" in said
    assert "weights_only" not in said
    assert "two options" not in said


# --- entries and prefixes


@pytest.mark.parametrize("entry", ENTRIES)
def test_every_known_entry__is_read_and_said(source: nn.Module, tmp_path: Path, entry: str) -> None:
    torch.save({"epoch": 3, "step": torch.tensor(7), entry: source.state_dict()}, tmp_path / "w.pth")
    model = small_vit()
    report = load_weights_file(model, tmp_path / "w.pth", name="small")
    assert same(model, source)
    assert report.notes == (f"{tmp_path / 'w.pth'}: its entry {entry} was read.",)


def test_entries__averaged_weights_come_first_and_one_of_another_name_is_found() -> None:
    one, two = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    for first, second in (("teacher", "student"), ("state_dict_ema", "state_dict"), ("model_ema", "model")):
        assert unwrap({second: one, first: two}, source="w").tensors is not one
        assert torch.equal(unwrap({second: one, first: two}, source="w").tensors["a"], two["a"])
    assert torch.equal(unwrap({"vit": two, "epoch": 1}, source="w").tensors["a"], two["a"])
    assert torch.equal(unwrap({"state_dict": {"model": two}, "x": {}}, source="w").tensors["a"], two["a"])


def test_entries__of_several_unknown_names_are_refused() -> None:
    with pytest.raises(ModelError, match=r"w holds several models \(first, second\)"):
        unwrap({"first": {"a": torch.zeros(1)}, "second": {"a": torch.ones(1)}}, source="w")


@pytest.mark.parametrize(
    "document", [{"epoch": 3}, [1], {}, {"model": {}}, {1: torch.zeros(1)}, {"a": {"b": {"c": 1}}}]
)
def test_entries__without_tensors_are_refused(document: object) -> None:
    with pytest.raises(ModelError, match="w holds no tensors by name"):
        unwrap(document, source="w")


def test_entries__nested_without_end_are_refused() -> None:
    document: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(9):
        document = {"model": document}
    with pytest.raises(ModelError, match="w holds no tensors by name"):
        unwrap(document, source="w")


def test_entries__that_hold_themselves_or_are_numbered_end_in_a_sentence() -> None:
    endless: dict[str, Any] = {"epoch": 1}
    endless |= {"model": endless, "net": endless}
    deep: dict[str, Any] = {"a": torch.zeros(1)}
    for _ in range(5000):
        deep = {"model": deep}
    for document in (endless, deep, {0: {"exp_avg": torch.zeros(1)}}):
        with pytest.raises(ModelError, match="w holds no tensors by name"):
            unwrap(document, source="w")


@pytest.mark.parametrize("prefix", [*PREFIXES, "module._orig_mod.", "_orig_mod.module.", "model.timm_model.module."])
def test_prefixes__are_taken_off_in_turn_and_said(source: nn.Module, tmp_path: Path, prefix: str) -> None:
    save_file(with_prefix(source.state_dict(), prefix), tmp_path / "w.safetensors")
    model = small_vit()
    report = load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert same(model, source)
    assert report.notes == (f"{tmp_path / 'w.safetensors'}: its names were read without {prefix} before them.",)


def test_prefixes__of_dinos_teacher_whose_projection_head_is_beside(tmp_path: Path) -> None:
    """facebookresearch/dino: 150 names below ``backbone.``, 8 of its head, all of them below ``module.``."""
    source = small_vit(1, depth=12)
    backbone = {key: value for key, value in source.state_dict().items() if not key.startswith("head.")}
    head = {f"head.mlp.{i}.{kind}": torch.zeros(2) for i in (0, 2, 4) for kind in ("weight", "bias")}
    head |= {"head.last_layer.weight_g": torch.zeros(2, 1), "head.last_layer.weight_v": torch.zeros(2, 2)}
    teacher = with_prefix(with_prefix(backbone, "backbone.") | head, "module.")
    torch.save({"teacher": teacher, "student": {}, "args": argparse.Namespace(arch="vit_tiny")}, tmp_path / "w.pth")
    model = small_vit(depth=12)
    report = load_weights_file(model, tmp_path / "w.pth", name="small")
    assert report.missing == ("head.weight", "head.bias")
    assert sorted(report.unexpected) == sorted(head)
    assert torch.equal(
        model.get_parameter("blocks.11.mlp.fc2.weight"), source.get_parameter("blocks.11.mlp.fc2.weight")
    )


def test_prefixes__of_a_part_of_the_names_stay() -> None:
    tensors = {f"model.{i}": torch.zeros(1) for i in range(8)} | {f"other.{i}": torch.zeros(1) for i in range(2)}
    assert unwrap(tensors, source="w").tensors.keys() == tensors.keys()


def test_prefixes__of_two_that_would_have_one_name_the_models_is_kept() -> None:
    tensors = {f"model.{i}": torch.ones(1) for i in range(19)} | {"3": torch.zeros(1)}
    found = unwrap(tensors, source="w").tensors
    assert len(found) == 20
    assert torch.equal(found["3"], torch.ones(1))


def test_npz_without_its_ending__is_googles(source: nn.Module, tmp_path: Path) -> None:
    write_npz(source, tmp_path / "own.npz", layout="big_vision", name="small")
    with np.load(tmp_path / "own.npz") as archive:
        assert "params/embedding/kernel" in archive.files
    (tmp_path / "own.npz").rename(tmp_path / "weights")
    model = small_vit()
    assert load_weights_file(model, tmp_path / "weights", name="small").missing == ()
    assert same(model, source)


def test_a_file_of_one_byte__is_no_weights_file(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"\x80")
    with pytest.raises(ModelError, match="is no weights file that vitctl reads"):
        load_weights_file(small_vit(), tmp_path / "w", name="small")


def test_head_that_no_memory_holds__is_refused(tmp_path: Path) -> None:
    state = small_vit().state_dict()
    state["head.weight"] = torch.zeros(1).expand(10**12, state["head.weight"].shape[1])  # 38 kB in the file
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=r"A head of 1,000,000,000,000 outputs would take"):
        load_weights_file(small_vit(), tmp_path / "w.pth", name="small")
