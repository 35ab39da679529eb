"""Training the head alone on features that are computed once: the bytes of a run that computes them in every step."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from vitctl.conversation import Conversation, Progress, Setting
from vitctl.data.feature_batches import feature_batches
from vitctl.data.loader import training_batches
from vitctl.errors import InterruptedRun
from vitctl.evaluation.classify import split_logits
from vitctl.recipes import load_recipe, override
from vitctl.settings.finetune import FinetuneConfig
from vitctl.training import going_on, job, kept_features
from vitctl.training.head_alone import training_features, validation_logits
from vitctl.training.header import header_settings
from vitctl.training.kept_features import Keeping, decide_keeping
from vitctl.training.trial import measure_cost
from vitctl.workflows import finetune

StoppedAfter = Callable[[int, FinetuneConfig], InterruptedRun]

pytestmark = pytest.mark.usefixtures("no_rendering")

# 29 images in batches of 7: an epoch ends within a batch, and the last is short
HOW = {"batch_size": 7, "epochs": 1.5, "flip": False, "tune": "head", "val_fraction": 0.2, "num_workers": 0,
       "recipe": "demo", "head": "zero"}  # fmt: skip
SETS = ("images.crop=none", "evaluation.validations=2", "evaluation.select_best_from=1")


class Listening(Conversation):
    """Keeps the header, and how many images each bar counted."""

    def __init__(self) -> None:
        self.rows: dict[str, Setting] = {}
        self.counts: dict[str, int] = {}

    def header(self, title: str, settings: list[Setting]) -> None:
        self.rows |= {row.name: row for row in settings}

    @contextmanager
    def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
        counts = self.counts

        class Bar(Progress):
            def advance(self, amount: int = 1, **facts: str) -> None:
                counts[description] = counts.get(description, 0) + amount

        yield Bar()


@pytest.fixture
def config(image_folder: Path, tiny_model_folder: Path) -> Callable[..., FinetuneConfig]:
    def config(out: str, **more: Any) -> FinetuneConfig:
        sets = SETS + more.pop("set", ())
        return FinetuneConfig(data=str(image_folder), model=str(tiny_model_folder), out=out, set=sets, **HOW | more)

    return config


@pytest.fixture
def in_every_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[FinetuneConfig], Any]:
    """Return the function that runs without keeping features."""

    def run(config: FinetuneConfig) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(job, "decide_keeping", lambda *_, **__: Keeping())
            return finetune.run(config, Conversation())

    return run


def bytes_of(folder: str) -> dict[str, bytes]:
    names = ("metrics.jsonl", "last", "best")
    paths = [path for name in names for path in (Path(folder, name), *Path(folder, name).rglob("*"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths if path.is_file()}


def _close(first: str, second: str) -> None:
    for one, two in zip(*(Path(run, "metrics.jsonl").read_text().splitlines() for run in (first, second)), strict=True):
        assert json.loads(one) == pytest.approx(json.loads(two), abs=1e-5)


@pytest.mark.parametrize(
    "more",
    [
        pytest.param({"micro_batch": 2, "class_weights": "balanced"}, id="micro-batches", marks=pytest.mark.slow),
        pytest.param({}, id="plain", marks=pytest.mark.slow),
        pytest.param({"head": "ridge", "sampler": "balanced"}, id="ridge", marks=pytest.mark.slow),
    ],
)
def test_run__is_that_which_computes_them_in_every_step(
    config: Callable[..., FinetuneConfig], in_every_step: Callable[[FinetuneConfig], Any], more: dict[str, Any]
) -> None:
    told = Listening()
    kept = finetune.run(config("kept", **more), told)
    plain = in_every_step(config("plain", **more))
    assert told.rows["features"].value.startswith("kept once: 36 x 16, ")
    _close("kept", "plain")
    assert kept.last.loss == pytest.approx(plain.last.loss, abs=1e-5)
    one, two = (load_file(Path(run, "last", "model.safetensors")) for run in ("kept", "plain"))
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, two[name], rtol=0, atol=1e-5)


def test_images__are_shown_to_the_model_once(config: Callable[..., FinetuneConfig]) -> None:
    told = Listening()
    finetune.run(config("out", head="ridge", set=("images.evaluation_crop=squash",)), told)
    embedded = {name: count for name, count in told.counts.items() if "embed" in name or "valid" in name}
    assert embedded == {"embedding training images": 29, "embedding validation images": 7}


@pytest.mark.slow
def test_run__that_is_stopped_and_goes_on_ends_with_the_same_bytes(
    config: Callable[..., FinetuneConfig], stopped_after: StoppedAfter
) -> None:
    finetune.run(config("whole"), Conversation())
    stopped_after(4, config("parted"))
    told = Listening()
    finetune.run(FinetuneConfig(resume="parted"), told)
    assert told.rows["goes on"].reason == "byte for byte"
    assert bytes_of("parted") == bytes_of("whole")


def test_run__that_goes_on_without_kept_features_says_so(
    config: Callable[..., FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = finetune.prepare(config("out"), Conversation())
    before = going_on.made_with(prepared)
    now = going_on.made_with(replace(prepared, job=replace(prepared.job, keeping=Keeping())))
    assert going_on._differences(now, before) == ["features None instead of kept"]
    assert going_on._differences(before, before) == going_on._differences(now, now) == []


def test_logits_of_validation__are_those_of_the_whole_model(config: Callable[..., FinetuneConfig]) -> None:
    job = finetune.prepare(config("out"), Conversation()).job
    torch.nn.init.normal_(job.kept.head.classifier.weight)
    logits = validation_logits(job, job.kept, job.val, Conversation(), is_stopping=None)
    whole = split_logits(
        job.model, job.val, job.preprocessing, batch_size=64, num_workers=0, device=job.accelerator.device,
        description="", conversation=Conversation(),
    )  # fmt: skip
    assert np.array_equal(logits, whole)


@pytest.mark.parametrize("num_processes", [1, 3])
def test_feature_batches__are_training_batches_of_features(
    config: Callable[..., FinetuneConfig], num_processes: int
) -> None:
    job = finetune.prepare(config("out", class_weights="balanced", micro_batch=2, batch_size=4), Conversation()).job
    features = training_features(job, job.kept, Conversation())
    assert features.shape == (29, 16)
    for index in range(num_processes):
        how = {"class_weights": job.class_weights, "first_step": 4, "process_index": index,
               "num_processes": num_processes}  # fmt: skip
        made = feature_batches(features, job.train.labels, job.batches, **how)
        shown = training_batches(job.train, job.training_transform(), job.batches, num_workers=0, **how)
        for one, other in zip(made, shown, strict=True):
            seen = job.model.forward_head(job.model.forward_features(other.images), pre_logits=True)
            torch.testing.assert_close(one.images, seen, rtol=0, atol=1e-5)
            assert torch.equal(one.labels, other.labels)
            assert torch.equal(one.weights, other.weights)
            assert one[3:] == other[3:]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"flip": True}, "images are mirrored"),
        ({"set": ("images.crop=random-resized-crop",)}, "cropped at random"),
        ({"set": ("images.augment=trivial",)}, "augmented"),
        ({"set": ("images.erasing=0.5",)}, "changed at random"),
        ({"set": ("mixing.mixup=0.5",)}, "mixed"),
        ({"set": ("noise.patch_drop=0.5",)}, "patches are dropped"),
        ({"model_arg": ("proj_drop_rate=0.5", "drop_rate=0.5")}, "dropout"),
        ({"pool": "map"}, "more than one layer"),
    ],
)
def test_features_that_vary__are_computed_in_every_step(
    config: Callable[..., FinetuneConfig], more: dict[str, Any], words: str
) -> None:
    prepared = finetune.prepare(config("out", **more), Conversation())
    assert prepared.job.kept is None
    assert words in prepared.job.keeping.why_not
    row = next(row for row in header_settings(prepared) if row.name == "features")
    assert row.value == "computed in every step"


def test_frozen_noise__does_not_vary(config: Callable[..., FinetuneConfig]) -> None:
    assert finetune.prepare(config("out", set=("noise.drop_path=0.5",)), Conversation()).job.kept is not None


def test_all_that_learns__decides(config: Callable[..., FinetuneConfig]) -> None:
    for more in ({"tune": "full"}, {"tune": "bias"}):
        job = finetune.prepare(config("out", **more), Conversation()).job
        assert job.keeping == Keeping()


def test_memory_that_is_too_small__is_told(
    config: Callable[..., FinetuneConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kept_features, "free_bytes", lambda: 4000)
    job = finetune.prepare(config("out"), Conversation()).job
    assert job.kept is None
    assert job.keeping.why_not == "kept they would take 2.25 KiB, and 3.91 KiB are free"


def test_head_that_is_not_the_end__is_not_taken_for_the_model() -> None:
    class Scaled(torch.nn.Module):
        num_classes = 3

        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = torch.nn.Linear(3 * 4 * 4, 5).requires_grad_(False), torch.nn.Linear(5, 3)

        def get_classifier(self) -> torch.nn.Module:
            return self.head

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return 2 * self.head(self.body(images.flatten(1)))

    recipe = override(load_recipe("demo"), ["images.crop=none"])
    found = decide_keeping(Scaled().eval(), recipe, flip=False, num_images=1, image_size=(4, 4))
    assert found.kept is None
    assert found.why_not == "the model does more with what its classifier says"


def test_cost__is_of_the_features_once_and_of_the_head_in_every_step(config: Callable[..., FinetuneConfig]) -> None:
    job = finetune.prepare(config("out"), Conversation()).job
    kept, plain = measure_cost(job), measure_cost(replace(job, keeping=Keeping()))
    assert kept.step_s < plain.step_s
    assert kept.embedding_s is not None
    assert kept.training_s == pytest.approx(kept.embedding_s + kept.step_s * job.batches.num_steps)
    assert plain.embedding_s is None
    assert kept.memory_bytes - plain.memory_bytes == 4 * 36 * 16
