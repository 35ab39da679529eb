"""What a run says of itself at its end."""

import pytest

from vitctl.results.finetune import LinearProbe, Score
from vitctl.training.summary import doubt


@pytest.mark.parametrize(
    ("probe", "best", "says"), [(0.5, 0.6, True), (0.5, 0.5, False), (0.5, 0.4, False), (None, None, False)]
)
def test_doubt__where_training_made_nothing_better(probe: float | None, best: float | None, says: bool) -> None:
    head = LinearProbe(top1=None, loss=probe, l2=1.0, loo_top1=None, scale=1.0)
    sentence = doubt(head, Score(9, None, best))
    assert (sentence is not None) == says
    if sentence is not None:
        assert "(0.5000) than the best weights (0.6000)" in sentence
