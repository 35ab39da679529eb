"""Weights from files: the authors' logits, adopted grids and heads, and files that must be refused."""

import os
import pickle
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.exporting.npz import write_npz
from vitctl.models import adoption
from vitctl.models.geometry import change_resolution, geometry_of
from vitctl.models.weights import load_weights_file

GOLDEN = Path(__file__).parent.parent / "golden"
IO = np.load(GOLDEN / "tok_io.npz")
SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
GOLDEN_SIZE = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}


def small_vit(name: str = "vit_tiny_patch16_224", *, seed: int = 0, **changes: Any) -> nn.Module:
    """Return a ViT of some 10,000 parameters; another seed gives other weights."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: nn.Module = timm.create_model(name, **(SMALL | changes))
        for parameter in model.parameters():  # nothing may be zero, or a tensor that was not read goes unseen
            nn.init.normal_(parameter, std=0.2)
    return model.eval()


def golden_vit(**changes: Any) -> nn.Module:
    return small_vit(**(GOLDEN_SIZE | changes))


def logits_of(model: nn.Module, images: Tensor) -> np.ndarray:
    with torch.no_grad():
        result: np.ndarray = model.eval()(images).numpy()
    return result


def golden_state() -> dict[str, Tensor]:
    with np.load(GOLDEN / "tok_timm_state.npz") as archive:
        return {key: torch.from_numpy(archive[key]) for key in archive.files}


def changed_npz(path: Path, change: Callable[[dict[str, np.ndarray]], None], *, source: str = "tok_vit_jax") -> Path:
    """Write a golden .npz to ``path`` after ``change`` was made to its entries."""
    with np.load(GOLDEN / f"{source}.npz") as archive:
        entries = {key: archive[key] for key in archive.files}
    change(entries)
    np.savez(path, **entries)  # type: ignore[arg-type]
    return path


def stack_blocks(entries: dict[str, np.ndarray]) -> None:
    """Turn ``encoderblock_0``, ``encoderblock_1`` into the stacked ``encoderblock`` of a scanned model."""
    first = "params/Transformer/encoderblock_0/"
    for key in [key for key in entries if key.startswith(first)]:
        one, two = entries.pop(key), entries.pop(key.replace("encoderblock_0", "encoderblock_1"))
        entries[key.replace("encoderblock_0", "encoderblock")] = np.stack([one, two])


# Google's .npz: the logits of the authors' Flax models. Largest difference seen: 2e-6.


@pytest.mark.parametrize(
    ("file", "changes", "flax"),
    [
        ("tok_vit_jax", {}, "flax_vit_jax"),
        # big_vision adds position embeddings to the patches alone, which is timm's no_embed_class
        ("tok_big_vision", {"no_embed_class": True}, "flax_big_vision"),
        ("tok_big_vision", {}, "flax_big_vision"),  # a row of zeros for the class token comes to the same
    ],
)
def test_npz__gives_the_authors_logits(file: str, changes: dict[str, Any], flax: str) -> None:
    images = torch.from_numpy(IO["x"])
    tanh = golden_vit(act_layer="gelu_tanh", **changes)
    report = load_weights_file(tanh, GOLDEN / f"{file}.npz", name="golden")
    assert report.num_loaded == len(tanh.state_dict())
    assert (report.missing, report.unexpected) == ((), ())
    np.testing.assert_allclose(logits_of(tanh, images), IO[flax], rtol=0, atol=1e-4)

    erf = golden_vit(**changes)
    load_weights_file(erf, GOLDEN / f"{file}.npz", name="golden")
    np.testing.assert_allclose(logits_of(erf, images), IO["timm_gelu_erf"], rtol=0, atol=1e-5)


def test_npz__golden_tolerance_tells_the_two_gelus_apart() -> None:
    assert np.abs(IO["timm_gelu_erf"] - IO["flax_vit_jax"]).max() > 4e-4


def test_npz__reads_stacked_blocks(tmp_path: Path) -> None:
    path = changed_npz(tmp_path / "scan.npz", stack_blocks, source="tok_big_vision")
    model = golden_vit(act_layer="gelu_tanh", no_embed_class=True)
    load_weights_file(model, path, name="golden")
    logits = logits_of(model, torch.from_numpy(IO["x"]))
    np.testing.assert_allclose(logits, IO["flax_big_vision_scan"], rtol=0, atol=1e-4)


def test_npz__notes_that_erf_differs_from_the_authors_gelu() -> None:
    (note,) = load_weights_file(golden_vit(), GOLDEN / "tok_vit_jax.npz", name="golden").notes
    assert "tanh form of GELU" in note


def test_npz__has_no_note_for_tanh() -> None:
    model = golden_vit(act_layer="gelu_tanh")
    assert load_weights_file(model, GOLDEN / "tok_vit_jax.npz", name="golden").notes == ()


def test_npz__adopts_the_grid_and_the_head_of_the_file() -> None:
    model = golden_vit(img_size=48, num_classes=7)
    load_weights_file(model, GOLDEN / "tok_vit_jax.npz", name="golden")
    assert geometry_of(model).image_size == (32, 32)
    assert model.num_classes == 5
    np.testing.assert_allclose(logits_of(model, torch.from_numpy(IO["x"])), IO["timm_gelu_erf"], rtol=0, atol=1e-5)


def test_npz__without_a_head_reports_it_missing(tmp_path: Path) -> None:
    def drop_head(entries: dict[str, np.ndarray]) -> None:
        del entries["head/kernel"], entries["head/bias"]

    model = golden_vit()
    before = model.get_parameter("head.weight").clone()
    report = load_weights_file(model, changed_npz(tmp_path / "w.npz", drop_head), name="golden")
    assert report.missing == ("head.weight", "head.bias")
    assert report.num_loaded == len(model.state_dict()) - 2
    assert torch.equal(model.get_parameter("head.weight"), before)
    assert torch.equal(model.get_parameter("norm.weight"), golden_state()["norm.weight"])


def test_npz__reports_pre_logits_as_unexpected(tmp_path: Path) -> None:
    def add(entries: dict[str, np.ndarray]) -> None:
        entries["pre_logits/kernel"] = np.zeros((32, 32), dtype=np.float32)

    report = load_weights_file(golden_vit(), changed_npz(tmp_path / "w.npz", add), name="golden")
    assert report.unexpected == ("pre_logits/kernel",)


def test_npz__of_another_depth_is_refused() -> None:
    with pytest.raises(ModelError, match="holds 2 blocks; shallow has 1"):
        load_weights_file(golden_vit(depth=1), GOLDEN / "tok_vit_jax.npz", name="shallow")


def test_npz__of_another_depth_is_refused_when_stacked(tmp_path: Path) -> None:
    path = changed_npz(tmp_path / "scan.npz", stack_blocks, source="tok_big_vision")
    with pytest.raises(ModelError, match="holds 2 blocks; deep has 3"):
        load_weights_file(golden_vit(depth=3, no_embed_class=True), path, name="deep")


def test_npz__of_another_patch_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\(8, 8, 3, 32\), expected \(16, 16, 3, 32\)"):
        load_weights_file(golden_vit(patch_size=16), GOLDEN / "tok_vit_jax.npz", name="coarse")


def test_npz__of_another_width_is_refused() -> None:
    with pytest.raises(ModelError, match=r"\(8, 8, 3, 32\), expected \(8, 8, 3, 16\)"):
        load_weights_file(golden_vit(embed_dim=16), GOLDEN / "tok_vit_jax.npz", name="thin")


def test_npz__without_a_tensor_is_refused(tmp_path: Path) -> None:
    def drop(entries: dict[str, np.ndarray]) -> None:
        del entries["Transformer/encoder_norm/scale"]

    with pytest.raises(ModelError, match="does not fit golden: there is no .*encoder_norm/scale"):
        load_weights_file(golden_vit(), changed_npz(tmp_path / "w.npz", drop), name="golden")


def test_npz__of_another_kind_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", weights=np.zeros(3))
    with pytest.raises(ModelError, match=r"not in Google's ViT layout: .* 1 entries \(weights\)"):
        load_weights_file(small_vit(), tmp_path / "other.npz", name="small")


def test_npz__for_a_model_without_a_reader_is_refused() -> None:
    import timm

    model = timm.create_model("vit_relpos_small_patch16_224", **SMALL)
    with pytest.raises(ModelError, match="has no reader for Google's .npz layout"):
        load_weights_file(model, GOLDEN / "tok_vit_jax.npz", name="relpos")


# numpy leaves the file open when it turns out to be no zip archive, and Python says so when it is collected
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
def test_npz__truncated_is_refused(tmp_path: Path) -> None:
    content = (GOLDEN / "tok_vit_jax.npz").read_bytes()
    (tmp_path / "w.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelError, match="cannot be read as .npz .*truncated"):
        load_weights_file(golden_vit(), tmp_path / "w.npz", name="golden")


def test_npz__damaged_inside_is_refused(tmp_path: Path) -> None:
    content = bytearray((GOLDEN / "tok_vit_jax.npz").read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(255 - byte for byte in content[middle : middle + 8])
    (tmp_path / "w.npz").write_bytes(bytes(content))
    with pytest.raises(ModelError, match="cannot be read as .npz"):
        load_weights_file(golden_vit(), tmp_path / "w.npz", name="golden")


def test_npz__of_pickled_objects_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **{"embedding/kernel": np.array([{"a": 1}], dtype=object)})
    with pytest.raises(ModelError, match="cannot be read as .npz"):
        load_weights_file(golden_vit(), tmp_path / "w.npz", name="golden")


# .safetensors and .pth


def test_safetensors__gives_timms_logits(tmp_path: Path) -> None:
    save_file(golden_state(), tmp_path / "w.safetensors")
    for act_layer, expected in (("gelu_tanh", "timm_gelu_tanh"), (None, "timm_gelu_erf")):
        model = golden_vit(act_layer=act_layer)
        report = load_weights_file(model, tmp_path / "w.safetensors", name="golden")
        assert report.num_loaded == len(golden_state())
        logits = logits_of(model, torch.from_numpy(IO["x"]))
        np.testing.assert_allclose(logits, IO[expected], rtol=0, atol=1e-5)


def write_pth(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


@pytest.mark.parametrize("wrapping", ["plain", "model", "state_dict", "module."])
def test_pth__is_found_in_its_usual_wrappings(wrapping: str, tmp_path: Path) -> None:
    state: dict[str, Any] = small_vit(seed=1).state_dict()
    wrapped: dict[str, Any] = {
        "plain": state,
        "model": {"model": state, "epoch": 3},
        "state_dict": {"state_dict": state},
        "module.": {"state_dict": {f"module.{key}": value for key, value in state.items()}},
    }
    model = small_vit()
    report = load_weights_file(model, write_pth(tmp_path / "w.pth", wrapped[wrapping]), name="small")
    assert (report.missing, report.unexpected) == ((), ())
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key


def test_pth__prefers_averaged_weights(tmp_path: Path) -> None:
    last, averaged = small_vit(seed=1).state_dict(), small_vit(seed=2).state_dict()
    model = small_vit()
    load_weights_file(
        model, write_pth(tmp_path / "w.pth", {"state_dict": last, "state_dict_ema": averaged}), name="small"
    )
    assert torch.equal(model.get_parameter("norm.weight"), averaged["norm.weight"])


def test_half_precision__is_read_into_float32(tmp_path: Path) -> None:
    state = {key: value.half() for key, value in small_vit(seed=1).state_dict().items()}
    model = small_vit()
    load_weights_file(model, write_pth(tmp_path / "w.pth", state), name="small")
    weight = model.get_parameter("norm.weight")
    assert weight.dtype == torch.float32
    assert torch.equal(weight, state["norm.weight"].float())


def test_another_grid__is_adopted_and_then_resampled(tmp_path: Path) -> None:
    source = small_vit(seed=1, img_size=32)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = small_vit()
    load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert geometry_of(model).grid == (8, 8)
    assert torch.equal(model.get_parameter("pos_embed"), source.get_parameter("pos_embed"))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(logits_of(model, images), logits_of(source, images))

    resolution = change_resolution(model, (24, 16), method="paper", name="small")
    assert (resolution.before.grid, resolution.after.grid) == ((8, 8), (6, 4))
    change_resolution(source, (24, 16), method="paper", name="small")
    images = images[:, :, :24, :16]
    np.testing.assert_array_equal(logits_of(model, images), logits_of(source, images))


def test_another_grid__of_too_many_places_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = small_vit(img_size=32)
    save_file(source.state_dict() | {"pos_embed": torch.zeros(1, 129 * 129 + 1, 16)}, tmp_path / "w.safetensors")
    sentence = (
        r"w\.safetensors has position embeddings of 129x129 places; expected at most 128x128, .* those of small\?$"
    )
    with pytest.raises(ModelError, match=sentence):
        load_weights_file(small_vit(), tmp_path / "w.safetensors", name="small")
    monkeypatch.setattr(adoption, "MOST_PLACES", 129)
    model = small_vit()
    load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert geometry_of(model).grid == (129, 129)


def test_rectangular_grid__needs_a_timm_folder(tmp_path: Path) -> None:
    save_file(small_vit(img_size=(16, 24)).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="25 position embeddings; .* the 24 left are no square grid.*timm folder"):
        load_weights_file(small_vit(), tmp_path / "w.safetensors", name="small")


def test_rectangular_grid__fits_a_model_of_the_same_rectangle(tmp_path: Path) -> None:
    source = small_vit(seed=1, img_size=(16, 24))
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = small_vit(img_size=(16, 24))
    load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert torch.equal(model.get_parameter("pos_embed"), source.get_parameter("pos_embed"))


@pytest.mark.parametrize("layout", ["vit_jax", "big_vision", "big_vision_scan"])
def test_rectangular_grid__and_a_class_token_that_make_a_square_are_read_as_they_are(
    layout: str, tmp_path: Path
) -> None:
    source = small_vit(seed=1, img_size=(8, 16))  # 2x4 patches and a class token: nine rows, which are no 3x3
    write_npz(source, tmp_path / "w.npz", layout=layout, name="small")
    model = small_vit(img_size=(8, 16))
    load_weights_file(model, tmp_path / "w.npz", name="small")
    assert geometry_of(model).grid == (2, 4)
    assert torch.equal(model.get_parameter("pos_embed"), source.get_parameter("pos_embed"))
    images = torch.randn(2, 3, 8, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(logits_of(model, images), logits_of(source, images))


def test_square_grid__of_big_vision_without_a_row_for_the_class_token_still_gets_one(tmp_path: Path) -> None:
    source = small_vit(seed=1)

    def fold(entries: dict[str, np.ndarray]) -> None:  # big_vision adds the positions before the token is there
        entries["params/cls"] = entries["params/cls"] + entries["params/pos_embedding"][:, :1]
        entries["params/pos_embedding"] = entries["params/pos_embedding"][:, 1:]

    write_npz(source, tmp_path / "whole.npz", layout="big_vision", name="small")
    with np.load(tmp_path / "whole.npz") as archive:
        entries = {key: archive[key] for key in archive.files}
    fold(entries)
    np.savez(tmp_path / "folded.npz", **entries)  # type: ignore[arg-type]
    model = small_vit()
    load_weights_file(model, (tmp_path / "folded.npz").rename(tmp_path / "folded.bin"), name="small")  # told by content
    table = model.get_parameter("pos_embed")
    assert table.shape == (1, 17, 16)
    assert not table[:, 0].any()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(logits_of(model, images), logits_of(source, images), rtol=0, atol=1e-5)


def test_no_embed_class__grid_is_counted_without_prefix_tokens(tmp_path: Path) -> None:
    save_file(small_vit("deit3_small_patch16_224", seed=1, img_size=32).state_dict(), tmp_path / "w.safetensors")
    model = small_vit("deit3_small_patch16_224")
    load_weights_file(model, tmp_path / "w.safetensors", name="deit3")
    assert geometry_of(model).grid == (8, 8)


def test_head_of_another_size__is_adopted(tmp_path: Path) -> None:
    source = small_vit(seed=1, num_classes=7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = small_vit()
    report = load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert (model.num_classes, report.missing) == (7, ())
    assert torch.equal(model.get_parameter("head.weight"), source.get_parameter("head.weight"))


def test_head_of_another_size__is_adopted_by_both_heads_of_a_distilled_model(tmp_path: Path) -> None:
    source = small_vit("deit_tiny_distilled_patch16_224", seed=1, num_classes=7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    model = small_vit("deit_tiny_distilled_patch16_224")
    load_weights_file(model, tmp_path / "w.safetensors", name="deit")
    for head in ("head", "head_dist"):
        assert torch.equal(model.get_parameter(f"{head}.weight"), source.get_parameter(f"{head}.weight"))


def test_missing_head__is_allowed_and_reported(tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict()
    save_file({key: value for key, value in state.items() if not key.startswith("head.")}, tmp_path / "w.safetensors")
    model = small_vit()
    head = model.get_parameter("head.weight").clone()
    report = load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert report.missing == ("head.weight", "head.bias")
    assert report.num_loaded == len(state) - 2
    assert torch.equal(model.get_parameter("head.weight"), head)
    assert torch.equal(model.get_parameter("norm.weight"), state["norm.weight"])


def test_missing_beyond_the_head__is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict()
    del state["blocks.1.mlp.fc2.weight"]
    save_file(state, tmp_path / "w.safetensors")
    model = small_vit()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ModelError, match=r"lacks 1 of the 32 tensors of small: blocks\.1\.mlp\.fc2\.weight"):
        load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_missing_beyond_the_head__a_distillation_token_is_no_head(tmp_path: Path) -> None:
    """A distilled model has two heads, but its distillation token belongs to neither."""
    state = small_vit("deit_tiny_distilled_patch16_224", seed=1).state_dict()
    del state["dist_token"]
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="lacks 1 of .*: dist_token"):
        load_weights_file(small_vit("deit_tiny_distilled_patch16_224"), tmp_path / "w.safetensors", name="deit")


def test_shape_misfit__is_refused_with_both_shapes(tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict()
    state["norm.weight"] = torch.zeros(24)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match=r"norm\.weight is \(24,\), expected \(16,\)"):
        load_weights_file(small_vit(), tmp_path / "w.safetensors", name="small")


def test_another_width__is_refused(tmp_path: Path) -> None:
    save_file(small_vit(embed_dim=32).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="does not fit small: .* more. Is it of another architecture?"):
        load_weights_file(small_vit(), tmp_path / "w.safetensors", name="small")


def test_unexpected_entries__are_reported(tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict() | {"decoder.weight": torch.zeros(2)}
    save_file(state, tmp_path / "w.safetensors")
    model = small_vit()
    report = load_weights_file(model, tmp_path / "w.safetensors", name="small")
    assert report.unexpected == ("decoder.weight",)
    assert report.num_loaded == len(model.state_dict())


class _Malicious:
    """Unpickling this would make the folder ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_malicious_pickle__is_refused_and_its_code_is_not_run(suffix: str, tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict() | {"evil": _Malicious(tmp_path / "owned")}
    path = write_pth(tmp_path / f"w{suffix}", state)
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_weights_file(small_vit(), path, name="small")
    assert not (tmp_path / "owned").exists()


def test_malicious_pickle__the_bait_works_when_it_is_swallowed(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(_Malicious(tmp_path / "owned")))
    assert (tmp_path / "owned").is_dir()


def test_missing_file__is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"There is no weights file at .*nowhere\.pth"):
        load_weights_file(small_vit(), tmp_path / "nowhere.pth", name="small")


