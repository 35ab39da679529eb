"""Low-rank factors: closed forms, keyed starts, merged weights; steps against a plain loop."""

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.primitives.compiler_later import compiler_later
from vitctl.recipes.sections import Tuning
from vitctl.training.lora import LoraLinear, adapted, add_factors, merged, write_adapter
from vitctl.training.optimizer import build_optimizer, parameter_groups, set_learning_rate
from vitctl.training.trained import choose_trained

SMALL = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}


def build(name: str = "vit_tiny_patch16_224", *, rank: int = 2, seed: int = 0) -> nn.Module:
    """Return a model with factors that are of effect."""
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: nn.Module = timm.create_model(name, **SMALL)
        choose_trained(model, Tuning(mode=f"lora:{rank}"), seed=seed, name="it")
        for layer in adapted(model).values():
            nn.init.normal_(layer.lora_b, std=0.2)
        for head in (model.get_classifier(),):
            nn.init.normal_(head.weight)
    return model.eval()


def test_layer__is_the_closed_form() -> None:
    torch.manual_seed(0)
    base, inputs = nn.Linear(6, 4), torch.randn(5, 3, 6)
    layer = LoraLinear(base, rank=2, scale=0.5)
    assert torch.equal(layer(inputs), base(inputs))  # B is zero
    nn.init.normal_(layer.lora_b)
    whole = base.weight + 0.5 * layer.lora_b @ layer.lora_a
    assert torch.allclose(layer(inputs), F.linear(inputs, whole, base.bias), atol=1e-6)
    assert torch.equal(layer.weight, whole)
    assert layer.bias is base.bias


def test_start__is_that_of_a_linear_layer_and_keyed() -> None:
    first = [one.lora_a for one in adapted(build(seed=1)).values()]
    torch.manual_seed(99)
    torch.rand(3)
    again = [one.lora_a for one in adapted(build(seed=1)).values()]
    other = [one.lora_a for one in adapted(build(seed=2)).values()]
    assert all(map(torch.equal, first, again))
    assert not any(map(torch.equal, first, other))
    assert not torch.equal(first[0], first[4])  # qkv of two blocks
    for a in first:  # torch's nn.Linear draws from +-1 / sqrt(inputs)
        assert float(a.detach().abs().max()) <= 1 / math.sqrt(a.shape[1])
        assert float(a.detach().abs().max()) > 0.7 / math.sqrt(a.shape[1])


def test_start__changes_nothing() -> None:
    import timm

    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", **SMALL).eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        before = plain(images)
        add_factors(plain, rank=2, scale=2.0, seed=0, name="it")
        assert torch.equal(plain(images), before)


@pytest.mark.parametrize(
    "name", ["vit_tiny_patch16_224", "eva02_tiny_patch14_224", "eva02_base_patch14_224", "beit_base_patch16_224"]
)
def test_merged__the_same_logits(name: str, tmp_path: Path) -> None:
    """EVA and BEiT multiply by the weight of their layer themselves, to leave the bias of k out."""
    import timm

    model, plain = build(name), timm.create_model(name, **SMALL).eval()
    images = torch.rand(4, 3, 16, 16)
    plain.load_state_dict(merged(model.state_dict(), model))
    with torch.no_grad():
        difference = float((model(images) - plain(images)).abs().max())
        assert difference < 1e-5  # the largest seen is 2e-6
        for layer in adapted(model).values():
            layer.lora_b.zero_()
        assert float((model(images) - plain(images)).abs().max()) > 0.01  # each of these factors is of effect


def test_gradients__reach_every_factor_and_nothing_else() -> None:
    model = build("eva02_tiny_patch14_224")
    model(torch.rand(2, 3, 16, 16)).square().sum().backward()
    found = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert found == {name for name, parameter in model.named_parameters() if "lora_" in name or name.startswith("head")}
    assert all(bool(parameter.grad.any()) for parameter in model.parameters() if parameter.grad is not None)


@compiler_later()
def test_steps__are_those_of_a_plain_loop() -> None:
    """The reference computes with whole weights, ``W + scale * B @ A``, that it makes anew in each step."""
    import timm

    model, plain = build(), timm.create_model("vit_tiny_patch16_224", **SMALL)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    free = {name: state[name].requires_grad_() for name in state if "lora_" in name or name.startswith("head")}
    images, labels = torch.rand(6, 3, 16, 16), torch.arange(6) % 3
    # a layer decay of 1 and no weight decay on factors are the mode's
    groups = parameter_groups(model, weight_decay=0.05, layer_decay=1.0)
    optimizer = build_optimizer(groups, name="adamw", lr=1e-2, betas=(0.9, 0.999), momentum=0.0)
    decays = [{"params": [free["head.weight"]], "weight_decay": 0.05}]
    decays += [{"params": [one for name, one in free.items() if name != "head.weight"], "weight_decay": 0.0}]
    reference = torch.optim.AdamW(decays, lr=1e-2)

    def whole() -> dict[str, Tensor]:
        weights = {name.replace(".base", ""): tensor for name, tensor in state.items() if "lora_" not in name}
        for path, layer in adapted(model).items():
            product = free[f"{path}.lora_b"] @ free[f"{path}.lora_a"]
            weights[f"{path}.weight"] = state[f"{path}.base.weight"] + layer.scale * product
        return weights

    for _ in range(4):
        set_learning_rate(optimizer, 1e-2)
        F.cross_entropy(model(images), labels).backward()
        F.cross_entropy(torch.func.functional_call(plain.eval(), whole(), (images,)), labels).backward()
        for one in (optimizer, reference):
            one.step()
            one.zero_grad()
    for name, tensor in model.state_dict().items():
        expected = free.get(name, state[name])
        assert torch.allclose(tensor, expected, atol=2e-5), name
        assert (name in free) == (not torch.equal(tensor, build().state_dict()[name])), name


def test_factors__do_not_decay() -> None:
    model = build()
    names = {parameter: name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, weight_decay=0.05, layer_decay=0.5):
        for parameter in group["params"]:
            assert (group["weight_decay"] > 0) == (names[parameter] == "head.weight"), names[parameter]


def test_adapter__holds_what_the_merged_weights_have_more(tmp_path: Path) -> None:
    model = build()
    weights = model.state_dict()
    write_adapter(tmp_path, weights, model)
    factors = load_file(tmp_path / "adapter.safetensors")
    with safe_open(tmp_path / "adapter.safetensors", "pt") as file:
        facts = json.loads(file.metadata()["lora"])
    assert facts == {"rank": 2, "scale": 2.0, "formula": "weight + scale * lora_b @ lora_a"}
    plain = merged(weights, model)
    for path in adapted(model):
        product = facts["scale"] * factors.pop(f"{path}.lora_b") @ factors.pop(f"{path}.lora_a")
        assert torch.allclose(weights[f"{path}.base.weight"] + product, plain[f"{path}.weight"], atol=1e-6)
    assert not factors
    write_adapter(tmp_path / "none", {}, nn.Linear(2, 2))
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast__computes_the_factors_in_it_too(dtype: torch.dtype) -> None:
    model, images = build("eva02_tiny_patch14_224"), torch.rand(2, 3, 16, 16)
    with torch.autocast("cpu", dtype):
        logits = model(images)
    logits.float().sum().backward()
    assert {one.lora_a.grad.dtype for one in adapted(model).values() if one.lora_a.grad is not None} == {torch.float32}
    assert torch.allclose(logits.float(), model(images), atol=0.1)
