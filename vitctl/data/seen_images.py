"""Which images somebody evaluates on were in the training of the run: scores on those are too good to be true."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vitctl.conversation import Setting
from vitctl.data.run_lists import TRAINING, trained_on
from vitctl.data.run_places import beside_as_before
from vitctl.data.scan import Scan
from vitctl.primitives.documents import peek_document
from vitctl.settings.words import WHICH


@dataclass(frozen=True)
class SeenImages:
    """What is known of the images that were in the training of a run.

    Attributes:
        run: The run folder; None where the model is of no run.
        listed: Which images are on a list that is there, (N_good,) bool: at least these were in the training.
        earlier: The runs that it goes back to.
        unknown: Those of all these runs of whose training images nobody knows.
    """

    run: Path | None
    listed: np.ndarray
    earlier: tuple[Path, ...] = ()
    unknown: tuple[Path, ...] = ()

    @property
    def is_seen(self) -> np.ndarray | None:
        """Which images were in the training, (N_good,) bool; None where nobody knows all of it."""
        return None if self.run is None or self.unknown else self.listed


def seen_in_training(scan: Scan, run: Path | None) -> SeenImages:
    """Return which of the images that can be read were in the training of ``run``, by content.

    Those count too that a run was trained on from whose weights it started.

    Raises:
        DataError: A list cannot be read.
    """
    hashes = [look.fingerprint for look in scan.looks if look is not None]
    earlier = () if run is None else tuple(runs_before(run))
    lists = {one: trained_on(one, hashes) for one in (*([] if run is None else [run]), *earlier)}
    known = set[str]().union(*(found for found in lists.values() if found is not None))
    listed = np.array([digest in known for digest in hashes], dtype=bool)
    return SeenImages(run, listed, earlier, tuple(one for one, found in lists.items() if found is None))


def runs_before(run: Path) -> list[Path]:
    """Return the runs that ``run`` goes back to: that whose weights it started from, that one's, and so on.

    One that was moved together with ``run`` is found; one that is gone is told where it was, and is the last.
    """
    found: list[Path] = []
    while isinstance(model := peek_document(run / "config.json").get("model"), str):
        place, name = os.path.split(model)
        if name not in WHICH:
            break
        run = Path(beside_as_before(place, run) or place)
        if run in found or (run.exists() and "vitctl" not in peek_document(run / "config.json")):
            break
        found.append(run)
    return found


def doubts_about_seen(seen: SeenImages) -> list[str]:
    """Return a sentence where most of the images were in the training, and one where an earlier training is unknown."""
    num_seen, num_images = int(seen.listed.sum()), len(seen.listed)
    doubts = [
        f"What {earlier} was trained on, from whose weights {seen.run} started, is not known: {_why_unknown(earlier)}. "
        "Images of it may be among these, and scores on them are too good to be true."
        for earlier in seen.unknown
        if earlier != seen.run
    ]
    if 2 * num_seen <= num_images:
        return doubts
    if num_seen == num_images:
        return [f"All {num_images:,} images were in the training: scores on them are too good to be true.", *doubts]
    apart = " Top-1 of the others is told apart." if seen.is_seen is not None else ""
    return [
        f"{num_seen:,} of the {num_images:,} images were in the training: scores on all of them are too good to be "
        f"true.{apart}",
        *doubts,
    ]


def seen_settings(seen: SeenImages) -> list[Setting]:
    """Return the line of a header that says how many images were in the training; none for a model of no run."""
    if seen.run is None:
        return []
    if seen.run in seen.unknown:
        why = f"{seen.run} has no {TRAINING}: it was made by an older vitctl"
        return [Setting("seen in training", "unknown", why)]
    if not seen.unknown:
        why = "compared by content" + "".join(f"; {one} counts, which it started from" for one in seen.earlier)
        return [Setting("seen in training", f"{seen.listed.sum():,} of {len(seen.listed):,}", why)]
    earlier = seen.unknown[0]
    why = f"{seen.listed.sum():,} of {len(seen.listed):,} at least; it started from {earlier}: {_why_unknown(earlier)}"
    return [Setting("seen in training", "unknown", why)]


def _why_unknown(run: Path) -> str:
    return f"it has no {TRAINING}" if run.exists() else "it is gone"