def test_wrong_suffix__is_refused_with_those_that_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "weights.h5").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"expected one of \.safetensors \.pth"):
        load_weights_file(small_vit(), tmp_path / "weights.h5", name="small")


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5])
@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_truncated_file__is_refused(suffix: str, share: float, tmp_path: Path) -> None:
    path = tmp_path / f"w{suffix}"
    state = small_vit(seed=1).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="cannot be read as weights"):
        load_weights_file(small_vit(), path, name="small")


@pytest.mark.parametrize("content", [[1, 2], {"epoch": 3}])
def test_file_without_tensors__is_refused(content: object, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="holds no tensors|cannot be read as weights"):
        load_weights_file(small_vit(), write_pth(tmp_path / "w.pth", content), name="small")


def test_npz__empty_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"")  # np.load raises EOFError, which is not caught
    with pytest.raises(ModelError, match="cannot be read as .npz"):
        load_weights_file(small_vit(), tmp_path / "w.npz", name="small")


def test_npz__single_array_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "w.npz").open("wb") as file:
        np.save(file, np.zeros(3))  # np.load returns an array, which is no context manager: TypeError
    with pytest.raises(ModelError, match="cannot be read as .npz"):
        load_weights_file(small_vit(), tmp_path / "w.npz", name="small")


@pytest.mark.parametrize("name", ["test_resnet", "resnetv2_18"])  # the second has a reader, but no BiT's layers
def test_npz__for_another_cnn_is_refused(name: str) -> None:
    import timm

    with pytest.raises(
        ModelError, match=rf"{name} has no reader for Google's \.npz layout; expected a plain ViT, or a B"
    ):
        load_weights_file(timm.create_model(name), GOLDEN / "tok_vit_jax.npz", name=name)


