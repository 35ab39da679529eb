"""The README.md of an export: true, complete, harmless whatever the names are, its lines of Python right."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from PIL import Image, ImageOps
from torch import nn

from vitctl.data.images import to_rgb
from vitctl.data.transforms import EvaluationTransform
from vitctl.exporting.card import TITLES, card, resized_size, snippet
from vitctl.exporting.source import Source
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.export import ExportedFile, FormatExport, NpzVerification, Verification
from vitctl.shown import shown

PREPROCESSING = Preprocessing((16, 24), "bicubic", 0.9, "center", (0.4, 0.5, 0.6), (0.25, 0.2, 0.3))
SOURCE = Source(nn.Identity(), "pets", ("cat", "dog"), {}, PREPROCESSING, "vit_tiny.in21k", "apache-2.0", "ab" * 32)
VERIFY = Verification(
    max_abs=1.25e-6,
    max_rel=2.5e-7,
    cosine_min=0.9999999,
    top1_agreement=0.995,
    num_near_ties=0,
    num_images=200,
    num_noise_images=6,
    batch_sizes=(1, 3),
    sizes=((16, 24), (20, 20)),
    max_abs_per_output={"logits": 1.25e-6},
    largest_output=5.0,
    tolerance=1e-4,
    preprocessing_levels_max=0.0,
    preprocessing_levels_mean=0.0,
    preprocessing_top1_agreement=None,
    accuracy=0.75,
    source_accuracy=0.8,
    images="200 images of pets/",
)
EXPORT = FormatExport(
    format="onnx",
    precision="fp32",
    opset=18,
    files=(ExportedFile("model.onnx", 2_621_440, "cd" * 32),),
    verify=VERIFY,
    latency_ms=None,
)
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "![x](https://example.com/a.png)",
    "[click](javascript:alert(1))",
    "**bold** _it_ `code` ~~no~~",
    "# heading",
    "two\n\n# lines\r\nand a tab\there",
    "a | b",
    "- point",
    "+ point",
    "1. one",
    "7) seven",
    "---",
    "===",
    "> quoted",
    "AT&amp;T &lt;b&gt;",
    "back\\slash",
    "```python",
    "$x$",
    "花 & Bücher",
]


def written(source: Source = SOURCE, format_name: str = "onnx", **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "export": EXPORT,
        "is_raw": False,
        "is_size_dynamic": False,
        "outputs": ("logits", "embedding"),
        "architecture": "vit_tiny_patch16_224",
        "model_args": {"img_size": (16, 24)},
    }
    return card(source, format_name=format_name, **(arguments | changes))


class _Words(HTMLParser):
    """Collects the tags of a page, and what can be read of its list items."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.items: list[str] = []
        self.headings: list[str] = []
        self._inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag in ("li", "h1", "h2"):
            self._inside = tag
            (self.items if tag == "li" else self.headings).append("")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._inside:
            self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside:
            (self.items if self._inside == "li" else self.headings)[-1] += data


def rendered(text: str) -> _Words:
    """Return what a reader sees of a card, by a Markdown renderer of its own that lets HTML through."""
    words = _Words()
    words.feed(MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(body_of(text)))
    return words


def body_of(text: str) -> str:
    return text.split("---\n", 2)[2]


@pytest.mark.parametrize("format_name", TITLES)
def test_card__front_matter_is_yaml_that_the_hub_knows(format_name: str) -> None:
    front = yaml.safe_load(written(format_name=format_name).split("---\n")[1])
    assert front["pipeline_tag"] == "image-classification"
    assert front["library_name"] in {"onnx", "timm", "transformers", "pytorch"}
    assert front["tags"] == ["vitctl"]
    headless = written(replace(SOURCE, class_names=()), format_name)
    assert yaml.safe_load(headless.split("---\n")[1])["pipeline_tag"] == "image-feature-extraction"


def test_card__says_what_it_is_and_where_it_comes_from() -> None:
    text = written()
    assert "# pets: ONNX\n" in text
    assert "An image classifier of 2 classes (vit_tiny_patch16_224)" in text
    assert r"Made from vit\_tiny\.in21k (licence of those weights: apache\-2\.0)" in text
    assert f"sha256 `{'ab' * 32}`" in text
    assert f"| `model.onnx` | 2.5 MiB | `{'cd' * 32}` |" in text
    assert "Precision: fp32, opset 18." in text
    assert "Outputs, in order: `logits`, `embedding`." in text


def test_card__of_an_unknown_licence_or_without_opset_says_so() -> None:
    text = written(replace(SOURCE, base_licence=None), export=replace(EXPORT, opset=None))
    assert "licence of those weights: not known" in text
    assert "Precision: fp32.\n" in text


def test_card__has_the_figures_of_verification() -> None:
    text = written()
    assert r"on 200 images of pets\/ and 6 images of noise, at batch sizes 1 and 3, at 16x24, 20 px" in text
    for row in (
        "| largest difference | 1.25e-06 |",
        "| relative to the image's largest output | 2.50e-07 |",
        "| least cosine | 0.9999999 |",
        "| same top-1 answer, near-ties apart | 99.50% |",
        "| accuracy, of the source | 75.00%, 80.00% |",
    ):
        assert row in text
    assert "tanh" not in text
    assert "levels of 255" not in text


