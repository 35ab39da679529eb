"""A run's config.json: it has every setting, resolved, and one that 0.1.0 wrote repeats its run."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vitctl.conversation import Conversation
from vitctl.data.listed_images import read_listed_images
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import NOT_OF_A_RUN, FinetuneConfig
from vitctl.settings.option import described
from vitctl.training.summary import config_document
from vitctl.workflows import finetune

GOLDEN = Path(__file__).parents[1] / "golden"


def _settings(folder: Path, model: Path, table: Path) -> list[dict[str, Any]]:
    """Return settings that together give every field another value than its default; not all go together."""
    return [
        {
            "data": str(folder),
            "class_depth": 1,
            "val_fraction": 0.25,
            "dev_fraction": 0.5,
            "split_seed": 11,
            "group_pattern": "{group}.png",
            "model": str(model),
            "image_size": (24, 16),
            "pos_embed_interp": "bicubic",
            "head": "zero",
            "recipe": "demo",
            "set": ("optimizer.weight_decay=0.25",),
            "steps": 3,
            "patience": 2,
            "batch_size": 5,
            "micro_batch": 3,
            "checkpointing": True,
            "lr": 0.25,
            "tune": "last:1",
            "layer_decay": 0.5,
            "lr_scale": ("^head=2", "bias=0.5"),
            "freeze": ("norm2",),
            "flip": True,
            "on_bad_image": "skip",
            "sampler": "balanced",
            "seed": 7,
            "num_workers": 0,
            "precision": "fp16",
            "deterministic": True,
            "num_threads": 1,
            "device": "cpu",
            "save_every": "2h",
        },
        {
            "data": str(table),
            "image_root": str(folder),
            "image_column": "path",
            "label_column": "colour",
            "group_column": "batch",
            "val": str(folder),
            "model": str(model),
            "model_arg": ("reg_tokens=2", "global_pool=avg"),
            "weights": "none",
            "image_size": (16, 16),
            "epochs": 0.3,
            "class_weights": "balanced",
            "cache": "resized",
            "compile": True,
            "max_value": 4095,
        },
        {
            "data": str(folder),
            "model": str(model),
            "fold": "2/3",
            "pool": "avg",
            "tune": "last:1",
            "layer_decay": 0.5,
            "lr_scale": ("head=2",),
            "freeze": ("pos_embed",),
            "patience": 3,
        },
        {"data": str(folder), "model": str(model), "batch_size": 4, "num_workers": 0, "time_limit": "20s"},
    ]


@pytest.fixture
def several(
    image_folder: Path, tiny_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[dict[str, Any]]:
    monkeypatch.setattr("vitctl.training.time_limit._MOST_S", 0.01)  # of steps that are measured
    rows = ["path,colour,batch"]
    rows += [
        f"{path.relative_to(image_folder)},{path.parent.name},{path.stem}"
        for path in sorted(image_folder.rglob("*.png"))
    ]
    table = tmp_path / "table.csv"
    table.write_text("\n".join(rows))
    listed = tmp_path / "list.csv"
    listed.write_text(f"image\n{next(image_folder.rglob('*.png'))}\n")
    settings = _settings(image_folder, tiny_model_folder, table)
    settings[-1] |= {"clean": read_listed_images(str(listed)).spec, "val_fraction": 0.0}
    return settings


def test_every_setting_is_in_config_json(several: list[dict[str, Any]]) -> None:
    """Each is changed from its default, and found again; a new setting must be added above to pass."""
    changed = {name for settings in several for name in settings}
    changed.add("time_limit")  # a run records the steps that it came to
    assert changed == set(described(FinetuneConfig)) - {*NOT_OF_A_RUN, "recipe_settings"}
    for settings in several:
        plan = finetune.prepare(FinetuneConfig(**settings, dry_run=True), Conversation())
        document = config_document(plan.config)
        expected = FinetuneConfig(**settings).as_json()
        for name in settings:
            assert expected[name] != FinetuneConfig().as_json()[name], f"{name} is at its default"
            assert document[name] == expected[name], name
        assert document["recipe_settings"]
        assert not set(document) & set(NOT_OF_A_RUN)


def test_config_json__read_back_is_the_same_settings(several: list[dict[str, Any]], tmp_path: Path) -> None:
    for settings in several:
        plan = finetune.prepare(FinetuneConfig(**settings, dry_run=True), Conversation())
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config_document(plan.config)))
        assert config_from_file(path) == replace(plan.config, dry_run=False)


def _losses(path: Path) -> list[tuple[str, float]]:
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return [(key, line[key]) for line in lines for key in ("loss", "val_loss") if key in line]


def test_config_of_0_1_0__repeats_its_run(tmp_path: Path, no_rendering: None) -> None:
    """The file lacks what came later, and holds the recipe's settings as they were written then."""
    given = {"out": str(tmp_path / "run")}
    finetune.run(merge(config_from_file(GOLDEN / "config-0.1.0.json"), given), Conversation())
    expected, found = _losses(GOLDEN / "metrics-0.1.0.jsonl"), _losses(tmp_path / "run" / "metrics.jsonl")
    assert [name for name, _ in found] == [name for name, _ in expected]
    # on the machine that wrote the file they are equal to the last digit; another processor rounds otherwise
    assert [value for _, value in found] == pytest.approx([value for _, value in expected], rel=1e-4)


def test_all_mistakes_of_a_file_are_named_at_once(tmp_path: Path, run_cli: Callable[..., Any]) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"stepz": 5, "lr": True, "seed": True}))
    result = run_cli("finetune", "--config", tmp_path / "config.json")
    assert result.exit_code == 2
    for sentence in ("unknown setting 'stepz'", "lr in --config", "seed in --config"):
        assert sentence in result.stderr
