"""Settings of ``vitctl models``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.settings.option import Opt, Settings


@dataclass(frozen=True, kw_only=True)
class ModelsConfig(Settings):
    """Settings of ``vitctl models``."""

    pattern: Annotated[
        str | None, Opt("Part of a name or of NAME.TAG, or a pattern with * and ?.", "PATTERN", is_argument=True)
    ] = None
    long: Annotated[bool, Opt("Build each model: patch, grid, tokens, parameters too; 0.1 to 1 s for each.")] = False
