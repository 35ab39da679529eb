"""Similarity of position embeddings: closed forms of sine-cosine tables, prefix rows, resampling, models without."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import timm
import torch
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.position import pos_embed, similarity_statistics
from vitctl.inspecting.subject import Subject
from vitctl.models.build import load_model
from vitctl.models.geometry import geometry_of

VIT = {"patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
FREQUENCIES = 1.0 / 100 ** (torch.arange(8, dtype=torch.float64) / 8)  # K = D / 4 = 8


def _subject(name: str = "vit_tiny_patch16_224", **arguments: Any) -> Subject:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model(name, **arguments).eval()
    return Subject(model, name, geometry_of(model), torch.device("cpu"))


def _with_table(table: Tensor, **arguments: Any) -> Subject:
    subject = _subject(**{**VIT, **arguments})
    subject.model.pos_embed = nn.Parameter(table.float())
    return subject


def _waves(places: Tensor, frequencies: Tensor) -> Tensor:
    """Return sines and cosines (N, 2K) of (N,) places."""
    angles = places.double()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def _sine_cosine_2d(height: int, width: int) -> Tensor:
    """Return (1, h w, 4K): the row's waves, then the column's."""
    rows, columns = torch.arange(height).repeat_interleave(width), torch.arange(width).repeat(height)
    return torch.cat([_waves(rows, FREQUENCIES), _waves(columns, FREQUENCIES)], dim=1)[None]


def test_a_2d_sine_cosine_table_follows_its_closed_form() -> None:
    found = pos_embed(_with_table(_sine_cosine_2d(6, 4), img_size=(24, 16), class_token=False, global_pool="avg"))
    down = torch.arange(6)[:, None] - torch.arange(6)
    across = torch.arange(4)[:, None] - torch.arange(4)
    by_row = torch.cos(down[..., None] * FREQUENCIES).sum(-1)
    by_column = torch.cos(across[..., None] * FREQUENCIES).sum(-1)
    expected = (by_row[:, None, :, None] + by_column[None, :, None, :]) / 16  # (sum cos + sum cos) / 2K
    similarity = found.arrays["similarity"]
    assert similarity.shape == (6, 4, 6, 4)
    np.testing.assert_allclose(similarity, expected.numpy(), atol=1e-6)
    flat = similarity.reshape(24, 24)
    np.testing.assert_allclose(flat, flat.T, atol=1e-7)
    np.testing.assert_allclose(np.diag(flat), 1, atol=1e-6)
    assert found.facts["peak_is_self"] == 1
    assert found.facts["correlation_with_distance"] > 0.8
    assert found.facts["mean_norm"] == pytest.approx(4)  # sqrt(2 K)
    assert found.facts["kind"] == "table"


def test_a_raster_sine_cosine_table_knows_rows_better_than_columns() -> None:
    frequencies = 1.0 / 10_000 ** (torch.arange(96, dtype=torch.float64) / 96)
    table = _waves(torch.arange(196), frequencies)[None]
    subject = _with_table(table, img_size=56, embed_dim=192, class_token=False, global_pool="avg")
    similarity = pos_embed(subject).arrays["similarity"]
    assert similarity[5, 5, 5, 6] == pytest.approx(0.9715, abs=5e-5)
    assert similarity[5, 5, 6, 5] == pytest.approx(0.6526, abs=5e-5)
    flat = similarity.reshape(196, 196)
    for offset in (1, 13, 14, 100):  # it depends on |i - j| only
        assert np.ptp(np.diag(flat, offset)) < 1e-6


@pytest.mark.parametrize(
    ("num_rows", "arguments"),
    [
        (1, {}),
        (0, {"no_embed_class": True}),
        (5, {"reg_tokens": 4}),
        (0, {"reg_tokens": 4, "no_embed_class": True}),
        (0, {"class_token": False, "global_pool": "avg"}),
        (2, {"class_token": False, "reg_tokens": 2, "global_pool": "avg"}),
    ],
)
def test_rows_of_prefix_tokens_are_dropped(num_rows: int, arguments: dict[str, Any]) -> None:
    patches = torch.randn(1, 16, 32, generator=torch.Generator().manual_seed(0))
    table = torch.cat([torch.full((1, num_rows, 32), 100.0), patches], dim=1)
    subject = _subject(**{**VIT, "img_size": 16}, **arguments)
    assert subject.model.get_parameter("pos_embed").shape == table.shape
    with torch.no_grad():
        subject.model.get_parameter("pos_embed").copy_(table)
    found = pos_embed(subject)
    expected = torch.nn.functional.cosine_similarity(patches[0, :, None], patches[0, None], dim=-1)
    np.testing.assert_allclose(found.arrays["similarity"].reshape(16, 16), expected.numpy(), atol=1e-6)
    assert found.facts["num_prefix_rows"] == num_rows


def test_a_distilled_model_has_two_prefix_rows() -> None:
    found = pos_embed(_subject("deit_tiny_distilled_patch16_224", **VIT, img_size=(8, 16)))
    assert found.facts["num_prefix_rows"] == 2
    assert found.facts["grid"] == [2, 4]


def test_statistics_agree_with_plain_loops() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((15, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    similarity = (vectors @ vectors.T).reshape(3, 5, 3, 5)
    near, similar, by_distance = [], [], {}
    for first, second in itertools.product(np.ndindex(3, 5), repeat=2):
        if first != second:
            down, across = first[0] - second[0], first[1] - second[1]
            near.append(-math.hypot(down, across))
            similar.append(similarity[first][second])
            kinds = by_distance.setdefault(round(math.hypot(down, across)), ([], []))
            kinds[down == 0 or across == 0].append(similar[-1])
    expected = [
        (np.mean(aligned) - np.mean(other), len(aligned))
        for other, aligned in by_distance.values()
        if other and aligned
    ]
    found = similarity_statistics(similarity)
    assert found["correlation_with_distance"] == pytest.approx(np.corrcoef(near, similar)[0, 1])
    excess = sum(value * count for value, count in expected) / sum(count for _, count in expected)
    assert found["row_column_excess"] == pytest.approx(excess)
    assert found["peak_is_self"] == 1


def test_statistics_of_one_patch_and_of_equal_patches_are_not_defined() -> None:
    assert similarity_statistics(np.ones((1, 1, 1, 1))) == {
        "peak_is_self": 1.0,
        "correlation_with_distance": None,
        "row_column_excess": None,
    }
    equal = similarity_statistics(np.ones((3, 3, 3, 3)))
    assert equal["peak_is_self"] == pytest.approx(1 / 9)
    assert equal["correlation_with_distance"] is None


def test_resampling_agrees_with_timm_and_leaves_the_model_alone() -> None:
    subject = _subject(**VIT, img_size=16)
    before = subject.model.get_parameter("pos_embed").clone()
    found = pos_embed(subject, image_size=(24, 32))
    table = resample_abs_pos_embed(before.detach(), [6, 8], old_size=[4, 4], num_prefix_tokens=1)[0, 1:]
    expected = torch.nn.functional.cosine_similarity(table[:, None], table[None], dim=-1).reshape(6, 8, 6, 8)
    np.testing.assert_allclose(found.arrays["similarity_resampled"], expected.numpy(), atol=1e-5)
    assert found.facts["grid_resampled"] == [6, 8]
    assert found.facts["mean_norm_resampled"] == pytest.approx(float(table.norm(dim=1).mean()), rel=1e-5)
    assert torch.equal(subject.model.get_parameter("pos_embed"), before)
    assert len(found.rows) == 2


def test_without_a_size_nothing_is_resampled_and_its_own_size_changes_nothing() -> None:
    subject = _subject(**VIT, img_size=16)
    found = pos_embed(subject)
    assert set(found.arrays) == {"similarity"}
    assert found.facts["grid_resampled"] is None
    assert found.facts["peak_is_self_resampled"] is None
    same = pos_embed(subject, image_size=(16, 16))
    np.testing.assert_array_equal(same.arrays["similarity"], same.arrays["similarity_resampled"])


def test_a_trained_table_resampled_keeps_its_structure() -> None:
    table = _sine_cosine_2d(4, 4)
    subject = _with_table(table, img_size=16, class_token=False, global_pool="avg")
    for method in ("paper", "bicubic", "bicubic-aa"):
        facts = pos_embed(subject, image_size=(32, 32), method=method).facts
        assert facts["correlation_with_distance_resampled"] > 0.8
        assert facts["peak_is_self_resampled"] > 0.9
        assert facts["method"] == method


def test_sizes_and_methods_that_cannot_be_are_refused() -> None:
    subject = _subject(**VIT, img_size=16)
    with pytest.raises(SettingError, match="--image-size 18 is not a multiple.*16 and 20"):
        pos_embed(subject, image_size=(18, 18))
    with pytest.raises(SettingError, match="bilinear"):
        pos_embed(subject, image_size=(24, 24), method="bilinear")


def test_tables_over_a_grid_come_channels_first_or_last() -> None:
    table = torch.randn(1, 4, 6, 32, generator=torch.Generator().manual_seed(0))
    sam = _subject("samvit_base_patch16", **{**VIT, "img_size": (16, 24), "window_size": 2})
    with torch.no_grad():
        sam.model.get_parameter("pos_embed").copy_(table)
    found = pos_embed(sam)
    expected = torch.nn.functional.cosine_similarity(table[0, 1, 5], table[0, 3, 0], dim=0).item()
    assert found.arrays["similarity"][1, 5, 3, 0] == pytest.approx(expected, abs=1e-6)
    assert (found.facts["grid"], found.facts["kind"]) == ([4, 6], "table over 2-D")
    pit = _subject("pit_ti_224", img_size=64)
    first = pit.model.get_parameter("pos_embed")[0]
    expected = torch.nn.functional.cosine_similarity(first[:, 1, 5], first[:, 3, 0], dim=0).item()
    assert pos_embed(pit).arrays["similarity"][1, 5, 3, 0] == pytest.approx(expected, abs=1e-6)


def test_a_factorised_table_is_the_sum_of_its_row_and_column() -> None:
    config = timm.models.NaFlexVitCfg(
        patch_size=4, embed_dim=32, depth=1, num_heads=2, pos_embed="factorized", pos_embed_grid_size=(3, 5)
    )
    model: Any = timm.models.NaFlexVit(config).eval()
    found = pos_embed(Subject(model, "naflex", geometry_of(model), torch.device("cpu")), image_size=(24, 40))
    embeds = model.embeds
    one = embeds.pos_embed_y[0, 2] + embeds.pos_embed_x[0, 4]
    other = embeds.pos_embed_y[0, 0] + embeds.pos_embed_x[0, 1]
    expected = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
    assert found.arrays["similarity"][2, 4, 0, 1] == pytest.approx(expected, abs=1e-6)
    assert found.facts["kind"] == "factorised table"
    assert found.facts["grid_resampled"] == [6, 10]


def test_rows_that_are_no_grid_are_shown_in_their_order() -> None:
    subject = _with_table(torch.randn(1, 11, 32, generator=torch.Generator().manual_seed(0)), img_size=16)
    found = pos_embed(subject)
    assert found.arrays["similarity"].shape == (1, 11, 1, 11)
    assert "in their order" in found.notes[0]
    assert found.facts["row_column_excess"] is None
    with pytest.raises(SettingError, match="--image-size"):
        pos_embed(subject, image_size=(32, 32))


@pytest.mark.parametrize(
    ("name", "arguments", "instead"),
    [
        ("vit_small_patch16_rope_224", {**VIT, "img_size": 16}, "rotary position embeddings"),
        ("beit_base_patch16_224", {**VIT, "img_size": 16}, "relative position bias"),
        ("mixer_s32_224", {"img_size": 32}, "weights of their own for every place"),
        ("resnet10t", {}, "convolutions see neighbours"),
    ],
)
def test_models_without_a_table_are_refused_with_what_they_have_instead(
    name: str, arguments: dict[str, Any], instead: str
) -> None:
    with pytest.raises(ModelError, match=rf"{name} has no .*{instead}.*try cka.*equivariance"):
        pos_embed(_subject(name, **arguments))


def test_a_model_with_both_is_told_so() -> None:
    found = pos_embed(_subject("eva02_tiny_patch14_224", img_size=28, embed_dim=32, depth=1, num_heads=2))
    assert any("RoPE" in note for note in found.notes)


def test_a_table_of_zeros_is_refused() -> None:
    with pytest.raises(ModelError, match="all zero"):
        pos_embed(_with_table(torch.zeros(1, 17, 32), img_size=16))


def test_the_demo_weights_know_where_their_patches_are_and_random_weights_do_not() -> None:
    correlations = []
    for weights in ("pretrained", "none"):
        model = load_model("demo", weights=weights).model.eval()
        facts = pos_embed(Subject(model, "demo", geometry_of(model), torch.device("cpu"))).facts
        assert facts["peak_is_self"] == 1
        correlations.append(facts["correlation_with_distance"])
    assert correlations[0] > 0.3
    assert abs(correlations[1]) < 0.05
