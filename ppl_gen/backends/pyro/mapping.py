"""A function of draws over the leading axis of many."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from ppl_gen.backends.pyro.compiling import from_numpy
from ppl_gen.backends.pyro.warming import warming


def map_draws(f: Callable[..., Any], *, random: bool = False, batch_size: int = 256) -> Callable[..., Any]:
    """``mapped(draws, seed, *constants)``: ``f(draw, key, *constants)`` over the leading axis, batch by batch.

    The batches bound the memory. ``key`` is None: random functions draw from the scope's generator, one draw at
    a time, since not every sampler of PyTorch can be batched.
    """
    alone = warming(lambda draw, *constants: f(draw, None, *constants))

    def mapped(draws: Any, seed: int, *constants: Any) -> Any:
        draws = pytree.tree_map(lambda x: from_numpy(x) if isinstance(x, np.ndarray) else x, draws)
        count = len(pytree.tree_leaves(draws)[0])
        if random:
            torch.manual_seed(seed)
        size = 1 if random else batch_size
        results = [_batch(f, alone, draws, i, min(i + size, count), constants) for i in range(0, count, size)]
        return results[0] if len(results) == 1 else pytree.tree_map(lambda *xs: torch.cat(xs), *results)

    return mapped


def _batch(f: Any, alone: Any, draws: Any, start: int, stop: int, constants: tuple) -> Any:
    with torch.no_grad():
        if stop == start + 1:  # not every function of PyTorch can be batched, and none is faster so
            one = alone(pytree.tree_map(lambda x: x[start], draws), *constants)
            return pytree.tree_map(lambda x: torch.as_tensor(x)[None], one)
        rows = pytree.tree_map(lambda x: x[start:stop], draws)
        return torch.func.vmap(lambda row: f(row, None, *constants))(rows)
