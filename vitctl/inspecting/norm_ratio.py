"""What skip connections carry against what branches add (arXiv 2108.08810, section 6, figures 7, E.1 and E.2).

A residual sum is z' = z + f: z came along the skip connection, f from the branch (attention, MLP, convolutions). Both
are read from the running model, f where its module gives it, and the sum is checked against what the model passes on.

Letters: L blocks or residual units, B images, T tokens or places, P prefix tokens, D width.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.errors import ModelError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.anatomy import has_class_token, has_late_class_token, num_prefix_tokens
from vitctl.models.block_anatomy import ResidualUnit, mixes_tokens_by_mlp, residual_units

_BINS_PER_OCTAVE, _OCTAVES = 512, 20  # of ratios from 2^-20 to 2^20, for their median to 0.07 %


@dataclass(frozen=True)
class ResidualSum:
    """z + f = z' as a model computed it, in the model's own shapes; a part is None where it was not seen."""

    skip: Tensor | None
    branch: Tensor | None
    total: Tensor | None


@torch.no_grad()
def norm_ratio(subject: Subject, stream: ImageStream, *, conversation: Conversation) -> Findings:
    """Return the norm of z over that of f per block, branch and kind of token, and the cosines between them.

    Args:
        subject: A ViT, or a CNN with residual units.
        stream: Images.
        conversation: Hears of progress.

    Raises:
        ModelError: The model has no residual sums where this analysis looks for them.
    """
    units = residual_units(subject.model)
    if not units:
        raise ModelError(_refusal(subject))
    is_transformer = units[0].is_transformer
    tables = [_Table(unit, subject, num_branches=2 if is_transformer else 1) for unit in units]
    with conversation.progress("norm ratio", len(stream), "images") as bar:
        for images in stream.batches():
            watch_sums(subject, units, images, lambda index, sums: tables[index].add(sums))
            bar.advance(len(images))
    kept = [table for table in tables if table.is_valid]
    if not kept:
        raise ModelError(_refusal(subject))
    return _findings(subject, kept, num_left_out=len(tables) - len(kept), num_images=len(stream))


def watch_sums(
    subject: Subject,
    units: Sequence[ResidualUnit],
    images: Tensor,
    visit: Callable[[int, tuple[ResidualSum, ...]], None],
) -> None:
    """Show ``images`` (B, 3, H, W) to the model and hand over each unit's sums, one or two, as soon as it has run."""
    model: Any = subject.model
    handles: list[Any] = []
    try:
        for index, unit in enumerate(units):
            handles += _Watcher(unit, partial(visit, index)).attach()
        model.forward_features(images.to(subject.device))
    finally:
        for handle in handles:
            handle.remove()


@dataclass
class _Seen:
    """What has been seen of a unit's sums while it runs."""

    entry: Tensor | None = None
    branches: list[Tensor] = field(default_factory=list)
    middle: Tensor | None = None
    num_before_middle: int = 0
    skips: list[Tensor] = field(default_factory=list)
    summed: Tensor | None = None

    def sums(self, output: Any) -> tuple[ResidualSum, ...]:
        output = output[0] if isinstance(output, (tuple, list)) else output
        total = output if self.summed is None else self.summed
        entry = self.skips[0] if self.skips else self.entry
        if self.middle is None:
            return (ResidualSum(entry, _added(self.branches), total),)
        first, second = self.branches[: self.num_before_middle], self.branches[self.num_before_middle :]
        again = self.skips[1] if len(self.skips) > 1 else self.middle
        return ResidualSum(entry, _added(first), self.middle), ResidualSum(again, _added(second), total)


def _added(branches: Sequence[Tensor]) -> Tensor | None:
    if not branches or any(branch.shape != branches[0].shape for branch in branches):
        return None
    return branches[0] if len(branches) == 1 else torch.stack(list(branches)).sum(dim=0)


