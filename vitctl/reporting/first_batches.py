"""The picture of what a model is shown in the first steps of a run. Importing this imports no matplotlib."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

COLUMNS = 8


def draw_first_batches(sheets: Sequence[tuple[str, Sequence[np.ndarray], Sequence[str]]], path: Path) -> None:
    """Draw batches below each other.

    Args:
        sheets: Of each batch its title, its pictures, (H, W, 3) uint8 of one size, and their captions.
        path: PNG to write.
    """
    from vitctl.reporting.figures import draw_contact_sheets  # when training has begun, which needs no matplotlib

    draw_contact_sheets(sheets, path, columns=COLUMNS)
