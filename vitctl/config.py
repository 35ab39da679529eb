"""What each command can be told: one frozen dataclass per command, checked when it is made.

A field, its command-line option and its key in a run's ``config.json`` are the same word. ``None`` means
"decide for me", and the header says what was decided and why. Plain Python: no torch behind ``--help``.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from vitctl.errors import SettingError, check_choice, did_you_mean
from vitctl.recipes import check_given_once, options_behind

BAD_IMAGE = ("fail", "skip")
CACHES = ("none", "resized")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLERS = ("shuffle", "balanced")
INTERPOLATIONS = ("paper", "bicubic", "bicubic-aa")
SPLITS = ("val", "test", "train", "all")
MAX_LR = 1000.0
DEVICES = ("auto", "cpu", "cuda", "mps")
HEADS = ("zero", "ridge")
FEWSHOT_CLASSIFIERS = ("ridge", "logistic", "knn", "centroid")
POOLS = ("native", "cls", "mean", "cls+mean", "mean-all", "first", "tokens")
PREPROCESSINGS = ("model", "big_vision")
PROTOCOLS = ("linear", "episodes")
BALANCES = ("none", "intercept", "weighted")
EXPORT_FORMATS = ("onnx", "timm", "hf", "npz", "pt2")
GRAPH_FORMATS = ("onnx", "pt2")
WHICH = ("best", "last")
PRECISIONS = ("fp32", "fp16", "int8-dynamic")
OUTPUTS = ("logits", "probabilities", "embedding", "tokens")
NPZ_LAYOUTS = ("vit_jax", "big_vision", "big_vision_scan")
MIN_OPSET, MAX_OPSET = 18, 25
ANALYSES = (
    "filters",
    "pos-embed",
    "attention",
    "rollout",
    "distance",
    "cka",
    "heads-vs-cnn",
    "norm-ratio",
    "localisation",
    "features",
    "receptive-field",
    "probe",
    "equivariance",
)
ALL_ANALYSES = "all"
FUSIONS = ("mean", "max", "min")
GRANULARITIES = ("block", "sublayer")
TOKENS = ("all", "cls", "patches", "mean")
WHERES = ("post", "pre")
MIN_MINIBATCH = 4
MAX_SEEDS = 10_000
MIN_L2, MAX_L2 = 1e-9, 1e15


def option_of(field_name: str) -> str:
    """Return the command-line spelling of a field: ``image_size`` is ``--image-size``, the argument ``run`` RUN."""
    if field_name in ("analysis", "run", "pattern"):
        return field_name.upper()
    return "--" + field_name.replace("_", "-")


def _check_at_least(config: object, least: int, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value >= least:
            raise SettingError(f"{option_of(name)} is {value}; expected {least} or more.")


def _check_not_empty(config: object) -> None:
    for field in fields(config):  # type: ignore[arg-type]  # every caller is a dataclass
        value = getattr(config, field.name)
        if value == "" or (isinstance(value, tuple) and "" in value):
            raise SettingError(f"{option_of(field.name)} is empty; give it a value, or leave it out.")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not 0 < value < float("inf"):
            raise SettingError(f"{option_of(name)} is {value}; expected a number above 0.")


def _check_seed(seed: int) -> None:
    if seed >= 2**63:
        raise SettingError(f"--seed is {seed}; expected less than 2^63.")


def _check_fraction(val_fraction: float | None) -> None:
    if val_fraction is not None and not 0 <= val_fraction < 1:
        raise SettingError(f"--val-fraction is {val_fraction}; expected a fraction, 0 to below 1.")


def _check_one_grouping(column: str | None, pattern: str | None) -> None:
    if column is not None and pattern is not None:
        raise SettingError("--group-column and --group-pattern are both given; expected one way to tell groups.")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """Settings of ``vitctl finetune``."""

    data: str | None = None
    """Training images: ``digits``, a folder of class folders or of splits or of IDX files, a table, a saved data set,
    tar shards, ``hub:OWNER/NAME``."""
    image_root: str | None = None
    """Folder that a table's relative paths start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths; None finds it."""
    label_column: str | None = None
    """Column of classes; None finds it."""
    group_column: str | None = None
    """Column whose equal values (a patient, a video) stay on one side of the validation split."""
    group_pattern: str | None = None
    """The same, from the images' paths: a pattern with ``{group}``, e.g. ``{group}/*``."""
    val: str | None = None
    """Validation images, likewise; None takes the source's own split, or holds some out."""
    val_fraction: float | None = None
    """Share of the training images to hold out, 0 (none) to below 1."""
    model: str | None = None
    """``demo``, a timm name, a run folder, a timm folder."""
    weights: str = "pretrained"
    """``pretrained``, ``none``, or a .safetensors, .pth or .npz file."""
    image_size: str | None = None
    """px, ``N`` or ``HxW``."""
    pos_embed_interp: str | None = None
    """How position embeddings are resampled: paper, bicubic, bicubic-aa."""
    head: str | None = None
    """How a new head starts: zero, or ridge, the closed-form linear probe; None as the recipe says."""
    recipe: str | None = None
    """Name of a recipe, or a file."""
    set: tuple[str, ...] | None = None
    """Values of the recipe to override, each ``SECTION.KEY=VALUE``; the last of a key counts."""
    steps: int | None = None
    """Optimiser steps, >= 1."""
    epochs: float | None = None
    """Passes over the training images, > 0; not together with ``steps``."""
    batch_size: int | None = None
    """Images per optimiser step over all processes, >= 1."""
    lr: float | None = None
    """Peak learning rate as used; never rescaled."""
    flip: bool | None = None
    """Mirror half of the training images."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out the training images that cannot be read."""
    cache: str = "none"
    """none, or resized: keep the training images decoded, at about twice the size trained at."""
    class_weights: str = "none"
    """none, or balanced: in the loss every class counts as much as any other."""
    sampler: str = "shuffle"
    """shuffle: every image once per epoch; balanced: every class equally often."""
    seed: int = 0
    """Of the split, the order, the augmentation and random weights, >= 0."""
    num_workers: int | None = None
    """Processes that read images, >= 0; the result does not depend on it."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1; the last bits of the result depend on it."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """Run folder to write."""
    overwrite: bool = False
    """Replace the run folder that stands at ``out``."""
    dry_run: bool = False
    """Show what would be done, with cost, and write nothing."""
    recipe_settings: Mapping[str, Any] | None = None
    """The recipe's settings, as a run's config.json holds them; not an option."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        if self.steps is not None and self.epochs is not None:
            raise SettingError("--steps and --epochs are both given; they say the same thing. Keep one.")
        if self.val is not None and self.val_fraction is not None:
            raise SettingError("--val and --val-fraction are both given; expected one source of validation images.")
        _check_fraction(self.val_fraction)
        _check_one_grouping(self.group_column, self.group_pattern)
        check_choice(self.on_bad_image, BAD_IMAGE, what="--on-bad-image")
        check_choice(self.cache, CACHES, what="--cache")
        check_choice(self.class_weights, CLASS_WEIGHTS, what="--class-weights")
        check_choice(self.sampler, SAMPLERS, what="--sampler")
        if self.class_weights == self.sampler == "balanced":
            raise SettingError(
                "--class-weights balanced and --sampler balanced are both given; either alone makes the classes count "
                "equally. Keep one."
            )
        check_choice(self.device, DEVICES, what="--device")
        if self.pos_embed_interp is not None:
            check_choice(self.pos_embed_interp, INTERPOLATIONS, what="--pos-embed-interp")
        if self.head is not None:
            check_choice(self.head, HEADS, what="--head")
        _check_at_least(self, 1, "steps", "batch_size", "num_threads")
        _check_at_least(self, 0, "seed", "num_workers")
        _check_positive(self, "epochs", "lr")
        _check_seed(self.seed)
        if self.lr is not None and self.lr > MAX_LR:
            raise SettingError(f"--lr is {self.lr:g}; expected at most {MAX_LR:g}. Usual rates are 1e-5 to 1e-1.")
        if self.recipe_settings is None:  # a run's config.json has what was decided beside what was set
            check_given_once(self.set, [f.name for f in fields(self) if getattr(self, f.name) is not None])


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Settings of ``vitctl evaluate``."""

    run: str | None = None
    """A run folder (its best/ is used) or a timm folder."""
    model: str | None = None
    """Instead of ``run``: ``demo`` or a timm name."""
    weights: str = "pretrained"
    """With ``model``: pretrained, none, or a file."""
    data: str | None = None
    """Images to evaluate on; None takes the run's own."""
    image_root: str | None = None
    """Folder that the relative paths of a table given with ``data`` start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths in ``data``; None finds it."""
    label_column: str | None = None
    """Column of classes in ``data``; None finds it."""
    split: str | None = None
    """Which split of them: val, test, train or all."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out images that cannot be read, and count them."""
    batch_size: int = 64
    """Images at a time, >= 1; the result does not depend on it."""
    num_workers: int | None = None
    """Processes that read images, >= 0."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """Folder for predictions and confusion matrix."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        _check_model_choice(self.run, self.model, self.weights)
        for name in ("image_root", "image_column", "label_column"):
            if getattr(self, name) is not None and self.data is None:
                raise SettingError(f"{option_of(name)} is given without --data; the run's own data know theirs.")
        if self.split is not None:
            check_choice(self.split, SPLITS, what="--split")
        check_choice(self.on_bad_image, BAD_IMAGE, what="--on-bad-image")
        check_choice(self.device, DEVICES, what="--device")
        _check_at_least(self, 1, "batch_size", "num_threads")
        _check_at_least(self, 0, "num_workers")


