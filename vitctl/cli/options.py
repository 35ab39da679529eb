"""Option types that several commands share; each is the annotation of a parameter."""

from typing import Annotated, Any

import typer

from vitctl.config import DEVICES

DeviceOption = Annotated[
    str, typer.Option(metavar="DEVICE", help=f"Where to compute: {', '.join(DEVICES)}.", show_default=True)
]
NumWorkersOption = Annotated[
    int | None,
    typer.Option(metavar="N", help="Processes that read images; no result depends on it.", show_default=False),
]
NumThreadsOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="CPU threads of torch; the last bits of a result depend on it.",
        show_default=False,
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
OnBadImageOption = Annotated[
    str, typer.Option(metavar="WHAT", help="Images that cannot be read: fail, or skip (leave out and count).")
]
ImageRootOption = Annotated[
    str | None,
    typer.Option(
        metavar="DIR", help="Folder that a table's relative paths start from; else the table's own.", show_default=False
    ),
]
ImageColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of images or paths, if not found.", show_default=False)
]
LabelColumnOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Column of classes, if not found.", show_default=False)
]
GroupColumnOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Column whose equal values (patient, video) stay on one side of the split.",
        show_default=False,
    ),
]
GroupPatternOption = Annotated[
    str | None,
    typer.Option(
        metavar="PATTERN", help="The same from the images' paths, e.g. '{group}/*' or '{group}_*'.", show_default=False
    ),
]
RunArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="RUN", help="Run folder (best/, of a stopped run last/) or timm folder.", show_default=False
    ),
]
ClassifierModelOption = Annotated[
    str | None, typer.Option(metavar="NAME", help="Instead of RUN: demo or a timm name.", show_default=False)
]
ClassifierWeightsOption = Annotated[
    str, typer.Option(metavar="SPEC", help="With --model: pretrained, none, or a weights file.")
]


def given_options(context: typer.Context) -> dict[str, Any]:
    """Return the parameters that stand on the command line, without those left at their default."""
    return {
        name: value
        for name, value in context.params.items()
        if (source := context.get_parameter_source(name)) is not None and source.name == "COMMANDLINE"
    }
