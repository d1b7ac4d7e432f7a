"""Minibatches of rows: in a new order every epoch, made ready while the ones before are worked on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

Augment = Callable[[np.random.Generator, dict[str, np.ndarray]], dict[str, np.ndarray]]


def binarize(rng: np.random.Generator, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Numbers in [0, 1] to draws of 0 or 1 with that mean, anew each time (Salakhutdinov & Murray 2008)."""
    return {n: (rng.random(x.shape, np.float32) < x).astype(x.dtype) for n, x in rows.items()}


def dequantize(rng: np.random.Generator, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Whole numbers 0 to 255 to (x + u) / 256 with u uniform in [0, 1) (Theis, van den Oord & Bethge 2016)."""
    return {n: (x + rng.random(x.shape, np.float32)) / np.float32(256.0) for n, x in rows.items()}


AUGMENTS: dict[str, Augment] = {"binarize": binarize, "dequantize": dequantize}


class Feed:
    """Rows of arrays on the host, in memory or in files, in an order that the seed and the step alone decide.

    Args:
        index: which rows of the arrays there are.

    Attributes:
        steps_per_epoch: of ``batch_size`` rows; rows that are left over come in another epoch.
    """

    def __init__(
        self, arrays: Mapping[str, np.ndarray], index: np.ndarray, batch_size: int, seed: int, augment: Augment | None
    ):
        self._arrays, self._index = dict(arrays), index
        self._size, self._seed, self._augment = batch_size, seed, augment
        self.steps_per_epoch = len(index) // batch_size
        self._order: tuple[int, np.ndarray] = (-1, np.zeros(0, int))
        self._pool = ThreadPoolExecutor(1)
        self._next: tuple[tuple[int, int], Future[Any]] | None = None

    def rows(self, start: int, count: int) -> dict[str, np.ndarray]:
        """The batches of ``count`` steps from ``start``: name -> (count, batch_size, ...)."""
        held = self._next
        found = held[1].result() if held and held[0] == (start, count) else self._made(start, count)
        self._next = ((start + count, count), self._pool.submit(self._made, start + count, count))
        return found

    def close(self) -> None:
        """Leave off what is being made ready."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _made(self, start: int, count: int) -> dict[str, np.ndarray]:
        batches = [self._batch(step) for step in range(start, start + count)]
        return {n: np.stack([b[n] for b in batches]) for n in self._arrays}

    def _batch(self, step: int) -> dict[str, np.ndarray]:
        epoch, place = divmod(step, self.steps_per_epoch)
        picked = np.sort(self._order_of(epoch)[place * self._size : (place + 1) * self._size])  # files like order
        rows = {n: np.asarray(x[picked]) for n, x in self._arrays.items()}
        return rows if self._augment is None else self._augment(np.random.default_rng([self._seed, 1, step]), rows)

    def _order_of(self, epoch: int) -> np.ndarray:
        if self._order[0] != epoch:
            self._order = (epoch, np.random.default_rng([self._seed, 0, epoch]).permutation(self._index))
        return self._order[1]
