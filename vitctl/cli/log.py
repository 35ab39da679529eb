"""``vitctl log RUN`` on the command line."""

from typing import Any

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_json, print_pairs
from vitctl.settings.log import LogConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl log runs/photos                            then: tensorboard --logdir runs/photos/tensorboard
  vitctl log runs/photos --to wandb                 an offline run; 'wandb sync' sends it
  vitctl log runs/photos --out boards/photos --json
"""


@takes(LogConfig)
def log(given: dict[str, Any], as_json: JsonOption = False) -> None:
    """Write a run for a tracker, TensorBoard or Weights & Biases, from its own files.

    Takes what metrics.jsonl, speed.jsonl, config.json and the pictures hold now, so a run that goes on can be
    written again and again; what was written before is replaced. Nothing is sent anywhere.
    """
    result = run("log", settings_of(LogConfig, given))
    if as_json:
        print_json(result)
        return
    print_pairs(
        [
            ("steps", f"{result.num_steps:,}"),
            ("validations", f"{result.num_validations:,}"),
            ("pictures", f"{result.num_pictures}"),
            ("files", result.out + (" (replaced)" if result.replaced else "")),
            ("next", result.view),
        ]
    )
