"""Settings of ``vitctl log``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.settings import words
from vitctl.settings.option import Opt, Settings


@dataclass(frozen=True, kw_only=True)
class LogConfig(Settings):
    """Settings of ``vitctl log``."""

    run: Annotated[
        str | None, Opt("Run folder of finetune: finished, stopped or still running.", "RUN", is_argument=True)
    ] = None
    to: Annotated[str, Opt(f"The tracker: {', '.join(words.TRACKERS)}.", "TRACKER", choices=words.TRACKERS)] = (
        "tensorboard"
    )
    out: Annotated[str | None, Opt("Where to write (default: RUN/TRACKER).", "DIR")] = None

    def check_together(self) -> None:
        """Check that there is a run."""
        if self.run is None:
            raise SettingError("No run is given; expected e.g. vitctl log runs/photos.", field="run")
