"""The noise of a chunk of steps on the host, by NumPy: the same for both backends, drawn during the chunk before."""

from __future__ import annotations

import functools
import math
import os
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

Spec = Mapping[str, tuple[str, tuple[int, ...]]]

_MANY = 100_000  # numbers that take longer to draw than to hand to another thread
_MOST = 2**24  # that are held for a call that may not come
_ahead = threading.local()  # ``pending``: what this thread will ask for next, and its future


def noise(seed: int, index: int, spec: Spec, num_steps: int, dtype: Any) -> dict[str, np.ndarray]:
    """Of ``num_steps`` steps from step ``index`` on: name -> array (num_steps, *shape) of normals or uniforms."""
    wanted, kind = tuple(spec.items()), np.dtype(dtype)
    draw = functools.partial(_drawn, seed, spec=wanted, num_steps=num_steps, dtype=kind)
    size = num_steps * sum(math.prod(shape) for _, shape in spec.values())
    if num_steps == 1 or not _MANY <= size <= _MOST:
        return draw(index)
    at, pending = (seed, index, wanted, num_steps, kind), getattr(_ahead, "pending", None)
    if pending and pending[0] == at:
        found = pending[1].result()
    else:
        found = draw(index)
        if pending:
            pending[1].cancel()
    _ahead.pending = ((seed, index + num_steps, *at[2:]), _drawing().submit(draw, index + num_steps))
    return found


def _drawn(seed: int, index: int, spec: tuple, num_steps: int, dtype: np.dtype) -> dict[str, np.ndarray]:
    rng = np.random.Generator(np.random.SFC64([seed, index]))
    draw: dict[str, Any] = {"normal": rng.standard_normal, "uniform": rng.random}
    return {name: draw[kind]((num_steps, *shape), dtype) for name, (kind, shape) in spec}


@functools.cache
def _drawing() -> ThreadPoolExecutor:
    """Draws the next chunk's noise while this one's is worked on."""
    return ThreadPoolExecutor(1, "ppl_gen noise")


def _forget() -> None:
    """A process that was forked has no such thread."""
    _drawing.cache_clear()
    _ahead.__dict__.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
