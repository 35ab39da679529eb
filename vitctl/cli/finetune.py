"""``vitctl finetune`` on the command line."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from vitctl.cli.options import (
    DeviceOption,
    GroupColumnOption,
    GroupPatternOption,
    ImageColumnOption,
    ImageRootOption,
    JsonOption,
    LabelColumnOption,
    NumThreadsOption,
    NumWorkersOption,
    OnBadImageOption,
    given_options,
)
from vitctl.cli.output import print_json, print_pairs
from vitctl.cli.screen import Screen, is_first_process
from vitctl.config import FinetuneConfig, config_from_file, merge
from vitctl.primitives.formatting import format_bytes, format_count, format_seconds
from vitctl.results.finetune import DryRunResult, FinetuneResult, LinearProbe, Score

EXAMPLES = """\
Examples:

\b
  vitctl finetune                                     the demo model on handwritten digits
  vitctl finetune --data photos/ --image-size 384     your images, one folder per class
  vitctl finetune --data photos/ --model vit_base_patch16_224.augreg_in21k --dry-run
  vitctl finetune --data eyes.csv --image-root scans/ --group-column patient
  vitctl finetune --config runs/photos/config.json --out runs/again
"""

CHOSEN = "(chosen for you when not given; the header says why)"


def finetune(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Training images: a folder, a table, tar shards, a saved data set, hub:OWNER/NAME, or digits "
            "(the default).",
            show_default=False,
        ),
    ] = FinetuneConfig.data,
    image_root: ImageRootOption = FinetuneConfig.image_root,
    image_column: ImageColumnOption = FinetuneConfig.image_column,
    label_column: LabelColumnOption = FinetuneConfig.label_column,
    group_column: GroupColumnOption = FinetuneConfig.group_column,
    group_pattern: GroupPatternOption = FinetuneConfig.group_pattern,
    val: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Validation images; otherwise the data's own split, or a part held out.",
            show_default=False,
        ),
    ] = FinetuneConfig.val,
    val_fraction: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Share of the training images to hold out, 0 to below 1; 0 trains on all.",
            show_default=False,
        ),
    ] = FinetuneConfig.val_fraction,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="demo, a timm name ('vitctl models vit'), a run folder or a timm folder.",
            show_default=False,
        ),
    ] = FinetuneConfig.model,
    weights: Annotated[
        str,
        typer.Option(metavar="SPEC", help="pretrained, none, or a .safetensors, .pth or Google .npz file."),
    ] = FinetuneConfig.weights,
    image_size: Annotated[
        str | None,
        typer.Option(metavar="N|HxW", help=f"Pixels to fine-tune at {CHOSEN}.", show_default=False),
    ] = FinetuneConfig.image_size,
    pos_embed_interp: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="Resampling of position embeddings: paper, bicubic, bicubic-aa.",
            show_default=False,
        ),
    ] = FinetuneConfig.pos_embed_interp,
    head: Annotated[
        str | None,
        typer.Option(
            metavar="HOW",
            help="How the new head starts: zero, or ridge, the closed-form linear probe; else as the recipe says.",
            show_default=False,
        ),
    ] = FinetuneConfig.head,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="How to train ('vitctl recipes ls'); demo for the demo model, else transfer.",
            show_default=False,
        ),
    ] = FinetuneConfig.recipe,
    steps: Annotated[
        int | None, typer.Option(metavar="N", help="Optimiser steps; or --epochs.", show_default=False)
    ] = FinetuneConfig.steps,
    epochs: Annotated[
        float | None,
        typer.Option(metavar="N", help="Passes over the training images; or --steps.", show_default=False),
    ] = FinetuneConfig.epochs,
    batch_size: Annotated[
        int | None,
        typer.Option(metavar="N", help="Images per optimiser step, over all processes.", show_default=False),
    ] = FinetuneConfig.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Peak learning rate, used as it is; a recipe's own follows the batch.",
            show_default=False,
        ),
    ] = FinetuneConfig.lr,
    flip: Annotated[
        bool | None,
        typer.Option("--flip/--no-flip", help="Mirror half of the training images.", show_default=False),
    ] = FinetuneConfig.flip,
    on_bad_image: OnBadImageOption = FinetuneConfig.on_bad_image,
    cache: Annotated[
        str,
        typer.Option(
            metavar="WHAT",
            help="none, or resized: keep large training photos decoded, at twice the size trained at.",
        ),
    ] = FinetuneConfig.cache,
    class_weights: Annotated[
        str, typer.Option(metavar="WHAT", help="none, or balanced: each class counts alike in the loss.")
    ] = FinetuneConfig.class_weights,
    sampler: Annotated[
        str, typer.Option(metavar="WHAT", help="shuffle, or balanced: show each class equally often.")
    ] = FinetuneConfig.sampler,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of split, order, augmentation and random weights.")
    ] = FinetuneConfig.seed,
    num_workers: NumWorkersOption = FinetuneConfig.num_workers,
    num_threads: NumThreadsOption = FinetuneConfig.num_threads,
    device: DeviceOption = FinetuneConfig.device,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Run folder to make (default: runs/DATA-MODEL).",
            show_default=False,
        ),
    ] = FinetuneConfig.out,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the run that stands in --out; never anything else.")
    ] = FinetuneConfig.overwrite,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, cost and time; train and write nothing.")
    ] = FinetuneConfig.dry_run,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Settings of an earlier run (its config.json); options given here come first.",
            show_default=False,
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Fine-tune a pretrained ViT (or CNN) on your images, at a higher resolution if you like.

    Writes a run folder: config.json, metrics.jsonl, summary.json, curves.png, confusion.png, and the
    weights as timm folders last/ and best/. Same settings, same seed: the same weights.
    """
    given = {key: value for key, value in given_options(context).items() if key not in ("config", "as_json")}
    settings = merge(config_from_file(config), given) if config else FinetuneConfig(**given)
    screen = Screen()
    with screen.waiting("starting: loading torch and timm"):
        from vitctl.workflows import finetune as workflow
    result = workflow.run(settings, screen)
    if not is_first_process():
        return
    if as_json:
        print_json(result)
    elif isinstance(result, DryRunResult):
        _print_cost(result)
    else:
        _print_summary(result)


