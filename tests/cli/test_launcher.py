"""Several processes of one command: who speaks, whose failure counts, signals; none outlives the others."""

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vitctl.cli import launcher
from vitctl.cli.launcher import LostProcessError, processes_to_start, run_in_processes
from vitctl.errors import FailedElsewhere, InterruptedRun, SettingError
from vitctl.primitives import children

# a child: what it is told by the environment, then the lines of a test
START = """
import os, signal, sys, time
rank = int(os.environ["RANK"])
open(f"pid-{rank}", "w").write(str(os.getpid()))
def wait():
    open(f"ready-{rank}", "w").close()
    time.sleep(60)
"""


def command(lines: str) -> list[str]:
    return [sys.executable, "-S", "-E", "-c", START + textwrap.dedent(lines)]


@pytest.fixture(autouse=True)
def _settles_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "_SETTLING_S", 0.1)


def is_running(pid: int) -> bool:
    """Return whether a process runs; one that has ended and that nobody waits for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started() -> list[int]:
    return [int(path.read_text()) for path in sorted(Path.cwd().glob("pid-*"))]


def wait_for(what: Callable[[], Any], *, seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_children_find_each_other__by_their_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "num_cpus", lambda: 9)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    names = ["RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "OMP_NUM_THREADS"]
    run_in_processes(
        command(f"""
        assert os.getpid() == os.getsid(0) == os.getpgid(0) and sys.stdin.read() == ""
        open(f"is-{{rank}}", "w").write(" ".join(os.environ[name] for name in {names}))
        open(f"port-{{rank}}", "w").write(os.environ["MASTER_PORT"])
        """),
        2,
    )
    assert Path("is-0").read_text() == "0 0 2 2 127.0.0.1 4"
    assert Path("is-1").read_text() == "1 1 2 2 127.0.0.1 4"
    assert Path("port-0").read_text() == Path("port-1").read_text() > "0"


def test_first_speaks__others_do_not(capfd: pytest.CaptureFixture[str]) -> None:
    run_in_processes(command("print('out', rank); print('err', rank, file=sys.stderr)"), 2)
    assert capfd.readouterr() == ("out 0\n", "err 0\n")


def test_first_fails__its_code_and_nothing_more_to_say(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailedElsewhere) as caught:
        run_in_processes(command("if rank == 0: sys.exit('error: no such thing')\nwait()"), 2)
    assert caught.value.exit_code == 1
    assert capfd.readouterr().err == "error: no such thing\n"
    assert not any(map(is_running, started()))


def test_another_fails__its_code_and_its_last_lines() -> None:
    lines = "\n".join(f"line {number}" for number in range(30))
    with pytest.raises(LostProcessError) as caught:
        run_in_processes(command(f"if rank == 1: print('''{lines}'''); sys.exit(3)\nwait()"), 3)
    assert caught.value.exit_code == 3
    sentence, *said = caught.value.args
    assert sentence == "Process 1 of 3 ended with exit code 3, and the others were stopped. It said last:"
    assert said == [f"  line {number}" for number in range(10, 30)]
    assert not any(map(is_running, started()))


def test_log__is_kept_where_the_command_writes__and_its_end_is_said() -> None:
    root = str(Path(launcher.__file__).parents[2])
    Path("run").mkdir()
    with pytest.raises(LostProcessError) as caught:
        run_in_processes(
            command(f"""
            sys.path.insert(0, {root!r})
            from pathlib import Path
            from vitctl.primitives.launched import keep_log
            print("before")
            keep_log(Path("run"))
            if rank == 0: wait()
            os.system("echo of its own child")
            sys.exit("after")
            """),
            2,
        )
    kept = Path("run/logs/rank-1.txt").read_text()
    assert kept == "before\nof its own child\nafter\n"
    assert caught.value.args[1:] == ("  before", "  of its own child", "  after")
    assert [path.name for path in Path("run/logs").iterdir()] == ["rank-1.txt"]


def test_killed__137_and_named() -> None:
    killed = r"Process 1 of 2 was killed \(SIGKILL, signal 9\): most likely the memory"
    with pytest.raises(LostProcessError, match=killed) as caught:
        run_in_processes(command("if rank == 1: os.kill(os.getpid(), 9)\nwait()"), 2)
    assert caught.value.exit_code == 137


@pytest.mark.parametrize(
    ("codes", "expected"),
    [
        ([75, 3], 3),  # the first lost the other one, which knows why
        ([1, 3], 3),  # it has a traceback for that
        ([1, -9], 137),
        ([75, 1], 1),
        ([75, 75], 1),
    ],
)
def test_failures_at_once__who_knows_most_is_named(codes: list[int], expected: int) -> None:
    end = f"code = {codes}[rank]\nsys.exit(code) if code > 0 else os.kill(os.getpid(), -code)"
    with pytest.raises(LostProcessError) as caught:
        run_in_processes(command(end), 2)
    assert caught.value.exit_code == expected


def test_same_failure_of_all__is_said_once(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailedElsewhere):
        run_in_processes(command("sys.exit('error')"), 2)
    assert capfd.readouterr().err == "error\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_one_is_told_to_end_and_follows__named(number: signal.Signals) -> None:
    with pytest.raises(LostProcessError) as caught:
        run_in_processes(command(f"if rank == 1: sys.exit({128 + number})\nsys.exit(75)"), 2)
    assert caught.value.exit_code == 128 + number
    assert caught.value.args == (
        f"Process 1 of 2 was told to end ({number.name}, signal {int(number)}); the others were stopped. Give the "
        "same command again.",
    )


def test_one_is_told_to_end__others_that_follow_have_their_time(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(FailedElsewhere) as caught:
        run_in_processes(command("if rank == 0: time.sleep(0.25); print('stopped: saved')\nsys.exit(143)"), 2)
    assert caught.value.exit_code == 143
    assert capfd.readouterr().out == "stopped: saved\n"


def test_others_are_stopped__they_know_what_of() -> None:
    lines = """
    if rank == 1:
        while not os.path.exists("ready-0"): time.sleep(0.01)
        sys.exit(2)
    def end(*_):
        open("is-told", "w").write(str(os.path.exists(os.environ["VITCTL_FAILED"])))
        sys.exit(143)
    signal.signal(signal.SIGTERM, end)
    wait()
    """
    with pytest.raises(LostProcessError, match="ended with exit code 2"):
        run_in_processes(command(lines), 2)
    assert Path("is-told").read_text() == "True"


@pytest.mark.slow
def test_stubborn_child_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "GRACE_S", 0.2)
    stubborn = """
    if rank == 1:
        while not os.path.exists("ready-0"): time.sleep(0.01)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    wait()
    """
    with pytest.raises(LostProcessError, match="Process 1 of 2 ended with exit code 2"):
        run_in_processes(command(stubborn), 2)
    assert not any(map(is_running, started()))


PARENT = """
import sys
from vitctl.cli.launcher import run_in_processes
from vitctl.errors import VitctlError
try:
    run_in_processes(sys.argv[1:], 2)
