"""What moves when the image moves."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from vitctl.inspecting.verdicts import Judged, decided, everywhere, fact
from vitctl.inspecting.words import Words
from vitctl.settings.inspect_model import OnImages, first_images

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages):
    """Settings of ``vitctl inspect equivariance``, which shows each image several times."""

    usual_num_images: ClassVar[int] = 32

    num_images: Annotated[int | None, first_images("32")] = None


WORDS = Words(
    place=130,
    title="Equivariance and invariance",
    question="What happens to the features when the image moves, when patches change places, when the batch changes?",
    method="Relative difference between features of a shifted image and shifted features, away from the borders; "
    "the same for permuted patches; outputs alone against outputs in a batch; cosine between neighbouring patches.",
    look_for="Look for a shift error that position embeddings and attention bring in, for neighbours more alike "
    "than random pairs, and for outputs that do not depend on the batch.",
    random_weights="Random weights would show the same exact symmetries, with smaller errors where they are broken.",
    source="V, section 3.1",
    is_controlled=True,
)


_SAME = 1e-4  # relative difference of outputs; more than rounding in float32


def analyse(options: Options, conversation: "Conversation", model: "View") -> "Findings":
    """Return how features follow shifts, permutations and changes of the batch."""
    from vitctl.inspecting.equivariance import equivariance

    return equivariance(model.subject, model.images, seed=options.seed, conversation=conversation)


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether neighbours are alike, and outputs do not depend on the batch."""
    excesses = [
        None if one is None else one.arrays["neighbour_similarity"] - one.arrays["random_similarity"]
        for one in (found, control)
    ]
    return [
        everywhere("neighbouring patches are more alike than random ones in every layer", "excess", *excesses),
        decided(
            "the output of an image does not depend on the batch",
            {"largest relative difference": fact(found, "batch_invariance_eval")},
            lambda difference: difference < _SAME,
        ),
    ]
