"""An image that is alone in its batch, computed as it is among others, bit for bit.

One image alone makes vectors of some matrices, a classifier's for example, which libraries multiply in another order.
"""

from torch import Tensor


def never_alone(images: Tensor) -> Tensor:
    """Return ``images`` (B, ...), twice where there is one; of what a model makes of them, the first B count."""
    return images.repeat(2, *[1] * (images.ndim - 1)) if len(images) == 1 else images
