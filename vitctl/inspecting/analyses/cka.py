"""Which layers compute similar things."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

from vitctl.errors import SettingError
from vitctl.inspecting.verdicts import Judged, larger, mean_off_diagonal
from vitctl.inspecting.words import Words
from vitctl.settings import words
from vitctl.settings.inspect_model import Minibatch, OnImages
from vitctl.settings.option import Opt

if TYPE_CHECKING:
    from vitctl.conversation import Conversation
    from vitctl.inspecting.findings import Findings
    from vitctl.inspecting.view import View


@dataclass(frozen=True, kw_only=True)
class Options(OnImages, Minibatch):
    """Settings of ``vitctl inspect cka``."""

    granularity: Annotated[
        str,
        Opt(f"Layers are {' or '.join(words.GRANULARITIES)} outputs.", "WHAT", choices=words.GRANULARITIES),
    ] = "block"
    tokens: Annotated[str, Opt(f"{', '.join(words.TOKENS)} (mean of the patches).", "WHICH", choices=words.TOKENS)] = (
        "all"
    )
    diagonal: Annotated[bool, Opt("Each layer with the same layer of the other model.")] = False

    def check_together(self) -> None:
        """Check that there are one or two models."""
        super().check_together()
        if len(self.named) > 2:
            raise SettingError(
                f"cka compares two models and {len(self.named)} are given; expected one or two.", field="model"
            )
        if self.diagonal and len(self.named) != 2:
            raise SettingError(
                "--diagonal compares the layers of two models and one is given; name another with --model.",
                field="diagonal",
            )


WORDS = Words(
    place=60,
    title="Similarity of layers (CKA)",
    question="Which layers compute similar things, within a model or across two?",
    method="Linear centred kernel alignment with the unbiased HSIC estimator, numerators and denominators summed "
    "over minibatches in float64.",
    look_for="Look at the whole map: a trained ViT is one even region, a ResNet has blocks of its stages; across "
    "models, low ViT layers resemble the lower half of a ResNet.",
    random_weights="Random weights would show a map that is bright everywhere: little is added to the skip connection.",
    source="R, figures 1, 2 and 12, appendix G",
    is_controlled=True,
    most_models=2,
    example="runs/photos --model vit_small_patch16_224 --diagonal",
)


_OF_DIAGONAL = {
    "question": "Which layers did training change?",
    "look_for": "Look for layers well below 1, which training changed; fine-tuning mostly changes the last ones.",
    "random_weights": "Random weights would be near 0 beside trained ones, except where the input shows through.",
    "source": "R, figure 12 and appendix G",
}


def analyse(options: Options, conversation: "Conversation", *models: "View") -> "Findings":
    """Return how similar the layers of a model, or of two, are."""
    from vitctl.inspecting.cka import cka

    found = cka(
        [model.subject for model in models],
        [model.images for model in models],
        granularity=options.granularity,
        tokens=options.tokens,
        minibatch=options.minibatch,
        diagonal=options.diagonal,
        conversation=conversation,
    )
    return replace(found, words=_OF_DIAGONAL) if options.diagonal else found


def judge(found: "Findings", control: "Findings | None") -> list[Judged]:
    """Return whether layers are alike, as those of a ViT are, and less than those of random weights."""
    claims = []
    if found.facts.get("kinds") == ["attention", "convolutions"] and "cka_self_1" in found.arrays:
        first, second = (mean_off_diagonal(found.arrays[name]) for name in ("cka_self_1", "cka_self_2"))
        claims.append(
            larger(
                "the layers of a ViT are more alike than those of a CNN",
                ("mean CKA between layers", first),
                ("of the CNN", second),
            )
        )
    own = found.arrays.get("cka_self_1", found.arrays["cka"])
    if control is not None and own.ndim == 2 and own.shape[0] == own.shape[1]:
        claims.append(
            larger(
                "training moves the layers apart: with random weights all are alike",
                ("mean CKA between layers with random weights", mean_off_diagonal(control.arrays["cka"])),
                ("of these", mean_off_diagonal(own)),
            )
        )
    return claims
