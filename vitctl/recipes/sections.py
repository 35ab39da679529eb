"""The sections of a recipe and their keys: type, default, range and unit of each.

A new key is a field here, a new section a class here and a field of ``Recipe``; nothing else has to know. A key that is
not given has its default: "off" where a key can be off, so that a file from before the key means what it meant then.

Ranges are checked where values come in, by ``recipe_from_settings`` and ``override``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.primitives.augment_specs import check_augment
from vitctl.recipes.keys import Implies, Option, Range, Was
from vitctl.settings import words

NotNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a step does with the gradients."""

    name: Annotated[str, Was("optimizer")] = "adamw"
    """adamw or sgd (torch's), or another by timm's name: lamb, lion, muon...; also with ``lookahead_`` before it."""
    betas: tuple[Annotated[float, Range(ge=0, lt=1)], Annotated[float, Range(ge=0, lt=1)]] = (0.9, 0.999)
    """Of adamw and its like: decay per step of the means of gradient and squared gradient, each 0 to below 1; adamw's
    are the own ones in any other of timm's."""
    eps: NotNegative = 0.0
    """What adaptive ones add to a denominator, >= 0; 0: the optimiser's own."""
    momentum: NotNegative = 0.0
    """Of sgd and its like, >= 0; 0 is none, in those of timm's that take one its own, 0.9."""
    nesterov: bool = False
    """Of sgd: look ahead by the momentum."""
    weight_decay: NotNegative = 0.0
    """Share of a weight taken off per step, times the rate, >= 0; 0 is none; some optimisers add it to the gradient
    instead. Not on vectors, tokens, position
    embeddings."""
    clip_norm: NotNegative = 0.0
    """Largest global norm of the gradient, >= 0; 0 clips nothing."""
    layer_decay: Annotated[float, Range(gt=0, le=1), Option(("layer_decay",))] = 1.0
    """Factor on the rate from each layer to the one below it, above 0 to 1; 1 is none."""
    final_norm: words.FinalNorm = "block"
    """Whose rate the norm after the last block has with ``layer_decay``: the last block's (timm), the head's (MAE)."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The learning rate, per optimiser step: up in a line, then down as ``schedule`` says."""

    lr: Annotated[float, Range(gt=0), Option(("lr",))] = 1e-4
    """Peak learning rate at batch ``lr_at_batch``, > 0."""
    lr_at_batch: Annotated[int, Range(gt=0), Option(("lr",))] = 128
    """Images of the global batch that ``lr`` is meant for, >= 1; of no effect with ``lr_scaling`` none."""
    lr_scaling: Annotated[words.LrScaling, Option(("lr",))] = "none"
    """How the rate follows the batch: none, sqrt (root of the ratio), linear."""
    final_lr: NotNegative = 0.0
    """Learning rate that the last step comes down to, >= 0."""
    warmup_fraction: Fraction = 0.0
    """Share of the steps over which the rate rises, 0-1; 0 is none."""
    warmup_lr: NotNegative = 0.0
    """Learning rate that the warm-up starts above, >= 0."""
    schedule: words.Schedule = "cosine"
    """What follows the warm-up: cosine, linear (both to ``final_lr``), constant, step."""
    decay_from: words.DecayFrom = "warmup-end"
    """Where cosine and linear begin: warmup-end, or start, so that the warm-up hides their first part (timm)."""
    drop_at: Annotated[tuple[Fraction, ...], Implies("schedule", "step")] = ()
    """Of step, which it means without a schedule: shares of the steps, 0-1, rising, after which the rate is multiplied
    by ``drop_factor``."""
    drop_factor: Annotated[float, Range(gt=0, lt=1)] = 0.1
    """Of step, above 0 to below 1."""
    grid: tuple[Annotated[float, Range(gt=0)], ...] = ()
    """Rates that the source tried, each > 0, of which it kept the best on held-out images; for who tries them."""

    def __post_init__(self) -> None:
        if self.schedule == "step" and not self.drop_at:
            raise SettingError(
                "rate.schedule is 'step' but rate.drop_at is empty; expected shares of the steps, e.g. [0.5, 0.75]."
            )
        if any(later <= before for before, later in pairwise(self.drop_at)):
            raise SettingError(f"rate.drop_at is {list(self.drop_at)}; expected rising shares of the steps.")

    def peak_lr(self, batch_size: int) -> float:
        """Return the peak rate at ``batch_size`` images, scaled as ``lr_scaling`` says."""
        ratio = batch_size / self.lr_at_batch
        factors = {"none": 1.0, "sqrt": math.sqrt(ratio), "linear": ratio}
        return self.lr * factors[self.lr_scaling]


