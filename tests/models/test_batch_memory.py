"""About what a batch takes: against closed forms, and against what autograd keeps."""

import pytest
import timm
import torch
from torch import Tensor, nn

from vitctl.models import batch_memory
from vitctl.models.batch_memory import activation_bytes, batch_bytes_told

IMAGES = torch.zeros(5, 3, 8, 8)


def test_what_lives_at_one_time__of_a_convolution_and_two_relus() -> None:
    """5 images of 8x8 px, 16 channels of them: two maps live at a time, with gradients the first relu's too."""
    model = nn.Sequential(nn.Conv2d(3, 16, 1, bias=False), nn.ReLU(), nn.ReLU())
    pixels, channels = 5 * 3 * 64 * 4, 5 * 16 * 64 * 4
    with torch.inference_mode():
        assert activation_bytes(model, IMAGES) == pixels + 2 * channels
    with torch.no_grad():
        assert activation_bytes(model, IMAGES) == pixels + 2 * channels
    assert activation_bytes(model.train(), IMAGES) == pixels + 2 * channels  # a relu keeps its result, no input
    assert model.training
    assert activation_bytes(nn.Sequential(nn.Conv2d(3, 16, 1), nn.SiLU(), nn.SiLU()), IMAGES) == pixels + 3 * channels


def test_with_gradients__it_is_what_autograd_keeps() -> None:
    model = timm.create_model("test_vit", num_classes=3).eval()
    images = torch.zeros(4, 3, 160, 160)
    parameters = {parameter.data_ptr() for parameter in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(images)
    assert loss.requires_grad
    assert activation_bytes(model, images) == pytest.approx(sum(kept.values()), rel=0.1)


def test_an_image_that_takes_long__is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_memory, "MOST_FLOPS", 1000)
    assert activation_bytes(nn.Conv2d(3, 16, 1), IMAGES) is None


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_an_error_of_a_full_memory__carries_it(error: Exception) -> None:
    model = nn.Conv2d(3, 16, 1)
    with pytest.raises(type(error)) as caught, batch_bytes_told(model, IMAGES):
        raise error
    assert caught.value is error
    assert error.batch_bytes == activation_bytes(model, IMAGES)  # type: ignore[attr-defined]


def test_other_errors__do_not() -> None:
    with pytest.raises(ValueError, match="it") as caught, batch_bytes_told(nn.Conv2d(3, 16, 1), IMAGES):
        raise ValueError("it")
    assert not hasattr(caught.value, "batch_bytes")


def test_where_not_one_image_fits__the_error_is_what_it_was() -> None:
    class Full(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            raise MemoryError

    with pytest.raises(MemoryError) as caught, batch_bytes_told(Full(), IMAGES):
        raise MemoryError
    assert not hasattr(caught.value, "batch_bytes")
