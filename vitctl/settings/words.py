"""The choices of every setting, one list each; the code that acts on a choice imports its list from here.

Plain names and numbers, so that help pages need no torch and no block needs a settings object.
"""

from typing import Literal, get_args

AUTO = "auto"  # what follows from the data
DEMO = "demo"
"""The embedded model; also the name of the recipe that suits it."""
DIGITS = "digits"
"""The embedded images, scikit-learn's handwritten digits: what commands take when no data are given."""
PRETRAINED, RANDOM = "pretrained", "none"
"""What ``--weights`` takes beside a file."""
ALL = "all"

DEVICES = ("auto", "cpu", "cuda", "mps")
BAD_IMAGE = ("fail", "skip")
SPLITS = ("val", "test", "train", "all")
RUN_ORDERS = ("age", "top1", "name")

# --- training; a recipe's keys have the types, everything else the lists made of them
CACHES = ("none", "resized")
CLASS_WEIGHTS = ("none", "balanced")
SAMPLERS = ("shuffle", "balanced")
HEADS = ("zero", "ridge")
Schedule = Literal["cosine", "linear", "constant", "step"]
DecayFrom = Literal["warmup-end", "start"]
FinalNorm = Literal["block", "head"]
LrScaling = Literal["none", "sqrt", "linear"]
BatchRule = Literal["fixed", "quarter"]
StepsRule = Literal["fixed", "epochs", "images-seen", "bit-hyperrule"]
Crop = Literal["random-resized-crop", "resize-random-crop", "resize-small-random-crop", "pad-random-crop", "none"]
EvaluationCrop = Literal["model", "squash"]
Interpolation = Literal["paper", "bicubic", "bicubic-aa"]
HeadStart = Literal["zero", "random", "ridge"]
HeadPool = Literal["model", "token", "avg", "map"]
Averaging = Literal["none", "ema", "polyak", "validations"]
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)
DEFAULT_INTERPOLATION: Interpolation = "bicubic-aa"
"""What timm does; weights of the authors (``.npz``) are resampled as their code does it: ``paper``."""
CROPS: tuple[str, ...] = get_args(Crop)
HEAD_POOLS: tuple[str, ...] = get_args(HeadPool)
MAX_LR = 1000.0
TRAINING_PRECISIONS = (AUTO, "fp32", "bf16", "fp16")

# --- sweep
SELECT_BY_CALLED = {"nll": "NLL", "top1": "top-1"}
SELECT_BY = tuple(SELECT_BY_CALLED)
MAX_FOLDS = 1_000

# --- few-shot evaluation
FEWSHOT_CLASSIFIERS = ("ridge", "logistic", "knn", "centroid")
POOLS = ("native", "cls", "mean", "cls+mean", "mean-all", "first", "tokens")
PREPROCESSINGS = ("model", "big_vision")
PROTOCOLS = ("linear", "episodes")
BALANCES = ("none", "intercept", "weighted")
LEAVE_ONE_OUT = "loo"
MAX_SEEDS = 10_000
MAX_PROCESSES = 1024  # of one machine; guess
MIN_L2, MAX_L2 = 1e-9, 1e15

# --- layers, by name; blocks are numbers from 0
EMBED, FINAL = "embed", "final"

# --- export
EXPORT_FORMATS = ("onnx", "timm", "hf", "npz", "pt2")
GRAPH_FORMATS = ("onnx", "pt2")
WHICH = ("best", "last", "average")
"""Folders of weights in a run; the third where a mean of them was asked for."""
PRECISIONS = ("fp32", "fp16", "int8-dynamic")
OUTPUTS = ("logits", "probabilities", "embedding", "tokens")
NPZ_LAYOUTS = ("vit_jax", "big_vision", "big_vision_scan")
MIN_OPSET, MAX_OPSET = 18, 25

# --- log: each is the name of its package, too
TRACKERS = ("tensorboard", "wandb")

# --- inspect
FUSIONS = ("mean", "max", "min")
GRANULARITIES = ("block", "sublayer")
TOKENS = ("all", "cls", "patches", "mean")
WHERES = ("post", "pre")
MIN_MINIBATCH = 4
