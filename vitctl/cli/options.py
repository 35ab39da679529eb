"""Options that say how to print, which several commands share; what to do is said by settings."""

from typing import Annotated

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document.")]
