"""Average the weights of runs, all of them and greedily, and judge both on the development images (arXiv 2203.05482).

Letters: M images, C classes, A channels.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitctl.conversation import Conversation
from vitctl.data.checked_images import good_images
from vitctl.data.loader import evaluation_batches
from vitctl.data.looks import Looks
from vitctl.data.run_images import images_of_run
from vitctl.data.source import Split, align_classes
from vitctl.data.transforms import EvaluationTransform
from vitctl.data.workers import batch_bytes, resolve_num_workers
from vitctl.errors import SettingError
from vitctl.evaluation.classify import split_logits
from vitctl.evaluation.metrics import mean_nll, top_k_accuracy
from vitctl.models.checkpoints import read_checkpoint
from vitctl.models.folder_config import read_folder_config
from vitctl.models.prepared import PreparedModel, open_model
from vitctl.models.timm_folder import save_timm_folder
from vitctl.primitives.devices import enough_memory, resolve_device, resolve_num_threads
from vitctl.primitives.documents import UnusableDocument, parse_document, peek_document
from vitctl.primitives.files import write_json
from vitctl.primitives.outputs import writing
from vitctl.primitives.seeds import epoch_permutation
from vitctl.results.sweep import Soup
from vitctl.run_folders.seen import FINISHED, SeenRun, look_at
from vitctl.settings.sweep import SweepConfig
from vitctl.sweeping.ingredients import check_ingredients
from vitctl.sweeping.pot import Pot, Weights, greedy_soup, recompute_statistics

FILE = "soup.json"
_BATCH = 64
_MOST_FOR_STATISTICS = 10_000  # guess: of so many images a mean and a variance per channel are known well enough
_ADVICE = "A soup is judged on the images that its runs were judged on; bring them back, or leave out --soup."


@dataclass(frozen=True)
class _Found:
    """How a mean did on the development images: its loss by the metric of the choice, and its accuracy, 0-1."""

    loss: float
    top1: float
    nll: float


@dataclass
class _Judge:
    """Shows means to the development images.

    Attributes:
        opened: The model, whose weights are replaced.
        dev: The development images.
        train: Returns the training images, which are looked at where running statistics are computed anew.
        by: ``nll`` or ``top1``.
        device: Where to compute.
        num_workers: Processes that read images, as given.
        is_in_memory: Whether reading an image costs next to nothing.
        conversation: Shows progress.
    """

    opened: PreparedModel
    dev: Split
    train: Callable[[], Split]
    by: str
    device: torch.device
    num_workers: int | None
    is_in_memory: bool
    conversation: Conversation

    def weights(self, pot: Pot) -> Weights:
        """Return the mean with fitting running statistics, each tensor of its own shape, e.g. (A,), on the CPU."""
        model = self.opened.model
        model.load_state_dict(pot.mean())
        if stale := pot.stale_norms(model):
            recompute_statistics(model.to(self.device), stale, self._batches())
        return {name: one.detach().cpu().clone() for name, one in model.state_dict().items()}

    def found(self, pot: Pot, name: str) -> _Found:
        """Return how the mean does."""
        self.opened.model.load_state_dict(self.weights(pot))
        with enough_memory(self.device, _BATCH):
            logits = split_logits(
                self.opened.model.to(self.device),
                self.dev,
                self.opened.preprocessing,
                batch_size=_BATCH,
                num_workers=self._workers(),
                device=self.device,
                description=name,
                conversation=self.conversation,
            )
        nll, top1 = mean_nll(logits, self.dev.labels), top_k_accuracy(logits, self.dev.labels, 1)
        return _Found(_finite(nll if self.by == "nll" else 1 - top1), top1, nll)

    def _workers(self) -> int:
        return resolve_num_workers(
            self.num_workers,
            is_in_memory=self.is_in_memory,
            device_type=self.device.type,
            batch_bytes=batch_bytes(_BATCH, self.opened.image_size),
        ).number

    def _batches(self) -> Iterator[Tensor]:
        """Yield training images (B, 3, H, W) as a validation sees them, mixed, each batch of two or more."""
        train = self.train()
        order = epoch_permutation(len(train), seed=0, epoch=0)[:_MOST_FOR_STATISTICS]
        transform = EvaluationTransform(self.opened.preprocessing)
        mixed = train.select(order.tolist())
        for batch in evaluation_batches(
            mixed, transform, batch_size=_BATCH, num_workers=self._workers(), device=self.device
        ):
            if len(batch) > 1:  # one image has no variance
                yield batch


def _finite(loss: float) -> float:
    return loss if np.isfinite(loss) else float("inf")


def cook(runs: Sequence[Path], config: SweepConfig, out: Path, conversation: Conversation) -> Soup:
    """Write the better soup to ``out``, a timm folder, and return how both did; runs that diverged are left out.

    What was cooked of the same weights is not cooked again.

    Raises:
        SettingError: The runs cannot be averaged.
        DataError: Their images are not there any more, or not the same.
        ModelError: Their weights cannot be used.
    """
    seen = [look_at(run) for run in runs]
    finished = [run for run in seen if run.state == FINISHED]
    if not finished:
        raise SettingError("--soup is given, but no run came to its end; there is nothing to average.", field="soup")
    kept = check_ingredients(finished)
    by = config.select or "nll"
    ingredients = {str(run.path): run.summary.get("weights_sha256") for run in finished}
    if (before := _cooked(out, ingredients, by)) is not None:
        return before
    judge = _judge(finished, config, by, kept.class_names, conversation)
    soup, weights = _best_soup([run.path for run in finished], judge, out)
    with writing(out):
        _write(out, soup, weights, judge.opened, finished[0].path, ingredients)
    return soup


def _cooked(out: Path, ingredients: dict[str, str | None], by: str) -> Soup | None:
    document = peek_document(out / FILE)
    if document.pop("ingredients", None) != ingredients or document.get("by") != by:
        return None
    try:
        return parse_document(json.dumps(document), Soup)
    except UnusableDocument:  # of another version, or changed by a person
        return None


def _judge(
    runs: Sequence[SeenRun], config: SweepConfig, by: str, class_names: tuple[str, ...], conversation: Conversation
) -> _Judge:
    device, _ = resolve_device(config.device)
    resolve_num_threads(config.num_threads)
    looks, run = Looks(conversation), runs[0].path
    dev = images_of_run(run, "val", advice=_ADVICE, look=looks.scan)

    def good(split: Split) -> Split:
        aligned = align_classes(split, class_names, where=f"the images of {run}", advice=_ADVICE)
        return good_images(aligned, looks.scan(aligned))

    return _Judge(
        opened=open_model(str(run / "last")),
        dev=good(dev.split),
        train=lambda: good(images_of_run(run, "train", advice=_ADVICE, look=looks.scan).split),
        by=by,
        device=device,
        num_workers=config.num_workers,
        is_in_memory=dev.source.is_in_memory,
        conversation=conversation,
    )


def _best_soup(runs: Sequence[Path], judge: _Judge, out: Path) -> tuple[Soup, Weights]:
    def weights_of(index: int) -> Weights:
        weights: Weights = read_checkpoint(runs[index] / "last" / "model.safetensors", "safetensors")
        return weights

    count = len(runs)
    alone = [judge.found(Pot().with_(weights_of(index)), f"run {index + 1} of {count}") for index in range(count)]
    order = sorted(range(count), key=lambda index: (alone[index].loss, index))
    first = order[0]

    def judged(pot: Pot) -> _Found:
        return alone[first] if pot.count == 1 else judge.found(pot, f"soup of {pot.count}")

    kept, greedy, found = greedy_soup(order, weights_of, judged)
    everything = Pot()
    for index in range(count):
        everything = everything.with_(weights_of(index))
    uniform = found if len(kept) == count else judge.found(everything, "soup of all")
    options = {"single": alone[first], "greedy": found, "uniform": uniform}
    chosen = min(options, key=lambda name: options[name].loss)  # of equal ones the first: a soup has to be better
    pots = {"greedy": greedy, "uniform": everything}
    soup = Soup(
        out=str(out),
        chosen=chosen,
        by=judge.by,
        num_runs=count,
        greedy_runs=tuple(str(runs[index]) for index in kept),
        greedy_top1=found.top1,
        greedy_nll=found.nll,
        uniform_top1=uniform.top1,
        uniform_nll=uniform.nll,
        single_run=str(runs[first]),
        single_top1=alone[first].top1,
        single_nll=alone[first].nll,
        num_dev=len(judge.dev),
    )
    return soup, judge.weights(pots[chosen] if chosen in pots else Pot().with_(weights_of(first)))


def _write(
    out: Path, soup: Soup, weights: Weights, opened: PreparedModel, run: Path, ingredients: dict[str, str | None]
) -> None:
    origin = read_folder_config(run / "last").base_model
    known = origin if isinstance(origin, dict) else {}
    save_timm_folder(
        opened.model.cpu(),
        out,
        class_names=opened.class_names,
        preprocessing=opened.preprocessing,
        base_model=str(known.get("name", opened.name)),
        base_licence=known.get("license"),
        weights=weights,
        add=lambda folder: write_json(folder / FILE, {**soup.as_json(), "ingredients": ingredients}),
    )
