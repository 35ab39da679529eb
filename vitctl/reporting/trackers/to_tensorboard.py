"""``vitctl log --to tensorboard``: one event file, the same bytes each time.

Written with tensorboard's own record writer and messages rather than its ``SummaryWriter``, or torch's, whose file
names and events hold this machine's name and clock.
"""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vitctl.reporting.trackers.replay import Picture, Point, Replay
from vitctl.reporting.trackers.tracker import Tracker

FILE_VERSION = "brain.Event:2"  # what a reader expects of the first event (tensorflow/core/util/events_writer.h)


def write(replay: Replay, folder: Path, points: Iterable[Point]) -> None:
    """Write the event file of a run; see ``Tracker``.

    Raises:
        OSError: It cannot be written.
    """
    from tensorboard.summary.writer.record_writer import RecordWriter

    # TensorBoard takes files whose names hold "tfevents"; one that is running keeps a file open, and would not see that
    # another of the same name has taken its place: so what has grown gets another name
    name = f"events.out.tfevents.{replay.start_s}.vitctl.{len(replay.points) + len(replay.pictures):09d}"
    with (folder / name).open("wb") as file:
        writer = RecordWriter(file)
        for event in _events(replay, points):
            writer.write(event.SerializeToString(deterministic=True))


def _events(replay: Replay, points: Iterable[Point]) -> Iterator[Any]:
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary

    yield Event(wall_time=replay.start_s, file_version=FILE_VERSION)
    yield Event(wall_time=replay.start_s, summary=Summary(value=[_config_text(replay)]))
    yield Event(wall_time=replay.start_s, summary=_hparams(replay))
    for point in points:
        scalars = [Summary.Value(tag=name, simple_value=value) for name, value in point.values.items()]
        yield Event(wall_time=point.time_s, step=point.step, summary=Summary(value=scalars))
    last = replay.points[-1]
    for picture in replay.pictures:
        yield Event(wall_time=last.time_s, step=last.step, summary=Summary(value=[_image(picture)]))


def _config_text(replay: Replay) -> Any:
    """Return the settings as a text; indented, which Markdown shows as it is."""
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.text.metadata import create_summary_metadata
    from tensorboard.util.tensor_util import make_tensor_proto

    lines = json.dumps(replay.config, indent=2, ensure_ascii=False).splitlines()
    text = "\n".join(f"    {line}" for line in lines)
    metadata = create_summary_metadata(display_name=None, description=None)
    return Summary.Value(tag="config", metadata=metadata, tensor=make_tensor_proto(text.encode()))


def _hparams(replay: Replay) -> Any:
    """Return the settings for the tab HPARAMS, in bytes that do not depend on the order of a hash table."""
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    summary = hparams_pb(dict(replay.config), start_time_secs=replay.start_s)
    for value in summary.value:
        data = value.metadata.plugin_data
        data.content = HParamsPluginData.FromString(data.content).SerializeToString(deterministic=True)
    return summary


def _image(picture: Picture) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary

    height, width = picture.size
    image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=picture.content)
    return Summary.Value(tag=f"pictures/{picture.name}", image=image)


TRACKER = Tracker(write, view="tensorboard --logdir {}")
