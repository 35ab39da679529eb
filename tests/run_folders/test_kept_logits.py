"""What a run keeps of its validation images: it is what the summary counts, or one sentence says what is wrong."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from scipy.special import log_softmax

from vitctl.errors import DataError
from vitctl.run_folders.kept_logits import KEPT, KeptLogits, read_logits, write_logits


def test_kept_logits__are_what_the_summary_says_of_best(finished_run: Path) -> None:
    kept = read_logits(finished_run)
    best = json.loads((finished_run / "summary.json").read_text())["best"]
    assert kept is not None
    assert (kept.logits.dtype, kept.labels.dtype) == (np.float32, np.int64)
    assert best["top1"] == pytest.approx((kept.logits.argmax(axis=1) == kept.labels).mean())
    nll = -log_softmax(kept.logits.astype(np.float64), axis=1)[np.arange(len(kept.labels)), kept.labels].mean()
    assert best["loss"] == pytest.approx(nll, rel=1e-5)
    listing = json.loads((finished_run / "validation.json").read_text())
    assert list(kept.hashes) == listing["hashes"]
    assert [kept.class_names[label] for label in kept.labels] == [Path(name).parent.name for name in listing["images"]]


def test_kept_logits__read_back(tmp_path: Path) -> None:
    assert read_logits(tmp_path) is None
    logits = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    names = ("a", "é\n", "\udcff")
    write_logits(tmp_path, KeptLogits(logits, np.array([2, 0]), ("0f" * 16, "a1" * 16), names))
    written = (tmp_path / KEPT).read_bytes()
    kept = read_logits(tmp_path)
    assert kept is not None
    write_logits(tmp_path, kept)
    assert (tmp_path / KEPT).read_bytes() == written
    assert np.array_equal(kept.logits, logits)
    assert (kept.labels.tolist(), kept.hashes, kept.class_names) == ([2, 0], ("0f" * 16, "a1" * 16), names)


@pytest.mark.parametrize("damage", ["text", "short", "other", "shape", "no classes", "empty"])
def test_kept_logits__a_damaged_file_is_one_sentence(tmp_path: Path, damage: str) -> None:
    write_logits(tmp_path, KeptLogits(np.zeros((2, 3)), np.array([2, 0]), ("0f" * 16, "a1" * 16), ("a", "b", "c")))
    path = tmp_path / KEPT
    whole = path.read_bytes()
    tensors = safetensors.numpy.load(whole)
    key = "vitctl validation logits 1"
    assert f'"{key}"'.encode() in whole
    contents = {
        "text": b"no file of tensors",
        "short": whole[:-1],
        "other": safetensors.numpy.save({"weights": np.zeros(3)}),
        "shape": safetensors.numpy.save(
            tensors | {"labels": np.zeros(3, dtype=np.int64)}, metadata={key: '["a", "b", "c"]'}
        ),
        "no classes": safetensors.numpy.save(tensors, metadata={key: "7"}),
        "empty": b"",
    }
    path.write_bytes(contents[damage])
    with pytest.raises(DataError, match=r"val-logits\.safetensors is damaged, or no file of vitctl; expected what"):
        read_logits(tmp_path)
