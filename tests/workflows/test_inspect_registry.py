"""The analyses' names stand in the configuration, in words, and in code: they agree."""

from pathlib import Path

import torch

from vitctl.conversation import Conversation
from vitctl.inspecting.analyses import ANALYSES
from vitctl.inspecting.verdicts import _JUDGES, CONTROLLED
from vitctl.settings import words as choices
from vitctl.workflows.inspect_analyses import _OF_MODEL, _PAIRS
from vitctl.workflows.inspect_subjects import ModelChoice, load_subject


def test_every_analysis_is_described_and_run() -> None:
    assert tuple(ANALYSES) == choices.ANALYSES
    assert {*_OF_MODEL, *_PAIRS, "probe"} == set(choices.ANALYSES)
    assert set(_JUDGES) <= set(choices.ANALYSES)
    assert set(CONTROLLED) <= set(choices.ANALYSES)


def test_every_analysis_ends_with_what_to_look_for_and_random_weights() -> None:
    for name, words in ANALYSES.items():
        assert words.look_for.startswith("Look "), name
        assert words.random_weights.startswith("Random weights would "), name
        for text in (words.title, words.question, words.method, words.source):
            assert text, name


def test_npz_weights_are_resampled_as_their_authors_do() -> None:
    assert ModelChoice("vit", "vit", "weights.npz").interpolation == "paper"
    assert ModelChoice("vit", "vit", "pretrained").interpolation == "bicubic-aa"


def test_a_subject_collects_no_gradients_and_is_in_evaluation_mode(tiny_model_folder: Path) -> None:
    choice = ModelChoice("tiny", str(tiny_model_folder), "pretrained")
    loaded = load_subject(
        choice, image_size=None, method=None, seed=0, device=torch.device("cpu"), conversation=Conversation()
    )
    assert not any(parameter.requires_grad for parameter in loaded.subject.model.parameters())
    assert not any(module.training for module in loaded.subject.model.modules())
