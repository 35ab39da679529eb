"""What a model is and costs: FLOPs by a closed form, parameters as the papers count them."""

import pytest
import torch
from torch import nn

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.models.describe import flops_per_image, num_parameters


def vit_flops(*, grid: tuple[int, int], patch: int, width: int, depth: int, num_classes: int) -> int:
    """Return the matrix products of a ViT with a class token, a multiply-add counted as two."""
    patches = grid[0] * grid[1]
    tokens = patches + 1
    embedding = 2 * patches * (3 * patch * patch) * width
    projections = 2 * tokens * width * (3 * width + width + 4 * width + 4 * width)  # qkv, out, two of the MLP
    attention = 2 * 2 * tokens * tokens * width  # queries by keys, weights by values
    return embedding + depth * (projections + attention) + 2 * width * num_classes


@pytest.mark.parametrize("image_size", [(32, 32), (48, 16)])
def test_flops__equal_the_closed_form(image_size: tuple[int, int]) -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=image_size, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=5
    )
    grid = (image_size[0] // 8, image_size[1] // 8)
    expected = vit_flops(grid=grid, patch=8, width=32, depth=3, num_classes=5)
    assert flops_per_image(model, image_size) == expected


def test_flops__of_vit_b16_are_the_papers_35_billion() -> None:
    """17.6 G multiply-adds at 224 px, as in DeiT's table 5 (arXiv 2012.12877)."""
    import timm

    with torch.device("meta"):
        model = timm.create_model("vit_base_patch16_224")
    assert flops_per_image(model, (224, 224)) / 2 == pytest.approx(17.6e9, rel=0.01)


def test_flops__of_attention_pooling_are_counted() -> None:
    """SigLIP's pooling (arXiv 2303.15343): one query over all patches, and an MLP for what it finds."""
    import timm

    with torch.device("meta"):
        pooled, averaged = (timm.create_model(f"vit_base_patch16_siglip_{name}224", depth=1) for name in ("", "gap_"))
    width, patches = 768, 14 * 14
    query_and_projection, keys_and_values = 2 * 2 * width**2, 2 * patches * 2 * width**2
    expected = query_and_projection + keys_and_values + 2 * 2 * patches * width + 2 * 2 * 4 * width**2
    assert flops_per_image(pooled, (224, 224)) - flops_per_image(averaged, (224, 224)) == expected


@pytest.mark.parametrize(
    "name",
    [
        "vit_pe_core_tiny_patch16_384",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("naflexvit_base_patch16_map", "resnet50_clip")),
    ],
)
def test_flops__of_every_kind_of_attention_pooling_can_be_counted(name: str) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name, **({} if name.startswith("resnet") else {"depth": 1}))
    trained = num_parameters(model)
    assert flops_per_image(model, model.pretrained_cfg["input_size"][1:]) > 0
    assert num_parameters(model) == trained


def test_flops__counting_changes_neither_model_nor_mode() -> None:
    import timm

    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=16, patch_size=4, embed_dim=16, depth=1, num_heads=2, num_classes=3
    ).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    flops_per_image(model, (16, 16))
    assert model.training
    assert all(parameter.device.type == "cpu" for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vit_tiny_patch16_224", 5_717_416),
        ("vit_small_patch16_224", 22_050_664),
        ("vit_base_patch16_224", 86_567_656),
        ("vit_large_patch16_224", 304_326_632),
    ],
)
def test_parameters__are_the_published_counts(name: str, expected: int) -> None:
    import timm

    with torch.device("meta"):
        model = timm.create_model(name)
    assert num_parameters(model) == expected


def test_parameters__frozen_ones_do_not_count() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    assert num_parameters(model) == 6
