"""Settings of ``vitctl fewshot-eval``."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.settings import words
from vitctl.settings.groups import (
    HOW_READ,
    BadImages,
    Columns,
    Compute,
    ExactBatches,
    Groups,
    ModelArguments,
    Processes,
    check_weights_of_models,
)
from vitctl.settings.option import Opt, Settings, at_least, at_most, option_of
from vitctl.settings.parsing import listed, names, penalties, pixels, whole_numbers
from vitctl.settings.words import ALL, PRETRAINED


@dataclass(frozen=True, kw_only=True)
class _Models(Settings):
    model: Annotated[
        tuple[str, ...] | None,
        Opt(
            "Model: demo, a timm name (ViT or CNN), a run, a folder of timm or transformers; repeat to compare.", "NAME"
        ),
    ] = None
    weights: Annotated[
        tuple[str, ...] | None, Opt("pretrained, none, or a weights file; once, or once per --model.", "SPEC")
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Images(Settings):
    data: Annotated[
        tuple[str, ...] | None, Opt("Support pool, anything that finetune --data takes; repeat for several.", "SPEC")
    ] = None
    test: Annotated[
        tuple[str, ...] | None,
        Opt("Test images, one per --data; otherwise its test or val split, else a stratified fifth.", "SPEC"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Protocol(Settings):
    shots: Annotated[
        tuple[int | str, ...],
        Opt("Support images per class; or all.", "LIST", parse=whole_numbers(least=1, words=(ALL,)), spell=listed),
    ] = (1, 5, 10, 25)
    seeds: Annotated[
        int | None,
        Opt(
            "Support draws, seeds 0 to N-1 (default: 10; 1 for episodes).",
            "N",
            limits=(at_least(1), at_most(words.MAX_SEEDS, f"at most {words.MAX_SEEDS:,} support draws, e.g. 10.")),
        ),
    ] = None
    classifier: Annotated[
        str, Opt(f"{', '.join(words.FEWSHOT_CLASSIFIERS)}.", "NAME", choices=words.FEWSHOT_CLASSIFIERS)
    ] = "ridge"
    l2: Annotated[
        tuple[float, ...] | str,
        Opt(
            "Penalties of ridge, or loo: by leave-one-out accuracy on the support.",
            "VALUES",
            parse=penalties,
            spell=listed,
        ),
    ] = (1024.0,)
    neighbours: Annotated[
        tuple[int, ...], Opt("Numbers of neighbours of knn.", "LIST", parse=whole_numbers(least=1), spell=listed)
    ] = (10, 20, 100, 200)
    balance: Annotated[
        str, Opt(f"Of ridge, where classes are uneven: {', '.join(words.BALANCES)}.", "HOW", choices=words.BALANCES)
    ] = "none"


@dataclass(frozen=True, kw_only=True)
class _Features(Settings):
    layers: Annotated[
        tuple[str, ...], Opt("last, all, or a list: embed, 0 to L-1, final.", "LIST", parse=names, spell=listed)
    ] = ("last",)
    pool: Annotated[
        tuple[str, ...], Opt(f"{', '.join(words.POOLS)}.", "LIST", choices=words.POOLS, parse=names, spell=listed)
    ] = ("native",)
    image_size: Annotated[
        tuple[int, int] | None, Opt("px; otherwise each model's own.", "N|HxW", parse=pixels, spell=format_size)
    ] = None
    preprocess: Annotated[
        str,
        Opt(
            f"{', '.join(words.PREPROCESSINGS)} (as published few-shot numbers).", "NAME", choices=words.PREPROCESSINGS
        ),
    ] = "model"


@dataclass(frozen=True, kw_only=True)
class _Episodes(Settings):
    protocol: Annotated[
        str, Opt(f"{', '.join(words.PROTOCOLS)} (N-way K-shot tasks).", "NAME", choices=words.PROTOCOLS)
    ] = "linear"
    ways: Annotated[
        tuple[int, ...], Opt("Of episodes: numbers of classes.", "LIST", parse=whole_numbers(least=2), spell=listed)
    ] = (5,)
    episodes: Annotated[int, Opt("Episodes per seed.", "N", limits=(at_least(1),))] = 600
    queries: Annotated[int, Opt("Of episodes: test images per class.", "N", limits=(at_least(1),))] = 15


@dataclass(frozen=True, kw_only=True)
class _Files(Settings):
    features: Annotated[
        str | None, Opt("Instead of models and data: x_train, y_train, x_test, y_test.", "FILE.npz")
    ] = None
    predictions: Annotated[str | None, Opt("Write the predicted class of every test image.", "FILE.npz")] = None
    cache: Annotated[str | None, Opt("Keep features here for the next time.", "DIR")] = None


@dataclass(frozen=True, kw_only=True)
class FewshotEvalConfig(
    _Models,
    ModelArguments,
    _Images,
    Columns,
    Groups,
    BadImages,
    _Protocol,
    _Features,
    _Episodes,
    _Files,
    ExactBatches,
    Compute,
    Processes,
):
    """Settings of ``vitctl fewshot-eval``."""

    out: Annotated[str | None, Opt("Where to write (default: fewshot-eval).", "DIR")] = None

    def check_together(self) -> None:
        """Check lists that belong together, and refuse what would do nothing."""
        super().check_together()
        self.check_one_grouping()
        self._check_pairs()
        self._check_uses()

    def _check_pairs(self) -> None:
        check_weights_of_models(self.model or (), self.weights or (), num_models=len(self.model or ("",)))
        pools, tests = len(self.data or ("",)), len(self.test or ())
        if tests not in (0, pools):
            raise SettingError(
                f"--test is given {tests} times and --data {pools} times; expected one for each.", field="test"
            )
        weights = self.weights or (PRETRAINED,)
        weights = weights if len(weights) > 1 else weights * len(self.model or ())
        pairs: list[tuple[str, ...]] = list(zip(self.model or (), weights, strict=True)) if self.model else []
        pools_given: list[tuple[str, ...]] = [(one,) for one in self.data or ()]
        for name, given in (("model", pairs), ("data", pools_given)):
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise SettingError(
                    f"{option_of(name)} {twice[0][0]} is given twice; expected different ones.", field=name
                )

    def _check_uses(self) -> None:
        if self.features is not None:
            self.refuse(*_OF_IMAGES, why="beside --features, which holds the features of images")
        if self.protocol == "linear":
            self.refuse("ways", "episodes", "queries", why="without --protocol episodes")
        else:
            self.refuse("predictions", "balance", why="beside --protocol episodes")
            if ALL in self.shots:
                raise SettingError(
                    "--shots all is given beside --protocol episodes; expected numbers, e.g. --shots 1,5.",
                    field="shots",
                )
        no_use = f"beside --classifier {self.classifier}, which has no use for it"
        if self.classifier != "ridge":
            self.refuse("l2", "balance", why=no_use)
        if self.classifier != "knn":
            self.refuse("neighbours", why=no_use)
        if self.predictions is not None and self.features is None:
            is_single = len(self.model or ("",)) == len(self.data or ("",)) == len(self.pool) == len(self.layers) == 1
            if not is_single or self.pool == ("tokens",) or self.layers == (ALL,):
                raise SettingError(
                    "--predictions is given for several models, data sets, layers or poolings; expected one of each, "
                    "or --features.",
                    field="predictions",
                )

    @property
    def shot_counts(self) -> tuple[int | None, ...]:
        """Support images per class, ascending; None is all."""
        return tuple(None if isinstance(one, str) else one for one in self.shots)

    @property
    def penalties(self) -> tuple[float, ...] | None:
        """Penalties in the order given; None is by leave-one-out."""
        return None if isinstance(self.l2, str) else self.l2


_OF_IMAGES = (
    "model", "weights", "model_arg", "data", "test", *HOW_READ, "group_column", "group_pattern",
    "on_bad_image", "layers", "pool", "image_size", "preprocess", "cache", "batch_size", "num_workers", "device",
    "num_processes",
)  # fmt: skip
