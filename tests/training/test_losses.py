"""The loss: torch's own on the global batch, however that is divided."""

import pytest
import torch
from torch import nn

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
