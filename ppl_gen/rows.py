"""Data by blocks of rows: in memory, or read from a memory-mapped file as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from ppl_gen.program import Bound


class Rows:
    """Blocks of the rows of bound data, of nearly equal length, each on the device with its weights.

    Blocks of arrays in memory are put on the device once; those of a memory-mapped file are read anew each time, the
    next one while the present one is worked on.

    Args:
        weights: (rows,) on the host; None for once.
        block_rows: rows at most in a block.
    """

    def __init__(self, bound: Bound, weights: np.ndarray | None, block_rows: int):
        self.bound, self.weights = bound, weights
        self.names = bound.program.model.em_rows
        names = [n for n in self.names if n in bound.host]
        edges = np.linspace(0, bound.num_rows, -(-bound.num_rows // block_rows) + 1).astype(int)
        self._spans = list(zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True))
        self._from_file = any(isinstance(bound.host[n], np.memmap) for n in names)
        self._kept: list[Any] | None = None

    def __len__(self) -> int:
        return len(self._spans)

    def __iter__(self) -> Iterator[tuple[dict[str, Any], Any]]:
        """Arguments of the model, with the rows of one block in the place of all, and their weights."""
        if self._from_file:
            yield from map(self._placed, _ahead(self._read, self._spans))
            return
        if self._kept is None:
            self._kept = [self._placed(self._read(span)) for span in self._spans]
        yield from self._kept

    def _read(self, span: tuple[int, int]) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
        """One block on the host."""
        rows = slice(*span)
        held = {n: np.ascontiguousarray(self.bound.host[n][rows]) for n in self.bound.host if n in self.names}
        return held, None if self.weights is None else self.weights[rows]

    def _placed(self, block: tuple[dict[str, np.ndarray], np.ndarray | None]) -> tuple[dict[str, Any], Any]:
        held, weights = block
        arrays = {**self.bound.arrays, **{n: self.bound.on_device(n, x) for n, x in held.items()}}
        return arrays, None if weights is None else self.bound.backend.asarray(weights)


def _ahead(read: Callable[[Any], Any], spans: list[Any]) -> Iterator[Any]:
    """``read`` of each span, one ahead of what is asked for."""
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(read, spans[0])
        for span in spans[1:]:
            block, coming = coming.result(), pool.submit(read, span)
            yield block
        yield coming.result()
