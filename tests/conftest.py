"""Fixtures for all tests: a tiny model, a finished run, drawn images, the command line in this process, no network."""

import functools
import io
import itertools
import json
import os
import shutil
import signal
import socket
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the hub client is imported
import vitctl.models  # noqa: F401  # before any test imports timm beside a CPU build of torch

# On newer Intel processors MKL sums the rows of a matrix in an order that depends on their number; the guide
# reproducibility says so. Read at MKL's first product.
_CPU = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""  # of Linux
if "avx512f" in _CPU and "GenuineIntel" in _CPU:
    os.environ.setdefault("MKL_CBWR", "AVX512,STRICT")

if TYPE_CHECKING:
    from vitctl.errors import InterruptedRun
    from vitctl.settings.finetune import FinetuneConfig

GOLDEN = Path(__file__).parent / "golden"

# a ViT of some 10,000 parameters: 16 px, patch 4, grid 4x4
TINY = {"img_size": 16, "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}

# A test that hangs is a failure with a stack (pytest-timeout, pyproject.toml); a fork that outlives it is killed.
FORK_LIMIT_S = 300


def _start_fork() -> None:
    """Keep a fork from waiting for ever for the threads of its parent, of which it has none."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(FORK_LIMIT_S)
    if "torch" in sys.modules:  # OpenMP's would be waited for in the first operation that is split; loaders do the same
        sys.modules["torch"].set_num_threads(1)


os.register_at_fork(after_in_child=_start_fork)

# A default test takes at most 3 s; of CPU time, which waits for no one. Beside other work it counts up to twice that.
MOST_CPU_S = 2 * 3.0
FEW_MODULES = 50  # a test that is the first to import more pays for those after it


def cpu_s() -> float:
    """Return the CPU seconds of this process and of those it started and waited for."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None]:
    """Fail a default test that takes too long by itself; what its fixtures share is not counted."""
    cpu_before, modules_before = cpu_s(), len(sys.modules)
    yield
    taken, is_alone = cpu_s() - cpu_before, len(sys.modules) - modules_before > FEW_MODULES
    is_default = not any(item.get_closest_marker(name) for name in ("slow", "gpu", "network"))
    if is_default and taken > MOST_CPU_S and not is_alone and sys.gettrace() is None:  # coverage and debuggers trace
        pytest.fail(f"took {taken:.1f} s of CPU; a default test takes at most 3: share, shrink or mark it slow")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves out what is slow
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what uses a fixture that its module names in ``SLOW_FIXTURES``."""
    for item in items:
        dear = getattr(getattr(item, "module", None), "SLOW_FIXTURES", ())
        if not set(dear).isdisjoint(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def _homes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Paths of folders to make, one after the other; ``mktemp`` reads the names of all that there are, every time."""
    parent = tmp_path_factory.mktemp("homes")
    return (parent / str(number) for number in itertools.count())


@pytest.fixture
def tmp_path(_homes: Iterator[Path]) -> Path:
    """An empty folder of the test's own, as pytest's fixture of this name, and for the same reason made otherwise."""
    folder = next(_homes)
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _isolated(_homes: Iterator[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test an empty working folder and hub cache, and refuse the network."""
    home = next(_homes)
    work = home / "work"
    work.mkdir(parents=True)
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "FORCE_COLOR", "TTY_COMPATIBLE", "VITCTL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    connect = socket.socket.connect

    def connect_locally(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:  # worker processes talk through those
            raise OSError(f"a test tried to connect to {address}")
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", connect_locally)


@dataclass(frozen=True)
class CommandResult:
    """What a person would see, and the exit code."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """stdout, which must be exactly one JSON document without NaN."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} in JSON output")

        return json.loads(self.stdout, parse_constant=refuse)


DISK_CALLS = ("open", "mkdir", "write", "ftruncate", "truncate", "fsync", "rename", "replace", "unlink", "rmdir")


@pytest.fixture(scope="session", autouse=True)
def _nothing_waits_for_the_disk() -> Iterator[None]:
    """No test pulls the plug, so none waits until its files are on disk: milliseconds each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _handle: None)
        yield


@pytest.fixture(scope="session")
def killed_at() -> Callable[[Callable[[], object], int], bool]:
    """Return ``killed_at(ACTION, N)``: do it in a fork that is killed before its N-th call that touches the disk.

    The calls are those that Python makes by ``os``, the exchange of two names, and what ``pathlib`` opens to write.
    False: there were fewer than N.
    """
    from vitctl.primitives import atomic

    def is_killed(action: Callable[[], object], number: int) -> bool:
        child = os.fork()
        if child == 0:
            calls = itertools.count(1)

            def counted(call: Callable[..., Any]) -> Callable[..., Any]:
                def made(*args: Any, **kwargs: Any) -> Any:
                    if next(calls) == number:
                        os.kill(os.getpid(), signal.SIGKILL)
                    return call(*args, **kwargs)

                return made

            for name in DISK_CALLS:
                setattr(os, name, counted(getattr(os, name)))
            atomic._exchanged = counted(atomic._exchanged)
            opened, opened_to_write, is_empty_now = io.open, counted(io.open), counted(lambda: None)

            def open_file(file: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
                if mode in ("r", "rb"):
                    return opened(file, mode, *args, **kwargs)
                made = opened_to_write(file, mode, *args, **kwargs)
                is_empty_now()
                return made

            io.open = open_file  # what pathlib opens with
            try:
                action()
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        assert code in (0, -signal.SIGKILL)
        return code != 0

    return is_killed


@pytest.fixture(scope="session", autouse=True)
def _one_command_line() -> Iterator[None]:
    """Build the commands of an app once: Typer's ``CliRunner`` builds every one of them for every call, 20 ms each."""
    import typer.testing

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(typer.testing, "_get_command", functools.cache(typer.main.get_command))
        yield


@pytest.fixture
def run_cli() -> Callable[..., CommandResult]:
    """Run ``vitctl ARGS...`` in this process."""
    from typer.testing import CliRunner

    from vitctl.cli.app import app

    def run(*args: object) -> CommandResult:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            result = CliRunner().invoke(app, [str(arg) for arg in args])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return CommandResult(result.exit_code, result.stdout, result.stderr)

    return run


def colour_image(label: int, index: int, *, size: tuple[int, int] = (20, 24)) -> Image.Image:
    """Return an RGB image, (H, W) px, whose dominant colour tells its class; ``index`` makes it distinct."""
    rng = np.random.default_rng([label, index])
    pixels = rng.integers(0, 60, size=(*size, 3), dtype=np.uint8)
    pixels[..., label % 3] += np.uint8(120 + 20 * (label // 3))
    return Image.fromarray(pixels)


def write_image_folder(folder: Path, counts: dict[str, int], *, suffix: str = ".png") -> Path:
    """Write ``counts[class]`` images into one folder per class; colours follow the order of ``counts``."""
    for label, (name, count) in enumerate(counts.items()):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            colour_image(label, index).save(folder / name / f"{index}{suffix}")
    return folder


@pytest.fixture(scope="session")
def whole_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 3 classes with 12 images each, one for all tests. Not to be changed."""
    return write_image_folder(tmp_path_factory.mktemp("whole") / "images", {"red": 12, "green": 12, "blue": 12})


@pytest.fixture
def image_folder(tmp_path: Path, whole_folder: Path) -> Path:
    """A copy of ``whole_folder`` that the test may change."""
    return shutil.copytree(whole_folder, tmp_path / "images")


StoppedAfter = Callable[[int, "FinetuneConfig"], "InterruptedRun"]


@pytest.fixture
def stopped_after(monkeypatch: pytest.MonkeyPatch) -> StoppedAfter:
    """What runs a configuration until a SIGTERM comes while a step is recorded, and returns the error that ends it."""
    from vitctl.conversation import Conversation
    from vitctl.errors import InterruptedRun
    from vitctl.training.recorder import Recorder
    from vitctl.workflows import finetune

    recorded = Recorder.step

    def run(step: int, config: "FinetuneConfig") -> "InterruptedRun":
        def record(self: Any, report: Any) -> None:
            recorded(self, report)
            if report.step == step:
                os.kill(os.getpid(), signal.SIGTERM)

        with monkeypatch.context() as patched:
            patched.setattr(Recorder, "step", record)
            with pytest.raises(InterruptedRun) as caught:
                finetune.run(config, Conversation())
        return caught.value

    return run


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are put together but saved as empty files: for runs whose pictures no one looks at (0.2 s each)."""
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda _figure, path, **_options: Path(path).write_bytes(b""))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timm folder with a random tiny ViT: 3 classes, 16 px, patch 4."""
    import timm
    import torch

    from vitctl.models.timm_folder import save_timm_folder
    from vitctl.primitives.preprocessing import Preprocessing

    folder = tmp_path_factory.mktemp("models") / "tiny"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", num_classes=3, **TINY)
    preprocessing = Preprocessing((16, 16), "bicubic", 1.0, "center", (0.5,) * 3, (0.5,) * 3)
    save_timm_folder(
        model,
        folder,
        class_names=["red", "green", "blue"],
        preprocessing=preprocessing,
        base_model="random",
        base_licence=None,
    )
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Path:
    """A run of 60 steps on red, green and blue images, with a test split; square, 24 px."""
    from vitctl.conversation import Conversation
    from vitctl.settings.finetune import FinetuneConfig
    from vitctl.workflows import finetune

    folder = tmp_path_factory.mktemp("runs")
    rng = np.random.default_rng(0)
    for split, count in (("train", 12), ("test", 5)):
        for label, name in enumerate(("red", "green", "blue")):
            (folder / "data" / split / name).mkdir(parents=True)
            for index in range(count):
                pixels = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
                pixels[..., label] += np.uint8(150)
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{index}.png")
    config = FinetuneConfig(
        data=str(folder / "data"),
        model=str(tiny_model_folder),
        image_size="24",
        steps=60,
        lr=3e-3,
        head="zero",
        num_workers=0,
        out=str(folder / "run"),
    )
    finetune.run(config, Conversation())
    return folder / "run"
