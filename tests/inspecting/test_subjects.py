"""Models as analyses get them: how they are resampled, and that nothing of training is left in them."""

from pathlib import Path

import torch

from vitctl.conversation import Conversation
from vitctl.inspecting.subjects import ModelChoice, load_subject


def test_a_subject_collects_no_gradients_and_is_in_evaluation_mode(tiny_model_folder: Path) -> None:
    choice = ModelChoice("tiny", str(tiny_model_folder), "pretrained")
    loaded = load_subject(
        choice, image_size=None, method=None, seed=0, device=torch.device("cpu"), conversation=Conversation()
    )
    assert not any(parameter.requires_grad for parameter in loaded.subject.model.parameters())
    assert not any(module.training for module in loaded.subject.model.modules())
