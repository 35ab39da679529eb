"""Logits of every image, in order and in float32; probabilities that add up."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import scipy.special
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation, Progress
from vitctl.evaluation.classify import predict_logits, probabilities


class _Classifier(nn.Module):
    """Sums of the three channels; doubled in training, so that its mode shows."""

    def forward(self, images: Tensor) -> Tensor:
        return images.sum(dim=(2, 3)) * (2 if self.training else 1)


def _predict(
    model: nn.Module, batches: list[Tensor], *, num_images: int = 0, conversation: Conversation | None = None
) -> np.ndarray:
    return predict_logits(
        model,
        batches,
        device=torch.device("cpu"),
        num_images=num_images,
        description="testing",
        conversation=conversation or Conversation(),
    )


IMAGES = torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("sizes", [[7], [3, 3, 1], [1] * 7])
def test_logits_are_in_order_and_do_not_depend_on_the_batches(sizes: list[int]) -> None:
    logits = _predict(_Classifier(), list(IMAGES.split(sizes)))
    assert logits.dtype == np.float32
    np.testing.assert_allclose(logits, IMAGES.sum(dim=(2, 3)).numpy(), rtol=1e-6)


@pytest.mark.parametrize("architecture", ["vit_tiny_patch16_224", "test_resnet"])
def test_logits_are_the_same_bits_in_batches_of_every_size(architecture: str) -> None:
    """As they come, those of an image alone differ in the last bits, of both (measured 2026-11, x86-64)."""
    import timm

    size = {"img_size": 32} if architecture.startswith("vit") else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, images = timm.create_model(architecture, num_classes=7, **size), torch.randn(9, 3, 32, 32)
    expected = _predict(model, [images])
    for size_of_batch in (1, 2, 4, 8):
        assert np.array_equal(_predict(model, list(images.split(size_of_batch))), expected)


@pytest.mark.parametrize("was_training", [True, False])
def test_the_model_predicts_in_evaluation_mode_and_goes_back(was_training: bool) -> None:
    model = _Classifier().train(was_training)
    np.testing.assert_allclose(_predict(model, [IMAGES]), IMAGES.sum(dim=(2, 3)).numpy(), rtol=1e-6)
    assert model.training is was_training


def test_nothing_is_kept_for_gradients() -> None:
    seen: list[bool] = []

    class Watching(_Classifier):
        def forward(self, images: Tensor) -> Tensor:
            seen.append(torch.is_grad_enabled())
            return super().forward(images)

    _predict(Watching(), [IMAGES, IMAGES])
    assert seen == [False, False]


def test_half_precision_models_give_float32() -> None:
    class Half(_Classifier):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).bfloat16()

    assert _predict(Half(), [IMAGES]).dtype == np.float32


def test_progress_counts_images() -> None:
    class Counting(Conversation):
        total = done = 0

        @contextmanager
        def progress(self, description: str, total: int, unit: str) -> Iterator[Progress]:
            outer = self

            class Bar(Progress):
                def advance(self, amount: int = 1, **facts: str) -> None:
                    outer.done += amount

            self.total = total
            yield Bar()

    counting = Counting()
    _predict(_Classifier(), list(IMAGES.split(3)), num_images=7, conversation=counting)
    assert (counting.total, counting.done) == (7, 7)


def test_probabilities_are_scipys_softmax_in_float64() -> None:
    logits = np.random.default_rng(0).normal(scale=5, size=(50, 9)).astype(np.float32)
    found = probabilities(logits)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, scipy.special.softmax(logits.astype(np.float64), axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=1e-14)


def test_probabilities__large_logits_do_not_overflow() -> None:
    logits = np.array([[3e38, 0.0], [-3e38, -3e38]], dtype=np.float32)
    assert probabilities(logits).tolist() == [[1.0, 0.0], [0.5, 0.5]]
