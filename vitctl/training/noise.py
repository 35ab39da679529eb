"""Noise that belongs to an image's place in a step: dropped residual branches and dropped patches.

timm draws both from the device's generator, so they change with the micro-batch, the number of processes and where a
run went on. Here the numbers of a step are a table with a row for each slot (place in the global batch), drawn from
(seed, purpose, step); each process, and each micro-batch, reads the rows of its own slots. The layers that read them
stand where timm's stand (``vitctl.training.noise_places``), have no parameters and no buffers, and pass everything on
in evaluation mode.

What differs from timm: a layer that its block uses for several branches drops them together.

Letters: B images of a micro-batch, G of the global batch, L places of drop path, P prefix tokens, N patches, T tokens,
D width.
Sources: stochastic depth, arXiv 1603.09382; patch dropout, arXiv 2208.07220.
"""

import numpy as np
import torch
from torch import Tensor, nn

from vitctl.data.loader import TrainingBatch
from vitctl.primitives.seeds import random_generator


class KeyedNoise:
    """The numbers of one step that the layers of a model read.

    Attributes:
        factors: (B, L) float32, 0 for a branch that is dropped; None before the first ``follow``.
        order: (B, N) float32, by which patches are ranked; likewise.
    """

    def __init__(self) -> None:
        self._rates, self._scales = list[float](), list[float]()
        self._num_patches = 0
        self._key: tuple[int, int, int] | None = None
        self._tables: tuple[np.ndarray, np.ndarray] | None = None
        self.factors: Tensor | None = None
        self.order: Tensor | None = None

    def add_branch(self, rate: float, *, is_scaled: bool) -> int:
        """Return the column of a new branch that is dropped with probability ``rate``, 0 to below 1."""
        self._rates.append(rate)
        self._scales.append(1 / (1 - rate) if is_scaled else 1.0)
        return len(self._rates) - 1

    def add_patches(self, num_patches: int) -> None:
        """Rank so many patches from now on."""
        self._num_patches = num_patches

    def follow(self, batch: TrainingBatch) -> None:
        """Become the noise of the slots that ``batch``, or a part of it, holds; its images say on which device."""
        key = (batch.seed, batch.step, batch.num_global)
        if self._tables is None or self._key != key:
            self._key, self._tables = key, self._draw(*key)
        # what fills a batch beyond its last slot counts for nothing, and takes that slot's
        slots = np.minimum(np.arange(len(batch.images)) + batch.first_slot, batch.num_global - 1)
        factors, order = (table[slots] for table in self._tables)
        self.factors, self.order = _moved(factors, batch.images.device), _moved(order, batch.images.device)

    def _draw(self, seed: int, step: int, num_global: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the (G, L) factors of the branches and the (G, N) order of the patches."""
        uniform = _uniform(seed, "drop-path", step, shape=(num_global, len(self._rates)))
        is_kept = uniform >= np.array(self._rates, dtype=np.float32)
        factors = is_kept * np.array(self._scales, dtype=np.float32)
        return factors, _uniform(seed, "patch-drop", step, shape=(num_global, self._num_patches))


def _uniform(seed: int, purpose: str, step: int, *, shape: tuple[int, int]) -> np.ndarray:
    if not shape[1]:
        return np.zeros(shape, dtype=np.float32)
    return random_generator(seed, purpose, step).random(shape, dtype=np.float32)


def _moved(rows: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(rows)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class KeyedDropPath(nn.Module):
    """Multiplies a residual branch by 0 with a probability, else by its inverse; timm's ``DropPath``, keyed.

    Args:
        noise: What it reads.
        rate: Probability, 0 to below 1.
        is_scaled: Whether a branch that is kept is divided by the probability of that.
    """

    def __init__(self, noise: KeyedNoise, rate: float, *, is_scaled: bool = True) -> None:
        super().__init__()
        self.noise, self.rate = noise, rate
        self._column = noise.add_branch(rate, is_scaled=is_scaled)

    def forward(self, branch: Tensor) -> Tensor:
        """Return ``branch``, (B, ...); where a model folds windows into B, those of an image are one after another."""
        if not self.training:
            return branch
        assert self.noise.factors is not None
        factors = self.noise.factors[:, self._column]
        if len(factors) != len(branch):
            factors = factors.repeat_interleave(len(branch) // len(factors))
        return branch * factors.to(branch.dtype).view(-1, *[1] * (branch.ndim - 1))

    def extra_repr(self) -> str:
        """Return the rate."""
        return f"rate={self.rate:.3f}"


class KeyedPatchDrop(nn.Module):
    """Keeps the patch tokens that rank first, in their order, and all prefix tokens; timm's ``PatchDropout``, keyed.

    Args:
        noise: What it reads.
        rate: Share that is dropped, 0 to below 1; at least one is kept.
        num_patches: N.
        num_prefix: P.
    """

    def __init__(self, noise: KeyedNoise, rate: float, *, num_patches: int, num_prefix: int) -> None:
        super().__init__()
        self.noise, self.rate = noise, rate
        self._num_patches, self._num_prefix = num_patches, num_prefix
        noise.add_patches(num_patches)

    def kept(self, num_patches: int | None = None) -> Tensor:
        """Return which patches are kept: (B, K) int64, ascending.

        Args:
            num_patches: Those of smaller images, fewer than N; None for N. They take the first of the N numbers.
        """
        assert self.noise.order is not None
        num_patches = num_patches or self._num_patches
        num_kept = max(1, int(num_patches * (1.0 - self.rate)))
        # stable: equal numbers must not rank otherwise on another device
        ranks: Tensor = self.noise.order[:, :num_patches].argsort(dim=1, stable=True)
        return ranks[:, :num_kept].sort(dim=1).values

    def forward(self, tokens: Tensor) -> Tensor:
        """Return (B, P + K, D) of ``tokens``, (B, P + N, D), or fewer of smaller images."""
        return self._of(tokens, self._kept_of(tokens)) if self.training else tokens

    def _kept_of(self, tokens: Tensor) -> Tensor:
        return self.kept(tokens.shape[1] - self._num_prefix)

    def _of(self, tokens: Tensor, kept: Tensor) -> Tensor:
        prefix, patches = tokens[:, : self._num_prefix], tokens[:, self._num_prefix :]
        return torch.cat([prefix, patches.gather(1, kept.unsqueeze(-1).expand(-1, -1, tokens.shape[-1]))], dim=1)

    def extra_repr(self) -> str:
        """Return the rate."""
        return f"rate={self.rate:.3f}"


class KeyedPatchDropWithIndices(KeyedPatchDrop):
    """The same for a model that turns queries and keys by their places, which it has to know."""

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:  # type: ignore[override]
        """Return (B, P + K, D) of ``tokens``, (B, P + N, D), and which patches those are, (B, K); None for all."""
        if not self.training:
            return tokens, None
        kept = self._kept_of(tokens)
        return self._of(tokens, kept), kept


def noise_of(model: nn.Module) -> KeyedNoise | None:
    """Return what the layers of ``model`` read, or None where it has no noise."""
    layers = (module for module in model.modules() if isinstance(module, (KeyedDropPath, KeyedPatchDrop)))
    return next((layer.noise for layer in layers), None)
