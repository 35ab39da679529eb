"""``vitctl runs`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_json
from vitctl.settings.option import settings_of
from vitctl.settings.runs import RunsConfig

EXAMPLES = """\
Examples:

\b
  vitctl runs
"""


@takes(RunsConfig)
def runs(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Not there yet."""
    print_json(run("runs", settings_of(RunsConfig, given)))
