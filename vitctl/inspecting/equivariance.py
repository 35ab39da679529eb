"""What features do when the image moves, when patches change places, when the batch changes; how alike neighbours are.

Letters: B images, A layers, S shifts, P prefix tokens, N patch tokens or places, D width, h w grid, Y X px.
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.conversation import Conversation
from vitctl.errors import DataError, ModelError
from vitctl.inspecting.findings import Findings, finite
from vitctl.inspecting.subject import ImageStream, Subject
from vitctl.models.anatomy import blocks_of, norm_before_blocks, norm_kind, num_embedded_prefix_tokens
from vitctl.models.geometry import position_table
from vitctl.models.layers import Layer, LayerTap, Tokens, layer_names
from vitctl.primitives.seeds import random_generator
from vitctl.settings.words import EMBED, FINAL

PIXELS = "pixels"
SHIFTS = ((0, 1), (1, 0), (1, 1), (2, 2), (4, 4))  # rows and columns of patches, where the grid has more than these
MAX_BATCH_SIZE = 8  # cosines of a CNN's first maps take float64
BATCH_OF_INVARIANCE = 8  # images that keep one another company
LEAST_IMAGES = 3  # two of them, and a change of company
_RELATIVE = ("rope", "rel_pos", "relative_position", "attention_bias", "pos_proj")  # in names of modules and parameters
_RANDOM_IN_TRAINING = ("drop", "rope", "rotary")  # in names of classes
_TINY = 1e-30  # keeps norms of zero from dividing

Grid = tuple[int, int]
Change = Callable[[Tensor], Tensor]


def equivariance(subject: Subject, stream: ImageStream, *, seed: int = 0, conversation: Conversation) -> Findings:
    """Return how features follow shifts of the image, permutations of the patches and changes of the batch.

    Translation: ||T f(x) - f(T x)|| / ||T f(x)|| over the places that did not wrap around, mean over images; T rolls
    the image by whole patches, of a CNN by multiples of its total stride. Permutation: f(pi z) against pi f(z), the
    patch tokens z permuted before the first block (arXiv 2010.11929, section 3.1). Neighbours: cosine of horizontally
    and vertically adjacent places, against that of all pairs of different places, the mean of random ones.

    Args:
        subject: A ViT, a hierarchical model or a CNN.
        stream: Images, at least three.
        seed: Of the permutation.
        conversation: Shows progress.

    Raises:
        DataError: There are fewer than three images.
        ModelError: No layer has a grid.
    """
    if len(stream) < LEAST_IMAGES:
        raise DataError(
            f"equivariance was given {len(stream)} images; expected {LEAST_IMAGES} or more, e.g. --num-images 32."
        )
    first = next(iter(stream.first(BATCH_OF_INVARIANCE).batches(BATCH_OF_INVARIANCE))).to(subject.device)
    plan = _plan(subject, first[:1])
    permutation = _Permutation.of(subject, plan, first[:1], seed=seed)
    sums = _Sums(plan)
    with torch.no_grad(), conversation.progress("shifts", len(stream), "images") as bar:
        for images in stream.batches(min(stream.batch_size, MAX_BATCH_SIZE)):
            sums.add(subject, images.to(subject.device))
            permutation.add(subject, images.to(subject.device))
            bar.advance(len(images))
    return _findings(subject, plan, sums, permutation, _batch_invariance(subject, first))


# --- grids and shifts --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Plan:
    """What is compared.

    Attributes:
        layers: A - 1 layers of the model, in order.
        grids: Theirs; None where a layer has none.
        strides: (rows, columns) px per place, by layer; None where that is not known.
        patch: (rows, columns) px that shifts count in: the coarsest stride.
        finest: (rows, columns) px of the patches of pixels that are compared: the first stride.
        shifts: S shifts in patches.
        notes: What could not be done.
    """

    layers: tuple[Layer, ...]
    grids: dict[Layer, Grid | None]
    strides: dict[Layer, tuple[int, int] | None]
    patch: tuple[int, int]
    finest: tuple[int, int]
    shifts: tuple[tuple[int, int], ...]
    notes: tuple[str, ...]


def _plan(subject: Subject, images: Tensor) -> _Plan:
    """Return the plan for images (B, 3, Y, X) of this size."""
    layers = layer_names(subject.model)
    with torch.no_grad():
        tokens, _ = LayerTap(subject.model, layers, name=subject.name)(images)
    grids = {layer: _grid(subject, one) for layer, one in tokens.items()}
    size = (images.shape[2], images.shape[3])
    strides = _strides(size, grids)
    known = [stride for stride in strides.values() if stride is not None]
    finest, patch = (known[0], known[-1]) if known else ((1, 1), size)
    notes = []
    without_grid = [str(layer) for layer in layers if grids[layer] is None]
    if len(without_grid) == len(layers):
        raise ModelError(
            f"No layer of {subject.name} has a grid of places; expected patch tokens or feature maps. Try cka or probe."
        )
    if without_grid:
        notes.append(f"Layer {', '.join(without_grid)} has no grid of places: nothing is said of it.")
    odd = [str(layer) for layer in layers if grids[layer] is not None and strides[layer] is None]
    if odd:
        notes.append(
            f"The strides of layer {', '.join(odd)} do not divide the image of {size[0]}x{size[1]} px evenly, so its "
            "shifts are not compared; try another --image-size."
        )
    coarsest = (size[0] // patch[0], size[1] // patch[1])
    shifts = tuple(shift for shift in SHIFTS if shift[0] < coarsest[0] and shift[1] < coarsest[1])
    if not shifts:
        notes.append(
            f"Its coarsest grid of {coarsest[0]}x{coarsest[1]} places leaves no room for a shift; try a larger "
            "--image-size."
        )
    return _Plan(layers, grids, strides, patch, finest, shifts, tuple(notes))


def _grid(subject: Subject, tokens: Tokens) -> Grid | None:
    own = subject.geometry.grid
    if tokens.grid is None and own is not None and math.prod(own) == tokens.patches.shape[1]:
        return own
    return tokens.grid


def _strides(size: Grid, grids: dict[Layer, Grid | None]) -> dict[Layer, tuple[int, int] | None]:
    """Return px per place by layer, as long as they divide the image (Y, X) px and each the next; then None.

    Where a border was cut or padded on the way, pixels over places is not what a layer strides over.
    """
    strides: dict[Layer, tuple[int, int] | None] = {}
    last: tuple[int, int] | None = (1, 1)
    for layer, grid in grids.items():
        if grid is None or last is None:
            strides[layer] = None
            continue
        stride = (size[0] // grid[0], size[1] // grid[1])
        is_whole = size[0] % grid[0] == size[1] % grid[1] == 0
        last = stride if is_whole and stride[0] % last[0] == stride[1] % last[1] == 0 else None
        strides[layer] = last
    return strides


# --- translation and neighbours ----------------------------------------------------------------------------


class _Sums:
    """Sums over images of shift errors and cosines.

    Attributes:
        errors: (A, S) float64; the first row is the pixels'.
        neighbours: (A,) float64, cosines of adjacent places.
        pairs: (A,) float64, cosines of all pairs of different places.
        embed_difference: Largest |difference| of the patch embedding under a shift; None where it has no grid.
        embed_largest: Largest |value| of it.
        num_images: Images added.
    """

    def __init__(self, plan: _Plan) -> None:
        self._plan = plan
        num_layers = len(plan.layers) + 1
        self.errors = np.zeros((num_layers, len(plan.shifts)))
        self.neighbours, self.pairs = np.zeros(num_layers), np.zeros(num_layers)
        self.embed_difference: float | None = None
        self.embed_largest = 0.0
        self.num_images = 0

    def add(self, subject: Subject, images: Tensor) -> None:
        """Add a batch of images, (B, 3, Y, X)."""
        plan = self._plan
        tap = LayerTap(subject.model, plan.layers, name=subject.name)
        maps = self._maps(tap, images)
        self._add_cosines(0, _pixel_patches(images, plan.finest))
        for row, layer in enumerate(plan.layers, start=1):
            self._add_cosines(row, maps[layer])
        for column, shift in enumerate(plan.shifts):
            moved = torch.roll(images, [shift[0] * plan.patch[0], shift[1] * plan.patch[1]], dims=(2, 3))
            found = self._maps(tap, moved)
            for row, layer in enumerate(plan.layers, start=1):
                self.errors[row, column] += _sum_of_errors(maps[layer], found[layer], plan, layer, shift)
            self._add_embedding(subject, images, moved, shift)
        self.num_images += len(images)

    def _maps(self, tap: LayerTap, images: Tensor) -> dict[Layer, Tensor | None]:
        """Return (B, h, w, D) by layer."""
        tokens, _ = tap(images)
        return {layer: _as_map(one.patches, self._plan.grids[layer]) for layer, one in tokens.items()}

    def _add_cosines(self, row: int, places: Tensor | None) -> None:
        adjacent, other = (math.nan, math.nan) if places is None else _sums_of_cosines(places)
        self.neighbours[row] += adjacent
        self.pairs[row] += other

    def _add_embedding(self, subject: Subject, images: Tensor, moved: Tensor, shift: tuple[int, int]) -> None:
        before, after = (_embedded(subject, one) for one in (images, moved))
        if before is None or after is None:
            return
        difference = float((torch.roll(before, shift, dims=(1, 2)) - after).abs().max())
        self.embed_difference = max(self.embed_difference or 0.0, difference)
        self.embed_largest = max(self.embed_largest, float(before.abs().max()))


def _as_map(patches: Tensor, grid: Grid | None) -> Tensor | None:
    return None if grid is None else patches.reshape(len(patches), *grid, -1)


def _pixel_patches(images: Tensor, patch: tuple[int, int]) -> Tensor:
    """Return the patches of images (B, 3, Y, X) as places, (B, h, w, D)."""
    blocks = images.unfold(2, patch[0], patch[0]).unfold(3, patch[1], patch[1])
    return blocks.movedim(1, 3).flatten(3)


def _sum_of_errors(
    before: Tensor | None, after: Tensor | None, plan: _Plan, layer: Layer, shift: tuple[int, int]
) -> float:
    """Return the sum over images of the relative error on the places that did not wrap; NaN where there is none."""
    stride = plan.strides[layer]
    if before is None or after is None or stride is None:
        return math.nan
    rows, columns = (count * mine // own for count, mine, own in zip(shift, plan.patch, stride, strict=True))
    kept = before[:, : before.shape[1] - rows, : before.shape[2] - columns].flatten(1)
    difference = (kept - after[:, rows:, columns:].flatten(1)).cpu().double().norm(dim=1)
    norms = kept.cpu().double().norm(dim=1)
    return float((difference / norms.clamp_min(_TINY)).sum())


def _sums_of_cosines(places: Tensor) -> tuple[float, float]:
    """Return sums over images: mean cosine of adjacent places, and of all pairs of different ones, of (B, h, w, D)."""
    unit = nn.functional.normalize(places.cpu().double(), dim=-1, eps=_TINY)
    adjacent = torch.cat(
        [
            (unit[:, 1:] * unit[:, :-1]).sum(-1).flatten(1),
            (unit[:, :, 1:] * unit[:, :, :-1]).sum(-1).flatten(1),
        ],
        dim=1,
    )
    count = places.shape[1] * places.shape[2]
    if count < 2:
        return math.nan, math.nan
    flat = unit.flatten(1, 2)
    total = flat.sum(dim=1).square().sum(-1) - flat.square().sum(dim=(1, 2))
    return float(adjacent.mean(dim=1).sum()), float(total.sum() / (count * (count - 1)))


def _embedded(subject: Subject, images: Tensor) -> Tensor | None:
    """Return what the patch embedding gives for images, (B, h, w, D); None where that is no grid."""
    embed, grid = getattr(subject.model, "patch_embed", None), subject.geometry.grid
    if not isinstance(embed, nn.Module) or grid is None:
        return None
    found = embed(images)
    if not isinstance(found, Tensor) or found.shape[0] != len(images) or found.ndim not in (3, 4):
        return None
    is_grid = math.prod(found.shape[1:-1]) == math.prod(grid)
    return found.reshape(len(images), *grid, -1) if is_grid else None


# --- permutation -------------------------------------------------------------------------------------------


@dataclass
class _Permutation:
    """The patch tokens permuted before the first block, without and with the position table where it stands.

    Attributes:
        order: (N,) int64, the patch at each place; nothing where nothing can be said.
        positions: (1, T, D) what the table adds to the tokens that enter the first block; None without a table.
        note: Why nothing, or not all, can be said.
        differences: Sums over images of the relative error, without and with positions.
        num_images: Images added.
    """

    order: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    positions: Tensor | None = None
    note: str | None = None
    differences: list[float] = field(default_factory=lambda: [0.0, 0.0])
    num_images: int = 0

    @classmethod
    def of(cls, subject: Subject, plan: _Plan, images: Tensor, *, seed: int) -> "_Permutation":
        """Return what can be compared of ``subject``, as images (B, 3, Y, X) show."""
        grid = plan.grids.get(EMBED)
        is_one = len(set(plan.grids.values())) == 1 and subject.geometry.grid is not None
        if grid is None or not is_one or not _has_rows_of_tokens(subject, images):
            return cls(note=f"{subject.name} has no single grid of patch tokens, so none are permuted.")
        relative = _relative_positions(subject.model)
        if relative is not None:
            return cls(
                note=f"{subject.name} has positions inside of its attention ({relative}), which cannot be taken out: "
                "patches are not permuted."
            )
        num_patches = math.prod(grid)
        order = random_generator(seed, "inspection", 1).permutation(num_patches)
        table = position_table(subject.model)
        note = None if table is not None else f"{subject.name} has no table of positions to permute patches against."
        of_prefix = None if table is None else table.shape[1] - num_patches
        if of_prefix not in (None, 0, num_embedded_prefix_tokens(subject.model)):
            return cls(note=f"The position table of {subject.name} is not one row per token: patches are not permuted.")
        device = subject.device
        return cls(torch.from_numpy(order).to(device), None if table is None else table.detach().to(device), note)

    def add(self, subject: Subject, images: Tensor) -> None:
        """Add a batch of images, (B, 3, Y, X)."""
        if not len(self.order):
            return
        plain = _permuted(_features_after(subject, images, self._without_positions), self.order)
        self.differences[0] += _sum_of_relative(plain, _features_after(subject, images, self._permuted))
        if self.positions is not None:
            plain = _permuted(_features(subject, images), self.order)
            under = _features_after(subject, images, self._permuted_under_positions)
            self.differences[1] += _sum_of_relative(plain, under)
        self.num_images += len(images)

    def _without_positions(self, tokens: Tensor) -> Tensor:
        return tokens - self._rows(tokens)

    def _permuted(self, tokens: Tensor) -> Tensor:
        return _permuted(self._without_positions(tokens), self.order)

    def _permuted_under_positions(self, tokens: Tensor) -> Tensor:
        return self._permuted(tokens) + self._rows(tokens)

    def _rows(self, tokens: Tensor) -> Tensor:
        """Return what the table added to ``tokens`` (B, P + N, D), (1, P + N, D)."""
        if self.positions is None:
            return torch.zeros_like(tokens[:1])
        lacking = tokens.shape[1] - self.positions.shape[1]  # prefix tokens without a row, or that come later
        if lacking < 0:
            return self.positions[:, -lacking:]
        return nn.functional.pad(self.positions, (0, 0, lacking, 0))

    def error(self, which: int) -> float | None:
        """Return the mean relative error without (0) or with positions (1); None where it was not measured."""
        if not len(self.order) or (which == 1 and self.positions is None):
            return None
        return finite(self.differences[which] / self.num_images)


def _relative_positions(model: nn.Module) -> str | None:
    """Return the name of a module or parameter that tells positions apart inside of the attention."""
    named = [*(name for name, _ in model.named_parameters()), *(name for name, _ in model.named_modules())]
    return next((name for name in named if any(part in name for part in _RELATIVE)), None)


def _permuted(tokens: Tensor, order: Tensor) -> Tensor:
    """Return (B, P + N, D) with its patch tokens in another order."""
    num_prefix = tokens.shape[1] - len(order)
    return torch.cat([tokens[:, :num_prefix], tokens[:, num_prefix:][:, order]], dim=1)


def _features(subject: Subject, images: Tensor) -> Tensor:
    """Return the last layer's tokens or places, (B, P + N, D)."""
    tokens, _ = LayerTap(subject.model, (FINAL,), name=subject.name)(images)
    return torch.cat([tokens[FINAL].prefix, tokens[FINAL].patches], dim=1)


