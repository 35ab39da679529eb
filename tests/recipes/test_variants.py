"""Variants of a recipe and what was published of it: in the package, and in files of one's own."""

from dataclasses import replace
from pathlib import Path

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.recipes import (
    Published,
    lasting_name,
    list_recipes,
    load_recipe,
    override,
    published_results,
    recipe_file,
    recipe_path,
    told_briefly,
    told_together,
)
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.header import header_settings
from vitctl.training.summary import config_document
from vitctl.workflows import finetune

MINE = """
about = "leaves"
[rate]
lr = { value = 1e-3, source = "measured" }
[length]
steps_rule = "images-seen"
[variants.long]
about = "leaves, for longer"
length.steps = { value = 900, source = "guess" }
[variants.fast]
rate.lr = 1e-2
[[published]]
variant = "long"
model = "ViT-B/16"
data = "leaves"
image_size = 224
percent = 91.5
source = "ours"
"""


@pytest.fixture
def mine() -> str:
    Path("mine.toml").write_text(MINE)
    return "mine.toml"


def test_variant__is_the_recipe_with_its_own_values(mine: str) -> None:
    recipe, long, fast = (load_recipe(name) for name in (mine, f"{mine}:long", f"{mine}:fast"))
    assert long == replace(override(recipe, ["length.steps=900"]), about="leaves, for longer")
    assert (long.length.steps, long.length.steps_rule, long.rate.lr) == (900, "fixed", 1e-3)
    assert (fast.rate.lr, fast.length, fast.about) == (1e-2, recipe.length, recipe.about)
    assert (long.sources["rate.lr"], long.sources["length.steps"], fast.sources["rate.lr"]) == ("measured", "guess", "")


def test_variant__values_are_as_in_any_recipe_file(mine: str) -> None:
    """With dots or under a heading."""
    text = MINE.replace("rate.lr = 1e-2", "[variants.fast.rate]\nlr = 1e-2")
    Path("other.toml").write_text(text)
    assert load_recipe("other.toml:fast") == load_recipe(f"{mine}:fast")


def test_variant__a_file_with_a_colon_in_its_name_goes_first(mine: str) -> None:
    Path("mine.toml:long").write_text("[rate]\nlr = 0.5\n")
    assert load_recipe("mine.toml:long").rate.lr == 0.5
    assert recipe_path("mine.toml:long").name == "mine.toml:long"
    assert recipe_path("mine.toml:fast").name == "mine.toml"


def test_lasting_name__has_the_variant(mine: str) -> None:
    assert lasting_name("vit-paper:cifar10") == "vit-paper:cifar10"
    assert lasting_name(f"{mine}:long") == f"{Path(mine).absolute()}:long"
    assert lasting_name(mine) == str(Path(mine).absolute())


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        (
            "mine.toml:lng",
            r"Recipe mine\.toml has no variant 'lng'\. Did you mean 'long'\? Its variants are long, fast",
        ),
        ("demo:long", r"Recipe demo has no variants, so no 'long'; use --recipe demo\."),
        ("mine.toml:", r"names no variant behind its colon; expected mine\.toml, or mine\.toml:VARIANT"),
        ("gone.toml:long", r"There is no recipe 'gone\.toml', nor a file"),
    ],
)
def test_variant__unknown_ones_are_refused(mine: str, name: str, sentence: str) -> None:
    with pytest.raises(SettingError, match=sentence):
        load_recipe(name)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rate.lr = 1e-2", "rate.lr = 0", r"variant fast: rate\.lr is 0; expected a number above 0"),
        ("rate.lr = 1e-2", "rate.lrr = 1", r"variant fast: unknown setting 'lrr' in \[rate\]\. Did you mean 'lr'"),
        ("variants.fast", "variants.'fast:er'", "cannot be read"),
        ('variant = "long"', 'variant = "lon"', r"of the variant 'lon'; its variants are long, fast"),
        ("percent = 91.5", "percent = 915", "cannot be read: published.0.percent is 915"),
        ("percent = 91.5", "", "published.0 has no 'percent'"),
        ('source = "ours"', 'source = "ours"\ntop1 = 3', "published.0.top1"),
    ],
)  # fmt: skip
def test_mistakes__are_told_whatever_variant_is_asked_for(old: str, new: str, sentence: str) -> None:
    assert old in MINE
    Path("mine.toml").write_text(MINE.replace(old, new))
    with pytest.raises(SettingError, match=sentence):
        load_recipe("mine.toml")


