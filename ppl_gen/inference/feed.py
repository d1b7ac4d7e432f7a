"""Minibatches of rows: in a new order every epoch, made ready while the ones before are worked on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

Rows = dict[str, np.ndarray]
Augment = Callable[[np.random.Generator, Rows], Rows]

_ALIGNED = 64  # bytes; XLA takes several times longer to copy memory that begins elsewhere


def binarize(rng: np.random.Generator, rows: Rows) -> Rows:
    """Numbers in [0, 1] to draws of 0 or 1 with that mean, anew each time (Salakhutdinov & Murray 2008)."""
    return {n: (rng.random(x.shape, np.float32) < x).astype(x.dtype) for n, x in rows.items()}


def dequantize(rng: np.random.Generator, rows: Rows) -> Rows:
    """Whole numbers 0 to 255 to (x + u) / 256 with u uniform in [0, 1) (Theis, van den Oord & Bethge 2016)."""
    return {n: (x + rng.random(x.shape, np.float32)) / np.float32(256.0) for n, x in rows.items()}


AUGMENTS: dict[str, Augment] = {"binarize": binarize, "dequantize": dequantize}


@dataclass(frozen=True)
class Finish:
    """What is done to the rows of a step before they are handed over.

    Attributes:
        floating: the dtype that floating-point numbers come in.
        adds: what puts more arguments beside the rows, after all else; its draws are those of the ``process``.
    """

    seed: int
    augment: Augment | None
    floating: np.dtype
    adds: Augment | None = None
    process: int = 0

    def __call__(self, rows: Mapping[str, np.ndarray], step: int) -> Rows:
        held = {n: np.asarray(x, self.floating if x.dtype.kind == "f" else x.dtype) for n, x in rows.items()}
        held = held if self.augment is None else self.augment(np.random.default_rng([self.seed, 1, step]), held)
        return held if self.adds is None else self.adds(np.random.default_rng([self.seed, 2, step, self.process]), held)


class Feed:
    """Rows of arrays on the host, in memory or in files, in an order that the seed and the step alone decide.

    Args:
        index: which rows of the arrays there are.

    Attributes:
        num_rows: that there are.
        steps_per_epoch: of ``batch_size`` rows; rows that are left over come in another epoch.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], index: np.ndarray, batch_size: int, finish: Finish):
        self._arrays, self._index, self._size, self._finish = dict(arrays), index, batch_size, finish
        self.num_rows, self.steps_per_epoch = len(index), len(index) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))

    def rows(self, start: int, count: int) -> Rows:
        """The batches of ``count`` steps from ``start``: name -> (count, batch_size, ...)."""
        return stacked((self._batch(step) for step in range(start, start + count)), count)

    def _batch(self, step: int) -> Rows:
        epoch, place = divmod(step, self.steps_per_epoch)
        picked = np.sort(self._order_of(epoch)[place * self._size : (place + 1) * self._size])  # files like order
        return self._finish({n: x[picked] for n, x in self._arrays.items()}, step)

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._finish.seed, 0, epoch]).permutation(self._index))
        return self._order[1]


def stacked(batches: Iterable[Rows], count: int) -> Rows:
    """So many batches one upon the other, name -> (count, rows, ...)."""
    found: Rows = {}
    for i, batch in enumerate(batches):
        for name, x in batch.items():
            if not i:
                found[name] = _aligned((count, *x.shape), x.dtype)
            found[name][i] = x
    return found


class Ahead:
    """``make(start, count)``, which has been done by a thread where the last one ended at ``start``."""

    def __init__(self, make: Callable[[int, int], Any]):
        self._make, self._pool = make, ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int], Future[Any]] | None = None

    def __call__(self, start: int, count: int) -> Any:
        coming, self._next = self._next, None
        found = coming[1].result() if coming else None
        if coming is None or coming[0] != (start, count):
            found = self._make(start, count)
        self._next = ((start + count, count), self._pool.submit(self._make, start + count, count))
        return found

    def close(self) -> None:
        """Leave off what is being made ready."""
        self._pool.shutdown(wait=False, cancel_futures=True)


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array to be filled."""
    size = int(np.prod(shape)) * dtype.itemsize
    held = np.empty(size + _ALIGNED, np.uint8)
    first = -held.ctypes.data % _ALIGNED
    return held[first : first + size].view(dtype).reshape(shape)
