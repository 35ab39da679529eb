"""What the first layer picks out of a patch."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vitctl.inspecting.verdicts import Judged, fact, larger
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import InspectConfig
from vitctl.settings.option import Opt, at_least

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(InspectConfig):
    """Settings of ``vitctl inspect filters``."""

    components: Annotated[int, Opt("Principal components to show.", "N", limits=(at_least(1),))] = 28


WORDS = Words(
    place=10,
    title="Patch embedding filters",
    question="Which patterns does the first layer pick out of a patch?",
    method="Principal components of the first layer's filters, their mean subtracted, not scaled; each tile is "
    "stretched to its own range.",
    look_for="Look for smooth, low-frequency patterns and opposed colours, and for few components that explain most.",
    random_weights="Random weights would show noise, and every component explaining about as much as the next.",
    source="V, figure 7 left",
    is_controlled=True,
)


def analyse(options: Options, _conversation: "Conversation", model: "View") -> "Findings":
    """Return the principal components of the first layer's filters."""
    from vitctl.inspecting.filters import filters

    return filters(model.subject, components=options.components)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether the filters are few and smooth."""
    return [
        larger(
            "few components explain most of the filters, fewer than of random ones",
            ("effective rank with random weights", fact(control, "effective_rank")),
            ("of these", fact(found, "effective_rank")),
        ),
        larger(
            "the filters are smooth: neighbouring pixels agree more than in random ones",
            ("correlation", fact(found, "smoothness")),
            ("random weights", fact(control, "smoothness")),
            margin=0.05,
        ),
    ]
