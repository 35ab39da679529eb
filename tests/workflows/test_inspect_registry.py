"""The analyses' names stand in the configuration, in words, and in code: they agree."""

from vitctl import config
from vitctl.inspecting.analyses import ANALYSES
from vitctl.inspecting.verdicts import _JUDGES, CONTROLLED
from vitctl.workflows.inspect_analyses import _OF_MODEL, _PAIRS
from vitctl.workflows.inspect_subjects import ModelChoice


def test_every_analysis_is_described_and_run() -> None:
    assert tuple(ANALYSES) == config.ANALYSES
    assert {*_OF_MODEL, *_PAIRS, "probe"} == set(config.ANALYSES)
    assert set(_JUDGES) <= set(config.ANALYSES)
    assert set(CONTROLLED) <= set(config.ANALYSES)


def test_every_analysis_ends_with_what_to_look_for_and_random_weights() -> None:
    for name, words in ANALYSES.items():
        assert words.look_for.startswith("Look "), name
        assert words.random_weights.startswith("Random weights would "), name
        for text in (words.title, words.question, words.method, words.source):
            assert text, name


def test_npz_weights_are_resampled_as_their_authors_do() -> None:
    assert ModelChoice("vit", "vit", "weights.npz").interpolation == "paper"
    assert ModelChoice("vit", "vit", "pretrained").interpolation == "bicubic-aa"
