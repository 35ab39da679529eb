"""Settings that the sub-commands of ``vitctl inspect`` share; an analysis adds its own in its file.

``InspectConfig`` is what every analysis is told, ``OnImages`` what those that show images are told besides,
``OnPictures`` what those that show some of them in figures are told. The smaller groups are for more than one analysis.
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.settings import words
from vitctl.settings.groups import (
    HOW_READ,
    BadImages,
    Columns,
    Device,
    ModelArguments,
    Run,
    Threads,
    Workers,
    check_weights_of_models,
    refuse_model_arguments,
)
from vitctl.settings.option import SEED, Opt, Settings, at_least, at_most, between
from vitctl.settings.parsing import layer_name, listed, patch, pixels, token
from vitctl.settings.words import PRETRAINED

NUM_PICTURES = 4  # shown in figures


@dataclass(frozen=True, kw_only=True)
class _Models(Settings):
    model: Annotated[
        tuple[str, ...] | None,
        Opt("Model (ViT or CNN) instead of RUN, or to compare it with: demo, a timm name, a run; repeat.", "NAME"),
    ] = None
    weights: Annotated[
        tuple[str, ...] | None, Opt("pretrained, none (random), or a weights file; once, or once per --model.", "SPEC")
    ] = None


@dataclass(frozen=True, kw_only=True)
class InspectConfig(Run, _Models, ModelArguments, Threads, Device):
    """What every analysis is told; the settings of one that looks at weights only."""

    last: ClassVar[tuple[str, ...]] = ("seed", "batch_size", "num_workers", "num_threads", "device", "out")

    seed: Annotated[int, Opt("Of the images' order and of random weights.", "N", limits=SEED)] = 0
    out: Annotated[str | None, Opt("Gets NAME.npz, NAME.json, NAME.png (default: RUN/inspect, or inspect).", "DIR")] = (
        None
    )

    @property
    def analysis(self) -> str:
        """The name of the analysis: that of the module which its settings are in, with dashes."""
        return type(self).__module__.rpartition(".")[2].replace("_", "-")

    @property
    def named(self) -> tuple[tuple[str, str], ...]:
        """(model, weights) of every model: RUN, then each ``--model``."""
        models, weights = self.model or (), self.weights or (PRETRAINED,)
        run = ((self.run, PRETRAINED),) if self.run is not None else ()
        return (*run, *zip(models, weights if len(weights) > 1 else weights * len(models), strict=True))

    def first_models(self, most: int) -> dict[str, Any]:
        """Return RUN, ``--model``, ``--weights`` and ``--model-arg``, by field, of the first ``most`` models."""
        kept = self.named[(self.run is not None) : most]
        models, weights = tuple(zip(*kept, strict=True)) if kept else (None, None)
        arguments = self.model_arg if models is not None else None
        return {"run": self.run, "model": models, "weights": weights, "model_arg": arguments}

    def check_together(self) -> None:
        """Check the models."""
        models, weights = self.model or (), self.weights or ()
        if self.run is None and not models:
            raise SettingError(
                f"No model is given; expected a run folder or --model NAME, e.g. vitctl inspect {self.analysis} "
                "--model demo.",
                field="model",
            )
        if weights and not models:
            raise SettingError(
                "--weights is given beside a run folder, which has its own; expected --model with it.", field="weights"
            )
        if not models:
            refuse_model_arguments(self)
        check_weights_of_models(models, weights, num_models=len(models))
        twice = sorted({name for name, weights in self.named if self.named.count((name, weights)) > 1})
        if twice:
            raise SettingError(f"The model {twice[0]} is given twice; expected different ones.", field="model")
        super().check_together()


@dataclass(frozen=True, kw_only=True)
class Size(Settings):
    """At which size a model looks."""

    image_size: Annotated[
        tuple[int, int] | None,
        Opt("Pixels, height first; else the model's own.", "N|HxW", parse=pixels, spell=format_size),
    ] = None
    pos_embed_interp: Annotated[
        str | None,
        Opt(f"Position embeddings: {', '.join(words.INTERPOLATIONS)}.", "METHOD", choices=words.INTERPOLATIONS),
    ] = None

    def check_together(self) -> None:
        """Refuse an interpolation of nothing."""
        if self.pos_embed_interp is not None and self.image_size is None:
            raise SettingError(
                "--pos-embed-interp is given without --image-size; nothing is resampled.", field="pos_embed_interp"
            )
        super().check_together()


@dataclass(frozen=True, kw_only=True)
class _Data(Settings):
    data: Annotated[
        str | None,
        Opt("Images, anything that finetune --data takes; else the run's validation images, else digits.", "SPEC"),
    ] = None


def first_images(default: str) -> Opt:
    """Return the words of ``--num-images`` with what it is unless given."""
    return Opt(f"The first N of a seeded order (default: {default}).", "N", limits=(at_least(1),))


@dataclass(frozen=True, kw_only=True)
class _Shown(Settings):
    num_images: Annotated[int | None, first_images("256")] = None


@dataclass(frozen=True, kw_only=True)
class OnImages(InspectConfig, _Data, Columns, BadImages, _Shown, Size, Workers):
    """What an analysis is told that shows images to the models."""

    usual_num_images: ClassVar[int] = 256
    most_in_report: ClassVar[int | None] = None
    """Of those, how many ``vitctl inspect all`` takes at most."""

    batch_size: Annotated[
        int, Opt("Images at a time; the last bits of a result depend on it.", "N", limits=(at_least(1),))
    ] = 64

    @property
    def count(self) -> int:
        """How many images it looks at, where there are as many."""
        return self.num_images or self.usual_num_images

    @property
    def draws(self) -> str | None:
        """How it draws images of its own, in words; None where it looks at the first ``count``."""
        return None

    @property
    def files(self) -> tuple[str, ...] | None:
        """Image files that were given instead of data."""
        return None

    def check_together(self) -> None:
        """Check the models, and refuse what would do nothing."""
        super().check_together()
        if self.data is None:
            self.refuse(*HOW_READ, why="without --data")


@dataclass(frozen=True, kw_only=True)
class OnPictures(OnImages):
    """What an analysis is told whose figures show images."""

    image: Annotated[tuple[str, ...] | None, Opt("Images instead of --data; repeat.", "FILE")] = None

    @property
    def files(self) -> tuple[str, ...] | None:
        """Image files that were given instead of data."""
        return self.image

    def check_together(self) -> None:
        """Check the models, and refuse what would do nothing."""
        if self.image is not None:
            self.refuse("data", "num_images", why="beside --image, whose files are the images")
        super().check_together()


# --- groups of more than one analysis ----------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class AnyLayer(Settings):
    """A layer."""

    layer: Annotated[
        int | str | None,
        Opt("embed, a block from 0, or final (the default).", "LAYER", parse=layer_name),
    ] = None


@dataclass(frozen=True, kw_only=True)
class QueryToken(Settings):
    """A token to start from."""

    query: Annotated[
        str | tuple[int, int] | None,
        Opt("The token to start from, patches from 0.", "cls|ROW,COL", parse=token, spell=listed),
    ] = None


@dataclass(frozen=True, kw_only=True)
class QueryPatch(Settings):
    """A patch to start from."""

    query: Annotated[
        tuple[int, int] | None,
        Opt("The patch to start from, from 0 (default: in the middle).", "ROW,COL", parse=patch, spell=listed),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Minibatch(Settings):
    """How many images are compared with each other."""

    minibatch: Annotated[
        int, Opt("Images compared with each other at a time.", "N", limits=(at_least(words.MIN_MINIBATCH),))
    ] = 64


@dataclass(frozen=True, kw_only=True)
class Probes(Settings):
    """Linear few-shot classifiers."""

    shots: Annotated[int, Opt("Images per class in a support of the linear probes.", "N", limits=(at_least(1),))] = 10
    seeds: Annotated[
        int,
        Opt(
            "Supports that are drawn.",
            "N",
            limits=(at_least(1), at_most(words.MAX_SEEDS, f"at most {words.MAX_SEEDS:,} support draws, e.g. 3.")),
        ),
    ] = 3
    l2: Annotated[float, Opt("Penalty of the probes.", "X", limits=(between(words.MIN_L2, words.MAX_L2),))] = 1024.0


# --- all of them -------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class InspectAllConfig(OnImages, Minibatch, Probes):
    """Settings of ``vitctl inspect all``: those that more than one analysis has, and how many probes there are."""

    num_images: Annotated[int | None, first_images("each analysis's own")] = None

    @property
    def analysis(self) -> str:
        """What stands in place of a name."""
        return words.ALL
