"""``--model-arg``: what a model takes, what it becomes, and sentences about what it does not take."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from vitctl.errors import ModelError, SettingError
from vitctl.models.arguments import check_same_shapes
from vitctl.models.build import load_model, preprocessing_of
from vitctl.models.prepared import open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.settings.parsing import model_arguments

TINY = {"patch_size": 8, "embed_dim": 16, "depth": 1, "num_heads": 2}


def opened(**arguments: Any) -> Any:
    return load_model("vit_tiny_patch16_224", weights="none", image_size=(16, 16), model_args=TINY | arguments).model


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["global_pool=avg"], {"global_pool": "avg"}),
        (["init_values=1e-5", "class_token=false"], {"init_values": 1e-5, "class_token": False}),
        (["reg_tokens=4", "qk_norm=True"], {"reg_tokens": 4, "qk_norm": True}),
        (["depths=(1, 2)", "window_size=[4,4]"], {"depths": [1, 2], "window_size": [4, 4]}),
        (["act_layer = gelu_tanh"], {"act_layer": "gelu_tanh"}),
        (["act_layer='relu'"], {"act_layer": "relu"}),
        (["name=a=b"], {"name": "a=b"}),
        (["name=" + "[" * 300], {"name": "[" * 300}),  # brackets without end are text, which no model takes
        ([], {}),
    ],
)
def test_values_are_pythons_literals_or_text(texts: list[str], expected: dict[str, Any]) -> None:
    assert model_arguments(texts, "--model-arg") == expected


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["global_pool"], ("'global_pool'", "expected KEY=VALUE")),
        (["=avg"], ("expected KEY=VALUE",)),
        (["global_pool="], ("expected KEY=VALUE",)),
        (["global-pool=avg"], ("expected KEY=VALUE",)),
        (["depth=1", "depth=2"], ("--model-arg depth is given twice",)),
        (["init_values=none"], ("--model-arg init_values is 'none'", "leave it out")),
        (["a={'b': 1}"], ("--model-arg a is", "expected a finite number")),
        (["a=1e999"], ("expected a finite number",)),
        (["a=1j"], ("expected a finite number",)),
        (["a=" + "9" * 600], ("expected KEY=VALUE",)),
    ],
)
def test_values_of_another_form_are_refused(texts: list[str], words: tuple[str, ...]) -> None:
    with pytest.raises(SettingError) as caught:
        model_arguments(texts, "--model-arg")
    for word in words:
        assert word in str(caught.value)


def test_the_model_becomes_what_they_say() -> None:
    model = opened(global_pool="avg", init_values=1e-5, class_token=False, reg_tokens=4, act_layer="gelu_tanh")
    assert model.global_pool == "avg"
    assert model.cls_token is None
    assert model.num_prefix_tokens == 4
    assert float(model.blocks[0].ls1.gamma[0].detach()) == pytest.approx(1e-5)
    assert isinstance(model.fc_norm, nn.LayerNorm)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"reg_token": 4}, ("vit_tiny_patch16_224 takes no argument 'reg_token'", "Did you mean 'reg_tokens'")),
        ({"xyz": 1}, ("takes no argument 'xyz' (--model-arg xyz=1)", "Expected one of its class in timm, like")),
        ({"global_pool": "mean"}, ("cannot be built with --model-arg global_pool=mean", "Only avg")),
        ({"depth": "many"}, ("cannot be built with --model-arg depth=many",)),
        ({"depth": -1, "init_values": 1.0}, ("cannot be built with",)),
        ({"embed_dim": 10**7}, ("--model-arg embed_dim is 10000000", "expected at most")),
        ({"embed_dim": [10**7]}, ("--model-arg embed_dim is 10000000",)),
        ({"img_size": 32}, ("--model-arg img_size=32 cannot be used: --image-size says it",)),
        ({"num_classes": 3}, ("the data and the weights say it",)),
        ({"checkpoint_path": "x.pth"}, ("checkpoint_path", "timm's loader")),
        ({"pretrained": True}, ("timm's loader",)),
        ({"features_only": True}, ("timm's loader",)),
    ],
)
def test_what_a_model_does_not_take__is_a_mistake_of_the_setting(
    arguments: dict[str, Any], words: tuple[str, ...]
) -> None:
    with pytest.raises(SettingError) as caught:
        load_model("vit_tiny_patch16_224", weights="none", model_args=arguments)
    assert caught.value.field == "model_arg"
    for word in words:
        assert word in str(caught.value), str(caught.value)
    assert "config.json" not in str(caught.value)


@pytest.mark.slow  # timm takes seconds to draw five thousand tensors on meta
def test_a_model_that_becomes_too_large__is_refused_before_it_takes_memory() -> None:
    for arguments in ({"depth": 100_000}, {"embed_dim": 2**17 - 2**17 % 3, "depth": 1000}):
        with pytest.raises(SettingError, match="cannot be built: it (has more than|takes) .*--model-arg"):
            load_model("vit_tiny_patch16_224", weights="none", model_args=arguments)


@pytest.mark.parametrize(("key", "value", "words"), [("global_pool", "avg", ".*fc_norm"), ("reg_tokens", 2, "shape")])
def test_weights_that_do_not_fit_with_them__say_so(tiny_model_folder: Path, key: str, value: Any, words: str) -> None:
    with pytest.raises(ModelError, match=rf"do not fit it with --model-arg {key}={value}: {words}"):
        load_model(str(tiny_model_folder), model_args={key: value})


def test_a_run_holds_them_so_that_it_opens_again(tmp_path: Path, tiny_model_folder: Path) -> None:
    loaded = load_model(str(tiny_model_folder), weights="none", model_args={"global_pool": "avg", "reg_tokens": 2})
    save_timm_folder(
        loaded.model, tmp_path / "run", class_names=["a", "b", "c"], preprocessing=preprocessing_of(loaded.model),
        base_model="x", base_licence=None,
    )  # fmt: skip
    again: Any = load_model(str(tmp_path / "run")).model.eval()
    images = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert again.global_pool == "avg"
    with torch.no_grad():
        assert torch.equal(again(images), loaded.model.eval()(images))


def test_random_weights_at_another_size__keep_them(tiny_model_folder: Path) -> None:
    model: Any = open_model(str(tiny_model_folder), weights="none", model_args={"reg_tokens": 3}).at((24, 24)).model
    assert (model.num_prefix_tokens, model.patch_embed.img_size) == (4, (24, 24))


ARGUMENT = ("--model-arg", "reg_tokens=2")
LINES: dict[str, str] = {
    "predict": "predict --model {model} --weights none {image}",
    "evaluate": "evaluate --model {model} --weights none --data {images} --out out",
    "finetune": "finetune --model {model} --weights none --data {images} --dry-run",
    "fewshot-eval": "fewshot-eval --model {model} --weights none --data {images} --shots 1 --seeds 1 --out out",
    "inspect": "inspect pos-embed --model {model} --weights none --out out",
    "export": "export --model {model} --weights none --to timm --out out",
}


@pytest.mark.parametrize("command", LINES)
def test_every_command_takes_them(
    run_cli: Callable[..., Any], tiny_model_folder: Path, whole_folder: Path, command: str
) -> None:
    places = {"model": tiny_model_folder, "images": whole_folder, "image": whole_folder / "red" / "0.png"}
    line = LINES[command].format(**places).split()
    result = run_cli(*line, "--model-arg", "reg_tokes=2")
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    said = " ".join(result.stderr.split())
    assert "takes no argument 'reg_tokes'" in said
    assert "Did you mean 'reg_tokens'?" in said


def test_another_form__is_refused_before_anything_is_loaded(run_cli: Callable[..., Any]) -> None:
    for line in ("finetune", "fewshot-eval", "predict --model demo x.png"):
        result = run_cli(*line.split(), "--model-arg", "reg_tokens")
        assert (result.exit_code, result.stdout) == (2, ""), result.stderr
        assert result.stderr.startswith("error: --model-arg is 'reg_tokens'; expected KEY=VALUE")


@pytest.mark.parametrize("line", ["evaluate {run}", "predict {run} x.png", "export {run}", "inspect pos-embed {run}"])
def test_beside_a_run__they_are_refused(run_cli: Callable[..., Any], tiny_model_folder: Path, line: str) -> None:
    result = run_cli(*line.format(run=tiny_model_folder).split(), *ARGUMENT)
    assert result.exit_code == 2
    assert "--model-arg is given beside a folder" in " ".join(result.stderr.split())


@pytest.mark.parametrize(("given", "is_refused"), [({"patch_size": 8}, True), ({"drop_path_rate": 0.1}, False)])
def test_same_shapes__published_weights_are_not_resampled_to_other_arguments(given: Any, is_refused: bool) -> None:
    def check() -> None:
        check_same_shapes(partial(timm.create_model, "vit_tiny_patch16_224"), given, name="vit")

    if not is_refused:
        return check()
    with pytest.raises(SettingError, match=r"do not fit it with --model-arg patch_size=8: pos_embed would be \(1, 785"):
        check()
