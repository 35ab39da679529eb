"""Where a token looks."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vitctl.inspecting.verdicts import no_claims as judge  # noqa: F401
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import OnPictures, QueryToken
from vitctl.settings.option import Opt, at_least
from vitctl.settings.parsing import block_number

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnPictures, QueryToken):
    """Settings of ``vitctl inspect attention``."""

    layer: Annotated[int | None, Opt("The block to show, from 0.", "LAYER", parse=block_number)] = None
    head: Annotated[int | None, Opt("The head to show, from 0.", "N", limits=(at_least(0),))] = None


WORDS = Words(
    place=30,
    title="Attention maps",
    question="Where does a token look, and do the heads of a block look at different things?",
    method="Softmax of query and key as the model computes it, taken from the fused kernel's inputs. Entropy is "
    "over keys in nats; similarity of two heads is the cosine between their maps.",
    look_for="Look for heads that differ from each other, and for late blocks that find the object.",
    random_weights="Random weights would show even maps: entropy near its maximum, all heads alike.",
    source="V, appendix A and D.8",
    needs_attention=True,
    example="runs/photos --image cat.jpg --layer 11 --query 3,5",
)


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return the maps of some images, and how even and how alike the heads are over all."""
    from vitctl.inspecting.attention_maps import attention

    pictures = model.pictures
    found = attention(
        model.subject,
        model.images,
        pictures,
        query=options.query,
        layer=options.layer,
        head=options.head,
        conversation=conversation,
    )
    return model.with_pictures(found, pictures)
