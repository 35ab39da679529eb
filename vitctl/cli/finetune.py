"""``vitctl finetune`` on the command line."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from vitctl.cli.command import run, takes
from vitctl.cli.options import JsonOption
from vitctl.cli.output import print_json, print_pairs
from vitctl.cli.screen import is_first_process
from vitctl.primitives.formatting import format_bytes, format_count, format_rounded, format_seconds
from vitctl.results.baseline import against_baseline
from vitctl.results.finetune import DryRunResult, FinetuneResult, LinearProbe, Score
from vitctl.settings.files import config_from_file, merge
from vitctl.settings.finetune import FinetuneConfig
from vitctl.settings.option import settings_of

EXAMPLES = """\
Examples:

\b
  vitctl finetune                                     the demo model on handwritten digits
  vitctl finetune --data photos/ --image-size 384     your images, one folder per class
  vitctl finetune --data photos/ --model vit_base_patch16_224.augreg_in21k --dry-run
  vitctl finetune --data eyes.csv --image-root scans/ --group-column patient
  vitctl finetune --config runs/photos/config.json --out runs/again
"""

MOST_CLASSES = 10


@takes(FinetuneConfig)
def finetune(
    given: dict[str, Any],
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

    Writes a run folder: first-batches.png (what the model is shown), config.json, metrics.jsonl,
    summary.json, curves.png, confusion.png, and the weights as timm folders last/ and best/. Same
    settings, same seed: the same weights.
    """
    settings = merge(config_from_file(config), given) if config else settings_of(FinetuneConfig, given)
    result = run("finetune", settings)
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
            ("steps", f"{cost.steps:,} ({format_rounded(cost.epochs)} epochs)"),
            *([("tokens", str(cost.num_tokens))] if cost.num_tokens else []),
            ("FLOPs per image", format_count(cost.flops_per_image)),
            ("memory", f"{format_bytes(cost.memory_bytes)}, estimated"),
            ("training time", f"{format_seconds(cost.training_s)}, estimated"),
        ]
    )


def _called(summary: FinetuneResult) -> str:
    """Return what the images are called that the run validated on."""
    return "development images" if summary.validated_on == "dev" else "validation images"


def _compared(probe: LinearProbe, summary: FinetuneResult) -> str:
    return f"{probe.top1:.3f}, fine-tuned {summary.best.top1:.3f} (top-1 on the {_called(summary)})"


def _baseline(summary: FinetuneResult) -> list[tuple[str, str]]:
    """Return the row of always saying one class, where there were images to look at."""
    share, name, p = summary.baseline_top1, summary.baseline_class, summary.baseline_p
    if summary.best.top1 is None or share is None or name is None or p is None:
        return []
    text = against_baseline(summary.best.top1, baseline_top1=share, baseline_class=name, baseline_p=p)
    return [("baseline", text)]


def _unvalidated(summary: FinetuneResult) -> list[tuple[str, str]]:
    """Return the row of the classes that no validation image shows, where there are any."""
    names = summary.classes_without_validation
    if not names:
        return []
    shown = ", ".join(names[:MOST_CLASSES]) + (f" and {len(names) - MOST_CLASSES} more" * (len(names) > MOST_CLASSES))
    return [
        ("not validated", f"{len(names)} of {summary.num_classes} classes have no {_called(summary)[:-1]}: {shown}")
    ]


def _skipped(summary: FinetuneResult) -> list[tuple[str, str]]:
    """Return the row of the steps that were not taken, where there are any."""
    if not summary.num_skipped_steps:
        return []
    why = f"their gradients were too large for {summary.precision}; a few at the start are usual"
    return [("skipped", f"{summary.num_skipped_steps} of {summary.last.step} steps: {why}")]


def _ended_early(summary: FinetuneResult) -> list[tuple[str, str]]:
    """Return the row of a run that ran out of patience."""
    if summary.last.step == summary.steps:
        return []
    return [("stopped early", f"after step {summary.last.step} of {summary.steps}: no lower validation loss")]


def _selection(summary: FinetuneResult) -> list[tuple[str, str]]:
    """Return the row of a rate that was chosen among several."""
    selected = summary.selection
    return [] if selected is None else [("chosen", f"{selected.cell}: {selected.why}")]


def _print_summary(summary: FinetuneResult) -> None:
    def told(score: Score) -> str:
        if score.top1 is None:
            return f"step {score.step}, no validation images"
        images = f"{summary.num_val} {_called(summary)} (step {score.step})"
        return f"top-1 {score.top1:.2%}, loss {score.loss:.4f} on {images}"

    run, wait, probe = summary.run, summary.data_wait_fraction, summary.linear_probe
    has_baseline = probe is not None and probe.top1 is not None
    print_pairs(
        [
            *([("linear probe", _compared(probe, summary))] if probe is not None and has_baseline else []),
            ("best", told(summary.best)),
            *_baseline(summary),
            *_unvalidated(summary),
            ("last", told(summary.last)),
            *([("average", told(summary.average))] if summary.average is not None else []),
            *_ended_early(summary),
            (
                "speed",
                f"{summary.images_per_s:.1f} images/s, {wait:.0%} of it data wait, {summary.wall_s:.0f} s in all",
            ),
            *_skipped(summary),
            *_selection(summary),
            ("run folder", run),
            ("next", f"vitctl evaluate {shlex.quote(run)}    vitctl predict {shlex.quote(run)} IMAGE"),
        ]
    )
