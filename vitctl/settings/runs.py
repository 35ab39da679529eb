"""Settings of ``vitctl runs``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.settings.option import Opt, Settings


@dataclass(frozen=True, kw_only=True)
class RunsConfig(Settings):
    """Settings of ``vitctl runs``."""

    folder: Annotated[str, Opt("Where to look, in all folders below it.", "DIR", is_argument=True)] = "runs"
