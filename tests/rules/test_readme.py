"""README.md is true: help pages, folder map, links and pictures are what is there."""

import importlib.util
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
spec = importlib.util.spec_from_file_location("readme", Path(__file__).parent / "readme.py")
assert spec is not None
assert spec.loader is not None
readme = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readme)


def test_generated_parts_are_fresh() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert text == readme.render(text), "README.md is stale: run 'make readme'"


def test_every_command_has_its_help_page() -> None:
    text = readme.README.read_text(encoding="utf-8")
    for command in ("finetune", "evaluate", "predict", "models", "recipes ls", "recipes show"):
        assert f"<!-- help {command} -->" in text


def test_links_and_pictures_exist() -> None:
    text = readme.README.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#]+)\)", text)
    assert any(target.endswith(".png") for target in targets)
    for target in targets:
        assert target.startswith("https://") or (ROOT / target).exists(), f"README.md links to {target}"


def test_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"(?:^|`)make ([a-z][a-z-]*)", readme.README.read_text(encoding="utf-8"), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"README.md names 'make {target}'"
