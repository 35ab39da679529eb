"""``vitctl inspect ANALYSIS`` on the command line."""

from typing import Annotated

import typer

from vitctl.cli.options import (
    DeviceOption,
    ImageColumnOption,
    ImageRootOption,
    JsonOption,
    LabelColumnOption,
    NumThreadsOption,
    NumWorkersOption,
    OnBadImageOption,
    RunArgument,
)
from vitctl.cli.output import print_columns, print_json, print_pairs
from vitctl.cli.screen import Screen
from vitctl.config import ANALYSES, FUSIONS, GRANULARITIES, INTERPOLATIONS, TOKENS, WHERES, InspectConfig
from vitctl.results.inspect_model import InspectAllResult, InspectResult

EXAMPLES = """\
Examples:

\b
  vitctl inspect all runs/photos                         every analysis, and report.html
  vitctl inspect attention runs/photos --image cat.jpg --layer 11 --query 3,5
  vitctl inspect distance runs/photos --model demo
  vitctl inspect cka --model vit_small_patch16_224 --model resnet50 --data photos/
  vitctl inspect cka runs/photos --model vit_small_patch16_224 --diagonal
"""

MOST_ROWS_SHOWN = 40


def inspect(
    analysis: Annotated[
        str, typer.Argument(metavar="ANALYSIS", help=f"{', '.join(ANALYSES)}; or all.", show_default=False)
    ],
    run: RunArgument = InspectConfig.run,
    model: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Model (ViT or CNN) instead of RUN, or to compare it with: demo, a timm name, a run; repeat.",
            show_default=False,
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SPEC",
            help="pretrained, none (random), or a weights file; once, or once per --model.",
            show_default=False,
        ),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="SPEC",
            help="Images, anything that finetune --data takes; else the run's validation images, else digits.",
            show_default=False,
        ),
    ] = InspectConfig.data,
    image_root: ImageRootOption = InspectConfig.image_root,
    image_column: ImageColumnOption = InspectConfig.image_column,
    label_column: LabelColumnOption = InspectConfig.label_column,
    on_bad_image: OnBadImageOption = InspectConfig.on_bad_image,
    num_images: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            help="The first N of a seeded order (default: 256; receptive-field, equivariance 32; rollout 4).",
            show_default=False,
        ),
    ] = InspectConfig.num_images,
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="attention, rollout, features, receptive-field: images instead of --data; repeat.",
            show_default=False,
        ),
    ] = None,
    image_size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Pixels, height first; else the model's own. pos-embed: also resampled to it.",
            show_default=False,
        ),
    ] = InspectConfig.image_size,
    pos_embed_interp: Annotated[
        str | None,
        typer.Option(metavar="METHOD", help=f"Position embeddings: {', '.join(INTERPOLATIONS)}.", show_default=False),
    ] = InspectConfig.pos_embed_interp,
    components: Annotated[
        int, typer.Option(metavar="N", help="filters: principal components.")
    ] = InspectConfig.components,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="attention, heads-vs-cnn (else 1): a block, from 0; localisation, features: also embed, final.",
            show_default=False,
        ),
    ] = InspectConfig.layer,
    head: Annotated[
        int | None, typer.Option(metavar="N", help="attention: the head to show, from 0.", show_default=False)
    ] = InspectConfig.head,
    query: Annotated[
        str | None,
        typer.Option(
            metavar="cls|ROW,COL",
            help="attention, rollout, features, receptive-field: the token to start from, patches from 0.",
            show_default=False,
        ),
    ] = InspectConfig.query,
    fusion: Annotated[
        str, typer.Option(metavar="HOW", help=f"rollout: heads become one map by {', '.join(FUSIONS)}.")
    ] = InspectConfig.fusion,
    discard: Annotated[
        float, typer.Option(metavar="X", help="rollout: share of the lowest attention left out, 0 to below 1.")
    ] = InspectConfig.discard,
    residual: Annotated[
        float, typer.Option(metavar="A", help="rollout: weight of the skip connection, 0 to below 1.")
    ] = InspectConfig.residual,
    renormalise: Annotated[
        bool, typer.Option("--renormalise", help="distance: attention to patches sums to 1.")
    ] = InspectConfig.renormalise,
    granularity: Annotated[
        str, typer.Option(metavar="WHAT", help=f"cka: layers are {' or '.join(GRANULARITIES)} outputs.")
    ] = InspectConfig.granularity,
    tokens: Annotated[
        str, typer.Option(metavar="WHICH", help=f"cka: {', '.join(TOKENS)} (mean of the patches).")
    ] = InspectConfig.tokens,
    diagonal: Annotated[
        bool, typer.Option("--diagonal", help="cka: each layer with the same layer of the other model.")
    ] = InspectConfig.diagonal,
    minibatch: Annotated[
        int,
        typer.Option(metavar="N", help="cka, heads-vs-cnn, localisation: images compared with each other at a time."),
    ] = InspectConfig.minibatch,
    subset: Annotated[
        int | None,
        typer.Option(metavar="N", help="heads-vs-cnn: heads in a subset (default: a quarter).", show_default=False),
    ] = InspectConfig.subset,
    where: Annotated[
        str,
        typer.Option(
            metavar="WHERE", help=f"receptive-field: {' or '.join(WHERES)}, after or before the skip connection."
        ),
    ] = InspectConfig.where,
    shots: Annotated[int, typer.Option(metavar="N", help="probe: images per class.")] = InspectConfig.shots,
    seeds: Annotated[int, typer.Option(metavar="N", help="probe: support draws.")] = InspectConfig.seeds,
    l2: Annotated[float, typer.Option(metavar="X", help="probe: penalty.")] = InspectConfig.l2,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Of the images' order and of random weights.")
    ] = InspectConfig.seed,
    batch_size: Annotated[
        int, typer.Option(metavar="N", help="Images at a time; the last bits of a result depend on it.")
    ] = InspectConfig.batch_size,
    num_workers: NumWorkersOption = InspectConfig.num_workers,
    num_threads: NumThreadsOption = InspectConfig.num_threads,
    device: DeviceOption = InspectConfig.device,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="Gets NAME.npz, NAME.json, NAME.png (default: RUN/inspect, or inspect).",
            show_default=False,
        ),
    ] = InspectConfig.out,
    as_json: JsonOption = False,
) -> None:
    """Show how a ViT sees: the analyses of the ViT paper and of "Do ViTs see like CNNs?".

    Each writes its arrays, its figures and a picture, and says what to look for. 'all' runs
    those that fit the model, the main ones beside random weights, and writes report.html.
    """
    config = InspectConfig(
        analysis=analysis,
        run=run,
        model=tuple(model) if model else None,
        weights=tuple(weights) if weights else None,
        data=data,
        image_root=image_root,
        image_column=image_column,
        label_column=label_column,
        on_bad_image=on_bad_image,
        num_images=num_images,
        image=tuple(image) if image else None,
        image_size=image_size,
        pos_embed_interp=pos_embed_interp,
        components=components,
        layer=layer,
        head=head,
        query=query,
        fusion=fusion,
        discard=discard,
        residual=residual,
        renormalise=renormalise,
        granularity=granularity,
        tokens=tokens,
        diagonal=diagonal,
        minibatch=minibatch,
        subset=subset,
        where=where,
        shots=shots,
        seeds=seeds,
        l2=l2,
        seed=seed,
        batch_size=batch_size,
        num_workers=num_workers,
        num_threads=num_threads,
        device=device,
        out=out,
    )
    screen = Screen()
    with screen.waiting("starting: loading torch and timm"):
        from vitctl.workflows import inspect_model as workflow
    result = workflow.run(config, screen)
    if as_json:
        print_json(result)
    elif isinstance(result, InspectAllResult):
        _print_all(result)
    else:
        _print_one(result)


