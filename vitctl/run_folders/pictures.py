"""A run's validation images to be looked at, by the order in which it lists them: their names, and small pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitctl.data.looks import Looks
from vitctl.data.run_images import images_of_run
from vitctl.data.run_lists import read_listing
from vitctl.data.source import Split
from vitctl.data.survey import thumbnail
from vitctl.errors import VitctlError


@dataclass(frozen=True)
class ShownImages:
    """Images in the order of ``hashes``.

    Attributes:
        hashes: N, of their content.
        names: N.
        split: Where they are; None where they are gone.
        why: Why they are; empty where they are not.
    """

    hashes: Sequence[str]
    names: Sequence[str]
    split: Split | None
    why: str = ""

    @classmethod
    def of_run(cls, run: Path, hashes: Sequence[str]) -> "ShownImages":
        """Return the validation images of ``run``, whose order is that of ``hashes``."""
        names = hashes
        try:
            listing = read_listing(run, "")
            if listing is not None and len(listing.images) == len(hashes):
                names = listing.images
            split = images_of_run(run, None, advice="").split
        except VitctlError as error:  # there are figures without pictures, whatever is wrong with the images
            return cls(hashes, names, None, str(error).rstrip())
        if len(split) != len(hashes):
            return cls(hashes, names, None, f"{run} lists {len(split):,} images and has seen {len(hashes):,}")
        return cls(hashes, names, split)

    def pictures(
        self, positions: Sequence[int], *, side: int, looks: Looks, max_value: int | None
    ) -> list[np.ndarray | None]:
        """Return pictures of some images, (S, S, 3) uint8 each, S being ``side`` px; None of one that has changed.

        Args:
            positions: Which.
            side: px.
            looks: Looks whether they are what they were.
            max_value: Of 16-bit images, the value that is white; None is 65,535.
        """
        if self.split is None:
            return [None] * len(positions)
        chosen = self.split.select(list(positions))
        found: list[np.ndarray | None] = []
        for index, digest in enumerate(looks.scan(chosen).fingerprints):
            is_same = digest == self.hashes[positions[index]]
            found.append(thumbnail(chosen, index, side=side, max_value=max_value) if is_same else None)
        return found
