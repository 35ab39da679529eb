"""The README.md of an export: what it is, its classes, its input, how to run it, what was verified."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

from vitctl import __version__
from vitctl.exporting.source import Source
from vitctl.primitives.formatting import format_bytes
from vitctl.primitives.image_sizes import format_size
from vitctl.primitives.preprocessing import Preprocessing
from vitctl.results.export import FormatExport, NpzVerification

MOST_CLASSES = 30
TITLES = {
    "onnx": "ONNX",
    "timm": "timm folder",
    "hf": "transformers ViTForImageClassification",
    "npz": "Google's .npz layout",
    "pt2": "torch.export program",
}
_TELEMETRY = (
    "\n`ORT_DISABLE_TELEMETRY` is set before the import because onnxruntime (1.32 for Linux) otherwise writes a device "
    "id below `~/.cache/Microsoft` as soon as it is imported, and reports its use to its makers.\n"
)
_LIBRARIES = {"onnx": "onnx", "timm": "timm", "hf": "transformers", "npz": "timm", "pt2": "pytorch"}


def card(
    source: Source,
    *,
    format_name: str,
    export: FormatExport,
    is_raw: bool,
    is_size_dynamic: bool,
    outputs: Sequence[str],
    architecture: str,
    model_args: Mapping[str, Any],
) -> str:
    """Return the card as Markdown.

    Args:
        source: The model.
        format_name: One of ``TITLES``.
        export: Its files, precision, opset and verification.
        is_raw: Whether the graph takes uint8 images of any size.
        is_size_dynamic: Whether the graph takes every multiple of the patch.
        outputs: In order.
        architecture: timm's name.
        model_args: What ``timm.create_model`` needs beside it.
    """
    parts = [
        _front_matter(format_name, has_classifier=source.has_classifier),
        f"# {_plain(source.name)}: {TITLES[format_name]}\n",
        _origin(source, architecture),
        "## Files\n\n" + _files(export),
        "## Input and output\n\n" + _input(source.preprocessing, is_raw, is_size_dynamic and not is_raw, outputs),
    ]
    if source.class_names:
        parts.append("## Classes\n\n" + _classes(source))
    parts += [
        "## Run it\n\nIn this folder:\n\n```python\n"
        + snippet(
            format_name,
            source,
            is_raw=is_raw,
            outputs=outputs,
            architecture=architecture,
            model_args=model_args,
        )
        + "```\n"
        + (_TELEMETRY if format_name == "onnx" else ""),
        "## Verified\n\n" + _verified(export),
    ]
    return "\n".join(parts)


def _front_matter(format_name: str, *, has_classifier: bool) -> str:
    task = "image-classification" if has_classifier else "image-feature-extraction"
    return f"---\nlibrary_name: {_LIBRARIES[format_name]}\npipeline_tag: {task}\ntags:\n- vitctl\n---\n"


def _origin(source: Source, architecture: str) -> str:
    what = f"An image classifier of {len(source.class_names)} classes" if source.class_names else "An image encoder"
    licence = _plain(source.base_licence) if source.base_licence else "not known"
    origin = _plain(source.base_model)
    return (
        f"{what} ({architecture}), exported by vitctl {__version__}. Made from {origin} (licence of those "
        f"weights: {licence}). Weights: sha256 `{source.weights_sha256}` as float32 safetensors.\n"
    )


def _files(export: FormatExport) -> str:
    rows = "".join(f"| `{file.path}` | {format_bytes(file.bytes)} | `{file.sha256}` |\n" for file in export.files)
    opset = f", opset {export.opset}" if export.opset else ""
    return f"Precision: {export.precision}{opset}.\n\n| file | size | sha256 |\n|---|---|---|\n{rows}"


def _input(preprocessing: Preprocessing, is_raw: bool, is_size_dynamic: bool, outputs: Sequence[str]) -> str:
    size = format_size(preprocessing.image_size)
    how = (
        f"RGB, {_resize_words(preprocessing)}, scaled to 0-1, less the mean {_numbers(preprocessing.mean)}, divided by "
        f"{_numbers(preprocessing.std)}."
    )
    if is_raw:
        text = f"`image`: (batch, height, width, 3) uint8, RGB, of any size. The graph does the rest: {how}"
    else:
        sides = "height, width" if is_size_dynamic else f"{preprocessing.image_size[0]}, {preprocessing.image_size[1]}"
        text = f"`image`: (batch, 3, {sides}) float32. {how}"
        if is_size_dynamic:
            text += f" Any size that is a whole number of patches; verified first at {size} px."
    return f"{text}\n\nOutputs, in order: {', '.join(f'`{name}`' for name in outputs)}.\n"


def _resize_words(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.image_size
    resized = resized_size(preprocessing)
    target = f"{height}x{width} px (height x width)"
    if preprocessing.crop_mode == "squash":
        first = (
            f"resized to {resized[0]}x{resized[1]} px whatever its aspect ({preprocessing.interpolation}, antialias)"
        )
    elif preprocessing.crop_mode == "border":
        first = f"its long side resized to {max(resized)} px ({preprocessing.interpolation}), bordered"
    elif resized[0] == resized[1]:
        first = f"short side resized to {resized[0]} px ({preprocessing.interpolation}, antialias)"
    else:
        first = f"resized to cover {resized[0]}x{resized[1]} px ({preprocessing.interpolation}, antialias)"
    return f"{first}, the central {target} cut out"


def resized_size(preprocessing: Preprocessing) -> tuple[int, int]:
    """Return (H, W) px that an image is resized to, or to cover, before the crop: timm's ``floor(side / crop_pct)``."""
    height, width = (int(side / preprocessing.crop_pct) for side in preprocessing.image_size)
    return height, width


