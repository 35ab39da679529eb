"""``vitctl models`` and ``vitctl recipes``: lists, details, near matches."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest


def test_models__every_name(run_cli) -> None:
    names = run_cli("models").stdout.split()
    assert names[0] == "demo"
    assert "vit_base_patch16_224" in names


def test_models__details(run_cli) -> None:
    (entry,) = run_cli("models", "vit_base_patch16_384", "--json").json["models"]
    assert entry["image_size"] == [384, 384]
    assert entry["patch_size"] == [16, 16]
    assert entry["grid"] == [24, 24]
    assert entry["tokens"] == 577
    assert entry["parameters"] == 86_859_496
    assert {"tag": "augreg_in21k_ft_in1k", "license": "apache-2.0"} in entry["pretrained"]


def test_models__demo(run_cli) -> None:
    out = run_cli("models", "demo").stdout
    assert "8x8" in out
    assert "mit" in out


def test_models__a_pattern_shows_weights_and_with_long_what_is_built(run_cli) -> None:
    (short, *_), (entry, *_) = (
        run_cli("models", "vit_tiny_patch16_*", *more, "--json").json["models"] for more in ((), ("--long",))
    )
    assert set(short) == {"name", "image_size", "pretrained"}
    assert set(entry) == {*short, "patch_size", "grid", "tokens", "parameters"}
    lines = run_cli("models", "vit_tiny_patch16_*").stdout.splitlines()
    assert lines[0].split() == ["model", "input", "pretrained", "weights", "(licence)"]
    assert lines[1].split()[:4] == ["vit_tiny_patch16_224", "224x224", "augreg_in21k", "(apache-2.0),"]
    assert "  16x16  14x14  197     5.7 M  " in run_cli("models", "vit_tiny_patch16_*", "--long").stdout


def test_models__nothing_matches(run_cli) -> None:
    result = run_cli("models", "vit_bse_patch16_224")
    assert result.exit_code == 4
    assert "vit_base_patch16_224" in result.stderr


def test_recipes__ls_and_show(run_cli) -> None:
    names = [entry["name"] for entry in run_cli("recipes", "ls", "--json").json["recipes"]]
    assert names == ["demo", "demo-pretrain", "transfer", "vit-paper"]
    for name in names:
        assert tomllib.loads(run_cli("recipes", "show", name).stdout)
        document = run_cli("recipes", "show", name, "--json").json
        assert all(entry["source"] for entry in document.values())


def test_recipes__own_file(run_cli, tmp_path) -> None:
    text = run_cli("recipes", "show", "transfer").stdout.replace("value = 0.05", "value = 0.07")
    (tmp_path / "mine.toml").write_text(text)
    document = run_cli("recipes", "show", tmp_path / "mine.toml", "--json").json
    assert document["weight_decay"]["value"] == 0.07


def test_recipes__near_match(run_cli) -> None:
    result = run_cli("recipes", "show", "vit-papr")
    assert result.exit_code == 2
    assert "Did you mean 'vit-paper'" in result.stderr


def test_recipes__show_json_keeps_the_names_of_0_1_0(run_cli) -> None:
    document = run_cli("recipes", "show", "vit-paper", "--json").json
    assert (document["optimizer"]["value"], document["head"]["value"], document["lr"]["value"]) == ("sgd", "zero", 0.01)
    assert document["betas"] == {"value": [0.9, 0.999], "source": "for adamw only"}


def test_recipes__check_a_whole_one_and_a_short_one(run_cli) -> None:
    Path("short.toml").write_text("[rate]\nlr = 1e-3\n")
    Path("mine.toml").write_text('[rate]\nlr = 1e-3\nfinal_lr = { value = 0, source = "ours" }\n')
    for name, line in (
        ("transfer", "transfer: a recipe of 27 settings\n"),
        ("short.toml", "short.toml: a recipe of 1 setting; 26 others are at their defaults\n"),
        ("mine.toml", "mine.toml: a recipe of 2 settings; 25 others are at their defaults\n"),
    ):
        result = run_cli("recipes", "check", name)
        assert (result.exit_code, result.stdout, result.stderr) == (0, line, "")
    document = run_cli("recipes", "check", "mine.toml", "--json").json
    assert set(document) == {"recipe", "settings", "defaults", "without_source"}
    assert (document["settings"], document["without_source"]) == (2, ["rate.lr"])
    assert "optimizer.name" in document["defaults"]
    assert "rate.lr" not in document["defaults"]


def test_recipes__check_tells_all_mistakes(run_cli) -> None:
    Path("mine.toml").write_text("[rate]\nlr = 0\n[optimizer]\nmomentun = 0.9\n[images]\nflip = 1\n")
    result = run_cli("recipes", "check", "mine.toml", "--json")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "mine.toml has 3 mistakes:\n" in result.stderr
    for words in ("rate.lr is 0; expected a number above 0", "Did you mean 'momentum'", "expected true or false"):
        assert words in result.stderr
    assert run_cli("recipes", "check", "gone.toml").exit_code == 2


def test_recipes__cp_writes_the_file_as_it_is(run_cli) -> None:
    result = run_cli("recipes", "cp", "vit-paper", "new/mine.toml")
    assert result.exit_code == 0
    assert "--recipe new/mine.toml" in result.stdout
    assert Path("new/mine.toml").read_text() == run_cli("recipes", "show", "vit-paper").stdout
    assert [path.name for path in Path("new").iterdir()] == ["mine.toml"]
    document = run_cli("recipes", "cp", "new/mine.toml", "again.toml", "--json").json
    assert document == {"recipe": "new/mine.toml", "file": str(Path("again.toml").absolute())}


def test_recipes__cp_never_overwrites(run_cli) -> None:
    Path("mine.toml").write_text("mine")
    Path("link.toml").symlink_to("gone.toml")
    Path("folder").mkdir()
    for name in ("mine.toml", "link.toml", "folder"):
        result = run_cli("recipes", "cp", "transfer", name)
        assert (result.exit_code, result.stdout) == (2, "")
        assert f"{name} exists and is not overwritten" in result.stderr
    assert Path("mine.toml").read_text() == "mine"
    assert Path("link.toml").is_symlink()


def test_recipes__cp_where_nothing_can_be_written(run_cli) -> None:
    Path("file").write_text("")
    for name in ("file/mine.toml", "/proc/mine.toml", "a" * 300):
        result = run_cli("recipes", "cp", "transfer", name)
        assert result.exit_code == 2, name
        assert "cannot be written" in result.stderr
    assert run_cli("recipes", "cp", "transfr", "mine.toml").exit_code == 2
    assert not Path("mine.toml").exists()


def test_closed_pipe__done_without_a_word() -> None:
    reader, writer = os.pipe()
    os.close(reader)  # every write to it fails from now on
    try:
        command = [sys.executable, "-m", "vitctl", "recipes", "show", "transfer"]
        done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_closed_pipe__of_a_list_that_was_begun() -> None:
    script = f"{sys.executable} -m vitctl models | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("demo\n0\n", "")


def test_recipes__check_knows_the_optimisers(run_cli) -> None:
    Path("mine.toml").write_text('[optimizer]\nname = "adamm"\n')
    result = run_cli("recipes", "check", "mine.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "optimizer.name is 'adamm'; expected adamw, sgd, or a name of timm's" in result.stderr
    Path("mine.toml").write_text('[optimizer]\nname = "lion"\n')
    assert run_cli("recipes", "check", "mine.toml").exit_code == 0
