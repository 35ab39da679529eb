"""``vitctl compare`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_json
from vitctl.settings.compare import CompareConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl compare
"""


@takes(CompareConfig)
def compare(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Not there yet."""
    print_json(run("compare", settings_of(CompareConfig, given)))