@dataclass(frozen=True, kw_only=True)
class Length:
    """How many images a step takes and how many steps there are."""

    batch_size: Annotated[int, Range(gt=0), Option(("batch_size",))] = 128
    """Images per optimiser step, over all processes, >= 1."""
    batch_rule: Annotated[words.BatchRule, Option(("batch_size",))] = "fixed"
    """fixed (``batch_size``), or quarter: at most a quarter of the images, down to a power of two."""
    steps: Annotated[int, Range(ge=0), Implies("steps_rule", "fixed"), Option(("steps", "epochs", "time_limit"))] = 0
    """Optimiser steps, >= 0, for ``steps_rule`` fixed; given without a rule it means that one. 0: by the rule."""
    epochs: Annotated[NotNegative, Implies("steps_rule", "epochs"), Option(("steps", "epochs", "time_limit"))] = 0.0
    """Passes over the training images, >= 0, for ``steps_rule`` epochs; given without a rule it means that one."""
    steps_rule: Annotated[words.StepsRule, Option(("steps", "epochs", "time_limit"))] = "images-seen"
    """fixed (``steps``); epochs (``epochs``); images-seen: 30 epochs, at least 32k images, at most 256k or 10 epochs;
    bit-hyperrule: 500, 10,000 or 20,000 steps by the number of images."""
    sizes: tuple[Annotated[int, Range(gt=0)], ...] = ()
    """px, rising, each for an equal share of the steps; the last is what is trained at in the end. None: one size."""

    def __post_init__(self) -> None:
        for rule, number in (("fixed", "steps"), ("epochs", "epochs")):
            if self.steps_rule == rule and not getattr(self, number):
                raise SettingError(
                    f"length.{number} is 0 but length.steps_rule is {rule!r}; expected a number of {number}."
                )
        if list(self.sizes) != sorted(set(self.sizes)):
            raise SettingError(f"length.sizes is {list(self.sizes)}; expected rising sizes.")


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is done to images before the model sees them."""

    size: Annotated[int, Range(ge=0), Option(("image_size",))] = 0
    """px of a square to train at, >= 0; 0: chosen by the images and the model."""
    crop: words.Crop = "none"
    """Random crop of the training images; none resizes them."""
    crop_area: tuple[Annotated[float, Range(gt=0, le=1)], Annotated[float, Range(gt=0, le=1)]] = (0.3, 1.0)
    """Of random-resized-crop: least and most of the image's area, each above 0 to 1."""
    flip: Annotated[bool, Option(("flip",))] = False
    """Mirror half of the training images; not where they seem to show digits or letters."""
    augment: str = "none"
    """What is done to whole images at random: none, trivial (TrivialAugment), three (3-Augment), or RandAugment, AugMix
    or AutoAugment as timm spells them, e.g. rand-m9-mstd0.5-inc1, augmix-m3-w3, original."""
    color_jitter: Annotated[float, Range(ge=0, le=10)] = 0.0
    """Most that brightness, contrast and saturation are changed by, as a factor beside 1, 0 to 10; 0 is none."""
    rotate: Annotated[float, Range(ge=0, le=180)] = 0.0
    """Most degrees an image is turned by, 0-180; 0 is none."""
    translate: Fraction = 0.0
    """Most that it is moved by, as a share of its sides, 0-1; 0 is none."""
    zoom: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Most that it is made larger or smaller by, as a share, 0 to below 1; 0 is none."""
    shear: Annotated[float, Range(ge=0, lt=90)] = 0.0
    """Most degrees it is sheared by, 0 to below 90; 0 is none."""
    erasing: Fraction = 0.0
    """Share of the training images of which a rectangle is replaced by noise, 0-1; 0 is none."""
    evaluation_crop: words.EvaluationCrop = "model"
    """model: the crop the weights came with; squash: resize to the size, aspect not kept."""
    pos_embed_interp: Annotated[words.Interpolation, Option(("pos_embed_interp",))] = words.DEFAULT_INTERPOLATION
    """How position embeddings are resampled: paper (bilinear, corners aligned), bicubic, bicubic-aa (as timm does)."""

    def __post_init__(self) -> None:
        if self.crop_area[0] > self.crop_area[1]:
            raise SettingError(f"images.crop_area is {list(self.crop_area)}; expected [least, most].")
        check_augment(self.augment, what="images.augment")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Neighbours in a batch mixed with each other, and their labels alike; with both, each pair has one of them."""

    mixup: NotNegative = 0.0
    """Alpha, >= 0, of the Beta distribution of the share by which two images are blended; 0 blends none."""
    cutmix: NotNegative = 0.0
    """Alpha, >= 0, of the Beta distribution of the area that two images exchange; 0 exchanges none."""


