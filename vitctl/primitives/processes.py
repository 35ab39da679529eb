"""The processes that compute one thing: which of them this is, and what they tell each other.

They are started by ``--num-processes N`` or by torchrun, on one machine or on several, and find each other in
``vitctl.primitives.process_group``; otherwise there is one, and nothing here costs anything. What they exchange are
JSON documents and arrays, in the memory of the CPU, so that it needs neither a disk that all see nor a place on a
GPU.

What is shared out is computed in the batches of one process, and comes together in their order, so that results do not
depend on the number of processes.

Letters: B rows of a batch.
"""

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from vitctl.errors import FailedElsewhere, VitctlError
from vitctl.primitives.documents import parse_document
from vitctl.primitives.interrupts import StopNow
from vitctl.primitives.launched import keep_log

JsonT = TypeVar("JsonT")
Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Processes:
    """Which process this is, and how it talks to the others. Every method is for all of them to call, in one order.

    Attributes:
        index: Of this one, from 0.
        count: How many there are.
        local_index: Of this one on its machine, from 0.
        device: Where this one computes; of several GPUs its own.
    """

    index: int = 0
    count: int = 1
    local_index: int = 0
    device: torch.device = torch.device("cpu")

    @property
    def is_first(self) -> bool:
        """Whether this one speaks and writes for all."""
        return self.index == 0

    @property
    def is_first_here(self) -> bool:
        """Whether this one does for its machine what need be done only once there."""
        return self.local_index == 0

    @property
    def place(self) -> str:
        """Where all of them compute, in words."""
        return str(self.device) if self.count == 1 else f"{self.device.type}, in {self.count} processes"

    def positions(self, num_images: int, batch_size: int) -> np.ndarray:
        """Return which of ``num_images`` are this process's, ascending (N,) int64.

        They make up the batches index, index + count, ... of those that one process would make; only the very last
        batch may be short.
        """
        every = np.arange(num_images, dtype=np.int64)
        mine: np.ndarray = every[every // batch_size % self.count == self.index]
        return mine

    def document(self, make: Callable[[], JsonT]) -> JsonT:
        """Return the JSON value that ``make`` gives in the first process, where alone it is called.

        Raises:
            VitctlError: What ``make`` raised; in the others it is a FailedElsewhere.
        """
        if self.count == 1:
            return make()
        made: list[JsonT] = []

        def content() -> bytes:
            made.append(make())
            return json.dumps(made[0]).encode()

        received = self._bytes(content)
        if made:
            return made[0]
        told: Any = parse_document(received, object, is_strict=False)
        return cast("JsonT", told)

    def arrays(self, make: Callable[[], Arrays]) -> Arrays:
        """Return the arrays by name, each of its own shape, e.g. (B, D), that ``make`` gives in the first process.

        Raises:
            VitctlError: What ``make`` raised; in the others it is a FailedElsewhere.
        """
        if self.count == 1:
            return make()
        made: dict[str, np.ndarray] = {}

        def form() -> list[list[Any]]:
            made.update(make())
            return [[name, list(one.shape), str(one.dtype)] for name, one in made.items()]

        found = self.document(form)
        for name, shape, kind in found:
            made.setdefault(name, np.empty(shape, dtype=kind))
            dist.broadcast(_as_bytes(made[name]), 0)
        return made

    def same_buffers(self, model: nn.Module) -> None:
        """Give every process the buffers of the first one's ``model``: statistics of BatchNorm are of each's images."""
        if self.count > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def any(self, is_so: bool) -> bool:
        """Return whether it is so in any of the processes."""
        return bool(self.largest(int(is_so)))

    def largest(self, number: int) -> int:
        """Return the largest of the processes' numbers."""
        if self.count == 1:
            return number
        answer = torch.tensor(number)
        dist.all_reduce(answer, dist.ReduceOp.MAX)
        return int(answer)

    def end_together(self) -> None:
        """Wait until all have come here, who are about to end: of one that ends first the others may be told too late.

        torchrun stops the others as soon as one has ended, and what is on its way to them can be lost with it.
        """
        if self.count > 1:
            with contextlib.suppress(RuntimeError, dist.DistError):  # one is gone already
                dist.all_reduce(torch.zeros(1))

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Leave the block when all have come through it; what they do inside is their own, without the others.

        Raises:
            VitctlError: What the block raised; where it did in others alone, a FailedElsewhere.
        """
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except VitctlError as caught:
            error = caught
        self._agreed(False, error, num_rows=0)

    @contextlib.contextmanager
    def first_here_first(self) -> Iterator[None]:
        """Let the first process of each machine go through the block before the others, which find what it has cached.

        Raises:
            VitctlError: What the block raised; where it did in the first of a machine, in the others a FailedElsewhere.
        """
        if self.is_first_here:
            with self.together():
                yield
            return
        self._agreed(False, None, num_rows=0)
        yield

    def in_turns(
        self,
        mine: Iterable[Arrays],
        num_batches: int | None,
        *,
        is_for_all: bool = True,
        is_stopping: Callable[[], bool] | None = None,
    ) -> Iterator[Arrays]:
        """Yield what the processes make of a number of batches, in the order in which one process would make them.

        Args:
            mine: This process's of them (``positions``), in order: arrays by name, (B, ...) with one B for all names;
                names, dtypes and the other sizes are the same in all batches.
            num_batches: Of all processes; one that is alone needs no number.
            is_for_all: Whether every process wants them; else the first alone, and the others yield nothing.
            is_stopping: Asked before every batch.

        Raises:
            StopNow: ``is_stopping`` says so, in any process.
            VitctlError: Making a batch failed; in the other processes it is a FailedElsewhere.
        """
        own = iter(mine)
        if self.count == 1:
            yield from _until_stopped(own, num_batches, is_stopping)
            return
        if num_batches is None:
            raise ValueError("several processes need the number of batches")
        form: list[list[Any]] = []
        for start in range(0, num_batches, self.count):
            num_in_turn = min(self.count, num_batches - start)
            is_stopped = is_stopping is not None and is_stopping()
            batch, error = _made(own) if self.index < num_in_turn and not is_stopped else ({}, None)
            counts = self._agreed(is_stopped, error, num_rows=len(next(iter(batch.values()), ())))
            form = form or self.document(partial(_form, batch))
            gathered = self._gathered(batch, max(counts) * _bytes_of_a_row(form), is_for_all=is_for_all)
            yield from (
                _unpacked(part, form, num_rows) for part, num_rows in zip(gathered, counts[:num_in_turn], strict=False)
            )

    def keep_logs(self, folder: Path | None) -> None:
        """Keep what the processes say in ``folder/logs``, a file for each but the first.

        Args:
            folder: Where this command writes; the first process's counts. It is there already.
        """
        place = self.document(lambda: str(folder))
        if self.count > 1:
            keep_log(Path(place))

    def _bytes(self, make: Callable[[], bytes]) -> bytes:
        """Return what ``make`` gives in the first process."""
        content, error = b"", None
        if self.is_first:
            try:
                content = make()
            except VitctlError as caught:
                error = caught
        head = torch.tensor([len(content), 0 if error is None else error.exit_code])
        dist.broadcast(head, 0)
        if error is not None:
            raise error
        length, code = head.tolist()
        if code:
            raise FailedElsewhere(code)
        sent = torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy()) if self.is_first else _empty(length)
        dist.broadcast(sent, 0)
        return sent.numpy().tobytes()

    def _agreed(self, is_stopped: bool, error: VitctlError | None, *, num_rows: int) -> list[int]:
        """Return the rows that each process has, where none has failed and none is to stop."""
        mine = torch.tensor([int(is_stopped), 0 if error is None else error.exit_code, num_rows])
        heads = [torch.empty_like(mine) for _ in range(self.count)]
        dist.all_gather(heads, mine)
        stopped, codes, counts = (list(column) for column in zip(*(head.tolist() for head in heads), strict=True))
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed == self.index and error is not None:
            error.is_of_one_process = True
            raise error
        if failed is not None:
            raise FailedElsewhere(codes[failed])
        if any(stopped):
            raise StopNow
        return counts

    def _gathered(self, batch: Arrays, num_bytes: int, *, is_for_all: bool) -> list[np.ndarray]:
        """Return the bytes of each process's batch, (L,) uint8 filled up to ``num_bytes``; nothing where unwanted."""
        sent = _empty(num_bytes)
        parts = [_as_bytes(one) for one in batch.values()]
        if parts:
            filled = torch.cat(parts)
            sent[: len(filled)] = filled
        if is_for_all:
            received = [_empty(num_bytes) for _ in range(self.count)]
            dist.all_gather(received, sent)
        else:
            received = [_empty(num_bytes) for _ in range(self.count)] if self.is_first else []
            dist.gather(sent, received or None, dst=0)
        return [one.numpy() for one in received]


ALONE = Processes()


def _until_stopped(
    batches: Iterator[Arrays], num_batches: int | None, is_stopping: Callable[[], bool] | None
) -> Iterator[Arrays]:
    for done in count():
        if done == num_batches:
            return
        if is_stopping is not None and is_stopping():
            raise StopNow
        try:
            yield next(batches)
        except StopIteration:
            return


def _made(own: Iterator[Arrays]) -> tuple[Arrays, VitctlError | None]:
    try:
        return next(own), None
    except VitctlError as error:
        return {}, error


def _empty(num_bytes: int) -> Tensor:
    return torch.zeros(num_bytes, dtype=torch.uint8)


def _as_bytes(array: np.ndarray) -> Tensor:
    """Return the bytes of an array, (L,) uint8, which share its memory where it is in one piece and can be written."""
    return torch.from_numpy(np.require(array, requirements=("C", "W")).reshape(-1).view(np.uint8))


def _form(batch: Arrays) -> list[list[Any]]:
    """Return name, shape of a row and dtype of each array, (B, ...)."""
    return [[name, list(one.shape[1:]), str(one.dtype)] for name, one in batch.items()]


def _bytes_of_a_row(form: list[list[Any]]) -> int:
    return sum(int(np.prod(shape)) * np.dtype(kind).itemsize for _, shape, kind in form)


def _unpacked(content: np.ndarray, form: list[list[Any]], num_rows: int) -> Arrays:
    found, start = {}, 0
    for name, shape, kind in form:
        length = num_rows * int(np.prod(shape)) * np.dtype(kind).itemsize
        found[name] = content[start : start + length].view(kind).reshape(num_rows, *shape)
        start += length
    return found
