"""Position embeddings on a new grid: equal to the authors' code and to timm, bit-identical where nothing changes."""

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from torch import Tensor

import vitctl.models  # noqa: F401  (makes `import timm` work beside a CPU-only torch)
from vitctl.errors import SettingError
from vitctl.primitives.position_embeddings import (
    METHODS,
    mean_norm,
    resample_by_products,
    resample_position_embeddings,
)

GOLDEN = np.load(Path(__file__).parent.parent / "golden" / "posembed.npz")


def random_table(grid: tuple[int, int], *, num_prefix: int, width: int = 6) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(1, num_prefix + grid[0] * grid[1], width, generator=generator)


@pytest.mark.parametrize("side", [3, 6, 8])
def test_paper__equals_google_vision_transformer(side: int) -> None:
    resampled = resample_position_embeddings(
        torch.from_numpy(GOLDEN["src"]), old_grid=(4, 4), new_grid=(side, side), num_prefix_tokens=1, method="paper"
    )
    np.testing.assert_allclose(resampled.numpy(), GOLDEN[f"vit_jax_{side}"], rtol=0, atol=1e-5)


def test_paper__every_golden_side_is_tested() -> None:
    sides = {int(name.removeprefix("vit_jax_")) for name in GOLDEN.files if name.startswith("vit_jax_")}
    assert sides == {3, 6, 8}


def test_paper__equals_scipy_zoom_on_rectangles() -> None:
    table = random_table((3, 5), num_prefix=1)
    resampled = resample_position_embeddings(
        table, old_grid=(3, 5), new_grid=(7, 4), num_prefix_tokens=1, method="paper"
    )
    image = table[0, 1:].reshape(3, 5, 6).numpy()
    expected = scipy.ndimage.zoom(image, (7 / 3, 4 / 5, 1), order=1)  # as the authors call it
    np.testing.assert_allclose(resampled[0, 1:].reshape(7, 4, 6).numpy(), expected, rtol=0, atol=1e-5)


def test_paper__keeps_the_corners() -> None:
    table = random_table((4, 4), num_prefix=0)
    resampled = resample_position_embeddings(
        table, old_grid=(4, 4), new_grid=(9, 7), num_prefix_tokens=0, method="paper"
    ).reshape(9, 7, 6)
    before = table.reshape(4, 4, 6)
    for row in (0, -1):
        for column in (0, -1):
            torch.testing.assert_close(resampled[row, column], before[row, column])


@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((3, 5), (6, 4)), ((6, 6), (3, 3)), ((4, 4), (2, 8))])
def test_bicubic_aa__equals_timm(old: tuple[int, int], new: tuple[int, int], num_prefix: int) -> None:
    from timm.layers import resample_abs_pos_embed

    table = random_table(old, num_prefix=num_prefix)
    resampled = resample_position_embeddings(
        table, old_grid=old, new_grid=new, num_prefix_tokens=num_prefix, method="bicubic-aa"
    )
    expected = resample_abs_pos_embed(table, new_size=list(new), old_size=list(old), num_prefix_tokens=num_prefix)
    torch.testing.assert_close(resampled, expected, rtol=0, atol=0)


def test_bicubic__equals_timm_without_antialias() -> None:
    from timm.layers import resample_abs_pos_embed

    table = random_table((6, 6), num_prefix=1)
    resampled = resample_position_embeddings(
        table, old_grid=(6, 6), new_grid=(3, 4), num_prefix_tokens=1, method="bicubic"
    )
    expected = resample_abs_pos_embed(table, new_size=[3, 4], old_size=[6, 6], num_prefix_tokens=1, antialias=False)
    torch.testing.assert_close(resampled, expected, rtol=0, atol=0)


def test_methods__give_three_different_answers() -> None:
    table = random_table((6, 6), num_prefix=1)
    answers = [
        resample_position_embeddings(table, old_grid=(6, 6), new_grid=(4, 4), num_prefix_tokens=1, method=method)
        for method in METHODS
    ]
    distances = [float((a - b).abs().max()) for a, b in zip(answers, answers[1:] + answers[:1], strict=True)]
    assert len(distances) == 3
    assert min(distances) > 0.01


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [(4, 4), (2, 8)])
def test_same_grid__is_bit_identical(grid: tuple[int, int], method: str) -> None:
    table = random_table(grid, num_prefix=1)
    resampled = resample_position_embeddings(table, old_grid=grid, new_grid=grid, num_prefix_tokens=1, method=method)
    assert torch.equal(resampled, table)


@pytest.mark.parametrize("method", METHODS)
def test_equal_token_rectangle__is_resampled(method: str) -> None:
    table = random_table((14, 14), num_prefix=1)
    resampled = resample_position_embeddings(
        table, old_grid=(14, 14), new_grid=(7, 28), num_prefix_tokens=1, method=method
    )
    assert resampled.shape == table.shape
    assert float((resampled[:, 1:] - table[:, 1:]).abs().mean()) > 0.1


