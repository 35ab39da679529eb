"""Bad input of ``vitctl inspect``: one sentence on stderr, the agreed exit code, nothing written."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.usefixtures("no_findings_drawn")

ON_THE_GRID = "attention, rollout and distance need one grid of tokens in every block"
INSTEAD = "filters, cka, norm-ratio, localisation, features, receptive-field, probe or equivariance"


# --- what is handed over: a function that changes the folder of 3 classes with 12 images each ---------------


def nothing(_folder: Path) -> None:
    """The data are fine; the options are not."""


def unreadable(folder: Path) -> None:
    (folder / "red" / "3.png").write_bytes(b"no image")


def all_unreadable(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        path.write_bytes(b"no image")


def three_images(folder: Path) -> None:
    for path in folder.glob("*/*.png"):
        if path.stem != "0":
            path.unlink()


CASES: dict[str, tuple[Callable[[Path], None], str, int, tuple[str, ...]]] = {
    # which analysis, which model
    "misspelt analysis": (
        nothing,
        "distence {vit}",
        2,
        ("'distence'", "Did you mean 'distance'?"),
    ),
    "unknown analysis": (nothing, "saliency {vit}", 2, ("'saliency'", "'vitctl inspect --help' lists")),
    "no model": (nothing, "distance", 2, ("No model is given", "run folder or --model NAME", "--model demo")),
    "no such model": (nothing, "distance {vit}x", 4, ("{vit}x", "neither a folder nor a model of timm")),
    "misspelt model": (nothing, "distance --model vit_tinny_patch16_224", 4, ("Did you mean 'vit_tiny_patch16_224'",)),
    "a folder that is no model": (nothing, "distance {data}", 4, ("{data}", "expected")),
    "no network": (nothing, "distance --model vit_tiny_patch16_224", 4, ("hub", "--weights FILE", "demo")),
    "missing weights": (nothing, "distance --model {vit} --weights gone.safetensors", 4, ("gone.safetensors",)),
    "weights without model": (nothing, "distance {vit} --weights none", 2, ("--weights", "--model")),
    "three weights, two models": (
        nothing,
        "distance --model {vit} --model {gap} --weights none --weights none --weights none",
        2,
        ("--weights is given 3 times and --model 2 times",),
    ),
    "a model twice": (nothing, "distance {vit} --model {vit}", 2, ("{vit} is given twice",)),
    "a model twice with weights": (
        nothing,
        "filters --model demo --model demo --weights none",
        2,
        ("demo is given twice", "different"),
    ),
    # models that an analysis cannot take
    **{
        f"{analysis} of a CNN": (nothing, f"{analysis} {{cnn}} --num-images 4", 4, ("has no attention", INSTEAD))
        for analysis in ("attention", "rollout", "distance")
    },
    **{
        f"{analysis} of windows": (
            nothing,
            f"{analysis} {{swin}} --num-images 4",
            4,
            ("{swin} merges patches", "8x8 and 4x4 tokens", ON_THE_GRID, INSTEAD),
        )
        for analysis in ("attention", "rollout", "distance")
    },
    "a CNN beside a ViT": (nothing, "distance {vit} --model {cnn} --num-images 4", 4, ("{cnn} has no attention",)),
    "pos-embed of rotary ones": (nothing, "pos-embed {rope}", 4, ("rotary position embeddings (RoPE)", "try cka")),
    "pos-embed of relative ones": (nothing, "pos-embed {swin}", 4, ("relative position bias", "equivariance")),
    "pos-embed of a CNN": (nothing, "pos-embed {cnn}", 4, ("CNN", "receptive-field")),
    "two ViTs as ViT and CNN": (
        nothing,
        "heads-vs-cnn {vit} --model {gap} --num-images 4",
        4,
        ("{gap} has no stages", "resnet50", "vitctl inspect cka"),
    ),
    "the CNN first": (nothing, "heads-vs-cnn {cnn} --model {vit} --num-images 4", 2, ("{cnn} is none; swap",)),
    # how many models
    "heads of one model": (nothing, "heads-vs-cnn {vit}", 2, ("two models and 1 is given", "--model resnet50")),
    "heads of three": (nothing, "heads-vs-cnn {vit} --model {gap} --model {cnn}", 2, ("two models and 3 are given",)),
    "cka of three": (nothing, "cka {vit} --model {gap} --model {cnn}", 2, ("two models and 3 are given", "one or two")),
    "diagonal of one": (nothing, "cka {vit} --diagonal", 2, ("--diagonal", "one is given", "--model")),
    "diagonal of others": (
        nothing,
        "cka {vit} --model {gap} --diagonal --num-images 4",
        2,
        ("--diagonal", "layers of the same name", "{vit} has 5", "{gap} 4", "Leave --diagonal out"),
    ),
    # tokens, layers, heads
    **{
        f"{analysis} without class token": (
            nothing,
            f"{analysis} {{gap}} --query cls --num-images 4",
            2,
            ("{gap} has no class token", "--query ROW,COL", "4x4"),
        )
        for analysis in ("attention", "rollout")
    },
    "features of the class token": (nothing, "features {vit} --query cls", 2, ("--query is cls", "ROW,COL")),
    "a field of the class token": (nothing, "receptive-field {vit} --query cls", 2, ("--query is cls", "ROW,COL")),
    "cka without class token": (
        nothing,
        "cka {gap} --tokens cls --num-images 4",
        2,
        ("--tokens cls", "no class token"),
    ),
    **{
        f"{analysis} beside the grid": (nothing, f"{analysis} {{vit}} --query {query} --num-images 4", 2, ("--query",))
        for analysis in ("attention", "rollout", "features", "receptive-field")
        for query in ("4,0", "0,4")
    },
    "query is a number": (nothing, "attention {vit} --query 3", 2, ("--query is '3'", "cls", "ROW,COL", "3,5")),
    "query is negative": (nothing, "attention {vit} --query=-1,0", 2, ("--query is '-1,0'", "ROW,COL from 0")),
    "query is a word": (nothing, "rollout {vit} --query class", 2, ("--query is 'class'", "expected cls")),
    "features of layer 3": (
        nothing,
        "features {vit} --layer 3",
        2,
        ("'3'", "no layer of {vit}", "embed, 0 to 2, final"),
    ),
    "misspelt layer": (nothing, "features {vit} --layer finl", 2, ("'finl'", "Did you mean 'final'?")),
    "localisation in layer 3": (nothing, "localisation {vit} --layer 3", 2, ("no layer of {vit}", "embed, 0 to 2")),
    "attention in layer 3": (nothing, "attention {vit} --layer 3 --num-images 4", 2, ("--layer is 3", "0 to 2")),
    "attention after the norm": (nothing, "attention {vit} --layer final", 2, ("--layer is 'final'", "a block")),
    "attention in layer -1": (nothing, "attention {vit} --layer=-1", 2, ("--layer is '-1'", "from 0")),
    "heads of layer 3": (
        nothing,
        "heads-vs-cnn {vit} --model {cnn} --layer 3 --num-images 4",
        2,
        ("--layer 3", "{vit}", "0 to 2"),
    ),
    "head 2 of two": (nothing, "attention {vit} --head 2 --num-images 4", 2, ("--head is 2", "{vit}", "0 to 1")),
    "head -1": (nothing, "attention {vit} --head=-1", 2, ("--head is -1", "0 or more")),
    "more heads than there are": (
        nothing,
        "heads-vs-cnn {vit} --model {cnn} --subset 3 --num-images 4",
        2,
        ("--subset 3", "{vit}", "1 to 2"),
    ),
    # images
    "three images for cka": (nothing, "cka {vit} --num-images 3", 3, ("too few images", "3", "4 or more")),
    "three images there": (three_images, "cka {vit} --data {data}", 3, ("too few images", "3", "4 or more")),
    "three images for localisation": (nothing, "localisation {vit} --num-images 3", 3, ("too few images", "4 or more")),
    "three images for heads": (
        nothing,
        "heads-vs-cnn {vit} --model {cnn} --num-images 3",
        3,
        ("too few images", "4 or more"),
    ),
    "one image for equivariance": (nothing, "equivariance {vit} --num-images 1", 3, ("1 images", "3 or more")),
    "no data there": (nothing, "distance {vit} --data {data}x", 3, ("There is nothing at {data}x", "expected")),
    "data are a file": (
        nothing,
        "distance {vit} --data {data}/red/0.png",
        3,
        ("{data}/red/0.png is a file", "expected"),
    ),
    "an unreadable image": (
        unreadable,
        "distance {vit} --data {data}",
        3,
        ("red/3.png", "not an image", "--on-bad-image skip"),
    ),
    "all unreadable": (all_unreadable, "distance {vit} --data {data} --on-bad-image skip", 3, ("{data}",)),
    "an unreadable file given": (
        unreadable,
        "attention {vit} --image {data}/red/0.png --image {data}/red/3.png",
        3,
        ("{data}/red/3.png", "not an image", "1 of 2"),
    ),
    "a file given that is not there": (
        nothing,
        "rollout {vit} --image {data}/gone.png",
        3,
        ("--image {data}/gone.png is not there",),
    ),
    "a folder given as image": (nothing, "features {vit} --image {data}/red", 3, ("{data}/red is a folder",)),
    "files given, all bad": (
        nothing,
        "attention {vit} --image gone.png --on-bad-image skip",
        3,
        ("gone.png: no such file",),
    ),
    "images twice over": (nothing, "attention {vit} --image a.png --data {data}", 2, ("--data", "beside --image")),
    "a number of files": (nothing, "attention {vit} --image a.png --num-images 1", 2, ("--num-images", "--image")),
    "a run without validation images": (nothing, "distance {no_val}", 3, ("without validation images", "--data SPEC")),
    "a column of a folder": (nothing, "distance {vit} --data {data} --label-column y", 2, ("--label-column", "no use")),
    "a column of nothing": (nothing, "distance {vit} --label-column y", 2, ("--label-column", "without --data")),
    # options of another analysis
    **{
        f"{option} to {analysis}": (nothing, f"{analysis} {{vit}} {option}", 2, (option.split()[0], analysis, takes))
        for analysis, option, takes in (
            ("distance", "--fusion max", "is for rollout"),
            ("attention", "--discard 0.5", "is for rollout"),
            ("attention", "--residual 0.1", "is for rollout"),
            ("cka", "--renormalise", "is for distance"),
            ("distance", "--layer 1", "is for attention, heads-vs-cnn"),
            ("rollout", "--head 1", "is for attention"),
            ("distance", "--query cls", "is for attention"),
            ("distance", "--image a.png", "is for attention"),
            ("equivariance", "--image a.png", "is for attention"),
            ("distance", "--minibatch 8", "is for cka"),
            ("localisation", "--tokens cls", "is for cka"),
            ("localisation", "--granularity sublayer", "is for cka"),
            ("norm-ratio", "--diagonal", "is for cka"),
            ("cka", "--subset 1", "is for heads-vs-cnn"),
            ("features", "--where pre", "is for receptive-field"),
            ("pos-embed", "--components 3", "is for filters"),
            ("features", "--shots 3", "is for probe"),
            ("all", "--query cls", "is for attention"),
            ("all", "--image a.png", "is for attention"),
            ("all", "--renormalise", "is for distance"),
            ("filters", "--image-size 32", "is for pos-embed, attention"),
            ("filters", "--num-images 3", "is for attention, rollout, distance, cka, heads-vs-cnn and 7 others"),
            ("pos-embed", "--data digits", "is for attention"),
            ("pos-embed", "--batch-size 3", "is for attention"),
            ("filters", "--num-workers 0", "is for attention"),
        )
    },
    "nothing to resample": (nothing, "cka {vit} --pos-embed-interp paper", 2, ("--pos-embed-interp", "--image-size")),
    # numbers and choices
    **{
        option: (nothing, f"{analysis} {{vit}} {option}", 2, expected)
        for analysis, option, expected in (
            ("rollout", "--discard 1", ("--discard is 1", "below 1")),
            ("rollout", "--discard=-0.1", ("--discard is -0.1", "0 to below 1")),
            ("rollout", "--discard nan", ("--discard is nan", "0 to below 1")),
            ("rollout", "--residual 1", ("--residual is 1", "0 to below 1")),
            ("rollout", "--residual=-0.5", ("--residual is -0.5", "0 to below 1")),
            ("rollout", "--residual nan", ("--residual is nan", "0 to below 1")),
            ("rollout", "--fusion sum", ("--fusion is 'sum'", "mean, max, min")),
            ("receptive-field", "--where during", ("--where is 'during'", "post, pre")),
            ("cka", "--granularity blok", ("'blok'", "Did you mean 'block'?")),
            ("cka", "--tokens class", ("--tokens is 'class'", "all, cls, patches, mean")),
            ("cka", "--minibatch 3", ("--minibatch is 3", "4 or more")),
            ("filters", "--components 0", ("--components is 0", "1 or more")),
            ("distance", "--num-images 0", ("--num-images is 0", "1 or more")),
            ("distance", "--batch-size 0", ("--batch-size is 0", "1 or more")),
            ("distance", "--num-workers=-1", ("--num-workers is -1", "0 or more")),
            ("distance", "--seed=-1", ("--seed is -1", "0 or more")),
            ("probe", "--shots 0", ("--shots is 0", "1 or more")),
            ("probe", "--seeds 0", ("--seeds is 0", "1 or more")),
            ("probe", "--l2 0", ("--l2 is 0", "expected a number")),
            ("probe", "--l2 nan", ("--l2 is nan", "expected a number")),
            ("distance", "--on-bad-image ignore", ("'ignore'", "fail, skip")),
            ("distance", "--image-size 18", ("--image-size 18", "(4 px)", "16 and 20")),
            ("distance", "--image-size 16x18", ("--image-size 16x18", "(4 px)")),
            ("distance", "--image-size big", ("--image-size is 'big'", "HEIGHTxWIDTH")),
            ("pos-embed", "--image-size 18", ("--image-size 18", "16 and 20")),
            ("distance", "--image-size 32 --pos-embed-interp linear", ("'linear'", "paper, bicubic, bicubic-aa")),
            ("distance", "--device tpu", ("--device is 'tpu'", "auto, cpu, cuda, mps")),
        )
    },
    # where to write
    "out is a file": (nothing, "filters {vit} --out {data}/red/1.png", 2, ("{data}/red/1.png is a file", "a folder")),
    "out below a file": (nothing, "filters {vit} --out {data}/red/1.png/a/b", 2, ("{data}/red/1.png is a file",)),
    "out inside the data": (
        nothing,
        "distance {vit} --data {data} --out {data}/a/b",
        2,
        ("inside the data", "elsewhere"),
    ),
    "out is the data": (nothing, "rollout {vit} --data {data} --out {data}", 2, ("inside the data", "elsewhere")),
    "out inside the run's data": (nothing, "rollout {run} --out {run_data}/new", 2, ("inside the data", "elsewhere")),
    # named, but empty
    "empty run": (nothing, "distance {empty}", 2, ("RUN is empty",)),
    "empty model": (nothing, "distance --model=", 2, ("--model is empty",)),
    "empty data": (nothing, "distance {vit} --data=", 2, ("--data is empty",)),
    "empty image": (nothing, "rollout {vit} --image=", 2, ("--image is empty",)),
    "empty out": (nothing, "distance {vit} --out=", 2, ("--out is empty",)),
    "empty layer": (nothing, "features {vit} --layer=", 2, ("--layer is empty",)),
    "empty query": (nothing, "features {vit} --query=", 2, ("--query is empty",)),
}


@pytest.fixture(scope="module")
def runs(finished_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Copies of the finished run, of its data, and of the run without its validation images."""
    folder = shutil.copytree(finished_run.parent, tmp_path_factory.mktemp("copies") / "finished")
    run = folder / finished_run.name
    for name in ("config.json", "validation.json"):
        text = (run / name).read_text()
        assert str(finished_run.parent) in text
        (run / name).write_text(text.replace(str(finished_run.parent), str(folder)))
    shutil.copytree(run, folder / "no_val")
    (folder / "no_val" / "validation.json").unlink()
    return {"run": run, "run_data": folder / "data", "no_val": folder / "no_val"}


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_written(
    request: pytest.FixtureRequest,
    refused: Callable[..., None],
    tiny_models: dict[str, Path],
    runs: dict[str, Path],
    case: str,
) -> None:
    change, line, exit_code, words = CASES[case]
    folder: Path = request.getfixturevalue("whole_folder" if change is nothing else "image_folder")
    change(folder)
    places = {"data": folder, "empty": "", **tiny_models, **runs}
    command = ["inspect", *(part.format(**places) for part in line.split())]
    expected = [word.format(**places) for word in words]
    refused(command, exit_code, expected, folder, tiny_models["vit"].parent, runs["run"].parent)


