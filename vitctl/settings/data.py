"""Settings of ``vitctl data``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.settings.groups import Columns, Groups, PixelRange, SplitSeed
from vitctl.settings.option import FRACTION, Opt, Settings


@dataclass(frozen=True, kw_only=True)
class _Images(Settings):
    data: Annotated[str | None, Opt("Images: anything that finetune --data takes.", "SPEC", is_argument=True)] = None


@dataclass(frozen=True, kw_only=True)
class _Share(Settings):
    val_fraction: Annotated[
        float | None, Opt("Share that finetune would hold out, 0 to below 1.", "X", limits=(FRACTION,))
    ] = None


@dataclass(frozen=True, kw_only=True)
class DataConfig(_Images, Columns, PixelRange, Groups, _Share, SplitSeed):
    """Settings of ``vitctl data``."""

    out: Annotated[str | None, Opt("Where to write (default: data-NAME).", "DIR")] = None

    def check_together(self) -> None:
        """Check that there are data, and one way to tell groups."""
        if self.data is None:
            raise SettingError("No data are given; expected e.g. vitctl data photos/", field="data")
        self.check_one_grouping()
