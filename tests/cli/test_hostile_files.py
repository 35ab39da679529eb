"""Files that others wrote: valid ones with one part replaced by something hostile, read by the commands that read them.

Each case ends in a result or in one sentence and the exit code of its kind; never in an exception of another library.
How the cases are made is written down per kind of file; which of them the default tests try is drawn by a seed.
"""

import io
import json
import random
import resource
import shutil
import signal
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from vitctl.models import folder_config

EXIT_CODES = (0, 2, 3, 4, 5)
MOST_S, MOST_BYTES = 60, 2 * 2**30
MARK = "@HERE@"

# JSON that no schema expects, as text: some of it json.dumps would not write
HOSTILE = (
    "null", "true", "-1", "0", "0.5", "1e999", "NaN", "-Infinity", "1" + "0" * 20, "9" * 299, "9" * 6000,
    '""', '"x"', '"' + "x" * 100_000 + '"', r'"\ud800"', r'"\udc80"', r'"\u0000"', r'"\u001b]0;t\u0007\n\u202e"',
    '"../../../../etc/passwd"', '"/dev/zero"', "[]", "[[]]", '[1, "a", null]', "{}", '{"a": {"b": []}}',
    r'{"\ud800": 1}', "[" * 1000 + "]" * 1000, "[" * 100_000, '{"a": 1',
)  # fmt: skip


def ways(document: Any) -> Iterator[tuple[str | int, ...]]:
    """Yield the way to every value of a JSON document, the document itself first."""
    yield ()
    children = (
        document.items() if isinstance(document, dict) else enumerate(document if isinstance(document, list) else ())
    )
    for key, value in children:
        yield from ((key, *rest) for rest in ways(value))


def with_mark(document: Any, way: tuple[str | int, ...]) -> Any:
    """Return a copy of ``document`` with ``MARK`` at the end of ``way``."""
    if not way:
        return MARK
    changed = document.copy()
    changed[way[0]] = with_mark(document[way[0]], way[1:])
    return changed


