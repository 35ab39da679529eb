"""The traced graph: its outputs, what of its sizes may vary, and the second way where the first fails."""

import copy
import logging
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitctl.errors import InterruptedRun, ModelError
from vitctl.exporting import formats
from vitctl.exporting.dynamic_size import make_size_dynamic
from vitctl.exporting.formats import Exporter, GraphSettings
from vitctl.exporting.graph import (
    GraphModel,
    InputForm,
    first_that_works,
    quiet_exporters,
    trace,
    with_plain_attention,
)
from vitctl.exporting.graph_preprocessing import GraphPreprocessing
from vitctl.exporting.source import Source
from vitctl.primitives.interrupts import termination_as_error

ALL_OUTPUTS = ("logits", "probabilities", "embedding", "tokens")


def images(num_images: int, size: tuple[int, int] = (16, 16)) -> Tensor:
    return torch.randn(num_images, 3, *size, generator=torch.Generator().manual_seed(num_images))


@torch.no_grad()
def outputs_of(module: nn.Module, batch: Tensor) -> list[np.ndarray]:
    return [tensor.numpy() for tensor in module(batch)]


def test_outputs__are_what_timm_computes(source: Source) -> None:
    batch, model = images(2), source.model
    logits, probabilities, embedding, tokens = outputs_of(GraphModel(model, ALL_OUTPUTS).eval(), batch)
    with torch.no_grad():
        np.testing.assert_array_equal(logits, model(batch).numpy())
        np.testing.assert_array_equal(tokens, model.forward_features(batch).numpy())
    powers = np.exp(logits.astype(np.float64) - logits.max())
    np.testing.assert_allclose(probabilities, powers / powers.sum(axis=1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(embedding @ model.head.weight.numpy().T + model.head.bias.numpy(), logits, atol=1e-6)
    np.testing.assert_array_equal(embedding, tokens[:, 0])  # the class token is what the head sees


def test_outputs__come_in_the_order_asked_for(source: Source) -> None:
    batch = images(2)
    both = outputs_of(GraphModel(source.model, ("embedding", "logits")).eval(), batch)
    assert [array.shape for array in both] == [(2, 16), (2, 3)]
    (alone,) = outputs_of(GraphModel(source.model, ("logits",)).eval(), batch)
    np.testing.assert_allclose(both[1], alone, atol=1e-6)


def test_outputs__of_raw_images_see_the_preprocessing(source: Source) -> None:
    preprocessing = GraphPreprocessing(source.preprocessing)
    model = GraphModel(source.model, ("logits",), preprocessing).eval()
    raw = InputForm((16, 16), is_raw=True).batch(2)
    with torch.no_grad():
        assert torch.equal(model.preprocess(raw), preprocessing(raw))
        np.testing.assert_array_equal(outputs_of(model, raw)[0], source.model(preprocessing(raw)).numpy())
    plain = images(2)
    assert GraphModel(source.model, ("logits",)).preprocess(plain) is plain


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ("batch", 3, 16, 24)),
        ({"is_size_dynamic": True, "patch_size": (4, 8)}, ("batch", 3, "height", "width")),
        ({"is_raw": True}, ("batch", "height", "width", 3)),
    ],
)
def test_form__names_what_varies(changes: dict[str, Any], names: tuple[str | int, ...]) -> None:
    form = InputForm((16, 24), **changes)
    assert form.dim_names == names
    varying = [index for index, name in enumerate(names) if isinstance(name, str)]
    assert sorted(form.dynamic_shapes()["image"]) == varying


def test_form__example_is_noise_of_that_form_and_the_same_each_time() -> None:
    plain = InputForm((16, 24)).batch(5)
    assert (plain.dtype, plain.shape) == (torch.float32, (5, 3, 16, 24))
    assert torch.equal(plain, InputForm((16, 24)).batch(5))
    assert plain.std() > 0.9
    raw = InputForm((16, 24), is_raw=True).batch(2)
    assert (raw.dtype, raw.shape[0], raw.shape[3]) == (torch.uint8, 2, 3)
    height, width = raw.shape[1:3]
    assert height != width  # and neither is a side of the model's, so that a graph tied to one shows
    assert not {height, width} & {16, 24}


def test_trace__takes_any_batch_and_gives_the_same(source: Source) -> None:
    module = GraphModel(source.model, ("logits",))
    traced = trace(module, InputForm((16, 16))).module()
    for num_images in (1, 2, 3, 7):
        np.testing.assert_allclose(
            outputs_of(traced, images(num_images))[0], outputs_of(module, images(num_images))[0], atol=1e-6
        )
    with pytest.raises(AssertionError):
        traced(images(2, (20, 20)))


@pytest.mark.slow
def test_trace__takes_whole_patches_where_sizes_vary(source: Source) -> None:
    from vitctl.models.geometry import change_resolution

    form = InputForm((16, 16), is_size_dynamic=True, patch_size=(4, 4))
    traced = trace(
        GraphModel(make_size_dynamic(source.model, name="small", method="bicubic-aa"), ("logits",)), form
    ).module()
    for size in ((16, 16), (20, 8), (8, 40)):
        resized = copy.deepcopy(source.model)
        change_resolution(resized, size, method="bicubic-aa", name="small")
        with torch.no_grad():
            expected = resized(images(2, size)).numpy()
        np.testing.assert_allclose(outputs_of(traced, images(2, size))[0], expected, atol=1e-5)
    for size in ((17, 16), (16, 18), (15, 15)):
        with pytest.raises(AssertionError):
            traced(images(1, size))


