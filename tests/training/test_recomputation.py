"""--checkpointing: the same gradients (test_layouts.py, with noise), less kept; a sentence where timm cannot do it."""

import pytest
import timm
import torch

from vitctl.errors import SettingError
from vitctl.primitives.compiler_later import compiler_later
from vitctl.training.recomputation import recompute_blocks


@compiler_later()
def test_less_is_kept_for_the_backward_pass() -> None:
    model = timm.create_model("vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=6, num_heads=2)
    images = torch.rand(2, 3, 16, 16)

    def kept() -> int:
        sizes = list[int]()
        with torch.autograd.graph.saved_tensors_hooks(lambda one: sizes.append(one.nbytes) or one, lambda one: one):
            model(images)
        return sum(sizes)

    whole = kept()
    recompute_blocks(model, name="tiny")
    assert kept() < whole / 3


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_resnet", "test_resnet has BatchNorm layers, whose running statistics would follow every batch twice"),
        ("sequencer2d_s", "timm cannot do it for sequencer2d_s; leave it out"),
    ],
)
@compiler_later()
def test_model_without_it__is_refused(name: str, words: str) -> None:
    with torch.device("meta"):
        model = timm.create_model(name)
    with pytest.raises(SettingError, match=words):
        recompute_blocks(model, name=name)