def _print_one(result: InspectResult) -> None:
    for number, found in enumerate(result.results):
        if len(result.results) > 1:
            typer.echo(("\n" if number else "") + found.name)
        print_columns(found.header, found.rows[:MOST_ROWS_SHOWN])
        if len(found.rows) > MOST_ROWS_SHOWN:
            typer.echo(f"... and {len(found.rows) - MOST_ROWS_SHOWN} more in {result.analysis}.json")
    typer.echo("")
    print_pairs([("files", f"{result.out}: {', '.join(result.files)}")])
    typer.echo(f"{result.look_for} {result.random_weights}")


def _print_all(result: InspectAllResult) -> None:
    words = {True: "yes", False: "no", None: "cannot be said"}
    rows = []
    for one in result.verdicts:
        rows += [[one.analysis, words[one.holds], one.claim], ["", "", f"  {one.numbers}"]]
    if rows:
        print_columns(["analysis", "holds", "claim"], rows)
        typer.echo("")
    pairs = []
    for skipped in result.skipped:
        if skipped.model is None:
            pairs.append(("left out", f"{skipped.analysis}: {skipped.reason}"))
        else:  # others have it; the report says what to try
            pairs.append(("left out", f"{skipped.analysis} of {skipped.model}: {skipped.reason.split('; ')[0]}"))
    print_pairs([*pairs, ("report", result.report), ("files", result.out)])
    typer.echo(
        "Look at the report for the pictures. Random weights, shown beside the main ones, are what no training looks "
        "like."
    )
