"""A run told to trackers: what is read of its files, what TensorBoard and wandb find in what was written."""

import importlib.machinery
import json
import os
import shutil
import struct
import sys
import types
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vitctl.errors import DataError, SettingError, UnavailableError
from vitctl.reporting import trackers
from vitctl.reporting.trackers.folder import MARKER, check_place, log_folder
from vitctl.reporting.trackers.replay import Replay, read_replay
from vitctl.reporting.trackers.tracker import find_tracker
from vitctl.settings.words import TRACKERS

GOLDEN = Path(__file__).parents[1] / "golden"
LINES = [json.loads(line) for line in (GOLDEN / "metrics-0.1.0.jsonl").read_text().splitlines()]
STEPS = {line["step"]: line for line in LINES if "loss" in line}
VALIDATIONS = {line["step"]: line for line in LINES if "val_loss" in line}
BEGAN = 1_700_000_000


def png(width: int, height: int) -> bytes:
    """Return a black PNG."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes((width + 1) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of vitctl 0.1.0, half a second a step, with a picture."""
    folder = tmp_path / "my run"
    folder.mkdir()
    shutil.copy(GOLDEN / "config-0.1.0.json", folder / "config.json")
    os.utime(folder / "config.json", (BEGAN, BEGAN))
    shutil.copy(GOLDEN / "metrics-0.1.0.jsonl", folder / "metrics.jsonl")
    speeds = [{"step": step, "step_s": 0.5, "images_per_s": 10.0 * step} for step in STEPS]
    (folder / "speed.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in speeds))
    (folder / "curves.png").write_bytes(png(8, 5))
    return folder


# --- reading ---------------------------------------------------------------------------------------------------


def test_replay__has_every_number_of_the_files_at_its_step(run: Path) -> None:
    replay = read_replay(run)
    assert (replay.num_steps, replay.num_validations) == (len(STEPS), len(VALIDATIONS))
    assert [point.step for point in replay.points] == sorted(STEPS.keys() | VALIDATIONS.keys())
    for count, point in enumerate(replay.points, start=1):
        line, validation = STEPS[point.step], VALIDATIONS.get(point.step)
        expected = {f"train/{key}": line[key] for key in ("epoch", "loss", "lr")}
        expected |= {"speed/step_s": 0.5, "speed/images_per_s": 10.0 * point.step}
        if validation:
            expected |= {"validation/loss": validation["val_loss"], "validation/top1": validation["val_top1"]}
        assert point.values == expected
        assert point.time_s == BEGAN + 0.5 * count
    assert [(one.name, one.size) for one in replay.pictures] == [("curves", (5, 8))]


def test_replay__takes_new_keys_and_leaves_nulls_out(run: Path) -> None:
    lines = [
        {"step": 0, "val_loss": 2.0, "average_top1": 0.5, "average_val_loss": 1},
        {"step": 1, "loss": 1.5, "grad_norm": None, "note": "text", "is_odd": True, "lr": 0},
        {"step": 2, "loss": 1.0, "grad_norm": 3.5},
    ]
    (run / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    (run / "speed.jsonl").unlink()
    replay = read_replay(run)
    assert [dict(point.values) for point in replay.points] == [
        {"validation/loss": 2.0, "validation/average_top1": 0.5, "validation/average_loss": 1.0},
        {"train/loss": 1.5, "train/lr": 0.0},
        {"train/loss": 1.0, "train/grad_norm": 3.5},
    ]
    assert (replay.num_steps, replay.num_validations) == (2, 1)
    assert {point.time_s for point in replay.points} == {BEGAN}


def test_replay__of_a_run_being_written_leaves_the_torn_line_out(run: Path) -> None:
    whole = read_replay(run)
    for name in ("metrics.jsonl", "speed.jsonl"):
        with (run / name).open("a") as file:
            file.write('{"step": 99, "loss": 0.')
    assert read_replay(run) == whole


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "holds no whole line"),
        ('{"step": 1, "loss": 2', "holds no whole line"),
        ('{"step": 1, "loss": 2}\nno JSON\n', "line 2, cannot be read: it is not JSON"),
        ('{"step": -1, "loss": 2}\n', "line 1, has the step -1"),
        ('{"step": true, "loss": 2}\n', "line 1, has the step True"),
        ('{"step": 1, "loss": NaN}\n', "line 1, cannot be read: it holds the number nan"),
    ],
)
def test_replay__says_what_is_wrong_with_a_file(run: Path, content: str, words: str) -> None:
    (run / "metrics.jsonl").write_text(content)
    with pytest.raises(DataError, match=words):
        read_replay(run)


def test_replay__without_metrics_says_so(run: Path) -> None:
    (run / "metrics.jsonl").unlink()
    with pytest.raises(DataError, match=r"metrics\.jsonl cannot be read: No such file"):
        read_replay(run)


