"""``vitctl runs``: a table of what is there, JSON for programs; no torch."""

import ast
import json
import os
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import vitctl
from vitctl.cli import runs as command
from vitctl.evaluation.metrics import wilson_interval
from vitctl.primitives.atomic import own_folder
from vitctl.primitives.formatting import cut_middle, format_age

CONFIG = {
    "vitctl": "0.1.0", "command": "finetune", "data": "/data/photos", "model": "demo", "image_size": "48x64",
    "recipe": "transfer", "seed": 3, "steps": 390,
}  # fmt: skip


def write(folder: Path, *, top1: float | None = None, age: float = 0, **config: Any) -> Path:
    """Write a run folder; finished where it has a score."""
    folder.mkdir(parents=True)
    files = {"config.json": CONFIG | config}
    if top1 is not None:
        score = {"step": 390, "top1": top1, "loss": 0.25}
        files["summary.json"] = {"best": score, "last": score, "num_val": 200, "steps": 390}
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
        os.utime(folder / name, (folder.stat().st_mtime - age,) * 2)
    return folder


@pytest.fixture
def five_runs() -> Path:
    """A finished run, a better and older one in a sweep, one that diverged, one that was stopped, a damaged one."""
    write(Path("runs/photos"), top1=0.8, age=100)
    write(Path("sweeps/x/runs/lr=0.1/seed-0"), top1=0.9, age=200_000, model="runs/photos/best")
    (write(Path("runs/diverged"), age=300) / "diverged.json").write_text('{"step": 12}')
    (write(Path("runs/a stopped one"), age=50) / "checkpoints/step-120").mkdir(parents=True)
    write(Path("runs/torn"), top1=0.5, age=4_000).joinpath("config.json").write_text("{")
    os.utime("runs/diverged/diverged.json", (1, 1))
    return Path.cwd()


def test_table(run_cli, five_runs: Path) -> None:
    result = run_cli("runs", "--sort", "top1")
    assert (result.exit_code, result.stderr) == (0, "")
    header, *rows = result.stdout.splitlines()
    assert header.split("  ")[0] == "run"
    cells = [[cell.strip() for cell in row.split("  ") if cell.strip()] for row in rows[:5]]
    assert cells[0][:8] == [
        "sweeps/x/runs/lr=0.1/seed-0", "photos", "runs/photos/best", "48x64", "finished", "90.00%", "85.1% to 93.4%",
        "200",
    ]  # fmt: skip
    assert [row[0] for row in cells[:2]] == ["sweeps/x/runs/lr=0.1/seed-0", "runs/photos"]
    by_name = {row[0]: row for row in cells}
    assert by_name["sweeps/x/runs/lr=0.1/seed-0"][8] == "2 days"
    assert by_name["runs/diverged"][4:] == ["diverged at 12", "-", "-", "-", "5 min"]
    assert by_name["runs/a stopped one"][4] == "stopped at 120/390"
    assert by_name["runs/torn"][1:5] == ["-", "-", "-", "unreadable"]
    blank, torn, go_on = rows[5:]
    assert blank == ""
    assert torn.startswith("runs/torn: config.json cannot be read: it is not JSON")
    assert shlex.split(go_on.partition(": ")[2]) == ["vitctl", "finetune", "--resume", "runs/a stopped one"]


def test_json(run_cli, five_runs: Path) -> None:
    document = run_cli("runs", "--json").json
    assert document["folders"] == [str(five_runs / "runs"), str(five_runs / "sweeps")]
    assert document["num_by_state"] == {"finished": 2, "diverged": 1, "stopped": 1, "unreadable": 1}
    ages = [one["age_s"] for one in document["runs"]]
    assert ages == sorted(ages)
    one = next(one for one in document["runs"] if one["top1"] == 0.8)
    assert one["run"] == str(five_runs / "runs/photos")
    assert (one["data"], one["image_size"], one["seed"], one["why"]) == ("/data/photos", [48, 64], 3, None)
    assert one["top1_ci95"] == list(wilson_interval(160, 200))
    assert 100 <= one["age_s"] < 200


def test_python_says_the_same(run_cli, five_runs: Path) -> None:
    document = run_cli("runs", "runs", "--json", "--sort", "name").json
    result = vitctl.runs(five_runs / "runs", sort="name").as_json()
    for one in (*document["runs"], *result["runs"]):
        one.pop("age_s")
    assert result == document
    assert [Path(one["run"]).name for one in document["runs"]] == ["a stopped one", "diverged", "photos", "torn"]
    assert len(vitctl.runs().runs) == 5


def test_running(run_cli) -> None:
    run = write(Path("runs/photos"))
    (run / "metrics.jsonl").write_text('{"step": 40, "lr": 0.1}\n{"step": 40, "val_loss": 1.0}\n{"st')
    with own_folder(run):
        assert "  running 40/390  " in run_cli("runs").stdout


def test_names_are_shown_safely(run_cli) -> None:
    write(Path("runs/\x1b]2;mine\x07"), data="\x1b[31mred", model="a\u202eb")
    stdout = run_cli("runs").stdout
    assert not {"\x1b", "\x07", "\u202e"} & set(stdout)
    assert "runs/\\x1b]2;mine\\x07" in stdout


