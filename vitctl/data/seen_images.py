"""Which images somebody evaluates on were in the training of the run: scores on those are too good to be true."""

from pathlib import Path

import numpy as np

from vitctl.conversation import Setting
from vitctl.data.run_lists import TRAINING, trained_on
from vitctl.data.scan import Scan
from vitctl.primitives.documents import peek_document


def seen_in_training(scan: Scan, run: Path | None) -> np.ndarray | None:
    """Return which of the images that can be read were in the training of ``run``, by content: (N_good,) bool.

    Those count too that a run was trained on from whose weights it started, as far as that one is still there. None
    where nobody knows: the model is of no run, or of one that lists no training images.

    Raises:
        DataError: A list cannot be read.
    """
    hashes = [look.fingerprint for look in scan.looks if look is not None]
    known = None if run is None else trained_on(run, hashes)
    if run is None or known is None:
        return None
    for earlier in runs_before(run):
        known |= trained_on(earlier, hashes) or set()
    return np.array([digest in known for digest in hashes], dtype=bool)


def runs_before(run: Path) -> list[Path]:
    """Return the runs that ``run`` goes back to: that whose weights it started from, that one's, and so on."""
    found: list[Path] = []
    while isinstance(model := peek_document(run / "config.json").get("model"), str):
        run = Path(model).parent
        if Path(model).name not in ("best", "last") or run in found:
            break
        found.append(run)
    return found


def doubts_about_seen(is_seen: np.ndarray | None) -> list[str]:
    """Return a sentence where most of the images, (N,) bool, were in the training."""
    if is_seen is None or 2 * is_seen.sum() <= len(is_seen):
        return []
    if is_seen.all():
        return [f"All {len(is_seen):,} images were in the training: scores on them are too good to be true."]
    return [
        f"{is_seen.sum():,} of the {len(is_seen):,} images were in the training: scores on all of them are too good to "
        "be true. Top-1 of the others is told apart."
    ]


def seen_settings(is_seen: np.ndarray | None, run: Path | None) -> list[Setting]:
    """Return the line of a header that says how many of (N,) bool were in the training; none for a model of no run."""
    if run is None:
        return []
    if is_seen is None:
        return [Setting("seen in training", "unknown", f"{run} has no {TRAINING}: it was made by an older vitctl")]
    why = "compared by content" + "".join(f"; {earlier} counts, which it started from" for earlier in runs_before(run))
    return [Setting("seen in training", f"{is_seen.sum():,} of {len(is_seen):,}", why)]
