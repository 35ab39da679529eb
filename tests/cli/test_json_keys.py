"""Every key that ``--json`` documents and files had in 0.1.0 is still there, with a type that its readers can take.

``tests/golden/json-keys-0.1.0.json`` has, for every document, each path and its JSON types: ``a.b`` is a key in a key,
``[]`` any element of a list, ``*`` a key that is data (a class, a seed). New keys are fine, and nulls that are numbers
now where both were seen. To add a document: ``VITCTL_WRITE_JSON_KEYS=1 pytest tests/cli/test_json_keys.py -k NAME``,
with the code that made it first.
"""

import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vitctl.inspecting.catalogue import catalogue
from vitctl.run_folders.kept_logits import KeptLogits, write_logits
from vitctl.settings.finetune import FinetuneConfig

GOLDEN = Path(__file__).parents[1] / "golden"
KEYS = GOLDEN / "json-keys-0.1.0.json"
FEATURES = ("--features", GOLDEN / "fewshot_features.npz", "--out", "out")
WRITE = bool(os.environ.get("VITCTL_WRITE_JSON_KEYS"))  # what the documents are now becomes what is expected
COLOURS = ("red", "green", "blue")
NAMED_BY_DATA = (
    "splits", "splits.*.classes", "images.modes", "images.formats", "[].seeds", "num_by_state", "rows[].settings",
    "cells[].settings",
)  # fmt: skip
IN_PROCESS = ("--num-workers", 0)
pytestmark = pytest.mark.usefixtures("no_rendering", "no_findings_drawn")


def type_of(value: Any) -> str:
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return "null" if value is None else names[type(value)]


