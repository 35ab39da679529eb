"""What is exported, and what a file must say about it."""

import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from vitctl import __version__
from vitctl.data.transforms import EvaluationTransform
from vitctl.errors import ModelError
from vitctl.exporting.source import (
    Source,
    hash_weights,
    metadata_from_texts,
    metadata_texts,
    preprocessing_from,
    resolve_outputs,
    sample_features,
)
from vitctl.primitives.preprocessing import Preprocessing

STRANGE = ('["a"]', '"quoted"', "null", "Bücher & 花", "two\nlines", "")


@pytest.fixture(scope="module")
def cnn() -> Source:
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=2).eval()
    preprocessing = Preprocessing((32, 64), "bilinear", 1.0, "squash", (0.5,) * 3, (0.5,) * 3)
    return Source(model, "cnn", ("a", "b"), {}, preprocessing, "random", None)


def metadata_of(source: Source) -> dict[str, Any]:
    return source.metadata(outputs=("logits", "tokens"), is_preprocessing_inside=True)


def test_metadata__says_all_that_a_user_needs(source: Source) -> None:
    found = metadata_of(replace(source, class_descriptions={"cat": "a small tiger"}))
    assert found == {
        "model": "small",
        "vitctl": __version__,
        "weights_sha256": source.weights_sha256,
        "class_names": ["cat", "dog", "bird"],
        "class_descriptions": {"cat": "a small tiger"},
        "preprocessing": {
            "input_size": [3, 16, 16],
            "interpolation": "bicubic",
            "crop_pct": 0.8,
            "crop_mode": "center",
            "mean": [0.4, 0.5, 0.6],
            "std": [0.25, 0.2, 0.3],
        },
        "preprocessing_in_graph": True,
        "outputs": ["logits", "tokens"],
    }


def test_metadata__survives_a_map_of_texts(source: Source) -> None:
    strange = replace(source, name='["not json", 1]', class_names=STRANGE, class_descriptions={'"quoted"': "é\n"})
    document = metadata_of(strange)
    texts = metadata_texts(document)
    assert all(isinstance(text, str) for text in texts.values())
    assert texts["model"] == '["not json", 1]'
    assert json.loads(texts["class_names"]) == list(STRANGE)
    assert metadata_from_texts(texts | {"another program's": "}"}) == document


@pytest.mark.parametrize("missing", ["model", "class_names", "preprocessing", "outputs"])
def test_metadata__that_is_incomplete_is_refused(source: Source, missing: str) -> None:
    texts = metadata_texts(metadata_of(source))
    del texts[missing]
    with pytest.raises(KeyError, match=missing):
        metadata_from_texts(texts)


def test_metadata__that_is_cut_off_is_refused(source: Source) -> None:
    texts = metadata_texts(metadata_of(source))
    with pytest.raises(ValueError, match="not JSON: (Expecting|Unterminated)"):
        metadata_from_texts(texts | {"class_names": texts["class_names"][:-3]})


@pytest.mark.parametrize(
    "changes",
    [{}, {"image_size": (16, 24)}, {"crop_mode": "squash"}, {"interpolation": "bilinear", "crop_pct": 1.0}],
)
def test_preprocessing__is_the_same_after_json_and_timm_takes_it(source: Source, changes: dict[str, Any]) -> None:
    from timm.data import create_transform

    expected = replace(source.preprocessing, **changes)
    document = json.loads(json.dumps(metadata_of(replace(source, preprocessing=expected))["preprocessing"]))
    assert preprocessing_from(document) == expected
    pixels = np.random.default_rng(0).integers(0, 256, (41, 33, 3), dtype=np.uint8)
    ours, timms = (
        make(Image.fromarray(pixels)) for make in (EvaluationTransform(expected), create_transform(**document))
    )
    torch.testing.assert_close(timms, ours, rtol=0, atol=1e-6)


def test_preprocessing__without_a_mean_is_refused(source: Source) -> None:
    document = metadata_of(source)["preprocessing"]
    del document["mean"]
    with pytest.raises(KeyError, match="mean"):
        preprocessing_from(document)


def test_hash__is_that_of_the_file_vitctl_writes(source: Source, model_folder: Path) -> None:
    assert source.weights_sha256 == sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()


def test_hash__changes_with_any_weight_and_not_with_the_storage(source: Source) -> None:
    model = nn.Linear(4, 2)
    before = hash_weights(model)
    model.weight.data = model.weight.data.T.contiguous().T  # the same numbers, laid out in another order
    assert hash_weights(model) == before
    model.bias.data[1] = torch.nextafter(model.bias.data[1], torch.tensor(9.0))
    assert hash_weights(model) != before
    half = nn.Linear(4, 2).half()
    assert hash_weights(half) == hash_weights(half.float())


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        (("logits",), ("logits",)),
        (("embedding",), ("logits", "embedding")),
        (("tokens", "probabilities"), ("logits", "probabilities", "tokens")),
        (("tokens", "embedding", "probabilities", "logits"), ("logits", "probabilities", "embedding", "tokens")),
    ],
)
def test_outputs__the_logits_come_first(source: Source, asked: tuple[str, ...], expected: tuple[str, ...]) -> None:
    assert resolve_outputs(source, asked) == expected


@pytest.mark.parametrize("asked", [("embedding",), ("embedding", "tokens")])
def test_outputs__without_a_classifier_are_features(source: Source, asked: tuple[str, ...]) -> None:
    headless = replace(source, class_names=())
    assert not headless.has_classifier
    assert resolve_outputs(headless, asked) == asked


@pytest.mark.parametrize("asked", [("logits",), ("probabilities",), ("logits", "embedding")])
def test_outputs__logits_without_a_classifier_are_refused(source: Source, asked: tuple[str, ...]) -> None:
    with pytest.raises(ModelError, match="small has no classifier.*--outputs embedding"):
        resolve_outputs(replace(source, class_names=()), asked)


def test_outputs__tokens_of_a_cnn_are_refused_with_the_shape(cnn: Source) -> None:
    channels, height, width = sample_features(cnn).shape[1:]
    assert (height, width) == (1, 2)  # 32x64 px by 32
    with pytest.raises(ModelError, match=rf"no tokens.*\({channels}, 1, 2\).*--outputs embedding"):
        resolve_outputs(cnn, ("tokens",))
    assert resolve_outputs(cnn, ("embedding",)) == ("logits", "embedding")


def test_sample_features__are_tokens_of_a_vit_at_its_size(source: Source) -> None:
    assert sample_features(source).shape == (1, 1 + 16, 16)