def test_card__has_a_dash_where_nothing_was_measured() -> None:
    unknown = replace(VERIFY, max_abs=None, max_rel=None, top1_agreement=None, accuracy=None, source_accuracy=None)
    text = written(export=replace(EXPORT, verify=unknown))
    assert "| largest difference | - |" in text
    assert "| same top-1 answer, near-ties apart | - |" in text
    assert "accuracy, of the source" not in text


def test_card__says_how_far_off_foreign_preprocessing_and_activations_are() -> None:
    foreign = replace(
        VERIFY,
        preprocessing_levels_max=31.26,
        preprocessing_levels_mean=0.1234,
        preprocessing_top1_agreement=0.9,
    )
    verify = NpzVerification(**vars(foreign), tanh_gelu_max_abs=3.2e-4)
    text = written(format_name="hf", export=replace(EXPORT, verify=verify))
    assert "| pixels off the source's preprocessing, levels of 255: most, mean | 31.3, 0.123 |" in text
    assert "| same top-1 answer in spite of that | 90.00% |" in text
    assert "| under the tanh GELU of Google's Flax models | 3.20e-04 |" in text


def test_card__input_in_words() -> None:
    fixed = "`image`: (batch, 3, 16, 24) float32. RGB, "
    assert fixed in written()
    assert "less the mean (0.4, 0.5, 0.6), divided by (0.25, 0.2, 0.3)." in written()
    assert "`image`: (batch, 3, height, width) float32." in written(is_size_dynamic=True)
    assert "verified first at 16x24 px" in written(is_size_dynamic=True)
    assert "`image`: (batch, height, width, 3) uint8, RGB, of any size." in written(is_raw=True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "resized to cover 17x26 px (bicubic, antialias), the central 16x24 px"),
        ({"image_size": (224, 224)}, "short side resized to 248 px (bicubic, antialias), the central 224x224 px"),
        ({"crop_mode": "squash"}, "resized to 17x26 px whatever its aspect (bicubic, antialias)"),
        ({"crop_mode": "border"}, "its long side resized to 26 px (bicubic), bordered"),
    ],
)
def test_card__resize_in_words(changes: dict[str, Any], words: str) -> None:
    assert words in written(replace(SOURCE, preprocessing=replace(PREPROCESSING, **changes)))


def test_classes__are_listed_with_their_positions() -> None:
    words = rendered(written())
    assert words.items == ["cat", "dog"]
    assert "\n0. cat\n1. dog\n" in written()
    assert "more, in `export.json`" not in written()


def test_classes__of_which_there_are_many_are_cut_short() -> None:
    text = written(replace(SOURCE, class_names=tuple(f"class {index}" for index in range(1000))))
    assert "\n29. class 29\n" in text
    assert "class 30" not in text
    assert "and 970 more, in `export.json`." in text


def test_classes__that_are_codes_are_described() -> None:
    text = written(replace(SOURCE, class_names=("n01", "n02"), class_descriptions={"n01": "tench"}))
    assert "\n0. tench\n1. n02\n" in text


def test_classes__without_any_have_no_section() -> None:
    text = written(replace(SOURCE, class_names=()))
    assert "## Classes" not in text
    assert "An image encoder" in text


@pytest.mark.parametrize("name", HOSTILE)
def test_classes__whatever_their_names_are_text(name: str) -> None:
    plain, words = rendered(written()), rendered(written(replace(SOURCE, class_names=("cat", name))))
    assert [" ".join(item.split()) for item in words.items] == ["cat", " ".join(shown(name).split())]
    assert words.tags == plain.tags
    assert words.headings == plain.headings


def test_classes__without_a_name_can_be_seen() -> None:
    assert rendered(written(replace(SOURCE, class_names=("", " ", "\n")))).items == ['""', '""', r"\n"]


@pytest.mark.parametrize("name", HOSTILE)
def test_model_name__whatever_it_is_is_text(name: str) -> None:
    plain, words = rendered(written()), rendered(written(replace(SOURCE, name=name)))
    assert " ".join(words.headings[0].split()) == f"{' '.join(shown(name).split())}: ONNX"
    assert words.headings[1:] == plain.headings[1:]
    assert words.tags == plain.tags


@pytest.mark.parametrize("name", ["a`<script>x</script>`b", "a\n\n# heading\n\nb", "a\n```\nb"])
def test_base_model__whatever_it_is_is_text(name: str) -> None:
    plain, words = rendered(written()), rendered(written(replace(SOURCE, base_model=name, base_licence=name)))
    assert words.tags == plain.tags
    assert words.headings == plain.headings


@pytest.mark.parametrize("side", [16, 224, 300, 384, 518])
@pytest.mark.parametrize("crop_pct", [1.0, 0.95, 0.9, 0.875, 0.8])
def test_resized_size__is_timms(side: int, crop_pct: float) -> None:
    from timm.data import create_transform

    preprocessing = replace(PREPROCESSING, image_size=(side, side), crop_pct=crop_pct)
    resize = create_transform(**preprocessing.data_config()).transforms[0]
    assert resized_size(preprocessing) == (resize.size, resize.size)