@pytest.mark.parametrize(
    ("config", "shown"),
    [
        ({"image_size": 32}, ("photos", "demo", "32")),
        ({"image_size": "big", "model": 7, "data": ["a"]}, ("-", "-", "-")),
        ({"image_size": None, "data": "hub:o/name", "model": "/a/run/last"}, ("hub:o/name", "run/last", "-")),
        ({"data": "/", "seed": True}, ("/", "demo", "48x64")),
    ],
)  # fmt: skip
def test_settings_of_any_type(run_cli, config: dict[str, Any], shown: tuple[str, ...]) -> None:
    write(Path("runs/photos"), **config)
    assert run_cli("runs").exit_code == 0
    entry = vitctl.runs().runs[0]
    assert command._row(entry)[1:4] == shown
    assert entry.seed == (None if config.get("seed") is True else 3)


def test_nothing_there(run_cli, refused: Callable[..., None]) -> None:
    refused(["runs"], 2, ["Neither runs nor sweeps", str(Path.cwd()), "vitctl finetune"])
    refused(["runs", "nowhere"], 2, ["nowhere does not exist", "expected a folder"])
    refused(["runs", __file__], 2, ["is a file", "expected a folder"])
    refused(["runs", "--sort", "size"], 2, ["--sort", "age", "top1", "name"])
    Path("runs").mkdir()
    result = run_cli("runs")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "There are no runs below" in result.stderr
    assert run_cli("runs", "--json").json["runs"] == []


def test_narrow_terminal__what_all_share_is_said_below(five_runs: Path) -> None:
    for index in range(3):
        write(
            Path(f"sweeps/x/runs/lr={index},optimizer.weight_decay=0.05/seed-0"), top1=0.5, model="vit_tiny_patch16_224"
        )
    rows = [command._row(one) for one in vitctl.runs("sweeps/x/runs").runs if one.top1 == 0.5]
    table = [command.HEADER, *rows]
    assert command._fitted(table, 200) == (table, None)
    narrow, line = command._fitted(table, 80)
    assert line == "all: in sweeps/x/runs, data photos, model vit_tiny_patch16_224, size 48x64, images 200"
    assert narrow[0] == ("run", "state", "top-1", "95 % interval", "age")
    assert narrow[1][0].startswith("lr=")
    assert command._width(narrow) <= 80
    assert all("…" in row[0] for row in command._fitted(table, 70)[0][1:])
    mixed = [command.HEADER, rows[0], ("/elsewhere/run", "other", *rows[0][2:])]
    narrow, line = command._fitted(mixed, 60)
    assert narrow[0][:2] == ("run", "data")
    assert line is not None
    assert "in " not in line


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (89, "1 min"), (3_599, "1 h"), (3_569, "59 min"), (7_300, "2 h"),
        (84_600, "1 day"), (84_500, "23 h"), (180_000, "2 days"), (90_000_000, "1,042 days"),
    ],
)  # fmt: skip
def test_age(seconds: float, expected: str) -> None:
    assert format_age(seconds) == expected


def test_cut_middle() -> None:
    assert [cut_middle("abcdefgh", most) for most in (8, 7, 6, 3)] == ["abcdefgh", "abc…fgh", "ab…gh", "a…h"]


# --- it imports no torch


def imported_at_the_top(module: str) -> set[str]:
    """Return every module that importing ``module`` of vitctl imports by statements at the top, and theirs."""
    package = Path(vitctl.__file__).parent
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        place = package.joinpath(*name.split(".")[1:])
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if name.partition(".")[0] != "vitctl" or not path.is_file():
            continue
        parents = name.split(".")
        waiting += [".".join(parents[:count]) for count in range(1, len(parents))]
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Import):
                waiting += [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                waiting += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return found


def test_no_torch_at_the_top_of_what_it_imports() -> None:
    heavy = {"torch", "timm", "torchvision", "sklearn", "scipy", "pandas", "accelerate", "matplotlib"}
    tops = {name.partition(".")[0] for name in imported_at_the_top("vitctl.workflows.runs")}
    assert not heavy & tops
    assert {"vitctl", "numpy", "pydantic"} <= tops
    assert "torch" in imported_at_the_top("vitctl.workflows.models")  # the check can fail


def test_closed_stdout__is_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from types import SimpleNamespace

    from vitctl.cli import runs
    from vitctl.results.runs import RunEntry, RunsResult

    entry = RunEntry(
        **dict.fromkeys(RunEntry.__dataclass_fields__) | {"run": "/a", "state": "stopped", "step": 1, "age_s": 1.0}
    )  # type: ignore[arg-type]
    found = RunsResult(folders=("/",), runs=(entry,), num_by_state={"stopped": 1})
    monkeypatch.setattr(runs, "run", lambda *_, **__: found)
    monkeypatch.setattr(runs, "print_columns", lambda *_: None)
    monkeypatch.setattr(runs, "print_line", lambda *_: None)
    monkeypatch.setattr("sys.stdout", None)
    runs.runs(context=SimpleNamespace(get_parameter_source=lambda _: None), as_json=False)


def test_many_folders_that_cannot_be_read__a_few_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from vitctl.conversation import Conversation
    from vitctl.settings.runs import RunsConfig
    from vitctl.workflows import runs

    def find(_folder: Path, on_error: Callable[[OSError], None]) -> list[Path]:
        for number in range(9):
            on_error(PermissionError(13, "Permission denied", f"/x/{number}"))
        return []

    said = list[str]()
    monkeypatch.setattr(runs, "find_runs", find)
    monkeypatch.setattr(Conversation, "warn", lambda _, text: said.append(text))
    runs.run(RunsConfig(folder=str(tmp_path)), Conversation())
    assert len(said) == 6
    assert said[-1] == "4 folders more cannot be read."
