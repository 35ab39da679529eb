"""How well a way to train does: the test error of every set, over seeds; resumable.

``python tests/benchmarks/accuracy.py --sets DIR --out DIR [--use report] [--recipe NAME] [-- OPTIONS OF FINETUNE]``.
``sets.py`` makes the sets. Each is a sweep of its own below ``--out``: what is trained and evaluated is not done again.
Settings other than those of a former call need another ``--out``, which the sweep itself says.

The test images are no part of training. The interval is of 95 %, for other seeds and other images, and takes images for
independent, which frames of one unit (sprites) or letters of one font are not: other families may differ by more.
Seconds are the wall's, of training and validation, and count only if nothing else runs.

Each peer that is compared at equal wall time has a file of its own, ``accuracy_PEER.py``; so far there is none.
"""

import argparse
import csv
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch are imported

import numpy as np
from sets import DEVELOPMENT, REPORT, names_of

from vitctl.evaluation.comparison import estimate
from vitctl.primitives.documents import parse_document
from vitctl.primitives.files import write_json

IMAGE_SIZE = 32


@dataclass(frozen=True)
class Score:
    """How well one set is told apart after training.

    Attributes:
        name: Of the set.
        error: Share of test images that are wrong, mean over the seeds, 0-1.
        error_ci95: Its interval.
        num_test: Test images.
        num_seeds: Runs.
        training_s: Wall seconds of a run, mean.
        runs: Their folders, by seed.
    """

    name: str
    error: float
    error_ci95: tuple[float, float]
    num_test: int
    num_seeds: int
    training_s: float
    runs: tuple[str, ...]

    def __str__(self) -> str:
        low, high = self.error_ci95
        return f"{self.name:<14}{self.error:>8.1%}  [{low:.1%}, {high:.1%}]{self.num_test:>8,}{self.training_s:>8.0f} s"


def judge(data: Path, out: Path, options: Sequence[str], seeds: int) -> Score:
    """Train a set with so many seeds, test each run, and return the score; what is there is taken as it is."""
    told = _vitctl("sweep", "--data", str(data), "--out", str(out), "--seeds", str(seeds), *options)
    runs = [Path(run) for run in told["cells"][0]["runs"]]
    if len(told["cells"]) != 1 or told["cells"][0]["state"] != "finished":
        raise SystemExit(f"{out}: expected one combination whose runs did not diverge. Leave out --grid, or change it.")
    for run in runs:
        if not (run / "evaluate-test" / "evaluation.json").is_file():
            _vitctl("evaluate", str(run), "--split", "test")
    return score_of(data.name, runs)


def score_of(name: str, runs: Sequence[Path]) -> Score:
    """Return the score of runs that are finished and tested.

    Raises:
        ValueError: They were not tested on the same images.
    """
    tested = [_predictions(run / "evaluate-test" / "predictions.csv") for run in runs]
    if any(each.keys() != tested[0].keys() for each in tested):
        raise ValueError(f"{name}: runs were tested on other images. Remove their evaluate-test folders.")
    table = np.array([[each[image] for image in tested[0]] for each in tested])
    found = estimate(table)
    return Score(
        name=name,
        error=1 - found.mean,
        error_ci95=(1 - found.ci95[1], 1 - found.ci95[0]),
        num_test=table.shape[1],
        num_seeds=len(runs),
        training_s=float(
            np.mean([parse_document((run / SUMMARY).read_bytes(), dict[str, Any])["wall_s"] for run in runs])
        ),
        runs=tuple(str(run) for run in runs),
    )


SUMMARY = "summary.json"


def _predictions(path: Path) -> dict[str, bool]:
    """Return whether each image was told right, by its path."""
    with path.open(newline="") as file:
        return {row["image"]: row["true"] == row["predicted"] for row in csv.DictReader(file)}


def _vitctl(*arguments: str) -> Any:
    """Return the JSON that a command prints; its conversation is shown as it comes."""
    done = subprocess.run([sys.executable, "-m", "vitctl", *arguments, "--json"], stdout=subprocess.PIPE)
    if done.returncode:
        raise SystemExit(done.returncode)
    return parse_document(done.stdout, dict[str, Any])


def main(arguments: Sequence[str] | None = None) -> int:
    """Judge every set, print the table, write ``accuracy.json``; return 2 where a set is not there."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    place = given.index("--") if "--" in given else len(given)
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--sets", type=Path, required=True, metavar="DIR", help="what sets.py made")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--use", choices=(DEVELOPMENT, REPORT), default=DEVELOPMENT)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these folders of --sets, whatever they are for")
    parser.add_argument("--model", default="demo")
    parser.add_argument("--recipe")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(given[:place])
    names = args.only or names_of(args.use)
    if missing := [name for name in names if not (args.sets / name / "test").is_dir()]:
        print(f"{args.sets / missing[0]}: no such set. Make it: python tests/benchmarks/sets.py", file=sys.stderr)
        return 2
    own = ["--model", args.model, *(["--recipe", args.recipe] if args.recipe else [])]
    options = [*own, "--image-size", str(IMAGE_SIZE), *given[place + 1 :]]
    scores = [judge(args.sets / name, args.out / name, options, args.seeds) for name in names]
    print(f"{'set':<14}{'error':>8}  {'95 %':<14}{'images':>8}{'a run':>10}")
    print(*scores, sep="\n")
    write_json(args.out / "accuracy.json", {"options": options, "scores": [asdict(score) for score in scores]})
    return 0


if __name__ == "__main__":
    sys.exit(main())