def json_variants(text: str, hostile: tuple[str, ...] = HOSTILE) -> Iterator[tuple[str, bytes]]:
    """Yield a label and the bytes of every document that differs from ``text`` in one value, and some torn ones."""
    document = json.loads(text)
    for way in ways(document):
        marked = json.dumps(with_mark(document, way))
        for fragment in hostile:
            label = f"{'.'.join(map(str, way))} = {fragment[:20]}"
            yield label, marked.replace(f'"{MARK}"', fragment).encode()
    yield from (("torn", text.encode()[:cut]) for cut in (0, 1, len(text) // 2))
    yield from (("no text", b"\xff\xfe" + text.encode()), ("utf-16", text.encode("utf-16")))


Variants = Callable[[bytes], Iterator[tuple[str, bytes]]]


@dataclass(frozen=True)
class Kind:
    """A kind of file: which one is changed, how, and the command that reads it.

    ``file`` and ``command`` are below a folder that ``valid`` filled; ``exit_codes`` are those its errors may have.
    """

    file: str
    command: str
    variants: Variants
    exit_codes: tuple[int, ...] = EXIT_CODES


def of_json(content: bytes, hostile: tuple[str, ...] = HOSTILE) -> Iterator[tuple[str, bytes]]:
    return json_variants(content.decode(), hostile)


def of_json_lines(content: bytes) -> Iterator[tuple[str, bytes]]:
    first, _, rest = content.decode().partition("\n")
    return ((label, line + b"\n" + rest.encode()) for label, line in json_variants(first))


def of_toml(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield recipes with one value replaced; JSON's fragments are mostly TOML too."""
    lines = content.decode().splitlines()
    for number, line in enumerate(lines):
        key, equals, _ = line.partition(" = ")
        if equals and not line.startswith("#"):
            for fragment in (*HOSTILE, "inf", "nan", "0x" + "f" * 5000, "1979-05-27", "{ value = [], source = 1 }"):
                changed = [*lines[:number], f"{key} = {fragment}", *lines[number + 1 :]]
                yield f"{key} = {fragment[:20]}", "\n".join(changed).encode()
    yield "dots", (".".join("a" * 50_000) + " = 1").encode()


ARRAYS: dict[str, Callable[[np.ndarray], Any]] = {
    "0-d": lambda x: np.float32(1).reshape(()),
    "empty": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "one more dimension": lambda x: x[..., None],
    "flat": lambda x: x.reshape(-1),
    "nan": lambda x: np.full(x.shape, np.nan, np.float32),
    "inf": lambda x: np.full(x.shape, np.inf, np.float32),
    "negative": lambda x: -1 - np.ones_like(x),
    "text": lambda x: np.full(x.shape, "a"),
    "bytes": lambda x: np.full(x.shape, b"\xff"),
    "booleans": lambda x: x.astype(bool),
    "complex": lambda x: x.astype(np.complex64),
    "16 bits": lambda x: x.astype(np.float16),
    "integers": lambda x: x.astype(np.int64),
    "records": lambda x: np.zeros(x.shape, [("a", "f4"), ("b", "i2")]),
    "raw": lambda x: np.zeros(x.shape, "V2"),
    "dates": lambda x: np.zeros(x.shape, "M8[s]"),
    "objects": lambda x: x.astype(object),
    "one wider": lambda x: np.concatenate([x, x[..., :1]], axis=-1) if x.ndim else x,
    "other order": lambda x: np.asfortranarray(x.astype(x.dtype.newbyteorder(">"))),
}


def written(write: Callable[[Path], None], suffix: str) -> bytes:
    """Return what ``write`` writes to a file of its own."""
    path = Path(f"variant{suffix}")
    write(path)
    content = path.read_bytes()
    path.unlink()
    return content


def of_npz(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield archives with one array replaced, left out or no array, then those that zipfile cannot read."""
    Path("valid.npz").write_bytes(content)
    with np.load("valid.npz") as archive:
        arrays = dict(archive)
    Path("valid.npz").unlink()
    for key, array in arrays.items():
        for label, change in ARRAYS.items():
            yield f"{key}: {label}", written(partial(_savez, arrays | {key: change(array)}), ".npz")
        yield f"{key}: left out", written(partial(_savez, {k: v for k, v in arrays.items() if k != key}), ".npz")
    yield from of_zip(content)


def _savez(arrays: dict[str, Any], path: Path) -> None:
    np.savez(path, allow_pickle=True, **arrays)


def of_zip(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield archives whose members are of another kind, compression or name."""
    Path("valid.zip").write_bytes(content)
    with zipfile.ZipFile("valid.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    Path("valid.zip").unlink()
    for name in list(members)[:4]:
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            whole = written(partial(_zip, members, method), ".zip")
            yield f"compression {method}", whole
            at = whole.find(name.encode()) + len(name)
            yield f"compression {method} damaged", whole[: at + 9] + b"\xff" * 9 + whole[at + 18 :]
        yield f"{name} no array", written(partial(_zip, members | {name: b"no array"}, 0), ".zip")
        yield f"{name} empty", written(partial(_zip, members | {name: b""}, 0), ".zip")
        head = (
            members[name][:8] + struct.pack("<H", 60) + b"{'descr': '<f4', 'fortran_order': 0, 'shape': (-1,), }     \n"
        )
        yield f"{name} of a negative shape", written(partial(_zip, members | {name: head}, 0), ".zip")
    flags, methods = content.find(b"PK\x01\x02") + 8, content.find(b"PK\x01\x02") + 10
    yield "encrypted", content[:flags] + b"\x01" + content[flags + 1 :]
    yield "unknown method", content[:methods] + b"\x63" + content[methods + 1 :]
    yield from _torn(content)


def _zip(members: dict[str, bytes], method: int, path: Path) -> None:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _torn(content: bytes) -> Iterator[tuple[str, bytes]]:
    yield from ((f"cut at {cut}", content[:cut]) for cut in (0, 1, 10, len(content) // 2, len(content) - 3))
    rng = random.Random(0)
    for number in range(20):
        changed = bytearray(content)
        for _ in range(8):
            changed[rng.randrange(min(len(changed), 2000))] = rng.randrange(256)
        yield f"noise {number}", bytes(changed)


def of_state(content: bytes, suffix: str, entry: str | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield weights with one tensor replaced, left out or added."""
    Path("valid").write_bytes(content)
    state = load_file("valid") if suffix == ".safetensors" else torch.load("valid", weights_only=True)
    Path("valid").unlink()
    if entry is not None:
        yield from (
            (f"{entry} = {one!r}", written(partial(torch.save, {entry: one}), suffix)) for one in (3, {}, {1: 2})
        )
        state = state[entry]
    changes: dict[str, Callable[[torch.Tensor], Any]] = {
        "0-d": lambda x: x.flatten()[0].clone(),
        "nan": lambda x: x * float("nan"),
        "inf": lambda x: x + float("inf"),
        "empty": lambda x: x[:0].clone(),
        "one more dimension": lambda x: x[None].clone(),
        "flat": lambda x: x.flatten(),
        "whole numbers": lambda x: x.to(torch.int8),
        "truth values": lambda x: x > 0,
        "16 bits": lambda x: x.bfloat16(),
    }
    if suffix == ".pth":
        changes |= {"complex": lambda x: x.to(torch.complex64), "text": lambda x: "a", "list": lambda x: [1, 2]}
        changes |= {"sparse": lambda x: x.to_sparse(), "meta": lambda x: x.to("meta")}
    save = save_file if suffix == ".safetensors" else torch.save
    if entry is not None:
        save = partial(_save_below, entry)
    for key, tensor in state.items():
        for label, change in changes.items():
            yield f"{key}: {label}", written(partial(save, state | {key: change(tensor)}), suffix)
    extra = ("blocks.0.ls1.gamma", "blocks.7.norm1.weight", "blocks.0.attn.qkv.lora_A", "note", "\x1b[31m")
    for key in extra:
        yield f"with {key!r}", written(partial(save, state | {key: torch.ones(3)}), suffix)
    yield from _torn(content)


def _save_below(entry: str, state: dict[str, Any], path: Path) -> None:
    torch.save({entry: state, "epoch": 3}, path)


def of_idx(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield IDX files with one byte of the header replaced by all sorts."""
    for place in range(16):
        for value in (0, 1, 2, 3, 4, 8, 11, 13, 255):
            yield f"byte {place} = {value}", content[:place] + bytes([value]) + content[place + 1 :]
    yield "no side", content[:8] + bytes(8)
    yield from _torn(content)


def of_tar(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield shards whose first ``.json`` member says something else, then damaged ones."""
    valid = json.dumps({"label": "cat", "by": "me", "box": [1, 2]})
    for label, document in json_variants(valid):
        yield label, written(partial(_tar, [("0.png", PNG), ("0.json", document)]), ".tar")
    for place in range(0, 512, 7):
        yield f"byte {place}", content[:place] + b"\xff" + content[place + 1 :]
    yield from _torn(content)


def _tar(members: list[tuple[str, bytes]], path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def of_parquet(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield tables of other types, with other metadata, and torn ones."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": PNG, "path": None}] * 3
    columns: dict[str, Any] = {
        "labels beyond their names": [0, 7, 1], "labels below": [-5, 0, 1], "no label": [None, 0, 1],
        "text": ["a", "b", "\x00"], "lists": [[1], [], [2, 3]], "halves": [0.5, 1.0, float("nan")],
        "objects": [{"a": 1}] * 3, "bytes": [b"\xff"] * 3,
    }  # fmt: skip
    kind = {"image": {"_type": "Image"}, "label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    valid = json.dumps({"info": {"features": kind}})
    for label, values in columns.items():
        for metadata in (None, valid):
            table = pa.table({"image": images, "label": values})
            if metadata is not None:
                table = table.replace_schema_metadata({"huggingface": metadata})
            yield label, written(partial(pq.write_table, table), ".parquet")
    table = pa.table({"image": images, "label": [0, 1, 1]})
    for label, document in json_variants(valid):
        changed = table.replace_schema_metadata({"huggingface": document})
        yield f"metadata {label}", written(partial(pq.write_table, changed), ".parquet")
    yield from _torn(content)


KINDS = {
    "config.json of a model": Kind(
        "model/config.json", "predict {0}/model {0}/images --json", partial(of_json, hostile=HOSTILE), (0, 4)
    ),
    "config.json of a model, evaluated": Kind(
        "model/config.json",
        "evaluate --model {0}/model --data {0}/images --out out",
        partial(of_json, hostile=HOSTILE),
        (0, 3, 4),
    ),
    "config.json of a model, exported": Kind(
        "model/config.json", "export {0}/model --to timm --out out", partial(of_json, hostile=HOSTILE)
    ),
    "config.json of a model, looked into": Kind(
        "model/config.json",
        "inspect pos-embed {0}/model --out out",
        partial(of_json, hostile=HOSTILE),
        (0, 4),
    ),
    "config.json of a model, probed": Kind(
        "model/config.json",
        "fewshot-eval --model {0}/model --data {0}/images --shots 1 --seeds 1 --out out",
        partial(of_json, hostile=HOSTILE),
    ),
    "config.json of a run": Kind("run/config.json", "evaluate {0}/run --out out", of_json, (0, 3)),
    "config.json of a run, other split": Kind("run/config.json", "evaluate {0}/run --split test --out out", of_json),
    "validation.json": Kind("run/validation.json", "evaluate {0}/run --out out", of_json, (0, 3)),
    "--config": Kind("run/config.json", "finetune --config {0}/run/config.json --dry-run", of_json),
    "recipe": Kind("mine.toml", "recipes check {0}/mine.toml", of_toml, (0, 2)),
    "features": Kind("f.npz", "fewshot-eval --features {0}/f.npz --shots 1 --seeds 1 --out out", of_npz, (0, 3)),
    "weights.npz": Kind("w.npz", "predict --model {0}/model --weights {0}/w.npz {0}/images", of_npz, (0, 4)),
    "weights.safetensors": Kind(
        "w.safetensors",
        "predict --model {0}/model --weights {0}/w.safetensors {0}/images",
        partial(of_state, suffix=".safetensors"),
        (0, 4),
    ),
    "model.safetensors": Kind(
        "model/model.safetensors",
        "predict {0}/model {0}/images",
        partial(of_state, suffix=".safetensors"),
        (0, 4),
    ),
    "weights.pth": Kind(
        "w.pth", "predict --model {0}/model --weights {0}/w.pth {0}/images", partial(of_state, suffix=".pth"), (0, 4)
    ),
    "checkpoint": Kind(
        "c.ckpt",
        "predict --model {0}/model --weights {0}/c.ckpt {0}/images",
        partial(of_state, suffix=".pth", entry="state_dict"),
        (0, 4),
    ),
    "weights of transformers": Kind(
        "hf/model.safetensors", "predict {0}/hf {0}/images", partial(of_state, suffix=".safetensors"), (0, 4)
    ),
    "config.json of transformers": Kind(
        "hf/config.json", "predict {0}/hf {0}/images", partial(of_json, hostile=HOSTILE), (0, 4)
    ),
    "preprocessor_config.json": Kind("hf/preprocessor_config.json", "predict {0}/hf {0}/images", of_json, (0, 4)),
    "IDX images": Kind("idx/train-images-idx3-ubyte", "data {0}/idx --out out", of_idx, (0, 3)),
    "IDX labels": Kind("idx/train-labels-idx1-ubyte", "data {0}/idx --out out", of_idx, (0, 3)),
    "JSON lines": Kind("t.jsonl", "data {0}/t.jsonl --out out", of_json_lines, (0, 2, 3)),
    "tar": Kind("pets.tar", "data {0}/pets.tar --out out", of_tar, (0, 3)),
    "parquet": Kind("t.parquet", "data {0}/t.parquet --out out", of_parquet, (0, 3)),
    "state.json": Kind("saved/state.json", "data {0}/saved --out out", of_json, (0, 3)),
    "dataset_info.json": Kind("saved/dataset_info.json", "data {0}/saved --out out", of_json, (0, 3)),
}


def _png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (5, 4)).save(buffer, "PNG")
    return buffer.getvalue()


PNG = _png()


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path, finished_run: Path) -> Path:
    """A folder with a valid file of every kind."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Dataset

    from vitctl.exporting.npz import write_npz
    from vitctl.exporting.transformers_folder import write_transformers_folder
    from vitctl.models.build import preprocessing_of
    from vitctl.models.prepared import open_model
    from vitctl.recipes import recipe_path

    folder = tmp_path_factory.mktemp("valid")
    shutil.copytree(tiny_model_folder, folder / "model")
    shutil.copytree(finished_run, folder / "run")
    shutil.copy(recipe_path("demo"), folder / "mine.toml")
    for label, name in enumerate(("red", "green", "blue")):
        (folder / "images" / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (20, 16), (9 * index, 80 * label, 30)).save(folder / "images" / name / f"{index}.png")
    rng = np.random.default_rng(0)
    arrays = {f"x_{half}": rng.normal(size=(6, 4)).astype(np.float32) for half in ("train", "test")}
    arrays |= {f"y_{half}": np.array([0, 1, 2] * 2) for half in ("train", "test")}
    _savez(arrays, folder / "f.npz")
    model = open_model(str(tiny_model_folder)).model
    write_npz(model, folder / "w.npz", layout="vit_jax", name="tiny")
    shutil.copy(tiny_model_folder / "model.safetensors", folder / "w.safetensors")
    torch.save(model.state_dict(), folder / "w.pth")
    torch.save({"state_dict": {f"module.{key}": value for key, value in model.state_dict().items()}}, folder / "c.ckpt")
    (folder / "hf").mkdir()
    write_transformers_folder(
        model, folder / "hf", class_names=["a", "b", "c"], preprocessing=preprocessing_of(model), name="tiny"
    )
    (folder / "idx").mkdir()
    for name, shape in (("images-idx3", (3, 4, 5)), ("labels-idx1", (3,))):
        head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
        (folder / "idx" / f"train-{name}-ubyte").write_bytes(head + bytes(range(int(np.prod(shape)))))
    rows = [{"image": f"images/red/{index}.png", "label": "red", "split": None, "n": [1]} for index in range(3)]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    _tar(
        [("0.png", PNG), ("0.json", b'{"label": "cat"}'), ("1.png", PNG), ("1.json", b'{"label": "dog"}')],
        folder / "pets.tar",
    )
    columns = {"image": [{"bytes": PNG, "path": None}] * 3, "label": ["cat", "dog", "dog"]}
    pq.write_table(pa.table(columns), folder / "t.parquet")
    Dataset.from_dict(columns).save_to_disk(folder / "saved")
    return folder


@contextmanager
def at_most(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in the block after so many seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def what_is_wrong(run: Callable[..., Any], kind: Kind, folder: Path) -> str | None:
    """Run the command of ``kind``; return why its end is not one that a person should see, or None."""
    try:
        with at_most(MOST_S):
            result = run(*kind.command.format(folder).split())
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:150]}"
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    if result.exit_code not in kind.exit_codes:
        return f"exit code {result.exit_code}: {errors}"
    if len(errors) != (result.exit_code != 0) or "Traceback" in result.stderr:
        return f"exit code {result.exit_code}, but on stderr: {result.stderr[-300:]}"
    return None


def failures(run: Callable[..., Any], kind: Kind, folder: Path, *, most: int, seed: int) -> tuple[list[str], int]:
    """Try ``most`` variants of a kind, drawn by ``seed``; return what went wrong, and how many were tried."""
    path = folder / kind.file
    content = path.read_bytes()
    variants = list(kind.variants(content))
    chosen = random.Random(seed).sample(variants, min(most, len(variants)))
    found = []
    try:
        for label, variant in chosen:
            path.write_bytes(variant)
            wrong = what_is_wrong(run, kind, folder)
            if wrong is not None:
                found.append(f"{label!r}: {wrong}")
            shutil.rmtree("out", ignore_errors=True)
    finally:
        path.write_bytes(content)
    return found, len(chosen)


FEW = ("config.json of a model", "recipe", "features", "weights.npz", "IDX images", "JSON lines")
MANY = 80  # of each kind, 1,700 in all


def test_hostile_files__a_few(run_cli: Callable[..., Any], no_rendering: None, valid: Path) -> None:
    tried = {name: failures(run_cli, KINDS[name], valid, most=2, seed=1) for name in FEW}
    assert not any(found for found, _ in tried.values()), tried
    assert sum(number for _, number in tried.values()) == 2 * len(FEW)


def test_hostile_files__the_check_can_fail(monkeypatch: pytest.MonkeyPatch, run_cli: Any, valid: Path) -> None:
    def believe(_path: Path, schema: Any, **_options: Any) -> Any:
        return schema.model_construct(architecture="vit_tiny_patch16_224", pretrained_cfg=None)

    monkeypatch.setattr(folder_config, "read_document", believe)
    wrong = replace(KINDS["config.json of a model"], variants=lambda content: iter([("", mean_of_text(content))]))
    assert failures(run_cli, wrong, valid, most=1, seed=0)[0]


def mean_of_text(content: bytes) -> bytes:
    """Return a ``config.json`` with a mean that timm hands on and nobody can subtract."""
    return content.replace(b'"mean": [', b'"mean": ["x", ')


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # timm leaves archives open
@pytest.mark.parametrize("name", KINDS)
def test_hostile_files__many(
    run_cli: Callable[..., Any], no_rendering: None, no_findings_drawn: None, valid: Path, name: str
) -> None:
    kind, before = KINDS[name], resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert run_cli(*kind.command.format(valid).split()).exit_code == 0  # valid, or the others would prove nothing
    shutil.rmtree("out", ignore_errors=True)
    found, tried = failures(run_cli, kind, valid, most=MANY, seed=0)
    assert not found, "\n".join(found)
    assert tried > 40
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_BYTES
