"""What the runs of a sweep say of their validation images, as tables: of a combination, paired with those of another.

Letters: S runs (seeds) of a combination, M images of a part. Without cross-validation there is one part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vitctl.errors import DataError
from vitctl.evaluation.metrics import nll_per_image
from vitctl.primitives.documents import peek_document
from vitctl.run_folders.kept_logits import KEPT, KeptLogits, read_logits
from vitctl.run_folders.layout import SUMMARY
from vitctl.sweeping.planning import PlannedRun

Tables: TypeAlias = "list[np.ndarray]"


@dataclass(frozen=True, eq=False)
class CellScores:
    """What the runs of one combination say.

    Attributes:
        correct: (S, M) float64 of each part, 1 where a run is right.
        nll: (S, M) float64 of each part, nats.
        first: What the first run of each part says: which images these are, in the order of the tables' columns.
    """

    correct: Tables
    nll: Tables
    first: list[KeptLogits]

    @property
    def num_images(self) -> int:
        """Images of all parts."""
        return sum(table.shape[1] for table in self.correct)

    @property
    def per_run(self) -> tuple[float, ...]:
        """Accuracy of each run, 0-1: by seed, and of each by part."""
        num_seeds = self.correct[0].shape[0]
        return tuple(float(table[seed].mean()) for seed in range(num_seeds) for table in self.correct)


def cell_scores(runs: Sequence[PlannedRun], *, like: CellScores | None = None) -> CellScores | None:
    """Return what finished runs of one combination say; None where they were not validated.

    Args:
        runs: All of its runs.
        like: Scores of another combination, whose images they are to be put in the order of.

    Raises:
        DataError: They were validated on different images, or on others than ``like``; a file is damaged.
    """
    # here, not above: it imports torch, and the runs of a sweep are started before there is anything to score
    from vitctl.run_folders.same_images import on_same_images

    correct, nll, first = list[np.ndarray](), list[np.ndarray](), list[KeptLogits]()
    folds = sorted({run.fold for run in runs}, key=lambda fold: fold or 0)
    for part, fold in enumerate(folds):
        some = sorted((run for run in runs if run.fold == fold), key=lambda run: run.seed)
        said = [(run.title, kept) for run in some if (kept := said_by(run.out)) is not None]
        if len(said) < len(some):
            return None
        before = [] if like is None else [("the first combination", like.first[part])]
        same = on_same_images(
            [kept for _, kept in (*before, *said)],
            [name for name, _ in (*before, *said)],
            advice="Their data or classes differ.",
        )
        logits = same.logits[len(before) :]
        correct.append(np.stack([one.argmax(axis=1) == same.labels for one in logits]).astype(np.float64))
        nll.append(np.stack([nll_per_image(one, same.labels) for one in logits]))
        first.append(KeptLogits(logits[0], same.labels, same.hashes, same.class_names))
    return CellScores(correct, nll, first)


def said_by(run: Path) -> KeptLogits | None:
    """Return what a finished run says; None where it was not validated.

    Raises:
        DataError: It was, and what it said is gone or damaged; nothing computes it again here.
    """
    what = "is gone"
    try:
        kept = read_logits(run)
    except DataError:
        kept, what = None, "is damaged"
    if kept is None and (what == "is damaged" or peek_document(run / SUMMARY).get("num_val")):
        raise DataError(
            f"{run / KEPT} {what}; expected what the run says of its validation images. Remove {run}, and the "
            "same command trains it again."
        )
    return kept


def paired_scores(runs: Sequence[PlannedRun], first: CellScores | None) -> tuple[CellScores | None, bool]:
    """Return what runs say, in the order of the images of ``first`` where they are the same, and whether they are.

    Raises:
        DataError: The runs were validated on different images among themselves; a file is damaged.
    """
    if first is not None:
        try:
            return cell_scores(runs, like=first), True
        except DataError:
            pass
    return cell_scores(runs), first is None
