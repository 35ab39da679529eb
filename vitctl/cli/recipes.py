"""``vitctl recipes ls|show NAME`` on the command line."""

from typing import Annotated

import typer

from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json
from vitctl.results.recipes import RecipeEntry, RecipeResult, RecipeSetting, RecipesResult

EXAMPLES = """\
Examples:

\b
  vitctl recipes ls
  vitctl recipes show transfer
  vitctl recipes show transfer > mine.toml     then: vitctl finetune --recipe mine.toml
"""

app = typer.Typer(
    help="How to train: named settings, a citation beside every value.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    rich_markup_mode=None,
)


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
def show(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A recipe of 'vitctl recipes ls', or a file.")],
    as_json: JsonOption = False,
) -> None:
    """Print a recipe as the file it is; change a copy and use it with --recipe FILE."""
    from vitctl.recipes import load_recipe, recipe_path

    recipe = load_recipe(name)
    if as_json:
        settings = recipe.as_settings().items()
        told = {key: RecipeSetting(value, recipe.sources.get(key, "")) for key, value in settings}
        print_json(RecipeResult(settings=told))
    else:
        typer.echo(recipe_path(name).read_text(encoding="utf-8"), nl=False)
