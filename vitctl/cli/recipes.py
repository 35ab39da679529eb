"""``vitctl recipes ls|show|check|cp`` on the command line."""

import os
import shlex
from pathlib import Path
from typing import Annotated

import typer

from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_document, print_json, print_line
from vitctl.errors import SettingError
from vitctl.primitives.files import user_path, write_text
from vitctl.primitives.outputs import cannot_write
from vitctl.results.recipes import (
    RecipeCheckResult,
    RecipeCopyResult,
    RecipeEntry,
    RecipeResult,
    RecipeSetting,
    RecipesResult,
)

EXAMPLES = """\
Examples:

\b
  vitctl recipes ls
  vitctl recipes show transfer
  vitctl recipes show transfer > mine.toml     then: vitctl finetune --recipe mine.toml
  vitctl recipes cp transfer mine.toml         the same, and never over a file of yours
  vitctl recipes check mine.toml
"""

app = typer.Typer(
    help="How to train: named settings, a citation beside every value.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="A recipe of 'vitctl recipes ls', or a file.")]


@app.command("ls", epilog="Example:\n\n\b\n  vitctl recipes ls")
def ls(as_json: JsonOption = False) -> None:
    """List the recipes."""
    from vitctl.recipes import list_recipes, load_recipe

    found = {name: load_recipe(name).about for name in list_recipes()}
    if as_json:
        print_json(RecipesResult(recipes=tuple(RecipeEntry(name, about) for name, about in found.items())))
    else:
        print_columns(("recipe", "what for"), list(found.items()))


@app.command("show", epilog="Example:\n\n\b\n  vitctl recipes show transfer > mine.toml")
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print a recipe as the file it is; change a copy and use it with --recipe FILE."""
    from vitctl.recipes import flat_settings, load_recipe, recipe_path

    recipe = load_recipe(name)
    if as_json:
        told = {key: RecipeSetting(given.value, given.source) for key, given in flat_settings(recipe).items()}
        print_json(RecipeResult(settings=told))
    else:
        print_document(recipe_path(name).read_text(encoding="utf-8"))


@app.command("check", epilog="Example:\n\n\b\n  vitctl recipes check mine.toml")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or a recipe of 'vitctl recipes ls'.")],
    as_json: JsonOption = False,
) -> None:
    """Read a recipe and say whether it can be used; all its mistakes at once.

    Settings that it does not have are at their defaults, which --json names.
    """
    from vitctl.recipes import keys_of, load_recipe
    from vitctl.workflows.recipes import check_values

    recipe = load_recipe(file)
    check_values(recipe)
    keys = [path for path, key in keys_of(type(recipe)).items() if key.section]
    given = [path for path in keys if path in recipe.sources]
    defaults = [path for path in keys if path not in recipe.sources]
    if as_json:
        unsourced = tuple(path for path in given if not recipe.sources[path].strip())
        print_json(
            RecipeCheckResult(recipe=file, settings=len(given), defaults=tuple(defaults), without_source=unsourced)
        )
        return
    settings = "1 setting" if len(given) == 1 else f"{len(given)} settings"
    rest = f"; {len(defaults)} others are at their defaults" if defaults else ""
    print_line(f"{file}: a recipe of {settings}{rest}")


@app.command("cp", epilog="Example:\n\n\b\n  vitctl recipes cp transfer mine.toml")
def cp(
    name: NameArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The copy to write; it must not exist yet.")],
    as_json: JsonOption = False,
) -> None:
    """Write a copy of a recipe, to change and use with --recipe FILE."""
    from vitctl.recipes import recipe_path

    source, target = recipe_path(name), user_path(file)
    if os.path.lexists(target):
        raise SettingError(f"{file} exists and is not overwritten; give the copy another name.")
    _copy(source, target)
    if as_json:
        print_json(RecipeCopyResult(recipe=name, file=str(target.absolute())))
    else:
        print_line(f"{file}: a copy of recipe {name}; use it with vitctl finetune --recipe {shlex.quote(file)}")


def _copy(source: Path, target: Path) -> None:
    try:
        write_text(target, source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_write(target, error, option="") from error
