"""timm's models by name: found by pattern, described without weights or memory."""

import resource
import sys

import pytest

from vitctl.errors import ModelError
from vitctl.models.catalogue import describe_model, model_names
from vitctl.results.models import Tag
from vitctl.settings.words import DEMO

VIT_FAMILIES = ("vit_*", "deit*", "eva*", "beit*", "flexivit*")


def test_names__all_of_timms_after_the_demo() -> None:
    import timm

    assert model_names() == [DEMO, *timm.list_models()]


def test_names__part_of_a_name_finds_every_name_that_holds_it() -> None:
    names = model_names("tiny_patch16")
    assert "vit_tiny_patch16_224" in names
    assert all("tiny_patch16" in name for name in names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("vit_tiny_patch16_224", ["vit_tiny_patch16_224"]),
        ("vit_tiny_patch16_[23]*", ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]),
        ("vit_tiny_patch16_??4", ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]),
        ("demo", ["demo"]),
    ],
)
def test_names__patterns(pattern: str, expected: list[str]) -> None:
    assert model_names(pattern) == expected


def test_names__nothing_found_gives_near_matches() -> None:
    with pytest.raises(ModelError, match=r"No model matches 'vit_tiny_patch16_242'\. Did you mean 'vit_tiny_patch16_2"):
        model_names("vit_tiny_patch16_242")


def test_describe__vit() -> None:
    entry = describe_model("vit_tiny_patch16_224")
    assert (entry.image_size, entry.patch_size, entry.grid, entry.tokens) == ((224, 224), (16, 16), (14, 14), 197)
    assert entry.parameters == 5_717_416
    assert Tag("augreg_in21k", "apache-2.0") in entry.pretrained
    assert len({tag.tag for tag in entry.pretrained}) == len(entry.pretrained)


def test_describe__registers_and_class_token_count_as_tokens() -> None:
    entry = describe_model("vit_small_patch14_reg4_dinov2")
    assert (entry.image_size, entry.grid, entry.tokens) == ((518, 518), (37, 37), 37 * 37 + 5)


def test_describe__demo_is_embedded() -> None:
    entry = describe_model(DEMO)
    assert entry.name == DEMO
    assert entry.pretrained == (Tag("embedded", "mit"),)
    assert entry.tokens is not None
    assert entry.parameters < 2_000_000


def test_describe__cnn_has_no_patches() -> None:
    entry = describe_model("resnet18")
    assert (entry.patch_size, entry.grid, entry.tokens) == (None, None, None)
    assert (entry.image_size, entry.parameters) == ((224, 224), 11_689_512)


def test_describe__large_models_take_no_memory() -> None:
    """vit_giant holds a billion numbers, 4 GB; the most memory this process ever had must not rise by a fourth."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = describe_model("vit_giant_patch14_224").parameters
    risen = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert parameters > 1_000_000_000
    assert risen < parameters


# the same warning from timm's own relative position code as in test_geometry.py
@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:torch.searchsorted\(\). input value tensor is non-contiguous:UserWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning")
@pytest.mark.parametrize("family", VIT_FAMILIES)
def test_describe__every_vit_of_timm(family: str) -> None:
    for name in model_names(family):
        entry = describe_model(name)
        assert entry.parameters > 0, name
        if entry.grid is not None and entry.patch_size is not None:
            assert entry.image_size[0] // entry.patch_size[0] == entry.grid[0], name
            assert entry.image_size[1] // entry.patch_size[1] == entry.grid[1], name