def test_mistakes__of_recipe_and_variants_are_told_at_once() -> None:
    text = MINE.replace("1e-3", "0").replace("1e-2", "0").replace("900", "-1")
    Path("mine.toml").write_text(text)
    with pytest.raises(SettingError) as caught:
        load_recipe("mine.toml")
    assert str(caught.value).count("; expected") == 3


# What was published


def test_published__of_the_variant_that_is_asked_for(mine: str) -> None:
    (result,) = published_results(f"{mine}:long")
    assert result == Published(
        model="ViT-B/16", pretrained="", data="leaves", image_size=224, percent=91.5, metric="top-1", source="ours",
        variant="long",
    )  # fmt: skip
    assert published_results(mine) == published_results(f"{mine}:fast") == ()


def test_published__nothing_of_a_recipe_that_is_gone(mine: str) -> None:
    Path(mine).unlink()
    assert published_results(f"{mine}:long") == ()


def test_published__has_no_effect_on_the_recipe(mine: str) -> None:
    before = load_recipe(mine)
    Path(mine).write_text(MINE[: MINE.index("[[published]]")])
    assert load_recipe(mine) == before


def test_told__in_a_line_each() -> None:
    results = published_results("vit-paper:cifar10")
    assert told_briefly(results) == "CIFAR-10 98.95 % (ViT-B/16), 98.79 % (ViT-B/32), 99.16 % (ViT-L/16)"
    told, source = told_together(results)
    assert told == "CIFAR-10 at 384 px from ImageNet-21k: 98.95 % (ViT-B/16), 98.79 % (ViT-B/32), 99.16 % (ViT-L/16)"
    assert source == "arXiv 2010.11929, table 5"
    assert told_briefly(published_results("augreg-transfer:imagenet")).endswith(", ...")
    assert told_briefly(published_results("vtab-1k")).startswith("VTAB-1k, mean of 19 tasks 72.72 % (ViT-L/16)")
    both = told_together(published_results("deit3-384"))[0]
    assert both.endswith("85 % (DeiT-III ViT-B/16 of ImageNet-1k), 86.7 % (DeiT-III ViT-B/16 of ImageNet-21k)")
    assert told_together(()) == ("", "")


@pytest.mark.parametrize("name", list_recipes())
def test_published__is_at_the_recipes_own_size(name: str) -> None:
    """Or the recipe leaves the size open."""
    file = recipe_file(name)
    for result in file.published:
        size = file.variant(result.variant, of=name).images.size
        assert size in (0, result.image_size), result


# In a run


def test_run__has_the_variant_in_its_header_and_its_config(
    mine: str, image_folder: Path, tiny_model_folder: Path
) -> None:
    config = FinetuneConfig(
        data=str(image_folder), model=str(tiny_model_folder), recipe=f"{mine}:long", device="cpu", dry_run=True
    )
    run = finetune.prepare(config, Conversation())
    (published,) = [row for row in header_settings(run) if row.name == "published"]
    assert (published.value, published.reason) == ("leaves at 224 px: 91.5 % (ViT-B/16)", "ours")
    assert run.job.batches.num_steps == 900
    document = config_document(run.config)
    assert document["recipe"] == f"{Path(mine).absolute()}:long"
    assert (document["recipe_settings"]["steps"], document["recipe_settings"]["about"]) == (900, "leaves, for longer")
    Path(mine).unlink()  # the values are in the configuration
    again = finetune.prepare(run.config, Conversation())
    assert (again.job.recipe, again.config) == (run.job.recipe, run.config)
    assert not [row for row in header_settings(again) if row.name == "published"]
