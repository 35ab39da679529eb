"""Settings of ``vitctl inspect``; ``only`` says which analyses an option is for."""

from dataclasses import dataclass
from typing import Annotated

from vitctl.errors import SettingError
from vitctl.primitives.image_sizes import format_size
from vitctl.settings import words
from vitctl.settings.groups import BadImages, Columns, Compute, Run, check_weights_of_models
from vitctl.settings.option import FRACTION, SEED, Opt, Settings, at_least, at_most, between, described
from vitctl.settings.parsing import listed, pixels, token
from vitctl.settings.words import ALL_ANALYSES, ANALYSES, PRETRAINED


def _of(*analyses: str) -> tuple[str, tuple[str, ...]]:
    return "analysis", analyses


@dataclass(frozen=True, kw_only=True)
class _Analysis(Settings):
    analysis: Annotated[
        str, Opt(f"{', '.join(ANALYSES)}; or all.", "ANALYSIS", is_argument=True, choices=(*ANALYSES, ALL_ANALYSES))
    ]


@dataclass(frozen=True, kw_only=True)
class _ModelsAndImages(Settings):
    model: Annotated[
        tuple[str, ...] | None,
        Opt("Model (ViT or CNN) instead of RUN, or to compare it with: demo, a timm name, a run; repeat.", "NAME"),
    ] = None
    weights: Annotated[
        tuple[str, ...] | None, Opt("pretrained, none (random), or a weights file; once, or once per --model.", "SPEC")
    ] = None
    data: Annotated[
        str | None,
        Opt("Images, anything that finetune --data takes; else the run's validation images, else digits.", "SPEC"),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _Shown(Settings):
    num_images: Annotated[
        int | None,
        Opt(
            "The first N of a seeded order (default: 256; receptive-field, equivariance 32; rollout 4).",
            "N",
            limits=(at_least(1),),
        ),
    ] = None
    image: Annotated[
        tuple[str, ...] | None,
        Opt(
            "attention, rollout, features, receptive-field: images instead of --data; repeat.",
            "FILE",
            only=_of("attention", "rollout", "features", "receptive-field"),
        ),
    ] = None
    image_size: Annotated[
        tuple[int, int] | None,
        Opt(
            "Pixels, height first; else the model's own. pos-embed: also resampled to it.",
            "N|HxW",
            parse=pixels,
            spell=format_size,
        ),
    ] = None
    pos_embed_interp: Annotated[
        str | None,
        Opt(f"Position embeddings: {', '.join(words.INTERPOLATIONS)}.", "METHOD", choices=words.INTERPOLATIONS),
    ] = None


@dataclass(frozen=True, kw_only=True)
class _OfAnalyses(Settings):
    components: Annotated[
        int, Opt("filters: principal components.", "N", limits=(at_least(1),), only=_of("filters"))
    ] = 28
    layer: Annotated[
        str | None,
        Opt(
            "attention, heads-vs-cnn (else 1): a block, from 0; localisation, features: also embed, final.",
            "LAYER",
            parse=lambda given, _option: str(given),
            only=_of("attention", "heads-vs-cnn", "localisation", "features"),
        ),
    ] = None
    head: Annotated[
        int | None, Opt("attention: the head to show, from 0.", "N", limits=(at_least(0),), only=_of("attention"))
    ] = None
    query: Annotated[
        str | tuple[int, int] | None,
        Opt(
            "attention, rollout, features, receptive-field: the token to start from, patches from 0.",
            "cls|ROW,COL",
            parse=token,
            spell=listed,
            only=_of("attention", "rollout", "features", "receptive-field"),
        ),
    ] = None
    fusion: Annotated[
        str,
        Opt(
            f"rollout: heads become one map by {', '.join(words.FUSIONS)}.",
            "HOW",
            choices=words.FUSIONS,
            only=_of("rollout"),
        ),
    ] = "mean"
    discard: Annotated[
        float,
        Opt(
            "rollout: share of the lowest attention left out, 0 to below 1.",
            "X",
            limits=(FRACTION,),
            only=_of("rollout"),
        ),
    ] = 0.0
    residual: Annotated[
        float,
        Opt("rollout: weight of the skip connection, 0 to below 1.", "A", limits=(FRACTION,), only=_of("rollout")),
    ] = 0.5
    renormalise: Annotated[bool, Opt("distance: attention to patches sums to 1.", only=_of("distance"))] = False
    granularity: Annotated[
        str,
        Opt(
            f"cka: layers are {' or '.join(words.GRANULARITIES)} outputs.",
            "WHAT",
            choices=words.GRANULARITIES,
            only=_of("cka"),
        ),
    ] = "block"
    tokens: Annotated[
        str,
        Opt(f"cka: {', '.join(words.TOKENS)} (mean of the patches).", "WHICH", choices=words.TOKENS, only=_of("cka")),
    ] = "all"
    diagonal: Annotated[bool, Opt("cka: each layer with the same layer of the other model.", only=_of("cka"))] = False
    minibatch: Annotated[
        int,
        Opt(
            "cka, heads-vs-cnn, localisation: images compared with each other at a time.",
            "N",
            limits=(at_least(words.MIN_MINIBATCH),),
            only=_of("cka", "heads-vs-cnn", "localisation", ALL_ANALYSES),
        ),
    ] = 64
    subset: Annotated[
        int | None,
        Opt(
            "heads-vs-cnn: heads in a subset (default: a quarter).",
            "N",
            limits=(at_least(1),),
            only=_of("heads-vs-cnn"),
        ),
    ] = None
    where: Annotated[
        str,
        Opt(
            f"receptive-field: {' or '.join(words.WHERES)}, after or before the skip connection.",
            "WHERE",
            choices=words.WHERES,
            only=_of("receptive-field"),
        ),
    ] = "post"
    shots: Annotated[
        int, Opt("probe: images per class.", "N", limits=(at_least(1),), only=_of("probe", ALL_ANALYSES))
    ] = 10
    seeds: Annotated[
        int,
        Opt(
            "probe: support draws.",
            "N",
            limits=(at_least(1), at_most(words.MAX_SEEDS, f"at most {words.MAX_SEEDS:,} support draws, e.g. 3.")),
            only=_of("probe", ALL_ANALYSES),
        ),
    ] = 3
    l2: Annotated[
        float,
        Opt("probe: penalty.", "X", limits=(between(words.MIN_L2, words.MAX_L2),), only=_of("probe", ALL_ANALYSES)),
    ] = 1024.0
    seed: Annotated[int, Opt("Of the images' order and of random weights.", "N", limits=SEED)] = 0
    batch_size: Annotated[
        int, Opt("Images at a time; the last bits of a result depend on it.", "N", limits=(at_least(1),))
    ] = 64


@dataclass(frozen=True, kw_only=True)
class InspectConfig(_Analysis, Run, _ModelsAndImages, Columns, BadImages, _Shown, _OfAnalyses, Compute):
    """Settings of ``vitctl inspect``."""

    out: Annotated[str | None, Opt("Gets NAME.npz, NAME.json, NAME.png (default: RUN/inspect, or inspect).", "DIR")] = (
        None
    )

    def check_together(self) -> None:
        """Check the models, and refuse what would do nothing."""
        self._check_models()
        why = f"to {self.analysis}, which looks at weights only"
        self.refuse(*_WEIGHTS_ONLY.get(self.analysis, ()), why=why)
        if self.image is not None:
            self.refuse("data", "num_images", why="beside --image, whose files are the images")
        if self.data is None:
            self.refuse("image_root", "image_column", "label_column", why="without --data")
        if self.pos_embed_interp is not None and self.image_size is None:
            raise SettingError(
                "--pos-embed-interp is given without --image-size; nothing is resampled.", field="pos_embed_interp"
            )

    def _check_models(self) -> None:
        models, weights = self.model or (), self.weights or ()
        if self.run is None and not models:
            raise SettingError(
                f"No model is given; expected a run folder or --model NAME, e.g. vitctl inspect {self.analysis} "
                "--model demo.",
                field="model",
            )
        if weights and not models:
            raise SettingError(
                "--weights is given beside a run folder, which has its own; expected --model with it.", field="weights"
            )
        check_weights_of_models(models, weights, num_models=len(models))
        named = [*([(self.run, PRETRAINED)] if self.run is not None else []), *self.models_with_weights]
        twice = sorted({name for name, weights in named if named.count((name, weights)) > 1})
        if twice:
            raise SettingError(f"The model {twice[0]} is given twice; expected different ones.", field="model")
        if self.analysis == "heads-vs-cnn" and len(named) != 2:
            raise SettingError(
                f"heads-vs-cnn compares two models and {len(named)} {'is' if len(named) == 1 else 'are'} given; "
                "expected a ViT first and a CNN, e.g. --model resnet50.",
                field="model",
            )
        if self.analysis == "cka" and len(named) > 2:
            raise SettingError(
                f"cka compares two models and {len(named)} are given; expected one or two.", field="model"
            )
        if self.analysis == "cka" and self.diagonal and len(named) != 2:
            raise SettingError(
                "--diagonal compares the layers of two models and one is given; name another with --model.",
                field="diagonal",
            )

    def takes(self, option: str, analysis: str) -> bool:
        """Return whether ``analysis`` takes the option of this field's name."""
        opt = described(type(self))[option].opt
        is_for = opt is None or opt.only is None or analysis in opt.only[1]
        return is_for and option not in _WEIGHTS_ONLY.get(analysis, ())

    @property
    def models_with_weights(self) -> tuple[tuple[str, str], ...]:
        """(model, weights) of every ``--model``."""
        models, weights = self.model or (), self.weights or (PRETRAINED,)
        return tuple(zip(models, weights if len(weights) > 1 else weights * len(models), strict=True))


_OF_IMAGES = (
    "data", "image_root", "image_column", "label_column", "on_bad_image", "num_images", "batch_size", "num_workers",
)  # fmt: skip
_WEIGHTS_ONLY: dict[str, tuple[str, ...]] = {
    "pos-embed": _OF_IMAGES,
    "filters": (*_OF_IMAGES, "image_size", "pos_embed_interp"),
}
