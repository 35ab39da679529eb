"""Settings of ``vitctl finetune``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.recipes import check_given_once
from vitctl.settings import words
from vitctl.settings.groups import HOW_READ, BadImages, Columns, Compute, Groups, ModelArguments, PixelRange, Processes
from vitctl.settings.option import FRACTION, POSITIVE, SEED, Opt, Settings, at_least, at_most, described, option_of
from vitctl.settings.parsing import (
    Fold,
    Interval,
    Rates,
    as_it_is,
    interval,
    interval_text,
    one_fold,
    pixels,
    rates,
    rates_spelt,
    seconds,
    seconds_text,
    share_or_auto,
)

CHOSEN = "(chosen for you when not given; the header says why)"
_HOW_IMAGES_ARE_READ = (*HOW_READ, "group_column", "group_pattern", "max_value")


@dataclass(frozen=True, kw_only=True)
class _TrainingImages(Settings):
    data: Annotated[
        str | None,
        Opt(
            "Training images: a folder or .zip, a table, tar shards, a saved data set, hub:OWNER/NAME, or digits "
            "(the default).",
            "SPEC",
            outdates=("val", "clean", "flip", *_HOW_IMAGES_ARE_READ),
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Clean(Settings):
    clean: Annotated[
        str | None,
        Opt(
            "Train without the images that FILE lists, in column image; where it has a column flagged, those of yes: "
            "suspicious.csv of 'vitctl data --model'. Images to validate on stay.",
            "FILE.csv",
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Validation(Settings):
    val: Annotated[
        str | None,
        Opt(
            "Validation images; otherwise the data's own split, or a part held out.", "SPEC", outdates=("val_fraction",)
        ),
    ] = None
    val_fraction: Annotated[
        float | None,
        Opt(
            "Share of the training images to hold out, 0 to below 1; 0 trains on all.",
            "X",
            limits=(FRACTION,),
            outdates=("val",),
        ),
    ] = None
    fold: Annotated[
        Fold | None,
        Opt(
            "Validate on part K of the N that the training images are divided into, as 'vitctl sweep --folds' does.",
            "K/N",
            parse=one_fold,  # the name of the field is the field here
            outdates=("val", "val_fraction", "dev_fraction"),
        ),
    ] = None
    dev_fraction: Annotated[
        float | str | None,
        Opt(
            "Share of the training images to validate on instead, to choose settings by, or auto; the validation "
            "images stay untouched.",
            "X|auto",
            parse=share_or_auto,
            spell=as_it_is,
            outdates=("fold",),
        ),
    ] = None
    split_seed: Annotated[int | None, Opt("Of the split alone; else --seed's.", "N", limits=SEED)] = None


@dataclass(frozen=True, kw_only=True)
class _Model(Settings):
    model: Annotated[
        str | None,
        Opt(
            "demo, a timm name ('vitctl models vit'), a run folder, or a folder of timm or transformers.",
            "NAME",
            outdates=("weights", "image_size", "model_arg"),
        ),
    ] = None
    weights: Annotated[str, Opt("pretrained, none, or a file of weights ('vitctl guide weights').", "SPEC")] = (
        words.PRETRAINED
    )


@dataclass(frozen=True, kw_only=True)
class _Size(Settings):
    image_size: Annotated[
        tuple[int, int] | None, Opt(f"Pixels to fine-tune at {CHOSEN}.", "N|HxW", parse=pixels, spell=format_size)
    ] = None
    pos_embed_interp: Annotated[
        str | None,
        Opt(
            f"Resampling of position embeddings: {', '.join(words.INTERPOLATIONS)}.",
            "HOW",
            choices=words.INTERPOLATIONS,
        ),
    ] = None
    pool: Annotated[
        str | None,
        Opt(
            "What the head sees of a ViT's tokens: model (as pretrained), token, avg, map.",
            "HOW",
            choices=words.HEAD_POOLS,
        ),
    ] = None
    head: Annotated[
        str | None,
        Opt(
            "How the new head starts: zero, or ridge, the closed-form linear probe; else as the recipe says.",
            "HOW",
            choices=words.HEADS,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Training(Settings):
    recipe: Annotated[
        str | None,
        Opt(
            "How to train ('vitctl recipes ls'), with :VARIANT behind it; demo for the demo model, else transfer.",
            "NAME|FILE",
            outdates=(
                "recipe_settings", "set", "lr", "batch_size", "steps", "epochs", "time_limit", "flip",
                "image_size", "pos_embed_interp", "head", "pool", "tune", "layer_decay", "lr_scale", "freeze",
            ),
        ),
    ] = None  # fmt: skip
    # an option, its field and its key in config.json are one word, also where Python has it too
    set: Annotated[
        tuple[str, ...] | None, Opt("Override one value of the recipe; repeat for several.", "SECTION.KEY=VALUE")
    ] = None
    steps: Annotated[
        int | None, Opt("Optimiser steps; or --epochs.", "N", limits=(at_least(1),), outdates=("epochs", "time_limit"))
    ] = None
    epochs: Annotated[
        float | None,
        Opt(
            "Passes over the training images; or --steps.",
            "N",
            limits=(POSITIVE,),
            outdates=("steps", "time_limit"),
        ),
    ] = None
    time_limit: Annotated[
        float | None,
        Opt(
            "As many steps as take this long, by steps measured at the start: 30min, 2h; the schedule ends with them.",
            "TIME",
            parse=seconds,
            spell=seconds_text,
            outdates=("steps", "epochs"),
        ),
    ] = None
    patience: Annotated[
        int | None,
        Opt("Stop after this many validations in a row without a lower loss.", "N", limits=(at_least(1),)),
    ] = None
    batch_size: Annotated[
        int | None, Opt("Images per optimiser step, over all processes.", "N", limits=(at_least(1),))
    ] = None
    micro_batch: Annotated[
        int | None,
        Opt(
            "Images that a process computes with at a time; else its share of the batch, or as many as fit in memory.",
            "N",
            limits=(at_least(1),),
        ),
    ] = None
    checkpointing: Annotated[
        bool, Opt("Keep less for the backward pass and compute it again: much less memory, about a third slower.")
    ] = False
    lr: Annotated[
        Rates | None,
        Opt(
            "Peak learning rate, used as it is; a recipe's own follows the batch. Of several, or of the recipe's grid, "
            "one is chosen on development images.",
            "X[,X...]|grid",
            parse=rates,
            spell=rates_spelt,
        ),
    ] = None
    flip: Annotated[bool | None, Opt("Mirror half of the training images.", flags=("--flip/--no-flip",))] = None


@dataclass(frozen=True, kw_only=True)
class _Tuning(Settings):
    tune: Annotated[
        str | None,
        Opt(
            "What to train: full, head, attention, norm, bias, last:N (blocks), lora:R (rank).",
            "WHAT",
            outdates=("lr", "layer_decay", "lr_scale", "freeze"),
        ),
    ] = None
    layer_decay: Annotated[
        float | None,
        Opt(
            "Factor on the rate from each layer to the one below it, above 0 to 1.",
            "X",
            limits=(POSITIVE, at_most(1.0, "a number above 0, to 1.")),
        ),
    ] = None
    lr_scale: Annotated[
        tuple[str, ...] | None,
        Opt("Parameters whose names REGEX finds learn at X times their rate; repeat, the last counts.", "REGEX=X"),
    ] = None
    freeze: Annotated[
        tuple[str, ...] | None, Opt("Parameters whose names REGEX finds stay as they are; repeat.", "REGEX")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Balance(Settings):
    cache: Annotated[
        str,
        Opt(
            "none, or resized: keep large training photos decoded, at twice the size trained at.",
            "WHAT",
            choices=words.CACHES,
        ),
    ] = "none"
    class_weights: Annotated[
        str,
        Opt(
            "none, or balanced: each class counts alike in the loss.",
            "WHAT",
            choices=words.CLASS_WEIGHTS,
            outdates=("sampler",),
        ),
    ] = "none"
    sampler: Annotated[
        str,
        Opt(
            "shuffle, or balanced: show each class equally often.",
            "WHAT",
            choices=words.SAMPLERS,
            outdates=("class_weights",),
        ),
    ] = "shuffle"
    seed: Annotated[int, Opt("Of split, order, augmentation and random weights.", "N", limits=SEED)] = 0


@dataclass(frozen=True, kw_only=True)
class _Saving(Settings):
    save_every: Annotated[
        Interval,
        Opt(
            "How often to save what the run goes on from: steps or a time; also at each validation.",
            "N|TIME",
            parse=interval,
            spell=interval_text,
        ),
    ] = Interval(None, 900.0)


@dataclass(frozen=True, kw_only=True)
class _Resume(Settings):
    resume: Annotated[
        str | None, Opt("Go on with the run in this folder where it stopped; needs nothing else.", "RUN")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Speed(Settings):
    precision: Annotated[
        str,
        Opt(
            "Of the forward pass: fp32, bf16, fp16, or auto, bf16 on GPUs that compute in it.",
            "WHAT",
            choices=words.TRAINING_PRECISIONS,
        ),
    ] = words.AUTO
    compile: Annotated[bool, Opt("Compile the model before training; pays in long runs ('vitctl guide finetune').")] = (
        False
    )
    deterministic: Annotated[bool, Opt("On a GPU the same bytes again, with slower kernels; a CPU needs it not.")] = (
        False
    )


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(
    _TrainingImages,
    Columns,
    PixelRange,
    Groups,
    _Clean,
    _Validation,
    _Model,
    ModelArguments,
    _Size,
    _Training,
    _Tuning,
    BadImages,
    _Balance,
    _Speed,
    Compute,
    Processes,
    _Saving,
):
    """What is trained and how, of one run or of many; None is decided for the user, and the header says why."""

    recipe_settings: Mapping[str, Any] | None = None
    """The recipe's settings, as a run's config.json holds them; not an option."""

    @property
    def seed_of_split(self) -> int:
        """The seed of what is drawn of the training images."""
        return self.seed if self.split_seed is None else self.split_seed

    def check_together(self) -> None:
        """Refuse two answers to one question."""
        super().check_together()
        if self.steps is not None and self.epochs is not None:
            raise SettingError("--steps and --epochs are both given; they say the same thing. Keep one.", field="steps")
        if self.recipe_settings is None:  # a run's config.json has the steps that it had time for beside the time
            check_one_length(vars(self))
        self._check_one_validation()
        self.check_one_grouping()
        if self.recipe_settings is None:  # a run's config.json has what was decided beside what was set
            check_given_once(self.set, [name for name in described(type(self)) if getattr(self, name) is not None])
        if self.class_weights == self.sampler == "balanced":
            raise SettingError(
                "--class-weights balanced and --sampler balanced are both given; either alone makes the classes count "
                "equally. Keep one.",
                field="sampler",
            )

    @property
    def rate(self) -> float | None:
        """The peak learning rate; None is decided for the user.

        Raises:
            SettingError: There are several, of which one is yet to be chosen.
        """
        if self.lr is None or isinstance(self.lr, float):
            return self.lr
        raise SettingError(
            f"--lr is {rates_spelt(self.lr)}; expected one rate here. Try several with 'vitctl finetune --lr', or with "
            "'vitctl sweep --grid lr=... --select nll'.",
            field="lr",
        )

    @property
    def tries_rates(self) -> bool:
        """Whether there are several rates, of which one is to be chosen."""
        return self.lr is not None and not isinstance(self.lr, float)

    def _check_one_validation(self) -> None:
        pairs = (("val", "val_fraction"), ("fold", "val"), ("fold", "val_fraction"), ("fold", "dev_fraction"))
        for one, other in pairs:
            if getattr(self, one) is not None and getattr(self, other) is not None:
                raise SettingError(
                    f"{option_of(one)} and {option_of(other)} are both given; expected one source of validation "
                    "images.",
                    field=other,
                )


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(TrainingSettings, _Resume):
    """Settings of ``vitctl finetune``; None is decided for the user, and the header says why."""

    out: Annotated[str | None, Opt("Run folder to make (default: runs/DATA-MODEL).", "DIR")] = None
    overwrite: Annotated[
        bool, Opt("Train anew and replace the run that stands in --out, which else goes on; never anything else.")
    ] = False
    dry_run: Annotated[bool, Opt("Show settings, cost and time; train and write nothing.")] = False

    def check_together(self) -> None:
        """Refuse two answers to one question, and several rates where none can be chosen."""
        super().check_together()
        if not self.tries_rates:
            return
        for name, why in (
            ("resume", "a run that goes on has a rate"),
            ("fold", "a rate is chosen on development images, not on a fold"),
            ("num_processes", "the runs that are compared take one process each; choose the rate first"),
            ("recipe_settings", "the runs that are compared cannot be given it; give --recipe and the settings"),
        ):
            if getattr(self, name) is not None:
                other = "--config" if name == "recipe_settings" else option_of(name)
                raise SettingError(
                    f"--lr {rates_spelt(self.lr or '')} and {other} are both given: {why}. Keep one.", field="lr"
                )


def check_one_length(given: Mapping[str, Any]) -> None:
    """Refuse a time beside a number of steps or epochs, of what was ``given`` by name.

    Raises:
        SettingError: Both say how long to train.
    """
    others = [name for name in ("steps", "epochs") if given.get(name) is not None]
    if given.get("time_limit") is not None and others:
        raise SettingError(
            f"--time-limit and --{others[0]} are both given; either says how long. Keep one.", field=others[0]
        )


NOT_OF_A_RUN = ("out", "overwrite", "dry_run", "resume", "num_processes")
"""Settings that a run's config.json does not repeat."""

HOW_COMPUTED = ("num_workers", "num_threads", "device", "micro_batch", "checkpointing", "save_every")
"""Settings that may change from one part of a run to the next; what is trained stays what it was."""
