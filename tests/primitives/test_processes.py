"""What several processes tell each other: documents, arrays, what each made in the order of one, errors and stops."""

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from vitctl.cli.launcher import LostProcessError, run_in_processes
from vitctl.errors import FailedElsewhere, SettingError
from vitctl.primitives.interrupts import StopNow
from vitctl.primitives.process_group import join_processes
from vitctl.primitives.processes import ALONE, Processes

CPU = torch.device("cpu")
ENVIRONMENT = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize("num_images", [0, 1, 7, 8, 9, 30])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_positions__are_the_batches_of_one_process(num_images: int, count: int) -> None:
    of_one = [list(range(start, min(start + 4, num_images))) for start in range(0, num_images, 4)]
    for index in range(count):
        mine = Processes(index, count).positions(num_images, 4).tolist()
        assert [mine[start : start + 4] for start in range(0, len(mine), 4)] == of_one[index::count]


def test_alone__everything_is_its_own() -> None:
    assert ALONE.is_first
    assert ALONE.is_first_here
    assert ALONE.document(lambda: [1, None]) == [1, None]
    assert ALONE.any(True)
    assert not ALONE.any(False)
    batches = [{"x": np.arange(2)}, {"x": np.arange(1)}]
    assert list(ALONE.in_turns(batches, None)) == batches == list(ALONE.in_turns(batches, 2))


def test_alone__stops_before_a_batch_and_not_after_the_last() -> None:
    taken: list[int] = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number in range(3):
            taken.append(number)
            yield {"x": np.full(1, number)}

    with pytest.raises(StopNow):
        list(ALONE.in_turns(batches(), 3, is_stopping=lambda: len(taken) == 2))
    assert taken == [0, 1]
    assert len(list(ALONE.in_turns(batches(), 3, is_stopping=lambda: len(taken) == 5))) == 3


def test_join__alone_without_a_word_of_others() -> None:
    assert join_processes(CPU) == ALONE


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"RANK": "", "MASTER_PORT": ""}, r"WORLD_SIZE=2 and does not say RANK, MASTER_PORT"),
        ({"RANK": "2"}, r"RANK=2 of WORLD_SIZE=2; expected less"),
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE='two'; expected a whole number"),
    ],
)
def test_join__environment_that_does_not_fit(
    changes: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (ENVIRONMENT | changes).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=expected):
        join_processes(CPU)


@pytest.mark.parametrize(("kind", "num_gpus"), [("cuda", 3), ("cuda", 0), ("mps", 1)])
def test_join__more_processes_than_gpus(kind: str, num_gpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (ENVIRONMENT | {"LOCAL_WORLD_SIZE": "4"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: num_gpus)
    with pytest.raises(SettingError, match=rf"4 processes on this machine and {num_gpus} GPUs? to compute on"):
        join_processes(torch.device(kind))


# --- of several --------------------------------------------------------------------------------------------

CHILD = """
import sys, warnings
warnings.simplefilter("error")
import numpy as np, torch
from pathlib import Path
from vitctl.errors import DataError, FailedElsewhere
from vitctl.primitives.interrupts import StopNow
from vitctl.primitives.process_group import join_processes, lost_process_is_a_sentence

processes = join_processes(torch.device("cpu"))
rank, count = processes.index, processes.count

def batches(num_rows, wrong=None):
    mine = processes.positions(num_rows, 4)
    for start in range(0, len(mine), 4):
        rows = mine[start : start + 4]
        if wrong in rows:
            raise DataError(f"row {wrong}")
        yield {"x": np.sqrt(rows).astype(np.float32)[:, None] * [[1, 2, 3]], "n": rows}
"""


def children(lines: str, count: int = 3) -> None:
    root = str(Path(__file__).parents[2])
    run_in_processes([sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r})\n{CHILD}\n{lines}"], count)


@pytest.mark.slow
def test_several__tell_each_other() -> None:
    children("""
assert processes.document(lambda: {"a": [rank, None, "\\udc80"]}) == {"a": [0, None, "\\udc80"]}
given = {"w": np.random.default_rng(rank).random((3, 2)), "none": np.zeros((0, 5), np.float32), "n": np.array(7 + rank)}
given["w"].flags.writeable = False  # torch warns of those
found = processes.arrays(lambda: given)
assert (found["w"] == np.random.default_rng(0).random((3, 2))).all() and found["w"].dtype == np.float64
assert found["none"].shape == (0, 5) and found["n"] == 7
assert processes.any(rank == 2) and not processes.any(False)
assert processes.largest([2, 15, 0][rank]) == 15
model = torch.nn.BatchNorm1d(3); model.running_mean += rank; model.num_batches_tracked += rank
processes.same_buffers(model)
assert model.running_mean.tolist() == [0, 0, 0] and model.num_batches_tracked == 0
for num_rows in (1, 4, 5, 8, 24, 25, 31):
    rows = np.arange(num_rows)
    for is_for_all in (True, False):
        made = list(processes.in_turns(batches(num_rows), -(-num_rows // 4), is_for_all=is_for_all))
        if not (is_for_all or rank == 0):
            assert made == []
            continue
        assert [len(one["n"]) for one in made] == [min(4, num_rows - start) for start in range(0, num_rows, 4)]
        assert (np.concatenate([one["n"] for one in made]) == rows).all()
        x = np.concatenate([one["x"] for one in made])
        assert (x == np.sqrt(rows).astype(np.float32)[:, None] * [[1, 2, 3]]).all()
if rank > 0:  # here all are of one machine
    Path(f"before-{rank}").touch()
with processes.first_here_first():
    if rank == 0:
        while len(list(Path.cwd().glob("before-*"))) < count - 1: pass
        Path("cached").touch()
    assert Path("cached").exists()
asked = []
try:
    list(processes.in_turns(batches(40), 10, is_stopping=lambda: asked.append(1) or (rank == 1 and len(asked) == 3)))
except StopNow:
    assert len(asked) == 3  # all of them at once
else:
    raise AssertionError
""")


@pytest.mark.slow
@pytest.mark.parametrize(
    "failing",
    [
        "list(processes.in_turns(batches(40, wrong=17), 10, is_for_all=False))",
        "processes.document(lambda: next(batches(8, wrong=1)))",
        "with processes.first_here_first():\n        list(batches(8, wrong=1))",
        "with processes.together():\n        list(batches(8, wrong=1))",
    ],
)
def test_several__error_of_one_is_the_end_of_all(failing: str) -> None:
    """Row 17 is process 1's, row 1 the first's; the others hear of it where they wait."""
    children(f"""
try:
    {failing}
except DataError as error:
    assert rank == (1 if "17" in str(error) else 0), rank
except FailedElsewhere as error:
    assert error.exit_code == 3
else:
    raise AssertionError
assert processes.any(rank == 1)  # and could go on
""")


@pytest.mark.slow
def test_several__lost_process_is_noticed() -> None:
    with pytest.raises(LostProcessError, match="Process 2 of 3 was killed") as caught:
        children("""
import os
if rank == 2:
    os.kill(os.getpid(), 9)
try:
    with lost_process_is_a_sentence():
        processes.any(False)
except FailedElsewhere:
    sys.exit(75)
""")
    assert caught.value.exit_code == 137


def test_failed_elsewhere__has_the_code_of_that() -> None:
    assert FailedElsewhere(3).exit_code == 3
