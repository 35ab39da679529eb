"""Combinations: products in order, values checked as their options are, contradictions found before anything starts."""

from pathlib import Path

import pytest

from vitctl.errors import DataError, SettingError
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.cells import cells_of
from vitctl.sweeping.names import cell_names
from vitctl.sweeping.plan_file import settled


def sweep(*grid: str, **settings: object) -> SweepConfig:
    return SweepConfig(grid=grid or None, **settings)  # type: ignore[arg-type]


def test_product__the_last_key_changes_fastest() -> None:
    cells = cells_of(sweep("lr=1e-4,3e-4", "tune=full,lora:8", steps=5))
    assert [dict(cell.settings) for cell in cells] == [
        {"lr": 1e-4, "tune": "full"},
        {"lr": 1e-4, "tune": "lora:8"},
        {"lr": 3e-4, "tune": "full"},
        {"lr": 3e-4, "tune": "lora:8"},
    ]
    assert cells[1].given == {"steps": 5, "lr": 1e-4, "tune": "lora:8"}
    assert cells[1].name == "lr=0.0001,tune=lora-8"


def test_without_a_grid__one_combination() -> None:
    (cell,) = cells_of(sweep(steps=5, seed=3, seeds=2, jobs=2, out="x"))
    assert (cell.name, cell.settings, cell.given) == ("base", {}, {"steps": 5})


def test_values__of_every_kind() -> None:
    cells = cells_of(
        sweep(
            "image-size=32,48x64", "flip=true,none", "optimizer.betas=[0.9,0.95]", 'freeze=["pos","cls"],[ab]',
            set=("rate.final_lr=0",),
        )
    )  # fmt: skip
    assert cells[4].given == {
        "image_size": (48, 64),
        "flip": True,
        "freeze": ("pos", "cls"),
        "set": ("rate.final_lr=0", "optimizer.betas=[0.9,0.95]"),
    }
    assert cells[4].settings == {
        "image_size": "48x64", "flip": True, "optimizer.betas": [0.9, 0.95], "freeze": ["pos", "cls"],
    }  # fmt: skip
    assert cells[5].given["freeze"] == ("[ab]",)
    assert "flip" not in cells[3].given


def test_recipes_and_models_are_values() -> None:
    cells = cells_of(sweep("recipe=vit-paper,transfer", "model=demo,vit_tiny_patch16_224"))
    assert [(cell.given["recipe"], cell.given["model"]) for cell in cells][1] == ("vit-paper", "vit_tiny_patch16_224")


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (("lr=-1,1",), "--lr is -1.0; expected a number above 0"),
        (("lr=a,1",), "--lr is 'a'; expected a learning rate"),
        (("steps=1.5,2",), "--steps is '1.5'; expected a whole number"),
        (("flip=maybe,true",), "--flip is 'maybe'; expected true or false"),
        (("head=zero,ridg",), "Did you mean 'ridge'"),
        (("learning_rate=1,2",), "expected an option of finetune without its dashes, or SECTION.KEY"),
        (("weight_decay=0,1",), "Did you mean 'optimizer.weight_decay'"),
        (("optimizer.weight_decay=0,many",), "optimizer.weight_decay is 'many'"),
        (("seed=1,2",), "use --seeds"),
        (("fold=1/2,2/2",), "use --folds"),
        (("split-seed=1,2",), "differences are paired"),
        (("dev-fraction=0.1,0.2",), "differences are paired"),
        (("out=a,b",), "its own folder"),
        (("jobs=1,2",), "one of the whole sweep"),
        (("set=rate.lr=1,rate.lr=2",), "name the recipe's key itself"),
        (("lr=1,1.0",), "lr=1 twice"),
        (("image_size=32,32x32",), "twice"),
        (("image_size=32", "image-size=48"), "names image_size twice"),
        (("recipe=vit-papr,transfer",), "no recipe 'vit-papr'"),
        (("steps=1,2", "epochs=1,none"), "--steps and --epochs are both given"),
        (("lr=1,2", "rate.lr=0.1,0.2"), "both given"),
        (("lr='1,2',3",), "--lr is 1.0,2.0; expected one rate"),
        (("lr=3,grid",), "--lr is grid; expected one rate"),
    ],
)
def test_what_cannot_be_is_refused(grid: tuple[str, ...], words: str) -> None:
    with pytest.raises(SettingError) as caught:
        cells_of(sweep(*grid))
    assert words in str(caught.value)


def test_too_many__refused_before_they_are_made() -> None:
    steps = ",".join(map(str, range(1, 201)))
    grid = tuple(f"{key}={steps}" for key in ("steps", "batch-size", "patience"))
    with pytest.raises(SettingError, match="has 8,000,000 combinations; expected at most 10,000"):
        cells_of(sweep(*grid))
    with pytest.raises(SettingError, match="has 110,000 runs; expected at most 100,000"):
        cells_of(sweep("lr=1,2,3,4,5,6,7,8,9,10,11", seeds=10_000))


def test_all_mistakes_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        cells_of(sweep("lr=-1,a", "steps=0", "foo=1"))
    assert len(caught.value.args) == 5
    assert "4 mistakes" in str(caught.value)


def test_given_and_varied__one_of_them() -> None:
    with pytest.raises(SettingError, match="--lr is given, and --grid varies it"):
        cells_of(sweep("lr=1,2", lr=3))
    with pytest.raises(SettingError, match=r"--set optimizer.weight_decay is given, and --grid varies it"):
        cells_of(sweep("optimizer.weight_decay=0,1", set=("optimizer.weight_decay=2",)))


