"""Whether local heads compute what a CNN's low layers do."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from vitctl.errors import SettingError
from vitctl.inspecting.verdicts import no_claims as judge  # noqa: F401
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import Minibatch, OnImages
from vitctl.settings.option import Opt, at_least
from vitctl.settings.parsing import block_number

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages, Minibatch):
    """Settings of ``vitctl inspect heads-vs-cnn``."""

    layer: Annotated[
        int | None, Opt("The block whose heads are compared, from 0 (default: 1).", "LAYER", parse=block_number)
    ] = None
    subset: Annotated[int | None, Opt("Heads in a subset (default: a quarter).", "N", limits=(at_least(1),))] = None

    def check_together(self) -> None:
        """Check that there are two models."""
        super().check_together()
        if len(self.named) != 2:
            raise SettingError(
                f"heads-vs-cnn compares two models and {len(self.named)} {'is' if len(self.named) == 1 else 'are'} "
                "given; expected a ViT first and a CNN, e.g. --model resnet50.",
                field="model",
            )


WORDS = Words(
    place=70,
    title="Heads against a CNN",
    question="Are local heads the ones that compute what a CNN's low layers do?",
    method="Heads of a block sorted by mean attention distance; CKA between what a sliding subset of them gives "
    "and the CNN's lower layers.",
    look_for="Look for similarity that falls as the subsets get more global.",
    random_weights="Random weights would show a trend by chance only: their heads differ by a fraction of a pixel.",
    source="R, figure 5",
    needs_attention=True,
    most_models=2,
    example="runs/photos --model resnet50",
)


_BLOCK = 1  # R, figure 5


def analyse(options: Options, conversation: "Conversation", vit: "View", cnn: "View") -> "Findings":
    """Return how similar subsets of heads, from local to global, and a CNN's lower layers are."""
    from vitctl.inspecting.heads_vs_cnn import heads_vs_cnn

    if vit.subject.kind != "attention" and cnn.subject.kind == "attention":
        raise SettingError(f"heads-vs-cnn takes the ViT first, and {vit.subject.name} is none; swap the two.")
    return heads_vs_cnn(
        vit.subject,
        cnn.subject,
        [vit.images, cnn.images],
        layer=_BLOCK if options.layer is None else options.layer,
        subset=options.subset,
        minibatch=options.minibatch,
        conversation=conversation,
    )