# Google's BiT (google-research/big_transfer)


def small_bit(*, seed: int = 0, layers: tuple[int, ...] = (2, 1, 1, 1), num_classes: int = 3) -> nn.Module:
    """Return a BiT of some 100,000 parameters; GroupNorm's 32 groups set its least width."""
    from timm.layers import StdConv2d
    from timm.models import ResNetV2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = ResNetV2(
            list(layers), channels=(128,) * 4, num_classes=num_classes, stem_chs=32, stem_type="fixed",
            conv_layer=partial(StdConv2d, eps=1e-8),
        )  # fmt: skip
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=0.2)
    model.pretrained_cfg = {"classifier": "head.fc", "input_size": (3, 224, 224)}
    bit: nn.Module = model
    return bit.eval()


def bit_entries(model: nn.Module) -> dict[str, np.ndarray]:
    """Return the model's tensors in Google's layout: HWIO kernels, gamma and beta."""
    fixed = {
        "stem.conv.weight": "root_block/standardized_conv2d/kernel",
        "norm.weight": "group_norm/gamma",
        "norm.bias": "group_norm/beta",
        "head.fc.weight": "head/conv2d/kernel",
        "head.fc.bias": "head/conv2d/bias",
    }
    layer = {f"conv{i}.weight": f"{letter}/standardized_conv2d/kernel" for i, letter in enumerate("abc", 1)}
    layer |= {f"norm{i}.weight": f"{letter}/group_norm/gamma" for i, letter in enumerate("abc", 1)}
    layer |= {f"norm{i}.bias": f"{letter}/group_norm/beta" for i, letter in enumerate("abc", 1)}
    layer["downsample.conv.weight"] = "a/proj/standardized_conv2d/kernel"
    entries = {}
    for name, value in model.state_dict().items():
        target = fixed.get(name)
        if target is None:
            _, stage, _, unit, rest = name.split(".", 4)
            target = f"block{int(stage) + 1}/unit{int(unit) + 1:02d}/{layer[rest]}"
        array = value.numpy()
        entries[f"resnet/{target}"] = array.transpose(2, 3, 1, 0) if array.ndim == 4 else array
    return entries