class _Watcher:
    """Looks at one unit while it runs; what it sees is copied where CNNs add and activate in place."""

    def __init__(self, unit: ResidualUnit, visit: Callable[[tuple[ResidualSum, ...]], None]) -> None:
        self._unit, self._visit, self._seen = unit, visit, _Seen()

    def attach(self) -> list[Any]:
        """Hang up the hooks; return their handles."""
        unit = self._unit
        return [
            unit.block.register_forward_pre_hook(self._enter),
            *(end.register_forward_hook(self._keep_branch) for end in unit.ends),
            *(middle.register_forward_pre_hook(self._reach_middle) for middle in unit.middles),
            *(skip.register_forward_hook(self._keep_skip) for skip in unit.skips),
            *(summed.register_forward_pre_hook(self._keep_sum) for summed in unit.summed),
            unit.block.register_forward_hook(self._leave),
        ]

    def _enter(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen = _Seen(args[0] if args else None)

    def _keep_branch(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._seen.branches.append(output.clone())

    def _reach_middle(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        if self._seen.middle is None and self._seen.branches:
            self._seen.middle, self._seen.num_before_middle = args[0], len(self._seen.branches)

    def _keep_skip(self, _module: nn.Module, _args: Any, output: Tensor) -> None:
        self._seen.skips.append(output)

    def _keep_sum(self, _module: nn.Module, args: tuple[Any, ...]) -> None:
        self._seen.summed = args[0].clone()

    def _leave(self, _module: nn.Module, _args: Any, output: Any) -> None:
        seen, self._seen = self._seen, _Seen()
        self._visit(seen.sums(output))


class _Table:
    """Statistics of one unit: for every branch, those of the class token and the patches, or of all places."""

    def __init__(self, unit: ResidualUnit, subject: Subject, *, num_branches: int) -> None:
        self.unit = unit
        self.cells = [[_Cell() for _ in range(2 if unit.is_transformer else 1)] for _ in range(num_branches)]
        self.errors = [0.0] * num_branches
        self.is_measured = [True] * num_branches  # z, f and z' were seen and belong together
        self.is_joint = self.is_difference = False
        self._subject = subject

    @property
    def is_valid(self) -> bool:
        return any(self.is_measured)

    @property
    def num_infinite(self) -> int:
        branches = self.cells[:1] if self.is_joint else self.cells
        return sum(cell.num_infinite for cells in branches for cell in cells)

    def add(self, sums: tuple[ResidualSum, ...]) -> None:
        self.is_joint = len(sums) < len(self.cells)
        for branch, cells in enumerate(self.cells):
            self._add(branch, cells, sums[min(branch, len(sums) - 1)])

    def _add(self, branch: int, cells: "list[_Cell]", one: ResidualSum) -> None:
        parts = self._checked(one) if self.is_measured[branch] else None
        if parts is None:
            self.is_measured[branch] = False
            return
        skip, added, total, error = parts
        self.errors[branch] = max(self.errors[branch], error)
        values = _ratio_and_cosines(*(_by_token(part, self.unit.channel_axis) for part in (skip, added, total)))
        for cell, tokens in zip(cells, self._kinds(skip), strict=True):
            cell.add(*(value[:, tokens] for value in values))

    def _checked(self, one: ResidualSum) -> tuple[Tensor, Tensor, Tensor, float] | None:
        """Return z, f and z' in one shape and the largest error of their sum; None where they are not a sum."""
        skip, added, total = one.skip, one.branch, one.total
        if skip is None or added is None or total is None or skip.numel() != total.numel():
            return None
        total = total.reshape(skip.shape)
        is_windowed = self.unit.is_transformer and len(added) != len(skip)  # SAM cuts attention into windows
        if is_windowed:
            added, self.is_difference = total - skip, True
        elif added.numel() != skip.numel():
            return None
        added = added.reshape(skip.shape)
        error = (skip + added - total).abs().max().item()
        return (skip, added, total, error) if error == 0 or is_windowed else None

    def _kinds(self, skip: Tensor) -> list[slice]:
        """Return which tokens each column is about."""
        if not self.unit.is_transformer:
            return [slice(None)]
        num_prefix = _num_prefix_tokens(self._subject, skip)
        has_class = num_prefix > 0 and has_class_token(self._subject.model)
        return [slice(0, 1 if has_class else 0), slice(num_prefix, None)]


def _num_prefix_tokens(subject: Subject, tokens: Tensor) -> int:
    """Return how many of a block's tokens (B, N, D) are prefix tokens; 0 for a feature map."""
    model, grid = subject.model, subject.geometry.grid
    num_prefix = num_prefix_tokens(model) or int(has_class_token(model))
    if tokens.ndim != 3 or has_late_class_token(model):
        return 0
    is_there = grid is None or tokens.shape[1] == num_prefix + grid[0] * grid[1]
    return num_prefix if is_there else 0


def _by_token(values: Tensor, channel_axis: int) -> Tensor:
    """Return (B, T, D) from tokens, or from a feature map whose channels are at ``channel_axis``."""
    return values.float().movedim(channel_axis if values.ndim == 4 else -1, -1).flatten(1, -2)


def _ratio_and_cosines(skip: Tensor, branch: Tensor, total: Tensor) -> tuple[np.ndarray, ...]:
    """Return |z| / |f| (inf where f is 0), cos(z, f) and cos(z, z') per token, (B, T) float64, from (B, T, D)."""
    norm, branch_norm, total_norm = (part.norm(dim=-1).cpu().double().numpy() for part in (skip, branch, total))
    products = [(skip * part).sum(dim=-1).cpu().double().numpy() for part in (branch, total)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(branch_norm > 0, norm / branch_norm, np.inf)
        cosines = [
            product / (norm * length) for product, length in zip(products, (branch_norm, total_norm), strict=True)
        ]
    return ratio, *cosines


class _Cell:
    """Streamed statistics of ratios and cosines; a histogram of the ratios' logarithms gives their median."""

    def __init__(self) -> None:
        self.num_infinite = 0
        self._counts = np.zeros(2 * _OCTAVES * _BINS_PER_OCTAVE, dtype=np.int64)
        self._sums, self._numbers = np.zeros(3), np.zeros(3)

    def add(self, ratio: np.ndarray, cosine_branch: np.ndarray, cosine_output: np.ndarray) -> None:
        """Take in the values of a batch, each (B, T)."""
        for index, values in enumerate((ratio, cosine_branch, cosine_output)):
            is_finite = np.isfinite(values)
            self._sums[index] += values[is_finite].sum()
            self._numbers[index] += is_finite.sum()
        finite_ratios = ratio[np.isfinite(ratio)]
        self.num_infinite += ratio.size - finite_ratios.size
        octaves = np.log2(np.maximum(finite_ratios, 2.0**-_OCTAVES)) + _OCTAVES
        bins = (octaves * _BINS_PER_OCTAVE).astype(np.int64).clip(max=len(self._counts) - 1)
        self._counts += np.bincount(bins, minlength=len(self._counts))

    @property
    def means(self) -> tuple[float, ...]:
        """Means of the finite ratios and of both cosines; NaN of nothing."""
        return tuple(
            total / number if number else np.nan for total, number in zip(self._sums, self._numbers, strict=True)
        )

    @property
    def median(self) -> float:
        """Median of the ratios, infinite ones included; NaN of nothing."""
        number = int(self._counts.sum()) + self.num_infinite
        if not number:
            return np.nan
        positions = np.searchsorted(self._counts.cumsum(), [(number - 1) // 2, number // 2], side="right")
        if positions[1] == len(self._counts):
            return np.inf
        return float((2.0 ** ((positions + 0.5) / _BINS_PER_OCTAVE - _OCTAVES)).mean())


def _findings(subject: Subject, tables: Sequence[_Table], *, num_left_out: int, num_images: int) -> Findings:
    is_transformer = tables[0].unit.is_transformer
    mixes = any(mixes_tokens_by_mlp(table.unit.block) for table in tables)
    branches = ("token mixing" if mixes else "attention", "mlp") if is_transformer else ("branch",)
    tokens = ("class token", "patches") if is_transformer else ("places",)
    arrays = _arrays(tables)
    measured = [
        (error, is_measured) for one in tables for error, is_measured in zip(one.errors, one.is_measured, strict=True)
    ]
    has_class = is_transformer and bool(np.isfinite(arrays["ratio"][:, :, 0]).any())
    arrays |= {"branches": np.array(branches), "tokens": np.array(tokens)}
    facts = {
        "kind": "transformer" if is_transformer else "cnn",
        "units": [table.unit.name for table in tables],
        "num_images": num_images,
        "num_infinite": sum(table.num_infinite for table in tables),
        "identity_error": max(error for error, is_measured in measured if is_measured),
        "num_left_out": num_left_out,
        "num_branches_left_out": sum(not is_measured for _, is_measured in measured),
        "has_class_token": has_class,
        "is_joint": any(table.is_joint for table in tables) and is_transformer,
        "ratio": _nested(arrays["ratio"], branches, tokens),
        "first_half_over_second": {
            token: _first_half_over_second(arrays["ratio"][:, :, index]) for index, token in enumerate(tokens)
        },
    }
    return Findings(
        arrays=arrays,
        meanings=_meanings(),
        facts=facts,
        header=(
            "block" if is_transformer else "unit",
            *(f"{branch}, {token}" for branch in branches for token in tokens),
        ),
        rows=[
            (
                str(index) if is_transformer else table.unit.name,
                *("-" if np.isnan(one) else f"{one:.3g}" for one in row),
            )
            for index, (table, row) in enumerate(zip(tables, arrays["ratio"].reshape(len(tables), -1), strict=True))
        ],
        notes=_notes(subject, tables, facts),
    )


def _arrays(tables: Sequence[_Table]) -> dict[str, np.ndarray]:
    """Return (L, branches, tokens) float64 arrays; NaN where nothing was measured."""
    shape = (len(tables), len(tables[0].cells), len(tables[0].cells[0]))
    arrays = {name: np.full(shape, np.nan) for name in ("ratio", "median", "cosine_branch", "cosine_output")}
    for place in np.ndindex(shape):
        unit, branch, token = place
        if tables[unit].is_measured[branch]:
            cell = tables[unit].cells[branch][token]
            ratio, cosine_branch, cosine_output = cell.means
            values = (ratio, cell.median, cosine_branch, cosine_output)
            for array, value in zip(arrays.values(), values, strict=True):
                array[place] = value
    return arrays


def _meanings() -> dict[str, str]:
    axes = "(L, branches, tokens), L blocks or residual units"
    return {
        "ratio": f"{axes}: norm of the skip connection over norm of the branch, mean over images and tokens where the "
        "branch is not 0; NaN where there is no such token or it was not measured.",
        "median": f"{axes}: the median of the same over all tokens, to 0.1 %; infinite where most branches are 0.",
        "cosine_branch": f"{axes}: mean cosine of skip connection and branch, -1 to 1.",
        "cosine_output": f"{axes}: mean cosine of skip connection and sum, -1 to 1.",
        "branches": "Names of the second axis.",
        "tokens": "Names of the third axis.",
    }


def _nested(
    ratio: np.ndarray, branches: Sequence[str], tokens: Sequence[str]
) -> dict[str, dict[str, list[float | None]]]:
    return {
        branch: {token: [finite(value) for value in ratio[:, row, column]] for column, token in enumerate(tokens)}
        for row, branch in enumerate(branches)
    }


def _first_half_over_second(ratio: np.ndarray) -> float | None:
    """Return the mean ratio of the first half of the units over that of the second, from (L, branches)."""
    half = len(ratio) // 2
    first, second = (part[np.isfinite(part)] for part in (ratio[:half], ratio[len(ratio) - half :]))
    return finite(first.mean() / second.mean()) if first.size and second.size and second.mean() > 0 else None


def _notes(subject: Subject, tables: Sequence[_Table], facts: Mapping[str, Any]) -> tuple[str, ...]:
    notes = []
    if facts["is_joint"]:
        notes.append("Attention and MLP run side by side in a block: both columns show their one joint branch.")
    if any(table.is_difference for table in tables):
        notes.append("Where attention is cut into windows, the branch is the difference of output and skip connection.")
    if facts["num_left_out"] or facts["num_branches_left_out"]:
        notes.append(
            f"{facts['num_left_out']} units and {facts['num_branches_left_out']} branches of {subject.name} are left "
            "out: what they pass on is not what they take plus what their branch gives."
        )
    if facts["num_infinite"] and not any(np.isfinite(table.cells[0][-1].median) for table in tables):
        notes.append(
            "The branches are 0, as untrained ones are whose last norm starts at 0: skip connections carry everything, "
            "and there is no ratio."
        )
    elif facts["num_infinite"]:
        notes.append(f"The branch is 0 for {facts['num_infinite']:,} tokens: their ratio is infinite, see the median.")
    return tuple(notes)


def _refusal(subject: Subject) -> str:
    return (
        f"{subject.name} has no residual units that this analysis knows; expected blocks whose output is their input "
        "plus a branch (ViT, ResNet, ConvNeXt...). Try cka, receptive-field or features."
    )
