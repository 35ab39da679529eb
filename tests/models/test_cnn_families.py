"""CNNs and hybrids of timm: another size, a head of zeros, and back from the disk with the same logits."""

from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.models.build import LoadedModel, replace_head
from vitctl.models.choices import AS_TIMM
from vitctl.models.load_report import LoadReport
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.training.optimizer import parameter_groups

# name: size to change to
FAMILIES = {
    "resnet18": (96, 64),
    "resnetv2_50x1_bit": (96, 64),
    "convnext_atto": (96, 64),
    "efficientnet_b0": (96, 64),
    "regnety_002": (96, 64),
    "mobilenetv3_small_050": (96, 64),
    "densenet121": (96, 64),
    "eca_nfnet_l0": (96, 64),
    "vgg11": (96, 64),
    "dla46_c": (96, 64),
    "mobilevit_xxs": (96, 64),
    "repvit_m0_9": (96, 64),
    "naflexvit_base_patch16_gap": (96, 64),
    "test_maxvit": (320, 320),  # of fixed size, but timm can change it
    "test_coatnet": (96, 64),
    "efficientvit_m0": (192, 192),
    "levit_128s": (224, 224),
    "volo_d1_224": (224, 224),
    "efficientformer_l1": (224, 224),
}


def build(name: str) -> LoadedModel:
    """Return the model with random weights, running statistics included."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
                nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    return LoadedModel(model.eval(), name, None, {}, None, LoadReport("a test", 0))


def logits_of(model: nn.Module, size: tuple[int, int]) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model.eval()(torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0)))
    return logits


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning")
@pytest.mark.parametrize("name", FAMILIES)
def test_family(name: str, tmp_path: Path) -> None:
    size = FAMILIES[name]
    opened = PreparedModel(build(name), name, "pretrained", 0, AS_TIMM).at(size)
    loaded = opened.loaded
    replace_head(loaded.model, 4, method="zero", seed=0)
    assert torch.equal(logits_of(loaded.model, size), torch.zeros(2, 4))

    replace_head(loaded.model, 4, method="random", seed=0)
    groups = parameter_groups(loaded.model, weight_decay=0.05, layer_decay=0.75)
    assert sum(len(group["params"]) for group in groups) == len(list(loaded.model.parameters()))
    assert len({group["lr_scale"] for group in groups}) > 3

    preprocessing = opened.preprocessing
    save_timm_folder(
        loaded.model, tmp_path / "m", class_names=list("abcd"), preprocessing=preprocessing, base_model=name,
        base_licence=None,
    )  # fmt: skip
    again = open_model(str(tmp_path / "m"))
    assert (again.class_names, again.preprocessing) == (tuple("abcd"), preprocessing)
    assert again.preprocessing.image_size == size
    logits = logits_of(loaded.model, size)
    assert float(logits.std()) > 0
    assert torch.equal(logits_of(again.model, size), logits)
    plain = timm.create_model(f"local-dir:{tmp_path / 'm'}", pretrained=True)
    assert timm.data.resolve_model_data_config(plain)["input_size"] == (3, *size)
    assert torch.equal(logits_of(plain, size), logits)
