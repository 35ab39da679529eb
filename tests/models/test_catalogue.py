"""timm's models by name: found by pattern, built without weights or memory."""

import resource
import sys

import pytest

from vitctl.errors import ModelError
from vitctl.models.catalogue import build_entry, find_models
from vitctl.results.models import ModelEntry, Tag
from vitctl.settings.words import DEMO


def names_of(pattern: str | None = None) -> list[str]:
    return [entry.name for entry in find_models(pattern)]


def describe(name: str) -> ModelEntry:
    (entry,) = (entry for entry in find_models(name) if entry.name == name)
    return build_entry(entry)


VIT_FAMILIES = ("vit_*", "deit*", "eva*", "beit*", "flexivit*")


def test_names__all_of_timms_after_the_demo() -> None:
    import timm

    assert names_of() == [DEMO, *timm.list_models()]


def test_names__part_of_a_name_finds_every_name_that_holds_it() -> None:
    names = names_of("tiny_patch16")
    assert "vit_tiny_patch16_224" in names
    assert all("tiny_patch16" in name for name in names)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("vit_tiny_patch16_224", ["vit_tiny_patch16_224"]),
        ("vit_tiny_patch16_[23]*", ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]),
        ("vit_tiny_patch16_??4", ["vit_tiny_patch16_224", "vit_tiny_patch16_384"]),
        ("demo", ["demo"]),
        ("vit_small*.dino", ["vit_small_patch8_224", "vit_small_patch16_224"]),
    ],
)
def test_names__patterns(pattern: str, expected: list[str]) -> None:
    assert names_of(pattern) == expected


def test_names__nothing_found_gives_near_matches() -> None:
    with pytest.raises(ModelError, match=r"No model matches 'vit_tiny_patch16_242'\. Did you mean 'vit_tiny_patch16_2"):
        names_of("vit_tiny_patch16_242")


@pytest.mark.parametrize(("given", "near"), [("siglip2", "siglip"), ("dinov22", "dinov2")])
def test_names__a_near_word_of_names_or_tags(given: str, near: str) -> None:
    with pytest.raises(ModelError, match=rf"Did you mean '{near}'"):
        names_of(given)


def test_names__a_tag_that_matches_is_shown_alone() -> None:
    by_tag = {entry.name: entry.pretrained for entry in find_models(".mae")}
    assert by_tag["vit_base_patch16_224"] == (Tag("mae", "cc-by-nc-4.0"),)
    (by_name,) = find_models("vit_base_patch16_224")
    assert len(by_name.pretrained) > 5


def test_names__sizes_are_known_without_building() -> None:
    """timm's configurations against its models, one of each family that says what it is."""
    for name in ("vit_tiny_patch16_384", "resnet18", "vit_small_patch14_dinov2", DEMO):
        (entry,) = (entry for entry in find_models(name) if entry.name == name)
        assert (entry.parameters, entry.grid) == (None, None)
        assert entry.image_size == build_entry(entry).image_size
        assert set(entry.as_json()) == {"name", "image_size", "pretrained"}


def test_names__a_pattern_builds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    import timm

    monkeypatch.setattr(timm, "create_model", lambda *_arguments, **_options: pytest.fail("built"))
    assert len(find_models("vit_*")) > 100


def test_describe__vit() -> None:
    entry = describe("vit_tiny_patch16_224")
    assert (entry.image_size, entry.patch_size, entry.grid, entry.tokens) == ((224, 224), (16, 16), (14, 14), 197)
    assert entry.parameters == 5_717_416
    assert Tag("augreg_in21k", "apache-2.0") in entry.pretrained
    assert len({tag.tag for tag in entry.pretrained}) == len(entry.pretrained)


def test_describe__registers_and_class_token_count_as_tokens() -> None:
    entry = describe("vit_small_patch14_reg4_dinov2")
    assert (entry.image_size, entry.grid, entry.tokens) == ((518, 518), (37, 37), 37 * 37 + 5)


def test_describe__demo_is_embedded() -> None:
    entry = describe(DEMO)
    assert entry.name == DEMO
    assert entry.pretrained == (Tag("embedded", "mit"),)
    assert entry.tokens is not None
    assert entry.parameters < 2_000_000


def test_describe__cnn_has_no_patches() -> None:
    entry = describe("resnet18")
    assert (entry.patch_size, entry.grid, entry.tokens) == (None, None, None)
    assert (entry.image_size, entry.parameters) == ((224, 224), 11_689_512)


def test_describe__large_models_take_no_memory() -> None:
    """vit_giant holds a billion numbers, 4 GB; the most memory this process ever had must not rise by a fourth."""
    unit = 1 if sys.platform == "darwin" else 1024  # bytes or KiB
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = describe("vit_giant_patch14_224").parameters
    risen = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * unit
    assert parameters > 1_000_000_000
    assert risen < parameters


# the same warning from timm's own relative position code as in test_geometry.py
@pytest.mark.slow
@pytest.mark.filterwarnings(r"ignore:torch.searchsorted\(\). input value tensor is non-contiguous:UserWarning")
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning")
@pytest.mark.parametrize("family", VIT_FAMILIES)
def test_describe__every_vit_of_timm(family: str) -> None:
    for name in names_of(family):
        entry = describe(name)
        assert entry.parameters > 0, name
        if entry.grid is not None and entry.patch_size is not None:
            assert entry.image_size[0] // entry.patch_size[0] == entry.grid[0], name
            assert entry.image_size[1] // entry.patch_size[1] == entry.grid[1], name