@dataclass(frozen=True, kw_only=True)
class FewshotEvalConfig:
    """Settings of ``vitctl fewshot-eval``."""

    model: tuple[str, ...] | None = None
    """Models to compare: demo, timm names, run folders, timm folders."""
    weights: tuple[str, ...] | None = None
    """pretrained, none, or a file; one for all models or one for each."""
    data: tuple[str, ...] | None = None
    """Support pools: anything that ``finetune --data`` takes."""
    test: tuple[str, ...] | None = None
    """Test images, one spec per ``data``; None takes its own test (or val) split, else a stratified fifth."""
    image_root: str | None = None
    """Folder that the relative paths of tables start from; None is each table's own."""
    image_column: str | None = None
    """Column of images or paths; None finds it."""
    label_column: str | None = None
    """Column of classes; None finds it."""
    group_column: str | None = None
    """Column whose equal values stay together when a fifth is drawn to test on."""
    group_pattern: str | None = None
    """The same, from the images' paths: a pattern with ``{group}``."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out images that cannot be read, before supports are drawn."""
    shots: str = "1,5,10,25"
    """Support images per class, a list of numbers >= 1, or ``all`` among them."""
    seeds: int | None = None
    """Support draws, 0 to N-1; None is 10, and 1 for episodes, which draw anew anyway."""
    classifier: str = "ridge"
    """ridge, logistic, knn or centroid."""
    l2: str = "1024"
    """Of ridge: a list of penalties > 0, or ``loo``: by leave-one-out accuracy on the support."""
    neighbours: str = "10,20,100,200"
    """Of knn: numbers of neighbours, >= 1."""
    balance: str = "none"
    """Of ridge with uneven classes: none, intercept or weighted."""
    layers: str = "last"
    """last, all, or a list of ``embed``, 0 to L-1 and ``final``."""
    pool: str = "native"
    """native, cls, mean, cls+mean, mean-all, first or tokens; a list for several."""
    image_size: str | None = None
    """px, ``N`` or ``HxW``; None is each model's own."""
    preprocess: str = "model"
    """model, or big_vision: squash to 256 px without antialias, central 224 px."""
    protocol: str = "linear"
    """linear: all classes at once; episodes: N-way K-shot tasks."""
    ways: str = "5"
    """Of episodes: classes, a list of numbers >= 2."""
    episodes: int = 600
    """Episodes per seed, >= 1."""
    queries: int = 15
    """Of episodes: test images per class, >= 1."""
    features: str | None = None
    """Instead of models and data: an .npz file with x_train, y_train, x_test, y_test."""
    predictions: str | None = None
    """.npz file to write the predicted class of every test image to."""
    cache: str | None = None
    """Folder to keep features in; None keeps none."""
    batch_size: int = 64
    """Images at a time, >= 1; the result does not depend on it."""
    num_workers: int | None = None
    """Processes that read images, >= 0."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps; classifiers are solved on the CPU."""
    out: str | None = None
    """Folder for results, pictures and support indices; None is fewshot-eval."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        for name, allowed in (
            ("classifier", FEWSHOT_CLASSIFIERS),
            ("balance", BALANCES),
            ("preprocess", PREPROCESSINGS),
            ("protocol", PROTOCOLS),
            ("on_bad_image", BAD_IMAGE),
            ("device", DEVICES),
        ):
            check_choice(getattr(self, name), allowed, what=option_of(name))
        for pool in self.pools:
            check_choice(pool, POOLS, what="--pool")
        _check_at_least(self, 1, "seeds", "episodes", "queries", "batch_size", "num_threads")
        _check_at_least(self, 0, "num_workers")
        if self.seeds is not None and self.seeds > MAX_SEEDS:
            raise SettingError(f"--seeds is {self.seeds}; expected at most {MAX_SEEDS:,} support draws, e.g. 10.")
        _check_one_grouping(self.group_column, self.group_pattern)
        self._check_lists()
        self._check_combinations()

    def _check_lists(self) -> None:
        """Read every list once, so that a bad one is found at once."""
        _ = (self.shot_counts, self.penalties, self.neighbour_counts, self.way_counts)
        models, weights = len(self.model or ("",)), len(self.weights or ("",))
        if weights not in (1, models):
            raise SettingError(f"--weights is given {weights} times and --model {models} times; expected one for each.")
        pools, tests = len(self.data or ("",)), len(self.test or ())
        if tests not in (0, pools):
            raise SettingError(f"--test is given {tests} times and --data {pools} times; expected one for each.")
        pairs: list[tuple[str, ...]] = list(zip(self.model or (), self._weights_of_models, strict=True))
        pools_given: list[tuple[str, ...]] = [(one,) for one in self.data or ()]
        for name, given in (("model", pairs), ("data", pools_given)):
            twice = sorted({one for one in given if given.count(one) > 1})
            if twice:
                raise SettingError(f"{option_of(name)} {twice[0][0]} is given twice; expected different ones.")

    def _check_combinations(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        given = {name for name, default in defaults.items() if getattr(self, name) != default}
        if self.features is not None:
            of_images: tuple[str, ...] = (
                "model",
                "weights",
                "data",
                "test",
                "image_root",
                "image_column",
                "label_column",
            )
            of_images += ("group_column", "group_pattern", "on_bad_image", "layers", "pool", "image_size")
            of_images += ("preprocess", "cache", "batch_size", "num_workers", "device")
            _refuse(given, of_images, why="beside --features, which holds the features of images")
        if self.protocol == "linear":
            _refuse(given, ("ways", "episodes", "queries"), why="without --protocol episodes")
        else:
            _refuse(given, ("predictions", "balance"), why="beside --protocol episodes")
            if None in self.shot_counts:
                raise SettingError(
                    "--shots all is given beside --protocol episodes; expected numbers, e.g. --shots 1,5."
                )
        if self.classifier != "ridge":
            _refuse(given, ("l2", "balance"), why=f"beside --classifier {self.classifier}, which has no use for it")
        if self.classifier != "knn":
            _refuse(given, ("neighbours",), why=f"beside --classifier {self.classifier}, which has no use for it")
        if self.predictions is not None and self.features is None:
            single = len(self.model or ("",)) == len(self.data or ("",)) == len(self.pools) == 1
            if not single or self.pools == ("tokens",) or self.layers == "all" or "," in self.layers:
                raise SettingError(
                    "--predictions is given for several models, data sets, layers or poolings; expected one of each, "
                    "or --features."
                )

    @property
    def _weights_of_models(self) -> tuple[str, ...]:
        weights = self.weights or ("pretrained",)
        return weights if len(weights) > 1 else weights * len(self.model or ())

    @property
    def shot_counts(self) -> tuple[int | None, ...]:
        """Support images per class, ascending; None is all."""
        numbers = _numbers(self.shots, "--shots", least=1, or_words=("all",))
        return tuple(sorted((None if one == "all" else int(one) for one in numbers), key=lambda n: n or float("inf")))

    @property
    def penalties(self) -> tuple[float, ...] | None:
        """Penalties in the order given; None is by leave-one-out."""
        if self.l2.strip() == "loo":
            return None
        values = []
        for part in self.l2.split(","):
            try:
                values.append(float(part))
            except ValueError:
                values.append(float("nan"))
            if not MIN_L2 <= values[-1] <= MAX_L2:
                raise SettingError(
                    f"--l2 is {self.l2!r}; expected numbers from {MIN_L2:g} to {MAX_L2:g} (1,32,1024), or loo."
                )
        if len({f"{value:g}" for value in values}) < len(values):
            raise SettingError(f"--l2 is {self.l2!r}; expected different numbers.")
        return tuple(values)

    @property
    def neighbour_counts(self) -> tuple[int, ...]:
        """Numbers of neighbours, ascending."""
        return tuple(sorted(int(one) for one in _numbers(self.neighbours, "--neighbours", least=1)))

    @property
    def way_counts(self) -> tuple[int, ...]:
        """Classes of an episode, ascending."""
        return tuple(sorted(int(one) for one in _numbers(self.ways, "--ways", least=2)))

    @property
    def pools(self) -> tuple[str, ...]:
        """Poolings in the order given."""
        return tuple(dict.fromkeys(part.strip() for part in self.pool.split(",")))


def _numbers(text: str, option: str, *, least: int, or_words: tuple[str, ...] = ()) -> list[str]:
    """Return the whole numbers and words of a list, each once."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if part not in or_words and not (part.isascii() and part.isdigit() and least <= int(part) < 10**9):
            words = "".join(f", or {word}" for word in or_words)
            example = ",".join(str(number) for number in (least, 5, 10))
            raise SettingError(f"{option} is {text!r}; expected whole numbers from {least} ({example}){words}.")
    return list(dict.fromkeys(part if part in or_words else str(int(part)) for part in parts))


