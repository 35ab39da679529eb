"""Whether a model knows where its patches are."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitctl.inspecting.verdicts import Judged, fact, larger, more_than_random
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import InspectConfig, Size

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(InspectConfig, Size):
    """Settings of ``vitctl inspect pos-embed``: the embeddings are also resampled to ``image_size``."""


WORDS = Words(
    place=20,
    title="Position embedding similarity",
    question="Has the model learnt where its patches are?",
    method="Cosine between the position embeddings of every two patches; the tile at (row, column) shows that of "
    "this patch with all others. Prefix tokens are left out.",
    look_for="Look for tiles that are brightest at their own place and fade with distance, and for bright rows and "
    "columns.",
    random_weights="Random weights would show one bright dot per tile, and noise around it.",
    source="V, figures 7 centre and 10; section 3.2 for resampling",
    is_controlled=True,
)


_PEAKED = 0.9  # share of position embeddings most like themselves (or a neighbour's); a guess
_CORRELATED = 0.2  # between similarity and nearness; a guess: random weights stay within 0.05, the demo shows 0.5


def analyse(options: Options, _conversation: "Conversation", model: "View") -> "Findings":
    """Return how alike the position embeddings are."""
    from vitctl.inspecting.position import pos_embed

    return pos_embed(model.subject, image_size=options.image_size, method=model.opened.interpolation.value)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether similarity of position embeddings follows from where they are."""
    return [
        more_than_random(
            "a position embedding is most similar to itself",
            ("share of positions", fact(found, "peak_is_self")),
            fact(control, "peak_is_self"),
            least=_PEAKED,
        ),
        more_than_random(
            "similarity falls with distance, which it does not for random weights",
            ("correlation with nearness", fact(found, "correlation_with_distance")),
            fact(control, "correlation_with_distance"),
            least=_CORRELATED,
        ),
        larger(
            "patches of one row or column are more alike than others as far apart",
            ("excess", fact(found, "row_column_excess")),
            ("random weights", fact(control, "row_column_excess")),
            margin=0.02,
        ),
    ]