def _features_after(subject: Subject, images: Tensor, change: Change) -> Tensor:
    """Return ``_features`` when the tokens before the first block are changed."""
    with _changed_input(_before_blocks(subject.model), change):
        return _features(subject, images)


def _has_rows_of_tokens(subject: Subject, images: Tensor) -> bool:
    """Return whether (B, P + N, D) enters the first block, rather than a map."""
    seen: list[int] = []
    handle = _before_blocks(subject.model).register_forward_pre_hook(lambda _module, args: seen.append(args[0].ndim))
    try:
        with torch.no_grad():
            _features(subject, images)
    finally:
        handle.remove()
    return seen == [3]


def _before_blocks(model: nn.Module) -> nn.Module:
    """Return the module that is given the tokens right after the positions were added."""
    norm = norm_before_blocks(model)
    return blocks_of(model)[0] if norm is None else norm


@contextmanager
def _changed_input(module: nn.Module, change: Change) -> Iterator[None]:
    handle = module.register_forward_pre_hook(lambda _module, args: (change(args[0]), *args[1:]))
    try:
        yield
    finally:
        handle.remove()


def _sum_of_relative(expected: Tensor, found: Tensor) -> float:
    """Return the sum over images of ||expected - found|| / ||expected||, both (B, T, D)."""
    wanted, got = expected.cpu().double().flatten(1), found.cpu().double().flatten(1)
    return float(((wanted - got).norm(dim=1) / wanted.norm(dim=1).clamp_min(_TINY)).sum())


