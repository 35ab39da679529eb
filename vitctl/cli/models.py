"""``vitctl models [PATTERN]`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_columns, print_json, print_line
from vitctl.results.models import ModelEntry
from vitctl.settings.models import ModelsConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl models                         every name
  vitctl models vit_small               names that hold "vit_small", their weights and licences
  vitctl models dino                    also weights whose tag holds "dino"
  vitctl models 'vit_tiny*' --long      a pattern; patch, grid, tokens, parameters too
"""


@takes(ModelsConfig)
def models(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """List model names: timm's, and demo.

    With a pattern also the input size and the pretrained weights with their licences, where timm knows them;
    NAME.TAG names one set of weights. With --long, or for the whole name of one model, also patch, grid and tokens
    (of those that have a patch grid) and the number of parameters.
    """
    result = run("models", settings_of(ModelsConfig, given))
    if as_json:
        print_json(result)
    elif result.models[0].pretrained is None and result.models[0].parameters is None:
        for entry in result.models:
            print_line(entry.name)
    else:
        is_long = result.models[0].parameters is not None
        header = ("model", "input", *(BUILT if is_long else ()), "pretrained weights (licence)")
        print_columns(header, [_row(entry, is_long) for entry in result.models])


BUILT = ("patch", "grid", "tokens", "parameters")


def _row(entry: ModelEntry, is_long: bool) -> tuple[str, ...]:
    def size(value: tuple[int, int] | None) -> str:
        return "-" if value is None else f"{value[0]}x{value[1]}"

    built = (
        size(entry.patch_size),
        size(entry.grid),
        str(entry.tokens or "-"),
        f"{(entry.parameters or 0) / 1e6:.1f} M",
    )
    tags = [f"{tag.tag or 'default'} ({tag.license or 'unknown'})" for tag in entry.pretrained or ()]
    return (entry.name, size(entry.image_size), *(built if is_long else ()), ", ".join(tags) or "none")