except VitctlError as error:
    print(type(error).__name__)
    sys.exit(error.exit_code)
"""


def parent(lines: str) -> subprocess.Popen[str]:
    """Start two children below a process of their own, and return it when they wait."""
    process = subprocess.Popen([sys.executable, "-c", PARENT, *command(lines)], stdout=subprocess.PIPE, text=True)
    wait_for(lambda: all(Path(f"ready-{rank}").exists() for rank in range(2)))
    return process


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGTERM, 143),
        pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_signal__reaches_each_once(number: signal.Signals, code: int) -> None:
    saving = f"""
    def save(*_):
        open(f"saved-{{rank}}", "a").write("x")
        time.sleep(0.1)
        sys.exit({code})
    signal.signal({int(number)}, save)
    wait()
    """
    process = parent(saving)
    process.send_signal(number)
    assert process.communicate()[0] == "FailedElsewhere\n"
    assert process.returncode == code
    assert [Path(f"saved-{rank}").read_text() for rank in range(2)] == ["x", "x"]


def test_signal_while_they_are_started__reaches_who_is_there__no_more_are(monkeypatch: pytest.MonkeyPatch) -> None:
    start, started_ones = launcher._start, []

    def start_and_hear(*arguments: Any) -> subprocess.Popen[bytes]:
        started_ones.append(start(*arguments))
        os.kill(os.getpid(), signal.SIGTERM)  # before the launcher has it
        return started_ones[-1]

    monkeypatch.setattr(launcher, "_start", start_and_hear)
    with pytest.raises(FailedElsewhere) as caught:
        run_in_processes([sys.executable, "-S", "-E", "-c", "import time; time.sleep(20)"], 3)
    assert caught.value.exit_code == 143
    assert [one.returncode for one in started_ones] == [-signal.SIGTERM]


@pytest.mark.parametrize(
    ("is_resumable", "again"),
    [
        (True, "again; it goes on from the last checkpoint, if there is one."),
        pytest.param(False, "again.", marks=pytest.mark.slow),
    ],
)
def test_signal_is_not_followed__killed_in_the_end(
    monkeypatch: pytest.MonkeyPatch, is_resumable: bool, again: str
) -> None:
    monkeypatch.setattr(children, "_STOPPING_S", 0.1)

    def terminate_when_ready() -> None:
        wait_for(lambda: all(Path(f"ready-{rank}").exists() for rank in range(2)))
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=terminate_when_ready).start()
    stubborn = "signal.signal(signal.SIGTERM, signal.SIG_IGN if rank == 1 else lambda *_: sys.exit(143))\nwait()"
    with pytest.raises(InterruptedRun) as caught:
        run_in_processes(command(stubborn), 2, is_resumable=is_resumable)
    assert caught.value.exit_code == 143
    said = f"Processes that did not follow SIGTERM in time were killed. Give the same command {again}"
    assert str(caught.value) == said
    assert not any(map(is_running, started()))


@pytest.mark.slow
def test_second_signal__kills() -> None:
    process = parent("signal.signal(2, lambda *_: open(f'heard-{rank}', 'w').close())\nwhile True: wait()")
    process.send_signal(signal.SIGINT)
    wait_for(lambda: all(Path(f"heard-{rank}").exists() for rank in range(2)))
    process.send_signal(signal.SIGINT)
    process.communicate()
    assert process.returncode == 130
    assert not any(map(is_running, started()))


@pytest.mark.slow
def test_parent_is_killed__no_orphan() -> None:
    root = str(Path(launcher.__file__).parents[2])
    process = parent(
        f"sys.path.insert(0, {root!r})\n"
        "from vitctl.primitives.launched import end_with_parent\n"
        "end_with_parent()\nwait()"
    )
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_running, started())), seconds=5)


def test_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "num_gpus", lambda: 3)
    assert processes_to_start(None, device="auto") == 1
    assert processes_to_start(2, device="cpu") == 2
    assert processes_to_start("auto", device="auto") == processes_to_start("auto", device="cuda") == 3
    assert processes_to_start("auto", device="cpu") == 1
    monkeypatch.setattr(launcher, "num_gpus", lambda: 0)
    assert processes_to_start("auto", device="auto") == 1


def test_own_command__looks_in_the_working_folder_as_this_one_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/venv/bin/vitctl", "data", "x y"])
    assert launcher.own_command() == [sys.executable, "-P", "-m", "vitctl", "data", "x y"]
    monkeypatch.setattr(sys, "argv", ["/source/vitctl/__main__.py", "models"])
    assert launcher.own_command() == [sys.executable, "-m", "vitctl", "models"]


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
def test_below_another_launcher__refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(SettingError, match="leave it out, or start vitctl without that launcher"):
        processes_to_start(2, device="cpu")
    assert processes_to_start(None, device="cpu") == 1
    monkeypatch.setenv("VITCTL_PARENT", str(os.getpid()))  # its children have the option, too
    assert processes_to_start(2, device="cpu") == 1
