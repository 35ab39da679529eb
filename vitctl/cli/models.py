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
  vitctl models vit_small               details of the names that hold "vit_small"
  vitctl models 'vit_*_patch16_384'     a pattern
"""


@takes(ModelsConfig)
def models(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """List model names: timm's, and demo. ViTs show their patch grid, other models do not have one.

    With a pattern also input size, patch, grid, tokens, parameters, and the pretrained weights with their
    licences, where timm knows them. NAME.TAG names one set of weights.
    """
    result = run("models", settings_of(ModelsConfig, given))
    if as_json:
        print_json(result)
    elif "pattern" not in given:
        for entry in result.models:
            print_line(entry.name)
    else:
        header = ("model", "input", "patch", "grid", "tokens", "parameters", "pretrained weights (licence)")
        print_columns(header, [_row(entry) for entry in result.models])


def _row(entry: ModelEntry) -> tuple[str, ...]:
    def size(value: tuple[int, int] | None) -> str:
        return "-" if value is None else f"{value[0]}x{value[1]}"

    tags = [f"{tag.tag or 'default'} ({tag.license or 'unknown'})" for tag in entry.pretrained or ()]
    return (
        entry.name,
        size(entry.image_size),
        size(entry.patch_size),
        size(entry.grid),
        str(entry.tokens or "-"),
        f"{(entry.parameters or 0) / 1e6:.1f} M",
        ", ".join(tags) or "none",
    )
