from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitctl.errors import ModelError
from vitctl.exporting.npz import npz_arrays
from vitctl.models.build import load_model
from vitctl.models.prepared import open_model
from vitctl.models.weights import load_weights_file
from vitctl.models.weights_fit import ExactCopies, check_finite, unused_note


def tiny(**changes: Any) -> nn.Module:
    args = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
    model: nn.Module = timm.create_model("vit_tiny_patch16_224", **(args | changes))
    return model.eval()


@pytest.fixture
def state(tiny_model_folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = load_file(tiny_model_folder / "model.safetensors")
    return found


def saved(path: Path, state: dict[str, Tensor]) -> str:
    save_file(state, path)
    return str(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["blocks.1.mlp.fc2.bias", "head.weight", "cls_token"])
def test_numbers_that_are_not_finite__are_refused_by_name(
    tmp_path: Path, tiny_model_folder: Path, state: dict[str, Tensor], name: str, value: float
) -> None:
    state[name].view(-1)[3] = value
    with pytest.raises(ModelError, match=rf"w\.safetensors holds 1 of \d+ numbers in {name} that are not finite"):
        load_model(str(tiny_model_folder), weights=saved(tmp_path / "w.safetensors", state))


def test_running_statistics__are_looked_at_and_other_buffers_are_not() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    model.register_buffer("limit", torch.tensor(float("inf")))  # Gemma's clamps begin so
    check_finite(model, source="w.pth")
    model[1].running_var[0] = float("nan")
    with pytest.raises(ModelError, match=r"w\.pth holds 1 of 2 numbers in 1\.running_var .*NaN"):
        check_finite(model, source="w.pth")


def test_a_folders_weights__are_checked_too(tmp_path: Path, tiny_model_folder: Path, state: dict[str, Tensor]) -> None:
    (tmp_path / "config.json").write_bytes((tiny_model_folder / "config.json").read_bytes())
    file = tmp_path / "model.safetensors"
    saved(file, state | {"head.bias": torch.tensor([0.0, torch.nan, 1.0])})
    with pytest.raises(ModelError, match=r"model\.safetensors holds 1 of 3 numbers in head\.bias"):
        load_model(str(tmp_path))
    saved(file, state | {"pos_embed": torch.zeros(1, 26, 16)})  # timm would resample a grid of 5x5 without a word
    with pytest.raises(ModelError, match=r"pos_embed is \(1, 26, 16\), expected \(1, 17, 16\)\. Is its config\.json"):
        load_model(str(tmp_path))
    saved(file, state | {"norm.bias": torch.zeros(16, dtype=torch.int8)})
    with pytest.raises(ModelError, match=r"norm\.bias holds no floating-point numbers"):
        load_model(str(tmp_path))
    saved(file, state | {"blocks.0.ls1.gamma": torch.ones(16)})
    with pytest.raises(ModelError, match=r"do not fit its config\.json.*blocks\.0\.ls1\.gamma"):
        load_model(str(tmp_path))
    saved(file, state | {"pre_logits.fc.bias": torch.ones(16)})  # which timm leaves out
    assert open_model(str(tmp_path)).notes == (f"1 entry of {file} is not used: pre_logits.fc.bias.",)


@pytest.mark.parametrize(
    "extra", ["blocks.0.ls1.gamma", "blocks.1.attn.qkv.delta", "blocks.2.norm1.weight", "layers.0.blocks.0.x"]
)
def test_blocks_without_a_place__are_refused_by_name(tmp_path: Path, state: dict[str, Tensor], extra: str) -> None:
    path = Path(saved(tmp_path / "w.safetensors", state | {extra: torch.ones(2), "note": torch.ones(2)}))
    with pytest.raises(ModelError, match=f"does not fit tiny, which has no place for {extra} "):
        load_weights_file(tiny(), path, name="tiny")


@pytest.mark.parametrize(
    ("extra", "value"),
    [
        ("fc_norm.weight", torch.ones(16)),
        ("decoder_blocks.0.norm.weight", torch.ones(16)),  # MAE's
        ("blocks.0.attn.relative_position_index", torch.ones(4, dtype=torch.int64)),  # computed, not learnt
    ],
)
def test_other_entries_without_a_place__are_told(
    tmp_path: Path, tiny_model_folder: Path, state: dict[str, Tensor], extra: str, value: Tensor
) -> None:
    weights = saved(tmp_path / "w.safetensors", state | {extra: value})
    assert open_model(str(tiny_model_folder), weights=weights).notes == (f"1 entry of {weights} is not used: {extra}.",)


def test_note__names_three() -> None:
    assert unused_note((), source="w.pth") is None
    assert unused_note("abcde", source="w.pth") == "5 entries of w.pth are not used: a, b, c and 2 more."


@pytest.mark.parametrize("value", [torch.tensor(1.0), torch.ones(1), torch.ones(16, 1)])
def test_shapes__are_compared_not_broadcast(tmp_path: Path, state: dict[str, Tensor], value: Tensor) -> None:
    path = Path(saved(tmp_path / "w.safetensors", state | {"norm.weight": value}))
    with pytest.raises(ModelError, match=r"norm\.weight is \(.*\), expected \(16,\)"):
        load_weights_file(tiny(), path, name="tiny")


def test_exact_copies__pass_and_others_are_named() -> None:
    model = tiny()
    with torch.no_grad(), ExactCopies(model):
        model.get_parameter("norm.weight").copy_(torch.full((16,), 2.0))
        with pytest.raises(ValueError, match=r"norm\.bias is \(\), expected \(16,\)"):
            model.get_parameter("norm.bias").copy_(torch.tensor(1.0))
    assert model.get_parameter("norm.weight").eq(2).all()


# Google's .npz, which timm reads with copies that broadcast


@pytest.mark.parametrize("layout", ["vit_jax", "big_vision", "big_vision_scan"])
def test_npz__every_entry_must_have_the_shape_of_its_parameter(tmp_path: Path, layout: str) -> None:
    entries = npz_arrays(tiny(), layout=layout, name="tiny")
    for key, array in entries.items():
        stacked = layout.endswith("scan") and "encoderblock/" in key  # the first axis is the block
        scalar = np.zeros(array.shape[:1] if stacked else (), np.float32)
        np.savez(tmp_path / "w.npz", **entries | {key: scalar})  # type: ignore[arg-type]
        with pytest.raises(ModelError, match="does not fit tiny|no layout|not in Google's"):
            load_weights_file(tiny(), tmp_path / "w.npz", name="tiny")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"Transformer/encoder_norm/scale": np.full(16, np.nan)},
            r"16 of 16 numbers in Transformer/encoder_norm/scale",
        ),
        ({"head/bias": np.array([0, np.inf, 0])}, "1 of 3 numbers in head/bias .*infinite"),
        ({"cls": np.full((1, 1, 16), "a")}, "holds <U1 in cls; expected an array of real numbers"),
        ({"cls": np.zeros((1, 1, 16), complex)}, "holds complex128 in cls"),
        ({"head/bias": np.float32(0)}, r"head/bias is \(\), expected 1 dimensions"),
        (
            {"Transformer/posembed_input/pos_embedding": np.zeros(16)},
            r"pos_embedding is \(16,\), expected 3 dimensions",
        ),
        ({"Transformer/encoderblock_0/LayerScale_0/gamma": np.ones(16)}, "no place for .*encoderblock_0/LayerScale_0"),
        ({"Transformer/encoderblock_1/MlpBlock_3/Dense_0/lora": np.ones(16)}, "no place for .*Dense_0/lora"),
    ],
)
def test_npz__what_was_not_meant_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    np.savez(tmp_path / "w.npz", **npz_arrays(tiny(), layout="vit_jax", name="tiny") | changes)
    with pytest.raises(ModelError, match=said):
        load_weights_file(tiny(), tmp_path / "w.npz", name="tiny")


def test_npz__another_number_of_heads_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "w.npz", **npz_arrays(tiny(num_heads=4), layout="vit_jax", name="tiny"))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="holds 4 attention heads; tiny has 2"):
        load_weights_file(tiny(), tmp_path / "w.npz", name="tiny")
    assert load_weights_file(tiny(num_heads=4), tmp_path / "w.npz", name="tiny").unexpected == ()


# config.json: every word of it goes into the model


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("global_pool", "", r"gives \(1, 17, 3\) for an image, not \(1, 3\)"),
        ("num_heads", -1, "takes no image .*expected the model_args of its weights"),
    ],
)
def test_a_folder_whose_model_cannot_work__is_refused(
    tmp_path: Path, tiny_model_folder: Path, state: dict[str, Tensor], key: str, value: object, said: str
) -> None:
    import json

    config = json.loads((tiny_model_folder / "config.json").read_text())
    config["model_args"][key] = value
    (tmp_path / "config.json").write_text(json.dumps(config))
    saved(tmp_path / "model.safetensors", state)
    with pytest.raises(ModelError, match=said):
        load_model(str(tmp_path))
