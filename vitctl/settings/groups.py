"""Settings that several commands share, in groups; a command's class lists the groups in the order of its help page."""

from dataclasses import dataclass
from typing import Annotated, Any

from vitctl.errors import SettingError
from vitctl.settings import words
from vitctl.settings.option import SEED, Opt, Settings, at_least, option_of
from vitctl.settings.parsing import as_it_is, model_arguments, process_count, white_value
from vitctl.settings.words import PRETRAINED

HOW_READ = ("image_root", "image_column", "label_column", "class_depth")


@dataclass(frozen=True, kw_only=True)
class Columns(Settings):
    """How a folder, a table, a saved data set or shards are read."""

    image_root: Annotated[
        str | None, Opt("Folder that a table's relative paths start from; else the table's own.", "DIR")
    ] = None
    image_column: Annotated[str | None, Opt("Column of images or paths, if not found.", "NAME")] = None
    label_column: Annotated[str | None, Opt("Column of classes, if not found.", "NAME")] = None
    class_depth: Annotated[
        int | None,
        Opt(
            "Level of the folders that are the classes: 1 (the default) takes dogs/poodle/1.jpg as dogs, 2 as poodle.",
            "N",
            limits=(at_least(1),),
        ),
    ] = None

    def refuse_columns_without_data(self, data: str | None, *, why: str, option: str = "--data") -> None:
        """Refuse columns beside data that know their own."""
        if data is None:
            for name in HOW_READ:
                if getattr(self, name) is not None:
                    raise SettingError(f"--{name.replace('_', '-')} is given without {option}; {why}", field=name)


@dataclass(frozen=True, kw_only=True)
class Groups(Settings):
    """What stays on one side of a split."""

    group_column: Annotated[
        str | None,
        Opt(
            "Column whose equal values (patient, video) stay on one side of the split.",
            "NAME",
            outdates=("group_pattern",),
        ),
    ] = None
    group_pattern: Annotated[
        str | None,
        Opt("The same from the images' paths, e.g. '{group}/*' or '{group}_*'.", "PATTERN", outdates=("group_column",)),
    ] = None

    def check_one_grouping(self) -> None:
        """Refuse two ways to tell groups."""
        if self.group_column is not None and self.group_pattern is not None:
            raise SettingError(
                "--group-column and --group-pattern are both given; expected one way to tell groups.",
                field="group_pattern",
            )


@dataclass(frozen=True, kw_only=True)
class PixelRange(Settings):
    """How images of 16 bits are read."""

    max_value: Annotated[
        int | str | None,
        Opt(
            "Of 16-bit images, the value that is white: 4095 of 12-bit data, or auto, the brightest there is.",
            "N|auto",
            parse=white_value,
            spell=as_it_is,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class BadImages(Settings):
    """What becomes of images that cannot be read."""

    on_bad_image: Annotated[
        str, Opt("Images that cannot be read: fail, or skip (leave out and count).", "WHAT", choices=words.BAD_IMAGE)
    ] = "fail"


@dataclass(frozen=True, kw_only=True)
class Workers(Settings):
    """How many processes read images."""

    num_workers: Annotated[
        int | None, Opt("Processes that read images; no result depends on it.", "N", limits=(at_least(0),))
    ] = None


@dataclass(frozen=True, kw_only=True)
class Threads(Settings):
    """How many threads compute."""

    num_threads: Annotated[
        int | None, Opt("CPU threads of torch; the last bits of a result depend on it.", "N", limits=(at_least(1),))
    ] = None


@dataclass(frozen=True, kw_only=True)
class Device(Settings):
    """Where to compute."""

    device: Annotated[str, Opt(f"Where to compute: {', '.join(words.DEVICES)}.", "DEVICE", choices=words.DEVICES)] = (
        "auto"
    )


@dataclass(frozen=True, kw_only=True)
class Compute(Workers, Threads, Device):
    """Where and with how much of the machine to compute."""


@dataclass(frozen=True, kw_only=True)
class Processes(Settings):
    """How many processes of this machine share the work."""

    num_processes: Annotated[
        int | str | None,
        Opt(
            "Processes of this machine that share the work; auto is one for each GPU.",
            "N|auto",
            parse=process_count,
            spell=as_it_is,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ExactBatches(Settings):
    """How many images at a time, where that changes nothing."""

    batch_size: Annotated[
        int, Opt("Images at a time; the result does not depend on it.", "N", limits=(at_least(1),))
    ] = 64


@dataclass(frozen=True, kw_only=True)
class Run(Settings):
    """A classifier by its folder."""

    run: Annotated[
        str | None,
        Opt(
            "Run folder (best/, of a stopped run last/), or a folder of timm or transformers.", "RUN", is_argument=True
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class ModelArguments(Settings):
    """What of timm's model is to be otherwise than its name says."""

    model_arg: Annotated[
        tuple[str, ...] | None,
        Opt("Of --model: an argument of timm's class, e.g. global_pool=avg; repeat.", "KEY=VALUE"),
    ] = None

    @property
    def model_args(self) -> dict[str, Any]:
        """The arguments by name."""
        return model_arguments(self.model_arg or (), option_of("model_arg"))

    def check_together(self) -> None:
        """Check the form of the arguments."""
        try:
            _ = self.model_args
        except SettingError as error:
            error.field = "model_arg"
            raise
        super().check_together()


def refuse_model_arguments(settings: Settings) -> None:
    """Refuse arguments of a model where a folder is given that has them.

    Raises:
        SettingError: Some are given.
    """
    if getattr(settings, "model_arg", None):
        raise SettingError(
            "--model-arg is given beside a folder, which says its own; expected --model with it.", field="model_arg"
        )


@dataclass(frozen=True, kw_only=True)
class NamedModel(Settings):
    """A classifier by its name, instead of RUN."""

    model: Annotated[str | None, Opt("Instead of RUN: demo or a timm name.", "NAME")] = None
    weights: Annotated[str, Opt("With --model: pretrained, none, or a weights file.", "SPEC")] = PRETRAINED

    def check_one_model(self, run: str | None) -> None:
        """Check that there is a run or a model, and that weights are told of a model only."""
        if (run is None) == (self.model is None):
            found = "neither" if run is None else "both"
            raise SettingError(f"Expected a run folder or --model NAME, one of them; found {found}.", field="model")
        if run is not None and self.weights != PRETRAINED:
            raise SettingError(
                f"--weights is {self.weights!r} beside a run folder, which has its own; expected --model with it.",
                field="weights",
            )
        if run is not None:
            refuse_model_arguments(self)


@dataclass(frozen=True, kw_only=True)
class SplitSeed(Settings):
    """The seed of a drawn validation split."""

    seed: Annotated[int, Opt("Of that split.", "N", limits=SEED)] = 0


def check_weights_of_models(models: tuple[str, ...], weights: tuple[str, ...], *, num_models: int) -> None:
    """Check that there is one weights spec for all models, or one for each.

    Args:
        models: As given; several times the same one only with different weights.
        weights: As given.
        num_models: 1 where none is given and a command has a default.

    Raises:
        SettingError: There is another number.
    """
    if len(weights) not in (0, 1, num_models):
        raise SettingError(
            f"--weights is given {len(weights)} times and --model {num_models} times; expected one for each.",
            field="weights",
        )
