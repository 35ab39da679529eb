"""The loss: torch's own on the global batch, however that is divided."""

import pytest
import torch
from timm.data.mixup import mixup_target
from torch import nn

from vitctl.data.mixing import Others
from vitctl.training.losses import share_of_loss


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shares_add_up_to_torchs_weighted_loss(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 3, generator=generator).to(dtype)
    labels = torch.randint(3, (7,), generator=generator)
    of_class = torch.tensor([0.5, 1.25, 3.0])
    weights = of_class[labels]
    total = float(weights.sum())
    shares = [
        share_of_loss(logits[part], labels[part], weights[part], weight_global=total)
        for part in (slice(0, 4), slice(4, 7))
    ]
    expected = nn.CrossEntropyLoss(weight=of_class)(logits.float(), labels)
    torch.testing.assert_close(sum(shares), expected, rtol=1e-6, atol=0)
    assert shares[0].dtype == torch.float32


def test_filling_of_weight_zero_adds_nothing() -> None:
    logits, labels = torch.tensor([[1.0, 2.0], [50.0, -50.0]]), torch.tensor([0, 1])
    alone = share_of_loss(logits[:1], labels[:1], torch.ones(1), weight_global=1.0)
    assert share_of_loss(logits, labels, torch.tensor([1.0, 0.0]), weight_global=1.0) == alone


@pytest.mark.parametrize("label_smoothing", [0.1, 0.9])
def test_label_smoothing__is_torchs_of_each_image_times_its_weight(label_smoothing: float) -> None:
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(7, 5, generator=generator), torch.randint(5, (7,), generator=generator)
    ones, weights = torch.ones(7), torch.rand(7, generator=generator) + 0.1
    plain = share_of_loss(logits, labels, ones, weight_global=7.0, label_smoothing=label_smoothing)
    torch.testing.assert_close(plain, nn.CrossEntropyLoss(label_smoothing=label_smoothing)(logits, labels))
    targets = (1 - label_smoothing) * torch.eye(5)[labels] + label_smoothing / 5
    expected = -(targets * logits.log_softmax(-1)).sum(1) @ weights / weights.sum()
    found = share_of_loss(logits, labels, weights, weight_global=float(weights.sum()), label_smoothing=label_smoothing)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_label_smoothing__of_mixed_labels_is_timms_soft_target() -> None:
    """timm's ``mixup_target`` smooths both labels; torch's loss takes it as probabilities."""
    generator = torch.Generator().manual_seed(1)
    logits, labels = torch.randn(4, 5, generator=generator), torch.tensor([0, 4, 1, 1])
    own, flipped = torch.full((4,), 0.7), labels.flip(0)
    target = mixup_target(labels, 5, lam=0.7, smoothing=0.1)
    expected = nn.CrossEntropyLoss()(logits, target)
    found = share_of_loss(logits, labels, own, weight_global=4.0, others=Others(flipped, 1 - own), label_smoothing=0.1)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