def write_bit(path: Path, entries: dict[str, np.ndarray]) -> Path:
    np.savez(path, **entries)  # type: ignore[arg-type]
    return path


def test_bit_npz__gives_the_same_logits_and_its_own_head(tmp_path: Path) -> None:
    source, model = small_bit(seed=1, num_classes=7), small_bit(num_classes=3)
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    path = write_bit(tmp_path / "BiT.npz", bit_entries(source) | {"global_step": np.zeros(())})
    report = load_weights_file(model, path, name="bit")
    assert np.array_equal(logits_of(model, images), logits_of(source, images))
    assert (report.num_loaded, report.missing) == (len(source.state_dict()), ())
    assert (report.unexpected, report.notes) == (("global_step",), ())


@pytest.mark.parametrize(
    ("dropped", "words"),
    [
        ("resnet/block2/unit01/b/group_norm/beta", "there is no 'resnet/block2/unit01/b/group_norm/beta'"),
        ("resnet/head/conv2d/bias", "is not in Google's BiT layout"),
        ("resnet/root_block/standardized_conv2d/kernel", "is not in Google's BiT layout"),
    ],
)
def test_bit_npz__without_an_entry_is_refused(dropped: str, words: str, tmp_path: Path) -> None:
    entries = bit_entries(small_bit(seed=1))
    del entries[dropped]
    with pytest.raises(ModelError, match=re.escape(words)):
        load_weights_file(small_bit(), write_bit(tmp_path / "BiT.npz", entries), name="bit")


