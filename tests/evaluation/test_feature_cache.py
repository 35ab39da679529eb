"""Features kept between runs: bit for bit, under all they depend on; whatever is damaged counts as not there."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from torch import nn

from vitctl.conversation import Conversation
from vitctl.errors import SettingError
from vitctl.evaluation.feature_cache import FeatureCache, hash_of_images, hash_of_weights
from vitctl.evaluation.features import FeatureKey

IDENTITY: dict[str, Any] = {
    "architecture": "VisionTransformer",
    "weights": "ab" * 32,
    "images": "cd" * 32,
    "preprocessing": {"input_size": (3, 32, 32), "interpolation": "bicubic", "mean": (0.5, 0.5, 0.5)},
    "versions": {"torch": "2.13.0"},
}
KEY = FeatureKey(3, "mean")


class _Hearing(Conversation):
    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _features(*shape: int) -> np.ndarray:
    values = np.random.default_rng(0).normal(size=shape or (6, 4)).astype(np.float32)
    values.flat[:3] = [-0.0, 1e-42, 3e38]  # a subnormal, almost the greatest
    return values


@pytest.fixture
def hearing() -> _Hearing:
    return _Hearing()


@pytest.fixture
def cache(tmp_path: Path, hearing: _Hearing) -> FeatureCache:
    return FeatureCache(tmp_path / "cache", hearing)


def _only_file(tmp_path: Path) -> Path:
    (path,) = (tmp_path / "cache").iterdir()
    return path


# --- there and back


@pytest.mark.parametrize("shape", [(6, 4), (1, 1), (5, 6, 4), (2, 1, 3)])
def test_round_trip_is_bit_for_bit(cache: FeatureCache, hearing: _Hearing, shape: tuple[int, ...]) -> None:
    features = _features(*shape)
    assert cache.load(IDENTITY, KEY, num_images=shape[-2]) is None
    cache.save(IDENTITY, KEY, features)
    found = cache.load(IDENTITY, KEY, num_images=shape[-2])
    assert found is not None
    assert found.dtype == np.float32
    assert found.shape == shape
    assert found.tobytes() == features.tobytes()
    assert hearing.warnings == []


def test_round_trip__of_a_view_in_another_order(cache: FeatureCache) -> None:
    features = np.moveaxis(_features(6, 5, 4), 1, 0)  # as tokens come out of batches
    assert not features.flags.c_contiguous
    cache.save(IDENTITY, KEY, features)
    np.testing.assert_array_equal(cache.load(IDENTITY, KEY, num_images=6), features)


def test_another_cache_on_the_same_folder_finds_them(tmp_path: Path, cache: FeatureCache) -> None:
    cache.save(IDENTITY, KEY, _features())
    reordered = dict(reversed(IDENTITY.items()))
    found = FeatureCache(tmp_path / "cache", Conversation()).load(reordered, KEY, num_images=6)
    np.testing.assert_array_equal(found, _features())


def test_saved_again_replaces(tmp_path: Path, cache: FeatureCache, hearing: _Hearing) -> None:
    cache.save(IDENTITY, KEY, _features())
    cache.save(IDENTITY, KEY, _features(6, 7))
    np.testing.assert_array_equal(cache.load(IDENTITY, KEY, num_images=6), _features(6, 7))
    assert _only_file(tmp_path).suffix == ".safetensors"
    assert hearing.warnings == []


def test_the_file_is_plain_safetensors(tmp_path: Path, cache: FeatureCache) -> None:
    cache.save(IDENTITY, KEY, _features())
    arrays = safetensors.numpy.load_file(_only_file(tmp_path))
    assert list(arrays) == ["features"]
    np.testing.assert_array_equal(arrays["features"], _features())


# --- what they depend on


@pytest.mark.parametrize(
    "change",
    [
        {"weights": "ab" * 31 + "ac"},
        {"images": "cd" * 31 + "ce"},
        {"architecture": "Eva"},
        {"preprocessing": {**IDENTITY["preprocessing"], "interpolation": "bilinear"}},
        {"preprocessing": {**IDENTITY["preprocessing"], "input_size": (3, 32, 48)}},
        {"preprocessing": {**IDENTITY["preprocessing"], "mean": (0.5, 0.5, 0.485)}},
        {"versions": {"torch": "2.13.1"}},
        {"more": 1},
    ],
)
def test_other_circumstances_are_other_features(
    tmp_path: Path, cache: FeatureCache, hearing: _Hearing, change: dict[str, Any]
) -> None:
    other = {**IDENTITY, **change}
    cache.save(IDENTITY, KEY, _features())
    assert cache.load(other, KEY, num_images=6) is None
    cache.save(other, KEY, -_features(6, 3))
    np.testing.assert_array_equal(cache.load(IDENTITY, KEY, num_images=6), _features())
    np.testing.assert_array_equal(cache.load(other, KEY, num_images=6), -_features(6, 3))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert hearing.warnings == []


def test_every_layer_and_pooling_has_its_own(tmp_path: Path, cache: FeatureCache, hearing: _Hearing) -> None:
    keys = [FeatureKey(layer, pool) for layer in ("embed", 0, 1, 10, "final") for pool in ("native", "cls", "cls+mean")]
    for index, key in enumerate(keys):
        assert cache.load(IDENTITY, key, num_images=6) is None
        cache.save(IDENTITY, key, np.full((6, 2), index, dtype=np.float32))
    for index, key in enumerate(keys):
        np.testing.assert_array_equal(cache.load(IDENTITY, key, num_images=6), np.full((6, 2), index))
    assert len(list((tmp_path / "cache").iterdir())) == len(keys)
    assert hearing.warnings == []


# --- damage


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garbage(path: Path) -> None:
    path.write_bytes(np.random.default_rng(0).bytes(1000))


def _promises_a_huge_header(path: Path) -> None:
    path.write_bytes((2**62).to_bytes(8, "little") + path.read_bytes()[8:])


def _other_number(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def _without_metadata(path: Path) -> None:
    path.write_bytes(safetensors.numpy.save({"features": _features()}))


def _other_tensor(path: Path) -> None:
    metadata = safetensors.safe_open(path, framework="numpy").metadata()
    path.write_bytes(safetensors.numpy.save({"labels": _features()}, metadata=metadata))


def _rewritten(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], None]:
    """Return a damage that keeps the metadata, its hash of the bytes included."""

    def damage(path: Path) -> None:
        metadata = safetensors.safe_open(path, framework="numpy").metadata()
        path.write_bytes(safetensors.numpy.save({"features": change(_features())}, metadata=metadata))

    return damage


@pytest.mark.parametrize(
    "damage",
    [
        _truncated,
        _half,
        _empty,
        _garbage,
        _promises_a_huge_header,
        _other_number,
        _without_metadata,
        _other_tensor,
        pytest.param(_rewritten(lambda values: values.reshape(4, 6)), id="transposed"),
        pytest.param(_rewritten(lambda values: values.reshape(24)), id="flat"),
        pytest.param(_rewritten(lambda values: values.reshape(1, 1, 6, 4)), id="too many dimensions"),
        pytest.param(_rewritten(lambda values: values.view(np.int32)), id="integers"),
        pytest.param(_rewritten(lambda values: values.view(np.float16).reshape(6, 8)), id="halves"),
        pytest.param(_rewritten(lambda values: values[:3]), id="fewer images"),
    ],
)
def test_damaged_files_are_not_there_and_are_mended(
    tmp_path: Path, cache: FeatureCache, hearing: _Hearing, damage: Callable[[Path], None]
) -> None:
    cache.save(IDENTITY, KEY, _features())
    path = _only_file(tmp_path)
    damage(path)
    assert cache.load(IDENTITY, KEY, num_images=6) is None
    assert hearing.warnings == [f"{path} is damaged: these features are computed again."]
    cache.save(IDENTITY, KEY, _features())
    np.testing.assert_array_equal(cache.load(IDENTITY, KEY, num_images=6), _features())
    assert len(hearing.warnings) == 1


@pytest.mark.parametrize("bits", [0x01, 0x20])
def test_a_changed_byte_anywhere_never_gives_other_features(
    tmp_path: Path, cache: FeatureCache, hearing: _Hearing, bits: int
) -> None:
    cache.save(IDENTITY, KEY, _features())
    path = _only_file(tmp_path)
    whole = path.read_bytes()
    unnoticed = 0
    for position in range(len(whole)):
        data = bytearray(whole)
        data[position] ^= bits
        path.write_bytes(data)
        found = cache.load(IDENTITY, KEY, num_images=6)
        if found is not None:
            unnoticed += 1
            assert found.tobytes() == _features().tobytes()
            assert found.shape == (6, 4)
    assert len(hearing.warnings) == 1  # once, however many files
    assert unnoticed <= 8  # spaces that fill up the header


def test_a_file_of_another_key_is_not_taken(tmp_path: Path, cache: FeatureCache, hearing: _Hearing) -> None:
    cache.save(IDENTITY, KEY, _features())
    path = _only_file(tmp_path)
    cache.save({**IDENTITY, "weights": "00"}, KEY, -_features())
    (other,) = set((tmp_path / "cache").iterdir()) - {path}
    other.replace(path)
    assert cache.load(IDENTITY, KEY, num_images=6) is None
    assert hearing.warnings == [f"{path} is damaged: these features are computed again."]


@pytest.mark.parametrize("num_images", [0, 5, 7, 4])
def test_another_number_of_images_is_damage(cache: FeatureCache, hearing: _Hearing, num_images: int) -> None:
    cache.save(IDENTITY, KEY, _features())
    assert cache.load(IDENTITY, KEY, num_images=num_images) is None
    assert len(hearing.warnings) == 1


# --- folders that cannot be written, and writers that die


@pytest.mark.parametrize("below", ["", "deeper"])
def test_a_folder_that_is_a_file(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("here")
    folder = tmp_path / "taken" / below
    cache = FeatureCache(folder, Conversation())
    assert cache.load(IDENTITY, KEY, num_images=6) is None
    with pytest.raises(SettingError) as caught:
        cache.save(IDENTITY, KEY, _features())
    assert str(caught.value).startswith(f"--cache {folder} cannot be written: ")
    assert str(caught.value).endswith("Give another folder.")
    assert (tmp_path / "taken").read_text() == "here"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is forbidden to root")
@pytest.mark.parametrize("mode", [0o500, 0o000])
def test_a_folder_without_permission(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "locked"
    folder.mkdir()
    folder.chmod(mode)
    try:
        cache = FeatureCache(folder, Conversation())
        assert cache.load(IDENTITY, KEY, num_images=6) is None
        with pytest.raises(SettingError, match=r"--cache .*locked cannot be written"):
            cache.save(IDENTITY, KEY, _features())
    finally:
        folder.chmod(0o700)


def test_a_folder_that_cannot_be_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = FeatureCache(tmp_path, Conversation())
    cache.save(IDENTITY, KEY, _features())
    stat = os.stat

    def forbidden(path: Any, *args: Any, **kwargs: Any) -> os.stat_result:
        if str(path).endswith(".safetensors"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, *args, **kwargs)

    monkeypatch.setattr(os, "stat", forbidden)
    with suppress(SettingError):  # a sentence would do as well
        assert cache.load(IDENTITY, KEY, num_images=6) is None


def test_a_folder_with_a_name_too_long(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path / ("n" * 300), Conversation())

    def load_or_save() -> None:
        if cache.load(IDENTITY, KEY, num_images=6) is None:
            cache.save(IDENTITY, KEY, _features())

    with pytest.raises(SettingError, match=r"^--cache .*n cannot be written: .*Give another folder\.$"):
        load_or_save()


def test_a_full_disk_leaves_nothing(tmp_path: Path, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.save(IDENTITY, KEY, _features())

    def full(self: Path, data: bytes) -> int:
        with self.open("wb") as file:
            file.write(data[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SettingError, match="No space left on device"):
        cache.save(IDENTITY, KEY, -_features())
    with pytest.raises(SettingError, match="No space left on device"):
        cache.save(IDENTITY, FeatureKey(4, "mean"), -_features())
    np.testing.assert_array_equal(cache.load(IDENTITY, KEY, num_images=6), _features())
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_interrupted_before_the_rename_leaves_nothing(
    tmp_path: Path, cache: FeatureCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_args: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        cache.save(IDENTITY, KEY, _features())
    assert list((tmp_path / "cache").iterdir()) == []
    assert cache.load(IDENTITY, KEY, num_images=6) is None


_DYING = """
import os, signal, sys
from pathlib import Path
import numpy as np
from vitctl.conversation import Conversation
from vitctl.evaluation.feature_cache import FeatureCache
from vitctl.evaluation.features import FeatureKey