def test_no_gpu(refused: Callable[..., None], tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    command = ["inspect", "filters", tiny_models["vit"], "--device", "cuda"]
    refused(command, 5, ("--device cuda is not available", "cpu"))


@pytest.mark.parametrize("line", ["attention --image gone.png", "rollout --image gone.png --on-bad-image skip"])
def test_an_image_that_is_not_there_has_nothing_to_do_with_tables(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], line: str
) -> None:
    analysis, *options = line.split()
    result = run_cli("inspect", analysis, tiny_models["vit"], *options)
    assert result.exit_code == 3
    assert "gone.png" in result.stderr
    assert "--image-root" not in result.stderr  # which --image cannot be given beside
    assert "table" not in result.stderr


# --- what was there before stays ---------------------------------------------------------------------------


def test_files_of_an_earlier_inspection_stay_when_the_next_one_fails(
    run_cli: Callable[..., Any], refused: Callable[..., None], tiny_models: dict[str, Path], tmp_path: Path
) -> None:
    line = ("--num-images", 4, "--num-workers", 0, "--out", tmp_path / "out")
    assert run_cli("inspect", "distance", tiny_models["vit"], *line).exit_code == 0
    assert (tmp_path / "out").exists()
    refused(["inspect", "distance", tiny_models["swin"], *line], 4, ("merges patches",))