def test_replay__tells_no_folder_of_this_machine_and_no_letter_that_acts(run: Path) -> None:
    config = {"vitctl": "0.1.0", "data": "/home/alice/photos", "nothing": None, "a": {"b": [1, 2], "c": False}}
    config |= {"model": "two\x1b]0;lines\n```"}
    (run / "config.json").write_text(json.dumps(config))
    found = read_replay(run).config
    assert found == {
        "vitctl": "0.1.0", "data": "photos", "a.b": "[1, 2]", "a.c": False, "model": "two\\x1b]0;lines\\n```",
    }  # fmt: skip


def test_replay__id_is_of_settings_and_name(run: Path) -> None:
    first = read_replay(run).run_id
    os.utime(run / "config.json")
    assert read_replay(run).run_id == first
    assert read_replay(run.rename(run.with_name("other"))).run_id != first
    other = run.with_name("other").rename(run)
    document = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(document | {"seed": 77}))
    assert read_replay(other).run_id != first


def test_replay__leaves_out_a_picture_that_is_none(run: Path) -> None:
    (run / "confusion.png").write_bytes(b"")
    (run / "holiday.png").write_bytes(png(1, 1))  # not the run's
    replay = read_replay(run)
    assert [one.name for one in replay.pictures] == ["curves"]
    assert replay.notes == (f"left out {run / 'confusion.png'}, which is no PNG.",)


# --- the folder ------------------------------------------------------------------------------------------------


def fill(folder: Path, tracker: str, *names: str) -> None:
    with log_folder(folder, tracker) as partial:
        for name in names:
            (partial / name).write_text(name)


def test_folder__is_replaced_whole(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    assert check_place(folder, "tensorboard") is False
    fill(folder, "tensorboard", "old")
    assert check_place(folder, "tensorboard") is True
    fill(folder, "tensorboard", "new")
    assert sorted(path.name for path in folder.iterdir()) == ["new", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_folder__stays_as_it_was_when_writing_fails(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    fill(folder, "tensorboard", "old")
    with pytest.raises(SettingError, match="No space left"), log_folder(folder, "tensorboard"):
        raise OSError(28, "No space left on device")
    assert sorted(path.name for path in folder.iterdir()) == ["old", MARKER]
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_folder__with_anything_of_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    fill(folder, "tensorboard", "events")
    with pytest.raises(SettingError, match="holds events, which vitctl log --to wandb did not write"):
        check_place(folder, "wandb")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match=r"holds notes\.txt"):
        check_place(folder, "tensorboard")
    (folder / "notes.txt").unlink()
    (folder / MARKER).write_text("{}")
    with pytest.raises(SettingError, match="holds events"):
        check_place(folder, "tensorboard")
    with pytest.raises(SettingError, match="is a file"):
        check_place(folder / MARKER, "tensorboard")


def test_folder__that_is_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "log").symlink_to("elsewhere")
    for name in ("old", "new"):
        check_place(tmp_path / "log", "tensorboard")
        fill(tmp_path / "log", "tensorboard", name)
    assert (tmp_path / "log").is_symlink()
    assert sorted(path.name for path in (tmp_path / "elsewhere").iterdir()) == ["new", MARKER]


# --- trackers --------------------------------------------------------------------------------------------------


def test_trackers__have_a_file_each() -> None:
    files = Path(next(iter(trackers.__path__))).glob("to_*.py")
    assert sorted(f"to_{name}" for name in TRACKERS) == sorted(path.stem for path in files)


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers__that_are_not_installed_say_how_to_get_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError, match=rf"pip install 'vitctl\[{name}\]'"):
        find_tracker(name)


def written(replay: Replay, tracker: str, folder: Path) -> Path:
    folder.mkdir()
    find_tracker(tracker).write(replay, folder, replay.points)
    return folder