@pytest.mark.slow
def test_trace__takes_raw_images_of_any_size(source: Source) -> None:
    module = GraphModel(source.model, ("logits",), GraphPreprocessing(source.preprocessing)).eval()
    traced = trace(module, InputForm((16, 16), is_raw=True)).module()
    for shape in ((1, 16, 16, 3), (2, 61, 33, 3), (3, 7, 9, 3), (1, 1, 1, 3)):
        batch = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        np.testing.assert_allclose(outputs_of(traced, batch)[0], outputs_of(module, batch)[0], atol=1e-5)


def fused_layers(module: nn.Module) -> list[bool]:
    return [layer.fused_attn for layer in module.modules() if hasattr(layer, "fused_attn")]  # type: ignore[misc]


def test_plain_attention__is_a_copy_with_the_same_answers(source: Source) -> None:
    assert fused_layers(source.model) == [True, True]
    plain = with_plain_attention(source.model)
    assert fused_layers(plain) == [False, False]
    assert fused_layers(source.model) == [True, True]
    with torch.no_grad():
        torch.testing.assert_close(plain(images(3)), source.model(images(3)), rtol=0, atol=1e-6)


def failing(error: BaseException) -> Callable[[], str]:
    def attempt() -> str:
        raise error

    return attempt


def test_ladder__the_first_that_works_is_taken_and_no_other_is_tried() -> None:
    attempts = [("a", failing(ValueError("no"))), ("b", lambda: "done"), ("c", failing(AssertionError("tried")))]
    assert first_that_works(attempts, what="x") == ("b", "done")


def test_ladder__all_fail_gives_names_and_the_last_root_cause() -> None:
    outer = RuntimeError("outer")
    outer.__cause__ = KeyError("the root\nand more")
    with pytest.raises(ModelError) as caught:
        first_that_works([("a", failing(ValueError("first"))), ("b", failing(outer))], what="Exporting demo to ONNX")
    assert str(caught.value).startswith("Exporting demo to ONNX failed in every way tried (a, b): KeyError: ")
    assert "--to timm" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "first" not in str(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000 bytes."),
        KeyboardInterrupt(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_ladder__what_no_other_way_mends_ends_it(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        first_that_works([("a", failing(error)), ("b", lambda: "done")], what="x")
    assert caught.value is error


def test_ladder__a_sigterm_ends_it() -> None:
    tried: list[str] = []

    def terminated() -> None:
        tried.append("a")
        os.kill(os.getpid(), signal.SIGTERM)

    attempts: list[tuple[str, Callable[[], None]]] = [("a", terminated), ("b", lambda: tried.append("b"))]
    with pytest.raises(InterruptedRun), termination_as_error():
        first_that_works(attempts, what="x")
    assert tried == ["a"]


class Picky(nn.Module):
    """Attention that cannot be traced as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.fused_attn = True
        self.scale = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, image: Tensor) -> Tensor:
        if self.fused_attn and torch.compiler.is_exporting():
            raise RuntimeError("Cannot view a tensor")
        return image.mean(dim=(2, 3)) * self.scale


def exporter_of(source: Source, model: nn.Module) -> Exporter:
    settings = GraphSettings(("logits",), is_raw=False, is_size_dynamic=False, opset=18, precision="fp32")
    return Exporter(replace(source, model=model), settings, npz_layout="vit_jax")


def test_ladder__plain_attention_is_the_second_way_and_is_traced_once_for_both_formats(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces: list[list[bool]] = []

    def noting(module: nn.Module, form: InputForm) -> Any:
        traces.append(fused_layers(module))
        return trace(module, form)

    monkeypatch.setattr(formats, "trace", noting)
    model = Picky().eval()
    exporter = exporter_of(source, model)
    assert exporter.write("pt2", tmp_path) == "with plain attention"
    assert traces == [[True], [False]]
    opened = exporter.open("pt2", tmp_path)
    with torch.no_grad():
        np.testing.assert_array_equal(opened.run(images(3))["logits"], model(images(3)).numpy())
    assert fused_layers(model) == [True]


def test_ladder__a_model_that_cannot_be_traced_is_refused_with_the_reason(source: Source, tmp_path: Path) -> None:
    class Undecided(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image.mean(dim=(2, 3)) if float(image.sum()) > 0 else image.amax(dim=(2, 3))

    with pytest.raises(ModelError, match="Exporting small to pt2 failed in every way tried .*as it is, with plain"):
        exporter_of(source, Undecided().eval()).write("pt2", tmp_path)


@pytest.mark.slow
def test_ladder__attention_that_onnx_cannot_hold_is_written_plainly(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitctl.exporting import to_onnx

    write = to_onnx.write_onnx

    def refuse_fused(traced: Any, path: Path, **options: Any) -> None:
        if "scaled_dot_product_attention" in str(traced.graph):
            raise RuntimeError("Cannot view a tensor with these strides")
        write(traced, path, **options)

    monkeypatch.setattr(to_onnx, "write_onnx", refuse_fused)
    exporter = exporter_of(source, source.model)
    assert exporter.write("onnx", tmp_path) == "with plain attention"
    with torch.no_grad():
        expected = source.model(images(3)).numpy()
    np.testing.assert_allclose(exporter.open("onnx", tmp_path).run(images(3))["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("is_raising", [False, True])
def test_quiet__says_nothing_inside_and_is_as_loud_as_before_after(
    is_raising: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ("", "torch.onnx", "onnxscript", "onnx_ir")
    before = [logging.getLogger(name).level for name in names]
    try:
        with quiet_exporters():
            warnings.warn("not for the user", stacklevel=1)
            logging.getLogger("torch.onnx").error("nor this")
            logging.getLogger("onnxscript").warning("nor that")
            if is_raising:
                raise ValueError
    except ValueError:
        pass
    assert [logging.getLogger(name).level for name in names] == before
    assert capsys.readouterr().err == ""
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", stacklevel=1)