def test_a_disk_that_is_full_is_a_sentence(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vitctl.inspecting import outcome

    def write(*_args: object, **_arrays: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(outcome.np, "savez_compressed", write)
    result = run_cli("inspect", "filters", tiny_models["vit"], "--out", tmp_path / "out")
    said = " ".join(result.stderr.split())
    assert (result.exit_code, result.stdout) == (2, "")
    assert f"--out {tmp_path / 'out'} cannot be written" in said
    assert "No space left on device" in said
    assert list((tmp_path / "out").iterdir()) == []  # no half of a file


# --- before anything slow ----------------------------------------------------------------------------------

EARLY = {
    "unknown layer": "localisation {vit} --layer 3",
    "unknown layer of the second model": "localisation {vit} --model {gap} --layer 2",
    "no class token": "cka {gap} --tokens cls --minibatch 4",
    "no class token in the second model": "attention {vit} --model {gap} --query cls",
    "other layers": "cka {vit} --model {gap} --diagonal --minibatch 4",
    "second model is a CNN": "distance {vit} --model {cnn}",
    "second model has windows": "rollout {vit} --model {swin}",
    "second model is no CNN": "heads-vs-cnn {vit} --model {gap} --minibatch 4",
    "more heads than there are": "heads-vs-cnn {vit} --model {cnn} --subset 3 --minibatch 4",
    "unknown head": "attention {vit} --head 2",
    "beside the grid": "features {vit} --query 4,0",
    "a field beside the grid": "receptive-field {vit} --query 4,0",
}


@pytest.mark.parametrize("case", EARLY)
def test_what_cannot_work_is_refused_after_a_few_images(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """A large model takes minutes for 256 images: eight may be shown before a sentence, of the 40 asked for."""
    from vitctl.inspecting.subject import ImageStream

    shown = 0
    batches = ImageStream.batches

    def count(stream: ImageStream, *args: int | None) -> Iterator[torch.Tensor]:
        nonlocal shown
        for batch in batches(stream, *args):
            shown += len(batch)
            yield batch

    monkeypatch.setattr(ImageStream, "batches", count)
    line = EARLY[case].format(**tiny_models).split()
    result = run_cli("inspect", *line, "--num-images", 40, "--batch-size", 4, "--num-workers", 0)
    assert result.exit_code in (2, 4), result.stderr
    assert shown <= 8


def test_a_report_that_cannot_be_written_is_a_sentence(
    run_cli: Callable[..., Any], tiny_models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    no_findings_drawn: None,
) -> None:  # fmt: skip
    from vitctl.workflows import inspect_model

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inspect_model, "write_report", full)
    result = run_cli("inspect", "all", tiny_models["vit"], "--num-images", 4, "--shots", 1, "--seeds", 1,
                     "--num-workers", 0, "--out", tmp_path / "out")  # fmt: skip
    assert (result.exit_code, result.stdout) == (2, "")
    assert "report.html cannot be written" in result.stderr
    assert "No space left on device" in result.stderr
