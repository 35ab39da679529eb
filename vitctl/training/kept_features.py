"""Training the head alone on features that are computed once: what is kept, when it can be, and what a step then runs.

Where the classifier is all that learns, and nothing between an image and the classifier is random, every epoch would
compute the same features again. A step then takes the classifier's input, (B, D), in the place of images; the batches,
the loss and the result are those of a run that computes it in every step, but for the last bits of matrix products.

Letters: N images, B in a batch, D width, C classes.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from vitctl.evaluation.lone_image import never_alone
from vitctl.models.build import classifiers
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.memory import free_bytes
from vitctl.recipes import Recipe
from vitctl.training.frozen import set_training
from vitctl.training.noise import KeyedDropPath, KeyedPatchDrop

_SHARE_OF_MEMORY = 0.5  # guess: the rest is for images under way, and for whoever else is here
_BYTES_PER_FLOAT = 4
_CHANGES = ("color_jitter", "rotate", "translate", "zoom", "shear", "erasing")


class HeadOnFeatures(nn.Module):
    """The classifier of a model, on what it sees: what a step runs in the place of the model.

    Args:
        classifier: A linear layer, or a 1x1 convolution; that of the model, not a copy.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, features: Tensor) -> Tensor:
        """Return the (B, C) logits of (B, D) features; of a convolution (B, D, 1, 1)."""
        logits: Tensor = self.classifier(features)
        return logits.flatten(1)


@dataclass
class KeptFeatures:
    """What the head of a model sees of each image; computed when it is first asked for.

    Attributes:
        head: What learns.
        shape: Of the features of one image, (D,).
        num_bytes: What all of them take.
        of_training: (N, D) float32 of the training images; None before.
        of_validation: (N, D) float32 of the validation images; None before.
    """

    head: HeadOnFeatures
    shape: tuple[int, ...]
    num_bytes: int
    of_training: Tensor | None = field(default=None, repr=False)
    of_validation: Tensor | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Keeping:
    """Whether features are kept.

    Attributes:
        kept: They, still empty; None where every step computes them.
        why_not: Why so, of a run that trains its classifier alone; None of other runs.
    """

    kept: KeptFeatures | None = None
    why_not: str | None = None


def decide_keeping(
    model: nn.Module, recipe: Recipe, *, flip: bool, num_images: int, image_size: tuple[int, int]
) -> Keeping:
    """Return whether the features of all images are to be kept.

    Args:
        model: A timm model in evaluation mode, whose parameters say which of them learn.
        recipe: How it is trained.
        flip: Images are mirrored.
        num_images: For training and validation.
        image_size: (H, W) px.
    """
    classifier = sole_trained_layer(model)
    if classifier is None:
        is_of_head = recipe.tuning.mode == "head"
        return Keeping(why_not="the head is more than one layer" if is_of_head else None)
    varies = _what_varies(model, recipe, flip=flip)
    if varies is not None:
        return Keeping(why_not=varies)
    head = HeadOnFeatures(classifier)
    shape = features_shape(model, head, image_size)
    if shape is None:
        return Keeping(why_not="the model does more with what its classifier says")
    num_bytes = num_images * _BYTES_PER_FLOAT * shape[0]
    free = free_bytes()
    if free is not None and num_bytes > _SHARE_OF_MEMORY * free:
        return Keeping(why_not=f"kept they would take {format_bytes(num_bytes)}, and {format_bytes(free)} are free")
    return Keeping(KeptFeatures(head, shape, num_bytes))


def sole_trained_layer(model: nn.Module) -> nn.Module | None:
    """Return the classifier where it is one layer and the only one that learns; else None."""
    found = classifiers(model)
    own = {id(parameter) for layer in found for parameter in layer.parameters()}
    trained = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    return found[0] if len(found) == 1 and trained and trained <= own else None


def _what_varies(model: nn.Module, recipe: Recipe, *, flip: bool) -> str | None:
    """Return in words what makes an image's features others in another step; None where nothing does."""
    images, mixing = recipe.images, recipe.mixing
    at_random = [module for module in set_training(model).modules() if module.training]  # what is frozen is still
    model.eval()
    found = {
        f"images are cropped at random (images.crop {images.crop})": images.crop != "none",
        "images are mirrored (--no-flip would not)": flip,
        f"images are augmented (images.augment {images.augment})": images.augment != "none",
        "images are changed at random": any(getattr(images, key) for key in _CHANGES),
        "images are mixed": bool(mixing.mixup or mixing.cutmix),
        "the size of the images changes": len(set(recipe.length.sizes)) > 1,
        "patches are dropped": any(isinstance(one, (KeyedPatchDrop, KeyedDropPath)) for one in at_random),
        "the model has dropout": any(isinstance(one, nn.Dropout) and one.p > 0 for one in at_random),
        "the model has BatchNorm": any(isinstance(one, nn.modules.batchnorm._BatchNorm) for one in at_random),
    }
    return next((words for words, is_so in found.items() if is_so), None)


@torch.inference_mode()
def features_shape(model: nn.Module, head: HeadOnFeatures, image_size: tuple[int, int]) -> tuple[int, ...] | None:
    """Return the shape of what ``head`` sees of one image, e.g. (D,); None where its logits are not the model's.

    Found by showing the model black images.

    Args:
        model: In evaluation mode.
        head: Its.
        image_size: (H, W) px.
    """
    device = next(model.parameters()).device
    seen, logits = seen_by_head(model, head, torch.zeros(2, 3, *image_size, device=device))
    answer = head(seen)
    is_all = logits.shape == answer.shape and torch.equal(logits, answer)
    return tuple(seen.shape[1:]) if is_all else None


def seen_by_head(model: nn.Module, head: HeadOnFeatures, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return what ``head`` sees of ``images`` (B, 3, H, W), e.g. (B, D), and what the model says of them, (B, C).

    An image that is alone is computed as it is among others.
    """
    seen = list[Tensor]()
    handle = head.classifier.register_forward_pre_hook(lambda _layer, arguments: seen.append(arguments[0]))
    try:
        logits: Tensor = model(never_alone(images))
    finally:
        handle.remove()
    return seen[0][: len(images)], logits[: len(images)]
