"""``vitctl sweep`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_json
from vitctl.settings.option import settings_of
from vitctl.settings.sweep import SweepConfig

EXAMPLES = """\
Examples:

\b
  vitctl sweep
"""


@takes(SweepConfig)
def sweep(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Not there yet."""
    print_json(run("sweep", settings_of(SweepConfig, given)))
