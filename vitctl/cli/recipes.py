"""``vitctl recipes ls|show|check|cp`` on the command line."""

import os
import shlex
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_document, print_json, print_line
from vitctl.errors import SettingError
from vitctl.primitives.files import user_path, write_text
from vitctl.primitives.outputs import cannot_write
from vitctl.results.recipes import (
    PublishedResult,
    RecipeCheckResult,
    RecipeCopyResult,
    RecipeEntry,
    RecipeResult,
    RecipeSetting,
    RecipesResult,
    RecipeVariant,
)

if TYPE_CHECKING:
    from vitctl.recipes import Published, RecipeFile

EXAMPLES = """\
Examples:

\b
  vitctl recipes ls
  vitctl recipes show transfer
  vitctl recipes show transfer > mine.toml     then: vitctl finetune --recipe mine.toml
  vitctl recipes cp transfer mine.toml         the same, and never over a file of yours
  vitctl recipes check mine.toml
  vitctl finetune --recipe vit-paper:pets      a variant of a recipe
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
    """List the recipes, their variants, and the results that were published of them."""
    from vitctl.recipes import list_recipes, recipe_file, told_briefly

    files = {name: recipe_file(name) for name in list_recipes()}
    if as_json:
        print_json(RecipesResult(recipes=tuple(_entry(name, file) for name, file in files.items())))
        return
    rows = list[tuple[str, str]]()
    for name, file in files.items():
        for variant, recipe in {"": file.recipe, **file.variants}.items():
            about = recipe.about if not variant or recipe.about != file.recipe.about else ""
            told = told_briefly(file.published_of(variant))
            lines = [line for line in (about, told and f"published: {told}") if line]  # one below the other, for width
            rows.append((f"  {name}:{variant}" if variant else name, lines[0] if lines else ""))
            rows += [("", line) for line in lines[1:]]
    print_columns(("recipe", "what for"), rows)


def _entry(name: str, file: "RecipeFile") -> RecipeEntry:
    variants = tuple(RecipeVariant(f"{name}:{variant}", recipe.about) for variant, recipe in file.variants.items())
    return RecipeEntry(name, file.recipe.about, variants, _results(file.published))


def _results(published: Iterable["Published"]) -> tuple[PublishedResult, ...]:
    return tuple(PublishedResult(**vars(one)) for one in published)


@app.command("show", epilog="Example:\n\n\b\n  vitctl recipes show transfer > mine.toml")
def show(name: NameArgument, as_json: JsonOption = False) -> None:
    """Print a recipe as the file it is; change a copy and use it with --recipe FILE.

    With --json the values as they are used, of NAME:VARIANT those of the variant.
    """
    from vitctl.recipes import flat_settings, recipe_file, recipe_path, split_variant

    whole, variant = split_variant(name)
    file = recipe_file(whole)
    recipe = file.variant(variant, of=whole)
    if not as_json:
        print_document(recipe_path(name).read_text(encoding="utf-8"))
        return
    told = {key: RecipeSetting(given.value, given.source) for key, given in flat_settings(recipe).items()}
    published = file.published_of(variant) if variant else file.published
    print_json(RecipeResult(settings=told, variants=tuple(file.variants), published=_results(published)))


@app.command("check", epilog="Example:\n\n\b\n  vitctl recipes check mine.toml")
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A recipe file, or a recipe of 'vitctl recipes ls'.")],
    as_json: JsonOption = False,
) -> None:
    """Read a recipe with its variants and say whether it can be used; all its mistakes at once.

    Settings that it does not have are at their defaults, which --json names.
    """
    from vitctl.recipes import keys_of, recipe_file, split_variant

    whole, variant = split_variant(file)
    read = recipe_file(whole)
    recipe, variants = read.variant(variant, of=whole), tuple(read.variants)
    from vitctl.workflows.recipes import check_values  # last: it needs timm, and a file with mistakes need not wait

    for each in (recipe, *read.variants.values()):
        check_values(each)
    keys = [path for path, key in keys_of(type(recipe)).items() if key.section]
    given = [path for path in keys if path in recipe.sources]
    defaults = [path for path in keys if path not in recipe.sources]
    if as_json:
        unsourced = tuple(path for path in given if not recipe.sources[path].strip())
        print_json(
            RecipeCheckResult(
                recipe=file,
                settings=len(given),
                defaults=tuple(defaults),
                without_source=unsourced,
                variants=variants,
            )
        )
        return
    settings = "1 setting" if len(given) == 1 else f"{len(given)} settings"
    rest = f"; {len(defaults)} others are at their defaults" if defaults else ""
    with_variants = f"; variants: {', '.join(variants)}" if variants and not variant else ""
    print_line(f"{file}: a recipe of {settings}{rest}{with_variants}")


@app.command("cp", epilog="Example:\n\n\b\n  vitctl recipes cp transfer mine.toml")
def cp(
    name: NameArgument,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The copy to write; it must not exist yet.")],
    as_json: JsonOption = False,
) -> None:
    """Write a copy of a recipe, its variants with it, to change and use with --recipe FILE."""
    from vitctl.recipes import load_recipe, recipe_path, split_variant

    _, variant = split_variant(name)
    if variant:
        load_recipe(name)  # there is such a variant
    source, target = recipe_path(name), user_path(file)
    if os.path.lexists(target):
        raise SettingError(f"{file} exists and is not overwritten; give the copy another name.")
    _copy(source, target)
    if as_json:
        print_json(RecipeCopyResult(recipe=name, file=str(target.absolute())))
    else:
        used = f"{file}:{variant}" if variant else file
        print_line(f"{file}: a copy of recipe {name}; use it with vitctl finetune --recipe {shlex.quote(used)}")


def _copy(source: Path, target: Path) -> None:
    try:
        write_text(target, source.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_write(target, error, option="") from error
