"""What ``vitctl finetune`` returns: the run's summary, or with ``dry_run`` what the run would cost."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from vitctl.results.result import JsonValue, Result, left_out_if_none
from vitctl.results.sweep import Selected


@dataclass(frozen=True, repr=False)
class Score(Result):
    """How weights did on the validation images."""

    step: int
    """Optimiser step after which they were looked at."""
    top1: float | None
    """Accuracy, 0-1; None without validation images."""
    loss: float | None
    """Mean negative log-likelihood, nats; None without validation images."""


@dataclass(frozen=True, repr=False, kw_only=True)
class LinearProbe(Result):
    """The closed-form head on the frozen model, before any training."""

    top1: float | None
    """Accuracy on the validation images, 0-1; None without them."""
    loss: float | None
    """Mean negative log-likelihood on the validation images, nats; None without them."""
    l2: float
    """Penalty of the ridge regression, > 0."""
    loo_top1: float | None
    """Leave-one-out accuracy on the training images, 0-1; None where none was computed."""
    scale: float
    """Factor on the head's scores, > 0: an inverse temperature."""


@dataclass(frozen=True, repr=False, kw_only=True)
class FinetuneResult(Result):
    """A finished run: the content of its ``summary.json``."""

    run: str
    """The run folder, absolute."""
    model: str
    """What was fine-tuned."""
    image_size: tuple[int, int]
    """(H, W) px trained at."""
    grid_before: tuple[int, int] | None
    """(h, w) patches of the pretrained model; None for random weights, and without a patch grid."""
    grid_after: tuple[int, int] | None
    """(h, w) patches trained at; None without a patch grid."""
    num_classes: int
    """Classes, >= 2."""
    num_train: int
    """Training images."""
    num_val: int
    """Validation images; 0 where all were trained on."""
    classes_without_validation: tuple[str, ...]
    """Classes of which none of them is, in the order of the outputs."""
    steps: int
    """Optimiser steps planned; a run that ``patience`` ended has taken ``last.step``."""
    micro_batch: int
    """Images that a process computed with at a time, in the end: fewer than at first where the memory was full."""
    num_processes: int
    """Processes that shared each batch, in the end; with as many the same settings give the same bytes."""
    best: Score
    """Of the weights in best/."""
    last: Score
    """Of the weights in last/."""
    baseline_top1: float | None
    """Accuracy of always saying the class that most validation images are of, 0-1; None without validation images."""
    baseline_class: str | None
    """That class."""
    baseline_p: float | None
    """Of McNemar's exact test of best/ against it, two-sided, 0-1; from 0.05 on they may be equally good."""
    linear_probe: LinearProbe | None
    """The head that training started from; None where it was not computed in closed form."""
    weights_sha256: str | None
    """SHA-256 of last/model.safetensors; None in a process that writes nothing."""
    precision: str
    """Of the forward pass of training: fp32, bf16 or fp16; weights, loss and validation are fp32 in all of them."""
    optimizer_implementation: str
    """Of torch's optimiser: fused, or loop; they differ in the last bits."""
    num_skipped_steps: int
    """Steps that fp16 skipped, as their gradients were too large for it; 0 in other precisions."""
    images_per_s: float
    """Training images per second, validation apart."""
    data_wait_fraction: float
    """Share of the training time that went by waiting for images, 0-1."""
    wall_s: float
    """Seconds from start to end, loading and validation included."""
    num_trained_parameters: int = 0
    """Numbers that were trained; 0 in the summary of a run of an earlier version."""
    average: Score | None = None
    """Of the weights in average/; None where no mean of the weights was asked for."""
    average_weights_sha256: str | None = None
    """SHA-256 of average/model.safetensors; None without, and in a process that writes nothing."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
    validated_on: str = "val"
    """What the validation images are: ``val``; ``dev``, cut from the training images; ``fold``, a part of these."""
    num_untouched: int = 0
    """Validation images that are left alone, as others are validated on."""
    selection: Selected | None = field(default=None, metadata=left_out_if_none())
    """How its rate was chosen among several, on development images; no key where it was not."""


@dataclass(frozen=True, repr=False)
class GroupReport(Result):
    """Parameters with one rate and one decay."""

    lr_scale: float
    """Factor on the learning rate, > 0; above 1 by ``lr_scale`` only."""
    weight_decay: float
    """As used, >= 0."""
    num_tensors: int
    """Tensors in the group."""
    num_parameters: int
    """Numbers in them."""


@dataclass(frozen=True, repr=False)
class SizeReport(Result):
    """The steps of one of several image sizes."""

    size: int
    """px of square images."""
    steps: int
    """Optimiser steps of this size."""
    step_s: float
    """Seconds of one of them, scaled from a part of one."""


@dataclass(frozen=True, repr=False, kw_only=True)
class DryRunResult(Result):
    """What a run would be and cost; nothing was trained or written."""

    dry_run: bool = True
    """Always true: what tells this document from a run's summary."""
    config: Mapping[str, JsonValue]
    """What ``config.json`` would hold: every setting, resolved, and the versions of the packages."""
    num_classes: int
    """Classes, >= 2."""
    num_train: int
    """Training images."""
    num_val: int
    """Validation images; 0 where all would be trained on."""
    classes_without_validation: tuple[str, ...]
    """Classes of which none of them would be, in the order of the outputs."""
    grid_before: tuple[int, int] | None
    """(h, w) patches of the pretrained model; None for random weights, and without a patch grid."""
    grid_after: tuple[int, int] | None
    """(h, w) patches to train at; None without a patch grid."""
    num_tokens: int | None
    """Length of the token sequence, prefix tokens included; None without a patch grid."""
    steps: int
    """Optimiser steps."""
    epochs: float
    """Passes over the training images."""
    num_parameters: int
    """Numbers that would be trained, as ``num_trained_parameters``."""
    num_trained_parameters: int
    """Numbers that would be trained: of all, or with ``tune`` and ``freeze`` of some of the weights."""
    flops_per_image: int
    """Floating-point operations of one forward pass of one image; a multiply-add counts as two."""
    memory_bytes: int
    """Weights, gradients, optimiser state and the activations of one micro-batch per process; estimated."""
    step_s: float
    """Seconds of one optimiser step, scaled from a part of one; with several image sizes, the mean over all steps."""
    training_s: float
    """Seconds of all steps, without validation and start-up, with ``embedding_s``; estimated."""
    embedding_s: float | None = None
    """Seconds of computing the features of the training images once; None where every step computes them."""
    groups: tuple[GroupReport, ...]
    """Parameter groups, lowest rate first."""
    sizes: tuple[SizeReport, ...] = ()
    """Image sizes, the smallest first; empty where all steps are of one size."""
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Files of other kinds beside the images, which are not read, by ending: ``{".heic": 12}``."""
    validated_on: str = "val"
    """What the validation images are: ``val``; ``dev``, cut from the training images; ``fold``, a part of these."""
    num_untouched: int = 0
    """Validation images that are left alone, as others are validated on."""
