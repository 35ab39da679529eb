"""``vitctl log --to wandb``: an offline run of Weights & Biases, which ``wandb sync`` sends when you say so.

Nothing is sent from here, whatever the environment says. The run has the same id each time, so that what is sent later
goes to the same page.
"""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vitctl.errors import UnavailableError
from vitctl.primitives.documents import reason_of
from vitctl.reporting.trackers.replay import Point, Replay
from vitctl.reporting.trackers.tracker import Tracker

PROJECT = "vitctl"
_WORK = "work"
_SPACE = 2**16  # bytes; wandb writes 2^15 at a time
_PLACES = ("WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "WANDB_DATA_DIR")


def write(replay: Replay, folder: Path, points: Iterable[Point]) -> None:
    """Write the offline run of a run; see ``Tracker``.

    Raises:
        UnavailableError: wandb cannot do it.
        OSError: The folder cannot be written.
    """
    work = folder / _WORK
    work.mkdir()
    with _own_environment(work):
        import wandb

        try:
            _log(replay, work, points)
        except wandb.Error as error:
            raise UnavailableError(f"--to wandb: wandb cannot write the run: {reason_of(error)}.") from error
    made = list((work / "wandb").glob("offline-run-*"))
    if len(made) != 1 or not (made[0] / f"run-{replay.run_id}.wandb").is_file():
        raise UnavailableError("--to wandb: wandb wrote no offline run; is there space on the disk?")
    _check_space(work)
    for name in ("logs", "tmp"):  # wandb's own, with paths of this machine
        shutil.rmtree(made[0] / name, ignore_errors=True)
    began = time.strftime("%Y%m%d_%H%M%S", time.gmtime(replay.start_s))
    os.rename(made[0], folder / f"offline-run-{began}-{replay.run_id}")
    shutil.rmtree(work)


def _check_space(folder: Path) -> None:
    """Check that the disk is not full: wandb then leaves out records, and says so in its log alone.

    Raises:
        OSError: It is.
    """
    probe = folder / "probe"
    with probe.open("wb") as file:
        file.write(bytes(_SPACE))
        file.flush()
        os.fsync(file.fileno())


def _log(replay: Replay, work: Path, points: Iterable[Point]) -> None:
    import wandb

    # without: user, host, program, git, packages, hardware, what is printed. create_new: a run that the caller has
    # open in this process, and may be sending, is another one.
    settings = wandb.Settings(
        mode="offline",
        reinit="create_new",
        silent=True,
        console="off",
        host="localhost",
        username="",
        email="",
        program="vitctl",
        save_code=False,
        disable_code=True,
        disable_git=True,
        disable_job_creation=True,
        symlink=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_disable_viewer=True,
        x_save_requirements=False,
        x_start_time=float(replay.start_s),
    )
    run = wandb.init(
        project=PROJECT,
        id=replay.run_id,
        name=replay.name,
        dir=str(work),
        config=dict(replay.config),
        resume="allow",
        settings=settings,
    )
    try:  # and not "with run": that prints the traceback of an error
        for point in points:
            run.log({**point.values, "_timestamp": point.time_s}, step=point.step)
        if replay.pictures:
            images = {f"pictures/{one.name}": wandb.Image(str(one.path)) for one in replay.pictures}
            run.log(images, step=replay.points[-1].step)
    finally:
        run.finish()


@contextmanager
def _own_environment(work: Path) -> Iterator[None]:
    """Hide what wandb would read from the environment (its mode, run and entity), and keep its files below ``work``."""
    before = {name: value for name, value in os.environ.items() if name.startswith("WANDB_")}
    kept = {name: value for name, value in before.items() if name == "WANDB_ERROR_REPORTING"}
    try:
        for name in before:
            del os.environ[name]
        os.environ.update(kept | {name: str(work) for name in _PLACES})
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("WANDB_")]:
            del os.environ[name]
        os.environ.update(before)


TRACKER = Tracker(write, view="wandb sync {}/offline-run-*")