def entries(document: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield (path, type) of everything in ``document``, itself first."""
    yield path, type_of(document)
    if isinstance(document, list):
        for one in document:
            yield from entries(one, f"{path}[]")
    elif isinstance(document, dict):
        for key, value in document.items():
            name = "*" if path in NAMED_BY_DATA else key
            yield from entries(value, f"{path}.{name}" if path else name)


def key_tree(*documents: Any) -> dict[str, str]:
    """Return the types of every path, ``integer|null`` for instance, in the order of the documents."""
    found: dict[str, set[str]] = {}
    for path, kind in itertools.chain.from_iterable(map(entries, documents)):
        found.setdefault(path, set()).add(kind)
    return {path: "|".join(sorted(kinds)) for path, kinds in found.items()}


def complaints(expected: dict[str, str], found: dict[str, str]) -> list[str]:
    """Return what a reader of the old documents would miss in the new ones."""
    missing = [f"{path} is gone" for path in expected if path not in found]
    allowed = {
        path: {*kinds.split("|")} | ({"integer"} if "number" in kinds else set()) for path, kinds in expected.items()
    }
    changed = [
        f"{path} is {found[path]}, was {kinds}"
        for path, kinds in expected.items()
        if path in found and not {*found[path].split("|")} <= allowed[path]
    ]
    return missing + changed


def hold(name: str, *documents: Any) -> None:
    """Hold documents of one kind against those of 0.1.0."""
    found, everything = key_tree(*documents), read(KEYS) if KEYS.exists() else {}
    if WRITE:
        everything[name] = found
        KEYS.write_text(json.dumps(everything, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    assert not complaints(everything[name], found)


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


# --- the check itself ----------------------------------------------------------------------------------------


def test_the_check_can_fail() -> None:
    expected = key_tree({"score": {"top1": 0.5, "note": None}, "rows": [{"name": "a"}, {"name": "b", "extra": 1}]})
    assert expected["rows[].extra"] == "integer"
    new = {"score": {"top1": 1, "note": None, "more": True}, "rows": [{"name": "c", "extra": 2}], "added": []}
    assert not complaints(expected, key_tree(new))
    del new["score"]["note"]  # type: ignore[attr-defined]
    new["rows"] = [{"name": None}]
    assert complaints(expected, key_tree(new)) == [
        "score.note is gone",
        "rows[].extra is gone",
        "rows[].name is null, was string",
    ]


# --- finetune, evaluate, predict -----------------------------------------------------------------------------


def tune(run_cli: Any, data: Path, model: Path, *args: object) -> Any:
    usual = ("--data", data, "--model", model, "--out", "run", "--seed", 0, *IN_PROCESS, "--json")
    return run_cli("finetune", *usual, *args).json


def test_finetune__with_validation_images(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    document = tune(run_cli, image_folder, tiny_model_folder, "--steps", 2, "--head", "ridge")
    hold("finetune", document)
    assert read(Path("run/summary.json")) == document
    hold("config.json", read(Path("run/config.json")))
    hold("validation.json", read(Path("run/validation.json")))
    lines = read_lines(Path("run/metrics.jsonl"))
    hold("metrics.jsonl, a step", *(line for line in lines if "lr" in line))
    hold("metrics.jsonl, a validation", *(line for line in lines if "val_loss" in line))
    hold("speed.jsonl", *read_lines(Path("run/speed.jsonl")))


def test_finetune__without_validation_images(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    document = tune(run_cli, image_folder, tiny_model_folder, "--steps", 1, "--val-fraction", 0, "--head", "zero")
    hold("finetune without validation images", document)


def test_finetune__dry_run(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    hold("finetune --dry-run", tune(run_cli, image_folder, tiny_model_folder, "--dry-run"))


def test_evaluate(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    shutil.rmtree(image_folder / "blue")  # a class without an image has no recall
    arguments = ("--data", image_folder, "--out", "out", *IN_PROCESS, "--json")
    document = run_cli("evaluate", tiny_model_folder, *arguments).json
    hold("evaluate", document)
    assert read(Path("out/evaluation.json")) == document


def test_predict(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    Path("text.png").write_text("no image")
    result = run_cli("predict", tiny_model_folder, image_folder / "red", "text.png", "--json")
    hold("predict", result.json)


# --- data, models, recipes -----------------------------------------------------------------------------------


def draw_troubled_data(folder: Path) -> Path:
    """Write splits with a copy, a strip, a file that is no image, and nine times more cats than dogs."""
    rng = np.random.default_rng(0)
    for split, name, count in (("train", "cat", 18), ("train", "dog", 2), ("test", "cat", 2)):
        (folder / split / name).mkdir(parents=True)
        for index in range(count):
            pixels = rng.integers(0, 256, (12, 10 + index % 2, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / split / name / f"{index}.png")
    shutil.copy(folder / "train/cat/0.png", folder / "test/cat/copy.png")
    Image.new("L", (90, 5)).save(folder / "train/cat/strip.png")
    (folder / "train/dog/text.png").write_text("no image")
    return folder


def test_data(run_cli, tmp_path: Path) -> None:
    troubled = draw_troubled_data(tmp_path / "troubled")
    document = run_cli("data", troubled, "--group-pattern", "{group}/*", "--out", "out", "--json").json
    assert all(document[key] for key in ("bad", "warnings", "validation"))
    hold("data", document)
    assert read(Path("out/report.json")) == document
    plain = run_cli("data", troubled / "train", "--out", "plain", "--json").json
    hold("data without splits", plain)


def test_models(run_cli) -> None:
    hold("models", run_cli("models", "--json").json)
    hold("models PATTERN", *(run_cli("models", name, "--json").json for name in ("demo", "resnet18*")))


def test_recipes(run_cli) -> None:
    hold("recipes ls", run_cli("recipes", "ls", "--json").json)
    hold("recipes show", *(run_cli("recipes", "show", name, "--json").json for name in ("transfer", "demo")))


def test_runs(run_cli) -> None:
    score = {"step": 4, "top1": 0.5, "loss": 1.5}
    for name, summary in (("done", {"best": score, "last": score, "num_val": 2, "steps": 4}), ("stopped", None)):
        Path("runs", name).mkdir(parents=True)
        config = {"vitctl": "0.1.0", "data": "digits", "model": "demo", "image_size": "48", "recipe": "demo", "seed": 0}
        Path("runs", name, "config.json").write_text(json.dumps(config | {"steps": 4}))
        if summary is not None:
            Path("runs", name, "summary.json").write_text(json.dumps(summary))
    Path("runs", "stopped", "diverged.json").write_text("{}")
    hold("runs", run_cli("runs", "--json").json)


def write_run(run: Path, **settings: object) -> Path:
    """Write what is read of a finished run."""
    rng = np.random.default_rng([*map(ord, str(settings))])
    run.mkdir(parents=True)
    config = FinetuneConfig(data="/gone/photos", model="demo", steps=3, batch_size=8, **settings)  # type: ignore[arg-type]
    (run / "config.json").write_text(json.dumps({"vitctl": "0.1.0", **config.as_json()}))
    (run / "summary.json").write_text("{}")
    hashes = tuple(f"{index:032x}" for index in range(12))
    write_logits(run, KeptLogits(rng.normal(size=(12, 2)).astype("f4"), np.arange(12) % 2, hashes, ("cat", "dog")))
    return run


def test_compare(run_cli) -> None:
    runs = [write_run(Path(name), lr=lr, seed=seed) for name, lr, seed in (("a", 0.1, 0), ("b", 0.2, 0), ("c", 0.2, 1))]
    document = run_cli("compare", *runs, "--out", "out", "--json").json
    two = run_cli("compare", *runs[:2], "--out", "two", "--json").json
    hold("compare", document, two)
    assert read(Path("out/compare.json")) == document


def test_sweep(run_cli, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitctl.reporting import sweep_figures
    from vitctl.sweeping import pricing
    from vitctl.workflows import sweep

    def run_all(runs: Any, **_how: object) -> None:
        for run in runs:
            if not run.out.exists():
                write_run(run.out, lr=run.given["lr"], seed=run.seed)

    monkeypatch.setattr(sweep, "run_all", run_all)
    monkeypatch.setattr(sweep_figures, "draw_sweep", lambda _cells, path, title: path.write_text(title))
    found = {"steps": 30, "training_s": 60.0, "memory_bytes": 2**30, "num_val": 100, "num_train": 900}
    monkeypatch.setattr(pricing, "_dry_run", lambda _run: found)
    usual = ("--grid", "lr=1e-4,3e-4", "--seeds", 2, "--json")
    hold("sweep --dry-run", run_cli("sweep", *usual, "--out", "s", "--dry-run").json)
    document = run_cli("sweep", *usual, "--out", "s").json
    assert read(Path("s/sweep.json")) == document
    hold("sweep", document)


# --- fewshot-eval --------------------------------------------------------------------------------------------


def test_fewshot_eval__features(run_cli) -> None:
    for name, options in {
        "linear": ("--seeds", 3),
        "knn": ("--classifier", "knn", "--seeds", 1),
        "episodes": ("--protocol", "episodes", "--ways", 5, "--shots", 1, "--episodes", 4),
        "leave-one-out": ("--l2", "loo", "--shots", "5,all", "--seeds", 2),
    }.items():
        document = run_cli("fewshot-eval", *FEATURES, *options, "--json").json
        hold(f"fewshot-eval {name}", document)
        assert read(Path("out/results.json")) == document


def test_fewshot_eval__two_models(run_cli, image_folder: Path, tiny_models: dict[str, Path]) -> None:
    models = ("--model", tiny_models["vit"], "--model", tiny_models["gap"])
    usual = ("--data", image_folder, "--shots", "1", "--seeds", 2, "--out", "out", *IN_PROCESS)
    document = run_cli("fewshot-eval", *models, *usual, "--json").json
    assert document["paired"]
    hold("fewshot-eval of two models", document)
    assert read(Path("out/results.json")) == document
    hold("supports.json", read(Path("out/supports.json")))


# --- inspect -------------------------------------------------------------------------------------------------


def inspect(run_cli: Any, analysis: str, data: Path, models: dict[str, Path]) -> Any:
    second = {"cka": ("--model", models["gap"]), "heads-vs-cnn": ("--model", models["cnn"])}.get(analysis, ())
    images = () if analysis in ("filters", "pos-embed") else ("--data", data, *IN_PROCESS)
    counts = {"rollout": ("--num-images", 2), "probe": ("--shots", 2, "--seeds", 2)}.get(analysis, ())
    return run_cli("inspect", analysis, models["vit"], *second, *images, *counts, "--out", "out", "--json").json


@pytest.mark.parametrize("analysis", catalogue())
def test_inspect(run_cli, analysis: str, image_folder: Path, tiny_models: dict[str, Path]) -> None:
    document = inspect(run_cli, analysis, image_folder, tiny_models)
    hold(f"inspect {analysis}", document)
    del document["out"]
    assert read(Path(f"out/{analysis}.json")) == document


@pytest.mark.slow
def test_inspect__all(run_cli, image_folder: Path, tiny_models: dict[str, Path]) -> None:
    models = (tiny_models["vit"], "--model", tiny_models["cnn"])
    usual = ("--data", image_folder, "--shots", 2, "--seeds", 2, *IN_PROCESS, "--out", "out", "--json")
    document = run_cli("inspect", "all", *models, *usual).json
    assert all(document[key] for key in ("analyses", "verdicts", "skipped"))
    hold("inspect all", document)


# --- export --------------------------------------------------------------------------------------------------


def export(run_cli: Any, model: Path, data: Path, *args: object) -> Any:
    return run_cli("export", model, "--verify", data, "--out", "exports", *args, "--json").json


def test_export(run_cli, image_folder: Path, tiny_model_folder: Path) -> None:
    hold("export", export(run_cli, tiny_model_folder, image_folder, "--to", "timm,npz"))
    for name in ("timm", "npz"):
        hold(f"export.json of {name}", read(Path("exports", name, "export.json")))


@pytest.mark.slow
def test_export__all_formats_timed(run_cli, image_folder: Path, tiny_models: dict[str, Path]) -> None:
    document = export(run_cli, tiny_models["vit"], image_folder, "--to", "all", "--benchmark", "--precision", "fp16")
    hold("export --to all --benchmark", document)
    for one in document["exports"]:
        hold(f"export.json of {one['format']}, timed", read(Path("exports", one["format"], "export.json")))
    shutil.rmtree("exports")
    refused = export(run_cli, tiny_models["gap"], image_folder, "--to", "all")
    assert refused["refused"]
    hold("export of what a format refuses", refused)
