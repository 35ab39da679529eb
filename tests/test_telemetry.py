"""vitctl, and what it is made of, report to no one: nothing is written for that, no network socket is opened."""

import ast
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import typer

from vitctl.cli.app import app
from vitctl.telemetry import VARIABLES

ROOT: Any = typer.main.get_command(app)
# by these onnxruntime takes a machine for one of CI's, and keeps quiet of its own accord
CI = ("CI", "GITHUB_ACTIONS", "TF_BUILD", "ORT_RUNNING_UNIT_TESTS")
CACHES = {".cache/vitctl", ".cache/matplotlib", ".config/matplotlib"}
HAS_COLLECTOR = platform.system() == "Linux" and tuple(map(int, onnxruntime.__version__.split(".")[:2])) >= (1, 32)


def environment() -> dict[str, str]:
    """Return this process's environment as a user's shell has it: without what vitctl has set in it."""
    env = {name: value for name, value in os.environ.items() if name not in (*CI, *VARIABLES, "HF_HUB_OFFLINE")}
    return env | {"OMP_NUM_THREADS": "1"}


def new_in_home() -> list[str]:
    """Return the files below ``$HOME`` that belong to neither vitctl's nor matplotlib's caches, nor to the test."""
    home = Path(os.environ["HOME"])
    found = [path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()]
    return [path for path in found if not path.startswith((*(f"{cache}/" for cache in CACHES), "work/"))]


# finding a module imports the packages around it, and not what is heavy in the module itself
ENTRIES = ["import vitctl", "from vitctl.cli.app import main", "find_spec('vitctl.workflows.export')"]


@pytest.mark.parametrize("value", [None, "", "0"])
@pytest.mark.parametrize("entry", ENTRIES)
def test_variables_are_set__however_vitctl_is_entered(entry: str, value: str | None) -> None:
    env = environment() | ({} if value is None else dict.fromkeys(VARIABLES, value))
    code = f"import os; from importlib.util import find_spec; {entry}; print(dict(os.environ))"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    found = ast.literal_eval(done.stdout)
    assert (found["ORT_DISABLE_TELEMETRY"], found["HF_HUB_DISABLE_TELEMETRY"]) == ("1", "1")


def test_variables_are_what_the_hub_reads() -> None:
    code = "import vitctl; from huggingface_hub import constants; print(constants.HF_HUB_DISABLE_TELEMETRY)"
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize("entry", ENTRIES)
def test_onnxruntime__writes_no_device_id_however_vitctl_is_entered(entry: str) -> None:
    code = f"from importlib.util import find_spec; {entry}; import onnxruntime"
    subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, check=True)
    assert new_in_home() == []


@pytest.mark.slow
def test_export_to_onnx__writes_no_device_id(tiny_model_folder: Path) -> None:
    command = [sys.executable, "-m", "vitctl", "export", str(tiny_model_folder), "--to", "onnx", "--out", "x"]
    subprocess.run(command, env=environment(), capture_output=True, check=True)
    assert Path("x/onnx/model.onnx").is_file()
    assert new_in_home() == []


@pytest.mark.skipif(not HAS_COLLECTOR, reason="this onnxruntime writes no device id of its own accord")
def test_onnxruntime__writes_no_device_id__the_check_can_fail() -> None:
    subprocess.run([sys.executable, "-c", "import onnxruntime"], env=environment(), check=True)
    assert any("Microsoft" in path for path in new_in_home())


# --- no network socket -----------------------------------------------------------------------------------------

NETWORK = re.compile(r"connect\(\d+, \{sa_family=AF_INET6?.*")


def connections(command: Sequence[str]) -> list[str]:
    """Run ``command`` without a network; return the system calls by which it tried to reach one."""
    for tool in ("strace", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    prefix = ["unshare", "--net", "strace", "--follow-forks", "--seccomp-bpf", "--trace=connect", "--output=calls.txt"]
    tried = subprocess.run([*prefix, "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        pytest.skip(f"unshare and strace are not permitted here: {tried.stderr.strip()}")
    done = subprocess.run([*prefix, *command], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return NETWORK.findall(Path("calls.txt").read_text())


@pytest.mark.slow
def test_commands_open_no_network_socket(image_folder: Path, tiny_model_folder: Path) -> None:
    data, model = ["--data", str(image_folder)], str(tiny_model_folder)
    commands = [
        [
            "finetune",
            *data,
            "--model",
            model,
            "--steps",
            "2",
            "--batch-size",
            "4",
            "--num-workers",
            "1",
            "--out",
            "run",
        ],
        ["evaluate", "run"],
        ["sweep", *data, "--model", model, "--grid", "lr=1e-4,1e-3", "--steps", "2", "--batch-size", "4", "--out", "s"],
        ["compare", "s", "--out", "compared"],
        ["runs", "s"],
        ["predict", "run", str(image_folder / "red" / "0.png")],
        ["data", str(image_folder)],
        ["fewshot-eval", "--model", model, *data, "--shots", "1", "--out", "fewshot"],
        ["inspect", "distance", "run", "--out", "distance"],
        ["export", "run", "--to", "onnx"],
        ["log", "run"],
        *([["log", "run", "--to", "wandb"]] if find_spec("wandb") else []),
        ["models"],
        ["recipes", "ls"],
        ["recipes", "show", "transfer"],
    ]
    names = set(ROOT.commands)
    commands += [["guide"]] if "guide" in names else []
    assert {words[0] for words in commands} == names
    found = {" ".join(words): connections([sys.executable, "-m", "vitctl", *words]) for words in commands}
    assert found == {name: [] for name in found}
    # onnxruntime's own reports leave seconds after a session was opened; a small export, over by then, keeps them for
    # the next process: what it keeps them in gives it away
    assert new_in_home() == []


@pytest.mark.slow
def test_commands_open_no_network_socket__the_check_can_fail() -> None:
    code = "import contextlib, socket\nwith contextlib.suppress(OSError):\n    "
    for address, family in (("('203.0.113.1', 443)", "AF_INET"), ("('2001:db8::1', 443)", "AF_INET6")):
        found = connections([sys.executable, "-c", f"{code}socket.socket(socket.{family}).connect({address})"])
        assert len(found) == 1
        assert family in found[0]
