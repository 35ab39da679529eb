"""Which patches a model holds to be alike."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from vitctl.inspecting.verdicts import no_claims as judge  # noqa: F401
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import AnyLayer, OnPictures, QueryPatch

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnPictures, AnyLayer, QueryPatch):
    """Settings of ``vitctl inspect features``."""


WORDS = Words(
    place=100,
    title="Patch features",
    question="Which patches does the model hold to be alike, and do some tokens stand out?",
    method="First three principal components of the patch tokens of all pictures as red, green and blue; cosine to "
    "one patch; Euclidean norms.",
    look_for="Look for parts of the object in one colour, and for lone tokens of huge norm in the background.",
    random_weights="Random weights would colour the patches by their brightness and place.",
    source="arXiv 2309.16588, figures 3 and 4, for the norms",
    example="runs/photos --image cat.jpg --query 3,5",
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return colours, similarities and norms of patch tokens."""
    from vitctl.inspecting.features import features

    pictures = model.pictures
    found = features(
        model.subject, model.images, pictures, layer=options.layer, query=options.query, conversation=conversation
    )
    return model.with_pictures(found, pictures)
