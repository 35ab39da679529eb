"""``vitctl models`` and ``vitctl recipes``: lists, details, near matches."""

import os
import subprocess
import sys
import tomllib

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