def _print_cost(cost: DryRunResult) -> None:
    print_pairs(
        [
            ("steps", f"{cost.steps:,} ({cost.epochs:.3g} epochs)"),
            *([("tokens", str(cost.num_tokens))] if cost.num_tokens else []),
            ("FLOPs per image", format_count(cost.flops_per_image)),
            ("memory", f"{format_bytes(cost.memory_bytes)}, estimated"),
            ("training time", f"{format_seconds(cost.training_s)}, estimated"),
        ]
    )


def _compared(probe: LinearProbe, best: Score) -> str:
    return f"{probe.top1:.3f}, fine-tuned {best.top1:.3f} (top-1 on the validation images)"


def _print_summary(summary: FinetuneResult) -> None:
    def told(score: Score) -> str:
        if score.top1 is None:
            return f"step {score.step}, no validation images"
        images = f"{summary.num_val} validation images (step {score.step})"
        return f"top-1 {score.top1:.2%}, loss {score.loss:.4f} on {images}"

    run, wait, probe = summary.run, summary.data_wait_fraction, summary.linear_probe
    has_baseline = probe is not None and probe.top1 is not None
    print_pairs(
        [
            *([("linear probe", _compared(probe, summary.best))] if probe is not None and has_baseline else []),
            ("best", told(summary.best)),
            ("last", told(summary.last)),
            (
                "speed",
                f"{summary.images_per_s:.1f} images/s, {wait:.0%} of it data wait, {summary.wall_s:.0f} s in all",
            ),
            ("run folder", run),
            ("next", f"vitctl evaluate {shlex.quote(run)}    vitctl predict {shlex.quote(run)} IMAGE"),
        ]
    )