def _numbers(values: Sequence[float]) -> str:
    return f"({', '.join(f'{value:g}' for value in values)})"


def _classes(source: Source) -> str:
    shown = [
        f"{index}. {_plain(source.class_descriptions.get(name, name))}"
        for index, name in enumerate(source.class_names[:MOST_CLASSES])
    ]
    more = len(source.class_names) - len(shown)
    rest = f"\n\nand {more} more, in `export.json`." if more else ""
    return "\n".join(shown) + rest + "\n"


def _plain(name: str) -> str:
    """Return a name, which may be anyone's, as Markdown that shows it: on one line, its punctuation escaped."""
    escaped = "".join(f"\\{letter}" if letter in string.punctuation else letter for letter in name)
    return " ".join(escaped.split()) or '""'


def _verified(export: FormatExport) -> str:
    verify = export.verify
    rows = [
        ("largest difference", _figure(verify.max_abs)),
        ("relative to the image's largest output", _figure(verify.max_rel)),
        ("least cosine", f"{verify.cosine_min:.7f}"),
        ("same top-1 answer, near-ties apart", _share(verify.top1_agreement)),
    ]
    if verify.accuracy is not None:
        rows.append(("accuracy, of the source", f"{_share(verify.accuracy)}, {_share(verify.source_accuracy)}"))
    if verify.preprocessing_levels_max > 0:
        off = f"{verify.preprocessing_levels_max:.1f}, {verify.preprocessing_levels_mean:.3f}"
        rows.append(("pixels off the source's preprocessing, levels of 255: most, mean", off))
    if verify.preprocessing_top1_agreement is not None:
        rows.append(("same top-1 answer in spite of that", _share(verify.preprocessing_top1_agreement)))
    if isinstance(verify, NpzVerification) and verify.tanh_gelu_max_abs is not None:
        rows.append(("under the tanh GELU of Google's Flax models", _figure(verify.tanh_gelu_max_abs)))
    body = "".join(f"| {name} | {value} |\n" for name, value in rows)
    sizes = ", ".join(map(format_size, verify.sizes))
    batches = " and ".join(map(str, verify.batch_sizes))
    return (
        f"Against the source in PyTorch, on {verify.images} and {verify.num_noise_images} images of noise, at "
        f"batch sizes {batches}, at {sizes} px:\n\n| what | figure |\n|---|---|\n{body}"
    )


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.2e}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def snippet(
    format_name: str,
    source: Source,
    *,
    is_raw: bool,
    outputs: Sequence[str],
    architecture: str,
    model_args: Mapping[str, Any],
) -> str:
    """Return a few lines of Python that run the export in its folder on ``image.jpg``."""
    if format_name == "hf":
        return 'from transformers import pipeline\n\nprint(pipeline("image-classification", model=".")("image.jpg"))\n'
    if format_name == "timm":
        return _timm_snippet(source)
    if format_name == "npz":
        return _npz_snippet(source, architecture, model_args)
    if format_name == "pt2":
        return _pt2_snippet(source, is_raw=is_raw)
    return _onnx_snippet(source, is_raw=is_raw)


