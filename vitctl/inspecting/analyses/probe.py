"""In which layers a linear classifier finds the class."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from vitctl.inspecting.verdicts import Judged, fact, larger, rises
from vitctl.inspecting.words import Words
from vitctl.results.inspect_model import InspectedImages
from vitctl.settings.inspect_model import OnImages, Probes
from vitctl.settings.words import DIGITS

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.data.source import SourceOptions
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages, Probes):
    """Settings of ``vitctl inspect probe``: its ``num_images`` are test images, which no support has."""

    @property
    def draws(self) -> str:
        """How many images are in the supports, and how many are scored."""
        return f"{self.shots} a class, {self.seeds} times; {self.count} test images at most"


WORDS = Words(
    place=120,
    title="Linear probes",
    question="In which layers, and in which tokens, can a linear classifier find the class?",
    method="Closed-form few-shot classifiers on frozen features, the code of vitctl fewshot-eval, per layer, per "
    "patch token and per pooling: native is the model's own, cls the class token, mean that of the patches, "
    "mean-all that of all tokens, first the first patch, tokens each patch alone, their accuracies averaged.",
    look_for="Look for accuracy that rises with depth, and for single patch tokens that stay weak where the model "
    "was trained with a class token.",
    random_weights="Random weights would stay well below, and gain little from block to block.",
    source="R, figures 11 and 13, D.4; V, section 4.1",
    is_controlled=True,
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return what linear few-shot classifiers reach on every layer."""
    from vitctl.inspecting.probe import draw_task, probe

    task = draw_task(
        *_data(options),
        shots=options.shots,
        seeds=options.seeds,
        num_test_images=options.count,
        seed=options.seed,
        skip_bad=options.on_bad_image == "skip",
        conversation=conversation,
    )
    found = probe(
        model.subject,
        model.opened,
        task,
        shots=options.shots,
        l2=options.l2,
        seed=options.seed,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        conversation=conversation,
    )
    facts = found.facts
    reason = f"test images; {facts['num_support']} of the others in each support"
    shown = InspectedImages(data=facts["data"], num_images=facts["num_test"], num_available=None, reason=reason)
    return replace(found, images=shown)


def _data(options: Options) -> tuple[str, "SourceOptions"]:
    """Return the data spec and how to read it: what was given, else that of the run, else the embedded digits."""
    from vitctl.data.run_images import data_of_run
    from vitctl.data.source import SourceOptions
    from vitctl.models.run_folders import run_of

    run = run_of(options.run)
    if options.data is None and run is not None:
        return data_of_run(run)
    return options.data or DIGITS, SourceOptions.of(options)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether the class is easier to find in higher layers, and easier than with random weights."""
    pools = [str(pool) for pool in found.arrays["pools"]]
    if "native" not in pools:
        return []
    own, random = (
        # after a block: before, a class token has seen nothing
        None if one is None else one.arrays["accuracy"][one.arrays["layers"] != "embed", pools.index("native")]
        for one in (found, control)
    )
    margin = fact(found, "interval_half_width") or 0.0
    return [
        rises("accuracy rises with depth", "top-1", own, random, margin=margin),
        larger(
            "the last layer is better than that of random weights",
            ("last layer", None if own is None else float(own[-1])),
            ("random weights", None if random is None else float(random[-1])),
            margin=margin,
        ),
    ]
