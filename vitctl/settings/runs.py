"""Settings of ``vitctl runs``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.settings import words
from vitctl.settings.option import Opt, Settings


@dataclass(frozen=True, kw_only=True)
class RunsConfig(Settings):
    """Settings of ``vitctl runs``."""

    folder: Annotated[
        str | None,
        Opt(
            "Where to look, in all folders below it (default: runs and sweeps, where you are).", "DIR", is_argument=True
        ),
    ] = None
    sort: Annotated[
        str,
        Opt(
            "age, the newest first; top1, the best first; or name, the path.",
            "KEY",
            choices=words.RUN_ORDERS,
        ),
    ] = "age"
