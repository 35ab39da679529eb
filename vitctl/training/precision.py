"""In which numbers the forward pass of training computes; the weights, the loss and the optimiser stay in fp32.

fp16 has a range of its own to stay in: the loss is multiplied before the backward pass, and a step whose gradients left
the range is skipped (arXiv 1710.03740, section 3.2; the rule for the factor is torch's ``GradScaler``).
"""

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from vitctl.errors import UnavailableError
from vitctl.primitives.decision import Decision
from vitctl.settings.words import AUTO

_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def decide_precision(wanted: str, device: torch.device) -> Decision[str]:
    """Return ``fp32``, ``bf16`` or ``fp16``, and why; ``auto`` is bf16 on CUDA devices that compute in it, else fp32.

    Raises:
        UnavailableError: The device does not compute in what is wanted.
    """
    if wanted == AUTO:
        if device.type == "cuda" and _has_bf16(device):
            return Decision("bf16", "this GPU computes in it; weights and loss stay fp32")
        return Decision("fp32", f"--precision auto on {device.type}")
    if wanted == "bf16" and not _has_bf16(device):
        raise _unavailable(wanted, device, "--precision fp16 or fp32")
    if wanted != "fp32":
        try:
            _try_out(wanted, device)
        except RuntimeError as error:
            raise _unavailable(wanted, device, "--precision fp32") from error
    if wanted == "fp32":
        return Decision(wanted, "given")
    # measured on the demo, 2026-11-29: a seventh of the speed on a processor that emulates them
    is_slow = "; slow on processors without it" if device.type == "cpu" else ""
    return Decision(wanted, f"given; weights and loss stay fp32{is_slow}")


def _has_bf16(device: torch.device) -> bool:
    # torch emulates it on GPUs before Ampere, more slowly than they compute in fp32
    return device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)


def _unavailable(wanted: str, device: torch.device, other: str) -> UnavailableError:
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"torch {torch.__version__}"
    return UnavailableError(f"--precision {wanted} is not available on {device} ({name}); try {other}.")


def _try_out(precision: str, device: torch.device) -> None:
    """Take what a step takes, in the small: which devices can do it, torch says by its errors only."""
    weights = torch.ones(2, 2, device=device, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.0)
    scaler = build_scaler(precision, device)
    with forward_in(precision, device):
        loss = torch.nn.functional.linear(weights, weights).float().sum()
    if scaler is None:
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        return
    scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's
    scaler.unscale_(optimizer)


def forward_in(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """Return a context whose forward passes compute in ``precision``, where torch's autocast says that is safe."""
    return torch.autocast(device.type, _TYPES.get(precision, torch.bfloat16), enabled=precision in _TYPES)


class LossScaler(torch.amp.GradScaler):
    """torch's ``GradScaler``, which counts the steps it skips; reading the count waits for the device.

    Args:
        device: Its type.
    """

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self._num_skipped: Tensor | int = 0

    def count(self, norm: Tensor) -> None:
        """Count a step; it is skipped if the global ``norm``, (), of its unscaled (A, ...) gradients is not finite."""
        self._num_skipped = self._num_skipped + (~norm.isfinite()).long()

    @property
    def num_skipped(self) -> int:
        """Steps skipped so far, >= 0."""
        return int(self._num_skipped)

    def state_dict(self) -> dict[str, Any]:
        """Return the factor, its age and the count, as JSON takes them."""
        return {**super().state_dict(), "num_skipped": self.num_skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Become the scaler that ``state_dict()`` was of."""
        own = dict(state_dict)
        self._num_skipped = own.pop("num_skipped")
        super().load_state_dict(own)


def build_scaler(precision: str, device: torch.device) -> LossScaler | None:
    """Return what keeps the gradients of fp16 in its range; None in other precisions, which need none."""
    return LossScaler(device.type) if precision == "fp16" else None


def clipped(parameters: Iterable[nn.Parameter], clip_norm: float) -> Tensor:
    """Scale the gradients down to the global norm ``clip_norm``, if it is above that; return what it was, ().

    It is ``torch.nn.utils.clip_grad_norm_``, but that 0 clips nothing. Nothing is read from the device.

    Args:
        parameters: (A, ...) each; those without a gradient are left out.
        clip_norm: Largest norm, >= 0.
    """
    with_gradients = [one for one in parameters if one.grad is not None]
    norm = torch.nn.utils.get_total_norm([one.grad for one in with_gradients if one.grad is not None])
    if clip_norm:
        torch.nn.utils.clip_grads_with_norm_(with_gradients, clip_norm, norm)
    return norm


def scaled_step(scaler: torch.amp.GradScaler, optimizer: torch.optim.Optimizer, *, clip_norm: float) -> Tensor:
    """Take the step of fp16: take ``scaler``'s factor out of the gradients, clip, update or skip, adapt the factor.

    Returns the global norm of the gradients before clipping, (); it is not finite where the step is skipped.

    Args:
        scaler: Whose factor is in the gradients.
        optimizer: Of the parameters, (A, ...) each.
        clip_norm: Largest global norm of the gradient; 0 clips nothing.
    """
    scaler.unscale_(optimizer)
    norm = clipped((one for group in optimizer.param_groups for one in group["params"]), clip_norm)
    if isinstance(scaler, LossScaler):
        scaler.count(norm)
    scaler.step(optimizer)
    scaler.update()
    return norm


def num_skipped(scaler: torch.amp.GradScaler | None) -> int:
    """Return how many steps ``scaler`` has skipped; waits for the device."""
    return scaler.num_skipped if isinstance(scaler, LossScaler) else 0


def tf32_told(device: torch.device) -> str:
    """Return whether products of fp32 matrices are rounded to TF32 on ``device``; "" where there is no such thing.

    What torch does is left as it is: in full for products of matrices, TF32 for convolutions.
    """
    if device.type != "cuda":
        return ""
    rounded = {
        "matrices": torch.backends.cuda.matmul.allow_tf32,
        "convolutions": torch.backends.cudnn.allow_tf32,
    }
    return ", ".join(f"fp32 {name} {'in TF32' if is_rounded else 'in full'}" for name, is_rounded in rounded.items())