# --- batches -----------------------------------------------------------------------------------------------


def _batch_invariance(subject: Subject, images: Tensor) -> tuple[float | None, float | None]:
    """Return how much the features of images (B, 3, Y, X) change with their batch, in evaluation and training mode.

    In evaluation mode the first image is alone and among all. In training mode, of a copy without dropout and
    stochastic depth, it has the second one beside it, as BatchNorm cannot train on a single place.
    """
    with torch.no_grad():
        in_use = _relative_change(subject, images, 1)
    learner = copy.deepcopy(subject.model).train()
    for module in learner.modules():
        _without_randomness(module)
    with torch.no_grad():
        return in_use, _relative_change(replace(subject, model=learner), images, 2)


def _relative_change(subject: Subject, images: Tensor, count: int) -> float | None:
    """Return the largest |difference| of the first image's features among ``count`` and all, over the largest."""
    alone, among = (_features(subject, some)[0] for some in (images[:count], images))
    largest = float(among.abs().max())
    return finite(float((alone - among).abs().max()) / largest) if largest else None


def _without_randomness(module: nn.Module) -> None:
    """Turn off dropout and stochastic depth, as modules or as rates that functions are called with."""
    if any(part in type(module).__name__.lower() for part in _RANDOM_IN_TRAINING):
        module.eval()
    for name in ("p", "drop_prob", "drop_rate"):
        if isinstance(getattr(module, name, None), float):
            setattr(module, name, 0.0)


