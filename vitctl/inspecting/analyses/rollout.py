"""From which patches the answer comes, through all blocks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from vitctl.inspecting.verdicts import no_claims as judge  # noqa: F401
from vitctl.inspecting.words import Words
from vitctl.settings import words
from vitctl.settings.inspect_model import NUM_PICTURES, OnPictures, QueryToken, first_images
from vitctl.settings.option import FRACTION, Opt

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnPictures, QueryToken):
    """Settings of ``vitctl inspect rollout``."""

    usual_num_images: ClassVar[int] = NUM_PICTURES
    most_in_report: ClassVar[int | None] = NUM_PICTURES

    num_images: Annotated[int | None, first_images(f"{NUM_PICTURES}")] = None
    fusion: Annotated[
        str, Opt(f"Heads become one map by {', '.join(words.FUSIONS)}.", "HOW", choices=words.FUSIONS)
    ] = "mean"
    discard: Annotated[float, Opt("Share of the lowest attention left out, 0 to below 1.", "X", limits=(FRACTION,))] = (
        0.0
    )
    residual: Annotated[float, Opt("Weight of the skip connection, 0 to below 1.", "A", limits=(FRACTION,))] = 0.5


WORDS = Words(
    place=40,
    title="Attention rollout",
    question="From which patches does the answer come, through all blocks?",
    method="Each block's heads fused into one map, the skip connection added, rows normalised, blocks multiplied.",
    look_for="Look for the object standing out from the background in the last block.",
    random_weights="Random weights would show an almost even map that has nothing to do with the object.",
    source="V, figures 6 and 14, D.8 (after arXiv 2005.00928)",
    needs_attention=True,
    example="runs/photos --image cat.jpg --fusion max --discard 0.5",
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return the product of the blocks' maps, for every image."""
    from vitctl.inspecting.rollout import rollout

    pictures = model.all_pictures
    found = rollout(
        model.subject,
        pictures,
        fusion=options.fusion,
        discard=options.discard,
        residual=options.residual,
        query=options.query,
        conversation=conversation,
    )
    return model.with_pictures(found, pictures)
