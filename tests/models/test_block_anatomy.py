"""Parts of blocks that are found by name, against their types, the order in which they run and what they do."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.layers import LayerScale
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitctl.models.anatomy import blocks_of, units_of
from vitctl.models.block_anatomy import (
    attention_of,
    branches_of,
    is_attention,
    layer_scales_of,
    linear_layers_of,
    mixes_tokens_by_mlp,
    mlp_of,
    norms_of,
    parts_of,
    residual_units,
)

# timm's names; the number of linear layers in a block
ATTENTION = {
    "vit_tiny_patch16_224": 4, "vit_small_patch14_reg4_dinov2": 4, "deit_tiny_distilled_patch16_224": 4,
    "deit3_small_patch16_224": 4, "beit_base_patch16_224": 4, "eva02_tiny_patch14_224": 4, "eva02_base_patch14_224": 7,
    "cait_xxs24_224": 6, "xcit_nano_12_p16_224": 4, "samvit_base_patch16_224": 4, "swin_tiny_patch4_window7_224": 4,
}  # fmt: skip
TOKEN_MLPS = ("mixer_s32_224", "resmlp_12_224")
CNNS = ("convnext_atto", "resnet18", "skresnet18", "resnetv2_50", "regnetx_002", "poolformer_s12")
RunOf = Callable[..., Any]


def shallow(run_of: RunOf, name: str) -> Any:
    """Return the run of a model of three blocks, or of all where it has stages or takes no number of them."""
    return run_of(name, **({"depth": 3} if name in ATTENTION and not name.startswith("swin") else {}))


def units(run: Any) -> list[nn.Module]:
    return [unit.module for unit in units_of(run.model)]


@pytest.mark.parametrize("name", ATTENTION)
def test_linear_layers__are_all_of_the_block(name: str, run_of: RunOf) -> None:
    run = shallow(run_of, name)
    for block in units(run):
        found = linear_layers_of(block)
        linear = [module for module in block.modules() if isinstance(module, nn.Linear)]
        assert len(linear) == ATTENTION[name]
        assert (found is None) == (name == "eva02_base_patch14_224")  # q, k, v apart, and SwiGLU's three
        if found is not None:
            assert set(found) <= set(linear)
            called = [layer for layer in found if run.paths[layer] in run.calls]
            assert called in ([*found], [*found[1:]])  # qkv may lend its weights (BEiT's biases)
            assert sorted(called, key=run.first) == called


class _Attended(TorchFunctionMode):
    """Notes in which modules, innermost first, the fused attention is called."""

    def __init__(self) -> None:
        super().__init__()
        self.within: list[nn.Module] = []
        self.found: list[list[nn.Module]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            self.found.append(self.within[::-1])
        return func(*args, **(kwargs or {}))

    def _leave(self, *_: Any) -> None:
        self.within.pop()

    def watch(self, model: nn.Module) -> None:
        for module in model.modules():
            module.register_forward_pre_hook(lambda module, _args: self.within.append(module))
            module.register_forward_hook(self._leave)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "hiera_tiny_224", "pvt_v2_b0"])
def test_attention__is_where_the_kernel_is_called(name: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name).eval()
    watch = _Attended()
    watch.watch(model)
    with torch.no_grad(), watch:
        model(torch.empty(1, 3, 224, 224, device="meta"))
    assert len(watch.found) == len(units_of(model))
    for unit, within in zip(units_of(model), watch.found, strict=True):
        assert is_attention(within[0])
        assert within[0] is attention_of(unit.module)
        assert not is_attention(mlp_of(unit.module))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", [*ATTENTION, *TOKEN_MLPS, "poolformer_s12"])
def test_parts__run_in_their_order(name: str, run_of: RunOf) -> None:
    run = shallow(run_of, name)
    for unit in units_of(run.model):
        parts = parts_of(unit.module)
        assert parts is not None
        names = (parts.norm1, parts.token_mixer, parts.norm2, parts.channel_mixer)
        order = [run.calls.index(f"{unit.path}.{part}") for part in names]
        assert order == sorted(order)
        if name not in (*TOKEN_MLPS, "poolformer_s12"):
            assert unit.module.get_submodule(parts.token_mixer) is attention_of(unit.module)
        if name != "resmlp_12_224":
            assert norms_of(unit.module) == tuple(map(unit.module.get_submodule, (parts.norm1, parts.norm2)))
        for mixer, layer in parts.second_layers.items():  # its input is the mixer's widest
            shapes = {path: shape for path, shape in run.inputs.items() if path.startswith(f"{unit.path}.{mixer}")}
            assert max(shapes.values(), key=math.prod) == run.inputs[f"{unit.path}.{layer}"]


def test_parts__of_other_blocks_are_not_known(run_of: RunOf) -> None:
    for name in ("resnet18", "convnext_atto", "efficientnet_b0"):
        assert [parts_of(unit) for unit in units(shallow(run_of, name))] == [None] * len(units(shallow(run_of, name)))
        assert [linear_layers_of(unit) for unit in units(shallow(run_of, name))] == [None] * len(
            units(shallow(run_of, name))
        )


TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16}
SILENCED: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_tiny_patch16_224", {**TINY, "depth": 2, "num_heads": 2, **{"class_token": False, "global_pool": ""}}),
    "beit": ("beit_base_patch16_224", {**TINY, "depth": 2, "num_heads": 2}),
    "mixer": ("MlpMixer", {**TINY, "num_blocks": 2}),
}


def silence(module: nn.Module) -> None:
    """Make a module give zeros."""
    module.register_forward_hook(lambda _module, _args, output: torch.zeros_like(output))


@pytest.mark.parametrize("which", ["token_mixer", "channel_mixer"])
@pytest.mark.parametrize("kind", SILENCED)
def test_parts__mix_tokens_or_do_not(kind: str, which: str) -> None:
    """A patch is seen by the others through the token mixers alone."""
    name, arguments = SILENCED[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        is_class = name[0].isupper()
        model = getattr(timm.models, name)(**arguments) if is_class else timm.create_model(name, **arguments)
    model.eval()
    for block in blocks_of(model):
        parts = parts_of(block)
        assert parts is not None
        silence(block.get_submodule(getattr(parts, which)))
    images = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    other = images.clone()
    other[..., :4, :4] += 1
    with torch.no_grad():
        change = (model.forward_features(images) != model.forward_features(other)).any(dim=-1)[0]
    patches = change[-16:]
    assert patches[0]
    assert bool(patches[1:].any()) == (which == "channel_mixer")


@pytest.mark.parametrize("name", [*ATTENTION, *TOKEN_MLPS, *CNNS])
def test_layer_scales__are_all_of_that_type(name: str, run_of: RunOf) -> None:
    for block in units(shallow(run_of, name)):
        scales = [module for module in block.modules() if isinstance(module, LayerScale)]
        assert [module for module in layer_scales_of(block) if type(module) is not nn.Identity] == scales
    assert bool(scales) == (name in ("vit_small_patch14_reg4_dinov2", "deit3_small_patch16_224"))


@pytest.mark.parametrize("name", [*ATTENTION, *TOKEN_MLPS, *CNNS])
def test_token_mlps__are_where_there_is_neither_attention_nor_a_convolution(name: str, run_of: RunOf) -> None:
    for block in units(shallow(run_of, name)):
        others = [one for one in block.modules() if is_attention(one) or isinstance(one, (nn.Conv2d, nn.AvgPool2d))]
        assert mixes_tokens_by_mlp(block) == (not others)


@pytest.mark.parametrize("name", [*ATTENTION, *CNNS])
def test_branches__are_those_of_the_last_residual_sum(name: str, run_of: RunOf) -> None:
    """Residual units are checked by ``norm_ratio`` to be exact sums; those of a stage's last unit are its branches."""
    run = shallow(run_of, name)
    found = residual_units(run.model)
    for block in blocks_of(run.model):
        last = [unit for unit in found if f"{unit.name}.".startswith(f"{run.paths[block]}.")][-1]
        branches = branches_of(block)
        assert tuple(branches) == (("attention", "mlp") if len(branches) == 2 else ("branch",))
        if name == "poolformer_s12":  # branches come before the scales, which the sums are of
            assert [run.first(end) for end in last.ends] == [run.first(one) + 1 for one in branches.values()]
        else:
            assert last.ends == tuple(branches.values())


def test_branches__of_nothing_known() -> None:
    assert branches_of(nn.Sequential(nn.Linear(2, 2))) == {}
    assert residual_units(nn.Sequential(nn.Linear(2, 2))) == []
