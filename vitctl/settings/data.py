"""Settings of ``vitctl data``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.settings import words
from vitctl.settings.groups import (
    Columns,
    Device,
    Groups,
    ModelArguments,
    PixelRange,
    SplitSeed,
    Workers,
)
from vitctl.settings.option import FRACTION, Opt, Settings, at_least
from vitctl.settings.parsing import pixels

_OF_THE_MODEL = ("weights", "model_arg", "image_size", "batch_size", "num_workers", "device")


@dataclass(frozen=True, kw_only=True)
class _Images(Settings):
    data: Annotated[str | None, Opt("Images: anything that finetune --data takes.", "SPEC", is_argument=True)] = None


@dataclass(frozen=True, kw_only=True)
class _Share(Settings):
    val_fraction: Annotated[
        float | None, Opt("Share that finetune would hold out, 0 to below 1.", "X", limits=(FRACTION,))
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Labels(Settings):
    model: Annotated[
        str | None,
        Opt(
            "Find labels that look wrong, by its features: demo, a timm name, a run, a folder of timm or transformers.",
            "NAME",
        ),
    ] = None
    weights: Annotated[str, Opt("Of --model: pretrained, none, or a weights file.", "SPEC")] = words.PRETRAINED


@dataclass(frozen=True, kw_only=True)
class _Size(Settings):
    image_size: Annotated[
        tuple[int, int] | None,
        Opt("px that --model sees; otherwise its own.", "N|HxW", parse=pixels, spell=format_size),
    ] = None
    batch_size: Annotated[
        int | None,
        Opt("Images that --model sees at a time (default: 64); no result depends on it.", "N", limits=(at_least(1),)),
    ] = None


@dataclass(frozen=True, kw_only=True)
class DataConfig(
    _Images,
    Columns,
    PixelRange,
    Groups,
    _Share,
    SplitSeed,
    _Labels,
    ModelArguments,
    _Size,
    Workers,
    Device,
):
    """Settings of ``vitctl data``."""

    out: Annotated[str | None, Opt("Where to write (default: data-NAME).", "DIR")] = None

    def check_together(self) -> None:
        """Check that there are data, one way to tell groups, and a model for what is said of it."""
        super().check_together()
        if self.data is None:
            raise SettingError("No data are given; expected e.g. vitctl data photos/", field="data")
        self.check_one_grouping()
        if self.model is None:
            self.refuse(*_OF_THE_MODEL, why="without --model, by whose features labels are judged")