@dataclass(frozen=True, kw_only=True)
class Noise:
    """What is left out of the model at random in training; belongs to an image's place in the step."""

    drop_path: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the images for which the last block's branches are left out, 0 to below 1, less in those before; 0 is
    none."""
    patch_drop: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the patches left out of each image, 0 to below 1; 0 is none."""


@dataclass(frozen=True, kw_only=True)
class Loss:
    """What training makes small: the cross-entropy."""

    label_smoothing: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of each label that is spread over all classes, 0 to below 1; 0 is none."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """Which weights are trained, and at which rates."""

    mode: Annotated[str, Option(("tune",))] = "full"
    """full, head, attention, norm, bias, last:N (blocks), lora:R (rank); the head is always among them."""
    lora_scale: Annotated[float, Range(gt=0)] = 2.0
    """Of lora: alpha / rank, the factor on what the factors give, > 0."""
    lr_scale: Annotated[tuple[str, ...], Option(("lr_scale",))] = ()
    """REGEX=X: parameters whose names a regular expression finds learn at X times their rate; the last one counts."""
    freeze: Annotated[tuple[str, ...], Option(("freeze",))] = ()
    """Regular expressions: parameters whose names one finds stay as they are."""


@dataclass(frozen=True, kw_only=True)
class Averaging:
    """A mean of the weights along the way, validated and kept beside the last ones."""

    method: words.Averaging = "none"
    """none; ema: exponential, corrected for its start; polyak: exponential from the starting weights on, as
    arXiv 2010.11929; validations: the mean of the weights at the last ``k`` validations."""
    decay: Annotated[float, Range(gt=0, lt=1), Implies("method", "ema", unless=("polyak",))] = 0.9999
    """Of ema and polyak: share of the mean that each step keeps, above 0 to below 1; without a method it means ema."""
    k: Annotated[int, Range(gt=0), Implies("method", "validations")] = 3
    """Of validations, which it means without a method: how many, >= 1."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The new classifier on top."""

    init: Annotated[words.HeadStart, Was("head"), Option(("head",))] = "zero"
    """How it starts: zero, random, or ridge, the closed-form linear probe."""
    pool: Annotated[words.HeadPool, Option(("pool",))] = "model"
    """What it sees of a ViT's tokens: model (as pretrained), token (the class token), avg (the mean of the patches),
    map (attention pooling)."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When to validate, and which weights are the best."""

    validations: Annotated[int, Range(gt=0)] = 10
    """Validations during the run, the one after the last step included, >= 1."""
    select_best_from: Annotated[int, Range(ge=0)] = 1000
    """Validation images, >= 0, from which best/ is chosen by NLL; below, best/ is the last step."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to train, in sections; ``sources`` says where each value comes from.

    Attributes:
        about: What it is for, in a line.
        sources: Source of each value that was given, by ``SECTION.KEY``; empty where none was named.
    """

    about: str = ""
    optimizer: Optimizer = Optimizer()
    rate: Rate = Rate()
    length: Length = Length()
    images: Images = Images()
    mixing: Mixing = Mixing()
    noise: Noise = Noise()
    loss: Loss = Loss()
    tuning: Tuning = Tuning()
    averaging: Averaging = Averaging()
    head: Head = Head()
    evaluation: Evaluation = Evaluation()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
