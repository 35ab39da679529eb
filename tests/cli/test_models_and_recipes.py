"""``vitctl models`` and ``vitctl recipes``: lists, details, near matches."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from vitctl.recipes import Recipe, keys_of


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
    assert names == [
        "attention-only", "augreg-transfer", "big-vision-transfer", "bit-hyperrule", "deit3-384", "demo",
        "demo-pretrain", "linear-probe", "lora", "mae-finetune", "scratch-small", "transfer", "vit-paper", "vtab-1k",
    ]  # fmt: skip
    for name in ("demo", "transfer"):
        assert tomllib.loads(run_cli("recipes", "show", name).stdout)
        document = run_cli("recipes", "show", name, "--json").json
        assert all(set(entry) == {"value", "source"} for entry in document.values())
        assert all(document[key]["source"] for key in ("lr", "optimizer", "head", "mixing.mixup"))


def test_recipes__variants_and_what_was_published(run_cli) -> None:
    lines = run_cli("recipes", "ls").stdout.splitlines()
    (place,) = [place for place, line in enumerate(lines) if line.startswith("  vit-paper:cifar10 ")]
    told = "published: CIFAR-10 98.95 % (ViT-B/16), 98.79 % (ViT-B/32), 99.16 % (ViT-L/16)"
    assert (lines[place].split(maxsplit=1)[1], lines[place + 1].strip()) == ("CIFAR-10", told)
    entries = {entry["name"]: entry for entry in run_cli("recipes", "ls", "--json").json["recipes"]}
    assert entries["demo"]["variants"] == entries["demo"]["published"] == []
    assert {"name": "vit-paper:cifar10", "about": "CIFAR-10"} in entries["vit-paper"]["variants"]
    whole, one = (run_cli("recipes", "show", name, "--json").json for name in ("vit-paper", "vit-paper:cifar10"))
    assert (whole["steps"]["value"], one["steps"]["value"]) == (0, 10_000)
    assert "cifar10" in whole["variants"]
    assert {result["variant"] for result in whole["published"]} > {"cifar10", "imagenet-512"}
    assert {result["variant"] for result in one["published"]} == {"cifar10"}
    assert one["published"][0] == {
        "variant": "cifar10", "model": "ViT-B/16", "pretrained": "ImageNet-21k", "data": "CIFAR-10", "image_size": 384,
        "metric": "top-1", "percent": 98.95, "source": "arXiv 2010.11929, table 5",
    }  # fmt: skip
    assert run_cli("recipes", "show", "vit-paper:cifar10").stdout == run_cli("recipes", "show", "vit-paper").stdout


def test_recipes__unknown_variant(run_cli) -> None:
    for command in (["show"], ["check"], ["cp"]):
        result = run_cli("recipes", *command, "vit-paper:cifar", *["mine.toml"] * (command == ["cp"]))
        assert (result.exit_code, result.stdout) == (2, "")
        assert "no variant 'cifar'. Did you mean 'cifar10'" in result.stderr
    assert not Path("mine.toml").exists()


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
    Path("with.toml").write_text("[rate]\nlr = 1e-3\n[variants.a]\nrate.lr = 1e-2\n[variants.b]\n")
    keys = len([key for key in keys_of(Recipe).values() if key.section])
    for name, line in (
        ("transfer", f"transfer: a recipe of 27 settings; {keys - 27} others are at their defaults\n"),
        ("short.toml", f"short.toml: a recipe of 1 setting; {keys - 1} others are at their defaults\n"),
        ("mine.toml", f"mine.toml: a recipe of 2 settings; {keys - 2} others are at their defaults\n"),
        ("with.toml", f"with.toml: a recipe of 1 setting; {keys - 1} others are at their defaults; variants: a, b\n"),
        ("with.toml:a", f"with.toml:a: a recipe of 1 setting; {keys - 1} others are at their defaults\n"),
    ):
        result = run_cli("recipes", "check", name)
        assert (result.exit_code, result.stdout, result.stderr) == (0, line, "")
    document = run_cli("recipes", "check", "mine.toml", "--json").json
    assert set(document) == {"recipe", "settings", "defaults", "without_source", "variants"}
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
    of_variant = run_cli("recipes", "cp", "vit-paper:cifar10", "other.toml").stdout
    assert of_variant.endswith("--recipe other.toml:cifar10\n")
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


def test_recipes__check_knows_what_can_be_tuned(run_cli) -> None:
    Path("mine.toml").write_text('[variants.a]\ntuning.mode = "lora:0"\n[variants.b]\ntuning.freeze = ["("]\n')
    result = run_cli("recipes", "check", "mine.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "tuning.mode is 'lora:0'; expected the rank after a colon" in result.stderr
    assert run_cli("recipes", "check", "mine.toml:b").exit_code == 2


def test_recipes__check_does_not_load_timm_for_a_file_with_mistakes() -> None:
    Path("mine.toml").write_text("[rate]\nlr = -1\n")
    script = "import sys; from vitctl.cli.app import app; app(['recipes', 'check', 'mine.toml'], standalone_mode=False)"
    watched = f"import atexit, sys; atexit.register(lambda: print('torch' in sys.modules)); {script}"
    done = subprocess.run([sys.executable, "-c", watched], capture_output=True, text=True)
    assert "rate.lr is -1" in done.stderr
    assert done.stdout == "False\n"
