"""How far heads look."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vitctl.inspecting.verdicts import Judged, larger, rises
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import OnImages
from vitctl.settings.option import Opt

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages):
    """Settings of ``vitctl inspect distance``."""

    renormalise: Annotated[bool, Opt("Attention to patches sums to 1, that to prefix tokens left out.")] = False


WORDS = Words(
    place=50,
    title="Mean attention distance",
    question="Do heads look near or far?",
    method="Distance in pixels between a patch and those it attends to, weighted by attention, averaged over "
    "patches and images. Prefix tokens are left out without renormalising, as the authors do, unless told "
    "otherwise.",
    look_for="Look for low blocks that mix local and global heads, and for high blocks whose heads are all global.",
    random_weights="Random weights would put every head of every block on the dashed line of even attention.",
    source="V, figures 7 right and 11, D.7; R, figures 3 and 4",
    needs_attention=True,
    is_controlled=True,
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return the mean attention distance of every head."""
    from vitctl.inspecting.distance import distance

    return distance(model.subject, model.images, renormalise=options.renormalise, conversation=conversation)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether heads look farther, and all alike, in higher blocks."""
    px, uniform = found.arrays["distance_px"], float(found.facts["uniform_px"])
    random = None if control is None else control.arrays["distance_px"]
    margin = 0.01 * uniform
    return [
        rises(
            "low blocks mix local and global heads more than high ones: the spread of heads falls with depth",
            "px",
            px.max(axis=1) - px.min(axis=1),
            None if random is None else random.max(axis=1) - random.min(axis=1),
            margin=margin,
            falls=True,
        ),
        rises(
            "distance grows with depth",
            "px",
            px.mean(axis=1),
            None if random is None else random.mean(axis=1),
            margin=margin,
        ),
        larger(
            "heads leave even attention, at which random weights stay",
            ("mean departure from it in px", float(abs(px - uniform).mean())),
            ("random weights", None if random is None else float(abs(random - uniform).mean())),
            margin=margin,
        ),
    ]
