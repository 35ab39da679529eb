"""How the head of a run starts, in words and weights; tests/workflows/test_ridge_head.py has the closed form itself."""

from pathlib import Path

import pytest
import torch

from vitctl.errors import ModelError
from vitctl.models.build import load_model
from vitctl.training.head_start import start_head

OWN = ("red", "green", "blue")  # the classes of the tiny model
OTHER = ("a", "b")


@pytest.mark.parametrize(
    ("classes", "given", "by_recipe", "expected", "reason", "is_ridge"),
    [
        (OWN, None, "ridge", "kept", "its 3 classes are these", False),
        (OWN, "ridge", "zero", "new, closed form (ridge), 3 outputs", "given", True),
        (OTHER, None, "ridge", "new, closed form (ridge), 2 outputs", "the pretrained classes are others", True),
        (OTHER, "zero", "ridge", "new, zero initialisation, 2 outputs", "given", False),
        (OTHER, None, "random", "new, random initialisation, 2 outputs", "the pretrained classes are others", False),
    ],
)
def test_start_head(
    tiny_model_folder: Path,
    classes: tuple[str, ...],
    given: str | None,
    by_recipe: str,
    expected: str,
    reason: str,
    is_ridge: bool,
) -> None:
    loaded = load_model(str(tiny_model_folder))
    before = loaded.model.head.weight.clone()
    head, is_to_come = start_head(loaded, classes, given=given, by_recipe=by_recipe, seed=0)
    assert (head, is_to_come) == ((expected, reason), is_ridge)
    weight = loaded.model.head.weight
    assert weight.shape[0] == len(classes)
    assert (
        torch.equal(weight, before) if expected == "kept" else bool((weight == 0).all()) == ("random" not in expected)
    )


def test_start_head__more_than_linear_cannot_be_computed() -> None:
    loaded = load_model("levit_128s", weights="none", seed=0)
    head, is_to_come = start_head(loaded, OTHER, given=None, by_recipe="ridge", seed=0)
    assert head == ("new, zero initialisation, 2 outputs", "its head is more than linear")
    assert not is_to_come
    with pytest.raises(ModelError, match="more than a linear layer"):
        start_head(loaded, OTHER, given="ridge", by_recipe="zero", seed=0)
