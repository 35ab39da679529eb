"""What is exported: a model at its image size, its classes, and what it expects of an image.

Letters: B images, C classes, D width, T tokens, H W px.
"""

import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from vitctl import __version__
from vitctl.errors import ModelError
from vitctl.models.choices import AS_TIMM
from vitctl.primitives.decision import Decision
from vitctl.primitives.documents import parse_document
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.settings.words import OUTPUTS


@dataclass(frozen=True)
class Source:
    """The model that every export must behave like.

    Attributes:
        model: A timm model in evaluation mode, float32, on the CPU.
        name: What to call it on screen, in cards and in metadata.
        class_names: One per logit, in order; empty for a model without a classifier.
        class_descriptions: What a name stands for, where it is a code (ImageNet's synsets).
        preprocessing: What it expects of an image; its size is the size exported.
        base_model: What it was fine-tuned from, for the record.
        base_licence: Licence of those weights, where known.
        weights_sha256: Of its tensors at its own size, as a safetensors file in float32.
        interpolation: How its position embeddings are resampled to other sizes, and why so.
    """

    model: nn.Module
    name: str
    class_names: tuple[str, ...]
    class_descriptions: dict[str, str]
    preprocessing: Preprocessing
    base_model: str
    base_licence: str | None
    weights_sha256: str = field(default="")
    interpolation: Decision[str] = AS_TIMM

    @property
    def has_classifier(self) -> bool:
        """Whether the model has logits."""
        return bool(self.class_names)

    @property
    def labels(self) -> tuple[str, ...]:
        """The class names as a person reads them: what a code stands for, with the code where that is not unique."""
        told = [self.class_descriptions.get(name, name) for name in self.class_names]
        return (
            tuple(
                text if told.count(text) == 1 else f"{text} ({name})"
                for text, name in zip(told, self.class_names, strict=True)
            )
            if self.class_descriptions
            else self.class_names
        )

    def metadata(self, *, outputs: tuple[str, ...], is_preprocessing_inside: bool) -> dict[str, Any]:
        """Return what a file must say about itself so that it can be used without anything else.

        ``preprocessing`` has timm's words (``timm.data.create_transform`` takes them).
        """
        return {
            "model": self.name,
            "vitctl": __version__,
            "weights_sha256": self.weights_sha256,
            "class_names": list(self.class_names),
            "class_descriptions": self.class_descriptions,
            "preprocessing": {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in self.preprocessing.data_config().items()
            },
            **({} if self.preprocessing.max_value is None else {"max_value": self.preprocessing.max_value}),
            "preprocessing_in_graph": is_preprocessing_inside,
            "outputs": list(outputs),
        }


def preprocessing_from(document: dict[str, Any], max_value: int | None = None) -> Preprocessing:
    """Return the preprocessing that ``Source.metadata`` wrote, with the ``max_value`` that it wrote beside it.

    Raises:
        KeyError: Something of it is missing.
    """
    return Preprocessing(
        image_size=(int(document["input_size"][1]), int(document["input_size"][2])),
        interpolation=str(document["interpolation"]),
        crop_pct=float(document["crop_pct"]),
        crop_mode=str(document["crop_mode"]),
        mean=tuple(document["mean"]),
        std=tuple(document["std"]),
        max_value=max_value,
    )


def hash_weights(model: nn.Module) -> str:
    """Return the SHA-256, in hexadecimal, of the safetensors file that ``vitctl`` writes of ``model``."""
    tensors = {
        key: value.detach().to("cpu", torch.float32 if value.is_floating_point() else value.dtype).contiguous()
        for key, value in model.state_dict().items()
    }
    return hashlib.sha256(save(tensors, metadata={"format": "pt"})).hexdigest()


def resolve_outputs(source: Source, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Return the outputs of a graph in order: the logits first, wherever the model has any.

    Args:
        source: The model.
        asked: Some of ``OUTPUTS``.

    Raises:
        ModelError: It has no classifier and something other than ``embedding`` and ``tokens`` is asked for, or
            its features are no sequence of tokens.
    """
    if "tokens" in asked:
        features = sample_features(source)
        if features.ndim != 3:
            raise ModelError(
                f"{source.name} has no tokens: its features are a map of shape {tuple(features.shape[1:])}. Use "
                "--outputs embedding."
            )
    if source.has_classifier:
        return tuple(name for name in OUTPUTS if name in asked or name == "logits")
    ordered = tuple(name for name in OUTPUTS if name in asked and name in ("embedding", "tokens"))
    if len(ordered) < len(set(asked)):
        raise ModelError(
            f"{source.name} has no classifier: its weights hold no head. Use --outputs embedding, or fine-tune it "
            "first (vitctl finetune)."
        )
    return ordered


@torch.no_grad()
def sample_features(source: Source) -> Tensor:
    """Return what ``forward_features`` gives for one black image: (1, T, D), or a map of a CNN."""
    model: Any = source.model
    features: Tensor = model.forward_features(torch.zeros(1, 3, *source.preprocessing.image_size))
    return features


def metadata_texts(metadata: dict[str, Any]) -> dict[str, str]:
    """Return ``metadata`` with every value as text: strings as they are, the rest as JSON."""
    return {
        key: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for key, value in metadata.items()
    }


def metadata_from_texts(texts: dict[str, str]) -> dict[str, Any]:
    """Return what ``metadata_texts`` was given.

    Raises:
        KeyError: Something is missing.
        ValueError: Something is no JSON.
    """
    plain = ("model", "vitctl", "weights_sha256")
    structured = ("class_names", "class_descriptions", "preprocessing", "preprocessing_in_graph", "outputs")
    optional = tuple(key for key in ("max_value",) if key in texts)
    found = {key: parse_document(texts[key], object) for key in (*structured, *optional)}
    return {key: texts[key] for key in plain} | found