def _norm_kind(model: nn.Module) -> str:
    """Return the kinds of norms of a model, the most frequent first."""
    kinds = Counter(kind for module in model.modules() if (kind := norm_kind(module)) is not None)
    return ", ".join(name for name, _ in kinds.most_common()) or "none"


# --- what it amounts to ------------------------------------------------------------------------------------


def _findings(
    subject: Subject, plan: _Plan, sums: _Sums, permutation: _Permutation, batches: tuple[float | None, float | None]
) -> Findings:
    names = [PIXELS, *map(str, plan.layers)]
    errors = sums.errors / sums.num_images
    neighbours, pairs = sums.neighbours / sums.num_images, sums.pairs / sums.num_images
    without, with_positions = permutation.error(0), permutation.error(1)
    embed = None if sums.embed_difference is None else finite(sums.embed_difference / (sums.embed_largest or 1.0))
    return Findings(
        arrays={
            "layers": np.array(names),
            "shifts": np.array(plan.shifts, dtype=np.int64).reshape(-1, 2),
            "translation_error": errors,
            "neighbour_similarity": neighbours,
            "random_similarity": pairs,
        },
        meanings={
            "layers": "(A,) names; the first is the image itself",
            "shifts": "(S, 2) rows and columns of patches that the image was rolled by",
            "translation_error": "(A, S) norm of what shifted features and features of the shifted image differ by, "
            "over the norm, on places that did not wrap, mean over images; NaN where a layer cannot be compared",
            "neighbour_similarity": "(A,) mean cosine of horizontally and vertically adjacent patches",
            "random_similarity": "(A,) mean cosine of all pairs of different patches of an image",
        },
        facts={
            "permutation_error_without_pos": without,
            "permutation_error_with_pos": with_positions,
            "batch_invariance_eval": batches[0],
            "batch_invariance_train": batches[1],
            "norm_kind": _norm_kind(subject.model),
            "patch_embed_shift_error": embed,
            "patch": list(plan.patch),
            "num_images": sums.num_images,
        },
        header=("layer", "shift error", "neighbours", "all pairs"),
        rows=[
            (name, *(_number(value) for value in values))
            for name, *values in zip(names, _mean_errors(errors), neighbours, pairs, strict=True)
        ],
        notes=_notes(plan, permutation),
    )


def _mean_errors(errors: np.ndarray) -> Sequence[float]:
    """Return each layer's mean over shifts of (A, S); NaN without shifts."""
    return [float(row.mean()) if len(row) else math.nan for row in errors]


def _number(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else "none"


def _notes(plan: _Plan, permutation: _Permutation) -> tuple[str, ...]:
    return plan.notes if permutation.note is None else (*plan.notes, permutation.note)