def die(self, data):
    with open(self, "wb") as file:
        file.write(data[: len(data) // 2])
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)

Path.write_bytes = die
FeatureCache(Path(sys.argv[1]), Conversation()).save({}, FeatureKey(0, "mean"), np.ones((6, 4), np.float32))
"""


@pytest.mark.slow
def test_killed_while_writing_leaves_nothing_that_is_read(tmp_path: Path, hearing: _Hearing) -> None:
    folder = tmp_path / "cache"
    done = subprocess.run([sys.executable, "-c", _DYING, str(folder)], check=False)
    assert done.returncode == -signal.SIGKILL
    (partial,) = folder.iterdir()
    assert partial.name.endswith(".partial")
    cache = FeatureCache(folder, hearing)
    assert cache.load({}, FeatureKey(0, "mean"), num_images=6) is None
    assert hearing.warnings == []
    cache.save({}, FeatureKey(0, "mean"), _features())
    np.testing.assert_array_equal(cache.load({}, FeatureKey(0, "mean"), num_images=6), _features())


# --- hashes


def _model(*, order: tuple[str, ...] = ("first", "second", "norm")) -> nn.Module:
    parts = {"first": nn.Linear(3, 4), "second": nn.Linear(4, 2), "norm": nn.BatchNorm1d(2)}
    model = nn.Module()
    for name in order:
        model.add_module(name, parts[name])
    with torch.no_grad():
        for index, (_, value) in enumerate(sorted(model.named_parameters())):
            value.copy_(torch.arange(value.numel()).reshape(value.shape) + index)
    return model


def test_hash_of_weights__is_that_of_equal_weights() -> None:
    digest = hash_of_weights(_model())
    assert len(digest) == 64
    assert int(digest, 16)
    assert hash_of_weights(_model()) == digest
    assert hash_of_weights(_model(order=("norm", "second", "first"))) == digest
    assert hash_of_weights(_model().eval()) == digest
    frozen = _model().requires_grad_(False)
    assert hash_of_weights(frozen) == digest


def test_hash_of_weights__of_other_strides_is_the_same() -> None:
    model = _model()
    digest = hash_of_weights(model)
    model.first.weight = nn.Parameter(model.first.weight.detach().t().contiguous().t())
    assert not model.first.weight.is_contiguous()
    assert hash_of_weights(model) == digest


@pytest.mark.gpu
def test_hash_of_weights__of_another_device_is_the_same() -> None:
    assert hash_of_weights(_model().cuda()) == hash_of_weights(_model())


def test_hash_of_weights__one_number() -> None:
    model = _model()
    digests = {hash_of_weights(model)}
    for value in model.state_dict().values():  # parameters, running statistics, a counter without dimensions
        changed = value.view(-1)[-1]
        before = changed.clone()
        changed += 1
        digests.add(hash_of_weights(model))
        changed.copy_(before)
    assert len(digests) == 1 + len(model.state_dict()) == 1 + 2 + 2 + 5
    assert hash_of_weights(model) in digests
    model.first.weight.data[0, 0] = torch.nextafter(model.first.weight.data[0, 0], torch.tensor(9.0))
    assert hash_of_weights(model) not in digests


def test_hash_of_weights__names_shapes_and_types_count() -> None:
    def of(value: torch.Tensor, name: str = "x") -> str:
        model = nn.Module()
        model.register_buffer(name, value)
        return hash_of_weights(model)

    zeros = torch.zeros(2, 3)
    digests = [
        of(zeros),
        of(zeros, "y"),
        of(zeros.T.contiguous()),
        of(zeros.int()),
        of(zeros[:, :0]),
        of(zeros.bfloat16()),
        of(torch.zeros(2, 3, dtype=torch.complex64)),
        of(zeros.bool()),
        of(torch.tensor(0.0)),
    ]
    assert len(set(digests)) == len(digests)


def test_hash_of_images() -> None:
    digest = hash_of_images(["a", "b"])
    assert len(digest) == 64
    assert hash_of_images(["a", "b"]) == digest
    others = [["b", "a"], ["a"], ["a", "b", "b"], ["ab"], ["a", "c"], []]
    assert len({digest, *map(hash_of_images, others)}) == 1 + len(others)