def snippet_of(source: Source, format_name: str, *, is_raw: bool = False) -> str:
    return snippet(
        format_name,
        source,
        is_raw=is_raw,
        architecture="vit_tiny_patch16_224",
        model_args={"img_size": (16, 24), "class_token": True},
    )


@pytest.mark.parametrize("format_name", TITLES)
@pytest.mark.parametrize("names", [("cat", "dog"), ()])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_snippet__is_python_and_short_and_in_the_card(format_name: str, names: tuple[str, ...], crop_mode: str) -> None:
    source = replace(SOURCE, class_names=names, preprocessing=replace(PREPROCESSING, crop_mode=crop_mode))
    for is_raw in (False, True):
        code = snippet_of(source, format_name, is_raw=is_raw)
        compile(code, format_name, "exec")
        statements = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
        assert len(statements) <= 10
        text = written(source, format_name, is_raw=is_raw, model_args={"img_size": (16, 24), "class_token": True})
        assert re.findall(r"```python\n(.*?)```", text, re.DOTALL) == [code]


@pytest.mark.parametrize("size", [(31, 24), (24, 31), (40, 40), (17, 26), (101, 67), (33, 90)])  # (W, H) px
@pytest.mark.parametrize(
    "changes",
    [
        {"image_size": (16, 16)},
        {"image_size": (16, 16), "crop_pct": 1.0, "interpolation": "bilinear"},
        {"image_size": (17, 17), "crop_pct": 0.8},
        {},
        {"image_size": (24, 16), "crop_pct": 0.875},
        {"crop_mode": "squash"},
        {"crop_mode": "border"},
    ],
    ids=str,
)
def test_snippet__prepares_an_image_as_the_source_does(
    changes: dict[str, Any], size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    preprocessing = replace(PREPROCESSING, **changes)
    pixels = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("image.jpg", format="png")  # Pillow goes by the content, and this one loses nothing
    code = snippet_of(replace(SOURCE, preprocessing=preprocessing), "onnx")
    before, _, rest = code.partition("session = ")
    lines, _, _ = rest.partition("\n")[2].partition("found = ")
    variables: dict[str, Any] = {}
    exec(before.replace("import onnxruntime\n", "") + lines, variables)
    expected = EvaluationTransform(preprocessing)(Image.fromarray(pixels))
    image = variables["image"]
    assert (image.dtype, image.shape) == (np.float32, (1, 3, *preprocessing.image_size))
    torch.testing.assert_close(torch.from_numpy(image)[0], expected, rtol=0, atol=2e-6)


def test_snippet__gives_raw_images_as_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(pixels).save("image.jpg", format="png")
    code = snippet_of(SOURCE, "pt2", is_raw=True)
    lines = [line for line in code.splitlines() if line.startswith("image = ")]
    variables: dict[str, Any] = {"np": np, "Image": Image, "ImageOps": ImageOps}
    exec("\n".join(lines), variables)
    assert variables["image"].dtype == np.uint8
    np.testing.assert_array_equal(variables["image"], pixels[None])


@pytest.mark.parametrize("format_name", TITLES)
def test_snippet__scales_images_of_16_bits_as_the_source_does(
    format_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = replace(SOURCE, preprocessing=replace(PREPROCESSING, max_value=4095))
    values = np.random.default_rng(0).integers(0, 5000, (40, 30), dtype=np.uint16)
    monkeypatch.chdir(tmp_path)
    Image.fromarray(values).save("image.jpg", format="png")
    code = snippet_of(source, format_name, is_raw=True)
    compile(code, format_name, "exec")
    before, opened, _ = code.partition('image = image.convert("RGB")\n')
    imports = "\n".join(
        line for line in before.splitlines() if "import" in line and line.split()[1] in ("numpy", "PIL")
    )
    variables: dict[str, Any] = {}
    exec(imports + "\n" + before[before.index("image = ") :] + opened, variables)
    with Image.open("image.jpg") as image:
        np.testing.assert_array_equal(np.asarray(variables["image"]), np.asarray(to_rgb(image, max_value=4095)))
    assert "of 16-bit images every value divided by 4095" in written(source, "onnx") + written(source, format_name)
    assert "16-bit" not in written()


def test_snippet__of_npz_builds_the_model_that_was_exported() -> None:
    code = snippet_of(SOURCE, "npz")
    assert 'timm.create_model("vit_tiny_patch16_224", img_size=(16, 24), class_token=True, num_classes=2)' in code


@pytest.mark.parametrize("format_name", TITLES)
def test_snippet__keeps_onnxruntime_from_reporting(format_name: str) -> None:
    code, text = snippet_of(SOURCE, format_name), written(format_name=format_name)
    imports, switch = code.find("import onnxruntime"), code.find('os.environ["ORT_DISABLE_TELEMETRY"] = "1"')
    assert (imports >= 0) == (switch >= 0) == ("otherwise writes a device id" in text) == (format_name == "onnx")
    assert switch < imports or format_name != "onnx"