@pytest.mark.parametrize("layers", [(3, 1, 1, 1), (1, 1, 1, 1), (1, 2, 1, 1)])
def test_bit_npz__of_another_depth_is_refused(layers: tuple[int, ...], tmp_path: Path) -> None:
    path = write_bit(tmp_path / "BiT.npz", bit_entries(small_bit(layers=layers)))
    with pytest.raises(ModelError, match=rf"holds {sum(layers)} residual units.*; bit has 5"):
        load_weights_file(small_bit(), path, name="bit")


def test_bit_npz__of_another_width_is_refused(tmp_path: Path) -> None:
    entries = bit_entries(small_bit())
    entries["resnet/group_norm/gamma"] = np.zeros(256, np.float32)
    with pytest.raises(ModelError, match="does not fit bit"):
        load_weights_file(small_bit(), write_bit(tmp_path / "BiT.npz", entries), name="bit")


def test_bit_npz__of_a_vit_is_refused() -> None:
    with pytest.raises(ModelError, match="is not in Google's BiT layout"):
        load_weights_file(small_bit(), GOLDEN / "tok_vit_jax.npz", name="bit")


# CNNs


def test_convolution_as_head__of_another_class_count_is_adopted(tmp_path: Path) -> None:
    source, model = small_bit(seed=1, num_classes=7), small_bit(num_classes=3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    report = load_weights_file(model, tmp_path / "w.safetensors", name="bit")
    assert (report.missing, report.unexpected) == ((), ())
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    assert np.array_equal(logits_of(model, images), logits_of(source, images))


def test_batch_norm__running_statistics_are_loaded_and_its_count_may_be_missing(tmp_path: Path) -> None:
    import timm

    source, model = timm.create_model("test_resnet", num_classes=7), timm.create_model("test_resnet", num_classes=3)
    for _ in range(3):
        source.train()(torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    state = {key: value for key, value in source.state_dict().items() if not key.endswith("num_batches_tracked")}
    report = load_weights_file(model, write_pth(tmp_path / "w.pth", state), name="test_resnet")
    assert (report.num_loaded, report.missing, report.unexpected) == (len(state), (), ())
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    assert np.array_equal(logits_of(model, images), logits_of(source, images))


def test_batch_norm__without_its_statistics_is_refused(tmp_path: Path) -> None:
    import timm

    state = timm.create_model("test_resnet").state_dict()
    state = {key: value for key, value in state.items() if "running_var" not in key}
    with pytest.raises(ModelError, match="running_var"):
        load_weights_file(timm.create_model("test_resnet"), write_pth(tmp_path / "w.pth", state), name="test_resnet")


def test_npz__notes_erf_when_the_activation_is_named(tmp_path: Path) -> None:
    model = golden_vit(act_layer="gelu")  # timm's own GELU class, not torch's
    assert len(load_weights_file(model, GOLDEN / "tok_vit_jax.npz", name="golden").notes) == 1


def test_safetensors__of_another_patch_is_refused(tmp_path: Path) -> None:
    save_file(small_vit(seed=1, patch_size=8, img_size=32).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(ModelError, match="patch"):  # timm resamples the kernel in silence
        load_weights_file(small_vit(), tmp_path / "w.safetensors", name="small")


def test_entry_that_is_no_tensor__is_refused(tmp_path: Path) -> None:
    state = small_vit(seed=1).state_dict() | {"norm.bias": 3}  # AttributeError: no shape
    with pytest.raises(ModelError, match="norm.bias"):
        load_weights_file(small_vit(), write_pth(tmp_path / "w.pth", state), name="small")


def test_npz__what_the_reader_leaves_out_is_missing_not_loaded() -> None:
    """Google's layout has no LayerScale: with it the model would be loaded and dead."""
    with pytest.raises(ModelError, match=r"lacks 4 of the \d+ tensors of scaled: blocks\.0\.ls1\.gamma"):
        load_weights_file(golden_vit(init_values=1e-5), GOLDEN / "tok_vit_jax.npz", name="scaled")


def test_npz__entries_without_a_place_are_told(tmp_path: Path) -> None:
    def add(entries: dict[str, np.ndarray]) -> None:
        entries["MAPHead_0/probe"] = np.zeros((1, 1, 32), np.float32)
        entries["opt/step"] = np.zeros(1, np.float32)

    report = load_weights_file(golden_vit(), changed_npz(tmp_path / "w.npz", add), name="golden")
    assert set(report.unexpected) == {"MAPHead_0/probe", "opt/step"}
