"""Attention of every block while the model runs as it always does: taken from the inputs of the fused kernel.

timm computes attention with ``torch.nn.functional.scaled_dot_product_attention``, which never shows the maps. A
``TorchFunctionMode`` sees its queries, keys, mask and scale, after rotary embeddings, relative position bias and norms
of the queries; the maps are the softmax of these, a few query tokens at a time. Nothing in the model is replaced.

Letters: B images, H heads, N tokens (P prefix tokens, then h w patches), d width of a head.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from vitctl.errors import ModelError, SettingError
from vitctl.inspecting.subject import Subject
from vitctl.models.anatomy import attends_over_channels, blocks_of, has_class_token
from vitctl.models.block_anatomy import is_attention
from vitctl.models.layers import LayerTap

CHUNK_BYTES = 8 * 2**20  # measured (2026-11, ViT-S/16 at 512 px): faster than 16 MiB, and hidden in the forward pass
Query = str | tuple[int, int]  # "cls", or (row, column) of a patch
_USUAL_HEADS, _ROWS_WORTH_IT = 12, 128  # measured at 1,025 tokens: 64 images at once take three times as long as 4
_ROW_SUM_TOLERANCE = 1e-3
_OTHERS = "Try filters, cka, norm-ratio, localisation, features, receptive-field, probe or equivariance."


@dataclass(frozen=True, eq=False)
class AttentionCall:
    """One block's attention on a batch.

    Attributes:
        layer: Index of the block.
        query: (B, H, N, d).
        key: (B, H, N, d).
        output: (B, H, N, d), what the heads give before they are projected.
        scale: What the products of queries and keys are multiplied by.
        mask: Added to the logits, or bool (True: may attend); broadcasts to (B, H, N, N). None: every token to every
            token.
        is_causal: Whether a token sees only itself and those before it.
        name: The model's, for messages.
    """

    layer: int
    query: Tensor
    key: Tensor
    output: Tensor
    scale: float
    mask: Tensor | None
    is_causal: bool
    name: str

    @property
    def num_heads(self) -> int:
        """H."""
        return self.query.shape[1]

    def maps(self, rows: slice) -> Tensor:
        """Return the attention of the R query tokens ``rows``, (B, H, R, N) float32, each row summing to 1.

        Raises:
            ModelError: It does not sum to 1 within 1e-3: the weights give NaN or infinity.
        """
        logits = (self.query[:, :, rows].float() * self.scale) @ self.key.float().transpose(-2, -1)
        if self.is_causal:
            tokens = torch.arange(self.key.shape[2], device=logits.device)
            logits.masked_fill_(tokens > tokens[rows, None], -torch.inf)
        if self.mask is not None:
            part = self.mask if self.mask.shape[-2] == 1 else self.mask[..., rows, :]
            logits = logits.masked_fill_(~part, -torch.inf) if part.dtype == torch.bool else logits.add_(part)
        maps = logits.softmax(dim=-1)
        error = float((maps.sum(dim=-1) - 1).abs().max())
        if not error <= _ROW_SUM_TOLERANCE:  # NaN too
            raise ModelError(
                f"Block {self.layer} of {self.name} has rows of attention that do not sum to 1 (they are off by "
                f"{error:.2g}); expected finite weights. Try another checkpoint."
            )
        return maps

    def chunks(self, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
        """Yield slices of R query tokens, in order, and their maps (B, H, R, N) float32, 8 MiB at most.

        A chunk has one row at least; that is 4 B H N bytes, the d-th part of the batch's queries.

        Args:
            first: Query token to start at; P leaves out the prefix.
        """
        num_images, num_heads, num_tokens, _ = self.query.shape
        step = max(1, CHUNK_BYTES // (4 * num_images * num_heads * num_tokens))
        for start in range(first, num_tokens, step):
            rows = slice(start, min(start + step, num_tokens))
            yield rows, self.maps(rows)


class AttentionTap:
    """Runs a model and shows the attention of every block, in order, while it runs.

    The model must attend from every one of its tokens to every other once in every block; that is known only when it
    has run.

    Args:
        subject: The model.
    """

    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._blocks = blocks_of(subject.model)
        self._grid = subject.geometry.grid or _dynamic_grid(subject)

    @property
    def num_layers(self) -> int:
        """Number of blocks."""
        return len(self._blocks)

    @property
    def num_prefix(self) -> int:
        """P."""
        return self._subject.num_prefix_tokens

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w) patches.

        Raises:
            ModelError: The model has no grid of patches.
        """
        if self._grid is None:
            raise self._refusal("it has no fixed grid of patches")
        return self._grid

    @property
    def patch_size(self) -> tuple[int, int]:
        """(H, W) px from one patch to the next.

        Raises:
            ModelError: The model has no grid of patches.
        """
        geometry = self._subject.geometry
        height, width = geometry.image_size
        return geometry.patch_size or (height // self.grid[0], width // self.grid[1])

    @property
    def images_at_once(self) -> int:
        """How many images a pass should hold at most, so that a chunk is many rows of each: fewer are faster."""
        num_tokens = self.num_prefix + self.grid[0] * self.grid[1]
        return max(1, 4 * CHUNK_BYTES // (4 * _USUAL_HEADS * _ROWS_WORTH_IT * num_tokens))

    @property
    def has_class_token(self) -> bool:
        """Whether token 0 is a class token."""
        return has_class_token(self._subject.model)

    def position(self, query: Query) -> int:
        """Return the index, among all N tokens, of the class token or of a patch.

        Raises:
            SettingError: The model has no class token, or its grid no such patch.
        """
        height, width = self.grid
        if isinstance(query, str):
            if query != "cls" or not self.has_class_token:
                found = "no class token" if query == "cls" else f"no token {query!r}"
                raise SettingError(
                    f"{self._subject.name} has {found} to look from; expected --query ROW,COLUMN in its grid of "
                    f"{height}x{width} patches, counted from 0. Try --query {height // 2},{width // 2}.",
                    field="query",
                )
            return 0
        row, column = query
        if not (0 <= row < height and 0 <= column < width):
            raise SettingError(
                f"--query {row},{column} is outside of the grid of {self._subject.name}; it has rows 0 to {height - 1} "
                f"and columns 0 to {width - 1}. Try --query {height // 2},{width // 2}.",
                field="query",
            )
        return self.num_prefix + row * width + column

    @torch.no_grad()
    def __call__(self, images: Tensor, visit: Callable[[AttentionCall], None]) -> None:
        """Run ``forward_features`` on images; call ``visit`` in every block, when its attention is computed.

        Not in inference mode: what the model caches on the way (rotary embeddings) must allow gradients later.

        Args:
            images: (B, 3, H, W).
            visit: Reduces a block's attention; what it does not keep is gone when it returns.

        Raises:
            ModelError: The model does not attend from all tokens to all tokens, once in every block. What ``visit``
                has seen by then means nothing.
        """
        model: Any = self._subject.model
        if attends_over_channels(model):  # maps are (d, d), which may look like (N, N)
            raise self._refusal("its blocks compare channels")
        if not self._blocks:
            raise self._refusal("its blocks are not known")
        images = images.to(self._subject.device)
        watch = _Watch(len(images), self.num_prefix + self.grid[0] * self.grid[1], visit, self._subject.name)
        try:
            with _fused(model), _watched(self._blocks, watch), watch:
                model.forward_features(images)
            watch.check_seen(self.num_layers)
        except _NotOneGridError as error:
            raise self._refusal(str(error)) from None

    def _refusal(self, found: str) -> ModelError:
        name, needs = self._subject.name, "attention, rollout and distance need one grid of tokens in every block"
        modules = [module for block in self._blocks or [self._subject.model] for module in block.modules()]
        if not any(map(is_attention, modules)):
            return ModelError(f"{name} has no attention; {needs}. {_OTHERS}")
        stages = self._stages()
        if len(stages) > 1:
            listed = f"{', '.join(stages[:-1])} and {stages[-1]}"
            return ModelError(f"{name} merges patches: its stages have {listed} tokens; {needs}. {_OTHERS}")
        return ModelError(f"{name} does not attend from all tokens to all tokens ({found}); {needs}. {_OTHERS}")

    @torch.no_grad()
    def _stages(self) -> list[str]:
        """Return the different sizes of what the blocks give, in order, as text; [] where they cannot be told."""
        model, geometry = self._subject.model, self._subject.geometry
        image = torch.zeros(1, 3, *geometry.image_size, device=self._subject.device)
        tap = LayerTap(model, range(self.num_layers), name=self._subject.name)
        try:
            tokens = [tokens for tokens in tap(image)[0].values() if tokens is not None]
        except ModelError:
            return []
        sizes = [f"{one.grid[0]}x{one.grid[1]}" if one.grid else str(one.patches.shape[1]) for one in tokens]
        return list(dict.fromkeys(sizes))


def check_attention(subject: Subject) -> None:
    """Check that ``AttentionTap`` takes a model, on one black image.

    Raises:
        ModelError: It does not; the sentence says why, and what to try.
    """
    AttentionTap(subject)(torch.zeros(1, 3, *subject.geometry.image_size), lambda _call: None)


class _NotOneGridError(Exception):
    """A block does something else than attend once from all tokens to all tokens; the text says what."""


class _Watch(TorchFunctionMode):
    """Passes every call of the fused kernel on, and shows those inside of a block, checked, to ``visit``."""

    def __init__(self, num_images: int, num_tokens: int, visit: Callable[[AttentionCall], None], name: str) -> None:
        super().__init__()
        self._num_images, self._num_tokens, self._visit, self._name = num_images, num_tokens, visit, name
        self._num_heads: int | None = None
        self._layer: int | None = None
        self._seen: list[int] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is functional.scaled_dot_product_attention and self._layer is not None:
            self._see(result, *args, **(kwargs or {}))
        return result

    def enter(self, layer: int) -> None:
        self._layer = layer

    def leave(self) -> None:
        if self._layer not in self._seen:
            raise _NotOneGridError(f"block {self._layer} computes no softmax over its tokens")
        self._layer = None

    def check_seen(self, num_layers: int) -> None:
        if self._seen != list(range(num_layers)):
            raise _NotOneGridError(f"{len(self._seen)} of its {num_layers} blocks did, in the order {self._seen}")

    def _see(
        self,
        output: Tensor,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Check a call; the arguments are those of ``scaled_dot_product_attention``."""
        assert self._layer is not None
        if self._layer in self._seen:
            raise _NotOneGridError(f"block {self._layer} computes several attentions")
        if enable_gqa and query.ndim == 4:
            key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        num_heads = self._num_heads or query.shape[1]
        found = (*query.shape[:-1], key.shape[-2])
        if found != (self._num_images, num_heads, self._num_tokens, self._num_tokens):
            raise _NotOneGridError(
                f"the maps of block {self._layer} are {'x'.join(map(str, found))}, images x heads x tokens x tokens "
                f"would be {self._num_images}xHx{self._num_tokens}x{self._num_tokens}"
            )
        self._num_heads = num_heads
        self._seen.append(self._layer)
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        self._visit(AttentionCall(self._layer, query, key, output, factor, attn_mask, is_causal, self._name))


@contextmanager
def _watched(blocks: tuple[nn.Module, ...], watch: _Watch) -> Iterator[None]:
    """Tell ``watch`` which block is running."""
    handles = []
    try:
        for layer, block in enumerate(blocks):
            handles.append(block.register_forward_pre_hook(lambda *_, layer=layer: watch.enter(layer)))
            handles.append(block.register_forward_hook(lambda *_: watch.leave()))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _fused(model: nn.Module) -> Iterator[None]:
    """Make every module of the model use the fused kernel, as TIMM_FUSED_ATTN=0 and experimental code do not."""
    modules: list[Any] = [module for module in model.modules() if "fused_attn" in vars(module)]
    before = [module.fused_attn for module in modules]
    try:
        for module in modules:
            module.fused_attn = True
        yield
    finally:
        for module, was_fused in zip(modules, before, strict=True):
            module.fused_attn = was_fused


def _dynamic_grid(subject: Subject) -> tuple[int, int] | None:
    """Return the grid that a model without a fixed one (NaFlexViT) cuts its image into; None where it has none."""
    model: Any = subject.model
    for name in ("embeds", "patch_embed"):
        embed: Any = getattr(model, name, None)
        if hasattr(embed, "dynamic_feat_size"):
            height, width = embed.dynamic_feat_size(subject.geometry.image_size)
            return int(height), int(width)
    return None
