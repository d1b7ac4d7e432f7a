"""Minibatches from what can be gone through again and again: a DataLoader of PyTorch, one of Grain, a list of files."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from ppl_gen.capabilities import ChecksData
from ppl_gen.inference.feed import Finish, Rows, stacked
from ppl_gen.program import Bound, DataError

_END = object()


class Stream:
    """The rows of an iterable's batches, of whatever length, in batches of ``batch_size``; read as it goes.

    What the iterable draws from the generator of the backend's library hangs on the seed, the epoch and the batch
    alone; any other order is its own.

    Args:
        first: some rows of the same kind, bound to the program; ``names`` the arguments that hold rows.
        num_rows: of all batches together; counted by going through them once where None.

    Attributes:
        steps_per_epoch: as many as there are whole batches; the rows that are left over begin the next epoch.
    """

    def __init__(
        self, batches: Iterable[Any], first: Bound, names: tuple[str, ...], batch_size: int, finish: Finish,
        num_rows: int | None = None,
    ):  # fmt: skip
        self._batches, self._first, self._names = batches, first, names
        self._size, self._finish = batch_size, finish
        self.num_rows = num_rows or sum(len(rows[names[0]]) for rows in self._epoch(0))
        self.steps_per_epoch = self.num_rows // batch_size
        self._cut, self._at = self._batches_of_size(), 0

    def rows(self, start: int, count: int) -> Rows:
        """The batches of ``count`` steps from ``start``; going back, or far ahead, reads all that comes before."""
        if start < self._at:
            self._cut, self._at = self._batches_of_size(), 0
        for _ in range(start - self._at):
            next(self._cut)
        self._at = start + count
        return stacked((self._finish(next(self._cut), step) for step in range(start, start + count)), count)

    def _batches_of_size(self) -> Iterator[Rows]:
        held = {n: self._first.host[n][:0] for n in self._names}
        for epoch in itertools.count():
            for rows in self._epoch(epoch):
                held = {n: np.concatenate([held[n], x]) if len(held[n]) else x for n, x in rows.items()}
                for _ in range(len(held[self._names[0]]) // self._size):
                    yield {n: x[: self._size] for n, x in held.items()}
                    held = {n: x[self._size :] for n, x in held.items()}

    def _epoch(self, epoch: int) -> Iterator[Rows]:
        """All batches, once.

        Raises:
            DataError: there is none.
        """
        iterator: Iterator[Any] | None = None
        for i in itertools.count():
            with self._first.backend.apart(zlib.crc32(f"{self._finish.seed} {epoch} {i}".encode())):
                iterator = iter(self._batches) if iterator is None else iterator
                batch = next(iterator, _END)
            if batch is _END:
                break
            yield self._read(batch, i)
        if not i:
            raise DataError("the stream holds no batch: pass one that can be gone through again, such as a DataLoader")

    def _read(self, batch: Any, i: int) -> Rows:
        """The rows of batch i, by argument.

        Raises:
            DataError: other arguments, other shapes than those of the first rows, or numbers that the model refuses.
        """
        model = self._first.program.model
        arrays = self._first.program.arrays(tuple(batch) if isinstance(batch, list) else batch)
        for n in self._names:
            if n not in arrays:
                raise DataError(f"batch {i} of the stream holds no {n!r}: expected arrays {', '.join(self._names)}")
            expected, came = self._first.host[n].shape[1:], arrays[n].shape[1:]
            if came != expected:
                raise DataError(f"{n!r} of batch {i} of the stream has rows of shape {came}: expected {expected}")
        if len({len(arrays[n]) for n in self._names}) != 1:
            raise DataError(f"the arrays of batch {i} of the stream differ in length: expected the same rows of each")
        if isinstance(model, ChecksData):
            model.check_data(arrays)
        return {n: arrays[n] for n in self._names}
