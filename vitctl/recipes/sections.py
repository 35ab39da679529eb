"""The sections of a recipe and their keys: type, default, range and unit of each.

A new key is a field here, a new section a class here and a field of ``Recipe``; nothing else has to know. A key that is
not given has its default: "off" where a key can be off, so that a file from before the key means what it meant then.

Ranges are checked where values come in, by ``recipe_from_settings`` and ``override``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.recipes.keys import Implies, Option, Range, Was
from vitctl.settings import words

NotNegative = Annotated[float, Range(ge=0)]
Fraction = Annotated[float, Range(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """What a step does with the gradients."""

    name: Annotated[words.OptimizerName, Was("optimizer")] = "adamw"
    """adamw or sgd."""
    betas: tuple[Annotated[float, Range(ge=0, lt=1)], Annotated[float, Range(ge=0, lt=1)]] = (0.9, 0.999)
    """Of adamw: decay per step of the means of gradient and squared gradient, each 0 to below 1."""
    momentum: NotNegative = 0.0
    """Of sgd, >= 0; 0 is none."""
    weight_decay: NotNegative = 0.0
    """Share of a weight taken off per step, times the rate, >= 0; 0 is none. Not on vectors, tokens, position
    embeddings."""
    clip_norm: NotNegative = 0.0
    """Largest global norm of the gradient, >= 0; 0 clips nothing."""
    layer_decay: Annotated[float, Range(gt=0, le=1)] = 1.0
    """Factor on the rate from each layer to the one below it, above 0 to 1; 1 is none."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """The learning rate, per optimiser step: up in a line, then down a cosine."""

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
    steps: Annotated[int, Range(ge=0), Implies("steps_rule", "fixed"), Option(("steps", "epochs"))] = 0
    """Optimiser steps, >= 0, for ``steps_rule`` fixed; given without a rule it means that one. 0: by the rule."""
    steps_rule: Annotated[words.StepsRule, Option(("steps", "epochs"))] = "images-seen"
    """fixed (``steps``); images-seen: 30 epochs, at least 32k images, at most 256k or 10 epochs; bit-hyperrule: 500,
    10,000 or 20,000 steps by the number of images."""

    def __post_init__(self) -> None:
        if self.steps_rule == "fixed" and not self.steps:
            raise SettingError("length.steps is 0 but length.steps_rule is 'fixed'; expected a number of steps.")


@dataclass(frozen=True, kw_only=True)
class Images:
    """What is done to images before the model sees them."""

    crop: words.Crop = "none"
    """Random crop of the training images; none resizes them."""
    crop_area: tuple[Annotated[float, Range(gt=0, le=1)], Annotated[float, Range(gt=0, le=1)]] = (0.3, 1.0)
    """Of random-resized-crop: least and most of the image's area, each above 0 to 1."""
    flip: Annotated[bool, Option(("flip",))] = False
    """Mirror half of the training images; not where they seem to show digits or letters."""
    evaluation_crop: words.EvaluationCrop = "model"
    """model: the crop the weights came with; squash: resize to the size, aspect not kept."""
    pos_embed_interp: Annotated[words.Interpolation, Option(("pos_embed_interp",))] = words.DEFAULT_INTERPOLATION
    """How position embeddings are resampled: paper (bilinear, corners aligned), bicubic, bicubic-aa (as timm does)."""

    def __post_init__(self) -> None:
        if self.crop_area[0] > self.crop_area[1]:
            raise SettingError(f"images.crop_area is {list(self.crop_area)}; expected [least, most].")


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
class Head:
    """The new classifier on top."""

    init: Annotated[words.HeadStart, Was("head"), Option(("head",))] = "zero"
    """How it starts: zero, random, or ridge, the closed-form linear probe."""


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
    head: Head = Head()
    evaluation: Evaluation = Evaluation()
    sources: Mapping[str, str] = field(default_factory=dict, compare=False)