def test_names__safe_and_different() -> None:
    names = cell_names(
        [
            {"model": "/home/me/models/vit"},
            {"model": "/home/you/models/vit"},
            {"model": "x" * 300},
            {"freeze": ["a|b", "^c$"]},
            {"data": "../.."},
            {"data": "\x1b[31m"},
            {"tune": "Full"},
            {"tune": "full"},
            {"lr": 1e-4},
            {},
        ]
    )
    assert len({name.casefold() for name in names}) == len(names)
    assert all(name == Path(name).name and name.isascii() and name.isprintable() and len(name) < 130 for name in names)
    assert names[0].startswith("model=vit-")
    assert names[-2:] == ["lr=0.0001", "base"]
    assert all(name not in (".", "..") for name in names)


def test_names__do_not_depend_on_other_combinations() -> None:
    some = [{"model": "/a/vit"}, {"lr": 1.0}]
    assert cell_names([*some, {"lr": 2.0}])[:2] == cell_names(some)


PLAN = """
name = "rates"
seeds = 3
jobs = 2
[settings]
steps = 7
lr = 1
optimizer.clip_norm = 2
[grid]
tune = ["full", "lora:8"]
optimizer.weight_decay = [0, 0.1]
[[cells]]
batch_size = 16
[[cells]]
batch_size = 32
freeze = ["pos", "cls"]
"""


def planned(tmp_path: Path, text: str, *grid: str, **settings: object) -> SweepConfig:
    (tmp_path / "plan.toml").write_text(text)
    return settled(sweep(*grid, plan=str(tmp_path / "plan.toml"), **settings))


def test_plan_file__each_of_its_cells_meets_the_grid(tmp_path: Path) -> None:
    config = planned(tmp_path, PLAN)
    assert (config.seeds, config.jobs, config.out, config.steps, config.lr) == (3, 2, "sweeps/rates", 7, 1)
    cells = cells_of(config)
    assert len(cells) == 8
    assert cells[5].given == {
        "steps": 7, "lr": 1, "batch_size": 32, "freeze": ("pos", "cls"), "tune": "full",
        "set": ("optimizer.clip_norm=2", "optimizer.weight_decay=0.1"),
    }  # fmt: skip
    assert settled(config) == config


def test_plan_file__the_command_line_comes_first(tmp_path: Path) -> None:
    config = planned(tmp_path, PLAN, "lr=1e-4,1e-3", "optimizer.weight_decay=0.5", seeds=1, tune="head", out="here")
    assert (config.seeds, config.jobs, config.out) == (1, 2, "here")
    cells = cells_of(config)
    assert len(cells) == 4
    assert [cell.given["tune"] for cell in cells] == ["head"] * 4
    assert [cell.given["lr"] for cell in cells[:2]] == [1e-4, 1e-3]
    assert cells[0].given["set"] == ("optimizer.clip_norm=2", "optimizer.weight_decay=0.5")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sedes = 3", "unknown key 'sedes'. Did you mean 'seeds'"),
        ("[settings]\nlerning_rate = 1", "unknown option 'lerning_rate'"),
        ("[settings]\nsteps = 'many'", "steps in [settings]"),
        ("seeds = 'two'", "seeds in"),
        ("settings = 3", "expected a table of options"),
        ("cells = 3", "expected tables: [[cells]]"),
        ("name = 'a/b'", "expected the name of a folder"),
        ("[grid]\nseed = [1]", "use --seeds"),
        ("[settings]\nlr = 1\n[grid]\nlr = [2, 3]", "lr in [settings] and in [grid]"),
        ("[settings]\nrate.lr = 1\n[grid]\nrate.lr = [2, 3]", "rate.lr in [settings] and in [grid]"),
        ("[settings]\nlr = 1\n[[cells]]\ntune = 'head'\n[[cells]]\nlr = 2", "lr in [settings] and in [[cells]]"),
        ("[settings]\nset = 'rate.lr=1'\nrate.schedule = 'linear'", "set in [settings]"),
        ("[grid]\nlr = [[1979-05-27]]", "expected a learning rate"),
        ("[grid]\nlr = []", "has no values of 'lr'"),
        ('name = "a\\u0000"', "a NUL character"),
        ('[[cells]]\ndata = ["a\\u0000"]', "a NUL character"),
        ("[grid]\nlr = [1]\n[[cells]]\nlr = 3", "lr in [[cells]] and in the grid"),
        ("[[cells]]\nlr = 3\n[[cells]]\nlr = 3.0", "have the same settings"),
        ("x", "it is not TOML"),
    ],
)
def test_plan_file__what_cannot_be_is_refused(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(SettingError) as caught:
        cells_of(planned(tmp_path, text))
    assert words in str(caught.value)


def test_settled__a_list_of_images_is_known_by_its_content(tmp_path: Path) -> None:
    path, found = tmp_path / "list.csv", list[str | None]()
    for name in ("a.png", "b.png", "a.png"):
        path.write_text(f"image\n{name}\n")
        found.append(settled(SweepConfig(clean=str(path), grid=("lr=0.1,0.2",))).clean)
    assert found[0] == found[2] != found[1]
    assert str(found[0]).startswith(f"{path}#sha256=")


def test_grid__a_list_of_images_is_called_by_its_name_and_known_by_its_content(tmp_path: Path) -> None:
    path = tmp_path / "list.csv"
    path.write_text("image\na.png\n")
    usual, clean = cells_of(sweep(f"clean=none,{path}"))
    assert "clean" not in usual.given
    assert clean.settings == {"clean": str(path)}
    path.write_text("image\nb.png\n")
    _, edited = cells_of(sweep(f"clean=none,{path}"))
    assert (edited.name, edited.settings) == (clean.name, clean.settings)
    assert edited.given != clean.given
    assert str(edited.given["clean"]).startswith(f"{path}#sha256=")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        cells_of(sweep(f"clean=none,{path}.gone"))
