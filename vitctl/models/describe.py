"""What a model is and costs: parameters, FLOPs, tokens.

Letters: H W px.
"""

import copy

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


def num_parameters(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops_per_image(model: nn.Module, image_size: tuple[int, int]) -> int:
    """Return the floating-point operations of one forward pass of one image (a multiply-add counts as two).

    Counted by torch on the meta device, so nothing is computed; matrix products, convolutions and attention
    are counted, additions and normalisations are not.

    Args:
        model: Any image model; not changed.
        image_size: (H, W) px.
    """
    empty = on_meta(model).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        empty(torch.empty(1, 3, *image_size, device="meta"))
    return int(counter.get_total_flops())


def on_meta(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` on the meta device: shapes without values, so it takes neither memory nor time.

    Its parameters ask for no gradients: torch's counter of FLOPs would look for those of attention poolings.
    """
    empty: dict[int, Tensor] = {id(buffer): buffer.to("meta") for buffer in model.buffers()}
    for parameter in model.parameters():
        empty[id(parameter)] = nn.Parameter(parameter.detach().to("meta"), requires_grad=False)
    return copy.deepcopy(model, empty)
