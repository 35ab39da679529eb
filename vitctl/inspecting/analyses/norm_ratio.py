"""How much of a token passes a block unchanged."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitctl.inspecting.verdicts import Judged, mean_over, rises
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import OnImages

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages):
    """Settings of ``vitctl inspect norm-ratio``."""


WORDS = Words(
    place=80,
    title="Skip connections against branches",
    question="How much of a token passes a block unchanged?",
    method="Norm of what the skip connection carries over norm of what the branch adds, per token, then the mean; "
    "and the cosine between them.",
    look_for="Look for a class token that is carried along in the first half and rewritten in the second, and for "
    "patches that do the reverse.",
    random_weights="Random weights would carry patches along nearly unchanged through every block, and let a class "
    "token that starts near zero grow.",
    source="R, figures 7, E.1 and E.2",
    is_controlled=True,
)


def analyse(_options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return what skip connections carry against what branches add."""
    from vitctl.inspecting.norm_ratio import norm_ratio

    return norm_ratio(model.subject, model.images, conversation=conversation)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether the class token is carried along early and the patches late."""
    if not found.facts.get("has_class_token"):
        return []
    ratios = [None if one is None else mean_over(one.arrays["ratio"], axis=1) for one in (found, control)]  # (L, 2)
    return [
        rises(
            f"{tokens}: the skip connection carries {'less' if falls else 'more'} of it with depth",
            "x",
            *(None if ratio is None else ratio[:, column] for ratio in ratios),
            falls=falls,
        )
        for column, tokens, falls in ((0, "class token", True), (1, "patches", False))
    ]
