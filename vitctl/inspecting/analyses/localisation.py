"""Whether a token still stands for its own place."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitctl.inspecting.verdicts import Judged, fact, more_than_random
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import AnyLayer, Minibatch, OnImages

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages, AnyLayer, Minibatch):
    """Settings of ``vitctl inspect localisation``."""


WORDS = Words(
    place=90,
    title="Token localisation",
    question="Does a token of the last layer still stand for its own place?",
    method="Unbiased CKA between one token and every patch of the input pixels, over images.",
    look_for="Look for maps that are brightest at the token's own place; a model trained with a class token keeps "
    "places, one trained with average pooling less, a CNN hardly.",
    random_weights="Random weights would keep places almost perfectly, since skip connections carry every patch "
    "along: compare with other models, not with noise.",
    source="R, figures 9, 10 and D.1 to D.3",
    is_controlled=True,
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return the similarity of each token with each patch of the pixels."""
    from vitctl.inspecting.localisation import localisation

    return localisation(
        model.subject, model.images, layer=options.layer, minibatch=options.minibatch, conversation=conversation
    )


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether tokens find their own patch."""
    chance = fact(found, "chance")
    if chance is None or 2 * chance >= 1:
        return []  # a map of one or two places
    return [
        more_than_random(
            "a token of the last layer is most similar to its own patch, more often than by chance",
            ("share of tokens", fact(found, "argmax_accuracy")),
            fact(control, "argmax_accuracy"),
            least=2 * chance,
            beside=f"chance {chance:.3g}",
        )
    ]
