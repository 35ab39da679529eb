"""Which pixels the token in the middle depends on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from vitctl.inspecting.verdicts import Judged, rises
from vitctl.inspecting.words import Words
from vitctl.settings import words
from vitctl.settings.inspect_model import OnPictures, QueryPatch, first_images
from vitctl.settings.option import Opt

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnPictures, QueryPatch):
    """Settings of ``vitctl inspect receptive-field``."""

    usual_num_images: ClassVar[int] = 32  # R, section 5

    num_images: Annotated[int | None, first_images("32")] = None
    where: Annotated[
        str,
        Opt(f"{' or '.join(words.WHERES)}: after or before the skip connection.", "WHERE", choices=words.WHERES),
    ] = "post"


WORDS = Words(
    place=110,
    title="Effective receptive field",
    question="Which pixels does the token in the middle depend on?",
    method="Absolute gradient of the sum over channels at the middle place by every pixel, averaged over images.",
    look_for="Look for a ViT that sees the whole image early with a strong own patch, and a CNN that widens slowly.",
    random_weights="Random weights would show the own patch and an even, faint rest.",
    source="R, figures 6 and C.1 to C.4",
    is_controlled=True,
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return the effective receptive field of one place in every layer."""
    from vitctl.inspecting.receptive_field import receptive_field

    return receptive_field(
        model.subject, model.images, where=options.where, query=options.query, conversation=conversation
    )


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether the field grows, from block to block."""
    extents = [
        None if one is None else one.arrays["extent_px"][one.arrays["layers"] != "embed"] for one in (found, control)
    ]
    return [rises("the receptive field grows with depth", "px", *extents)]
