"""How many processes read images, what fits into shared memory, and what is said when one of them dies."""

import os
import signal
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from vitctl.data import workers
from vitctl.data.workers import LostWorkerError, batch_bytes, resolve_num_workers, taken

MB = 1 << 20


@pytest.fixture
def shm(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """What the system says of /dev/shm: 64 MB that may be written."""
    status = SimpleNamespace(f_bavail=64 * MB // 4096, f_frsize=4096, f_flag=0)
    monkeypatch.setattr("os.statvfs", lambda _path: status)
    monkeypatch.setattr("os.access", lambda _path, _mode: True)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    return status


@pytest.mark.parametrize(
    ("num_cpus", "given", "is_in_memory", "device_type", "expected"),
    [
        (8, 3, True, "cpu", 3),
        (8, 0, False, "cuda", 0),
        (8, None, True, "cuda", 0),
        (1, None, False, "cpu", 0),
        (2, None, False, "cpu", 1),
        (64, None, False, "cpu", 4),
        (1, None, False, "cuda", 1),
        (8, None, False, "cuda", 7),
        (64, None, False, "cuda", 16),
    ],
)
def test_resolve_num_workers(
    monkeypatch: pytest.MonkeyPatch,
    num_cpus: int,
    given: int | None,
    is_in_memory: bool,
    device_type: str,
    expected: int,
) -> None:
    monkeypatch.setattr(workers, "num_own_cpus", lambda: num_cpus)
    monkeypatch.setattr(workers, "shared_memory", lambda: None)
    found = resolve_num_workers(given, is_in_memory=is_in_memory, device_type=device_type, batch_bytes=1 << 40)
    assert (found.number, found.is_reduced) == (expected, False)


@pytest.mark.parametrize(
    ("megabytes", "batch", "expected"),
    [
        (64, 1, 8),
        (64, 10, 1),  # 57.6 MB may be taken: 2 batches of 10 MB in use, 2 for each worker
        (64, 9, 2),
        (64, 20, 0),
        (1, 1, 0),
        (0, 1, 0),
    ],
)
def test_resolve_num_workers__as_many_as_shared_memory_holds(
    shm: SimpleNamespace, megabytes: int, batch: int, expected: int
) -> None:
    shm.f_bavail = megabytes * MB // 4096
    found = resolve_num_workers(8, is_in_memory=False, device_type="cpu", batch_bytes=batch * MB - (1 << 14))
    assert (found.number, found.is_reduced) == (expected, expected < 8)
    if expected < 8:
        assert "of 8: /dev/shm " in found.reason


def test_resolve_num_workers__shared_memory_of_64_mb_in_words(shm: SimpleNamespace) -> None:
    found = resolve_num_workers(2, is_in_memory=False, device_type="cpu", batch_bytes=batch_bytes(256, (384, 384)))
    assert found.sentence() == "workers: 0 (of 2: /dev/shm has 64 MiB, a worker takes 216 MiB)"


def test_shared_memory__read_only_or_shared_with_other_processes(
    shm: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert workers.shared_memory() == 64 * MB
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert workers.shared_memory() == 16 * MB
    shm.f_flag = os.ST_RDONLY
    assert workers.shared_memory() == 0


class _Dying(Dataset[Tensor]):
    """Images of which the fourth ends its process."""

    def __init__(self, number: signal.Signals | None) -> None:
        self._number = number

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Tensor:
        if index == 3 and self._number is None:
            os._exit(7)
        if index == 3:
            os.kill(os.getpid(), self._number)  # type: ignore[arg-type]
        return torch.zeros(2)


@pytest.mark.parametrize(
    ("number", "cause"),
    [(signal.SIGKILL, "the memory is full"), (signal.SIGBUS, "/dev/shm is full"), (None, "exit code 7")],
)
def test_taken__a_worker_that_dies_is_one_sentence(
    number: signal.Signals | None, cause: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = torch.utils.data.dataloader._MultiProcessingDataLoaderIter._try_get_data
    monkeypatch.setattr(looks, "__defaults__", (0.2,))  # s between looks at silent workers; 5 in torch
    before = signal.getsignal(signal.SIGCHLD)
    with pytest.raises(
        LostWorkerError, match=rf"^A process that reads images [^\n]*{cause}[^\n]*--num-workers"
    ) as caught:
        list(taken(DataLoader(_Dying(number), batch_size=2, num_workers=1)))
    assert caught.value.exit_code == 2
    assert signal.getsignal(signal.SIGCHLD) == before


class _NoRoom(Dataset[Tensor]):
    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        def full(_self: Tensor) -> Tensor:
            raise RuntimeError(
                "unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)"
            )

        Tensor.share_memory_ = full  # type: ignore[method-assign]  # of this process alone
        return torch.zeros(2)


def _handed_over(items: list[Tensor]) -> object:
    return workers.handed_over(lambda: (torch.stack(items),))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_handed_over__no_room_is_one_sentence(num_workers: int) -> None:
    kept = Tensor.share_memory_
    try:
        loader = DataLoader(_NoRoom(), batch_size=2, num_workers=num_workers, collate_fn=_handed_over)
        if num_workers:
            with pytest.raises(LostWorkerError, match=r"/dev/shm is full[^\n]*No space left on device"):
                list(taken(loader))
        else:  # nothing is handed over
            assert len(list(taken(loader))) == 1
    finally:
        Tensor.share_memory_ = kept  # type: ignore[method-assign]
