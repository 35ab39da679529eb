"""A run as the model of a new one: what is kept of how it was trained, and what is not."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.recipes import as_document, load_recipe, override
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training.plan import decide_pool, decide_tuning
from vitctl.training.starting_run import StartingRun, starting_run
from vitctl.training.tuning import TuningOptions
from vitctl.workflows.finetune import prepare

GOLDEN = Path(__file__).parents[1] / "golden"


def write_run(folder: Path, **changes: object) -> None:
    folder.mkdir(exist_ok=True)
    settings: dict[str, object] = {"vitctl": "x", "recipe": "demo", "batch_size": 16, "lr": 1e-3}
    (folder / "config.json").write_text(json.dumps(settings | changes))


def test_a_run_of_version_0_1_0(tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "best").mkdir(parents=True)
    shutil.copy(GOLDEN / "config-0.1.0.json", run / "config.json")
    for place in (run, run / "best", run / "last"):
        found = starting_run(str(place))
        assert found is not None
        assert found.reason == f"as {place} was trained"
        assert (found.recipe_name, found.batch_size, found.lr) == ("demo", 16, 0.002)
        assert (found.recipe.optimizer.weight_decay, found.recipe.length.steps) == (0.05, 390)


@pytest.mark.parametrize("model", ["demo", "vit_base_patch16_224", "."])
def test_what_is_no_run_says_nothing(model: str) -> None:
    assert starting_run(model) is None


def test_what_was_set_is_kept_and_counts_as_set(tmp_path: Path) -> None:
    recipe = override(load_recipe("transfer"), ["rate.warmup_fraction=0.25"])
    write_run(tmp_path, recipe="gone.toml", recipe_settings=as_document(recipe), set=["rate.warmup_fraction=0.25"])
    found = starting_run(str(tmp_path))
    assert found is not None
    assert found.recipe.rate.warmup_fraction == 0.25
    assert found.recipe.sources["rate.warmup_fraction"] == "--set"
    assert found.recipe_name == "gone.toml"  # its values are kept, so the file is not needed


def test_batch__as_trained_where_there_are_as_many_images(tmp_path: Path) -> None:
    write_run(tmp_path)
    found = starting_run(str(tmp_path))
    assert found is not None
    assert found.batch(found.recipe, 16) == (16, found.reason)
    few = found.batch(found.recipe, 15)
    assert few is not None
    assert few.value == 2  # a quarter, down to a power of two
    assert "with 16, here at most a quarter" in few.reason
    assert found.batch(override(found.recipe, ["length.batch_size=8"]), 100) is None
    assert found.batch(override(found.recipe, ["length.steps=8"]), 100) == (16, found.reason)


def test_rate__kept_only_where_it_was_given_beside_the_recipe(tmp_path: Path) -> None:
    of_recipe = load_recipe("demo").rate.peak_lr(16)
    write_run(tmp_path, lr=of_recipe)
    found = starting_run(str(tmp_path))
    assert found is not None
    assert found.rate(found.recipe, 16, found.tuning) is None
    write_run(tmp_path, lr=of_recipe / 3)
    found = starting_run(str(tmp_path))
    assert found is not None
    kept = found.rate(found.recipe, 16, found.tuning)
    assert kept is not None
    assert kept.value == of_recipe / 3
    assert found.rate(found.recipe, 32, found.tuning) is None
    assert found.rate(override(found.recipe, ["rate.final_lr=0"]), 16, found.tuning) is None


LORA = {"tune": "lora:4", "layer_decay": 1.0, "lr_scale": ["lora_b=4"], "freeze": None}


def test_rate__of_few_weights_is_the_recipes_too(tmp_path: Path) -> None:
    of_recipe = load_recipe("demo").rate.peak_lr(16)
    write_run(tmp_path, lr=10 * of_recipe, **LORA)
    found = starting_run(str(tmp_path))
    assert found is not None
    assert found.lr is None
    write_run(tmp_path, lr=of_recipe, **LORA)
    found = starting_run(str(tmp_path))
    assert found is not None
    assert found.rate(found.recipe, 16, found.tuning) is not None
    assert found.rate(found.recipe, 16, TuningOptions(tune="full").on(found.recipe)) is None


def test_pool__is_the_models_own_with_the_recipe_that_is_kept(tmp_path: Path) -> None:
    averaging = override(load_recipe("demo"), ["head.pool=avg"])
    write_run(tmp_path, pool="token", recipe="gone.toml", recipe_settings=as_document(averaging))
    found = starting_run(str(tmp_path))
    assert found is not None

    def pool(run: StartingRun | None = found, **config: Any) -> str:
        return decide_pool(FinetuneConfig(**config), averaging, recipe_name="r", run=run).value

    assert pool() == "model"  # the option, which went before the recipe, decided it
    assert pool(pool="map") == "map"
    assert pool(set=("head.pool=avg",)) == pool(recipe="gone.toml") == pool(run=None) == "avg"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, ("lora:4", 1.0, ("lora_b=4",))),
        ({"tune": "lora:4", "lr_scale": ("head=2",)}, ("lora:4", 1.0, ("head=2",))),
        ({"tune": "full"}, ("full", 0.75, ())),  # nothing of what was said of another mode
        ({"layer_decay": 0.5}, ("lora:4", 0.5, ("lora_b=4",))),
        ({"set": ("optimizer.layer_decay=0.6",)}, ("lora:4", 0.6, ("lora_b=4",))),
        ({"set": ("tuning.mode=bias",)}, ("bias", 0.75, ())),
        ({"set": ("tuning.mode=full",)}, ("full", 0.75, ())),  # though the recipe of the run says so too
        ({"set": ("tuning.lr_scale=[]",)}, ("lora:4", 1.0, ())),
        ({"recipe": "transfer"}, ("full", 0.75, ())),
    ],
)
def test_tuning__is_kept_with_the_recipe(
    tmp_path: Path, given: dict[str, Any], expected: tuple[str, float, tuple[str, ...]]
) -> None:
    write_run(tmp_path, **LORA | {"recipe": "transfer"})
    config = FinetuneConfig(model=str(tmp_path), **given)
    run = starting_run(str(tmp_path))
    assert run is not None
    recipe = override(run.recipe, config.set or ())
    choice = decide_tuning(config, recipe, run)
    assert (choice.tuning.mode, choice.layer_decay, choice.tuning.lr_scale) == expected


def test_tuning__says_who_chose_it(tmp_path: Path) -> None:
    write_run(tmp_path, **LORA | {"recipe": "transfer"})
    run = starting_run(str(tmp_path))
    assert run is not None

    def reason(**given: Any) -> str:
        config = FinetuneConfig(**given)
        return decide_tuning(config, override(run.recipe, config.set or ()), run).reason

    assert reason() == reason(set=("tuning.freeze=['norm']",)) == run.reason
    assert reason(tune="head") == "given"
    assert reason(set=("tuning.mode=head",)) == "--set tuning.mode"


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"batch_size": "16"}, {"recipe": 3}, {"recipe_settings": {"x": 1}}]
)
def test_a_damaged_config_is_one_sentence(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_run(tmp_path, **changes)
    with pytest.raises(SettingError, match=r"config\.json"):
        starting_run(str(tmp_path))


@pytest.mark.slow
def test_finetune__a_run_keeps_its_size_recipe_batch_and_rate(finished_run: Path) -> None:
    def plan(**settings: Any) -> dict[str, Any]:
        usual: dict[str, Any] = {"data": str(finished_run.parent / "data"), "num_workers": 0, "dry_run": True}
        return dict(prepare(FinetuneConfig(**usual, **settings), Conversation()).config.as_json())

    own = json.loads((finished_run / "config.json").read_text())
    kept = plan(model=str(finished_run))
    for name in ("image_size", "recipe", "recipe_settings", "batch_size", "lr"):
        assert kept[name] == own[name], name
    assert kept["steps"] != own["steps"] == 60  # the length of that training, not of a new one
    told = plan(model=str(finished_run / "best"), recipe="demo", image_size=(32, 32), batch_size=3)
    assert (told["image_size"], told["recipe"], told["batch_size"]) == ("32", "demo", 3)
    assert told["lr"] != own["lr"]