@pytest.mark.parametrize("method", METHODS)
def test_rectangular_source__places_rows_and_columns_apart(method: str) -> None:
    """A table that holds its own row number keeps it constant along each row, and likewise for columns."""
    rows, columns = torch.meshgrid(torch.arange(2.0), torch.arange(5.0), indexing="ij")
    table = torch.stack([rows, columns], dim=-1).reshape(1, 10, 2)
    resampled = resample_position_embeddings(
        table, old_grid=(2, 5), new_grid=(4, 8), num_prefix_tokens=0, method=method
    ).reshape(4, 8, 2)
    torch.testing.assert_close(resampled[..., 0], resampled[:, :1, 0].expand(4, 8))
    torch.testing.assert_close(resampled[..., 1], resampled[:1, :, 1].expand(4, 8))
    assert (resampled[:, 0, 0].diff() > 0).all()
    assert (resampled[0, :, 1].diff() > 0).all()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("num_prefix", [0, 1, 2, 5])
def test_prefix_tokens__are_not_touched(num_prefix: int, method: str) -> None:
    table = random_table((4, 4), num_prefix=num_prefix)
    resampled = resample_position_embeddings(
        table, old_grid=(4, 4), new_grid=(6, 3), num_prefix_tokens=num_prefix, method=method
    )
    assert resampled.shape == (1, num_prefix + 18, 6)
    assert torch.equal(resampled[:, :num_prefix], table[:, :num_prefix])


@pytest.mark.parametrize("method", METHODS)
def test_dtype__is_kept_and_computed_in_float32(method: str) -> None:
    table = random_table((4, 4), num_prefix=1).bfloat16()
    resampled = resample_position_embeddings(
        table, old_grid=(4, 4), new_grid=(6, 6), num_prefix_tokens=1, method=method
    )
    exact = resample_position_embeddings(
        table.float(), old_grid=(4, 4), new_grid=(6, 6), num_prefix_tokens=1, method=method
    )
    assert resampled.dtype == torch.bfloat16
    assert torch.equal(resampled, exact.bfloat16())


@pytest.mark.parametrize(("num_prefix", "grid"), [(0, (4, 4)), (2, (4, 4)), (1, (4, 5)), (1, (2, 2))])
def test_wrong_token_count__is_refused(num_prefix: int, grid: tuple[int, int]) -> None:
    table = random_table((4, 4), num_prefix=1)
    with pytest.raises(ValueError, match=f"17 position embeddings are not {num_prefix} prefix tokens"):
        resample_position_embeddings(
            table, old_grid=grid, new_grid=(6, 6), num_prefix_tokens=num_prefix, method="paper"
        )


def test_unknown_method__is_refused_with_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"--pos-embed-interp is 'bicubic_aa'.*Did you mean 'bicubic-aa'"):
        resample_position_embeddings(
            random_table((4, 4), num_prefix=0),
            old_grid=(4, 4),
            new_grid=(6, 6),
            num_prefix_tokens=0,
            method="bicubic_aa",
        )


def test_mean_norm__leaves_prefix_tokens_out() -> None:
    table = torch.tensor([[[100.0, 0.0], [3.0, 4.0], [0.0, 1.0]]])
    assert mean_norm(table, num_prefix_tokens=1) == pytest.approx((5 + 1) / 2)


def test_mean_norm__shrinks_when_neighbours_are_averaged() -> None:
    table = random_table((4, 4), num_prefix=1)
    larger = resample_position_embeddings(table, old_grid=(4, 4), new_grid=(7, 8), num_prefix_tokens=1, method="paper")
    assert mean_norm(larger, num_prefix_tokens=1) < mean_norm(table, num_prefix_tokens=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("grid", [(3, 5), (6, 4), (7, 2), (1, 1)])
def test_products__equal_resampling(grid: tuple[int, int], method: str) -> None:
    """Largest difference seen: 7e-7."""
    table = random_table((6, 4), num_prefix=2)
    how = {"old_grid": (6, 4), "new_grid": grid, "num_prefix_tokens": 2, "method": method}
    resampled, expected = resample_by_products(table, **how), resample_position_embeddings(table, **how)
    torch.testing.assert_close(resampled, expected, rtol=0, atol=2e-6)
    assert torch.equal(resampled[:, :2], table[:, :2])
    assert (resampled is table) == (grid == (6, 4))


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products__gradients_are_those_of_finite_differences_whatever_autocast_says(precision: torch.dtype) -> None:
    how = {"old_grid": (4, 6), "new_grid": (3, 2), "num_prefix_tokens": 1, "method": "bicubic-aa"}
    table = random_table((4, 6), num_prefix=1).requires_grad_()
    along = random_table((3, 2), num_prefix=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        (resample_by_products(table, **how) * along).sum().backward()
    assert table.grad is not None
    assert float(table.grad.abs().min()) > 0  # every place has its part in a smaller grid
    for place, channel in ((0, 1), (5, 0), (24, 3)):
        moved = table.detach().double()
        moved[0, place, channel] += 1.0  # it is linear: no step is too long
        change = (resample_by_products(moved, **how) - resample_by_products(table.detach().double(), **how)) * along
        assert float(table.grad[0, place, channel]) == pytest.approx(float(change.sum()), abs=1e-6)