def _timm_snippet(source: Source) -> str:
    answer = 'model.pretrained_cfg["label_names"][int(found.argmax())]' if source.class_names else "found.shape"
    return (
        "import timm\nimport torch\nfrom PIL import Image\n\n"
        'model = timm.create_model("local-dir:.", pretrained=True).eval()\n'
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))\n"
        "with torch.inference_mode():\n"
        '    found = model(transform(Image.open("image.jpg").convert("RGB"))[None])\n'
        f"print({answer})\n"
    )


def _npz_snippet(source: Source, architecture: str, model_args: Mapping[str, Any]) -> str:
    arguments = "".join(f", {key}={value!r}" for key, value in model_args.items())
    answer = 'about["class_names"][int(found.argmax())]' if source.class_names else "found.shape"
    return (
        "import json\nfrom pathlib import Path\nimport timm\nimport torch\nfrom PIL import Image\n\n"
        'about = json.loads(Path("vitctl.json").read_text(encoding="utf-8"))\n'
        f'model = timm.create_model("{architecture}"{arguments}, num_classes={len(source.class_names)}).eval()\n'
        'model.load_pretrained("model.npz")\n'
        'transform = timm.data.create_transform(**about["preprocessing"])\n'
        "with torch.inference_mode():\n"
        '    found = model(transform(Image.open("image.jpg").convert("RGB"))[None])\n'
        f"print({answer})\n"
    )


def _onnx_snippet(source: Source, *, is_raw: bool) -> str:
    answer = "names[found.argmax()]" if source.class_names else "found.shape"
    lines = [
        "import json",
        "import os",
        "import numpy as np",
        "from PIL import Image",
        "",
        'os.environ["ORT_DISABLE_TELEMETRY"] = "1"',
        "import onnxruntime",
        "",
        'session = onnxruntime.InferenceSession("model.onnx")',
        *_image_lines(source.preprocessing, is_raw=is_raw),
        'found = session.run(None, {"image": image})[0]',
    ]
    if source.class_names:
        lines.append('names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])')
    return "\n".join([*lines, f"print({answer})"]) + "\n"


def _pt2_snippet(source: Source, *, is_raw: bool) -> str:
    names = 'json.loads(about["vitctl.json"])["class_names"]'
    answer = f"{names}[int(found.argmax())]" if source.class_names else "found.shape"
    lines = [
        "import json",
        "import numpy as np",
        "import torch",
        "from PIL import Image",
        "",
        'about = {"vitctl.json": ""}',
        'model = torch.export.load("model.pt2", extra_files=about).module()',
        *_image_lines(source.preprocessing, is_raw=is_raw),
        "with torch.inference_mode():",
        "    found = model(torch.from_numpy(image))[0]",
        f"print({answer})",
    ]
    return "\n".join(lines) + "\n"


def _image_lines(preprocessing: Preprocessing, *, is_raw: bool) -> list[str]:
    """Return the lines from ``image.jpg`` to the array ``image`` that a graph takes, with Pillow and numpy alone."""
    if is_raw:
        return ['image = np.array(Image.open("image.jpg").convert("RGB"))[None]']
    if preprocessing.crop_mode == "border":
        return [
            "from timm.data import create_transform",
            f"transform = create_transform(**{preprocessing.data_config()!r})",
            'image = transform(Image.open("image.jpg").convert("RGB"))[None].numpy()',
        ]
    (height, width), (tall, wide) = preprocessing.image_size, resized_size(preprocessing)
    if preprocessing.crop_mode == "squash":
        target = f"({wide}, {tall})"
    elif tall == wide:
        target = f"[{tall} * side // min(image.size) for side in image.size]"
    else:
        ratio = f"min(image.width / {wide}, image.height / {tall})"
        target = f"[round(side / {ratio}) for side in image.size]"
    return [
        'image = Image.open("image.jpg").convert("RGB")',
        f"image = image.resize({target}, Image.Resampling.{preprocessing.interpolation.upper()})",
        f"left, top = round((image.width - {width}) / 2), round((image.height - {height}) / 2)",
        f"image = np.asarray(image.crop((left, top, left + {width}, top + {height}))) / 255",
        f"image = ((image - {list(preprocessing.mean)}) / {list(preprocessing.std)})"
        ".transpose(2, 0, 1)[None].astype(np.float32)",
    ]