def _refuse(given: set[str], names: tuple[str, ...], *, why: str) -> None:
    unused = [name for name in names if name in given]
    if unused:
        raise SettingError(f"{option_of(unused[0])} is given {why}; leave it out.")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Settings of ``vitctl predict``."""

    run: str | None = None
    """A run folder (its best/ is used) or a timm folder."""
    images: tuple[str, ...] = ()
    """Image files and folders, in the order of the answer."""
    model: str | None = None
    """Instead of ``run``: ``demo`` or a timm name."""
    weights: str = "pretrained"
    """With ``model``: pretrained, none, or a file."""
    top_k: int = 5
    """Classes per image, most probable first, >= 1."""
    batch_size: int = 64
    """Images at a time, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        _check_model_choice(self.run, self.model, self.weights)
        if not self.images:
            raise SettingError("No image is given; expected image files or folders after the run.")
        check_choice(self.device, DEVICES, what="--device")
        _check_at_least(self, 1, "top_k", "batch_size")


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Settings of ``vitctl export``."""

    run: str | None = None
    """A run folder, its best/ or last/, or a timm folder."""
    model: str | None = None
    """Instead of ``run``: ``demo``, a timm name, ``hf-hub:OWNER/NAME``."""
    weights: str = "pretrained"
    """With ``model``: pretrained, none, or a file."""
    to: str = "onnx"
    """Formats: a list of onnx, timm, hf, npz, pt2; or all, which is those that can hold the model."""
    out: str | None = None
    """Folder for one folder per format; None is ``exports`` in the run folder."""
    which: str = "best"
    """Of a run: best or last."""
    image_size: str | None = None
    """N or HxW, px; None is the model's own."""
    dynamic_size: bool = False
    """onnx, pt2: take every multiple of the patch."""
    opset: int = 18
    """onnx: operator set, 18 to 25."""
    precision: str = "fp32"
    """onnx: fp32, fp16 or int8-dynamic."""
    embed_preprocess: bool = False
    """onnx, pt2: take uint8 images of any size."""
    outputs: str = "logits"
    """onnx, pt2: a list of logits (always there, and first), probabilities, embedding, tokens."""
    npz_layout: str = "vit_jax"
    """npz: vit_jax, big_vision or big_vision_scan."""
    verify: str | None = None
    """Images to verify on; None is the run's validation images, else the embedded digits."""
    max_accuracy_drop: float = 0.02
    """Of a reduced precision: the accuracy it may lose, 0-1."""
    benchmark: bool = False
    """Measure latencies."""
    num_threads: int | None = None
    """CPU threads; None is what torch chooses."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        _check_model_choice(self.run, self.model, self.weights)
        for name, allowed in (("which", WHICH), ("precision", PRECISIONS), ("npz_layout", NPZ_LAYOUTS)):
            check_choice(getattr(self, name), allowed, what=option_of(name))
        _check_at_least(self, 1, "num_threads")
        if not MIN_OPSET <= self.opset <= MAX_OPSET:
            raise SettingError(
                f"--opset is {self.opset}; expected {MIN_OPSET} to {MAX_OPSET} (18 is the one that most runtimes take)."
            )
        if not 0 <= self.max_accuracy_drop <= 1:
            raise SettingError(f"--max-accuracy-drop is {self.max_accuracy_drop}; expected a fraction, 0 to 1.")
        self._check_combinations()

    def _check_combinations(self) -> None:
        _ = self.asked_outputs
        defaults = {field.name: field.default for field in fields(self)}
        given = {name for name, default in defaults.items() if getattr(self, name) != default}
        if not set(self.formats) & set(GRAPH_FORMATS):
            _refuse(given, ("dynamic_size", "embed_preprocess", "outputs"), why="without --to onnx or pt2")
        if "onnx" not in self.formats:
            _refuse(given, ("opset", "precision"), why="without --to onnx")
        if "npz" not in self.formats:
            _refuse(given, ("npz_layout",), why="without --to npz")
        if self.precision == "fp32":
            _refuse(given, ("max_accuracy_drop",), why="without --precision fp16 or int8-dynamic")
        if self.model is not None:
            _refuse(given, ("which",), why="beside --model; it chooses between the weights of a run")
        if self.dynamic_size and self.embed_preprocess:
            raise SettingError(
                "--dynamic-size and --embed-preprocess are both given; expected one: with the preprocessing inside, "
                "the graph takes images of any size and the model sees --image-size."
            )

    @property
    def formats(self) -> tuple[str, ...]:
        """Formats in the order given, each once; ``all`` is every one."""
        parts = tuple(dict.fromkeys(part.strip() for part in self.to.split(",")))
        for part in parts:
            check_choice(part, (*EXPORT_FORMATS, "all"), what="--to")
        return EXPORT_FORMATS if "all" in parts else parts

    @property
    def takes_what_fits(self) -> bool:
        """Whether formats that cannot hold the model are left out instead of being an error."""
        return "all" in [part.strip() for part in self.to.split(",")]

    @property
    def asked_outputs(self) -> tuple[str, ...]:
        """Outputs asked for, each once, in the order of ``OUTPUTS``."""
        parts = [part.strip() for part in self.outputs.split(",")]
        for part in parts:
            check_choice(part, OUTPUTS, what="--outputs")
        return tuple(name for name in OUTPUTS if name in parts)


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Settings of ``vitctl inspect``."""

    analysis: str
    """What to look at: a name of ``ANALYSES``, or all."""
    run: str | None = None
    """A run folder (its best/ is used) or a timm folder; the first model."""
    model: tuple[str, ...] | None = None
    """Models instead of ``run``, or to compare it with: demo, timm names, run folders, timm folders."""
    weights: tuple[str, ...] | None = None
    """Of the models: pretrained, none, or a file; one for all or one for each."""
    data: str | None = None
    """Images to show; None is the run's validation images, else digits."""
    image_root: str | None = None
    """Folder that the relative paths of a table given with ``data`` start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths in ``data``; None finds it."""
    label_column: str | None = None
    """Column of classes in ``data``; None finds it."""
    on_bad_image: str = "fail"
    """fail, or skip: leave out images that cannot be read."""
    num_images: int | None = None
    """How many of them, the first of a seeded order, >= 1; None is 256 (receptive-field and equivariance 32, rollout
    4)."""
    image: tuple[str, ...] | None = None
    """attention, rollout, features, receptive-field: image files to show instead."""
    image_size: str | None = None
    """px, ``N`` or ``HxW``; None is each model's own. pos-embed: the size to resample to."""
    pos_embed_interp: str | None = None
    """How position embeddings are resampled: paper, bicubic, bicubic-aa; None as the weights' authors did."""
    components: int = 28
    """filters: principal components, >= 1."""
    layer: str | None = None
    """attention, heads-vs-cnn: a block, from 0; localisation, features: embed, a block, or final."""
    head: int | None = None
    """attention: the head to show, from 0; None shows each."""
    query: str | None = None
    """attention, rollout, features, receptive-field: cls, or the patch ``ROW,COL`` from 0."""
    fusion: str = "mean"
    """rollout: how heads become one map: mean, max or min."""
    discard: float = 0.0
    """rollout: share of the lowest attention to leave out, 0 to below 1."""
    residual: float = 0.5
    """rollout: weight of the skip connection beside attention, 0 to below 1."""
    renormalise: bool = False
    """distance: attention to patches sums to 1, without what prefix tokens get."""
    granularity: str = "block"
    """cka: block or sublayer."""
    tokens: str = "all"
    """cka: all, cls, patches or mean."""
    diagonal: bool = False
    """cka: each layer of two models with itself only, as before and after fine-tuning."""
    minibatch: int = 64
    """cka, heads-vs-cnn, localisation: images that are compared with each other, >= 4."""
    subset: int | None = None
    """heads-vs-cnn: heads in a subset, >= 1; None is a quarter of them."""
    where: str = "post"
    """receptive-field: post, after the skip connection is added, or pre, the branches alone."""
    shots: int = 10
    """probe: support images per class, >= 1."""
    seeds: int = 3
    """probe: support draws, 0 to N-1."""
    l2: float = 1024.0
    """probe: penalty, > 0."""
    seed: int = 0
    """Of the images' order, of random weights and random pairs, >= 0."""
    batch_size: int = 64
    """Images at a time, >= 1; the last bits of a result depend on it."""
    num_workers: int | None = None
    """Processes that read images, >= 0."""
    num_threads: int | None = None
    """CPU threads of torch, >= 1."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    out: str | None = None
    """Folder for arrays, figures and the report; None is RUN/inspect, or inspect."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        check_choice(self.analysis, (*ANALYSES, ALL_ANALYSES), what="ANALYSIS")
        for name, allowed in (
            ("on_bad_image", BAD_IMAGE),
            ("fusion", FUSIONS),
            ("granularity", GRANULARITIES),
            ("tokens", TOKENS),
            ("where", WHERES),
            ("device", DEVICES),
        ):
            check_choice(getattr(self, name), allowed, what=option_of(name))
        if self.pos_embed_interp is not None:
            check_choice(self.pos_embed_interp, INTERPOLATIONS, what="--pos-embed-interp")
        _check_at_least(self, 1, "num_images", "components", "subset", "shots", "seeds", "batch_size", "num_threads")
        _check_at_least(self, 0, "head", "seed", "num_workers")
        _check_at_least(self, MIN_MINIBATCH, "minibatch")
        _check_seed(self.seed)
        if self.seeds > MAX_SEEDS:
            raise SettingError(f"--seeds is {self.seeds}; expected at most {MAX_SEEDS:,} support draws, e.g. 3.")
        if not MIN_L2 <= self.l2 <= MAX_L2:
            raise SettingError(f"--l2 is {self.l2:g}; expected a number from {MIN_L2:g} to {MAX_L2:g}.")
        for name in ("discard", "residual"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingError(f"{option_of(name)} is {getattr(self, name)}; expected a fraction, 0 to below 1.")
        _ = self.asked_query
        self._check_models()
        self._check_combinations()

    def _check_models(self) -> None:
        models, weights = self.model or (), self.weights or ()
        if self.run is None and not models:
            raise SettingError(
                f"No model is given; expected a run folder or --model NAME, e.g. vitctl inspect {self.analysis} "
                "--model demo."
            )
        if weights and not models:
            raise SettingError("--weights is given beside a run folder, which has its own; expected --model with it.")
        if len(weights) not in (0, 1, len(models)):
            raise SettingError(
                f"--weights is given {len(weights)} times and --model {len(models)} times; expected one for each."
            )
        named = [*([(self.run, "pretrained")] if self.run is not None else []), *self.models_with_weights]
        twice = sorted({name for name, weights in named if named.count((name, weights)) > 1})
        if twice:
            raise SettingError(f"The model {twice[0]} is given twice; expected different ones.")
        if self.analysis == "heads-vs-cnn" and len(named) != 2:
            raise SettingError(
                f"heads-vs-cnn compares two models and {len(named)} {'is' if len(named) == 1 else 'are'} given; "
                "expected a ViT first and a CNN, e.g. --model resnet50."
            )
        if self.analysis == "cka" and len(named) > 2:
            raise SettingError(f"cka compares two models and {len(named)} are given; expected one or two.")
        if self.analysis == "cka" and self.diagonal and len(named) != 2:
            raise SettingError(
                "--diagonal compares the layers of two models and one is given; name another with --model."
            )

    def _check_combinations(self) -> None:
        defaults = {field.name: field.default for field in fields(self)}
        given = {name for name, default in defaults.items() if getattr(self, name) != default}
        for option, analyses in _ANALYSES_WITH.items():
            if self.analysis not in analyses:
                _refuse(given, (option,), why=f"to {self.analysis}, and is for {', '.join(analyses)}")
        why = f"to {self.analysis}, which looks at weights only"
        _refuse(given, _WEIGHTS_ONLY.get(self.analysis, ()), why=why)
        if self.image is not None:
            _refuse(given, ("data", "num_images"), why="beside --image, whose files are the images")
        if self.data is None:
            _refuse(given, ("image_root", "image_column", "label_column"), why="without --data")
        if self.pos_embed_interp is not None and self.image_size is None:
            raise SettingError("--pos-embed-interp is given without --image-size; nothing is resampled.")

    def takes(self, option: str, analysis: str) -> bool:
        """Return whether ``analysis`` takes the option of this field's name."""
        return analysis in _ANALYSES_WITH.get(option, (analysis,)) and option not in _WEIGHTS_ONLY.get(analysis, ())

    @property
    def models_with_weights(self) -> tuple[tuple[str, str], ...]:
        """(model, weights) of every ``--model``."""
        models, weights = self.model or (), self.weights or ("pretrained",)
        return tuple(zip(models, weights if len(weights) > 1 else weights * len(models), strict=True))

    @property
    def asked_query(self) -> str | tuple[int, int] | None:
        """None, ``cls``, or (row, column) of a patch."""
        if self.query is None or self.query.strip() == "cls":
            return None if self.query is None else "cls"
        parts = [part.strip() for part in self.query.split(",")]
        if len(parts) != 2 or not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
            raise SettingError(f"--query is {self.query!r}; expected cls, or a patch as ROW,COL from 0, e.g. 3,5.")
        return int(parts[0]), int(parts[1])


# the options that not every analysis takes, and those that take them
_ANALYSES_WITH: dict[str, tuple[str, ...]] = {
    "image": ("attention", "rollout", "features", "receptive-field"),
    "layer": ("attention", "heads-vs-cnn", "localisation", "features"),
    "head": ("attention",),
    "query": ("attention", "rollout", "features", "receptive-field"),
    "components": ("filters",),
    "fusion": ("rollout",),
    "discard": ("rollout",),
    "residual": ("rollout",),
    "renormalise": ("distance",),
    "granularity": ("cka",),
    "tokens": ("cka",),
    "diagonal": ("cka",),
    "minibatch": ("cka", "heads-vs-cnn", "localisation", ALL_ANALYSES),
    "subset": ("heads-vs-cnn",),
    "where": ("receptive-field",),
    "shots": ("probe", ALL_ANALYSES),
    "seeds": ("probe", ALL_ANALYSES),
    "l2": ("probe", ALL_ANALYSES),
}
_OF_IMAGES = ("data", "image_root", "image_column", "label_column", "on_bad_image", "num_images", "batch_size")
_WEIGHTS_ONLY: dict[str, tuple[str, ...]] = {
    "pos-embed": (*_OF_IMAGES, "num_workers"),
    "filters": (*_OF_IMAGES, "num_workers", "image_size", "pos_embed_interp"),
}


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Settings of ``vitctl data``."""

    data: str | None = None
    """What to look at: anything that ``finetune --data`` takes."""
    image_root: str | None = None
    """Folder that a table's relative paths start from; None is the table's own."""
    image_column: str | None = None
    """Column of images or paths; None finds it."""
    label_column: str | None = None
    """Column of classes; None finds it."""
    group_column: str | None = None
    """Column whose equal values stay on one side of the validation split."""
    group_pattern: str | None = None
    """The same, from the images' paths: a pattern with ``{group}``."""
    val_fraction: float | None = None
    """Share of the training images that ``finetune`` would hold out, 0 to below 1."""
    seed: int = 0
    """Of that split, >= 0."""
    out: str | None = None
    """Folder for the report and the contact sheet."""

    def __post_init__(self) -> None:
        _check_not_empty(self)
        if self.data is None:
            raise SettingError("No data are given; expected e.g. vitctl data photos/")
        _check_fraction(self.val_fraction)
        _check_one_grouping(self.group_column, self.group_pattern)
        _check_at_least(self, 0, "seed")
        _check_seed(self.seed)


@dataclass(frozen=True, kw_only=True)
class ModelsConfig:
    """Settings of ``vitctl models``."""

    pattern: str | None = None
    """Part of a name, or a pattern with ``*``; None lists every name."""

    def __post_init__(self) -> None:
        _check_not_empty(self)


def _check_model_choice(run: str | None, model: str | None, weights: str) -> None:
    if (run is None) == (model is None):
        found = "neither" if run is None else "both"
        raise SettingError(f"Expected a run folder or --model NAME, one of them; found {found}.")
    if run is not None and weights != "pretrained":
        raise SettingError(
            f"--weights is {weights!r} beside a run folder, which has its own; expected --model with it."
        )


ConfigT = TypeVar("ConfigT")


def config_from_file(path: Path) -> FinetuneConfig:
    """Return the settings in a run's ``config.json`` (its ``vitctl`` and ``versions`` are not settings).

    Raises:
        SettingError: The file cannot be read, or holds an unknown or unusable setting.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"--config {path} cannot be read ({error}); expected the config.json of a run.") from error
    if not isinstance(document, dict):
        raise SettingError(f"--config {path} holds no settings; expected the config.json of a run.")
    known = {field.name: str(field.type) for field in fields(FinetuneConfig)}
    settings = {key: value for key, value in document.items() if key not in ("vitctl", "versions", "command")}
    for key, value in settings.items():
        if key not in known:
            raise SettingError(f"--config {path} has an unknown setting {key!r}.{did_you_mean(key, known)}")
        _check_type(key, value, known[key], path)
        settings[key] = tuple(value) if isinstance(value, list) else value
    return FinetuneConfig(**settings)


def _check_type(key: str, value: Any, kind: str, path: Path) -> None:
    allowed: dict[str, tuple[type, ...]] = {
        "str": (str,),
        "int": (int,),
        "float": (int, float),
        "bool": (bool,),
        "None": (type(None),),
        "table": (dict,),
        "list of texts": (list,),
    }
    named = {"Mapping": "table", "tuple": "list of texts"}
    kinds = [part.strip(" '<>").removeprefix("class '") for part in kind.split("|")]
    kinds = [next((word for name, word in named.items() if name in part), part) for part in kinds]
    types = tuple(one for part in kinds for one in allowed[part])
    is_wrong = isinstance(value, list) and not all(isinstance(item, str) for item in value)
    if not isinstance(value, types) or is_wrong or (isinstance(value, bool) and "bool" not in kinds):
        raise SettingError(f"{key} in --config {path} is {value!r}; expected {' or '.join(kinds)}.")


# what a file says of these was decided for another value of the option, or is contradicted by it
_FORGOTTEN = {
    "steps": ("epochs",),
    "epochs": ("steps",),
    "val": ("val_fraction",),
    "val_fraction": ("val",),
    "data": ("val", "flip", "image_root", "image_column", "label_column", "group_column", "group_pattern"),
    "group_column": ("group_pattern",),
    "group_pattern": ("group_column",),
    "class_weights": ("sampler",),
    "sampler": ("class_weights",),
    "model": ("weights", "image_size"),
    "recipe": ("recipe_settings", "set", "lr", "batch_size", "steps", "epochs", "flip", "pos_embed_interp", "head"),
}


def merge(base: FinetuneConfig, given: Mapping[str, Any]) -> FinetuneConfig:
    """Return ``base`` with the values ``given`` on the command line, which come first.

    What the file decided for another recipe, data or model than the one given is decided anew, and so is
    what a given value contradicts (``--epochs`` against the file's ``steps``). What is ``--set`` adds to what was set
    in the file, unless the recipe is another.
    """
    check_given_once(given.get("set"), [option for option, value in given.items() if value is not None])
    defaults: dict[str, Any] = {field.name: field.default for field in fields(FinetuneConfig)}
    forgotten = {key for option in given if given[option] != defaults[option] for key in _FORGOTTEN.get(option, ())}
    forgotten |= set(options_behind(given.get("set")))
    kept = [text for text in base.set or () if "set" not in forgotten and not given.keys() & options_behind([text])]
    overrides = (*kept, *(given.get("set") or ())) or None
    forgotten -= {"set", *given}
    return replace(base, **{key: defaults[key] for key in forgotten}, **{**given, "set": overrides})