def test_tensorboard__reads_what_was_written(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    replay = read_replay(run)
    found = EventAccumulator(str(written(replay, "tensorboard", tmp_path / "out")), size_guidance={"scalars": 0})
    found.Reload()
    assert set(found.Tags()["scalars"]) == {name for point in replay.points for name in point.values}
    for name in found.Tags()["scalars"]:
        told = [(point.step, point.time_s, point.values[name]) for point in replay.points if name in point.values]
        events = [(event.step, event.wall_time, event.value) for event in found.Scalars(name)]
        assert events == [(step, time, pytest.approx(value, rel=1e-7)) for step, time, value in told]  # float32
    picture = found.Images("pictures/curves")[0]
    assert (picture.width, picture.height, picture.encoded_image_string) == (8, 5, png(8, 5))
    text = found.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert json.loads(text) == replay.config
    metadata = found.SummaryMetadata("_hparams_/session_start_info")
    settings = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert set(settings) == set(replay.config)
    assert settings["image_size"].string_value == replay.config["image_size"]


def test_tensorboard__gives_the_same_bytes_again_and_others_as_the_run_goes_on(run: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    first, second = (written(read_replay(run), "tensorboard", tmp_path / name) for name in "ab")
    files = {folder: [(path.name, path.read_bytes()) for path in folder.iterdir()] for folder in (first, second)}
    assert len(files[first]) == 1
    assert files[first] == files[second]
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1000, "loss": 0.5}\n')
    (grown,) = written(read_replay(run), "tensorboard", tmp_path / "c").iterdir()
    assert grown.name > files[first][0][0]  # a TensorBoard that is running takes what has a later name
    assert os.uname().nodename not in grown.name


# --- wandb: what it is told, by a stand-in; and the real one, where it is installed


class StandIn(types.ModuleType):
    """What ``to_wandb`` uses of wandb, which notes what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
        self.told: dict[str, Any] = {}
        self.logged: list[tuple[int, dict[str, Any]]] = []
        self.Error = type("Error", (Exception,), {})
        self.fails = self.is_finished = False

    def Settings(self, **settings: Any) -> dict[str, Any]:
        return settings

    def Image(self, path: str) -> str:
        return f"picture {Path(path).name}"

    def init(self, **told: Any) -> "StandIn":
        self.told = {**told, "environment": {name for name in os.environ if name.startswith("WANDB_")}}
        if self.fails:
            raise self.Error("no service\nand more")
        made = Path(told["dir"]) / "wandb" / f"offline-run-20261129_120000-{told['id']}"
        (made / "logs").mkdir(parents=True)
        (made / "logs" / "debug.log").write_text(str(made))
        (made / f"run-{told['id']}.wandb").write_text(str(len(self.logged)))
        return self

    def finish(self) -> None:
        self.is_finished = True

    def log(self, values: dict[str, Any], step: int) -> None:
        self.logged.append((step, values))


@pytest.fixture
def wandb(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    module = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    return module


def test_wandb__is_told_every_step_offline(run: Path, tmp_path: Path, wandb: StandIn) -> None:
    replay = read_replay(run)
    folder = written(replay, "wandb", tmp_path / "out")
    assert wandb.told["settings"]["mode"] == "offline"
    assert wandb.told["settings"]["reinit"] == "create_new"
    assert (wandb.told["id"], wandb.told["resume"], wandb.told["name"]) == (replay.run_id, "allow", "my run")
    assert wandb.told["config"] == replay.config
    assert not wandb.told["environment"] & {"WANDB_MODE", "WANDB_RUN_ID"}
    assert (os.environ["WANDB_MODE"], os.environ["WANDB_RUN_ID"]) == ("online", "theirs")
    assert "WANDB_CACHE_DIR" not in os.environ
    points = [(point.step, {**point.values, "_timestamp": point.time_s}) for point in replay.points]
    assert wandb.logged == [*points, (points[-1][0], {"pictures/curves": "picture curves.png"})]
    assert wandb.is_finished
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == {f"offline-run-20231114_221320-{replay.run_id}/run-{replay.run_id}.wandb"}


def test_wandb__that_fails_is_a_sentence(run: Path, tmp_path: Path, wandb: StandIn) -> None:
    wandb.fails = True
    with pytest.raises(UnavailableError, match="wandb cannot write the run: no service.$"):
        written(read_replay(run), "wandb", tmp_path / "out")


def test_wandb__on_a_full_disk_fails(
    run: Path, tmp_path: Path, wandb: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        written(read_replay(run), "wandb", tmp_path / "out")


def records_of(path: Path) -> Iterator[bytes]:
    """Yield the records of a ``.wandb`` file: LevelDB's log format behind a header of 7 bytes."""
    content, place, whole = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        if (left := 32768 - place % 32768) < 7:
            place += left
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # full, last
            yield whole
            whole = b""


@pytest.mark.slow
def test_wandb__itself_reads_what_was_written(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "online")
    replay = read_replay(run)
    folder = written(replay, "wandb", tmp_path / "out")
    (file,) = folder.rglob("*.wandb")
    steps, losses = [], []
    for content in records_of(file):
        record = Record.FromString(content)
        if record.WhichOneof("record_type") != "history":
            continue
        values = {one.key or one.nested_key[0]: one.value_json for one in record.history.item}
        steps.append(record.history.step.num)
        losses.append(float(values["train/loss"]))
    assert steps == [point.step for point in replay.points]
    assert losses == [point.values["train/loss"] for point in replay.points]
    told = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert str(tmp_path).encode() not in told
    assert str(Path.home()).encode() not in told
